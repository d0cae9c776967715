/* SPDX-License-Identifier: MIT */
/* Moving floats: transposition of blocks (NCHW <-> channels-last, weight packing) and spans. */
#ifndef FC_COPY_H
#define FC_COPY_H

#include "simd.h"

/* Transposes FC_LANES x FC_LANES in registers: log2(FC_LANES) rounds, each swapping the
 * off-diagonal blocks of half the previous size, two shuffles a pair. */
FC_INLINE void transpose_lanes(vf row[FC_LANES])
{
#pragma GCC unroll 8
    for (int half = FC_LANES / 2; half; half /= 2)
#pragma GCC unroll 16
        for (int i = 0; i < FC_LANES; i++)
            if (!(i & half)) {
                vi low, high;
#pragma GCC unroll 16
                for (int l = 0; l < FC_LANES; l++) {
                    low[l] = l & half ? FC_LANES + (l ^ half) : l;
                    high[l] = l & half ? FC_LANES + l : l ^ half;
                }
                vf a = row[i], b = row[i + half];
                row[i] = __builtin_shuffle(a, b, low);
                row[i + half] = __builtin_shuffle(a, b, high);
            }
}

/* y[c*y_row + r] = x[r*x_row + c] for r < rows, c < cols. */
static void transpose(size_t rows, size_t cols, const float *restrict x, ptrdiff_t x_row, float *restrict y,
                      ptrdiff_t y_row)
{
    size_t r = 0;
    for (; r + FC_LANES <= rows; r += FC_LANES) {
        size_t c = 0;
        for (; c + FC_LANES <= cols; c += FC_LANES) {
            vf block[FC_LANES];
#pragma GCC unroll 16
            for (int i = 0; i < FC_LANES; i++)
                block[i] = vload(x + (ptrdiff_t)(r + i) * x_row + c);
            transpose_lanes(block);
#pragma GCC unroll 16
            for (int i = 0; i < FC_LANES; i++)
                vstore(y + (ptrdiff_t)(c + i) * y_row + r, block[i]);
        }
        for (; c < cols; c++)
            for (size_t i = r; i < r + FC_LANES; i++)
                y[(ptrdiff_t)c * y_row + i] = x[(ptrdiff_t)i * x_row + c];
    }
    for (; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            y[(ptrdiff_t)c * y_row + r] = x[(ptrdiff_t)r * x_row + c];
}

static void add_span(size_t n, const float *x, float *y)
{
    size_t i = 0;
    for (; i + FC_LANES <= n; i += FC_LANES)
        vstore(y + i, vload(y + i) + vload(x + i));
    if (i < n)
        vstore_part(y + i, vload_part(y + i, n - i) + vload_part(x + i, n - i), n - i);
}

#endif
