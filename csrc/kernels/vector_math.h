/* SPDX-License-Identifier: MIT */
/* exp, log and tanh of a vector, within 2 units in the last place: argument reduction and the minimax
 * polynomials of the Cephes library (S. Moshier). NaN and infinities go through as IEEE says. */
#ifndef FC_VECTOR_MATH_H
#define FC_VECTOR_MATH_H

#include <math.h>

#include "simd.h"

/* exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2. ln 2 is split in two so that r is exact. */
FC_INLINE vf vexp(vf x)
{
    const vf shift = vset1(0x1.8p23f);             /* adding it rounds to an integer */
    x = vpick(x > 89.0f, vset1(89.0f), x);         /* exp overflows, underflows beyond these */
    x = vpick(x < -104.0f, vset1(-104.0f), x);
    const vf shifted = x * 0x1.715476p0f + shift;
    const vi n = (vi)shifted - (vi)shift;
    const vf whole = shifted - shift;
    vf r = whole * -0.693359375f + x;
    r = whole * 2.12194440e-4f + r;
    vf p = vset1(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const vf square = r * r;
    p = p * square + r;
    p = p + 1.0f;
    const vi half = n >> 1;                        /* 2^n alone may overflow */
    return p * (vf)((half + 127) << 23) * (vf)((n - half + 127) << 23);
}

/* log(x) = log(m) + e * ln 2, x = m * 2^e, sqrt(1/2) <= m < sqrt(2). Denormals count as zero. */
FC_INLINE vf vlog(vf x)
{
    vi e = (((vi)x >> 23) & 0xff) - 126;
    vf m = (vf)(((vi)x & 0x007fffff) | 0x3f000000);          /* 1/2 <= m < 1 */
    const vi small = m < 0x1.6a09e6p-1f;
    e += small;
    m = m + (vf)((vi)m & small) - 1.0f;
    const vf square = m * m, whole = __builtin_convertvector(e, vf);
    vf p = vset1(7.0376836292e-2f);
    p = p * m + -1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m + -1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m + -1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m + -2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * square + vproduct(whole, vset1(-2.12194440e-4f));
    p = square * -0.5f + p;
    vf y = whole * 0.693359375f + (m + p);
    y = vpick(x < 0x1p-126f, vset1(-INFINITY), y);
    y = vpick((x <= -0x1p-126f) | (x != x), vset1(NAN), y);
    return vpick(x == INFINITY, x, y);
}

/* Of |x|, then the sign of x: -0 stays -0. A polynomial near 0, where 1 - 2 / (exp(2x) + 1) would cancel. */
FC_INLINE vf vtanh(vf x)
{
    const vi sign = (vi)x & INT32_MIN;
    const vf size = (vf)((vi)x ^ sign);
    const vf z = size * size;
    vf p = vset1(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    const vf cubed = z * size;
    p = p * cubed + size;
    const vf far = 1.0f - 2.0f / (vexp(size + size) + 1.0f);
    return (vf)((vi)vpick(size < 0.625f, p, far) | sign);
}

#endif
