/* SPDX-License-Identifier: MIT */
/* Winograd's minimal filtering: a tile of m x m outputs of an r x r filter from n x n products, n = m + r - 1,
 * instead of m^2 r^2 (Lavin and Gray, arXiv 1509.09308).
 *
 *   y = A^T [ (G w G^T) . (B^T x B) ] A        x: n x n, w: r x r, y: m x m
 *
 * For r = 3, 4 and 5 n is 6, on the points 0, +-5/8, +-3/2 and infinity, which round least of the simple ones. For
 * r = 2 it is 4, on 0, +-1 and infinity: of the pieces of filters with a stride of 2, tiles of 5 x 5 outputs on six
 * points would save a tenth of the products, but round three times as much and take three times the points of weights.
 * B^T is the same for every r of as many points, G has the powers 0 .. r-1 of the points, A^T the powers 0 .. m-1 over
 * the product of a point's differences to the others: a division that costs nothing there, but for the point 0, where G
 * has it. The gradient of w exchanges the two: dw = A^T [ sum over tiles of (G dy G^T) . (B^T x B) ] A with the roles of
 * m and r swapped.
 *
 * The first output of a tile alone takes the point 0, and is alone in needing the first pixel. So a tile of m - 1
 * outputs along an axis leaves both out, and is the same algorithm on the other points. Likewise the last tap alone
 * takes the point at infinity, and the last pixel: r - 1 taps leave these out.
 *
 * Lanes stand for channels; the n x n points of a tile lie `plane` floats apart. A transform is its one-dimensional
 * form along one axis and then along the other. */
#ifndef FC_WINOGRAD_H
#define FC_WINOGRAD_H

#include "kernels.h"
#include "simd.h"
#include "tile.h"

enum {
    CHANNELS_AHEAD = 6,
    BORDER_CHANNELS = 64,          /* of a tile in 9 KiB of the L1 cache */
};

/* One over the product of the differences of 0, +-5/8 and +-3/2 to the other points. */
#define SCALE_0 (1 / 0.87890625)
#define SCALE_1 (-1 / 1.45263671875)
#define SCALE_2 (1 / 8.3671875)

/* Half of B^T x: its first (0) or last (1) values. */
FC_INLINE void half_points_of_data(int points, int half, const vf x[6], vf out[3])
{
    if (points == 4) {
        out[0] = half ? x[2] - x[1] : x[0] - x[2];
        out[1] = half ? x[3] - x[1] : x[1] + x[2];
        return;
    }
    const vf square = vset1(half ? -0.390625f : -2.25f), point = vset1(half ? 1.5f : 0.625f);
    const vf even = vfma(square, x[2], x[4]), odd = vfma(square, x[1], x[3]);
    const vf end = vfma(vset1(0.87890625f), x[half], vfma(vset1(-2.640625f), x[2 + half], x[4 + half]));
    const vf plus = vfma(point, odd, even), minus = vfma(-point, odd, even);
    out[0] = half ? plus : end;
    out[1] = half ? minus : plus;
    out[2] = half ? end : minus;
}

/* The value of r = 1 .. 5 terms at a point and at its negative, its even terms + and - the odd ones. */
FC_INLINE void evaluate(int r, float point, const vf *w, vf *plus, vf *minus)
{
    const vf square = vset1(point * point);
    if (r == 1) {
        *plus = *minus = w[0];
        return;
    }
    const vf even = r > 4 ? vfma(square, vfma(square, w[4], w[2]), w[0]) : r > 2 ? vfma(square, w[2], w[0]) : w[0];
    const vf odd = r > 3 ? vfma(square, w[3], w[1]) : w[1];
    *plus = vfma(vset1(point), odd, even);
    *minus = vfma(vset1(-point), odd, even);
}

/* G's row of the point 0, of six points. */
FC_INLINE vf at_zero(vf w) { return vproduct(vset1((float)SCALE_0), w); }

