/* SPDX-License-Identifier: MIT */
/* Register tile: ROWS x VECTORS accumulators that stay in registers for a whole sum.
 *
 *   y[m][v] (+)= sum over run, d of  a[a_run[run] + m*a_row + d*a_step] * b[b_run[run] + d*b_step + v]
 *
 * One kernel serves every convolution pass, because only the strides differ:
 *   forward, backward_input  a = pixels (m) of a padded image, b = packed weights, v = output channels
 *   few output channels      a = weights (m = output channel), b = image planes,   v = pixels   (listed)
 *   backward_weight          a = input channels (m) by pixels, b = grad_output,    v = output channels
 * Each sum is one chain of fused multiply-adds in the order of run, then d: the same bits whatever
 * the tile, the vector width or the block size. A long, a lean and a listed tile differ in what is fetched meanwhile
 * and how runs begin.
 *
 * ROWS and VECTORS are constants after inlining, so the accumulators become registers; the table of
 * sizes in kernels.inc keeps ROWS*VECTORS + VECTORS + 1 within the register file.
 */
#ifndef FC_TILE_H
#define FC_TILE_H

#include "kernels.h"
#include "simd.h"

enum { PREFETCH_STEPS = 24, LINE_VECTORS = FC_LINE_FLOATS / FC_LANES };

/* Element m of a column of a. Rows are addressed from two bases through three strides that the compiler must take
 * as given: left to itself it keeps a register for each multiple, and reloads half of them in every step. */
FC_INLINE vf broadcast_row(const float *low, const float *high, int m, ptrdiff_t one, ptrdiff_t three, ptrdiff_t five)
{
    const int i = m % 7;
    const ptrdiff_t offset = i == 3 ? three : i == 5 ? five : i == 6 ? 2 * three : i * one;
    return vset1(*(const float *)((const char *)(m < 7 ? low : high) + offset));
}

/* A column of a times a row of b. */
FC_INLINE void add_step(int rows, int vectors, vf acc[FC_MAX_ROWS][FC_MAX_VECTORS], const float *low,
                        const float *high, const float *b, ptrdiff_t one, ptrdiff_t three, ptrdiff_t five)
{
    vf bv[FC_MAX_VECTORS];
    FC_UNROLL(4)
    for (int v = 0; v < vectors; v++)
        bv[v] = vload(b + v * FC_LANES);
    FC_UNROLL(16)
    for (int m = 0; m < rows; m++) {
        vf am = broadcast_row(low, high, m, one, three, five);
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            acc[m][v] += am * bv[v];
    }
}

/* What is done to the sums, one branch each: with a test for every vector, the tests outlast short sums. */
FC_INLINE void finish_tile(int rows, int vectors, vf acc[FC_MAX_ROWS][FC_MAX_VECTORS], const fc_tile *t)
{
    const int tail = t->last_lanes != FC_LANES;
#define FC_EACH(STATEMENT)                                                                             \
    FC_UNROLL(16)                                                                                      \
    for (int m = 0; m < rows; m++)                                                                     \
        FC_UNROLL(4)                                                                                   \
        for (int v = 0; v < vectors; v++) {                                                            \
            const ptrdiff_t at = m * t->y_row + v * FC_LANES;                                          \
            const int part = tail && v == vectors - 1;                                                 \
            (void)at, (void)part;                                                                      \
            STATEMENT;                                                                                 \
        }
    if (t->accumulate)
        FC_EACH(acc[m][v] += part ? vload_part(t->y + at, t->last_lanes) : vload(t->y + at))
    if (t->row_bias)
        FC_EACH(acc[m][v] += vset1(t->row_bias[m]))
    if (t->lane_bias)
        FC_EACH(acc[m][v] += vload(t->lane_bias + v * FC_LANES))
    if (t->residual)
        FC_EACH(acc[m][v] += part ? vload_part(t->residual + at, t->last_lanes) : vload(t->residual + at))
    if (t->relu)
        FC_EACH(acc[m][v] = vrelu(acc[m][v]))
    if (tail)
        FC_EACH(part ? vstore_part(t->y + at, acc[m][v], t->last_lanes) : vstore(t->y + at, acc[m][v]))
    else
        FC_EACH(vstore(t->y + at, acc[m][v]))
#undef FC_EACH
}

FC_INLINE void clear_tile(int rows, int vectors, vf acc[FC_MAX_ROWS][FC_MAX_VECTORS])
{
    FC_UNROLL(16)
    for (int m = 0; m < rows; m++)
        FC_UNROLL(4)
        for (int v = 0; v < vectors; v++)
            acc[m][v] = (vf){0};
}

/* b streams from the L2 cache, faster than the hardware fetches ahead. */
FC_INLINE void fetch_vectors(int vectors, const float *b, ptrdiff_t b_step)
{
    for (int v = 0; v < vectors; v += LINE_VECTORS)
        __builtin_prefetch(b + PREFETCH_STEPS * b_step + v * FC_LANES);
}

FC_INLINE void fetch_places(int rows, int vectors, const float *places, ptrdiff_t row)
{
    FC_UNROLL(16)
    for (int m = 0; m < rows; m++)
        for (int v = 0; v < vectors; v += LINE_VECTORS)
            __builtin_prefetch(places + m * row + v * FC_LANES);
}

enum { BY_COLUMNS, BY_ROWS };
enum { NOTHING_AHEAD, NEXT_AHEAD };        /* whether `next` is fetched */

/* With as little around the steps as can be: 30 cycles, which the rest of long_tile takes, are a quarter of a sum of 16
 * steps and 7 % of one of 64. By columns, sums are near: their places are not fetched. */
