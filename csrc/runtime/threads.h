/* SPDX-License-Identifier: MIT */
/* The thread team: the only code that knows OpenMP. One parallel region a call. */
#ifndef FC_THREADS_H
#define FC_THREADS_H

#include <stdatomic.h>
#include <stddef.h>

enum { FC_SHARES = 16 };

/* Tasks 0 .. count - 1 of a team, to begin with zeros. A share of them, in a row, is each thread's own: from call to
 * call it meets the part of the arrays that its caches hold. When it is done it takes what the others have left. */
typedef struct fc_tasks {
    atomic_size_t taken[FC_SHARES];
} fc_tasks;

/* One thread's place among them. */
typedef struct fc_hand {
    fc_tasks *tasks;
    size_t count;
    int shares, own, done;
    int backwards;                         /* takes each share from its end */
} fc_hand;

fc_hand fc_hand_of(fc_tasks *tasks, size_t count, int thread, int threads);

/* The next task, or `count` when none is left. */
static inline size_t fc_take(fc_hand *hand)
{
    for (; hand->done < hand->shares; hand->done++) {
        const size_t share = (size_t)((hand->own + hand->done) % hand->shares), shares = (size_t)hand->shares;
        const size_t begin = hand->count * share / shares, end = hand->count * (share + 1) / shares;
        const size_t at = atomic_fetch_add(&hand->tasks->taken[share], 1);
        if (at < end - begin)
            return hand->backwards ? end - 1 - at : begin + at;
    }
    return hand->count;
}

int fc_threads_allowed(void);              /* limit of the calling thread                          */
int fc_threads_limit(int threads);         /* sets it, 0: the process's default; returns the one before */
void fc_threads_set_default(int threads);
int fc_threads_default(void);
const char *fc_threads_runtime(void);      /* "OpenMP 201511", or "none (single-threaded build)"   */

/* How many threads `cost_ns` nanoseconds of one thread's work pay for: at most the limit. */
int fc_team_size(double cost_ns);

/* Runs body in a team of `threads` (or fewer: body is told), with denormals flushed to zero when asked. */
void fc_team_run(int threads, int flush_denormals, void (*body)(void *context, int thread, int threads),
                 void *context);
void fc_team_barrier(void);                /* all of the team, inside body */

/* body(context, i, thread) for every i < count, in any order, by at most `threads` threads. */
void fc_parallel_for(size_t count, int threads, int flush_denormals,
                     void (*body)(void *context, size_t i, int thread), void *context);

#endif