/* Half of G w, for r = 1 .. 5 values. */
FC_INLINE void half_points_of_filter(int points, int half, int r, const vf *w, vf out[3])
{
    const vf end = half ? w[r - 1] : points == 4 ? w[0] : at_zero(w[0]);
    vf plus, minus;
    evaluate(r, points == 4 ? 1 : half ? 1.5f : 0.625f, w, &plus, &minus);
    if (points == 4) {
        out[0] = half ? minus : end;
        out[1] = half ? end : plus;
        return;
    }
    out[0] = half ? plus : end;
    out[1] = half ? minus : plus;
    out[2] = half ? end : minus;
}

/* B^T x or G x. */
FC_INLINE void points_of(int data, int points, int size, const vf *x, vf out[6])
{
    FC_UNROLL(2)
    for (int half = 0; half < 2; half++) {
        vf *to = out + half * points / 2;
        data ? half_points_of_data(points, half, x, to) : half_points_of_filter(points, half, size, x, to);
    }
}

/* A^T p, for m = 2 .. 5 outputs. */
FC_INLINE void outputs_of_points(int points, int m, const vf p[6], vf *y)
{
    const vf even1 = p[1] + p[2], odd1 = p[1] - p[2];
    if (points == 4) {
        y[0] = vfma(vset1(0.5f), even1, p[0]);
        FC_UNROLL(2)
        for (int i = 1; i < m; i++) {
            const vf sum = i % 2 ? odd1 : even1;
            y[i] = i == m - 1 ? vfma(vset1(0.5f), sum, p[3]) : vproduct(vset1(0.5f), sum);
        }
        return;
    }
    const vf even2 = p[3] + p[4], odd2 = p[3] - p[4];
    double power1 = SCALE_1, power2 = SCALE_2;
    y[0] = vfma(vset1((float)SCALE_2), even2, vfma(vset1((float)SCALE_1), even1, p[0]));
    FC_UNROLL(4)
    for (int i = 1; i < m; i++) {
        power1 *= 0.625;
        power2 *= 1.5;
        const vf first = i % 2 ? odd1 : even1, second = i % 2 ? odd2 : even2, factor = vset1((float)power1);
        y[i] = vfma(vset1((float)power2), second, i == m - 1 ? vfma(factor, first, p[5]) : vproduct(factor, first));
    }
}

/* The points of one vector of channels of a tile of size x size pixels, of which rows and columns first .. end - 1 are
 * there: without the first or the last, which are zeros, it is without the points 0 or at infinity. In two halves of
 * rows, whose vectors fit the registers: what limits a transform is its stores. */
FC_INLINE void transform_tile(int data, int points, int size, int first_row, int end_row, int first_column,
                              int end_column, const float *tile, ptrdiff_t row, ptrdiff_t pixel, float *to,
                              ptrdiff_t plane)
{
    const int rows = points / 2, last = points - 1;
    FC_UNROLL(2)
    for (int half = 0; half < 2; half++) {
        vf down[6][3];
        const float *from = tile;
        FC_UNROLL(6)
        for (int j = first_column; j < end_column; j++, from += pixel) {
            vf x[6];
            FC_OPAQUE(from);       /* or 36 addresses are worked out at first, and kept on the stack */
            FC_UNROLL(6)
            for (int i = 0; i < size; i++)
                x[i] = i < first_row || i >= end_row || (data && i == last * !half)
                           ? (vf){0} : vload(from + (i - first_row) * row);
            data ? half_points_of_data(points, half, x, down[j])
                 : half_points_of_filter(points, half, size, x, down[j]);
        }
        FC_UNROLL(3)
        for (int i = 0; i < rows; i++) {
            if (half * rows + i < first_row) {
                to += points * plane;
                continue;
            }
            if (half * rows + i == last && end_row < size)
                break;
            vf x[6], out[6];
            FC_OPAQUE(to);         /* likewise */
            FC_UNROLL(6)
            for (int j = 0; j < size; j++)
                x[j] = j < first_column || j >= end_column ? (vf){0} : down[j][i];
            points_of(data, points, size, x, out);
            FC_UNROLL(6)
            for (int j = 0; j < points; j++, to += plane)
                if (j >= first_column && (j < last || end_column == size))
                    vstore(to, out[j]);
        }
    }
}

/* Fetches tile t of the run that comes next, mostly the row of tiles below: without what it then shares with this run,
 * and with the tile beside it. Its pixels lie in pieces too short for the hardware to see. */
