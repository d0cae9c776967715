/* SPDX-License-Identifier: MIT */
/* Winograd's minimal filtering: a tile of m x m outputs of an r x r filter, m + r = 7, from 36 products
 * instead of m^2 r^2 (Lavin and Gray, arXiv 1509.09308).
 *
 *   y = A^T [ (G w G^T) . (B^T x B) ] A        x: 6 x 6, w: r x r, y: m x m
 *
 * on the points 0, +-5/8, +-3/2 and infinity, which round least of the simple ones: B^T is the same for every
 * r, G has the powers 0 .. r-1 of the points, A^T the powers 0 .. m-1. The gradient of w exchanges the two:
 * dw = A^T [ sum over tiles of (G dy G^T) . (B^T x B) ] A with the roles of m and r swapped.
 *
 * The last output of a tile alone takes the point at infinity, and is alone in needing the last pixel. So a tile of
 * m - 1 outputs along an axis leaves both out, and is the same algorithm on the five finite points: 30 or 25 products.
 *
 * Lanes stand for channels; the 36 points of a tile lie `plane` floats apart. A transform is its one-dimensional
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

/* Half of B^T x: its first (0) or last (1) three values. */
FC_INLINE void half_points_of_data(int half, const vf x[6], vf out[3])
{
    const vf square = vset1(half ? -0.390625f : -2.25f), point = vset1(half ? 1.5f : 0.625f);
    const vf even = vfma(square, x[2], x[4]), odd = vfma(square, x[1], x[3]);
    const vf end = vfma(vset1(0.87890625f), x[half], vfma(vset1(-2.640625f), x[2 + half], x[4 + half]));
    const vf plus = vfma(point, odd, even), minus = vfma(-point, odd, even);
    out[0] = half ? plus : end;
    out[1] = half ? minus : plus;
    out[2] = half ? end : minus;
}

