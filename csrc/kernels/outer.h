/* SPDX-License-Identifier: MIT */
/* Products of matrices that are bound by memory, as linear layers of small batches are:
 *
 *   outer_rows     y[m][v] = sum over t of  a[t][m] * b[t][v]                      weight gradient: t = images
 *   product_rows   y[m][v] = (y[m][v] +) sum over t of  a[m][t] * b[t][v]          forward: t = inputs
 *
 * b, or y, is read or written once, front to back in whole rows. Each result is one chain of multiply-adds in the
 * order of t, which product_rows continues from call to call. */
#ifndef FC_OUTER_H
#define FC_OUTER_H

#include "kernels.h"
#include "simd.h"

/* Accumulators for 24 (AVX-512) or 12 of the 32 or 16 registers. */
enum { OUTER_VECTORS = FC_LANES == 16 ? 4 : 2 };

FC_INLINE void outer_block(int rows, int vectors, size_t lanes, ptrdiff_t a_row, ptrdiff_t a_step, int go_on,
                           const fc_outer *o, size_t m0, size_t v0)
{
    vf sum[FC_OUTER_ROWS][OUTER_VECTORS];
    const float *a = o->a + (ptrdiff_t)m0 * a_row, *b = o->b + v0;
    float *y = o->y + (ptrdiff_t)m0 * o->y_row + (ptrdiff_t)v0;
    FC_UNROLL(6)
    for (int m = 0; m < rows; m++)
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            sum[m][v] = go_on ? vload_lanes(y + m * o->y_row + v * FC_LANES, lanes) : (vf){0};
    for (size_t t = o->terms; t; t--, a += a_step, b += o->b_step) {
        vf bv[OUTER_VECTORS];
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            bv[v] = vload_lanes(b + v * FC_LANES, lanes);
        FC_UNROLL(6)
        for (int m = 0; m < rows; m++) {
            const float am = a[m * a_row];
            FC_UNROLL(4)
            for (int v = 0; v < vectors; v++)
                sum[m][v] += bv[v] * am;
        }
    }
    FC_UNROLL(6)
    for (int m = 0; m < rows; m++)
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            vstore_lanes(y + m * o->y_row + v * FC_LANES, sum[m][v], lanes);
}

/* outer_rows' rows go through all lanes together, */
FC_INLINE void outer_of(int rows, const fc_outer *o)
{
    size_t v = 0;
    for (; v + OUTER_VECTORS * FC_LANES <= o->n; v += OUTER_VECTORS * FC_LANES)
        outer_block(rows, OUTER_VECTORS, FC_LANES, 1, o->a_step, 0, o, 0, v);
    for (; v + FC_LANES <= o->n; v += FC_LANES)
        outer_block(rows, 1, FC_LANES, 1, o->a_step, 0, o, 0, v);
    if (v < o->n)
        outer_block(rows, 1, o->n - v, 1, o->a_step, 0, o, 0, v);
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

/* product_rows' lanes through all rows, so that b is in the L1 cache for all but the first: or a copy of it, where its
 * rows would drive each other out. */
FC_INLINE void product_of(int vectors, size_t lanes, size_t rows, const fc_outer *o, size_t v)
{
    float copy[FC_OUTER_TERMS * OUTER_VECTORS * FC_LANES] __attribute__((aligned(64)));
    fc_outer of_copy = *o;
    if (rows > FC_OUTER_ROWS && o->b_step % FC_CROWDED == 0 && o->terms <= FC_OUTER_TERMS) {
        of_copy.b = copy;
        of_copy.b_step = vectors * FC_LANES;
        for (size_t t = 0; t < o->terms; t++)
            for (int i = 0; i < vectors; i++)
                vstore(copy + (ptrdiff_t)t * of_copy.b_step + i * FC_LANES,
                       vload_lanes(o->b + (ptrdiff_t)t * o->b_step + v + i * FC_LANES, lanes));
    } else
        of_copy.b += v;
    of_copy.y += v;
    size_t m = 0;
    for (; m + FC_OUTER_ROWS <= rows; m += FC_OUTER_ROWS)
        outer_block(FC_OUTER_ROWS, vectors, lanes, o->a_row, 1, o->go_on, &of_copy, m, 0);
    for (; m + 4 <= rows; m += 4)
        outer_block(4, vectors, lanes, o->a_row, 1, o->go_on, &of_copy, m, 0);
    for (; m + 2 <= rows; m += 2)
        outer_block(2, vectors, lanes, o->a_row, 1, o->go_on, &of_copy, m, 0);
    if (m < rows)
        outer_block(1, vectors, lanes, o->a_row, 1, o->go_on, &of_copy, m, 0);
}

static void product_rows(size_t rows, const fc_outer *o)
{
    size_t v = 0;
    for (; v + OUTER_VECTORS * FC_LANES <= o->n; v += OUTER_VECTORS * FC_LANES)
        product_of(OUTER_VECTORS, FC_LANES, rows, o, v);
    for (; v + FC_LANES <= o->n; v += FC_LANES)
        product_of(1, FC_LANES, rows, o, v);
    if (v < o->n)
        product_of(1, o->n - v, rows, o, v);
}

#endif