FC_INLINE void fetch_tile(const fc_winograd_input *in, size_t t, size_t c)
{
    if (!in->ahead || c % FC_LINE_FLOATS)
        return;
    const ptrdiff_t first = t ? in->width - in->step : 0;
    const float *from = in->x + in->ahead + ((ptrdiff_t)t * in->step - in->left) * in->pixel + (ptrdiff_t)c;
    for (ptrdiff_t i = in->height - in->row_step; i < in->height; i++)
        for (ptrdiff_t j = first; j < in->width; j++)
            __builtin_prefetch(from + i * in->row + j * in->pixel, 0, 2);
}

/* Some channels of a tile at `pixel` to [height][width][BORDER_CHANNELS]: zeros outside the image, and in whole vectors
 * behind the last channel. */
FC_INLINE void copy_border(const fc_winograd_input *in, ptrdiff_t pixel, size_t c, size_t channels, float *to)
{
    for (ptrdiff_t i = 0; i < in->height; i++)
        for (ptrdiff_t j = 0; j < in->width; j++, to += BORDER_CHANNELS) {
            const int inside = i >= in->first_row && i < in->last_row && pixel + j >= 0 && pixel + j < in->inside;
            const float *from = in->x + i * in->row + (pixel + j) * in->pixel + (ptrdiff_t)c;
            for (size_t l = 0; l < channels; l += FC_LANES) {
                const size_t left = channels - l, lanes = left < FC_LANES ? left : FC_LANES;
                vstore(to + l, inside ? vload_lanes(from + l, lanes) : (vf){0});
            }
        }
}

/* transform_tile of a tile that may lack its first row, last row, first column or last column: bits 0 to 3 of `kind`
 * say which. */
FC_INLINE void transform_kind(int data, int points, int size, int kind, const float *from, ptrdiff_t row,
                              ptrdiff_t pixel, float *to, ptrdiff_t plane)
{
#define FC_KIND(K)                                                                                                  \
    case K:                                                                                                         \
        transform_tile(data, points, size, K & 1, size - (K >> 1 & 1), K >> 2 & 1, size - (K >> 3), from, row, pixel, \
                       to, plane);                                                                                  \
        break;
    switch (data ? kind : kind & 5) {          /* none of dy is without the last */
        FC_KIND(0) FC_KIND(1) FC_KIND(2) FC_KIND(3) FC_KIND(4) FC_KIND(5) FC_KIND(6) FC_KIND(7)
        FC_KIND(8) FC_KIND(9) FC_KIND(10) FC_KIND(11) FC_KIND(12) FC_KIND(13) FC_KIND(14) FC_KIND(15)
    }
#undef FC_KIND
}

/* The points of each tile of a row of tiles. data: of n x n pixels that overlap (B^T x B). Else tiles of size x size,
 * side by side (G dy G^T). */
FC_INLINE void transform_tiles(int data, int points, int size, const fc_winograd_input *in)
{
    float border[FC_WINOGRAD_MOST_PLANES * BORDER_CHANNELS] __attribute__((aligned(64)));
    const int height = (int)in->height, width = (int)in->width;
    const int *first = in->lacks_first, last[2] = {height + first[0] < size, width + first[1] < size};
    const int kind = first[0] + 2 * last[0] + 4 * first[1] + 8 * last[1];
    const int rows_whole = in->first_row == 0 && in->last_row == height;
    for (size_t t = 0; t < in->tiles; t++) {
        const ptrdiff_t pixel = (ptrdiff_t)t * in->step - in->left;
        const int whole = rows_whole && pixel >= 0 && pixel + width <= in->inside;
        float *to = in->points + (ptrdiff_t)t * in->tile;
        for (size_t c = 0, channels; c < in->channels; c += channels) {
            const float *from = in->x + pixel * in->pixel + (ptrdiff_t)c;
            ptrdiff_t row = in->row, next = in->pixel;
            channels = in->channels - c;
            if (whole && channels >= FC_LANES)
                channels -= channels % FC_LANES;
            else {
                channels = channels < BORDER_CHANNELS ? channels : BORDER_CHANNELS;
                copy_border(in, pixel, c, channels, border);
                from = border;
                next = BORDER_CHANNELS;
                row = width * next;
            }
            for (size_t l = 0; l < channels; l += FC_LANES, from += FC_LANES, to += FC_LANES) {
                fetch_tile(in, t, c + l);
                transform_kind(data, points, size, kind, from, row, next, to, in->plane);
            }
        }
    }
}

