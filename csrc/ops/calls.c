/* SPDX-License-Identifier: MIT */
#include "calls.h"

#include <stdatomic.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/system.h"
#include "../runtime/threads.h"

static _Atomic(fc_kept_call *) last;

static int is_on(void) { return atomic_load_explicit(&fc_timers_are_on, memory_order_relaxed); }

void fc_call_begin(fc_call *call)
{
    long long earlier[FC_CLOCKS];
    call->start = 0;
    if (!is_on())
        return;
    fc_timers_take(earlier);
    call->start = fc_now();
}

void fc_call_end(const fc_call *call, int status)
{
    if (!call->start || status)
        return;
    const long long end = fc_now();
    fc_kept_call *kept = fc_alloc(sizeof *kept);
    if (!kept)                                 /* there are worse losses */
        return;
    *kept = (fc_kept_call){
        .call = *call, .isa = fc_kernels_active()->isa, .allowed = fc_threads_allowed(), .thread = fc_thread(),
        .end = end,
    };
    kept->threads = fc_timers_take(kept->ns);
    for (int i = 0; i < FC_CALL_ARRAYS; i++)
        if (call->arrays[i]) {
            kept->arrays[i] = *call->arrays[i];
            kept->call.arrays[i] = &kept->arrays[i];
        }
    if (call->conv) {
        kept->conv = *call->conv;
        kept->call.conv = &kept->conv;
    }
    if (call->pool) {
        kept->pool = *call->pool;
        kept->call.pool = &kept->pool;
    }
    kept->next = atomic_load(&last);
    while (!atomic_compare_exchange_weak(&last, &kept->next, kept))
        ;
}

fc_kept_call *fc_calls_take(void) { return atomic_exchange(&last, NULL); }
