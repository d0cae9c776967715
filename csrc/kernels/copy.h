/* SPDX-License-Identifier: MIT */
/* Moving floats: transposition of blocks (NCHW <-> channels-last, weight packing) and spans. */
#ifndef FC_COPY_H
#define FC_COPY_H

#include "kernels.h"
#include "simd.h"

/* Lanes FIRST, FIRST + 1, ... of every group of 4 in a and b, taken by turns RUN at a time. */
#define FC_ZIPPED(L, RUN, FIRST)                                                                           \
    ((L) / 4 * 4 + (FIRST) + (L) % 4 / (2 * (RUN)) * (RUN) + (L) % (RUN) + ((L) / (RUN) % 2 ? FC_LANES : 0))
#define zip_in_groups(RUN, FIRST, A, B) FC_SHUFFLE(A, B, FC_ZIPPED, RUN, FIRST)

/* Every other group of 4 lanes, from the first (0) or second (1) on, of a and then of b. */
#define FC_IN_GROUP(L, FIRST) ((2 * ((L) / 4) + (FIRST)) * 4 + (L) % 4)
#define every_other_group(FIRST, A, B) FC_SHUFFLE(A, B, FC_IN_GROUP, FIRST)

/* Transposes FC_LANES x FC_LANES in registers: 4 x 4 within the groups of 4 lanes, then the groups, by the
 * shuffles that need no table of indices. */
FC_INLINE void transpose_lanes(vf row[FC_LANES])
{
    enum { GROUPS = FC_LANES / 4 };
    vf of[4][GROUPS];                      /* [j][q]: column 4g + j of rows 4q .. 4q+3, for each group g */
    FC_UNROLL(4)
    for (int q = 0; q < GROUPS; q++) {
        const vf *r = row + 4 * q;
        const vf low01 = zip_in_groups(1, 0, r[0], r[1]), high01 = zip_in_groups(1, 2, r[0], r[1]);
        const vf low23 = zip_in_groups(1, 0, r[2], r[3]), high23 = zip_in_groups(1, 2, r[2], r[3]);
        of[0][q] = zip_in_groups(2, 0, low01, low23);
        of[1][q] = zip_in_groups(2, 2, low01, low23);
        of[2][q] = zip_in_groups(2, 0, high01, high23);
        of[3][q] = zip_in_groups(2, 2, high01, high23);
    }
    FC_UNROLL(4)
    for (int j = 0; j < 4; j++) {
        FC_UNROLL(2)
        for (int done = 1; done < GROUPS; done *= 2) {
            vf next[GROUPS];
            FC_UNROLL(2)
            for (int p = 0; p < GROUPS / 2; p++) {
                next[p] = every_other_group(0, of[j][2 * p], of[j][2 * p + 1]);
                next[p + GROUPS / 2] = every_other_group(1, of[j][2 * p], of[j][2 * p + 1]);
            }
            FC_UNROLL(4)
            for (int q = 0; q < GROUPS; q++)
                of[j][q] = next[q];
        }
        FC_UNROLL(4)
        for (int g = 0; g < GROUPS; g++)
            row[4 * g + j] = of[j][g];
    }
}

#if FC_LANES == 16
/* Of the floats of `rows` rows taken by turns, from float `first` on: the column of each, + FC_LANES in every second
 * row; and whether it is in one of the two rows from `row` on. */
#define FC_TURN(L, ROWS, FIRST) (((L) + (FIRST)) / (ROWS) + ((L) + (FIRST)) % (ROWS) % 2 * FC_LANES)
#define FC_OF_ROWS(L, ROWS, FIRST, ROW) (((L) + (FIRST)) % (ROWS) / 2 == (ROW) / 2 ? -1 : 0)