/* u[plane][c][width] = G w G^T of w[c][rows][columns][width], of the first vectors of a row of `width` outputs. Along
 * an axis of r - 1 taps it is without the point at infinity; of one tap, the same at all points, it has one point. */
FC_INLINE void transform_filters(int points, int r, int rows, int columns, size_t channels, size_t vectors,
                                 ptrdiff_t width, const float *w, float *u, ptrdiff_t plane)
{
    const int end_row = rows == 1 ? 1 : points - (rows < r), end_column = columns == 1 ? 1 : points - (columns < r);
    const ptrdiff_t channel = rows * columns * width;
    for (size_t c = 0; c < channels; c++, w += channel, u += width)
        for (size_t v = 0; v < vectors; v++) {
            vf down[5][6];
            float *place = u + v * FC_LANES;
            FC_UNROLL(5)
            for (int s = 0; s < columns; s++) {
                vf taps[5];
                FC_UNROLL(5)
                for (int i = 0; i < rows; i++) {
                    const float *from = w + (i * columns + s) * width + v * FC_LANES;
                    /* Taps that are kept come from memory, faster than the hardware fetches ahead. */
                    __builtin_prefetch(from + CHANNELS_AHEAD * channel);
                    taps[i] = vload(from);
                }
                points_of(0, points, rows, taps, down[s]);
            }
            FC_UNROLL(6)
            for (int i = 0; i < end_row; i++) {
                vf taps[5], out[6];
                FC_OPAQUE(place);  /* or 36 addresses are kept on the stack */
                FC_UNROLL(5)
                for (int s = 0; s < columns; s++)
                    taps[s] = down[s][i];
                points_of(0, points, columns, taps, out);
                FC_UNROLL(6)
                for (int j = 0; j < points; j++, place += plane)
                    if (j < end_column)
                        vstore(place, out[j]);
            }
        }
}

FC_INLINE void winograd_filters(int points, int r, const ptrdiff_t taps[2], size_t channels, size_t vectors,
                                ptrdiff_t width, const float *w, float *u, ptrdiff_t plane)
{
    if (taps[0] == r && taps[1] == r)
        transform_filters(points, r, r, r, channels, vectors, width, w, u, plane);
    else if (taps[0] == r)
        transform_filters(points, r, r, r - 1, channels, vectors, width, w, u, plane);
    else if (taps[1] == r)
        transform_filters(points, r, r - 1, r, channels, vectors, width, w, u, plane);
    else
        transform_filters(points, r, r - 1, r - 1, channels, vectors, width, w, u, plane);
}

/* Planes come in pairs of rows: of 0 and infinity, each of one row of taps, and of a point and its negative, of all. */
static const int ROWS_OF_PAIR[3][2] = {{0, 5}, {1, 2}, {3, 4}};

/* One row of planes, of FC_FEW_TILES tiles, where registers have room for their sums: points of a channel are
 * multiplied as they are made. inner: of the point `at` down; else of the one row of taps with which `taps` begins,
 * times `at`. */
