/* SPDX-License-Identifier: MIT */
/* Winograd's minimal filtering: a tile of m x m outputs of an r x r filter from n x n products, n = m + r - 1,
 * instead of m^2 r^2 (Lavin and Gray, arXiv 1509.09308).
 *
 *   y = A^T [ (G w G^T) . (B^T x B) ] A        x: n x n, w: r x r, y: m x m
 *
 * For r = 3, 4 and 5 n is 6, on the points 0, +-5/8, +-3/2 and infinity, which round least of the simple ones. For
 * r = 2 it is 4, on 0, +-1 and infinity: of the pieces of filters with a stride of 2, tiles of 5 x 5 outputs on six
 * points would save a tenth of the products, but round three times as much and take three times the points of weights.
 * B^T is the same for every r of as many points, G has the powers 0 .. r-1 of the points, A^T the powers 0 .. m-1. The
 * gradient of w exchanges the two: dw = A^T [ sum over tiles of (G dy G^T) . (B^T x B) ] A with the roles of m and r
 * swapped.
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

/* Power i of a point of the first (0) or second (1) half of G, over the product of its differences to the others. */
FC_INLINE double filter_power(int points, int half, int i)
{
    const double six = half ? 1 / 8.3671875 : -1 / 1.45263671875, point = half ? 1.5 : 0.625, square = point * point;
    return points == 4 ? 0.5 : six * (i > 1 ? square : 1) * (i > 3 ? square : 1) * (i % 2 ? point : 1);
}

/* The even and the odd terms of r = 1 .. 5 taps times powers of a point. */
FC_INLINE void sum_terms(int r, const vf power[5], const vf *w, vf *even, vf *odd)
{
    *even = vproduct(power[0], w[0]);
    *odd = (vf){0};
    if (r > 1)
        *odd = vproduct(power[1], w[1]);
    if (r > 2)
        *even = vfma(power[2], w[2], *even);
    if (r > 3)
        *odd = vfma(power[3], w[3], *odd);
    if (r > 4)
        *even = vfma(power[4], w[4], *even);
}

/* Half of G w, for r = 1 .. 5 values: row j of G has the powers of point j over the product of its differences to the
 * others. */
