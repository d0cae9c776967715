/* SPDX-License-Identifier: MIT */
#include "timers.h"

#include "system.h"

atomic_int fc_timers_are_on;

/* Of a thread of a team, while it runs a body. */
typedef struct thread_clock {
    int running, clock;
    long long since;
    long long ns[FC_CLOCKS];
} thread_clock;

static _Thread_local thread_clock own;
static _Thread_local fc_times here;

void fc_timers_switch(int on) { atomic_fetch_add(&fc_timers_are_on, on); }

fc_times *fc_timers_here(void) { return &here; }

int fc_timers_take(long long ns[FC_CLOCKS])
{
    for (int clock = 0; clock < FC_CLOCKS; clock++)
        ns[clock] = atomic_exchange_explicit(&here.ns[clock], 0, memory_order_relaxed);
    return atomic_exchange_explicit(&here.threads, 0, memory_order_relaxed);
}

void fc_timers_begin(void)
{
    own = (thread_clock){.running = 1, .clock = FC_OTHER, .since = fc_now()};
}

void fc_timers_enter(int clock)
{
    if (!own.running || clock == own.clock)      /* not running: they were switched on meanwhile */
        return;
    const long long time = fc_now();
    own.ns[own.clock] += time - own.since;
    own.clock = clock;
    own.since = time;
}

void fc_timers_end(fc_times *times, int threads)
{
    own.ns[own.clock] += fc_now() - own.since;
    own.running = 0;
    for (int clock = 0; clock < FC_CLOCKS; clock++)
        if (own.ns[clock])
            atomic_fetch_add(&times->ns[clock], own.ns[clock]);
    int most = atomic_load(&times->threads);
    while (most < threads && !atomic_compare_exchange_weak(&times->threads, &most, threads))
        ;
}
