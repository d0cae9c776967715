/* SPDX-License-Identifier: MIT */
/* Local response normalisation of n lanes, each with a window of channels around it.
 *
 *   squares   s = x^2, staged by the caller between zeros for the channels that do not exist
 *   span      d = k + scale * sum of the window of s,  y = x * d^-beta
 *   ratio     power = d^-beta,  ratio = dy * x * d^(-beta - 1), staged like the squares
 *   backward  dx = dy * power - 2 * scale * beta * x * sum of the mirrored window of ratio
 *
 * A window's values lie `step` floats apart, the first at lane 0 of the pointer. So the lanes may be pixels of a
 * plane (step: a staged plane) or channels of a pixel (step 1), with the same sums in the same order. */
#ifndef FC_LRN_H
#define FC_LRN_H

#include "kernels.h"
#include "vector_math.h"

FC_INLINE vf window_sum(const fc_lrn *lrn, const float *s, size_t lanes)
{
    vf sum = vload_lanes(s, lanes);
    for (size_t t = 1; t < lrn->terms; t++)
        sum += vload_lanes(s + (ptrdiff_t)t * lrn->step, lanes);
    return sum;
}

/* d^-beta. Two square roots are closer to d^0.75 than exp and log, whose error grows with |beta * log(d)|. */
FC_INLINE vf inverse_power(const fc_lrn *lrn, int three_quarters, vf d)
{
    if (three_quarters) {
        const vf root = vsqrt(d);
        return 1.0f / (root * vsqrt(root));
    }
    return vexp(vlog(d) * -lrn->beta);
}

FC_INLINE void lrn_lanes(const fc_lrn *lrn, int three_quarters, size_t lanes, const float *s, const float *x, float *y)
{
    const vf d = window_sum(lrn, s, lanes) * lrn->scale + lrn->k;
    vstore_lanes(y, vload_lanes(x, lanes) * inverse_power(lrn, three_quarters, d), lanes);
}

FC_INLINE void lrn_ratio_lanes(const fc_lrn *lrn, int three_quarters, size_t lanes, const float *s, const float *dy,
                               const float *x, float *power, float *ratio)
{
    const vf d = window_sum(lrn, s, lanes) * lrn->scale + lrn->k;
    const vf p = inverse_power(lrn, three_quarters, d);
    vstore_lanes(power, p, lanes);
    vstore_lanes(ratio, vload_lanes(dy, lanes) * p * (vload_lanes(x, lanes) / d), lanes);
}

FC_INLINE void lrn_backward_lanes(const fc_lrn *lrn, size_t lanes, const float *ratio, const float *power,
                                  const float *dy, const float *x, float *dx)
{
    const vf shared = window_sum(lrn, ratio, lanes) * (2 * lrn->scale * lrn->beta);
    const vf own = vproduct(vload_lanes(dy, lanes), vload_lanes(power, lanes));
    vstore_lanes(dx, own - vload_lanes(x, lanes) * shared, lanes);
}

static void square_span(size_t n, const float *x, float *s)
{
    FC_OVER_LANES(n, vstore_lanes(s + i, vload_lanes(x + i, lanes) * vload_lanes(x + i, lanes), lanes));
}

static void lrn_span(size_t n, const fc_lrn *lrn, const float *s, const float *x, float *y)
{
    if (lrn->beta == 0.75f)
        FC_OVER_LANES(n, lrn_lanes(lrn, 1, lanes, s + i, x + i, y + i));
    else
        FC_OVER_LANES(n, lrn_lanes(lrn, 0, lanes, s + i, x + i, y + i));
}

static void lrn_ratio_span(size_t n, const fc_lrn *lrn, const float *s, const float *dy, const float *x, float *power,
                           float *ratio)
{
    if (lrn->beta == 0.75f)
        FC_OVER_LANES(n, lrn_ratio_lanes(lrn, 1, lanes, s + i, dy + i, x + i, power + i, ratio + i));
    else
        FC_OVER_LANES(n, lrn_ratio_lanes(lrn, 0, lanes, s + i, dy + i, x + i, power + i, ratio + i));
}

static void lrn_backward_span(size_t n, const fc_lrn *lrn, const float *ratio, const float *power, const float *dy,
                              const float *x, float *dx)
{
    FC_OVER_LANES(n, lrn_backward_lanes(lrn, lanes, ratio + i, power + i, dy + i, x + i, dx + i));
}

#endif