/* y[c*rows + r] = x[r*x_row + c] for r < rows, c < cols: few rows, of at least FC_LANES columns. */
FC_INLINE void interleave(int rows, size_t cols, const float *x, ptrdiff_t x_row, float *y)
{
    for (size_t done = 0; done < cols; done += FC_LANES) {
        const size_t c = cols - done < FC_LANES ? cols - FC_LANES : done;      /* some of them once more */
        vf row[FC_MOST_INTERLEAVED + 1] = {0};
        FC_UNROLL(8)
        for (int r = 0; r < rows; r++)
            row[r] = vload(x + r * x_row + c);
        FC_UNROLL(8)
        for (int first = 0; first < rows * FC_LANES; first += FC_LANES) {
            vf v = vlanes_of(row[0], row[1], (vi){FC_EACH_LANE(FC_TURN, rows, first)});
            FC_UNROLL(4)
            for (int r = 2; r < rows; r += 2)
                v = vpick((vi){FC_EACH_LANE(FC_OF_ROWS, rows, first, r)},
                          vlanes_of(row[r], row[r + 1], (vi){FC_EACH_LANE(FC_TURN, rows, first)}), v);
            vstore(y + c * (size_t)rows + first, v);
        }
    }
}
#elif FC_LANES == 8
/* The same. What is stored behind a column, the next one overwrites. */
FC_INLINE void interleave(int rows, size_t cols, const float *x, ptrdiff_t x_row, float *y)
{
    for (size_t done = 0; done < cols; done += FC_LANES) {
        const size_t c = cols - done < FC_LANES ? cols - FC_LANES : done;
        float *to = y + c * (size_t)rows;
        vf block[FC_LANES] = {0};
        FC_UNROLL(8)
        for (int r = 0; r < rows; r++)
            block[r] = vload(x + r * x_row + c);
        transpose_lanes(block);
        const size_t whole = (cols - c) * (size_t)rows - FC_LANES;
        if (whole >= 7 * (size_t)rows)
            FC_UNROLL(8)
            for (size_t i = 0; i < FC_LANES; i++)
                vstore(to + i * (size_t)rows, block[i]);
        else
            FC_UNROLL(8)
            for (size_t i = 0; i < FC_LANES; i++)
                vstore_lanes(to + i * (size_t)rows, block[i], i * (size_t)rows <= whole ? FC_LANES : (size_t)rows);
    }
}
#endif

/* y[c*y_row + r] = x[r*x_row + c] for r < rows, c < cols. */
static void transpose(size_t rows, size_t cols, const float *restrict x, ptrdiff_t x_row, float *restrict y,
                      ptrdiff_t y_row)
{
#if FC_LANES == 16 || FC_LANES == 8
    _Static_assert(FC_MOST_INTERLEAVED == 8, "the cases below");
    if (y_row == (ptrdiff_t)rows && cols >= FC_LANES)
        switch (rows) {
        case 2: interleave(2, cols, x, x_row, y); return;
        case 3: interleave(3, cols, x, x_row, y); return;
        case 4: interleave(4, cols, x, x_row, y); return;
        case 5: interleave(5, cols, x, x_row, y); return;
        case 6: interleave(6, cols, x, x_row, y); return;
        case 7: interleave(7, cols, x, x_row, y); return;
        case 8: interleave(8, cols, x, x_row, y); return;
        }
#endif
    /* Few rows side by side: a whole vector may be stored where the next columns will overwrite its rest. */
    const size_t overlapping = rows < FC_LANES && y_row == (ptrdiff_t)rows && cols * rows > FC_LANES
                                   ? cols - (FC_LANES + rows - 1) / rows : 0;
    for (size_t r = 0; r < rows; r += FC_LANES)
        for (size_t done = 0; done < cols; done += FC_LANES) {
            /* Of the last columns some once more, so that they are a whole block too. */
            const size_t c = cols - done < FC_LANES && cols >= FC_LANES ? cols - FC_LANES : done;
            const size_t height = rows - r < FC_LANES ? rows - r : FC_LANES;
            const size_t width = cols < FC_LANES ? cols : FC_LANES;
            vf block[FC_LANES] = {0};
            if (height == FC_LANES && width == FC_LANES) {
                FC_UNROLL(16)
                for (int i = 0; i < FC_LANES; i++)
                    block[i] = vload(x + (ptrdiff_t)(r + i) * x_row + c);
                transpose_lanes(block);
                FC_UNROLL(16)
                for (int i = 0; i < FC_LANES; i++)
                    vstore(y + (ptrdiff_t)(c + i) * y_row + r, block[i]);
                continue;
            }
            /* Unrolled, so that the block stays in registers. */
            FC_UNROLL(16)
            for (size_t i = 0; i < FC_LANES; i++)
                if (i < height)
                    block[i] = vload_lanes(x + (ptrdiff_t)(r + i) * x_row + c, width);
            transpose_lanes(block);
            FC_UNROLL(16)
            for (size_t i = 0; i < FC_LANES; i++)
                if (i < width)
                    vstore_lanes(y + (ptrdiff_t)(c + i) * y_row + r, block[i], c + i < overlapping ? FC_LANES : height);
        }
}

