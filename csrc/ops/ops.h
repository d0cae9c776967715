/* SPDX-License-Identifier: MIT */
/* Operations on whole tensors: what _core.pyx calls.
 *
 * Arrays are float32 and logically N x C x H x W; strides are counted in floats. Every function trusts
 * shapes that were checked (fc_conv2d_check and the like) and returns 0, or -1 when memory ran out. */
#ifndef FC_OPS_H
#define FC_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "../kernels/kernels.h"

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
    int algorithm;                       /* FC_AUTO, or one that fc_conv2d_supports */
} fc_conv2d;

/* FC_AUTO is the faster one, by the shapes of the weights and of one image alone: all batches get the same bits. The
 * gradient of the weights, which sums over images, goes by their number too. */
enum { FC_AUTO, FC_DIRECT, FC_WINOGRAD, FC_ALGORITHMS };
int fc_conv2d_supports(const fc_conv2d *conv, const fc_tensor *weight);

typedef enum fc_pass { FC_FORWARD, FC_BACKWARD_INPUT, FC_BACKWARD_WEIGHT } fc_pass;

/* What the choice goes by: outputs and channels of a group as the pass has them, taps x taps filters, height x width of
 * y, or of dx over the stride, of what tiles lie in side by side, y or dy, and images of the batch, over which
 * backward_weight sums: the others do not ask. */
typedef struct fc_conv2d_shape {
    ptrdiff_t groups, outputs, channels, taps, stride, height, width, y_height, y_width, images;
} fc_conv2d_shape;

/* What FC_AUTO takes where both are supported, and what it expects them to cost, in multiply-adds of a lane, for one
 * group and image. */
int fc_conv2d_choice(fc_pass pass, const fc_conv2d_shape *shape, double costs[FC_ALGORITHMS]);

/* A weight as an algorithm multiplies by it, for many calls on this instruction set. */
typedef struct fc_filters {
    int algorithm;
    ptrdiff_t vectors;                   /* of a panel, of the direct algorithm */
    int points;                          /* Winograd's: whether they are points, else packed taps */
    ptrdiff_t stride;                    /* Winograd's, by which taps are dealt out or folded */
    float *data;                         /* to be freed by fc_free; NULL: the weight is taken as it is */
} fc_filters;

/* y = conv(x) + bias + residual, cut off below 0 with relu. */
typedef struct fc_conv2d_extras {
    const float *bias;                   /* [K] or NULL */
    const float *residual;               /* as y lies in memory, whose fastest axis is then K, or NULL */
    int relu;
    const fc_filters *filters;           /* what fc_conv2d_prepare made of the weight, or NULL */
} fc_conv2d_extras;
int fc_conv2d_forward(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *weight,
                      const fc_conv2d_extras *extras, const fc_tensor *y);

/* Makes the filters of forward for images of this shape, of any number. */
int fc_conv2d_prepare(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *weight, const fc_tensor *y,
                      fc_filters *filters);

/* addend, added to dx: as dx lies in memory, whose fastest axis is then C, or NULL. */
int fc_conv2d_backward_input(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *weight, const float *addend,
                             const fc_tensor *dx);
int fc_conv2d_backward_weight(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *x,
                              const fc_tensor *dweight);

/* Linear layers: the images of the batch are one row of pixels, the filter is 1x1. x and y have contiguous channels. */
int fc_linear_forward(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *weight,
                      const fc_conv2d_extras *extras, const fc_tensor *y);
int fc_linear_backward_weight(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *x, const fc_tensor *dw);

/* A weight in some 7/8 of its bytes, without loss, for layers of few images: tiles of a part of the inputs and
 * FC_ROW_FLOATS outputs, of one row an input, compressed (see kernels/compressed.h) or, where a weight's exponent is
 * outside the window of the codes, as it is. */
typedef struct fc_compressed {
    ptrdiff_t outputs, inputs;
    ptrdiff_t part, parts, panels;       /* inputs of a part                                            */
    int32_t exponent;                    /* that of code 0, where it lies in a float                    */
    size_t floats;                       /* of data                                                     */
    float *data;                         /* NULL: it would hardly be smaller                            */
    const size_t *tile;                  /* [part][panel]: where in data each begins                    */
    ptrdiff_t words;                     /* of a tile's bits                                            */
    const uint32_t *plain;               /* [part][panel][words]: a bit for each row, set where it is not
                                            compressed                                                  */
} fc_compressed;
int fc_compress(const fc_tensor *weight, fc_compressed *compressed);
void fc_compressed_free(fc_compressed *compressed);
int fc_linear_compressed(const fc_compressed *weight, const fc_tensor *x, const fc_conv2d_extras *extras,
                         const fc_tensor *y);

/* Sum over images and pixels of each channel of a dense array, NCHW or channels-last. */
int fc_sum_channels(const fc_tensor *x, float *sum);

/* Windows of a pooling, vertical then horizontal. adaptive: window p of P covers floor(p H / P) up to
 * ceil((p + 1) H / P), and the other fields are not used. */
typedef struct fc_pool2d {
    ptrdiff_t kernel[2], stride[2], pad[2], dilation[2];
    int count_include_pad, adaptive;
    int behind_relu;     /* forward: argmax is 255 where the maximum is not above 0; of less than 256 pixels only */
} fc_pool2d;

