/* SPDX-License-Identifier: MIT */
/* Rows of a sum of outer products, the gradient of a linear layer's weight:
 *
 *   y[m][v] = sum over t of  a[t][m] * b[t][v]
 *
 * There are few terms (images of a batch) and many results, so the bound is the writing of y: whole rows of it,
 * front to back, while b stays in the L2 cache. Each result is one chain of multiply-adds in the order of t. */
#ifndef FC_OUTER_H
#define FC_OUTER_H

#include "kernels.h"
#include "simd.h"

/* Accumulators for 24 (AVX-512) or 12 of the 32 or 16 registers. */
enum { OUTER_VECTORS = FC_LANES == 16 ? 4 : 2 };

FC_INLINE void outer_block(int rows, int vectors, size_t lanes, const fc_outer *o, size_t v0)
{
    vf sum[FC_OUTER_ROWS][OUTER_VECTORS];
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sum[m][v] = (vf){0};
    const float *a = o->a, *b = o->b + v0;
    for (size_t t = o->terms; t; t--, a += o->a_step, b += o->b_step) {
        vf bv[OUTER_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            bv[v] = vload_lanes(b + v * FC_LANES, lanes);
#pragma GCC unroll 6
        for (int m = 0; m < rows; m++) {
            const float am = a[m];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                sum[m][v] += bv[v] * am;
        }
    }
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            vstore_lanes(o->y + m * o->y_row + (ptrdiff_t)v0 + v * FC_LANES, sum[m][v], lanes);
}

FC_INLINE void outer_of(int rows, const fc_outer *o)
{
    size_t v = 0;
    for (; v + OUTER_VECTORS * FC_LANES <= o->n; v += OUTER_VECTORS * FC_LANES)
        outer_block(rows, OUTER_VECTORS, FC_LANES, o, v);
    for (; v + FC_LANES <= o->n; v += FC_LANES)
        outer_block(rows, 1, FC_LANES, o, v);
    if (v < o->n)
        outer_block(rows, 1, o->n - v, o, v);
}

/* rows: 1 .. FC_OUTER_ROWS */
static void outer_rows(size_t rows, const fc_outer *o)
{
    switch (rows) {
    case 1: outer_of(1, o); break;
    case 2: outer_of(2, o); break;
    case 3: outer_of(3, o); break;
    case 4: outer_of(4, o); break;
    case 5: outer_of(5, o); break;
    default: outer_of(FC_OUTER_ROWS, o);
    }
}

#endif
