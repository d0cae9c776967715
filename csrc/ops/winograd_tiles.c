/* SPDX-License-Identifier: MIT */
/* Runs of tiles and their points: what the forward pass and the gradient of the weights share. */
#include <string.h>

#include "../runtime/timers.h"
#include "integers.h"
#include "rows.h"
#include "winograd.h"

ptrdiff_t fc_winograd_part(ptrdiff_t r, ptrdiff_t channels)
{
    const ptrdiff_t most = fc_winograd_points(r) == 4 ? FC_WINOGRAD_PART_OF_FOUR_POINTS : FC_WINOGRAD_PART;
    const ptrdiff_t parts = max(1, ceil_div(channels, most));
    return max(1, min(channels, ceil_div(ceil_div(channels, parts), FC_MAX_LANES) * FC_MAX_LANES));
}

/* ---- tilings ---------------------------------------------------------------------------------------------- */

/* Whether tiles of each kind are short down and across. */
static const int IS_SHORT[FC_TILE_KINDS][2] = {{0, 1}, {0, 0}, {1, 0}, {1, 1}};

/* Of the tiles of m outputs along an axis of `length`, how many are short. */
static ptrdiff_t short_tiles(ptrdiff_t m, ptrdiff_t length)
{
    const ptrdiff_t tiles = ceil_div(length, m);
    return min(tiles, tiles * m - length);
}

/* Rows (0) or columns (1) of tiles of a kind, of an image. */
static ptrdiff_t along(const fc_tiling *tiling, int kind, int axis)
{
    return IS_SHORT[kind][axis] ? tiling->narrow[axis] : tiling->full[axis];
}

fc_tiling fc_tile_images(ptrdiff_t r, ptrdiff_t images, ptrdiff_t height, ptrdiff_t width)
{
    const ptrdiff_t m = fc_winograd_outputs(r);
    const ptrdiff_t narrow[2] = {short_tiles(m, height), short_tiles(m, width)};
    fc_tiling tiling = {
        .m = m,
        .points = fc_winograd_points(r),
        .full = {ceil_div(height, m) - narrow[0], ceil_div(width, m) - narrow[1]},
        .narrow = {narrow[0], narrow[1]},
    };
    for (int kind = 0; kind < FC_TILE_KINDS; kind++)
        tiling.start[kind + 1] = tiling.start[kind] + images * along(&tiling, kind, 0) * along(&tiling, kind, 1);
    return tiling;
}

double fc_tile_points(ptrdiff_t r, ptrdiff_t length, int finite)
{
    const ptrdiff_t m = fc_winograd_outputs(r);
    return (double)ceil_div(length, m) * (double)(fc_winograd_points(r) - finite) - (double)short_tiles(m, length);
}

fc_tile_range fc_tiles_of_plane(const fc_tiling *tiling, ptrdiff_t plane, ptrdiff_t first, ptrdiff_t end)
{
    ptrdiff_t from = first, to = end;
    if (plane % tiling->points == 0) {
        from = max(from, tiling->start[1]);
        to = min(to, tiling->start[3]);
    }
    if (plane < tiling->points)
        to = min(to, tiling->start[2]);
    return from < to ? (fc_tile_range){from, to} : (fc_tile_range){end, end};
}

ptrdiff_t fc_tile_share(const fc_tiling *tiling, ptrdiff_t index, ptrdiff_t shares)
{
    double planes[FC_TILE_KINDS], all = 0;
    for (int kind = 0; kind < FC_TILE_KINDS; kind++) {
        planes[kind] = (double)((tiling->points - IS_SHORT[kind][0]) * (tiling->points - IS_SHORT[kind][1]));
        all += planes[kind] * (double)(tiling->start[kind + 1] - tiling->start[kind]);
    }
    ptrdiff_t tile = 0;
    double left = all * (double)index / (double)shares;
    for (int kind = 0; kind < FC_TILE_KINDS; kind++) {
        const ptrdiff_t tiles = min(tiling->start[kind + 1] - tile, (ptrdiff_t)(left / planes[kind] + 0.5));
        tile += tiles;
        left -= planes[kind] * (double)tiles;
    }
    return tile;
}

