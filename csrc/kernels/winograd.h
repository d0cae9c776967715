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
 * Lanes stand for channels; the 36 points of a tile lie `plane` floats apart. A transform is its one-dimensional
 * form along one axis and then along the other. */
#ifndef FC_WINOGRAD_H
#define FC_WINOGRAD_H

#include "kernels.h"
#include "simd.h"

/* B^T x */
FC_INLINE void points_of_data(const vf x[6], vf out[6])
{
    const vf even1 = x[4] - 2.25f * x[2], odd1 = x[3] - 2.25f * x[1];
    const vf even2 = x[4] - 0.390625f * x[2], odd2 = x[3] - 0.390625f * x[1];
    out[0] = (x[4] - 2.640625f * x[2]) + 0.87890625f * x[0];
    out[1] = even1 + 0.625f * odd1;
    out[2] = even1 - 0.625f * odd1;
    out[3] = even2 + 1.5f * odd2;
    out[4] = even2 - 1.5f * odd2;
    out[5] = (x[5] - 2.640625f * x[3]) + 0.87890625f * x[1];
}

/* G w, for r = 2 .. 5 values: row j of G has the powers of point j over the product of its differences to the others. */
FC_INLINE void points_of_filter(int r, const vf *w, vf out[6])
{
    static const float by_zero = (float)(1 / 0.87890625);
    static const double by[2] = {-1 / 1.45263671875, 1 / 8.3671875}, point[2] = {0.625, 1.5};
    out[0] = by_zero * w[0];
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
        const double square = point[j] * point[j];
        vf even = vproduct(vset1((float)by[j]), w[0]);
        vf odd = vproduct(vset1((float)(by[j] * point[j])), w[1]);
        if (r > 2)
            even += (float)(by[j] * square) * w[2];
        if (r > 3)
            odd += (float)(by[j] * square * point[j]) * w[3];
        if (r > 4)
            even += (float)(by[j] * square * square) * w[4];
        out[1 + 2 * j] = even + odd;
        out[2 + 2 * j] = even - odd;
    }
    out[5] = w[r - 1];
}

/* A^T p, for m = 2 .. 5 outputs. */
FC_INLINE void outputs_of_points(int m, const vf p[6], vf *y)
{
    const vf even1 = p[1] + p[2], odd1 = p[1] - p[2], even2 = p[3] + p[4], odd2 = p[3] - p[4];
    float power1 = 1, power2 = 1;
    y[0] = (p[0] + even1) + even2;
#pragma GCC unroll 4
    for (int i = 1; i < m; i++) {
        power1 *= 0.625f;
        power2 *= 1.5f;
        const vf first = i % 2 ? odd1 : even1, second = i % 2 ? odd2 : even2;
        const vf sum = i == m - 1 ? p[5] + power1 * first : vproduct(vset1(power1), first);
        y[i] = sum + power2 * second;
    }
}

/* The 36 points of each tile of a row of tiles. data: tiles of 6 x 6, `step` apart (B^T x B). Else tiles of
 * step x step, side by side (G dy G^T). */
FC_INLINE void winograd_tiles(int data, int step, const fc_winograd_input *in)
{
    const int size = data ? 6 : step;
    const ptrdiff_t columns = (ptrdiff_t)(in->tiles - 1) * step + size, plane = in->plane;
    for (size_t c = 0; c < in->channels; c += FC_LANES) {
        const size_t lanes = in->channels - c < FC_LANES ? in->channels - c : FC_LANES;
        vf *const strip = (vf *)in->strip;                   /* [column][6] */
        for (ptrdiff_t j = 0; j < columns; j++) {
            const ptrdiff_t pixel = j - in->left;
            vf x[6], points[6] = {{0}};
            if (pixel >= 0 && pixel < in->inside) {
#pragma GCC unroll 6
                for (int i = 0; i < size; i++) {
                    const float *from = in->row[i] + pixel * in->pixel[i] + c;
                    /* The next channels of this pixel: columns are too far apart to be fetched ahead. */
                    __builtin_prefetch(from + 16);
                    x[i] = vload_lanes(from, lanes);
                }
                data ? points_of_data(x, points) : points_of_filter(size, x, points);
            }
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++)
                strip[j * 6 + i] = points[i];
        }
        float *to = in->points + c;
        for (size_t t = 0; t < in->tiles; t++, to += in->tile) {
            const vf *from = strip + (ptrdiff_t)t * step * 6;
            float *place = to;
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) {
                vf x[6], points[6];
#pragma GCC unroll 6
                for (int j = 0; j < size; j++)
                    x[j] = from[j * 6 + i];
                data ? points_of_data(x, points) : points_of_filter(size, x, points);
#pragma GCC unroll 6
                for (int j = 0; j < 6; j++, place += plane)
                    vstore(place, points[j]);
            }
        }
    }
}

