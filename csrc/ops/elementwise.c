/* SPDX-License-Identifier: MIT */
/* Activations and sums of whole arrays, softmax over rows: spans taken by the threads in turn. */
#include "../runtime/dispatch.h"
#include "../runtime/threads.h"
#include "ops.h"
#include "spans.h"

/* Nanoseconds that exp adds to a float. */
static const double EXP_NS = 0.6;

typedef struct spans {
    const fc_kernels *kernels;
    int kind;
    size_t n;                           /* floats in all, or in a row */
    const float *x, *y;
    float *out;
} spans;

static void forward_span(void *context, size_t i, int thread)
{
    (void)thread;
    const spans *s = context;
    const size_t at = i * FC_SPAN_FLOATS;
    s->kernels->activation[s->kind](fc_span_length(s->n, i), s->x + at, s->out + at);
}

static void backward_span(void *context, size_t i, int thread)
{
    (void)thread;
    const spans *s = context;
    const size_t at = i * FC_SPAN_FLOATS;
    s->kernels->activation_backward[s->kind](fc_span_length(s->n, i), s->x + at, s->y + at, s->out + at);
}

static double cost_ns(int kind, size_t n) { return (double)n * (kind == FC_RELU ? FC_FLOAT_NS : FC_FLOAT_NS + EXP_NS); }

/* relu keeps denormals as they are: comparing and masking them costs nothing. */
void fc_activation_forward(int kind, size_t n, const float *x, float *y)
{
    spans s = {.kernels = fc_kernels_active(), .kind = kind, .n = n, .x = x, .out = y};
    fc_parallel_for(fc_spans(n), fc_team_size(cost_ns(kind, n)), kind != FC_RELU,
                    forward_span, &s);
}

void fc_activation_backward(int kind, size_t n, const float *dy, const float *y, float *dx)
{
    spans s = {.kernels = fc_kernels_active(), .kind = kind, .n = n, .x = dy, .y = y, .out = dx};
    fc_parallel_for(fc_spans(n), fc_team_size((double)n * FC_FLOAT_NS), kind != FC_RELU,
                    backward_span, &s);
}

typedef struct sums {
    const fc_kernels *kernels;
    size_t n, terms;
    const float *const *x;
    int relu, stream;
    float *y;
} sums;

static void sum_span(void *context, size_t i, int thread)
{
    (void)thread;
    const sums *s = context;
    s->kernels->sum_spans(fc_span_length(s->n, i), s->terms, s->x, i * FC_SPAN_FLOATS, s->relu, s->stream, s->y);
}

/* Denormals are flushed, as where batch normalisation adds a residual itself: the bits are the same. */
void fc_sum(size_t n, size_t terms, const float *const *x, int relu, float *y)
{
    sums s = {.kernels = fc_kernels_active(), .n = n, .terms = terms, .x = x, .relu = relu,
              .stream = fc_streams(y, n), .y = y};
    fc_parallel_for(fc_spans(n), fc_team_size((double)(n * terms) * FC_FLOAT_NS), 1, sum_span, &s);
}

static void softmax_row(void *context, size_t row, int thread)
{
    (void)thread;
    const spans *s = context;
    const size_t at = row * s->n;
    (s->kind ? s->kernels->log_softmax_row : s->kernels->softmax_row)(s->n, s->x + at, s->out + at);
}

void fc_softmax_forward(int log, size_t rows, size_t n, const float *x, float *y)
{
    spans s = {.kernels = fc_kernels_active(), .kind = log, .n = n, .x = x, .out = y};
    fc_parallel_for(n ? rows : 0, fc_team_size(cost_ns(FC_SIGMOID, rows * n)), 1, softmax_row, &s);
}
