/* SPDX-License-Identifier: MIT */
/* Dense correlation: what forward and backward_input both are.
 *
 *   y[n][k][i + u*y_step][j + v*y_step] = bias[k] + sum over taps (r, s) of phase (i, j) and c of
 *       x[n][c][u*x_step + row offset of r][v*x_step + column offset of s] * w[k][c][r][s]
 *
 * and then, where asked for, the addition of a residual and ReLU.
 *
 * Forward has the one phase (0, 0), x_step = stride and offsets r*dilation - pad. Backward_input has
 * stride_h x stride_w phases, x_step = 1 and for each phase only the taps that reach it, so that the
 * zeros a strided gradient is often filled with are never made nor multiplied. */
#ifndef FC_CORRELATE_H
#define FC_CORRELATE_H

#include "ops.h"

/* The taps of one phase along one axis, by ascending offset. */
typedef struct fc_taps {
    ptrdiff_t count;
    const ptrdiff_t *offset;     /* into x, relative to u * x_step */
    const ptrdiff_t *index;      /* r or s: which filter tap       */
} fc_taps;

/* Whether the taps follow each other, so that the pixels that they meet are one run. */
static inline int fc_is_run(const fc_taps *taps)
{
    return taps->count && taps->offset[taps->count - 1] - taps->offset[0] == taps->count - 1;
}

/* The taps whose input index, from `base` on, lies within `size`: first .. last - 1. */
static inline void fc_valid_taps(const fc_taps *taps, ptrdiff_t base, ptrdiff_t size, ptrdiff_t *first, ptrdiff_t *last)
{
    *first = 0;
    *last = taps->count;
    while (*first < *last && base + taps->offset[*first] < 0)
        ++*first;
    while (*last > *first && base + taps->offset[*last - 1] >= size)
        --*last;
}

typedef struct fc_correlation {
    fc_tensor x, y, w;           /* w: size and strides as [k][c][r][s] of the correlation, within a group */
    ptrdiff_t groups;
    ptrdiff_t w_group;           /* stride of w from group to group */
    const float *bias;           /* [K] or NULL */
    const float *residual;       /* as y lies in memory, whose channels are then its fastest axis, or NULL */
    int relu;
    ptrdiff_t x_step[2], y_step[2];
    ptrdiff_t phases[2];         /* of each axis: y_step, or the output's size if that is less */
    const fc_taps *taps[2];      /* [axis][phase] */
} fc_correlation;

/* filters: from fc_correlate_prepare, or NULL. */
int fc_correlate(const fc_correlation *problem, const fc_filters *filters);

/* Packs the weights for any images and this instruction set; data stays NULL where they are taken as they are. */
int fc_correlate_prepare(const fc_correlation *problem, fc_filters *filters);

#endif
