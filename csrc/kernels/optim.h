/* SPDX-License-Identifier: MIT */
/* One step of an optimiser over a span: parameter p, gradient g, and state; each is read and written once.
 *
 *   sgd     g += weight_decay * p,  v = momentum * v + kept * g,  p -= lr * v, nesterov: lr * (g + momentum * v)
 *   adam    g += weight_decay * p,  m += (1 - beta1) * (g - m),  v = beta2 * v + (1 - beta2) * g^2,
 *           p -= step_size * m / (sqrt(v) / root_correction + eps)
 *
 * and the sum of squares that clipping of gradients needs. */
#ifndef FC_OPTIM_H
#define FC_OPTIM_H

#include "kernels.h"
#include "simd.h"

FC_INLINE void sgd_lanes(size_t lanes, const fc_sgd *sgd, const float *g, float *v, float *p)
{
    const vf before = vload_lanes(p, lanes);
    vf step = vload_lanes(g, lanes) + before * sgd->weight_decay;
    if (v) {
        const vf kept = vproduct(vload_lanes(v, lanes), vset1(sgd->momentum));
        const vf velocity = sgd->first ? step : kept + step * sgd->kept;
        vstore_lanes(v, velocity, lanes);
        step = sgd->nesterov ? step + velocity * sgd->momentum : velocity;
    }
    vstore_lanes(p, before - step * sgd->lr, lanes);
}

/* v NULL: no momentum. */
static void sgd_span(size_t n, const fc_sgd *sgd, const float *g, float *v, float *p)
{
    if (v)
        FC_OVER_LANES(n, sgd_lanes(lanes, sgd, g + i, v + i, p + i));
    else
        FC_OVER_LANES(n, sgd_lanes(lanes, sgd, g + i, NULL, p + i));
}

FC_INLINE void adam_lanes(size_t lanes, const fc_adam *adam, const float *g, float *m, float *v, float *p)
{
    const vf before = vload_lanes(p, lanes), mean = vload_lanes(m, lanes);
    const vf gradient = vload_lanes(g, lanes) + before * adam->weight_decay, away = gradient - mean;
    const vf first = mean + away * adam->toward;
    const vf square = gradient * gradient;
    const vf second = vproduct(vload_lanes(v, lanes), vset1(adam->beta2)) + square * adam->square_share;
    vstore_lanes(m, first, lanes);
    vstore_lanes(v, second, lanes);
    const vf ratio = first / (vsqrt(second) / adam->root_correction + adam->eps);
    vstore_lanes(p, before - ratio * adam->step_size, lanes);
}

static void adam_span(size_t n, const fc_adam *adam, const float *g, float *m, float *v, float *p)
{
    FC_OVER_LANES(n, adam_lanes(lanes, adam, g + i, m + i, v + i, p + i));
}

/* In 16 parts, added in order; squares of floats are exact in double. */
static double square_sum(size_t n, const float *x)
{
    double part[16] = {0}, sum = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++)
            part[l] += (double)x[i + l] * x[i + l];
    for (int l = 0; i < n; l++, i++)
        part[l] += (double)x[i] * x[i];
    for (int l = 0; l < 16; l++)
        sum += part[l];
    return sum;
}

#endif
