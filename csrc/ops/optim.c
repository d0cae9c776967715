/* SPDX-License-Identifier: MIT */
/* Steps of optimisers over whole parameters, and the sum of squares of a gradient: spans taken by the threads. */
#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "ops.h"
#include "spans.h"

typedef struct step {
    const fc_kernels *kernels;
    const fc_sgd *sgd;
    const fc_adam *adam;
    size_t n;
    const float *g;
    float *m, *v, *p;
    double *sums;                       /* [spans] */
} step;

static void sgd_span(void *context, size_t i, int thread)
{
    (void)thread;
    const step *s = context;
    const size_t at = i * FC_SPAN_FLOATS;
    s->kernels->sgd_span(fc_span_length(s->n, i), s->sgd, s->g + at, s->v ? s->v + at : NULL, s->p + at);
}

static void adam_span(void *context, size_t i, int thread)
{
    (void)thread;
    const step *s = context;
    const size_t at = i * FC_SPAN_FLOATS;
    s->kernels->adam_span(fc_span_length(s->n, i), s->adam, s->g + at, s->m + at, s->v + at, s->p + at);
}

static void square_span(void *context, size_t i, int thread)
{
    (void)thread;
    const step *s = context;
    s->sums[i] = s->kernels->square_sum(fc_span_length(s->n, i), s->g + i * FC_SPAN_FLOATS);
}

void fc_sgd_step(const fc_sgd *sgd, size_t n, const float *g, float *v, float *p)
{
    step s = {.kernels = fc_kernels_active(), .sgd = sgd, .n = n, .g = g, .v = v, .p = p};
    fc_parallel_for(fc_spans(n), fc_team_size((double)n * 2 * FC_FLOAT_NS), 1, sgd_span, &s);
}

void fc_adam_step(const fc_adam *adam, size_t n, const float *g, float *m, float *v, float *p)
{
    step s = {.kernels = fc_kernels_active(), .adam = adam, .n = n, .g = g, .m = m, .v = v, .p = p};
    fc_parallel_for(fc_spans(n), fc_team_size((double)n * 3 * FC_FLOAT_NS), 1, adam_span, &s);
}

int fc_square_sum(size_t n, const float *x, double *sum)
{
    step s = {.kernels = fc_kernels_active(), .n = n, .g = x, .sums = fc_alloc((fc_spans(n) + 1) * sizeof(double))};
    if (!s.sums)
        return -1;
    fc_parallel_for(fc_spans(n), fc_team_size((double)n * FC_FLOAT_NS), 0, square_span, &s);
    *sum = 0;
    for (size_t i = 0; i < fc_spans(n); i++)
        *sum += s.sums[i];
    fc_free(s.sums);
    return 0;
}