/* Power i of a point of the first (0) or second (1) half of G, over the product of its differences to the others. */
FC_INLINE double filter_power(int half, int i)
{
    const double by = half ? 1 / 8.3671875 : -1 / 1.45263671875, point = half ? 1.5 : 0.625, square = point * point;
    return by * (i > 1 ? square : 1) * (i > 3 ? square : 1) * (i % 2 ? point : 1);
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
FC_INLINE void half_points_of_filter(int half, int r, const vf *w, vf out[3])
{
    vf power[5], even, odd;
    FC_UNROLL(5)
    for (int i = 0; i < r; i++)
        power[i] = vset1((float)filter_power(half, i));
    sum_terms(r, power, w, &even, &odd);
    const vf end = half ? w[r - 1] : (float)(1 / 0.87890625) * w[0];
    out[0] = half ? even + odd : end;
    out[1] = half ? even - odd : even + odd;
    out[2] = half ? end : even - odd;
}

/* B^T x or G x. */
FC_INLINE void points_of(int data, int size, const vf *x, vf out[6])
{
    FC_UNROLL(2)
    for (int half = 0; half < 2; half++)
        data ? half_points_of_data(half, x, out + 3 * half) : half_points_of_filter(half, size, x, out + 3 * half);
}

/* A^T p, for m = 2 .. 5 outputs. */
FC_INLINE void outputs_of_points(int m, const vf p[6], vf *y)
{
    const vf even1 = p[1] + p[2], odd1 = p[1] - p[2], even2 = p[3] + p[4], odd2 = p[3] - p[4];
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

/* The points of one vector of channels of a tile of height x width pixels, of `size` or one less each way. In two
 * halves of rows, whose 18 vectors fit the registers: what limits a transform is its stores. */
FC_INLINE void transform_tile(int data, int size, int height, int width, const float *tile, ptrdiff_t row,
                              ptrdiff_t pixel, float *to, ptrdiff_t plane)
{
    FC_UNROLL(2)
    for (int half = 0; half < 2; half++) {
        vf down[6][3];
        const float *from = tile;
        FC_UNROLL(6)
        for (int j = 0; j < width; j++, from += pixel) {
            vf x[6];
            FC_OPAQUE(from);       /* or 36 addresses are worked out at first, and kept on the stack */
            FC_UNROLL(6)
            for (int i = 0; i < 6; i++)
                x[i] = i >= height || (data && i == 5 * !half) ? (vf){0} : vload(from + i * row);
            data ? half_points_of_data(half, x, down[j]) : half_points_of_filter(half, height, x, down[j]);
        }
        FC_UNROLL(3)
        for (int i = 0; i < 3; i++) {
            if (half && i == 2 && height < size)
                break;
            vf x[6] = {{0}}, points[6];
            FC_OPAQUE(to);         /* likewise */
            FC_UNROLL(6)
            for (int j = 0; j < width; j++)
                x[j] = down[j][i];
            points_of(data, width, x, points);
            FC_UNROLL(6)
            for (int j = 0; j < 6; j++, to += plane)
                if (j < 5 || width == size)
                    vstore(to, points[j]);
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

/* The points of each tile of a row of tiles. data: of 6 x 6 pixels that overlap (B^T x B). Else tiles of size x size,
 * side by side (G dy G^T). */
FC_INLINE void transform_tiles(int data, int size, const fc_winograd_input *in)
{
    float border[FC_WINOGRAD_PLANES * BORDER_CHANNELS] __attribute__((aligned(64)));
    const int height = (int)in->height, width = (int)in->width, kind = 2 * (height < size) + (width < size);
    const int rows_whole = in->first_row == 0 && in->last_row == height;
    for (size_t t = 0; t < in->tiles; t++) {
        const ptrdiff_t pixel = (ptrdiff_t)t * in->step - in->left, plane = in->plane;
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
                switch (kind) {
                case 0: transform_tile(data, size, size, size, from, row, next, to, plane); break;
                case 1: transform_tile(data, size, size, size - 1, from, row, next, to, plane); break;
                case 2: transform_tile(data, size, size - 1, size, from, row, next, to, plane); break;
                default: transform_tile(data, size, size - 1, size - 1, from, row, next, to, plane);
                }
            }
        }
    }
}

/* u[plane][c][width] = G w G^T of w[c][r][r][width], of the first vectors of a row of `width` outputs. */
FC_INLINE void winograd_filters(int r, size_t channels, size_t vectors, ptrdiff_t width, const float *w, float *u,
                                ptrdiff_t plane)
{
    for (size_t c = 0; c < channels; c++, w += r * r * width, u += width)
        for (size_t v = 0; v < vectors; v++) {
            vf down[5][6];
            float *place = u + v * FC_LANES;
            FC_UNROLL(5)
            for (int s = 0; s < r; s++) {
                vf taps[5];
                FC_UNROLL(5)
                for (int i = 0; i < r; i++) {
                    const float *from = w + (i * r + s) * width + v * FC_LANES;
                    /* Taps that are kept come from memory, faster than the hardware fetches ahead. */
                    __builtin_prefetch(from + CHANNELS_AHEAD * r * r * width);
                    taps[i] = vload(from);
                }
                points_of(0, r, taps, down[s]);
            }
            FC_UNROLL(6)
            for (int i = 0; i < 6; i++) {
                vf taps[5], points[6];
                FC_OPAQUE(place);  /* or 36 addresses are kept on the stack */
                FC_UNROLL(5)
                for (int s = 0; s < r; s++)
                    taps[s] = down[s][i];
                points_of(0, r, taps, points);
                FC_UNROLL(6)
                for (int j = 0; j < 6; j++, place += plane)
                    vstore(place, points[j]);
            }
        }
}

/* One row of six planes of two vectors of outputs, of FC_FEW_TILES tiles. inner: of the points +-5/8 and +-3/2, of
 * which `powers` has the filter_power, odd ones with the sign of the point; else of 0 or infinity, by powers[0] alone. */
FC_INLINE void products_of_row(int r, int inner, const float powers[5], const float *taps, const fc_winograd_few *few)
{
    enum { PANEL = 2 * FC_LANES, SHARES = 2 * FC_WINOGRAD_POINTS * FC_LINE_FLOATS };    /* vectors, rows and lines */
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
            points_of(0, r, down, u);
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
    const int at_infinity = few->row == FC_WINOGRAD_POINTS - 1;
    if (few->row == 0 || at_infinity) {
        products_of_row(r, 0, powers, few->taps + (at_infinity ? (r - 1) * r * 2 * FC_LANES : 0), few);
        return;
    }
    for (int i = 0; i < r; i++)
        powers[i] = (float)filter_power(few->row > 2, i) * (i % 2 && few->row % 2 == 0 ? -1 : 1);
    products_of_row(r, 1, powers, few->taps, few);
}

/* y = A^T p A of one vector of channels of a tile, of which rows x columns outputs and some lanes are stored: `from` and
 * `at` are where it lies among the points and in y. Of points at infinity that a tile is without, others are read, for
 * outputs that are not stored. */
FC_INLINE void output_tile(int m, int rows, int columns, size_t lanes, const fc_winograd_output *out, const float *from,
                           ptrdiff_t at, vf bias)
{
    const ptrdiff_t plane = out->plane, last = out->width < m ? 0 : plane, to_row = 2 * plane - last;
    const ptrdiff_t to_last_row = out->height < m ? to_row - 6 * plane : to_row;
    vf across[6][5];
    FC_UNROLL(6)
    for (int i = 0; i < 6; i++) {
        vf points[6];
        FC_UNROLL(6)
        for (int j = 0; j < 6; j++) {
            points[j] = vload(from);
            from += j < 4 ? plane : j == 4 ? last : i == 4 ? to_last_row : to_row;
        }
        outputs_of_points(m, points, across[i]);
    }
    FC_UNROLL(5)
    for (int j = 0; j < m; j++) {
        vf points[6], y[5];
        FC_UNROLL(6)
        for (int i = 0; i < 6; i++)
            points[i] = across[i][j];
        outputs_of_points(m, points, y);
        FC_UNROLL(5)
        for (int i = 0; i < m; i++) {
            const ptrdiff_t pixel = at + i * out->y_row + j * out->y_pixel;
            if (i >= rows || j >= columns)
                continue;
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
FC_INLINE void winograd_outputs(int m, const fc_winograd_output *out)
{
    const int rows = (int)out->rows;
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
            if (rows == m && columns == m && lanes == FC_LANES)
                output_tile(m, m, m, FC_LANES, out, from, at, bias);
            else
                output_tile(m, rows, columns, lanes, out, from, at, bias);
        }
    }
}

static void winograd_data(const fc_winograd_input *in) { transform_tiles(1, 6, in); }

#define FC_WINOGRAD_KERNELS(R)                                                                                     \
    static void winograd_gradient_##R(const fc_winograd_input *in) { transform_tiles(0, 7 - R, in); }             \
    static void winograd_output_##R(const fc_winograd_output *out) { winograd_outputs(7 - R, out); }              \
    static void winograd_weight_##R(const fc_winograd_output *out) { winograd_outputs(R, out); }                  \
    static void winograd_products_##R(const fc_winograd_few *few) { winograd_products(R, few); }                  \
    static void winograd_filter_##R(size_t channels, size_t vectors, ptrdiff_t width, const float *w, float *u,   \
                                    ptrdiff_t plane)                                                              \
    {                                                                                                             \
        winograd_filters(R, channels, vectors, width, w, u, plane);                                               \
    }
FC_WINOGRAD_KERNELS(2)
FC_WINOGRAD_KERNELS(3)
FC_WINOGRAD_KERNELS(4)
FC_WINOGRAD_KERNELS(5)
#undef FC_WINOGRAD_KERNELS

#endif
