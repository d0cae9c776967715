/* SPDX-License-Identifier: MIT */
/* Depthwise convolution of one row of pixels, channels-last: the filter has one channel, so the vector
 * runs over channels and nothing is reduced across lanes.
 *
 *   y[q][c] = bias[c] + sum over t of  x[q][tap[t] + c] * w[t][c]
 *
 * Four pixels share each load of w: 4 accumulators, 1 weight and 1 pixel vector live at a time. */
#ifndef FC_DEPTHWISE_H
#define FC_DEPTHWISE_H

#include "simd.h"

FC_INLINE void depthwise_pixels(int pixels, size_t lanes, size_t channels, size_t taps, const float *x,
                                ptrdiff_t x_pixel, const ptrdiff_t *tap, const float *w, const float *bias,
                                float *y, ptrdiff_t y_pixel)
{
    vf acc[4] = {{0}};
    for (size_t t = 0; t < taps; t++) {
        const float *xt = x + tap[t];
        vf wt = lanes == FC_LANES ? vload(w + t * channels) : vload_part(w + t * channels, lanes);
#pragma GCC unroll 4
        for (int i = 0; i < pixels; i++)
            acc[i] += wt * (lanes == FC_LANES ? vload(xt + i * x_pixel) : vload_part(xt + i * x_pixel, lanes));
    }
    vf shift = {0};
    if (bias)
        shift = lanes == FC_LANES ? vload(bias) : vload_part(bias, lanes);
#pragma GCC unroll 4
    for (int i = 0; i < pixels; i++) {
        vf sum = bias ? acc[i] + shift : acc[i];
        if (lanes == FC_LANES)
            vstore(y + i * y_pixel, sum);
        else
            vstore_part(y + i * y_pixel, sum, lanes);
    }
}

static void depthwise(size_t channels, size_t pixels, size_t taps, const float *x, ptrdiff_t x_pixel,
                      const ptrdiff_t *tap, const float *w, const float *bias, float *y, ptrdiff_t y_pixel)
{
    for (size_t c = 0; c < channels; c += FC_LANES) {
        size_t lanes = channels - c < FC_LANES ? channels - c : FC_LANES;
        const float *bias_c = bias ? bias + c : NULL;
        size_t q = 0;
        if (lanes == FC_LANES)
            for (; q + 4 <= pixels; q += 4)
                depthwise_pixels(4, FC_LANES, channels, taps, x + q * x_pixel + c, x_pixel, tap, w + c, bias_c,
                                 y + q * y_pixel + c, y_pixel);
        for (; q < pixels; q++)
            depthwise_pixels(1, lanes, channels, taps, x + q * x_pixel + c, x_pixel, tap, w + c, bias_c,
                             y + q * y_pixel + c, y_pixel);
    }
}

#endif
