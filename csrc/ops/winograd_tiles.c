/* SPDX-License-Identifier: MIT */
/* Runs of tiles and their points: what the forward pass and the gradient of the weights share. */
#include "integers.h"
#include "rows.h"
#include "winograd.h"

enum { POINTS = 6, LARGEST_LANES = 16 };

/* What pixels outside the image are read from. */
static const float zeros[FC_WINOGRAD_PART + LARGEST_LANES];

ptrdiff_t fc_winograd_part(ptrdiff_t channels)
{
    const ptrdiff_t parts = max(1, ceil_div(channels, FC_WINOGRAD_PART));
    return max(1, min(channels, ceil_div(ceil_div(channels, parts), LARGEST_LANES) * LARGEST_LANES));
}

fc_tile_run fc_tile_run_at(const fc_tiling *tiling, ptrdiff_t t, ptrdiff_t end)
{
    const ptrdiff_t column = t % tiling->columns, row = t / tiling->columns % tiling->rows;
    return (fc_tile_run){
        .n = t / tiling->columns / tiling->rows,
        .row = row,
        .column = column,
        .tiles = min(min(tiling->columns - column, end - t), FC_MOST_RUN),
    };
}

static ptrdiff_t strip_columns(ptrdiff_t m) { return FC_MOST_RUN * m + POINTS - m; }

size_t fc_transform_floats(const fc_kernels *kernels, ptrdiff_t m, ptrdiff_t channels)
{
    const ptrdiff_t columns = strip_columns(m);
    return round_up(columns * POINTS * (ptrdiff_t)kernels->lanes) + (size_t)(POINTS * columns) * round_up(channels);
}

void fc_transform_run(const fc_kernels *kernels, void (*transform)(const fc_winograd_input *), ptrdiff_t size,
                      const fc_tensor *x, const fc_tile_run *run, ptrdiff_t m, const ptrdiff_t origin[2], ptrdiff_t c0,
                      ptrdiff_t channels, float *points, ptrdiff_t tile, ptrdiff_t plane, float *scratch)
{
    const ptrdiff_t columns = (run->tiles - 1) * m + size;
    const ptrdiff_t h0 = origin[0] + run->row * m, w0 = origin[1] + run->column * m, w = max(0, w0);
    const int in_place = x->stride[1] == 1 || x->size[1] == 1;
    float *copy = scratch + round_up(strip_columns(m) * POINTS * (ptrdiff_t)kernels->lanes);
    const ptrdiff_t pitch = (ptrdiff_t)round_up(channels);
    fc_winograd_input in = {
        .tiles = (size_t)run->tiles,
        .channels = (size_t)channels,
        .left = in_place ? min(columns, w - w0) : 0,
        .strip = scratch,
        .points = points,
        .tile = tile,
        .plane = plane,
    };
    in.inside = in_place ? max(0, min(columns - in.left, x->size[3] - w)) : columns;
    for (ptrdiff_t i = 0; i < size; i++) {
        const ptrdiff_t h = h0 + i;
        in.row[i] = zeros;
        if (h < 0 || h >= x->size[2])
            continue;
        if (in_place) {
            in.row[i] = x->data + run->n * x->stride[0] + c0 * x->stride[1] + h * x->stride[2] + w * x->stride[3];
            in.pixel[i] = x->stride[3];
        } else {
            fc_copy_row(kernels, x, run->n, c0, channels, h, w0, columns, copy + i * columns * pitch, pitch);
            in.row[i] = copy + i * columns * pitch;
            in.pixel[i] = pitch;
        }
    }
    transform(&in);
}