FC_INLINE void half_points_of_filter(int points, int half, int r, const vf *w, vf out[3])
{
    vf power[5], even, odd;
    FC_UNROLL(5)
    for (int i = 0; i < r; i++)
        power[i] = vset1((float)filter_power(points, half, i));
    sum_terms(r, power, w, &even, &odd);
    if (points == 4) {
        out[0] = half ? even - odd : w[0];
        out[1] = half ? w[r - 1] : even + odd;
        return;
    }
    const vf end = half ? w[r - 1] : (float)(1 / 0.87890625) * w[0];
    out[0] = half ? even + odd : end;
    out[1] = half ? even - odd : even + odd;
    out[2] = half ? end : even - odd;
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
        y[0] = p[0] + even1;
        FC_UNROLL(2)
        for (int i = 1; i < m; i++)
            y[i] = i == m - 1 ? p[3] + (i % 2 ? odd1 : even1) : i % 2 ? odd1 : even1;
        return;
    }
    const vf even2 = p[3] + p[4], odd2 = p[3] - p[4];
    float power1 = 1, power2 = 1;
    y[0] = (p[0] + even1) + even2;
    FC_UNROLL(4)
    for (int i = 1; i < m; i++) {
        power1 *= 0.625f;
        power2 *= 1.5f;
        const vf first = i % 2 ? odd1 : even1, second = i % 2 ? odd2 : even2;
        const vf sum = i == m - 1 ? vfma(vset1(power1), first, p[5]) : vproduct(vset1(power1), first);
        y[i] = vfma(vset1(power2), second, sum);
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
 * an axis of r - 1 taps it is without the point at infinity. */
FC_INLINE void transform_filters(int points, int r, int rows, int columns, size_t channels, size_t vectors,
                                 ptrdiff_t width, const float *w, float *u, ptrdiff_t plane)
{
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
            for (int i = 0; i < points - (rows < r); i++) {
                vf taps[5], out[6];
                FC_OPAQUE(place);  /* or 36 addresses are kept on the stack */
                FC_UNROLL(5)
                for (int s = 0; s < columns; s++)
                    taps[s] = down[s][i];
                points_of(0, points, columns, taps, out);
                FC_UNROLL(6)
                for (int j = 0; j < points; j++, place += plane)
                    if (j < points - (columns < r))
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

/* One row of six planes of two vectors of outputs, of FC_FEW_TILES tiles. inner: of the points +-5/8 and +-3/2, of
 * which `powers` has the filter_power, odd ones with the sign of the point; else of 0 or infinity, by powers[0] alone. */
FC_INLINE void products_of_row(int r, int inner, const float powers[5], const float *taps, const fc_winograd_few *few)
{
    enum { PANEL = 2 * FC_LANES, SHARES = 2 * 6 * FC_LINE_FLOATS };        /* vectors, rows and lines */
    ptrdiff_t one = few->plane * (ptrdiff_t)sizeof(float), three = 3 * one, five = 5 * one;
    FC_OPAQUE(one);                /* or 24 addresses are kept, most of them on the stack */
    FC_OPAQUE(three);
    FC_OPAQUE(five);
    const int terms = inner ? r : 1;
    vf power[5];
    FC_UNROLL(5)
    for (int i = 0; i < terms; i++)
        power[i] = vset1(powers[i]);
    const float *next = few->next;
    for (ptrdiff_t vector = 0; vector < PANEL; vector += FC_LANES) {
        vf sums[FC_FEW_TILES][6] = {{{0}}};
        const float *w = taps + vector, *tile[FC_FEW_TILES];
        FC_UNROLL(4)
        for (ptrdiff_t t = 0; t < FC_FEW_TILES; t++)       /* those that are not there are the last once more */
            tile[t] = few->points + (t < few->tiles ? t : few->tiles - 1) * few->tile;
        for (ptrdiff_t c = 0; c < few->channels; c++, w += r * r * PANEL) {
            vf down[5], u[6];
            FC_UNROLL(5)
            for (int line = 0; line < (r * r * PANEL + SHARES - 1) / SHARES; line++, next += FC_LINE_FLOATS)
                __builtin_prefetch(next, 0, 2);
            FC_UNROLL(5)
            for (int s = 0; s < r; s++) {
                vf tap[5], even, odd;
                FC_UNROLL(5)
                for (int i = 0; i < terms; i++)
                    tap[i] = vload(w + (i * r + s) * PANEL);
                sum_terms(terms, power, tap, &even, &odd);
                down[s] = inner ? even + odd : even;
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
            if (t >= few->tiles)
                break;
            float *m = few->m + t * few->m_tile + vector;
            FC_UNROLL(6)
            for (int j = 0; j < 6; j++, m += few->m_plane)
                vstore(m, few->accumulate ? sums[t][j] + vload(m) : sums[t][j]);
        }
    }
}

/* m[6 row + j][tile] (+)= sum over c of points[j][tile][c] u[c], u being the points of taps[c][r][r] of two vectors of
 * outputs. A point made for a few tiles costs as much as its products if it is stored and read again, which is not done
 * here. */
FC_INLINE void winograd_products(int r, const fc_winograd_few *few)
{
    float powers[5] = {few->row ? 1 : (float)(1 / 0.87890625)};
    const int at_infinity = few->row == 5;
    if (few->row == 0 || at_infinity) {
        products_of_row(r, 0, powers, few->taps + (at_infinity ? (r - 1) * r * 2 * FC_LANES : 0), few);
        return;
    }
    for (int i = 0; i < r; i++)
        powers[i] = (float)filter_power(6, few->row > 2, i) * (i % 2 && few->row % 2 == 0 ? -1 : 1);
    products_of_row(r, 1, powers, few->taps, few);
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
