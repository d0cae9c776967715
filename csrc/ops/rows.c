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

void fc_copy_matrix(const fc_kernels *kernels, ptrdiff_t rows, ptrdiff_t columns, const float *from, ptrdiff_t from_i,
                    ptrdiff_t from_j, float *to, ptrdiff_t to_i, ptrdiff_t to_j)
{
    if (to_j != 1 && to_i == 1)
        fc_copy_matrix(kernels, columns, rows, from, from_j, from_i, to, to_j, to_i);
    else if (to_j == 1 && from_j == 1)
        for (ptrdiff_t i = 0; i < rows; i++)
            memcpy(to + i * to_i, from + i * from_i, (size_t)columns * sizeof(float));
    else if (to_j == 1 && from_i == 1)
        kernels->transpose((size_t)columns, (size_t)rows, from, from_j, to, to_i);
    else
        for (ptrdiff_t i = 0; i < rows; i++)
            for (ptrdiff_t j = 0; j < columns; j++)
                to[i * to_i + j * to_j] = from[i * from_i + j * from_j];
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
        fc_copy_matrix(kernels, inside, channels, from, x_w, x_c, out, pitch, 1);
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
    fc_copy_matrix(kernels, channels, inside, from, x_c, x_w, out, plane, 1);
}

void fc_store_row(const fc_kernels *kernels, const float *from, ptrdiff_t pitch, ptrdiff_t columns,
                  ptrdiff_t channels, float *y, ptrdiff_t y_c, ptrdiff_t y_w)
{
    fc_copy_matrix(kernels, columns, channels, from, pitch, 1, y, y_w, y_c);
}
