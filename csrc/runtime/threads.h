/* SPDX-License-Identifier: MIT */
/* The thread team: the only code that knows OpenMP. One parallel region a call. */
#ifndef FC_THREADS_H
#define FC_THREADS_H

#include <stdatomic.h>
#include <stddef.h>

/* Hands out 0, 1, 2, ... to whichever thread asks next. */
typedef struct fc_counter { atomic_size_t next; } fc_counter;
static inline size_t fc_take(fc_counter *counter) { return atomic_fetch_add(&counter->next, 1); }

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
