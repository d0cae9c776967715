/* SPDX-License-Identifier: MIT */
/* Winograd's algorithm (see winograd.h) where lanes stand for tiles, each of another image or all of one, for channels
 * so few that they would leave lanes idle.
 *
 *   y  = A^T [ U . (B^T x B) ] A       forward, U = G w G^T
 *   dx = B [ U . (A dy A^T) ] B^T      backward_input: the same map transposed, to which all tiles that overlap add
 *
 * Blocks are [row][pixel][channel][lane]. */
#ifndef FC_WINOGRAD_LANES_H
#define FC_WINOGRAD_LANES_H

#include "copy.h"
#include "kernels.h"
#include "simd.h"
#include "winograd.h"

/* y[c*y_step + l] = rows[l][c], c < n: a vector of lanes for each of n floats of FC_LANES rows. */
static void gather_lanes(size_t n, const float *const *rows, float *y, ptrdiff_t y_step)
{
    for (size_t c = 0; c < n; c += FC_LANES) {
        const size_t width = n - c < FC_LANES ? n - c : FC_LANES;
        vf block[FC_LANES];
        FC_UNROLL(16)
        for (int l = 0; l < FC_LANES; l++)
            block[l] = vload_lanes(rows[l] + c, width);
        transpose_lanes(block);
        FC_UNROLL(16)
        for (size_t i = 0; i < FC_LANES; i++)
            if (i < width)
                vstore(y + (ptrdiff_t)(c + i) * y_step, block[i]);
    }
}

/* The way back, to the first `count` rows: rows[l][c] = x[c*x_step + l], or added to what is there. Where rows overlap,
 * each further on in memory, a float is added to in the order of the rows: so the last vectors of all come first. */
FC_INLINE void lanes_to_rows(int add, size_t n, const float *x, ptrdiff_t x_step, float *const *rows, size_t count)
{
    for (size_t end = n, width; end; end -= width) {
        width = end % FC_LANES ? end % FC_LANES : FC_LANES;
        const size_t c = end - width;
        vf block[FC_LANES] = {0};
        FC_UNROLL(16)
        for (size_t i = 0; i < FC_LANES; i++)
            if (i < width)
                block[i] = vload(x + (ptrdiff_t)(c + i) * x_step);
        transpose_lanes(block);
        FC_UNROLL(16)
        for (size_t l = 0; l < FC_LANES; l++)
            if (l < count)
                vstore_lanes(rows[l] + c, add ? vload_lanes(rows[l] + c, width) + block[l] : block[l], width);
    }
}

static void scatter_lanes(size_t n, const float *x, ptrdiff_t x_step, float *const *rows, size_t count)
{
    lanes_to_rows(0, n, x, x_step, rows, count);
}

static void add_lanes(size_t n, const float *x, ptrdiff_t x_step, float *const *rows, size_t count)
{
    lanes_to_rows(1, n, x, x_step, rows, count);
}

/* B p: six pixels, of products of two points that G made, of the weights and, in place of A, of dy. B makes up for what
 * differs: it divides by SCALE_0 at 0, where A does not scale, and has A's scales at the other points. */
FC_INLINE void data_of_points(const vf p[6], vf x[6])
{
    static const float from_zero[3] = {0.87890625 / SCALE_0, -2.640625 / SCALE_0, 1 / SCALE_0};
    static const float from_infinity[2] = {0.87890625, -2.640625};
    static const float from_1[4] = {-1.40625 * SCALE_1, -2.25 * SCALE_1, 0.625 * SCALE_1, SCALE_1};
    static const float from_2[4] = {-0.5859375 * SCALE_2, -0.390625 * SCALE_2, 1.5 * SCALE_2, SCALE_2};
    const vf even1 = p[1] + p[2], odd1 = p[1] - p[2], even2 = p[3] + p[4], odd2 = p[3] - p[4];
    x[0] = vproduct(vset1(from_zero[0]), p[0]);        /* not fused with what it is added to */
    FC_UNROLL(4)
    for (int i = 1; i < 5; i++) {
        const vf end = i % 2 ? vproduct(vset1(from_infinity[i / 2]), p[5]) : vproduct(vset1(from_zero[i / 2]), p[0]);
        x[i] = vfma(vset1(from_1[i - 1]), i % 2 ? odd1 : even1, vfma(vset1(from_2[i - 1]), i % 2 ? odd2 : even2, end));
    }
    x[5] = p[5];
}

/* Planes at once: so many chains of multiply-adds that they need not wait for each other, as registers allow. */
enum { LANE_PLANES = FC_REGISTERS == 32 ? 2 : 1 };

