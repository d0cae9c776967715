/* SPDX-License-Identifier: MIT */
/* Rows of an image as kernels want them: channels-last, zero-padded, contiguous. */
#ifndef FC_ROWS_H
#define FC_ROWS_H

#include "../kernels/kernels.h"
#include "ops.h"

/* to[i*to_i + j*to_j] = from[i*from_i + j*from_j] for i < rows, j < columns. */
void fc_copy_matrix(const fc_kernels *kernels, ptrdiff_t rows, ptrdiff_t columns, const float *from, ptrdiff_t from_i,
                    ptrdiff_t from_j, float *to, ptrdiff_t to_i, ptrdiff_t to_j);

/* A window of a row: columns first .. first + count - 1 of x[n][c0 .. c0+channels-1][h], where columns
 * outside the image read as zero, to out[column][channel] of `pitch` floats a column. */
void fc_copy_row(const fc_kernels *kernels, const fc_tensor *x, ptrdiff_t n, ptrdiff_t c0, ptrdiff_t channels,
                 ptrdiff_t h, ptrdiff_t first, ptrdiff_t count, float *out, ptrdiff_t pitch);

/* The same window, planar: to out[channel][column] of `plane` floats a channel. */
void fc_copy_row_planar(const fc_kernels *kernels, const fc_tensor *x, ptrdiff_t n, ptrdiff_t c0, ptrdiff_t channels,
                        ptrdiff_t h, ptrdiff_t first, ptrdiff_t count, float *out, ptrdiff_t plane);

/* The way back: from[column][channel] of `pitch` floats a column to y[column * y_w + channel * y_c].
 * With the two exchanged it stores planes: from[channel][column]. */
void fc_store_row(const fc_kernels *kernels, const float *from, ptrdiff_t pitch, ptrdiff_t columns,
                  ptrdiff_t channels, float *y, ptrdiff_t y_c, ptrdiff_t y_w);

/* Floats from pixel to pixel in such a copy. Those that would crowd the pixels of a tile are spread by one cache line. */
static inline ptrdiff_t fc_pixel_pitch(ptrdiff_t channels)
{
    return channels % FC_CROWDED ? channels : channels + 16;
}

#endif
