/* SPDX-License-Identifier: MIT */
/* Products by compressed weights: 128 floats of a row in 448 bytes, without loss.
 *
 * A linear layer of one image reads each weight once, at the speed of memory, and of nearly all weights of a layer the
 * exponent is one of 16 that follow each other: 4 bits are enough, a code that is added to the first. Rows with others,
 * as those of zeros are, stay as they are. One of 128 is 7 lines of 16 words, whose lane l holds of the floats 16 v + l
 *
 *   word v, v < 7      in its upper 28 bits the sign, the code and the significand of float v; in its lower 4, of float 7
 *                      the bits from 4 v on, of those 28
 *
 * so that a float is put together by a shift, a mask and a sum of whole vectors, faster than words arrive. */
#ifndef FC_COMPRESSED_H
#define FC_COMPRESSED_H

#include "kernels.h"
#include "outer.h"
#include "simd.h"

enum { ROW_VECTORS = FC_ROW_FLOATS / FC_ROW_LANES, LAST_VECTOR = ROW_VECTORS - 1, ROW_PASSES = FC_ROW_LANES / FC_LANES };

/* Lines are fetched each by one of the passes, so that memory is never idle: for the rows that all passes then find in
 * the L2 cache, or a single one in the L1 cache. */
enum { FETCH_AHEAD = (ROW_PASSES == 1 ? 4 : FC_ROW_TERMS) * FC_ROW_WORDS };

/* The floats of `upper`, the 28 bits in the upper ones of words: the sign is copied over what the code passes. */
FC_INLINE vf decompressed(vi upper, int32_t exponent) { return (vf)((upper >> 4 & (int32_t)0x87ffffff) + exponent); }

/* All vectors of the row, of FC_LANES of its 16 lanes. */
FC_INLINE void decompress(const float *row, size_t l, int32_t exponent, vf out[ROW_VECTORS])
{
    vi last = {0};
    FC_UNROLL(8)
    for (int v = 0; v < LAST_VECTOR; v++) {
        vi word;
        memcpy(&word, row + v * FC_ROW_LANES + l, sizeof word);
        out[v] = decompressed(word, exponent);
        last |= (word & 15) << (4 * v + 4);
    }
    out[LAST_VECTOR] = decompressed(last, exponent);
}

/* y[v] = (y[v] +) sum over t of  a[t] * b[t][v]: one result of each of the 128. */
FC_INLINE void compressed_rows(const fc_outer *o, size_t l)
{
    vf sum[ROW_VECTORS];
    FC_UNROLL(8)
    for (int v = 0; v < ROW_VECTORS; v++)
        sum[v] = o->go_on ? vload(o->y + v * FC_ROW_LANES + l) : (vf){0};
    const float *row = o->b;
    for (size_t t = 0; t < o->terms; t++, row += FC_ROW_WORDS) {
        vf b[ROW_VECTORS];
        FC_UNROLL(7)
        for (size_t line = l / FC_LANES; line * FC_ROW_LANES < FC_ROW_WORDS; line += ROW_PASSES)
            __builtin_prefetch(row + FETCH_AHEAD + line * FC_ROW_LANES, 0, ROW_PASSES == 1 ? 3 : 2);
        decompress(row, l, o->exponent, b);
        FC_UNROLL(8)
        for (int v = 0; v < ROW_VECTORS; v++)
            sum[v] += b[v] * o->a[(ptrdiff_t)t * o->a_step];
    }
    FC_UNROLL(8)
    for (int v = 0; v < ROW_VECTORS; v++)
        vstore(o->y + v * FC_ROW_LANES + l, sum[v]);
}

/* product_rows of at most FC_ROW_FLOATS results and FC_ROW_TERMS terms, b compressed. */
static void product_compressed(size_t rows, const fc_outer *o)
{
    if (rows == 1 && o->n == FC_ROW_FLOATS) {
        FC_UNROLL(4)
        for (size_t l = 0; l < FC_ROW_LANES; l += FC_LANES)
            compressed_rows(o, l);
        return;
    }
    _Alignas(64) float floats[FC_ROW_TERMS][FC_ROW_FLOATS];
    for (size_t t = 0; t < o->terms; t++) {
        const float *row = o->b + t * FC_ROW_WORDS;
        for (size_t l = 0; l < FC_ROW_LANES; l += FC_LANES) {
            vf b[ROW_VECTORS];
            decompress(row, l, o->exponent, b);
            FC_UNROLL(8)
            for (int v = 0; v < ROW_VECTORS; v++)
                vstore(floats[t] + v * FC_ROW_LANES + l, b[v]);
        }
    }
    fc_outer product = *o;
    product.b = floats[0];
    product.b_step = FC_ROW_FLOATS;
    product_rows(rows, &product);
}

#endif
