/* SPDX-License-Identifier: MIT */
/* Runs of tiles and their points: what the forward pass and the gradient of the weights share. */
#include "../runtime/timers.h"
#include "integers.h"
#include "rows.h"
#include "winograd.h"

enum { LARGEST_LANES = 16 };

static int is_channels_last(const fc_tensor *x) { return x->stride[1] == 1 || x->size[1] == 1; }

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

size_t fc_transform_floats(const fc_tensor *x, ptrdiff_t m, ptrdiff_t channels)
{
    const ptrdiff_t columns = FC_MOST_RUN * m + FC_WINOGRAD_POINTS - m;
    return is_channels_last(x) ? 0 : (size_t)(FC_WINOGRAD_POINTS * columns) * round_up(channels);
}

void fc_transform_run(const fc_kernels *kernels, void (*transform)(const fc_winograd_input *), ptrdiff_t size,
                      const fc_tensor *x, const fc_tile_run *run, ptrdiff_t m, const ptrdiff_t origin[2], ptrdiff_t c0,
                      ptrdiff_t channels, float *points, ptrdiff_t tile, ptrdiff_t plane, float *scratch)
{
    const ptrdiff_t columns = (run->tiles - 1) * m + size;
    const ptrdiff_t h0 = origin[0] + run->row * m, w0 = origin[1] + run->column * m, w = max(0, w0);
    fc_winograd_input in = {
        .tiles = (size_t)run->tiles,
        .channels = (size_t)channels,
        .first_row = min(size, max(0, -h0)),
        .last_row = max(0, min(size, x->size[2] - h0)),
        .points = points,
        .tile = tile,
        .plane = plane,
    };
    if (is_channels_last(x)) {
        in.x = x->data + run->n * x->stride[0] + c0 * x->stride[1] + h0 * x->stride[2] + w * x->stride[3];
        in.row = x->stride[2];
        in.pixel = x->stride[3];
        in.left = w - w0;
        in.inside = max(0, x->size[3] - w);
    } else {
        fc_clock(FC_COPY);
        in.x = scratch;
        in.pixel = (ptrdiff_t)round_up(channels);
        in.row = columns * in.pixel;
        in.inside = columns;
        for (ptrdiff_t i = in.first_row; i < in.last_row; i++)
            fc_copy_row(kernels, x, run->n, c0, channels, h0 + i, w0, columns, scratch + i * in.row, in.pixel);
        fc_clock(FC_TRANSFORM);
    }
    transform(&in);
}
