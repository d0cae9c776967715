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
 * Backward, dy counts only where y, the result behind a relu, let it through; masked takes it as it counts. With bias
 * instead of y, y is computed again, which is less to read.
 *
 * Up to four vectors of channels at a time hide the latency of the adders. Where pixels have more, each is finished
 * before the next: what is read and written front to back, memory delivers up to twice as fast. */
#ifndef FC_NORM_H
#define FC_NORM_H

#include <math.h>

#include "elementwise.h"
#include "simd.h"

enum { GROUP = 4 };

/* CALL sees vectors, lanes and the first channel c of its group. */
#define FC_OVER_GROUPS(CHANNELS, CALL)                                                                                \
    do {                                                                                                              \
        size_t c = 0;                                                                                                 \
        for (; c + GROUP * FC_LANES <= (CHANNELS); c += GROUP * FC_LANES) {                                           \
            enum { vectors = GROUP, lanes = FC_LANES };                                                               \
            CALL;                                                                                                     \
        }                                                                                                             \
        for (; c + FC_LANES <= (CHANNELS); c += FC_LANES) {                                                           \
            enum { vectors = 1, lanes = FC_LANES };                                                                   \
            CALL;                                                                                                     \
        }                                                                                                             \
        if (c < (CHANNELS)) {                                                                                         \
            enum { vectors = 1 };                                                                                     \
            const size_t lanes = (CHANNELS) - c;                                                                      \
            CALL;                                                                                                     \
        }                                                                                                             \
    } while (0)

/* CALL sees besides the `run` pixels from i on that it is for: one, or all if they are a group wide. */
#define FC_OVER_PIXELS(PIXELS, CHANNELS, CALL)                                                                        \
    do {                                                                                                              \
        const size_t run = (CHANNELS) > GROUP * FC_LANES ? 1 : (PIXELS);                                              \
        for (size_t i = 0; i < (PIXELS); i += run)                                                                    \
            FC_OVER_GROUPS(CHANNELS, CALL);                                                                           \
    } while (0)

FC_INLINE void load_group(int vectors, size_t lanes, const float *p, vf group[GROUP])
{
    FC_UNROLL(4)
    for (int v = 0; v < vectors; v++)
        group[v] = vload_lanes(p + v * FC_LANES, lanes);
}

FC_INLINE void store_group(int vectors, size_t lanes, const vf group[GROUP], float *p)
{
    FC_UNROLL(4)
    for (int v = 0; v < vectors; v++)
        vstore_lanes(p + v * FC_LANES, group[v], lanes);
}

FC_INLINE void add_pixels(int vectors, size_t lanes, size_t pixels, const float *x, ptrdiff_t x_pixel, float *sum)
{
    vf s[GROUP];
    load_group(vectors, lanes, sum, s);
    for (size_t i = 0; i < pixels; i++, x += x_pixel)
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            s[v] += vload_lanes(x + v * FC_LANES, lanes);
    store_group(vectors, lanes, s, sum);
}

FC_INLINE void add_deviations(int vectors, size_t lanes, size_t pixels, const float *x, ptrdiff_t x_pixel,
                              const float *mean, float *rest, float *squares)
{
    vf m[GROUP], r[GROUP], s[GROUP];
    load_group(vectors, lanes, mean, m);
    load_group(vectors, lanes, rest, r);
    load_group(vectors, lanes, squares, s);
    for (size_t i = 0; i < pixels; i++, x += x_pixel)
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++) {
            const vf d = vload_lanes(x + v * FC_LANES, lanes) - m[v];
            r[v] += d;
            s[v] += d * d;
        }
    store_group(vectors, lanes, r, rest);
    store_group(vectors, lanes, s, squares);
}

static void moments(size_t channels, size_t pixels, const float *x, ptrdiff_t x_pixel, float *mean, float *delta,
                    float *m2)
{
    const float share = 1.0f / (float)pixels;
    for (size_t c = 0; c < channels; c++)
        mean[c] = delta[c] = m2[c] = 0;
    FC_OVER_PIXELS(pixels, channels,
                   add_pixels(vectors, lanes, run, x + (ptrdiff_t)i * x_pixel + c, x_pixel, mean + c));
    for (size_t c = 0; c < channels; c++)
        mean[c] *= share;
    /* From the cache. */
    FC_OVER_GROUPS(channels, add_deviations(vectors, lanes, pixels, x + c, x_pixel, mean + c, delta + c, m2 + c));
    for (size_t c = 0; c < channels; c++) {
        const float rest = delta[c];
        delta[c] = rest * share;
        m2[c] -= rest * delta[c];
    }
}