static fc_tile_run run_at(const fc_tiling *tiling, ptrdiff_t t, ptrdiff_t end)
{
    int kind = 0;
    while (t >= tiling->start[kind + 1])
        kind++;
    const ptrdiff_t rows = along(tiling, kind, 0), columns = along(tiling, kind, 1), at = t - tiling->start[kind];
    const int *is_short = IS_SHORT[kind];
    const ptrdiff_t column = at % columns, row = at / columns % rows;
    fc_tile_run run = {
        .n = at / columns / rows,
        .tiles = min(min(columns - column, end - t), FC_MOST_RUN),
        .height = tiling->m - is_short[0],
        .width = tiling->m - is_short[1],
        .is_short = {is_short[0], is_short[1]},
    };
    run.row = is_short[0] * tiling->full[0] * tiling->m + row * run.height;
    run.column = is_short[1] * tiling->full[1] * tiling->m + column * run.width;
    return run;
}

fc_tile_run fc_tile_run_at(const fc_tiling *tiling, ptrdiff_t t, ptrdiff_t end)
{
    const ptrdiff_t all = tiling->start[FC_TILE_KINDS];
    fc_tile_run run = run_at(tiling, t, end);
    const fc_tile_run next = t + run.tiles < all ? run_at(tiling, t + run.tiles, all) : run;
    run.next[0] = next.n;
    run.next[1] = next.row;
    run.next[2] = next.column;
    return run;
}

/* ---- phases ----------------------------------------------------------------------------------------------- */

int fc_winograd_has(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_stride, ptrdiff_t column_stride)
{
    const ptrdiff_t r = fc_winograd_taps(rows, row_stride);
    return rows == columns && row_stride == column_stride && row_stride <= FC_WINOGRAD_MOST_STRIDE &&
           r >= FC_WINOGRAD_LEAST_TAPS && r <= FC_WINOGRAD_MOST_TAPS;
}

ptrdiff_t fc_winograd_folds(ptrdiff_t channels, ptrdiff_t taps, ptrdiff_t stride)
{
    return channels < FC_MAX_LANES && stride * stride * channels <= FC_WINOGRAD_PART &&
                   fc_winograd_taps(taps, stride) <= FC_WINOGRAD_MOST_TAPS
               ? stride : 1;
}

/* The one phase of pixels folded s x s. */
static void fold(const fc_tensor *x, ptrdiff_t s, ptrdiff_t points, const ptrdiff_t taps[2], const ptrdiff_t origin[2],
                 const ptrdiff_t outputs[2], fc_winograd_phase *phase)
{
    *phase = (fc_winograd_phase){.all_points = points, .points = {points, points}, .x = *x, .folds = s};
    for (int axis = 0; axis < 2; axis++) {
        ptrdiff_t *size = &phase->x.size[2 + axis];
        phase->taps[axis] = fc_winograd_taps(taps[axis], s);
        phase->origin[axis] = floor_div(origin[axis], s);
        phase->fold_from[axis] = origin[axis] - phase->origin[axis] * s;
        *size = max(0, min(*size, origin[axis] + (outputs[axis] - 1) * s + taps[axis]));
    }
}

