/* SPDX-License-Identifier: MIT */
/* Correlations and gradients of weights by Winograd's algorithm (see kernels/winograd.h). */
#ifndef FC_WINOGRAD_OPS_H
#define FC_WINOGRAD_OPS_H

#include "../kernels/kernels.h"
#include "correlate.h"

/* Channels that one chain of multiply-adds sums up, at most: what a chain rounds grows with its length. Four points
 * round so little themselves that it may be longer. */
enum { FC_WINOGRAD_PART = 128, FC_WINOGRAD_PART_OF_FOUR_POINTS = 256 };

/* Floats of the points of all threads, where each has its own. */
enum { FC_MOST_POINT_FLOATS = 1 << 25 };

enum { FC_TILE_KINDS = 4 };

/* Tiles of N images. Along an axis of which m does not divide the length, the last tiles have m - 1 outputs: these do
 * without the point 0, which only the first output of a tile takes. Tiles are numbered kind by kind, so that those of
 * any plane follow each other: short across alone, full, short down alone, short both ways; each kind image by image,
 * row by row. */
typedef struct fc_tiling {
    ptrdiff_t m, points;                 /* of a full tile along an axis */
    ptrdiff_t full[2], narrow[2];        /* rows and columns of tiles of an image: of m, of m - 1 outputs */
    ptrdiff_t start[FC_TILE_KINDS + 1];  /* the first tile of each kind; the number of all tiles */
} fc_tiling;

/* A run of tiles of one kind side by side, in one row of tiles of one image. */
typedef struct fc_tile_run {
    ptrdiff_t n, row, column;            /* its first output */
    ptrdiff_t tiles, height, width;      /* outputs of a tile */
    int is_short[2];                     /* down and across */
    ptrdiff_t next[3];                   /* image, row and column of the run that comes next; of the last, its own */
} fc_tile_run;

typedef struct fc_tile_range {
    ptrdiff_t first, end;
} fc_tile_range;

/* For r taps. */
fc_tiling fc_tile_images(ptrdiff_t r, ptrdiff_t images, ptrdiff_t height, ptrdiff_t width);

/* Points along an axis of `length` outputs, which may be any number; finite: without those at infinity. */
double fc_tile_points(ptrdiff_t r, ptrdiff_t length, int finite);

/* Tiles `first` to `end` - 1, as far as they have this plane. */
fc_tile_range fc_tiles_of_plane(const fc_tiling *tiling, ptrdiff_t plane, ptrdiff_t first, ptrdiff_t end);

/* The tile with which share `index` of `shares` begins, which have about as many products each. */
ptrdiff_t fc_tile_share(const fc_tiling *tiling, ptrdiff_t index, ptrdiff_t shares);

/* Rows of more tiles are cut, so that copies of arrays that are not channels-last stay in the L2 cache. */
enum { FC_MOST_RUN = 14 };

/* The run from tile t on, up to tile `end` at most. */
fc_tile_run fc_tile_run_at(const fc_tiling *tiling, ptrdiff_t t, ptrdiff_t end);

/* Channels of a part: as equal as can be, whole vectors of the widest instruction set. */
ptrdiff_t fc_winograd_part(ptrdiff_t r, ptrdiff_t channels);


/* ---- filters and strides -----------------------------------------------------------------------------------
 *
 * A stride s deals pixels and taps out to s x s phases, each a correlation of its own with stride 1, of which forward
 * adds up the products: at stride 2, 3 x 3 taps become 2 x 2, 2 x 1, 1 x 2 and 1 x 1. All take the transforms of the
 * most taps that a phase has along an axis, r: one of fewer is without products at infinity.
 *
 * Few channels would leave lanes idle: instead of phases, s x s pixels of C channels are folded to one of s^2 C. Pixels
 * are folded from where the filter begins at output (0, 0) on, so that its taps fold alike, zeros behind the last. Folded
 * channels are in the order [row of s][column of s][C]. */
enum { FC_WINOGRAD_MOST_STRIDE = 4, FC_WINOGRAD_PHASES = FC_WINOGRAD_MOST_STRIDE * FC_WINOGRAD_MOST_STRIDE };

/* m, outputs of a tile along an axis, for r taps. */
static inline ptrdiff_t fc_winograd_outputs(ptrdiff_t r) { return fc_winograd_points(r) + 1 - r; }

