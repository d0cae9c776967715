/* SPDX-License-Identifier: MIT */
/* The most that the allowed threads can compute: what convolutions are compared with. */
#include "../runtime/dispatch.h"
#include "../runtime/threads.h"
#include "ops.h"

typedef struct chains {
    const fc_kernels *kernels;
    size_t rounds;
    int threads;                         /* of the team that came */
} chains;

static void run(void *context, int thread, int threads)
{
    chains *c = context;
    float start[FC_CHAINS];
    volatile float result;               /* or a clever compiler computes nothing */
    float sum;
    for (int i = 0; i < FC_CHAINS; i++)
        start[i] = 0.25f + 0.01f * (float)(i + thread);
    c->kernels->multiply_add_chains(c->rounds, start, &sum);
    result = sum;
    (void)result;
    if (thread == 0)
        c->threads = threads;
}

double fc_multiply_adds(size_t rounds)
{
    chains c = {.kernels = fc_kernels_active(), .rounds = rounds};
    fc_team_run(fc_threads_allowed(), 1, run, &c);
    return (double)c.threads * (double)rounds * FC_CHAINS * (double)c.kernels->lanes;
}