/* u = G w G^T for each channel: w[r*row + s*column + c*channel + lane], u[plane][c*u_channel + lane]. */
FC_INLINE void winograd_filters(int r, size_t channels, size_t lanes, const float *w, ptrdiff_t row, ptrdiff_t column,
                                ptrdiff_t channel, float *u, ptrdiff_t u_channel, ptrdiff_t plane)
{
    for (size_t c = 0; c < channels; c++, w += channel, u += u_channel) {
        vf down[5][6];
        float *place = u;
#pragma GCC unroll 5
        for (int s = 0; s < r; s++) {
            vf taps[5];
#pragma GCC unroll 5
            for (int i = 0; i < r; i++)
                taps[i] = vload_lanes(w + i * row + s * column, lanes);
            points_of_filter(r, taps, down[s]);
        }
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) {
            vf taps[5], points[6];
#pragma GCC unroll 5
            for (int s = 0; s < r; s++)
                taps[s] = down[s][i];
            points_of_filter(r, taps, points);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++, place += plane)
                vstore(place, points[j]);
        }
    }
}

/* y = A^T p A of each tile of a row of tiles, of which the last may lie partly outside the image. */
FC_INLINE void winograd_outputs(int m, const fc_winograd_output *out)
{
    const ptrdiff_t plane = out->plane;
    for (size_t t = 0; t < out->tiles; t++) {
        const ptrdiff_t left = out->columns - (ptrdiff_t)t * m;
        const int columns = left < m ? (int)left : m, rows = (int)out->rows;
        for (size_t c = 0; c < out->channels; c += FC_LANES) {
            const size_t lanes = out->channels - c < FC_LANES ? out->channels - c : FC_LANES;
            const float *from = out->points + (ptrdiff_t)t * out->tile + c;
            const ptrdiff_t at = (ptrdiff_t)t * out->y_tile + (ptrdiff_t)c;
            const vf bias = out->bias ? vload_lanes(out->bias + c, lanes) : (vf){0};
            vf across[6][5];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) {
                vf points[6];
#pragma GCC unroll 6
                for (int j = 0; j < 6; j++, from += plane)
                    points[j] = vload(from);
                outputs_of_points(m, points, across[i]);
            }
#pragma GCC unroll 5
            for (int j = 0; j < m; j++) {
                vf points[6], y[5];
#pragma GCC unroll 6
                for (int i = 0; i < 6; i++)
                    points[i] = across[i][j];
                outputs_of_points(m, points, y);
#pragma GCC unroll 5
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
    }
}

#define FC_WINOGRAD(R)                                                                                             \
    static void winograd_data_##R(const fc_winograd_input *in)     { winograd_tiles(1, 7 - R, in); }              \
    static void winograd_gradient_##R(const fc_winograd_input *in) { winograd_tiles(0, 7 - R, in); }              \
    static void winograd_output_##R(const fc_winograd_output *out) { winograd_outputs(7 - R, out); }              \
    static void winograd_weight_##R(const fc_winograd_output *out) { winograd_outputs(R, out); }                  \
    static void winograd_filter_##R(size_t channels, size_t lanes, const float *w, ptrdiff_t row,                 \
                                    ptrdiff_t column, ptrdiff_t channel, float *u, ptrdiff_t u_channel,           \
                                    ptrdiff_t plane)                                                              \
    {                                                                                                             \
        winograd_filters(R, channels, lanes, w, row, column, channel, u, u_channel, plane);                       \
    }
FC_WINOGRAD(3)
FC_WINOGRAD(5)
#undef FC_WINOGRAD

#endif
