/* SPDX-License-Identifier: MIT */
/* Correlations and gradients of weights by Winograd's algorithm (see kernels/winograd.h). */
#ifndef FC_WINOGRAD_OPS_H
#define FC_WINOGRAD_OPS_H

#include "../kernels/kernels.h"
#include "correlate.h"

/* Channels that one chain of multiply-adds sums up, at most: what a chain rounds grows with its length. */
enum { FC_WINOGRAD_PART = 128 };

/* Floats of the points of all threads, where each has its own. */
enum { FC_MOST_POINT_FLOATS = 1 << 25 };

enum { FC_TILE_KINDS = 4 };

/* Tiles of N images. Along an axis of which m does not divide the length, the last tiles have m - 1 outputs: these do
 * without the point at infinity, which only the last output of a tile takes. Tiles are numbered kind by kind, so that
 * those of any plane follow each other: short across alone, full, short down alone, short both ways; each kind image by
 * image, row by row. */
typedef struct fc_tiling {
    ptrdiff_t m;
    ptrdiff_t full[2], narrow[2];        /* rows and columns of tiles of an image: of m, of m - 1 outputs */
    ptrdiff_t start[FC_TILE_KINDS + 1];  /* the first tile of each kind; the number of all tiles */
} fc_tiling;

/* A run of tiles of one kind side by side, in one row of tiles of one image. */
typedef struct fc_tile_run {
    ptrdiff_t n, row, column;            /* its first output */
    ptrdiff_t tiles, height, width;      /* outputs of a tile */
} fc_tile_run;

typedef struct fc_tile_range {
    ptrdiff_t first, end;
} fc_tile_range;

fc_tiling fc_tile_images(ptrdiff_t m, ptrdiff_t images, ptrdiff_t height, ptrdiff_t width);

/* Points along an axis of `length` outputs. */
ptrdiff_t fc_tile_points(ptrdiff_t m, ptrdiff_t length);

/* Tiles `first` to `end` - 1, as far as they have this plane. */
fc_tile_range fc_tiles_of_plane(const fc_tiling *tiling, ptrdiff_t plane, ptrdiff_t first, ptrdiff_t end);

/* The tile with which share `index` of `shares` begins, which have about as many products each. */
ptrdiff_t fc_tile_share(const fc_tiling *tiling, ptrdiff_t index, ptrdiff_t shares);

/* Rows of more tiles are cut, so that copies of arrays that are not channels-last stay in the L2 cache. */
enum { FC_MOST_RUN = 14 };

/* The run from tile t on, up to tile `end` at most. */
fc_tile_run fc_tile_run_at(const fc_tiling *tiling, ptrdiff_t t, ptrdiff_t end);

/* Where transforms of arrays that are not channels-last keep a copy. */
size_t fc_transform_floats(const fc_tensor *x, ptrdiff_t m, ptrdiff_t channels);

/* Points of one run of tiles of x[n][c0 ...]: pixel (0, 0) of the tile of output (0, 0) is at `origin`, and pixels
 * outside the image are 0. halo: pixels of a tile beyond its outputs, along each axis; scratch: fc_transform_floats. */
void fc_transform_run(const fc_kernels *kernels, void (*transform)(const fc_winograd_input *), ptrdiff_t halo,
                      const fc_tensor *x, const fc_tile_run *run, const ptrdiff_t origin[2], ptrdiff_t c0,
                      ptrdiff_t channels, float *points, ptrdiff_t tile, ptrdiff_t plane, float *scratch);

/* Channels of a part: as equal as can be, whole vectors of the widest instruction set. */
ptrdiff_t fc_winograd_part(ptrdiff_t channels);

/* Floats from plane to plane: an odd number of cache lines, so that the 36 do not meet in one set of the L1 cache. */
static inline ptrdiff_t fc_winograd_plane(ptrdiff_t floats) { return ((floats + 15) & ~(ptrdiff_t)15) | 16; }

/* The filters it has, and m for one of r x r. */
static inline int fc_winograd_has(ptrdiff_t rows, ptrdiff_t columns)
{
    return rows == columns && (rows == 3 || rows == 5);
}

static inline ptrdiff_t fc_winograd_outputs(ptrdiff_t r) { return FC_WINOGRAD_POINTS + 1 - r; }

/* Whether the correlation is one that fc_correlate_winograd computes. */
int fc_winograd_supports(const fc_correlation *problem);

/* filters: of fc_winograd_prepare, or NULL. */
int fc_correlate_winograd(const fc_correlation *problem, const fc_filters *filters);

/* Makes filters for any images: the weights' points, or for few tiles, which do not hide that they are read, their taps
 * in the order in which points are made of them. Returns -1 without memory. */
int fc_winograd_prepare(const fc_correlation *problem, fc_filters *filters);

/* The algorithm that backward_weight takes. */
int fc_backward_weight_algorithm(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *dweight);

/* For filters that fc_winograd_has, stride 1 and dilation 1. */
int fc_winograd_backward_weight(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *x, const fc_tensor *dw);

#endif
