/* SPDX-License-Identifier: MIT */
/* Products by compressed weights: 128 floats of a row in 448 bytes, without loss.
 *
 * A linear layer of one image reads each weight once, at the speed of memory, and of the 8 bits of their exponents
 * most weights of a layer use 4: a code 1 .. 15, from the smallest exponent of a window on, or 0 for zeros and
 * denormals. A row of 128 is 7 lines of 16 words, whose lane l holds of the floats 16 v + l
 *
 *   words 0 .. 63      the lower halves of significands, v even in the lower half of a word, v odd in the upper
 *   words 64 .. 95     sign and upper 7 bits, a byte for each of 4 v
 *   words 96 .. 111    the codes, 4 bits for each of 8 v
 *
 * so that a float is put together by shifts and masks of whole vectors. With vectors of 16 that is done while the next
 * ones arrive from memory; with those of 8 no time is saved, with those of 4 it is lost. */
#ifndef FC_COMPRESSED_H
#define FC_COMPRESSED_H

#include "kernels.h"
#include "outer.h"
#include "simd.h"

enum { ROW_VECTORS = FC_ROW_FLOATS / FC_ROW_LANES, FETCH_AHEAD = 4 * FC_ROW_WORDS };

FC_INLINE vi load_words(const float *p) { vi v; memcpy(&v, p, sizeof v); return v; }

/* Vector v of the row, at lane l, of FC_LANES of its 16 lanes. codes: those of these lanes. */
FC_INLINE vf decompressed(const float *row, int v, size_t l, vi codes, int32_t exponent)
{
    const vi halves = load_words(row + v / 2 * FC_ROW_LANES + l);
    const vi bytes = load_words(row + FC_ROW_HIGH + v / 4 * FC_ROW_LANES + l) << (24 - v % 4 * 8);
    const vi low = v % 2 ? halves >> 16 & 0xffff : halves & 0xffff;
    const vi high = bytes >> 8 & (int32_t)0x807f0000;           /* the sign was copied over what it passed */
    const vi code = (v < 6 ? codes << (23 - 4 * v) : codes >> (4 * v - 23)) & 0x07800000;
    return (vf)(low | high | ((code + exponent) & (code != 0)));
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
        FC_UNROLL(7)
        for (int line = 0; line < FC_ROW_WORDS; line += FC_ROW_LANES)
            __builtin_prefetch(row + FETCH_AHEAD + line);
        const vi codes = load_words(row + FC_ROW_CODES + l);
        FC_UNROLL(8)
        for (int v = 0; v < ROW_VECTORS; v++)
            sum[v] += decompressed(row, v, l, codes, o->exponent) * o->a[(ptrdiff_t)t * o->a_step];
    }
    FC_UNROLL(8)
    for (int v = 0; v < ROW_VECTORS; v++)
        vstore(o->y + v * FC_ROW_LANES + l, sum[v]);
}

/* product_rows of at most FC_ROW_FLOATS results and FC_ROW_TERMS terms, b compressed. */
static void product_compressed(size_t rows, const fc_outer *o)
{
    if (rows == 1 && o->n == FC_ROW_FLOATS) {
        for (size_t l = 0; l < FC_ROW_LANES; l += FC_LANES)
            compressed_rows(o, l);
        return;
    }
    _Alignas(64) float floats[FC_ROW_TERMS][FC_ROW_FLOATS];
    for (size_t t = 0; t < o->terms; t++) {
        const float *row = o->b + t * FC_ROW_WORDS;
        for (size_t l = 0; l < FC_ROW_LANES; l += FC_LANES) {
            const vi codes = load_words(row + FC_ROW_CODES + l);
            FC_UNROLL(8)
            for (int v = 0; v < ROW_VECTORS; v++)
                vstore(floats[t] + v * FC_ROW_LANES + l, decompressed(row, v, l, codes, o->exponent));
        }
    }
    fc_outer product = *o;
    product.b = floats[0];
    product.b_step = FC_ROW_FLOATS;
    product_rows(rows, &product);
}

#endif
