/* SPDX-License-Identifier: MIT */
/* Statistics and normalisation of channels, channels-last: x[pixel][channel], vectors run over channels.
 * One channel of contiguous pixels is handled as 16 channels of every 16th pixel.
 *
 *   moments          mean + delta = sum x / pixels,  m2 = sum (x - mean)^2, corrected for the rounding of mean
 *   normalize        y = (x - mean) * scale + bias, + residual, then relu (see elementwise.h)
 *   gradient_sums    sum_dy = sum dy,  sum_dy_x = sum dy * (x - mean)
 *   norm_backward    dx = (dy - mean_dy - (x - mean) * slope) * scale
 *
 * stream: the result, or masked, is written past the caches; its vectors are whole and aligned.
 *
 * Backward, dy counts only where y, the result behind a relu, let it through; masked takes it as it counts.
 *
 * Up to four vectors of channels at a time hide the latency of the adders. */
#ifndef FC_NORM_H
#define FC_NORM_H

#include <math.h>

#include "elementwise.h"
#include "simd.h"

enum { GROUP = 4 };

FC_INLINE vf group_load(const float *p, int v, size_t lanes)
{
    return lanes == FC_LANES ? vload(p + v * FC_LANES) : vload_part(p + v * FC_LANES, lanes);
}

FC_INLINE void group_store(float *p, int v, vf value, size_t lanes)
{
    if (lanes == FC_LANES)
        vstore(p + v * FC_LANES, value);
    else
        vstore_part(p + v * FC_LANES, value, lanes);
}

FC_INLINE void moments_group(int vectors, size_t lanes, size_t pixels, const float *x, ptrdiff_t x_pixel,
                             float *mean, float *delta, float *m2)
{
    const float share = 1.0f / (float)pixels;
    vf sum[GROUP] = {{0}}, rest[GROUP] = {{0}}, squares[GROUP] = {{0}};
    for (size_t i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sum[v] += group_load(x + (ptrdiff_t)i * x_pixel, v, lanes);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        sum[v] *= share;
    for (size_t i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const vf d = group_load(x + (ptrdiff_t)i * x_pixel, v, lanes) - sum[v];
            rest[v] += d;
            squares[v] += d * d;
        }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        const vf shift = rest[v] * share;
        group_store(mean, v, sum[v], lanes);
        group_store(delta, v, shift, lanes);
        group_store(m2, v, squares[v] - rest[v] * shift, lanes);
    }
}

FC_INLINE void normalize_group(int vectors, size_t lanes, size_t pixels, const float *x, ptrdiff_t x_pixel,
                               const float *mean, const float *scale, const float *bias, const float *residual,
                               int relu, int stream, float *y, ptrdiff_t y_pixel)
{
    const float zeroed = relu ? 0.0f : NAN;      /* nothing compares to NaN */
    vf m[GROUP], s[GROUP], b[GROUP];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        m[v] = group_load(mean, v, lanes);
        s[v] = group_load(scale, v, lanes);
        b[v] = group_load(bias, v, lanes);
    }
    for (size_t i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const vf d = group_load(x + (ptrdiff_t)i * x_pixel, v, lanes) - m[v];
            vf value = d * s[v] + b[v];
            if (residual)
                value += group_load(residual + (ptrdiff_t)i * y_pixel, v, lanes);
            vwrite_lanes(y + (ptrdiff_t)i * y_pixel + v * FC_LANES, (vf)((vi)value & ~(value <= zeroed)), lanes,
                         stream);
        }
}

/* x NULL: sum_dy alone. y NULL: no relu. masked NULL: not wanted; x, y and masked lie x_pixel apart. */
FC_INLINE void gradient_sums_group(int vectors, size_t lanes, size_t pixels, const float *dy, ptrdiff_t dy_pixel,
                                   const float *x, ptrdiff_t x_pixel, const float *mean, const float *y,
                                   int stream, float *masked, float *sum_dy, float *sum_dy_x)
{
    vf m[GROUP], plain[GROUP] = {{0}}, product[GROUP] = {{0}};
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
        m[v] = x ? group_load(mean, v, lanes) : (vf){0};
    for (size_t i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            vf g = group_load(dy + (ptrdiff_t)i * dy_pixel, v, lanes);
            if (y)
                g = activate_backward(FC_RELU, g, group_load(y + (ptrdiff_t)i * x_pixel, v, lanes));
            if (masked)
                vwrite_lanes(masked + (ptrdiff_t)i * x_pixel + v * FC_LANES, g, lanes, stream);
            plain[v] += g;
            if (x) {
                const vf d = group_load(x + (ptrdiff_t)i * x_pixel, v, lanes) - m[v];
                product[v] += g * d;
            }
        }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        group_store(sum_dy, v, plain[v], lanes);
        if (x)
            group_store(sum_dy_x, v, product[v], lanes);
    }
}