FC_INLINE void products_of_row(int r, int inner, float at, int row, const float *taps, const float *next,
                               const fc_winograd_few *few)
{
    enum { PANEL = 2 * FC_LANES, SHARES = 2 * 6 * FC_LINE_FLOATS };        /* vectors, rows and lines */
    const int terms = inner ? r : 1;
    ptrdiff_t one = few->plane * (ptrdiff_t)sizeof(float), three = 3 * one, five = 5 * one;
    FC_OPAQUE(one);                /* or 24 addresses are kept, most of them on the stack */
    FC_OPAQUE(three);
    FC_OPAQUE(five);
    const ptrdiff_t tiles = few->tiles[1][1].count;        /* all: what they have not in a plane is not read */
    for (ptrdiff_t vector = 0; vector < PANEL; vector += FC_LANES) {
        vf sums[FC_FEW_TILES][6] = {{{0}}};
        const float *w = taps + vector, *tile[FC_FEW_TILES];
        FC_UNROLL(4)
        for (ptrdiff_t t = 0; t < FC_FEW_TILES; t++)       /* those that are not there are the last once more */
            tile[t] = few->points + 6 * row * few->plane + (t < tiles ? t : tiles - 1) * few->tile;
        for (ptrdiff_t c = 0; c < few->channels; c++, w += r * r * PANEL) {
            vf down[5], u[6], minus;
            FC_UNROLL(5)
            for (int line = 0; line < (r * r * PANEL + SHARES - 1) / SHARES; line++, next += FC_LINE_FLOATS)
                __builtin_prefetch(next, 0, 2);
            FC_UNROLL(5)
            for (int s = 0; s < r; s++) {
                vf tap[5];
                FC_UNROLL(5)
                for (int i = 0; i < terms; i++)
                    tap[i] = vload(w + (i * r + s) * PANEL);
                down[s] = vproduct(vset1(at), tap[0]);
                if (inner)
                    evaluate(r, at, tap, &down[s], &minus);
            }
            points_of(0, 6, r, down, u);
            FC_UNROLL(6)
            for (int j = 0; j < 6; j++)
                FC_UNROLL(4)
                for (int t = 0; t < FC_FEW_TILES; t++)
                    sums[t][j] = vfma(broadcast_row(tile[t], tile[t], j, one, three, five), u[j], sums[t][j]);
            FC_UNROLL(4)
            for (int t = 0; t < FC_FEW_TILES; t++)
                tile[t]++;
        }
        FC_UNROLL(4)
        for (int t = 0; t < FC_FEW_TILES; t++) {
            if (t >= tiles)
                break;
            float *m = few->m + 6 * row * few->m_plane + t * few->m_tile + vector;
            FC_UNROLL(6)
            for (int j = 0; j < 6; j++, m += few->m_plane)
                vstore(m, few->accumulate ? sums[t][j] + vload(m) : sums[t][j]);
        }
    }
}

/* With fewer registers points are stored, of a pair of rows and so many channels that they stay in the L1 cache, as do
 * the taps. */
enum { FEW_CHANNELS = 16, FEW_PLANES = 2 * 6 };

/* u[plane][c][two vectors] of taps[c][r][r][two vectors]. inner: of this point and its negative. */
FC_INLINE void points_of_rows(int r, int inner, float at, ptrdiff_t channels, const float *taps, const float *next,
                              float *u)
{
    enum { PANEL = 2 * FC_LANES, SHARES = 3 * FC_LINE_FLOATS };            /* pairs of rows, and lines */
    for (ptrdiff_t c = 0; c < channels; c++, taps += r * r * PANEL, u += PANEL) {
        FC_UNROLL(9)
        for (int line = 0; line < (r * r * PANEL + SHARES - 1) / SHARES; line++, next += FC_LINE_FLOATS)
            __builtin_prefetch(next, 0, 2);
        FC_UNROLL(2)
        for (int v = 0; v < PANEL; v += FC_LANES) {
            vf down[2][5], out[6];
            FC_UNROLL(5)
            for (int s = 0; s < r; s++) {
                vf tap[5];
                FC_UNROLL(5)
                for (int i = 0; i < r; i++)
                    tap[i] = vload(taps + (i * r + s) * PANEL + v);
                down[0][s] = at_zero(tap[0]);
                down[1][s] = tap[r - 1];
                if (inner)
                    evaluate(r, at, tap, &down[0][s], &down[1][s]);
            }
            FC_UNROLL(2)
            for (int row = 0; row < 2; row++) {
                points_of(0, 6, r, down[row], out);
                FC_UNROLL(6)
                for (int j = 0; j < 6; j++)
                    vstore(u + (6 * row + j) * FEW_CHANNELS * PANEL + v, out[j]);
            }
        }
    }
}

/* Products of four tiles of one plane, or of two of each of two planes: so many sums keep multiply-adds from waiting
 * for each other. Tiles that are not there are the last once more. */
