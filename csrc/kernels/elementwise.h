/* SPDX-License-Identifier: MIT */
/* Activations over a span of floats, sums of spans, and softmax of one row.
 *
 *   relu      y = x <= 0 ? 0 : x          dx = y <= 0 ? 0 : dy     (NaN stays NaN, -0 becomes 0)
 *   sigmoid   y = 1 / (1 + exp(-x))       dx = dy * y * (1 - y)
 *   tanh      y = tanh(x)                 dx = dy * (1 - y^2) */
#ifndef FC_ELEMENTWISE_H
#define FC_ELEMENTWISE_H

#include <math.h>

#include "kernels.h"
#include "vector_math.h"

FC_INLINE vf activate(int kind, vf x)
{
    switch (kind) {
    case FC_RELU:
        return vrelu(x);
    case FC_SIGMOID:
        return 1.0f / (1.0f + vexp(-x));
    default:
        return vtanh(x);
    }
}

FC_INLINE vf activate_backward(int kind, vf dy, vf y)
{
    const vf square = y * y;
    switch (kind) {
    case FC_RELU:
        return (vf)((vi)dy & ~(y <= 0.0f));
    case FC_SIGMOID:
        return dy * (y * (1.0f - y));
    default:
        return dy * (1.0f - square);
    }
}

FC_INLINE void activation_span(int kind, size_t n, const float *x, float *y)
{
    size_t i = 0;
    for (; i + FC_LANES <= n; i += FC_LANES)
        vstore(y + i, activate(kind, vload(x + i)));
    if (i < n)
        vstore_part(y + i, activate(kind, vload_part(x + i, n - i)), n - i);
}

FC_INLINE void activation_backward_span(int kind, size_t n, const float *dy, const float *y, float *dx)
{
    size_t i = 0;
    for (; i + FC_LANES <= n; i += FC_LANES)
        vstore(dx + i, activate_backward(kind, vload(dy + i), vload(y + i)));
    if (i < n)
        vstore_part(dx + i, activate_backward(kind, vload_part(dy + i, n - i), vload_part(y + i, n - i)), n - i);
}

static void relu_span(size_t n, const float *x, float *y)    { activation_span(FC_RELU, n, x, y); }
static void sigmoid_span(size_t n, const float *x, float *y) { activation_span(FC_SIGMOID, n, x, y); }
static void tanh_span(size_t n, const float *x, float *y)    { activation_span(FC_TANH, n, x, y); }

static void relu_backward_span(size_t n, const float *dy, const float *y, float *dx)
{
    activation_backward_span(FC_RELU, n, dy, y, dx);
}

static void sigmoid_backward_span(size_t n, const float *dy, const float *y, float *dx)
{
    activation_backward_span(FC_SIGMOID, n, dy, y, dx);
}

static void tanh_backward_span(size_t n, const float *dy, const float *y, float *dx)
{
    activation_backward_span(FC_TANH, n, dy, y, dx);
}

FC_INLINE void sum_lanes(size_t lanes, size_t terms, const float *const *x, size_t at, float zeroed, int stream,
                         float *y)
{
    vf sum = vload_lanes(x[0] + at, lanes);
    for (size_t t = 1; t < terms; t++)
        sum += vload_lanes(x[t] + at, lanes);
    vwrite_lanes(y + at, (vf)((vi)sum & ~(sum <= zeroed)), lanes, stream);
}

/* y[at + i] = x[0][at + i] + x[1][at + i] + ..., from left to right, then relu if asked for. stream: past the caches,
 * to a place y + at that is aligned to a vector. */
static void sum_spans(size_t n, size_t terms, const float *const *x, size_t at, int relu, int stream, float *y)
{
    const float zeroed = relu ? 0.0f : NAN;      /* nothing compares to NaN */
    if (terms == 2)
        FC_OVER_LANES(n, sum_lanes(lanes, 2, x, at + i, zeroed, stream, y));
    else
        FC_OVER_LANES(n, sum_lanes(lanes, terms, x, at + i, zeroed, stream, y));
    if (stream)
        vstream_end();
}

/* Sums of a row are kept in 16 parts whatever the vector width, so that every instruction set adds in the
 * same order. */
enum { PARTS = 16, PART_VECTORS = PARTS / FC_LANES };

static float exp_sum(size_t n, const float *x, float largest, float *y)
{
    vf part[PART_VECTORS] = {{0}};
    size_t i = 0;
    for (; i + PARTS <= n; i += PARTS)
        for (int v = 0; v < PART_VECTORS; v++) {
            const vf e = vexp(vload(x + i + v * FC_LANES) - largest);
            part[v] += e;
            if (y)
                vstore(y + i + v * FC_LANES, e);
        }
    for (int v = 0; i < n; v++, i += FC_LANES) {
        const size_t lanes = n - i < FC_LANES ? n - i : FC_LANES;
        const vf e = vexp(vload_lanes(x + i, lanes) - largest);
        float kept[FC_LANES] = {0};
        vstore_lanes(kept, e, lanes);
        part[v] += vload(kept);
        if (y)
            vstore_lanes(y + i, e, lanes);
    }
    float all[PARTS], sum = 0;
    memcpy(all, part, sizeof all);
    for (int p = 0; p < PARTS; p++)
        sum += all[p];
    return sum;
}

static float largest_of(size_t n, const float *x)
{
    float largest = -INFINITY;
    for (size_t i = 0; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* y[i] = exp(x[i] - max) / sum over j of exp(x[j] - max) */
static void softmax_row(size_t n, const float *x, float *y)
{
    const float scale = 1.0f / exp_sum(n, x, largest_of(n, x), y);
    for (size_t i = 0; i < n; i++)
        y[i] *= scale;
}

/* y[i] = x[i] - max - log(sum over j of exp(x[j] - max)) */
static void log_softmax_row(size_t n, const float *x, float *y)
{
    const float largest = largest_of(n, x), log_sum = logf(exp_sum(n, x, largest, NULL));
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] - largest) - log_sum;
}

#endif