/* products[plane][k] = sum over c of u[plane][c][k] points[plane][c], of some outputs. */
FC_INLINE void lane_products(int outputs, const fc_winograd_lanes *t, const float *u)
{
    const ptrdiff_t u_width = t->u_width, u_plane = t->u_plane, v_plane = t->points_plane, m_plane = t->products_plane;
    const size_t inputs = t->inputs;
    const float *points = t->points;
    float *products = t->products;
    for (int plane = 0; plane < FC_WINOGRAD_MOST_PLANES; plane += LANE_PLANES) {
        vf sum[LANE_PLANES][FC_LANE_OUTPUTS] = {{{0}}};
        const float *v = points, *factor = u;
        for (size_t c = 0; c < inputs; c++, v += FC_LANES, factor += u_width)
            FC_UNROLL(2)
            for (int p = 0; p < LANE_PLANES; p++) {
                const vf value = vload(v + p * v_plane);
                FC_UNROLL(8)
                for (int k = 0; k < outputs; k++)
                    sum[p][k] = vfma(vset1(factor[p * u_plane + k]), value, sum[p][k]);
            }
        FC_UNROLL(2)
        for (int p = 0; p < LANE_PLANES; p++)
            FC_UNROLL(8)
            for (int k = 0; k < outputs; k++)
                vstore(products + p * m_plane + k * FC_LANES, sum[p][k]);
        points += LANE_PLANES * v_plane;
        u += LANE_PLANES * u_plane;
        products += LANE_PLANES * m_plane;
    }
}

/* Of outputs first .. first + outputs - 1: FC_LANE_OUTPUTS, or the last ones. */
static void products_of_lanes(const fc_winograd_lanes *t, size_t first, size_t outputs)
{
    const size_t width = (size_t)t->u_width;
    const float *u = t->u + (ptrdiff_t)(first / width) * t->u_panel + first % width;
    _Static_assert(FC_LANE_OUTPUTS == 8, "the cases below");
    switch (outputs) {
    case 1: lane_products(1, t, u); break;
    case 2: lane_products(2, t, u); break;
    case 3: lane_products(3, t, u); break;
    case 4: lane_products(4, t, u); break;
    case 5: lane_products(5, t, u); break;
    case 6: lane_products(6, t, u); break;
    case 7: lane_products(7, t, u); break;
    default: lane_products(8, t, u);
    }
}

/* The number of outputs from `first` on that are made at once. */
FC_INLINE size_t outputs_at_once(const fc_winograd_lanes *t, size_t first)
{
    return t->outputs - first < FC_LANE_OUTPUTS ? t->outputs - first : FC_LANE_OUTPUTS;
}

/* A tile of y. */
FC_INLINE void lanes_forward(int m, const fc_winograd_lanes *t)
{
    const fc_winograd_output out = {
        .plane = t->products_plane, .y = t->y, .y_row = t->y_row, .y_pixel = t->y_pixel, .relu = t->relu,
    };
    for (size_t c = 0; c < t->inputs; c++)
        transform_tile(1, 6, 6, 0, 6, 0, 6, t->x + c * FC_LANES, t->x_row, t->x_pixel, t->points + c * FC_LANES,
                       t->points_plane);
    for (size_t first = 0; first < t->outputs; first += FC_LANE_OUTPUTS) {
        const size_t outputs = outputs_at_once(t, first);
        products_of_lanes(t, first, outputs);
        for (size_t k = 0; k < outputs; k++)
            output_tile(LACKS_FIRST, 6, m, m, m, m, m, FC_LANES, &out, t->products + k * FC_LANES,
                        (ptrdiff_t)((first + k) * FC_LANES), vset1(t->bias ? t->bias[first + k] : 0));
    }
}

/* Adds B p B^T to a tile of dx. */
FC_INLINE void add_tile(const float *points, ptrdiff_t plane, float *tile, ptrdiff_t row, ptrdiff_t pixel)
{
    vf across[6][6];
    FC_UNROLL(6)
    for (int i = 0; i < 6; i++) {
        vf p[6];
        FC_OPAQUE(points);
        FC_UNROLL(6)
        for (int j = 0; j < 6; j++, points += plane)
            p[j] = vload(points);
        data_of_points(p, across[i]);
    }
    FC_UNROLL(6)
    for (int j = 0; j < 6; j++, tile += pixel) {
        vf p[6], x[6];
        float *to = tile;
        FC_OPAQUE(to);
        FC_UNROLL(6)
        for (int i = 0; i < 6; i++)
            p[i] = across[i][j];
        data_of_points(p, x);
        FC_UNROLL(6)
        for (int i = 0; i < 6; i++, to += row)
            vstore(to, vload(to) + x[i]);
    }
}

/* A tile of dy, added to dx. */
FC_INLINE void lanes_transposed(int m, const fc_winograd_lanes *t)
{
    for (size_t k = 0; k < t->inputs; k++)
        transform_tile(0, 6, m, 0, m, 0, m, t->x + k * FC_LANES, t->x_row, t->x_pixel, t->points + k * FC_LANES,
                       t->points_plane);
    for (size_t first = 0; first < t->outputs; first += FC_LANE_OUTPUTS) {
        const size_t outputs = outputs_at_once(t, first);
        products_of_lanes(t, first, outputs);
        for (size_t c = 0; c < outputs; c++)
            add_tile(t->products + c * FC_LANES, t->products_plane, t->y + (first + c) * FC_LANES, t->y_row, t->y_pixel);
    }
}

#define FC_LANES_KERNELS(R)                                                                       \
    static void lanes_forward_##R(const fc_winograd_lanes *t) { lanes_forward(7 - R, t); }       \
    static void lanes_transposed_##R(const fc_winograd_lanes *t) { lanes_transposed(7 - R, t); }
FC_LANES_KERNELS(3)
FC_LANES_KERNELS(4)
FC_LANES_KERNELS(5)
#undef FC_LANES_KERNELS

#endif