typedef struct few_products {
    const float *points[4], *u[2];
    vf (*sums[2])[2];              /* of the first two tiles and the others */
} few_products;

/* sums[tile] += points[tile][c] u[c], from channel c0 of the points on. */
FC_INLINE void add_products(int planes, ptrdiff_t c0, ptrdiff_t channels, const few_products *p)
{
    const float *from[4], *u[2] = {p->u[0], p->u[1]};
    vf sum[4][2];
    FC_UNROLL(4)
    for (int t = 0; t < 4; t++) {
        from[t] = p->points[t] + c0;
        __builtin_prefetch(from[t] + FEW_CHANNELS);
        FC_UNROLL(2)
        for (int v = 0; v < 2; v++)
            sum[t][v] = p->sums[t / 2][t % 2][v];
    }
    for (ptrdiff_t c = 0; c < channels; c++) {
        vf factor[2][2];
        FC_UNROLL(2)
        for (int v = 0; v < 2; v++) {
            factor[0][v] = vload(u[0] + (2 * c + v) * FC_LANES);
            factor[1][v] = planes == 2 ? vload(u[1] + (2 * c + v) * FC_LANES) : factor[0][v];
        }
        FC_UNROLL(4)
        for (int t = 0; t < 4; t++) {
            const vf value = vset1(from[t][c]);
            FC_UNROLL(2)
            for (int v = 0; v < 2; v++)
                sum[t][v] = vfma(value, factor[t / 2][v], sum[t][v]);
        }
    }
    FC_UNROLL(4)
    for (int t = 0; t < 4; t++)
        FC_UNROLL(2)
        for (int v = 0; v < 2; v++)
            p->sums[t / 2][t % 2][v] = sum[t][v];
}

/* Plane j of a pair of rows. */
FC_INLINE int plane_of_pair(int pair, int j) { return 6 * ROWS_OF_PAIR[pair][j / 6] + j % 6; }

FC_INLINE fc_plane_tiles few_tiles(const fc_winograd_few *few, int plane)
{
    return few->tiles[plane / 6 > 0][plane % 6 > 0];
}

/* Lists the products of a pair of rows; returns how many. Those of two tiles or one wait for another plane of as few;
 * the last may not find one, and fills `unused`. */
FC_INLINE int list_products(const fc_winograd_few *few, const float *u, vf sums[FEW_PLANES][FC_FEW_TILES][2],
                            vf unused[2][2], few_products list[FEW_PLANES])
{
    few_products *waiting = NULL;
    int count = 0;
    for (int j = 0; j < FEW_PLANES; j++, u += FEW_CHANNELS * 2 * FC_LANES) {
        const int plane = plane_of_pair(few->pair, j);
        const fc_plane_tiles tiles = few_tiles(few, plane);
        const float *points = few->points + plane * few->plane + tiles.first * few->tile;
        const int is_second = waiting && tiles.count < 3;
        if (tiles.count == 0)
            continue;
        few_products *p = is_second ? waiting : &list[count++];
        for (ptrdiff_t t = 0; t < (is_second ? 2 : 4); t++)
            p->points[2 * is_second + t] = points + (t < tiles.count ? t : tiles.count - 1) * few->tile;
        p->u[1] = p->u[is_second] = u;
        p->sums[1] = tiles.count < 3 ? unused : sums[j] + 2;
        p->sums[is_second] = sums[j];
        if (tiles.count < 3)
            waiting = is_second ? NULL : p;
    }
    return count;
}

