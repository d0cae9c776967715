/* SPDX-License-Identifier: MIT */
/* Operations on whole tensors: what _core.pyx calls.
 *
 * Arrays are float32 and logically N x C x H x W; strides are counted in floats. Every function trusts
 * shapes that were checked (fc_conv2d_check and the like) and returns 0, or -1 when memory ran out. */
#ifndef FC_OPS_H
#define FC_OPS_H

#include <stddef.h>
#include <stdint.h>

/* A 4-D array: size and stride of N, C, H, W (or of K, C, R, S for weights). */
typedef struct fc_tensor {
    float *data;
    ptrdiff_t size[4];
    ptrdiff_t stride[4];
} fc_tensor;

/* Geometry of a convolution, vertical then horizontal. */
typedef struct fc_conv2d {
    ptrdiff_t stride[2], dilation[2];
    ptrdiff_t pad[2][2];                 /* (top, bottom), (left, right) */
    ptrdiff_t groups;
} fc_conv2d;

int fc_conv2d_forward(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *weight, const float *bias,
                      const fc_tensor *y);
int fc_conv2d_backward_input(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *weight,
                             const fc_tensor *dx);
int fc_conv2d_backward_weight(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *x,
                              const fc_tensor *dweight);

#endif
