/* SPDX-License-Identifier: MIT */
#include "calls.h"

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/system.h"
#include "../runtime/threads.h"

static fc_calls *last;                         /* under fc_lock */

void fc_call_begin(fc_call *call)
{
    long long earlier[FC_CLOCKS];
    call->start = 0;
    if (!fc_timers_on())
        return;
    fc_timers_take(earlier);
    call->start = fc_now();
}

static void keep(const fc_kept_call *call)
{
    fc_calls *spare = NULL;
    for (int kept = 0; !kept;) {
        fc_lock();
        if (spare && (!last || last->count == FC_CALLS)) {
            spare->before = last;
            last = spare;
            spare = NULL;
        }
        if (last && last->count < FC_CALLS) {
            last->calls[last->count++] = *call;
            kept = 1;
        }
        fc_unlock();
        if (!kept) {
            spare = fc_alloc(sizeof *spare);
            if (!spare)                        /* there are worse losses */
                return;
            spare->count = 0;
        }
    }
    fc_free(spare);
}

void fc_call_end(const fc_call *call, int status)
{
    if (!call->start || status)
        return;
    fc_kept_call kept = {
        .call = *call, .isa = fc_kernels_active()->isa, .allowed = fc_threads_allowed(), .thread = fc_thread(),
        .end = fc_now(),
    };
    kept.threads = fc_timers_take(kept.ns);
    for (int i = 0; i < FC_CALL_ARRAYS; i++)
        if (call->arrays[i])
            kept.arrays[i] = *call->arrays[i];
    if (call->conv)
        kept.conv = *call->conv;
    if (call->pool)
        kept.pool = *call->pool;
    keep(&kept);
}

fc_calls *fc_calls_take(void)
{
    fc_lock();
    fc_calls *taken = last;
    last = NULL;
    fc_unlock();
    return taken;
}
