/* SPDX-License-Identifier: MIT */
/* The C interface of fastconv, for C99 and C++.
 *
 * The functions are entries of a table, fastconv_api, and there are two ways to it:
 *
 *   in a Python extension module   #include <Python.h>, then this header; fastconv_import() at the module's
 *                                  start. Cython: cimport fastconv, fastconv.import_fastconv().
 *   with ctypes, dlopen and others the extension module exports one symbol, fastconv_get_api; its file is
 *                                  what Python calls fastconv._core.__file__
 *
 * The include path is fastconv.get_include(), or pkg-config --cflags fastconv.
 *
 *     const fastconv_api *fc = fastconv_import();
 *     fastconv_conv2d conv = fastconv_conv2d_defaults();
 *     conv.padding[0][0] = conv.padding[0][1] = conv.padding[1][0] = conv.padding[1][1] = 1;
 *     fastconv_tensor x = fastconv_nchw(image, 1, 3, 32, 32), w = fastconv_nchw(weight, 8, 3, 3, 3);
 *     fastconv_tensor y = fastconv_nchw(result, 1, 8, 32, 32);
 *     if (fc->conv2d_forward(&conv, &x, &w, NULL, NULL, &y) < 0)
 *         puts(fc->last_error());
 *
 * Letters
 *     N images   C input channels   H x W input   K output channels   R x S filter   P x Q output
 *
 * Arrays are float32, aligned to 4 bytes, and their strides are counted in floats. Pairs are (vertical,
 * horizontal). In comments x[n][c][h][w] is the element, wherever strides put it. Results have the bits of the
 * same call of fastconv.functional.
 *
 * Every function checks its arguments before it touches an array and returns FASTCONV_OK or a negative
 * status; then last_error() says what was wrong, and results are as they were, but after FASTCONV_NO_MEMORY.
 * What cannot be checked is the caller's to keep: that pointers lead to as much memory as sizes and strides say.
 *
 * Any thread may call any function at any time, with or without Python's lock, none of them runs Python.
 * Large calls share their work among a team of OpenMP threads, num_threads() at most; all have left it when
 * the call returns. The number of threads does not change the result. fastconv.profile() sees these calls.
 *
 * The interface only grows. Functions are appended to the table and fields to the structures, whose first
 * field is the size the caller knows; what is missing counts as 0. FASTCONV_API_VERSION counts the additions.
 */
#ifndef FASTCONV_H
#define FASTCONV_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTCONV_API_VERSION 1

/* What a call came to. */
typedef enum fastconv_status {
    FASTCONV_OK = 0,
    FASTCONV_BAD_POINTER = -1,           /* NULL where an array or structure must be, or misaligned   */
    FASTCONV_BAD_SHAPE = -2,             /* sizes that are negative, too large, or do not fit         */
    FASTCONV_BAD_OPTION = -3,            /* an option out of its range                                */
    FASTCONV_BAD_LAYOUT = -4,            /* strides that the function does not take                   */
    FASTCONV_OVERLAP = -5,               /* a result that shares memory with another argument         */
    FASTCONV_NO_MEMORY = -6              /* for workspace                                             */
} fastconv_status;

/* algorithm: auto is the faster one by the shapes of the weight and of one image; for the gradient of the weight,
 * which sums over images, also by their number. */
typedef enum fastconv_algorithm {
    FASTCONV_AUTO = 0,
    FASTCONV_DIRECT = 1,
    FASTCONV_WINOGRAD = 2                /* square filters of more than s and at most 5 s
                                            taps at a stride s of 1 to 4; dilation 1                  */
} fastconv_algorithm;

typedef enum fastconv_activation {
    FASTCONV_IDENTITY = 0,
    FASTCONV_RELU = 1,                   /* max(x, 0); NaN stays NaN                                  */
    FASTCONV_SIGMOID = 2,                /* 1 / (1 + exp(-x))                                         */
    FASTCONV_TANH = 3
} fastconv_activation;

/* A 4-D array: N, C, H, W, or K, C, R, S of a weight. Strides may be any: 0 or negative too, but an output repeats
 * no element. A matrix of N x D is an array of N x D x 1 x 1. */
typedef struct fastconv_tensor {
    size_t struct_size;                  /* sizeof(fastconv_tensor)                                   */
    float *data;                         /* element 0, 0, 0, 0; written in results alone              */
    ptrdiff_t size[4];
    ptrdiff_t stride[4];                 /* floats; of an axis of size 1: not read                    */
} fastconv_tensor;

/* Geometry and options of a convolution:
 *     P = floor((H + top + bottom - dilation[0] * (R - 1) - 1) / stride[0]) + 1       Q likewise */