/* A pair of rows of planes. */
FC_INLINE void products_of_pair(int r, int inner, float at, const fc_winograd_few *few)
{
    enum { PANEL = 2 * FC_LANES };
    float u[FEW_PLANES * FEW_CHANNELS * PANEL] __attribute__((aligned(64)));
    vf sums[FEW_PLANES][FC_FEW_TILES][2] = {{{{0}}}}, unused[2][2] = {{{0}}};
    few_products list[FEW_PLANES];
    const int count = list_products(few, u, sums, unused, list);
    for (ptrdiff_t c = 0, channels; c < few->channels; c += channels) {
        channels = few->channels - c < FEW_CHANNELS ? few->channels - c : FEW_CHANNELS;
        points_of_rows(r, inner, at, channels, few->taps + c * r * r * PANEL, few->next + c * (r * r * PANEL / 3), u);
        for (int i = 0; i < count; i++)
            list[i].u[0] == list[i].u[1] ? add_products(1, c, channels, &list[i]) : add_products(2, c, channels, &list[i]);
    }
    for (int j = 0; j < FEW_PLANES; j++) {
        const int plane = plane_of_pair(few->pair, j);
        const fc_plane_tiles tiles = few_tiles(few, plane);
        float *m = few->m + plane * few->m_plane + tiles.first * few->m_tile;
        for (ptrdiff_t t = 0; t < tiles.count; t++, m += few->m_tile)
            FC_UNROLL(2)
            for (int v = 0; v < 2; v++)
                vstore(m + v * FC_LANES, few->accumulate ? sums[j][t][v] + vload(m + v * FC_LANES) : sums[j][t][v]);
    }
}

/* m[plane][tile] (+)= sum over c of points[plane][tile][c] u[plane][c] of a pair of rows of planes, u being the points
 * of taps[c][r][r] of two vectors of outputs. To store them all and read them again would take as long as the products
 * of so few tiles. */
FC_INLINE void winograd_products(int r, const fc_winograd_few *few)
{
    const float at = few->pair == 1 ? 0.625f : 1.5f;
    if (FC_REGISTERS < 32) {
        few->pair ? products_of_pair(r, 1, at, few) : products_of_pair(r, 0, 0, few);
        return;
    }
    for (int i = 0; i < 2; i++) {
        const int row = ROWS_OF_PAIR[few->pair][i];
        const float *next = few->next + i * few->channels * (r * r * 2 * FC_LANES / 6);
        if (few->pair)
            products_of_row(r, 1, i ? -at : at, row, few->taps, next, few);
        else
            products_of_row(r, 0, i ? 1 : (float)SCALE_0, row, few->taps + i * (r - 1) * r * 2 * FC_LANES, next, few);
    }
}

/* Which output a tile of less than m x m is without along an axis: of y the first, of dw the last. */
enum { LACKS_FIRST, LACKS_LAST };

/* y = A^T p A of one vector of channels of a tile of height x width outputs, of which rows x columns and some lanes are
 * stored: `from` is where its plane 0 is or would be, `at` where the first output that it has is. Instead of points that
 * it is without their neighbours are read, for outputs that are not stored. */
FC_INLINE void output_tile(int lacks, int points, int m, int height, int width, int rows, int columns, size_t lanes,
                           const fc_winograd_output *out, const float *from, ptrdiff_t at, vf bias)
{
    const ptrdiff_t plane = out->plane, line = points * plane;
    const ptrdiff_t step = width < m ? 0 : plane, line_step = height < m ? 0 : line;
    const int twice = lacks == LACKS_LAST ? points - 2 : 0;    /* so many points on, a neighbour is read once more */
    const int first_row = lacks == LACKS_FIRST ? m - height : 0;
    const int first_column = lacks == LACKS_FIRST ? m - width : 0;
    vf across[6][5];
    if (lacks == LACKS_FIRST)
        from += line - line_step + plane - step;
    FC_UNROLL(6)
    for (int i = 0; i < points; i++) {
        vf p[6];
        const float *point = from;
        FC_OPAQUE(point);          /* or 36 addresses are worked out at first, and kept on the stack */
        FC_UNROLL(6)
        for (int j = 0; j < points; j++) {
            p[j] = vload(point);
            point += j == twice ? step : plane;
        }
        from += i == twice ? line_step : line;
        outputs_of_points(points, m, p, across[i]);
    }
    FC_UNROLL(5)
    for (int j = 0; j < m; j++) {
        vf p[6], y[5];
        FC_UNROLL(6)
        for (int i = 0; i < points; i++)
            p[i] = across[i][j];
        outputs_of_points(points, m, p, y);
        FC_UNROLL(5)
        for (int i = 0; i < m; i++) {
            const int row = i - first_row, column = j - first_column;
            if (row < 0 || row >= rows || column < 0 || column >= columns)
                continue;
            const ptrdiff_t pixel = at + row * out->y_row + column * out->y_pixel;
            vf value = y[i] + bias;
            if (out->residual)
                value += vload_lanes(out->residual + pixel, lanes);
            if (out->relu)
                value = vrelu(value);
            vstore_lanes(out->y + pixel, value, lanes);
        }
    }
}