FC_INLINE void lean_tile(int rows, int vectors, int by_rows, int ahead, ptrdiff_t a_row, ptrdiff_t a_step,
                         const fc_tile *t)
{
    vf acc[FC_MAX_ROWS][FC_MAX_VECTORS];
    const ptrdiff_t b_step = t->b_step;
    ptrdiff_t one = a_row * (ptrdiff_t)sizeof(float), three = 3 * one, five = 5 * one;
    if (by_rows) {
        FC_OPAQUE(one);
        FC_OPAQUE(three);
        FC_OPAQUE(five);
    }
    clear_tile(rows, vectors, acc);

    /* At once: by shares of so few steps they would take longer. */
    if (by_rows && t->far)
        fetch_places(rows, vectors, t->y, t->y_row);
    if (by_rows && t->far && t->residual)
        fetch_places(rows, vectors, t->residual, t->y_row);
    const float *next = t->next ? t->next : t->a;
    const ptrdiff_t next_step = t->next ? t->next_step : 0;
    const ptrdiff_t *a_run = t->a_run, *b_run = t->b_run, *const end = a_run + t->runs;
    for (; a_run < end; a_run++, b_run++) {
        const float *a = t->a + *a_run, *high = a + 7 * a_row, *b = t->b + *b_run;
        for (size_t steps = t->depth; steps; steps--, a += a_step, high += a_step, b += b_step) {
            fetch_vectors(vectors, b, b_step);
            if (ahead && by_rows)
                __builtin_prefetch(next);
            else if (ahead && next_step)
                __builtin_prefetch(next, 0, 2);              /* to the L2 cache: it is not read soon */
            next += next_step;
            add_step(rows, vectors, acc, a, high, b, one, three, five);
        }
    }
    finish_tile(rows, vectors, acc, t);
}

/* By rows, for long sums. */
FC_INLINE void long_tile(int rows, int vectors, const fc_tile *t)
{
    vf acc[FC_MAX_ROWS][FC_MAX_VECTORS];
    const size_t depth = t->depth;
    const ptrdiff_t b_step = t->b_step;
    ptrdiff_t one = t->a_row * (ptrdiff_t)sizeof(float), three = 3 * one, five = 5 * one;
    FC_OPAQUE(one);
    FC_OPAQUE(three);
    FC_OPAQUE(five);
    clear_tile(rows, vectors, acc);

    const float *next = t->next ? t->next : t->a;
    ptrdiff_t next_step = t->next ? t->next_step : 0;
    /* Places of results, and what is added to them, may be far away. So that they do not hold up what the steps load,
     * each row is fetched after an equal share of them, or with each run. */
    const float *place = t->y, *residual = t->residual ? t->residual : t->y;
    const size_t share = fc_share_steps(t->runs * depth, rows);
    int to_fetch = rows;
    const int later = t->later ? rows - (int)fc_next_shares(rows) : 0;        /* then, so many are left */
    for (size_t run = 0; run < t->runs; run++) {
        const float *a = t->a + t->a_run[run], *high = a + 7 * t->a_row;
        const float *b = t->b + t->b_run[run];
        for (size_t left = depth; left;) {
            size_t steps = left < share ? left : share;
            left -= steps;
            if (to_fetch) {
                if (to_fetch == later) {
                    next = t->later;
                    next_step = t->later_step;
                }
                for (int v = 0; v < vectors; v += LINE_VECTORS) {
                    __builtin_prefetch(place + v * FC_LANES, 1);
                    __builtin_prefetch(residual + v * FC_LANES);
                }
                place += t->y_row;
                residual += t->y_row;
                to_fetch--;
            }
            for (; steps; steps--, a++, high++, b += b_step) {
                fetch_vectors(vectors, b, b_step);
                __builtin_prefetch(next);
                next += next_step;
                add_step(rows, vectors, acc, a, high, b, one, three, five);
            }
            next += t->next_skip;
        }
    }
    finish_tile(rows, vectors, acc, t);
}

/* The same where every run is one step, and its scalars follow those of the run before: what begins and ends a run
 * would outlast it. */
FC_INLINE void listed_tile(int rows, int vectors, const fc_tile *t)
{
    vf acc[FC_MAX_ROWS][FC_MAX_VECTORS];
    clear_tile(rows, vectors, acc);
    const float *a = t->a;
    const ptrdiff_t one = sizeof(float);
    for (size_t run = 0; run < t->runs; run++, a += t->a_step)
        add_step(rows, vectors, acc, a, a + 7, t->b + t->b_run[run], one, 3 * one, 5 * one);
    finish_tile(rows, vectors, acc, t);
}

#define FC_TILE(ROWS, VECTORS)                                                                       \
    static void tile_rows_##ROWS##x##VECTORS(const fc_tile *t) { long_tile(ROWS, VECTORS, t); }      \
    static void tile_cols_##ROWS##x##VECTORS(const fc_tile *t)                                       \
    {                                                                                                \
        lean_tile(ROWS, VECTORS, BY_COLUMNS, NEXT_AHEAD, 1, t->a_step, t);                           \
    }                                                                                                \
    static void brief_rows_##ROWS##x##VECTORS(const fc_tile *t)                                      \
    {                                                                                                \
        lean_tile(ROWS, VECTORS, BY_ROWS, NEXT_AHEAD, t->a_row, 1, t);                               \
    }                                                                                                \
    static void brief_cols_##ROWS##x##VECTORS(const fc_tile *t)                                      \
    {                                                                                                \
        lean_tile(ROWS, VECTORS, BY_COLUMNS, NOTHING_AHEAD, 1, t->a_step, t);                        \
    }                                                                                                \
    static void tile_listed_##ROWS##x##VECTORS(const fc_tile *t) { listed_tile(ROWS, VECTORS, t); }
#include "tile_sizes.inc"
#undef FC_TILE

#endif