enum { PREFETCH_FLOATS = 1024 };

/* Of a and b in a row: the elements 0, 2, ... (ODD 0) or 1, 3, ... (ODD 1). */
#define FC_ALTERNATE(L, ODD) (2 * (L) + (ODD))
#define every_other(ODD, A, B) FC_SHUFFLE(A, B, FC_ALTERNATE, ODD)

/* Elements of a and b by turns: the first (0) or second (1) half of the sequence. */
#define FC_BY_TURNS(L, SECOND) (((L) + (SECOND) * FC_LANES) / 2 + (L) % 2 * FC_LANES)
#define by_turns(SECOND, A, B) FC_SHUFFLE(A, B, FC_BY_TURNS, SECOND)

/* Deals x out by turns: y[(i % parts) * part + i / parts] = x[i] for i < n. */
static void deal(size_t n, size_t parts, const float *restrict x, float *restrict y, ptrdiff_t part)
{
    if (parts == 2) {
        for (size_t i = 0; i < n; i += 2 * FC_LANES, x += 2 * FC_LANES, y += FC_LANES) {
            const size_t left = n - i < 2 * FC_LANES ? n - i : 2 * FC_LANES;
            /* One stream from memory is more than the hardware fetches ahead. */
            for (int line = 0; line < 2 * FC_LANES; line += 16)
                __builtin_prefetch(x + PREFETCH_FLOATS + line);
            const vf a = vload_lanes(x, left < FC_LANES ? left : FC_LANES);
            const vf b = left > FC_LANES ? vload_lanes(x + FC_LANES, left - FC_LANES) : a;
            vstore_lanes(y, every_other(0, a, b), (left + 1) / 2);
            vstore_lanes(y + part, every_other(1, a, b), left / 2);
        }
        return;
    }
    for (size_t hand = 0; hand < parts; hand++)
        for (size_t i = hand, turn = 0; i < n; i += parts, turn++)
            y[(ptrdiff_t)hand * part + (ptrdiff_t)turn] = x[i];
}

/* Collects what was dealt: y[i] = x[(i % parts) * part + i / parts] for i < n. */
static void collect(size_t n, size_t parts, const float *restrict x, ptrdiff_t part, float *restrict y)
{
    if (parts == 2) {
        for (size_t i = 0; i < n; i += 2 * FC_LANES, x += FC_LANES, y += 2 * FC_LANES) {
            const size_t left = n - i < 2 * FC_LANES ? n - i : 2 * FC_LANES;
            const vf a = vload_lanes(x, (left + 1) / 2), b = vload_lanes(x + part, left / 2);
            vstore_lanes(y, by_turns(0, a, b), left < FC_LANES ? left : FC_LANES);
            if (left > FC_LANES)
                vstore_lanes(y + FC_LANES, by_turns(1, a, b), left - FC_LANES);
        }
        return;
    }
    for (size_t hand = 0; hand < parts; hand++)
        for (size_t i = hand, turn = 0; i < n; i += parts, turn++)
            y[i] = x[(ptrdiff_t)hand * part + (ptrdiff_t)turn];
}