/* y of each tile of a row of tiles, of which the last may lie partly outside the image. */
FC_INLINE void winograd_outputs(int lacks, int points, int m, const fc_winograd_output *out)
{
    const int height = (int)out->height, width = (int)out->width, rows = (int)out->rows;
    for (size_t t = 0; t < out->tiles; t++) {
        const ptrdiff_t left = out->columns - (ptrdiff_t)t * out->width;
        const int columns = (int)(left < out->width ? left : out->width);
        for (size_t c = 0; c < out->channels; c += FC_LANES) {
            const size_t lanes = out->channels - c < FC_LANES ? out->channels - c : FC_LANES;
            const float *from = out->points + (ptrdiff_t)t * out->tile + c;
            const ptrdiff_t at = (ptrdiff_t)t * out->y_tile + (ptrdiff_t)c;
            if (out->ahead && c % FC_LINE_FLOATS == 0)
                for (ptrdiff_t i = 0; i < out->height; i++)
                    for (ptrdiff_t j = 0; j < out->width; j++)
                        __builtin_prefetch(out->y + out->ahead + at + i * out->y_row + j * out->y_pixel, 1, 2);
            const vf bias = out->bias ? vload_lanes(out->bias + c, lanes) : (vf){0};
            /* Asked for each output, what is stored would take longer than the arithmetic. */
            const int whole = rows == height && columns == width && lanes == FC_LANES;
            if (whole && height == m && width == m)
                output_tile(lacks, points, m, m, m, m, m, FC_LANES, out, from, at, bias);
            else if (whole && height == m)
                output_tile(lacks, points, m, m, m - 1, m, m - 1, FC_LANES, out, from, at, bias);
            else if (whole && width == m)
                output_tile(lacks, points, m, m - 1, m, m - 1, m, FC_LANES, out, from, at, bias);
            else if (whole)
                output_tile(lacks, points, m, m - 1, m - 1, m - 1, m - 1, FC_LANES, out, from, at, bias);
            else
                output_tile(lacks, points, m, height, width, rows, columns, lanes, out, from, at, bias);
        }
    }
}

static void winograd_data_4(const fc_winograd_input *in) { transform_tiles(1, 4, 4, in); }
static void winograd_data_6(const fc_winograd_input *in) { transform_tiles(1, 6, 6, in); }

#define FC_WINOGRAD_KERNELS(POINTS, R, M)                                                                           \
    static void winograd_gradient_##R(const fc_winograd_input *in) { transform_tiles(0, POINTS, M, in); }          \
    static void winograd_output_##R(const fc_winograd_output *out) { winograd_outputs(LACKS_FIRST, POINTS, M, out); } \
    static void winograd_weight_##R(const fc_winograd_output *out) { winograd_outputs(LACKS_LAST, POINTS, R, out); } \
    static void winograd_filter_##R(const ptrdiff_t taps[2], size_t channels, size_t vectors, ptrdiff_t width,     \
                                    const float *w, float *u, ptrdiff_t plane)                                     \
    {                                                                                                              \
        winograd_filters(POINTS, R, taps, channels, vectors, width, w, u, plane);                                  \
    }
FC_WINOGRAD_KERNELS(4, 2, 3)
FC_WINOGRAD_KERNELS(6, 3, 4)
FC_WINOGRAD_KERNELS(6, 4, 3)
FC_WINOGRAD_KERNELS(6, 5, 2)
#undef FC_WINOGRAD_KERNELS

static void winograd_products_3(const fc_winograd_few *few) { winograd_products(3, few); }
static void winograd_products_4(const fc_winograd_few *few) { winograd_products(4, few); }
static void winograd_products_5(const fc_winograd_few *few) { winograd_products(5, few); }

#endif