ptrdiff_t fc_winograd_phases_of(const fc_tensor *x, ptrdiff_t stride, ptrdiff_t folds, ptrdiff_t r,
                                const ptrdiff_t taps[2], const ptrdiff_t origin[2], const ptrdiff_t outputs[2],
                                fc_winograd_phase phases[FC_WINOGRAD_PHASES])
{
    const ptrdiff_t points = fc_winograd_points(r);
    if (folds > 1) {
        fold(x, folds, points, taps, origin, outputs, &phases[0]);
        return 1;
    }
    for (ptrdiff_t i = 0; i < stride * stride; i++) {
        fc_winograd_phase *phase = &phases[i];
        const ptrdiff_t first[2] = {i / stride, i % stride};
        phase->x = *x;
        phase->folds = 1;
        phase->all_points = points;
        for (int axis = 0; axis < 2; axis++) {
            const ptrdiff_t at = origin[axis] + first[axis], pixel = at - floor_div(at, stride) * stride;
            ptrdiff_t *size = &phase->x.size[2 + axis];
            phase->first[axis] = first[axis];
            phase->taps[axis] = ceil_div(taps[axis] - first[axis], stride);
            phase->points[axis] = points - (phase->taps[axis] < r);
            phase->origin[axis] = (at - pixel) / stride;
            if (x->data)           /* none is known where weights are prepared */
                phase->x.data += pixel * x->stride[2 + axis];
            phase->x.stride[2 + axis] *= stride;
            /* Without pixels that no tap meets, as in fold: tiles may be larger, but these must not reach outputs. */
            *size = max(0, min(ceil_div(*size - pixel, stride),
                               phase->origin[axis] + outputs[axis] + phase->taps[axis] - 1));
        }
    }
    return stride * stride;
}

ptrdiff_t fc_phase_planes(const fc_winograd_phase *phase) { return phase->points[0] * phase->points[1]; }

ptrdiff_t fc_phase_plane(const fc_winograd_phase *phase, ptrdiff_t index)
{
    return index / phase->points[1] * phase->all_points + index % phase->points[1];
}

int fc_phase_has(const fc_winograd_phase *phase, ptrdiff_t plane)
{
    return plane / phase->all_points < phase->points[0] && plane % phase->all_points < phase->points[1];
}

ptrdiff_t fc_planes_of_phases(const fc_winograd_phase *phases, ptrdiff_t count)
{
    ptrdiff_t planes = 0;
    for (ptrdiff_t i = 0; i < count; i++)
        planes += fc_phase_planes(&phases[i]);
    return planes;
}

/* ---- points ----------------------------------------------------------------------------------------------- */

static int is_read_in_place(const fc_winograd_phase *phase)
{
    return phase->folds == 1 && (phase->x.stride[1] == 1 || phase->x.size[1] == 1);
}

size_t fc_transform_floats(const fc_winograd_phase *phase, ptrdiff_t m, ptrdiff_t channels)
{
    const ptrdiff_t columns = FC_MOST_RUN * m + phase->all_points - m;
    return is_read_in_place(phase) ? 0 : (size_t)(phase->all_points * columns) * round_up(channels);
}

/* Pixels from .. to - 1 of a row to out[pixel / s][pixel % s][channel]. */
static void fold_pixels(const float *row, ptrdiff_t x_channel, ptrdiff_t x_pixel, ptrdiff_t channels, ptrdiff_t s,
                        ptrdiff_t from, ptrdiff_t to, float *out, ptrdiff_t pitch)
{
    for (ptrdiff_t first = from; first < min(from + s, to); first++)
        for (ptrdiff_t c = 0; c < channels; c++) {
            float *folded = out + first / s * pitch + first % s * channels + c;
            for (ptrdiff_t w = first; w < to; w += s, folded += pitch)
                *folded = row[w * x_pixel + c * x_channel];
        }
}

/* Row h of folded pixels, `columns` of them from `first` on, to out[column][row of s][column of s][channel]; zeros
 * outside the image, and behind the last channel up to the pitch. Of pixels side by side those of the run that comes
 * next, `ahead` floats on, are fetched to the L2 cache. */
