/* SPDX-License-Identifier: MIT */
/* Register tile: ROWS x VECTORS accumulators that stay in registers for a whole sum.
 *
 *   y[m][v] (+)= sum over run, d of  a[a_run[run] + m*a_row + d*a_step] * b[b_run[run] + d*b_step + v]
 *
 * One kernel serves every convolution pass, because only the strides differ:
 *   forward, backward_input  a = pixels (m) of a padded image, b = packed weights, v = output channels
 *   few output channels      a = weights (m = output channel), b = image planes,   v = pixels
 *   backward_weight          a = input channels (m) by pixels, b = grad_output,    v = output channels
 * Each output is one chain of fused multiply-adds in the order of run, then d: the same bits whatever
 * the tile, the vector width or the block size.
 *
 * ROWS and VECTORS are constants after inlining, so the accumulators become registers; the table of
 * sizes in kernels.inc keeps ROWS*VECTORS + VECTORS + 1 within the register file.
 */
#ifndef FC_TILE_H
#define FC_TILE_H

#include "kernels.h"
#include "simd.h"

enum { PREFETCH_STEPS = 24, LINE_VECTORS = 16 / FC_LANES };

FC_INLINE void tile(int rows, int vectors, ptrdiff_t a_row, ptrdiff_t a_step, const fc_tile *t)
{
    vf acc[FC_MAX_ROWS][FC_MAX_VECTORS];
    const size_t depth = t->depth;
    const ptrdiff_t b_step = t->b_step;
    const int tail = t->last_lanes != FC_LANES;

#pragma GCC unroll 16
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            acc[m][v] = (vf){0};

    if (t->accumulate)
#pragma GCC unroll 16
        for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) {
                const float *y = t->y + m * t->y_row + v * FC_LANES;
                acc[m][v] = tail && v == vectors - 1 ? vload_part(y, t->last_lanes) : vload(y);
            }

    const float *next = t->next;
    for (size_t run = 0; run < t->runs; run++) {
        const float *a = t->a + t->a_run[run];
        const float *b = t->b + t->b_run[run];
        for (size_t d = depth; d; d--, a += a_step, b += b_step) {
            vf bv[FC_MAX_VECTORS];
            /* b streams from the L2 cache, faster than the hardware fetches ahead. */
            for (int v = 0; v < vectors; v += LINE_VECTORS)
                __builtin_prefetch(b + PREFETCH_STEPS * b_step + v * FC_LANES);
            if (a_step == 1) {
                __builtin_prefetch(next);
                next += 16;
            }
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                bv[v] = vload(b + v * FC_LANES);
#pragma GCC unroll 16
            for (int m = 0; m < rows; m++) {
                vf am = vset1(a[m * a_row]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    acc[m][v] += am * bv[v];
            }
        }
    }

#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
        vf row_bias = vset1(t->row_bias ? t->row_bias[m] : 0.0f);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            float *y = t->y + m * t->y_row + v * FC_LANES;
            vf sum = acc[m][v];
            if (t->row_bias)
                sum += row_bias;
            if (t->lane_bias)
                sum += vload(t->lane_bias + v * FC_LANES);
            if (tail && v == vectors - 1)
                vstore_part(y, sum, t->last_lanes);
            else
                vstore(y, sum);
        }
    }
}

#define FC_TILE(ROWS, VECTORS)                                                                          \
    static void tile_rows_##ROWS##x##VECTORS(const fc_tile *t) { tile(ROWS, VECTORS, t->a_row, 1, t); } \
    static void tile_cols_##ROWS##x##VECTORS(const fc_tile *t) { tile(ROWS, VECTORS, 1, t->a_step, t); }
#include "tile_sizes.inc"
#undef FC_TILE

#endif
