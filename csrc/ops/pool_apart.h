/* SPDX-License-Identifier: MIT */
/* Maxima of windows that lie side by side. */
#ifndef FC_POOL_APART_OPS_H
#define FC_POOL_APART_OPS_H

#include <math.h>

#include "ops.h"

/* The largest maximum whose window has no position, NaN where all have one (see kernels/pool.h). */
static inline float fc_pool_cut(const fc_pool2d *pool) { return pool->behind_relu ? 0 : NAN; }

/* Whether this computes the pooling of an image (or the gradient of that) and is faster than gathering the pixels of
 * any windows. */
int fc_pools_apart(const fc_pool2d *pool, const fc_tensor *image, const fc_tensor *pooled, int backward);

/* argmax: bytes, [N][P][Q][C]; may be NULL forward. */
void fc_max_pool_apart(const fc_pool2d *pool, const fc_tensor *image, const fc_tensor *pooled, void *argmax,
                       int backward);

#endif