static void fold_row(const fc_kernels *kernels, const fc_winograd_phase *phase, ptrdiff_t n, ptrdiff_t c0,
                     ptrdiff_t channels, ptrdiff_t h, ptrdiff_t first, ptrdiff_t columns, ptrdiff_t ahead, float *out,
                     ptrdiff_t pitch)
{
    const fc_tensor *x = &phase->x;
    const ptrdiff_t s = phase->folds, h0 = h * s + phase->fold_from[0], w0 = first * s + phase->fold_from[1];
    const ptrdiff_t begin = max(0, -w0), end = max(begin, min(columns * s, x->size[3] - w0));
    /* Pixels side by side are copied together, as far as all s of a folded one are there. */
    const int contiguous = x->stride[3] == channels && (x->stride[1] == 1 || channels == 1);
    const ptrdiff_t whole = contiguous ? min(end, ceil_div(begin, s) * s) : end, rest = max(whole, end / s * s);
    memset(out, 0, (size_t)(columns * pitch) * sizeof(float));
    for (ptrdiff_t a = max(0, -h0); a < min(s, x->size[2] - h0); a++) {
        const float *row = x->data + n * x->stride[0] + c0 * x->stride[1] + (h0 + a) * x->stride[2] + w0 * x->stride[3];
        float *to = out + a * s * channels;
        if (contiguous)
            for (ptrdiff_t i = begin * channels; i < end * channels; i += FC_LINE_FLOATS)
                __builtin_prefetch(row + ahead + i, 0, 2);
        fold_pixels(row, x->stride[1], x->stride[3], channels, s, begin, whole, to, pitch);
        if (whole < rest)
            kernels->copy_spans((size_t)((rest - whole) / s), (size_t)(s * channels), row + whole * channels,
                                s * channels, to + whole / s * pitch, pitch);
        fold_pixels(row, x->stride[1], x->stride[3], channels, s, rest, end, to, pitch);
    }
}

void fc_transform_run(const fc_kernels *kernels, void (*transform)(const fc_winograd_input *),
                      const fc_winograd_phase *phase, const fc_tile_run *run, ptrdiff_t c0, ptrdiff_t channels,
                      float *points, ptrdiff_t tile, ptrdiff_t plane, float *scratch)
{
    const ptrdiff_t height = run->height + phase->taps[0] - 1, width = run->width + phase->taps[1] - 1;
    const fc_tensor *x = &phase->x;
    const ptrdiff_t *origin = phase->origin, s = phase->folds;
    const ptrdiff_t columns = (run->tiles - 1) * run->width + width;
    const ptrdiff_t h0 = origin[0] + run->row, w0 = origin[1] + run->column, w = max(0, w0);
    fc_winograd_input in = {
        .tiles = (size_t)run->tiles,
        .channels = (size_t)channels,
        .height = height,
        .width = width,
        .lacks_first = {run->is_short[0], run->is_short[1]},
        .row_step = run->height,
        .step = run->width,
        .first_row = min(height, max(0, floor_div(-phase->fold_from[0], s) - h0)),
        .last_row = max(0, min(height, ceil_div(x->size[2] - phase->fold_from[0], s) - h0)),
        .points = points,
        .tile = tile,
        .plane = plane,
    };
    if (is_read_in_place(phase)) {
        in.x = x->data + run->n * x->stride[0] + c0 * x->stride[1] + h0 * x->stride[2] + w * x->stride[3];
        in.row = x->stride[2];
        in.pixel = x->stride[3];
        in.left = w - w0;
        in.inside = max(0, x->size[3] - w);
        in.ahead = (run->next[0] - run->n) * x->stride[0] + (run->next[1] - run->row) * x->stride[2] +
                   (max(0, run->next[2] + origin[1]) - w) * x->stride[3];
    } else {
        fc_clock(FC_COPY);
        in.x = scratch;
        in.pixel = (ptrdiff_t)round_up(channels);
        in.row = columns * in.pixel;
        in.inside = columns;
        const ptrdiff_t down = (run->next[1] - run->row) * s, across = (run->next[2] - run->column) * s;
        const ptrdiff_t ahead = (run->next[0] - run->n) * x->stride[0] + down * x->stride[2] + across * x->stride[3];
        for (ptrdiff_t i = in.first_row; i < in.last_row; i++)
            if (s > 1)
                fold_row(kernels, phase, run->n, c0, channels / (s * s), h0 + i, w0, columns, ahead,
                         scratch + i * in.row, in.pixel);
            else
                fc_copy_row(kernels, x, run->n, c0, channels, h0 + i, w0, columns, scratch + i * in.row, in.pixel);
        /* Zeros lie behind the last folded channel: so no vector has fewer lanes, which would be copied. */
        if (s > 1)
            in.channels = (size_t)in.pixel;
        fc_clock(FC_TRANSFORM);
    }
    transform(&in);
}