/* Whether it has filters of so many taps for a stride. */
int fc_winograd_has(ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_stride, ptrdiff_t column_stride);

typedef struct fc_winograd_phase {
    ptrdiff_t taps[2], first[2];         /* number of taps; the first of them, of which others are a stride apart */
    ptrdiff_t all_points, points[2];     /* of a tile; of fewer taps than others have, without the one at infinity */
    fc_tensor x;                         /* the pixels that they meet */
    ptrdiff_t origin[2];                 /* among these, of the tap `first` of output (0, 0) */
    ptrdiff_t folds;                     /* s: taps meet s x s pixels at once; 1: pixel by pixel */
    ptrdiff_t fold_from[2];              /* the pixel with which folded pixel 0 begins: 0 .. s - 1 */
} fc_winograd_phase;

/* s where pixels of a correlation with so many input channels are folded, else 1. */
ptrdiff_t fc_winograd_folds(ptrdiff_t channels, ptrdiff_t taps, ptrdiff_t stride);

/* r: taps of a phase along an axis, at most, or taps that meet folded pixels. */
static inline ptrdiff_t fc_winograd_taps(ptrdiff_t taps, ptrdiff_t stride) { return (taps + stride - 1) / stride; }

/* The phases of taps that follow each other, of which tap (0, 0) of output (0, 0) is at `origin` of x, for transforms of
 * r taps. The first phase has the most taps. Returns their number. */
ptrdiff_t fc_winograd_phases_of(const fc_tensor *x, ptrdiff_t stride, ptrdiff_t folds, ptrdiff_t r,
                                const ptrdiff_t taps[2], const ptrdiff_t origin[2], const ptrdiff_t outputs[2],
                                fc_winograd_phase phases[FC_WINOGRAD_PHASES]);

/* Planes of a phase: their number, which one the first, second ... is, and whether it has one. Those of all phases. */
ptrdiff_t fc_phase_planes(const fc_winograd_phase *phase);
ptrdiff_t fc_phase_plane(const fc_winograd_phase *phase, ptrdiff_t index);
int fc_phase_has(const fc_winograd_phase *phase, ptrdiff_t plane);
ptrdiff_t fc_planes_of_phases(const fc_winograd_phase *phases, ptrdiff_t count);

static inline const fc_winograd *fc_winograd_of(const fc_kernels *kernels, ptrdiff_t r)
{
    return &kernels->winograd[r - FC_WINOGRAD_LEAST_TAPS];
}

/* Where transforms keep a copy of what is folded, or not channels-last. */
size_t fc_transform_floats(const fc_winograd_phase *phase, ptrdiff_t m, ptrdiff_t channels);

/* Points of one run of tiles, of which an output meets taps[0] x taps[1] pixels, of channels c0 ... of an image; pixels
 * outside are 0. scratch: fc_transform_floats. */
void fc_transform_run(const fc_kernels *kernels, void (*transform)(const fc_winograd_input *),
                      const fc_winograd_phase *phase, const fc_tile_run *run, ptrdiff_t c0, ptrdiff_t channels,
                      float *points, ptrdiff_t tile, ptrdiff_t plane, float *scratch);

/* Whether the correlation is one that fc_correlate_winograd computes. */
int fc_winograd_supports(const fc_correlation *problem);

/* filters: of fc_winograd_prepare, or NULL. */
int fc_correlate_winograd(const fc_correlation *problem, const fc_filters *filters);

/* Makes filters for any images: the weights' points, or for few tiles, which do not hide that they are read, their taps
 * in the order in which points are made of them. Returns -1 without memory. */
int fc_winograd_prepare(const fc_correlation *problem, fc_filters *filters);

/* Few channels of small images (winograd_lanes.c), of one group and stride 1: forward or backward_input, to other bits
 * than fc_correlate_winograd. */
int fc_correlate_in_lanes(fc_pass pass, const fc_correlation *problem, const fc_filters *filters);

/* The algorithm that backward_weight takes. */
int fc_backward_weight_algorithm(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *dweight);

/* For filters and strides that fc_winograd_has, and dilation 1. */
int fc_winograd_backward_weight(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *x, const fc_tensor *dw);

#endif