FC_INLINE void normalize_group(int vectors, size_t lanes, size_t pixels, const float *x, ptrdiff_t x_pixel,
                               const float *mean, const float *scale, const float *bias, const float *residual,
                               int relu, int stream, float *y, ptrdiff_t y_pixel)
{
    const float zeroed = relu ? 0.0f : NAN;      /* nothing compares to NaN */
    vf m[GROUP], s[GROUP], b[GROUP];
    load_group(vectors, lanes, mean, m);
    load_group(vectors, lanes, scale, s);
    load_group(vectors, lanes, bias, b);
    for (size_t i = 0; i < pixels; i++)
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t at = (ptrdiff_t)i * y_pixel + v * FC_LANES;
            const vf d = vload_lanes(x + (ptrdiff_t)i * x_pixel + v * FC_LANES, lanes) - m[v];
            vf value = vfma(d, s[v], b[v]);
            if (residual)
                value += vload_lanes(residual + at, lanes);
            vwrite_lanes(y + at, (vf)((vi)value & ~(value <= zeroed)), lanes, stream);
        }
}

static void normalize(size_t channels, size_t pixels, const float *x, ptrdiff_t x_pixel, const float *mean,
                      const float *scale, const float *bias, const float *residual, int relu, int stream, float *y,
                      ptrdiff_t y_pixel)
{
#define FC_NORMALIZE(RESIDUAL)                                                                                        \
    FC_OVER_PIXELS(pixels, channels,                                                                                  \
                   normalize_group(vectors, lanes, run, x + (ptrdiff_t)i * x_pixel + c, x_pixel, mean + c, scale + c, \
                                   bias + c, RESIDUAL, relu, stream, y + (ptrdiff_t)i * y_pixel + c, y_pixel))
    if (residual)
        FC_NORMALIZE(residual + (ptrdiff_t)i * y_pixel + c);
    else
        FC_NORMALIZE(NULL);
#undef FC_NORMALIZE
    if (stream)
        vstream_end();
}

/* y and bias NULL: no relu. masked NULL: not wanted; x, y and masked lie x_pixel apart. */
FC_INLINE void add_gradients(int vectors, size_t lanes, size_t pixels, const float *dy, ptrdiff_t dy_pixel,
                             const float *x, ptrdiff_t x_pixel, const float *mean, const float *y, const float *scale,
                             const float *bias, int stream, float *masked, float *sum_dy, float *sum_dy_x)
{
    vf m[GROUP], s[GROUP], b[GROUP], plain[GROUP], product[GROUP];
    load_group(vectors, lanes, mean, m);
    load_group(vectors, lanes, sum_dy, plain);
    load_group(vectors, lanes, sum_dy_x, product);
    if (bias) {
        load_group(vectors, lanes, scale, s);
        load_group(vectors, lanes, bias, b);
    }
    for (size_t i = 0; i < pixels; i++)
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t at = (ptrdiff_t)i * x_pixel + v * FC_LANES;
            const vf d = vload_lanes(x + at, lanes) - m[v];
            vf g = vload_lanes(dy + (ptrdiff_t)i * dy_pixel + v * FC_LANES, lanes);
            if (y)
                g = activate_backward(FC_RELU, g, vload_lanes(y + at, lanes));
            if (bias)
                g = activate_backward(FC_RELU, g, vfma(d, s[v], b[v]));
            if (masked)
                vwrite_lanes(masked + at, g, lanes, stream);
            plain[v] += g;
            product[v] += g * d;
        }
    store_group(vectors, lanes, plain, sum_dy);
    store_group(vectors, lanes, product, sum_dy_x);
}