/* Whether x is pooled to y (or dy to dx back) plane by plane, which fixes the order of argmax. */
int fc_pool2d_is_planar(const fc_pool2d *pool, const fc_tensor *x, const fc_tensor *y);

/* argmax: positions r * S + s of the maxima in their windows, bytes or (wide) 32-bit, [N][C][P][Q] where the
 * pooling is planar, else [N][P][Q][C]; may be NULL. */
int fc_max_pool2d_forward(const fc_pool2d *pool, const fc_tensor *x, const fc_tensor *y, void *argmax, int wide);
int fc_max_pool2d_backward(const fc_pool2d *pool, const fc_tensor *dy, const void *argmax, int wide,
                           const fc_tensor *dx);
int fc_avg_pool2d_forward(const fc_pool2d *pool, const fc_tensor *x, const fc_tensor *y);
int fc_avg_pool2d_backward(const fc_pool2d *pool, const fc_tensor *dy, const fc_tensor *dx);

/* Spans of n floats; kind: FC_RELU, FC_SIGMOID or FC_TANH. y, dx may be x, dy. */
void fc_activation_forward(int kind, size_t n, const float *x, float *y);
void fc_activation_backward(int kind, size_t n, const float *dy, const float *y, float *dx);

/* Rows of n contiguous floats. */
void fc_softmax_forward(int log, size_t rows, size_t n, const float *x, float *y);

/* Batch normalisation of x and y in the same dense layout, NCHW or channels-last.
 * statistics: mean and 1 / sqrt(var + eps), [C] each. Training writes them, and moves the running averages
 * (NULL: none) by momentum, variance unbiased; otherwise they are read. weight and bias may be NULL. */
typedef struct fc_batch_norm {
    const float *weight, *bias;
    float *mean, *invstd;
    float *running_mean, *running_var;
    double momentum, eps;
    int training;
} fc_batch_norm;
/* residual (or NULL), added to the result before its relu (if any), lies as x does. So do backward's y, the
 * result behind a relu, NULL where it shall be computed again (there was no residual), and dresidual, where y is
 * given and it is wanted; dy may have a longer stride of pixels (channels-last) or of images, as some channels of a
 * wider array have. */
int fc_batch_norm_forward(const fc_batch_norm *norm, const fc_tensor *x, const float *residual, int relu,
                          const fc_tensor *y);
int fc_batch_norm_backward(const fc_batch_norm *norm, const fc_tensor *dy, const fc_tensor *x, int relu,
                           const float *y, const fc_tensor *dx, float *dresidual, float *dweight, float *dbias);

/* y = x[0] + x[1] + ... over n floats, then relu if asked for; y may be any of them. */
void fc_sum(size_t n, size_t terms, const float *const *x, int relu, float *y);

/* The arrays side by side along the channels of y, which is dense, NCHW or channels-last; each lies as y does but
 * for a longer stride of pixels (channels-last) or of images. */
void fc_concat(size_t arrays, const fc_tensor *x, const fc_tensor *y);

/* y = x, of the same sizes, whatever their strides. */
void fc_copy(const fc_tensor *x, const fc_tensor *y);

/* One step of an optimiser over n floats: see kernels/optim.h. v may be NULL in sgd: no momentum. */
void fc_sgd_step(const fc_sgd *sgd, size_t n, const float *g, float *v, float *p);
void fc_adam_step(const fc_adam *adam, size_t n, const float *g, float *m, float *v, float *p);

/* Sum of the squares of n floats, in an order that n alone decides. Returns 0, or -1 when memory ran out. */
int fc_square_sum(size_t n, const float *x, double *sum);

/* Local response normalisation over channels, all arrays in the same dense layout, NCHW or channels-last;
 * y, dx may be x, dy. */
typedef struct fc_local_response {
    ptrdiff_t size;
    double alpha, beta, k;
} fc_local_response;
int fc_local_response_forward(const fc_local_response *norm, const fc_tensor *x, const fc_tensor *y);
int fc_local_response_backward(const fc_local_response *norm, const fc_tensor *dy, const fc_tensor *x,
                               const fc_tensor *dx);

/* Does nothing but multiply-adds on registers, `rounds` of FC_CHAINS vectors in each allowed thread; returns their
 * number, counted in floats. */
double fc_multiply_adds(size_t rounds);

/* All steps of a recurrent layer of H units over N sequences of T steps, the last axis of every array contiguous,
 * and one of weight's. An LSTM (gates i, f, g, o), or h = tanh(gates) without cells.
 * Forward finds in gates what the inputs contribute, and leaves what the activations make of it.
 * Backward finds in dh and dc the gradients of the last states, and leaves those of h0 and c0. */
typedef struct fc_recurrent {
    int lstm, reverse;                   /* reverse: from the last step to the first */
    fc_tensor weight;                    /* [gates * H][H], gates = 4 or 1 */
    fc_tensor h0, c0;                    /* [N][H] */
    fc_tensor gates;                     /* [N][T][gates * H] */
    fc_tensor output, cells;             /* [N][T][H] */
    fc_tensor dy, dgates;                /* [N][T][H], [N][T][gates * H] */
    fc_tensor dh, dc;                    /* [N][H] */
} fc_recurrent;
int fc_recurrent_forward(const fc_recurrent *recurrent);
int fc_recurrent_backward(const fc_recurrent *recurrent);

#endif