/* Spans of `half` to 2 * `half` floats, each as two halves that may overlap: a part of a vector takes longer. */
FC_INLINE void copy_halves(size_t half, size_t spans, size_t n, const float *restrict x, ptrdiff_t x_step,
                           float *restrict y, ptrdiff_t y_step)
{
    for (size_t span = 0; span < spans; span++, x += x_step, y += y_step) {
        memcpy(y, x, half * sizeof(float));
        memcpy(y + n - half, x + n - half, half * sizeof(float));
    }
}

/* y[i*y_step + j] = x[i*x_step + j] for i < spans, j < n: many short spans. */
static void copy_spans(size_t spans, size_t n, const float *restrict x, ptrdiff_t x_step, float *restrict y,
                       ptrdiff_t y_step)
{
    if (n % FC_LANES && n >= 4 && n <= 8)
        copy_halves(4, spans, n, x, x_step, y, y_step);
    else if (n % FC_LANES && n > 8 && n <= 16)
        copy_halves(8, spans, n, x, x_step, y, y_step);
    else
        for (size_t span = 0; span < spans; span++, x += x_step, y += y_step)
            FC_OVER_LANES(n, vstore_lanes(y + i, vload_lanes(x + i, lanes), lanes));
}

enum { STRIPS = 8 };        /* at a time: some cache lines of each span */

/* All spans but the last, in whole vectors: the lanes behind a strip's end are overwritten by the next span. */
FC_INLINE void copy_whole_strips(size_t strips, size_t vectors, size_t spans, size_t width, const float *restrict x,
                                 ptrdiff_t x_step, float *restrict y, ptrdiff_t y_strip)
{
    for (size_t span = 1; span < spans; span++, x += x_step, y += width) {
        const float *from = x;
        float *to = y;
        FC_UNROLL(8)
        for (size_t strip = 0; strip < strips; strip++, from += width, to += y_strip)
            for (size_t v = 0; v < vectors; v++)
                vstore(to + v * FC_LANES, vload(from + v * FC_LANES));
    }
}

/* y[c / width * y_strip + i*width + c % width] = x[i*x_step + c] for i < spans, c < n: spans cut to strips. x_step must
 * be at least `width` rounded up to whole vectors, width at least half of FC_LANES. */
static void copy_strips(size_t spans, size_t n, size_t width, const float *restrict x, ptrdiff_t x_step,
                        float *restrict y, ptrdiff_t y_strip)
{
    const size_t vectors = (width + FC_LANES - 1) / FC_LANES;
    for (size_t c = 0; c < n; c += STRIPS * width, y += STRIPS * y_strip) {
        const size_t left = (n - c + width - 1) / width, strips = left < STRIPS ? left : STRIPS;
        if (strips == STRIPS && vectors == 1)
            copy_whole_strips(STRIPS, 1, spans, width, x + c, x_step, y, y_strip);
        else
            copy_whole_strips(strips, vectors, spans, width, x + c, x_step, y, y_strip);
        for (size_t strip = 0; strip < strips; strip++) {
            const size_t at = c + strip * width, used = n - at < width ? n - at : width;
            const float *from = x + (ptrdiff_t)(spans - 1) * x_step + at;
            float *to = y + (ptrdiff_t)strip * y_strip + (spans - 1) * width;
            FC_OVER_LANES(used, vstore_lanes(to + i, vload_lanes(from + i, lanes), lanes));
        }
    }
}

/* y[i*y_step + j] += x[i*x_step + j] for i < spans, j < n. */
static void add_spans(size_t spans, size_t n, const float *x, ptrdiff_t x_step, float *y, ptrdiff_t y_step)
{
    for (size_t span = 0; span < spans; span++, x += x_step, y += y_step)
        FC_OVER_LANES(n, vstore_lanes(y + i, vload_lanes(y + i, lanes) + vload_lanes(x + i, lanes), lanes));
}

#endif
