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

/* One thread's place among them: for (fc_hand hand = fc_hand_of(...); fc_take(&hand);) does hand.task. */
typedef struct fc_hand {
    fc_tasks *tasks;
    ptrdiff_t count, task;                 /* of all; the one taken */
    ptrdiff_t begin, end;                  /* of the share from which it takes */
    int share, shares, left;               /* that share, how many there are, how many are left, it included */
    int backwards;                         /* takes each share from its end */
} fc_hand;

fc_hand fc_hand_of(fc_tasks *tasks, ptrdiff_t count, int thread, int threads);

/* Sets the share from which it takes. */
void fc_next_share(fc_hand *hand, int share);

/* Takes the next task; returns 0 when none is left. */
static inline int fc_take(fc_hand *hand)
{
    while (hand->left) {
        const ptrdiff_t at = (ptrdiff_t)atomic_fetch_add(&hand->tasks->taken[hand->share], 1);
        if (at < hand->end - hand->begin) {
            hand->task = hand->backwards ? hand->end - 1 - at : hand->begin + at;
            return 1;
        }
        if (--hand->left)
            fc_next_share(hand, hand->share + 1 < hand->shares ? hand->share + 1 : 0);
    }
    return 0;
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
void fc_team_barrier(int threads);         /* waits for all threads of the team, inside body */

/* body(context, i, thread) for every i < count, in any order, by at most `threads` threads. */
void fc_parallel_for(size_t count, int threads, int flush_denormals,
                     void (*body)(void *context, size_t i, int thread), void *context);

#endif