typedef struct fastconv_conv2d {
    size_t struct_size;                  /* sizeof(fastconv_conv2d)                                   */
    ptrdiff_t stride[2];                 /* 1 to 2^31 - 1                                             */
    ptrdiff_t dilation[2];               /* 1 to 2^31 - 1                                             */
    ptrdiff_t padding[2][2];             /* (top, bottom), (left, right): 0 to 2^31 - 1               */
    ptrdiff_t groups;                    /* divides C and K                                           */
    int algorithm;                       /* fastconv_algorithm                                        */
    int activation;                      /* of forward: FASTCONV_IDENTITY or FASTCONV_RELU            */
} fastconv_conv2d;

/* Windows of a pooling:
 *     P = floor((H + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1) / stride[0]) + 1     Q likewise
 * with ceil_mode the quotient is rounded up, but a window must start inside the image or the padding before it. */
typedef struct fastconv_pool2d {
    size_t struct_size;                  /* sizeof(fastconv_pool2d)                                   */
    ptrdiff_t kernel[2];                 /* 1 to 2^31 - 1, as stride and dilation                     */
    ptrdiff_t stride[2];
    ptrdiff_t padding[2];                /* 0 to kernel / 2                                           */
    ptrdiff_t dilation[2];               /* of max_pool2d; avg_pool2d: 1                              */
    int ceil_mode;
    int count_include_pad;               /* of avg_pool2d: the divisor counts pixels of the padding   */
} fastconv_pool2d;

/* Batch normalisation; the arrays are contiguous, [C]. */
typedef struct fastconv_batch_norm {
    size_t struct_size;                  /* sizeof(fastconv_batch_norm)                               */
    const float *weight;                 /* NULL: 1                                                   */
    const float *bias;                   /* NULL: 0                                                   */
    float *running_mean;                 /* training: moved, where not NULL; else read                */
    float *running_var;                  /* the same                                                  */
    double momentum;                     /* 0 to 1: running += momentum * (of the batch - running)    */
    double eps;                          /* at least 0                                                */
    int training;                        /* 1: by the statistics of the batch                         */
    int activation;                      /* of the result: FASTCONV_IDENTITY or FASTCONV_RELU         */
} fastconv_batch_norm;

/* ---- structures with their defaults ------------------------------------------------------------------ */

static inline fastconv_tensor fastconv_strided(const float *data, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w,
                                               ptrdiff_t n_stride, ptrdiff_t c_stride, ptrdiff_t h_stride,
                                               ptrdiff_t w_stride)
{
    fastconv_tensor t;
    t.struct_size = sizeof t;
    t.data = (float *)data;
    t.size[0] = n;
    t.size[1] = c;
    t.size[2] = h;
    t.size[3] = w;
    t.stride[0] = n_stride;
    t.stride[1] = c_stride;
    t.stride[2] = h_stride;
    t.stride[3] = w_stride;
    return t;
}

/* A contiguous array, [n][c][h][w] in memory. */
static inline fastconv_tensor fastconv_nchw(const float *data, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w)
{
    return fastconv_strided(data, n, c, h, w, c * h * w, h * w, w, 1);
}

/* An array with the channels of a pixel side by side, [n][h][w][c] in memory: the fastest layout for images. */
static inline fastconv_tensor fastconv_channels_last(const float *data, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h,
                                                     ptrdiff_t w)
{
    return fastconv_strided(data, n, c, h, w, h * w * c, 1, w * c, c);
}

/* Stride 1, dilation 1, no padding, one group, auto, no activation. */
static inline fastconv_conv2d fastconv_conv2d_defaults(void)
{
    fastconv_conv2d conv = {sizeof(fastconv_conv2d), {1, 1}, {1, 1}, {{0, 0}, {0, 0}}, 1, FASTCONV_AUTO,
                            FASTCONV_IDENTITY};
    return conv;
}

/* Square windows side by side; padding counts, where there is any. */
static inline fastconv_pool2d fastconv_pool2d_defaults(ptrdiff_t kernel)
{
    fastconv_pool2d pool = {sizeof(fastconv_pool2d), {1, 1}, {1, 1}, {0, 0}, {1, 1}, 0, 1};
    pool.kernel[0] = pool.kernel[1] = pool.stride[0] = pool.stride[1] = kernel;
    return pool;
}

/* Inference without weight and bias; running_mean and running_var are to be set. */
static inline fastconv_batch_norm fastconv_batch_norm_defaults(void)
{
    fastconv_batch_norm norm = {sizeof(fastconv_batch_norm), NULL, NULL, NULL, NULL, 0.1, 1e-5, 0,
                                FASTCONV_IDENTITY};
    return norm;
}

/* ---- the table ---------------------------------------------------------------------------------------- */

