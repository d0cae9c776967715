/* SPDX-License-Identifier: MIT */
#include "threads.h"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "cpu.h"
#include "timers.h"

/* Waking a team costs 1 to 5 us; a thread must have at least twice that to do. */
static const double PAYS_NS = 10e3;

static atomic_int default_threads = 1;
static _Thread_local int thread_limit;

#if defined(_OPENMP)
/* OpenMP's own limit of a thread when the first default was set. Below it, somebody has lowered that limit since,
 * threadpoolctl or torch: they mean all of OpenMP. */
static atomic_int openmp_threads;
#endif

/* libgomp's workers do not survive fork: a child that entered a region would wait for them for ever,
 * so a child of a process that has had a team runs alone. */
static atomic_int had_team, alone;

#if !defined(_WIN32)                       /* which has no fork */
static void after_fork_in_child(void)
{
    if (atomic_load(&had_team))
        atomic_store(&alone, 1);
}

__attribute__((constructor)) static void register_fork_handler(void)
{
    pthread_atfork(NULL, NULL, after_fork_in_child);
}
#endif

int fc_threads_default(void) { return atomic_load(&default_threads); }

void fc_threads_set_default(int threads)
{
#if defined(_OPENMP)
    if (!atomic_load(&openmp_threads))
        atomic_store(&openmp_threads, omp_get_max_threads());
#endif
    atomic_store(&default_threads, threads);
}

int fc_threads_limit(int threads)
{
    int before = thread_limit;
    thread_limit = threads;
    return before;
}

int fc_threads_allowed(void)
{
    if (thread_limit)
        return thread_limit;
    int threads = fc_threads_default();
#if defined(_OPENMP)
    int lowered = omp_get_max_threads();
    if (lowered < threads && lowered < atomic_load(&openmp_threads))
        return lowered;
#endif
    return threads;
}

#define FC_STRING_(x) #x
#define FC_STRING(x) FC_STRING_(x)
const char *fc_threads_runtime(void)
{
#if defined(_OPENMP)
    return "OpenMP " FC_STRING(_OPENMP);
#else
    return "none (single-threaded build)";
#endif
}

int fc_team_size(double cost_ns)
{
    int allowed = fc_threads_allowed();
    double pays = cost_ns / PAYS_NS;
    if (atomic_load(&alone) || pays < 2)
        return 1;
    return pays < allowed ? (int)pays : allowed;
}

static void run_body(void (*body)(void *, int, int), void *context, int thread, int threads, fc_times *times)
{
    if (times)
        fc_timers_begin();
    body(context, thread, threads);
    if (times)
        fc_timers_end(times, threads);
}

static void run_one(int flush_denormals, void (*body)(void *, int, int), void *context, int thread, int threads,
                    fc_times *times)
{
    if (!flush_denormals) {
        run_body(body, context, thread, threads, times);
        return;
    }
    unsigned long long state = fc_cpu_flush_denormals();
    run_body(body, context, thread, threads, times);
    fc_cpu_restore(state);
}

void fc_team_run(int threads, int flush_denormals, void (*body)(void *, int, int), void *context)
{
    fc_times *times = fc_timers_on() ? fc_timers_here() : NULL;
#if defined(_OPENMP)
    if (threads > 1) {
        atomic_store(&had_team, 1);
#pragma omp parallel num_threads(threads)
        run_one(flush_denormals, body, context, omp_get_thread_num(), omp_get_num_threads(), times);
        return;
    }
#endif
    (void)threads;
    run_one(flush_denormals, body, context, 0, 1, times);
}

void fc_team_barrier(int threads)
{
    if (threads == 1)
        return;
#if defined(_OPENMP)
    fc_clock(FC_WAIT);
#pragma omp barrier
    fc_clock(FC_OTHER);
#endif
}

void fc_next_share(fc_hand *hand, int share)
{
    hand->share = share;
    hand->begin = hand->count * share / hand->shares;
    hand->end = hand->count * (share + 1) / hand->shares;
}

fc_hand fc_hand_of(fc_tasks *tasks, ptrdiff_t count, int thread, int threads)
{
    const int shares = threads < FC_SHARES ? threads : FC_SHARES;
    fc_hand hand = {.tasks = tasks, .count = count, .shares = shares, .left = shares};
    fc_next_share(&hand, thread * shares / threads);
    return hand;
}

typedef struct parallel_loop {
    fc_tasks tasks;
    ptrdiff_t count;
    void (*body)(void *context, size_t i, int thread);
    void *context;
} parallel_loop;

static void loop_body(void *context, int thread, int threads)
{
    parallel_loop *loop = context;
    for (fc_hand hand = fc_hand_of(&loop->tasks, loop->count, thread, threads); fc_take(&hand);)
        loop->body(loop->context, (size_t)hand.task, thread);
}

void fc_parallel_for(size_t count, int threads, int flush_denormals, void (*body)(void *, size_t, int),
                     void *context)
{
    parallel_loop loop = {.count = (ptrdiff_t)count, .body = body, .context = context};
    if ((size_t)threads > count)
        threads = count ? (int)count : 1;
    fc_team_run(threads, flush_denormals, loop_body, &loop);
}
