/* SPDX-License-Identifier: MIT */
/* What the threads of a call spend their time on, for the profiler. Off, a mark is one branch that is never taken;
 * ops set marks for blocks and rows, never for tiles. */
#ifndef FC_TIMERS_H
#define FC_TIMERS_H

#include <stdatomic.h>

enum { FC_OTHER, FC_COPY, FC_TRANSFORM, FC_MULTIPLY, FC_STORE, FC_WAIT, FC_CLOCKS };

/* Nanoseconds of all threads, and how many there were at most in a team. */
typedef struct fc_times {
    atomic_llong ns[FC_CLOCKS];
    atomic_int threads;
} fc_times;

extern atomic_int fc_timers_are_on;
void fc_timers_switch(int on);             /* adds to (1), or takes from (-1), those who want them on */
fc_times *fc_timers_here(void);            /* of the calling thread: what its teams add to */
int fc_timers_take(long long ns[FC_CLOCKS]);   /* reads and clears those; returns the threads */

/* Around the body of each thread of a team. */
void fc_timers_begin(void);
void fc_timers_end(fc_times *times, int threads);

static inline int fc_timers_on(void)
{
    return __builtin_expect(atomic_load_explicit(&fc_timers_are_on, memory_order_relaxed), 0);
}

/* From here on the time of this thread goes to this clock. */
void fc_timers_enter(int clock);
static inline void fc_clock(int clock)
{
    if (fc_timers_on())
        fc_timers_enter(clock);
}

#endif