static void gradient_sums(size_t channels, size_t pixels, const float *dy, ptrdiff_t dy_pixel, const float *x,
                          ptrdiff_t x_pixel, const float *mean, const float *y, const float *scale,
                          const float *bias, int stream, float *masked, float *sum_dy, float *sum_dy_x)
{
    for (size_t c = 0; c < channels; c++) {
        sum_dy[c] = 0;
        if (x)
            sum_dy_x[c] = 0;
    }
#define FC_ADD_GRADIENTS(Y, BIAS, MASKED)                                                                             \
    FC_OVER_PIXELS(pixels, channels,                                                                                  \
                   add_gradients(vectors, lanes, run, dy + (ptrdiff_t)i * dy_pixel + c, dy_pixel, FC_HERE(x), x_pixel,\
                                 mean + c, Y, scale + c, BIAS, stream, MASKED, sum_dy + c, sum_dy_x + c))
#define FC_HERE(ARRAY) ((ARRAY) + (ptrdiff_t)i * x_pixel + c)
    if (!x)
        FC_OVER_PIXELS(pixels, channels,
                       add_pixels(vectors, lanes, run, dy + (ptrdiff_t)i * dy_pixel + c, dy_pixel, sum_dy + c));
    else if (bias)
        FC_ADD_GRADIENTS(NULL, bias + c, NULL);
    else if (!y)
        FC_ADD_GRADIENTS(NULL, NULL, NULL);
    else if (!masked)
        FC_ADD_GRADIENTS(FC_HERE(y), NULL, NULL);
    else
        FC_ADD_GRADIENTS(FC_HERE(y), NULL, FC_HERE(masked));
#undef FC_ADD_GRADIENTS
    if (stream)
        vstream_end();
}

FC_INLINE void norm_backward_group(int vectors, size_t lanes, size_t pixels, const float *dy, ptrdiff_t dy_pixel,
                                   const float *x, ptrdiff_t x_pixel, const float *y, const float *mean,
                                   const float *mean_dy, const float *slope, const float *scale, const float *bias,
                                   int stream, float *dx)
{
    vf m[GROUP], g[GROUP], k[GROUP], s[GROUP], b[GROUP];
    load_group(vectors, lanes, mean, m);
    load_group(vectors, lanes, mean_dy, g);
    load_group(vectors, lanes, slope, k);
    load_group(vectors, lanes, scale, s);
    if (bias)
        load_group(vectors, lanes, bias, b);
    for (size_t i = 0; i < pixels; i++)
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++) {
            const ptrdiff_t at = (ptrdiff_t)i * x_pixel + v * FC_LANES;
            const vf d = vload_lanes(x + at, lanes) - m[v];
            vf gradient = vload_lanes(dy + (ptrdiff_t)i * dy_pixel + v * FC_LANES, lanes);
            if (y)
                gradient = activate_backward(FC_RELU, gradient, vload_lanes(y + at, lanes));
            if (bias)
                gradient = activate_backward(FC_RELU, gradient, vfma(d, s[v], b[v]));
            const vf centred = gradient - g[v];
            vwrite_lanes(dx + at, (centred - d * k[v]) * s[v], lanes, stream);
        }
}

static void norm_backward(size_t channels, size_t pixels, const float *dy, ptrdiff_t dy_pixel, const float *x,
                          ptrdiff_t x_pixel, const float *y, const float *mean, const float *mean_dy,
                          const float *slope, const float *scale, const float *bias, int stream, float *dx)
{
#define FC_NORM_BACKWARD(Y, BIAS)                                                                                     \
    FC_OVER_PIXELS(pixels, channels,                                                                                  \
                   norm_backward_group(vectors, lanes, run, dy + (ptrdiff_t)i * dy_pixel + c, dy_pixel, FC_HERE(x),   \
                                       x_pixel, Y, mean + c, mean_dy + c, slope + c, scale + c, BIAS, stream,         \
                                       FC_HERE(dx)))
    if (bias)
        FC_NORM_BACKWARD(NULL, bias + c);
    else if (y)
        FC_NORM_BACKWARD(FC_HERE(y), NULL);
    else
        FC_NORM_BACKWARD(NULL, NULL);
#undef FC_NORM_BACKWARD
#undef FC_HERE
    if (stream)
        vstream_end();
}
#undef FC_OVER_PIXELS
#undef FC_OVER_GROUPS

#endif
