/* SPDX-License-Identifier: MIT */
/* Calls by way of the public interface, for the profiler: they are kept until it takes them, for they may not wait for
 * Python. Off (timers.h), each costs two branches. */
#ifndef FC_CALLS_H
#define FC_CALLS_H

#include "../runtime/timers.h"
#include "ops.h"

enum { FC_CALL_ARRAYS = 4 };

typedef struct fc_call {
    const char *op;                            /* the function of _core.pyx that does the same             */
    const fc_tensor *arrays[FC_CALL_ARRAYS];   /* which it takes, then the one it gives; NULL: not given    */
    const fc_conv2d *conv;                     /* NULL where it has none                                   */
    const fc_pool2d *pool;
    int bias, argmax, relu, training;          /* whether it has them; argmax: bytes of one                */
    long long start;                           /* set by fc_call_begin, to 0 where no profile is open      */
} fc_call;

void fc_call_begin(fc_call *call);
void fc_call_end(const fc_call *call, int status);     /* it is kept if that is 0 */

typedef struct fc_kept_call {
    fc_call call;                              /* whose pointers say what was given, no more; here are copies: */
    fc_tensor arrays[FC_CALL_ARRAYS];
    fc_conv2d conv;
    fc_pool2d pool;
    const char *isa;
    int allowed, threads;                      /* that might have computed, that did                       */
    unsigned long long thread;                 /* that called, as threading.get_ident() says               */
    long long end, ns[FC_CLOCKS];
} fc_kept_call;

enum { FC_CALLS = 100 };                       /* a block of the pool: some 60 KiB                         */

typedef struct fc_calls {
    struct fc_calls *before;
    size_t count;
    fc_kept_call calls[FC_CALLS];
} fc_calls;

fc_calls *fc_calls_take(void);                 /* all that are kept, the last ones first; each to be freed by fc_free */

#endif
