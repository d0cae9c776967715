/* SPDX-License-Identifier: MIT */
#include "rows.h"

#include <string.h>

#include "integers.h"

static void zero_columns(ptrdiff_t columns, ptrdiff_t channels, float *out, ptrdiff_t pitch)
{
    if (pitch == channels)
        memset(out, 0, (size_t)(columns * channels) * sizeof(float));
    else
        for (ptrdiff_t w = 0; w < columns; w++)
            memset(out + w * pitch, 0, (size_t)channels * sizeof(float));
}

/* to[i*to_row + j] = from[i*from_i + j*from_j] for i < rows, j < columns. */
static void copy_matrix(const fc_kernels *kernels, ptrdiff_t rows, ptrdiff_t columns, const float *from,
                        ptrdiff_t from_i, ptrdiff_t from_j, float *to, ptrdiff_t to_row)
{
    if (from_j == 1)
        for (ptrdiff_t i = 0; i < rows; i++)
            memcpy(to + i * to_row, from + i * from_i, (size_t)columns * sizeof(float));
    else if (from_i == 1)
        kernels->transpose((size_t)columns, (size_t)rows, from, from_j, to, to_row);
    else
        for (ptrdiff_t i = 0; i < rows; i++)
            for (ptrdiff_t j = 0; j < columns; j++)
                to[i * to_row + j] = from[i * from_i + j * from_j];
}

/* Columns first .. first + count - 1 of a row of `width`: how many lie left of the image, and inside. */
static void clip(ptrdiff_t width, ptrdiff_t first, ptrdiff_t count, ptrdiff_t *left, ptrdiff_t *inside)
{
    *left = min(count, max(0, -first));
    *inside = max(0, min(count - *left, width - (first + *left)));
}

void fc_copy_row(const fc_kernels *kernels, const fc_tensor *x, ptrdiff_t n, ptrdiff_t c0, ptrdiff_t channels,
                 ptrdiff_t h, ptrdiff_t first, ptrdiff_t count, float *out, ptrdiff_t pitch)
{
    const ptrdiff_t x_c = x->stride[1], x_w = x->stride[3];
    ptrdiff_t left, inside;
    clip(x->size[3], first, count, &left, &inside);

    zero_columns(left, channels, out, pitch);
    zero_columns(count - left - inside, channels, out + (left + inside) * pitch, pitch);
    if (!inside)
        return;
    out += left * pitch;
    const float *from = x->data + n * x->stride[0] + c0 * x_c + h * x->stride[2] + (first + left) * x_w;
    if ((x_c == 1 || channels == 1) && x_w == channels && pitch == channels)
        memcpy(out, from, (size_t)(inside * channels) * sizeof(float));
    else
        copy_matrix(kernels, inside, channels, from, x_w, x_c, out, pitch);
}

void fc_copy_row_planar(const fc_kernels *kernels, const fc_tensor *x, ptrdiff_t n, ptrdiff_t c0, ptrdiff_t channels,
                        ptrdiff_t h, ptrdiff_t first, ptrdiff_t count, float *out, ptrdiff_t plane)
{
    const ptrdiff_t x_c = x->stride[1], x_w = x->stride[3];
    ptrdiff_t left, inside;
    clip(x->size[3], first, count, &left, &inside);

    for (ptrdiff_t c = 0; c < channels; c++) {
        memset(out + c * plane, 0, (size_t)left * sizeof(float));
        memset(out + c * plane + left + inside, 0, (size_t)(count - left - inside) * sizeof(float));
    }
    if (!inside)
        return;
    out += left;
    const float *from = x->data + n * x->stride[0] + c0 * x_c + h * x->stride[2] + (first + left) * x_w;
    copy_matrix(kernels, channels, inside, from, x_c, x_w, out, plane);
}

void fc_store_row(const fc_kernels *kernels, const float *from, ptrdiff_t pitch, ptrdiff_t columns,
                  ptrdiff_t channels, float *y, ptrdiff_t y_c, ptrdiff_t y_w)
{
    if (y_c == 1)
        for (ptrdiff_t w = 0; w < columns; w++)
            memcpy(y + w * y_w, from + w * pitch, (size_t)channels * sizeof(float));
    else if (y_w == 1)
        kernels->transpose((size_t)columns, (size_t)channels, from, pitch, y, y_c);
    else
        for (ptrdiff_t w = 0; w < columns; w++)
            for (ptrdiff_t c = 0; c < channels; c++)
                y[w * y_w + c * y_c] = from[w * pitch + c];
}
