/* SPDX-License-Identifier: MIT */
/* Pooling, channels-last: each result pixel gathers `terms` source pixels, vectors run over channels.
 * Result pixel i reads its sources at x + i*x_step + offset[t]; results lie y_step floats apart.
 *
 *   max_pool            y = max over t, argmax = position of the first maximum; a NaN beats what came before
 *   max_pool_backward   dx = sum over t of  argmax == position[t] ? dy : 0      (t: windows over the pixel)
 *   weighted_sum        y = sum over t of  x * scale[t]                         (average pooling, both ways)
 *
 * Positions are bytes, or 32-bit integers for windows of more than 256 pixels. Where the maximum is at most `cut`, they
 * are NOWHERE: backward, no pixel of a window of less than 256 gets its gradient. Where `cut` is NaN, it is none. */
#ifndef FC_POOL_H
#define FC_POOL_H

#include <math.h>

#include "kernels.h"
#include "simd.h"

enum { NOWHERE = 255 };

FC_INLINE vi unless_cut(vf best, float cut, vi where) { return vpick_int(best <= cut, NOWHERE - (vi){0}, where); }

FC_INLINE vi load_positions(const void *p, ptrdiff_t at, size_t lanes, int wide)
{
    if (wide) {
        const float *words = (const float *)p + at;
        return (vi)vload_lanes(words, lanes);
    }
    const uint8_t *bytes = (const uint8_t *)p + at;
    return lanes == FC_LANES ? vload_bytes(bytes) : vload_bytes_part(bytes, lanes);
}

FC_INLINE void store_positions(void *p, ptrdiff_t at, vi v, size_t lanes, int wide)
{
    uint8_t *bytes = (uint8_t *)p + at;
    if (wide)
        vstore_lanes((float *)p + at, (vf)v, lanes);
    else if (lanes == FC_LANES)
        vstore_bytes(bytes, v);
    else
        vstore_bytes_part(bytes, v, lanes);
}

/* A value of a window, the first or one more. keep: where it becomes the maximum its position too; that of the first is
 * in `where` already. */
FC_INLINE void take_value(int keep, int first, vf value, int32_t position, vf *best, vi *where)
{
    if (first)
        *best = value;
    else if (keep)
        vkeep_larger(value, position, best, where);
    else
        *best = vmaximum(*best, value);
}

/* keep: 0 the maximum only, 1 positions as bytes, 2 as 32-bit integers. */
FC_INLINE void max_pool_lanes(int keep, size_t lanes, size_t i, size_t c, const fc_gather *g, float *y, void *argmax)
{
    const float *x = g->x + (ptrdiff_t)i * g->x_step + c;
    vf best = vset1(-INFINITY);
    vi where = {0};
    if (g->terms) {
        best = vload_lanes(x + g->offset[0], lanes);
        where += g->position[0];
    }
    for (size_t t = 1; t < g->terms; t++)
        take_value(keep, 0, vload_lanes(x + g->offset[t], lanes), g->position[t], &best, &where);
    const ptrdiff_t at = (ptrdiff_t)i * g->y_step + (ptrdiff_t)c;
    vstore_lanes(y + at, best, lanes);
    if (keep)
        store_positions(argmax, (ptrdiff_t)i * g->argmax_step + (ptrdiff_t)c, unless_cut(best, g->cut, where), lanes,
                        keep == 2);
}

FC_INLINE void max_pool_backward_lanes(int wide, size_t lanes, size_t i, size_t c, const fc_gather *g, float *dx,
                                       const void *argmax)
{
    const float *dy = g->x + (ptrdiff_t)i * g->x_step + c;
    vf sum = {0};
    for (size_t t = 0; t < g->terms; t++) {
        const ptrdiff_t from = (ptrdiff_t)i * g->argmax_step + g->argmax_offset[t] + (ptrdiff_t)c;
        const vi here = load_positions(argmax, from, lanes, wide) == g->position[t];
        sum += (vf)((vi)vload_lanes(dy + g->offset[t], lanes) & here);
    }
    vstore_lanes(dx + (ptrdiff_t)i * g->y_step + c, sum, lanes);
}

FC_INLINE void weighted_sum_lanes(size_t lanes, size_t i, size_t c, const fc_gather *g, float *y)
{
    const float *x = g->x + (ptrdiff_t)i * g->x_step + c;
    vf sum = {0};
    for (size_t t = 0; t < g->terms; t++)
        sum += vload_lanes(x + g->offset[t], lanes) * g->scale[t];
    vstore_lanes(y + (ptrdiff_t)i * g->y_step + c, sum, lanes);
}

/* Pixel by pixel, all channels of each: the sources of one pixel are read while they are in the L1 cache. */
#define FC_OVER_PIXELS(G, CALL)                                               \
    for (size_t i = 0; i < (G)->pixels; i++) {                                \
        size_t c = 0;                                                         \
        for (; c + FC_LANES <= (G)->channels; c += FC_LANES) {                \
            enum { lanes = FC_LANES };                                        \
            CALL;                                                             \
        }                                                                     \
        if (c < (G)->channels && (G)->channels > FC_LANES) {                  \
            enum { lanes = FC_LANES };     /* some of them once more */       \
            c = (G)->channels - FC_LANES;                                     \
            CALL;                                                             \
        } else if (c < (G)->channels) {                                       \
            const size_t lanes = (G)->channels - c;                           \
            CALL;                                                             \
        }                                                                     \
    }

static void max_pool(const fc_gather *g, float *y, void *argmax, int wide)
{
    if (!argmax)
        FC_OVER_PIXELS(g, max_pool_lanes(0, lanes, i, c, g, y, NULL))
    else if (!wide)
        FC_OVER_PIXELS(g, max_pool_lanes(1, lanes, i, c, g, y, argmax))
    else
        FC_OVER_PIXELS(g, max_pool_lanes(2, lanes, i, c, g, y, argmax))
}

static void max_pool_backward(const fc_gather *g, float *dx, const void *argmax, int wide)
{
    if (!wide)
        FC_OVER_PIXELS(g, max_pool_backward_lanes(0, lanes, i, c, g, dx, argmax))
    else
        FC_OVER_PIXELS(g, max_pool_backward_lanes(1, lanes, i, c, g, dx, argmax))
}

static void weighted_sum(const fc_gather *g, float *y)
{
    FC_OVER_PIXELS(g, weighted_sum_lanes(lanes, i, c, g, y))
}
#undef FC_OVER_PIXELS

#endif