FC_INLINE void norm_backward_group(int vectors, size_t lanes, size_t pixels, const float *dy, ptrdiff_t dy_pixel,
                                   const float *x, ptrdiff_t x_pixel, const float *y, const float *mean,
                                   const float *mean_dy, const float *slope, const float *scale, int stream,
                                   float *dx)
{
    vf m[GROUP], g[GROUP], k[GROUP], s[GROUP];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        m[v] = group_load(mean, v, lanes);
        g[v] = group_load(mean_dy, v, lanes);
        k[v] = group_load(slope, v, lanes);
        s[v] = group_load(scale, v, lanes);
    }
    for (size_t i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const vf d = group_load(x + (ptrdiff_t)i * x_pixel, v, lanes) - m[v];
            vf gradient = group_load(dy + (ptrdiff_t)i * dy_pixel, v, lanes);
            if (y)
                gradient = activate_backward(FC_RELU, gradient, group_load(y + (ptrdiff_t)i * x_pixel, v, lanes));
            const vf centred = gradient - g[v];
            vwrite_lanes(dx + (ptrdiff_t)i * x_pixel + v * FC_LANES, (centred - d * k[v]) * s[v], lanes, stream);
        }
}

/* CALL sees vectors, lanes and the first channel c of its group. */
#define FC_OVER_GROUPS(CHANNELS, CALL)                                                     \
    do {                                                                                   \
        size_t c = 0;                                                                      \
        for (; c + GROUP * FC_LANES <= (CHANNELS); c += GROUP * FC_LANES) {                \
            enum { vectors = GROUP, lanes = FC_LANES };                                    \
            CALL;                                                                          \
        }                                                                                  \
        for (; c + FC_LANES <= (CHANNELS); c += FC_LANES) {                                \
            enum { vectors = 1, lanes = FC_LANES };                                        \
            CALL;                                                                          \
        }                                                                                  \
        if (c < (CHANNELS)) {                                                              \
            enum { vectors = 1 };                                                          \
            const size_t lanes = (CHANNELS) - c;                                           \
            CALL;                                                                          \
        }                                                                                  \
    } while (0)

static void moments(size_t channels, size_t pixels, const float *x, ptrdiff_t x_pixel, float *mean, float *delta,
                    float *m2)
{
    FC_OVER_GROUPS(channels, moments_group(vectors, lanes, pixels, x + c, x_pixel, mean + c, delta + c, m2 + c));
}

static void normalize(size_t channels, size_t pixels, const float *x, ptrdiff_t x_pixel, const float *mean,
                      const float *scale, const float *bias, const float *residual, int relu, int stream, float *y,
                      ptrdiff_t y_pixel)
{
    if (residual)
        FC_OVER_GROUPS(channels, normalize_group(vectors, lanes, pixels, x + c, x_pixel, mean + c, scale + c, bias + c,
                                                 residual + c, relu, stream, y + c, y_pixel));
    else
        FC_OVER_GROUPS(channels, normalize_group(vectors, lanes, pixels, x + c, x_pixel, mean + c, scale + c, bias + c,
                                                 NULL, relu, stream, y + c, y_pixel));
    if (stream)
        vstream_end();
}

static void gradient_sums(size_t channels, size_t pixels, const float *dy, ptrdiff_t dy_pixel, const float *x,
                          ptrdiff_t x_pixel, const float *mean, const float *y, int stream, float *masked,
                          float *sum_dy, float *sum_dy_x)
{
    if (!x)
        FC_OVER_GROUPS(channels, gradient_sums_group(vectors, lanes, pixels, dy + c, dy_pixel, NULL, 0, NULL, NULL,
                                                     0, NULL, sum_dy + c, NULL));
    else if (!y)
        FC_OVER_GROUPS(channels, gradient_sums_group(vectors, lanes, pixels, dy + c, dy_pixel, x + c, x_pixel,
                                                     mean + c, NULL, 0, NULL, sum_dy + c, sum_dy_x + c));
    else if (!masked)
        FC_OVER_GROUPS(channels, gradient_sums_group(vectors, lanes, pixels, dy + c, dy_pixel, x + c, x_pixel,
                                                     mean + c, y + c, 0, NULL, sum_dy + c, sum_dy_x + c));
    else
        FC_OVER_GROUPS(channels, gradient_sums_group(vectors, lanes, pixels, dy + c, dy_pixel, x + c, x_pixel,
                                                     mean + c, y + c, stream, masked + c, sum_dy + c, sum_dy_x + c));
    if (stream)
        vstream_end();
}

static void norm_backward(size_t channels, size_t pixels, const float *dy, ptrdiff_t dy_pixel, const float *x,
                          ptrdiff_t x_pixel, const float *y, const float *mean, const float *mean_dy,
                          const float *slope, const float *scale, int stream, float *dx)
{
    if (y)
        FC_OVER_GROUPS(channels, norm_backward_group(vectors, lanes, pixels, dy + c, dy_pixel, x + c, x_pixel, y + c,
                                                     mean + c, mean_dy + c, slope + c, scale + c, stream, dx + c));
    else
        FC_OVER_GROUPS(channels, norm_backward_group(vectors, lanes, pixels, dy + c, dy_pixel, x + c, x_pixel, NULL,
                                                     mean + c, mean_dy + c, slope + c, scale + c, stream, dx + c));
    if (stream)
        vstream_end();
}
#undef FC_OVER_GROUPS

#endif