typedef struct fastconv_api {
    size_t struct_size;                  /* sizeof(fastconv_api) of the library                       */
    int version;                         /* FASTCONV_API_VERSION of the library                       */

    /* "0.1.0"; "avx512", "avx2" or "baseline". Never freed. */
    const char *(*library_version)(void);
    const char *(*isa)(void);

    /* One line on a status; why the last call of this thread that failed did so, valid until the next that fails. */
    const char *(*status_text)(int status);
    const char *(*last_error)(void);

    /* Threads that a call from this thread may use; the limit of all threads without one of their own (1 to 1024);
     * the limit of the calling thread (1 to 1024, 0: none of its own). Both return the limit that they replace, or
     * FASTCONV_BAD_OPTION. */
    int (*num_threads)(void);
    int (*set_num_threads)(int threads);
    int (*limit_threads)(int threads);

    /* P and Q for x (N, C, H, W) and weight (K, C/groups, R, S), of which only the sizes are read. */
    int (*conv2d_output_size)(const fastconv_conv2d *conv, const fastconv_tensor *x, const fastconv_tensor *weight,
                              ptrdiff_t size[2]);

    /* y[n][k][p][q] = activation(bias[k] + residual[n][k][p][q] + sum over c, r, s of
     *     x[n][c + k / (K / groups) * (C / groups)][p * stride + r * dilation - top][q likewise] * weight[k][c][r][s])
     * with x read as 0 outside the image.
     * x (N, C, H, W), weight (K, C/groups, R, S), y (N, K, P, Q): any strides. bias [K] or NULL.
     * residual (N, K, P, Q) with the strides of y, or NULL; y is then dense, NCHW or channels-last.
     * y overlaps no other array. */
    int (*conv2d_forward)(const fastconv_conv2d *conv, const fastconv_tensor *x, const fastconv_tensor *weight,
                          const float *bias, const fastconv_tensor *residual, const fastconv_tensor *y);

    /* dx[n][c][h][w] = sum of dy[n][k][p][q] * weight[k][c][r][s] over all k, r, s, p, q by which forward (without
     * activation) read x[n][c][h][w]. dy (N, K, P, Q), weight (K, C/groups, R, S), dx (N, C, H, W): any strides.
     * dx overlaps no other array. */
    int (*conv2d_backward_input)(const fastconv_conv2d *conv, const fastconv_tensor *dy,
                                 const fastconv_tensor *weight, const fastconv_tensor *dx);

    /* dweight[k][c][r][s] = sum over n, p, q of dy[n][k][p][q] * the x that forward multiplied by weight[k][c][r][s].
     * dy (N, K, P, Q), x (N, C, H, W), dweight (K, C/groups, R, S): any strides. dweight overlaps no other array. */
    int (*conv2d_backward_weight)(const fastconv_conv2d *conv, const fastconv_tensor *dy, const fastconv_tensor *x,
                                  const fastconv_tensor *dweight);

    /* dbias[k] = sum over n, p, q of dy[n][k][p][q]: of conv2d and of linear. dy (N, K, P, Q) dense, NCHW or
     * channels-last; dbias [K]. */
    int (*backward_bias)(const fastconv_tensor *dy, float *dbias);

    /* P and Q for x (N, C, H, W), of which only the sizes are read. */
    int (*pool2d_output_size)(const fastconv_pool2d *pool, const fastconv_tensor *x, ptrdiff_t size[2]);

    /* y[n][c][p][q] = the largest x[n][c][p * stride + r * dilation - padding][q likewise] inside the image over r, s.
     * The first of equal ones wins, NaN wins over numbers. x (N, C, H, W), y (N, C, P, Q): any strides, apart.
     * argmax, or NULL: where the maxima lie in their windows, r * kernel[1] + s, for backward. It has room for as many
     * numbers as y has: bytes, or, where kernel has more than 256 pixels, int32_t. Their order is backward's affair. */
    int (*max_pool2d_forward)(const fastconv_pool2d *pool, const fastconv_tensor *x, const fastconv_tensor *y,
                              void *argmax);

    /* dx[n][c][h][w] = sum of the dy[n][c][p][q] whose maximum was x[n][c][h][w]. argmax of forward, whose x and y had
     * the strides that dx (N, C, H, W) and dy (N, C, P, Q) have here. dx overlaps no other array. */
    int (*max_pool2d_backward)(const fastconv_pool2d *pool, const fastconv_tensor *dy, const void *argmax,
                               const fastconv_tensor *dx);

    /* y[n][c][p][q] = mean of x over the window, its pixels outside the image being 0; the divisor counts pixels of
     * the padded image, or, without count_include_pad, of the image. Any strides; x and y, dy and dx are apart.
     * Backward: dx[n][c][h][w] = sum of dy / divisor over the windows that x[n][c][h][w] is in. */
    int (*avg_pool2d_forward)(const fastconv_pool2d *pool, const fastconv_tensor *x, const fastconv_tensor *y);
    int (*avg_pool2d_backward)(const fastconv_pool2d *pool, const fastconv_tensor *dy, const fastconv_tensor *dx);

    /* The same of P x Q windows that cover the image: p has the rows floor(p H / P) up to ceil((p + 1) H / P). */
    int (*adaptive_avg_pool2d_forward)(const fastconv_tensor *x, const fastconv_tensor *y);
    int (*adaptive_avg_pool2d_backward)(const fastconv_tensor *dy, const fastconv_tensor *dx);

    /* y[i] = activation(x[i]), and dx[i] = dy[i] * its derivative, as y[i], the result of forward, tells it (relu:
     * dy[i] where y[i] is positive or NaN, else 0). n contiguous floats; activation: any but FASTCONV_IDENTITY.
     * y may be x, dx may be dy or y; other overlaps are refused. */
    int (*activation_forward)(int activation, size_t n, const float *x, float *y);
    int (*activation_backward)(int activation, size_t n, const float *dy, const float *y, float *dx);

    /* y = activation((x - mean[c]) * invstd[c] * weight[c] + bias[c] + residual).
     * training: mean[c] and var[c] (divided by n = N H W) are those of x, which has more than one value a channel;
     * mean and invstd = 1 / sqrt(var + eps), [C], are written, and the running averages move, by the variance divided
     * by n - 1. Otherwise mean and var are the running averages, and the arguments mean and invstd are not used.
     * x, residual (or NULL), y (N, C, H, W): all dense and alike, NCHW or channels-last. y may be x or residual. */
    int (*batch_norm_forward)(const fastconv_batch_norm *norm, const fastconv_tensor *x,
                              const fastconv_tensor *residual, const fastconv_tensor *y, float *mean, float *invstd);

    /* Gradients with respect to x, residual, weight and bias. With g = dy, or, where the activation is relu, dy where
     * y, the result of forward, is positive or NaN and 0 elsewhere, and xhat = (x - mean[c]) * invstd[c]:
     *     dbias[c] = sum of g   dweight[c] = sum of g * xhat   dresidual = g
     *     dx = weight[c] * invstd[c] * (g - dbias[c] / n - xhat * dweight[c] / n), in training
     *     dx = weight[c] * invstd[c] * g, otherwise
     * Of norm, weight, training and activation are read. dy, x, y (NULL without activation), dx and dresidual (or
     * NULL; without activation it is dy, and must be NULL): (N, C, H, W), all dense and alike. mean, invstd, dweight,
     * dbias [C]. dx may be dy, x or y; dresidual overlaps no other array. */
    int (*batch_norm_backward)(const fastconv_batch_norm *norm, const fastconv_tensor *dy, const fastconv_tensor *x,
                               const float *mean, const float *invstd, const fastconv_tensor *y,
                               const fastconv_tensor *dx, const fastconv_tensor *dresidual, float *dweight,
                               float *dbias);

    /* y[n][k] = bias[k] + sum over d of x[n][d] * weight[k][d]: x (N, D), weight (K, D), y (N, K), as arrays of
     * N x D x 1 x 1 and so on. Rows of x and y are contiguous, weight has any strides, and is read fastest with
     * stride[0] = 1. bias [K] or NULL. y overlaps no other array. */
    int (*linear_forward)(const fastconv_tensor *x, const fastconv_tensor *weight, const float *bias,
                          const fastconv_tensor *y);

    /* dx[n][d] = sum over k of dy[n][k] * weight[k][d]; dweight[k][d] = sum over n of dy[n][k] * x[n][d]. Shapes as of
     * forward, any strides; the result overlaps no other array. */
    int (*linear_backward_input)(const fastconv_tensor *dy, const fastconv_tensor *weight, const fastconv_tensor *dx);
    int (*linear_backward_weight)(const fastconv_tensor *dy, const fastconv_tensor *x, const fastconv_tensor *dweight);
} fastconv_api;

/* The table, for dlsym; NULL where the library is older than `version`, the FASTCONV_API_VERSION of the caller.
 * The number of threads is 1 until import fastconv, or set_num_threads, says otherwise. */
const fastconv_api *fastconv_get_api(int version);

#ifdef Py_PYTHON_H
/* The table, for extension modules. Returns NULL with a Python exception: ImportError without fastconv, or with one
 * that is older than this header. Called with Python's lock. */
static inline const fastconv_api *fastconv_import(void)
{
    const fastconv_api *api = (const fastconv_api *)PyCapsule_Import("fastconv._core._C_API", 0);
    if (api && api->version < FASTCONV_API_VERSION) {
        PyErr_Format(PyExc_ImportError, "fastconv %s has version %d of its C interface, and version %d is needed",
                     api->library_version(), api->version, FASTCONV_API_VERSION);
        return NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif

#endif
