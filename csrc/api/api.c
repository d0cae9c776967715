/* SPDX-License-Identifier: MIT */
/* The public interface, fastconv.h: checks, then the operations of ops.h. FASTCONV_VERSION is setup.py's. */
#include <math.h>
#include <string.h>

#include "../ops/calls.h"
#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "checks.h"

enum { MOST_THREADS = 1024 };
static const ptrdiff_t MOST_OPTION = ((ptrdiff_t)1 << 31) - 1;

/* The value of a call, or the end of the function where it is an error. */
#define FC_TRY(call)              \
    do {                          \
        const int status_ = call; \
        if (status_ < 0)          \
            return status_;       \
    } while (0)

static int done(int status)
{
    return status ? fc_fail(FASTCONV_NO_MEMORY, "no memory for workspace") : FASTCONV_OK;
}

/* The end of a function: the operation, seen by the profiler as the fc_call of these fields. */
#define FC_RETURN(operation, ...)                     \
    do {                                              \
        fc_call call_ = {__VA_ARGS__};                \
        fc_call_begin(&call_);                        \
        const int status_ = operation;                \
        fc_call_end(&call_, status_);                 \
        return done(status_);                         \
    } while (0)

/* ---- the process ---------------------------------------------------------------------------------------- */

static const char *library_version(void) { return FASTCONV_VERSION; }

static const char *isa(void) { return fc_kernels_active()->isa; }

static const char *status_text(int status)
{
    switch (status) {
    case FASTCONV_OK:
        return "no error";
    case FASTCONV_BAD_POINTER:
        return "a pointer is NULL or misaligned";
    case FASTCONV_BAD_SHAPE:
        return "sizes do not fit";
    case FASTCONV_BAD_OPTION:
        return "an option is out of its range";
    case FASTCONV_BAD_LAYOUT:
        return "strides that the function does not take";
    case FASTCONV_OVERLAP:
        return "a result overlaps another argument";
    case FASTCONV_NO_MEMORY:
        return "out of memory";
    }
    return "unknown status";
}

static int num_threads(void) { return fc_threads_allowed(); }

static int set_num_threads(int threads)
{
    FC_TRY(fc_check_range("threads", threads, 1, MOST_THREADS));
    const int before = fc_threads_default();
    fc_threads_set_default(threads);
    return before;
}

static int limit_threads(int threads)
{
    FC_TRY(fc_check_range("threads", threads, 0, MOST_THREADS));
    return fc_threads_limit(threads);
}

/* ---- conv2d --------------------------------------------------------------------------------------------- */

static int relu_asked(int activation, int *relu)
{
    if (activation != FASTCONV_IDENTITY && activation != FASTCONV_RELU)
        return fc_fail(FASTCONV_BAD_OPTION, "activation must be FASTCONV_IDENTITY or FASTCONV_RELU here, got %d",
                       activation);
    *relu = activation == FASTCONV_RELU;
    return FASTCONV_OK;
}

/* Reads the options; sizes the output: `size` of P and Q. */
static int conv2d_geometry(const fastconv_conv2d *given, const fc_tensor *x, const fc_tensor *weight, fc_conv2d *conv,
                           ptrdiff_t size[2], int *relu)
{
    fastconv_conv2d own;
    FC_TRY(fc_check_struct("conv", given, &own, sizeof own));
    FC_TRY(fc_check_range("groups", own.groups, 1, MOST_OPTION));
    FC_TRY(fc_check_range("algorithm", own.algorithm, FASTCONV_AUTO, FASTCONV_WINOGRAD));
    FC_TRY(relu_asked(own.activation, relu));
    if (weight->size[0] % own.groups || x->size[1] % own.groups)
        return fc_fail(FASTCONV_BAD_OPTION, "groups must divide the %td input and %td output channels, got %td",
                       x->size[1], weight->size[0], own.groups);
    if (weight->size[1] != x->size[1] / own.groups)
        return fc_fail(FASTCONV_BAD_SHAPE, "weight must have %td input channels (%td / %td groups), got %td",
                       x->size[1] / own.groups, x->size[1], own.groups, weight->size[1]);
    for (int axis = 0; axis < 2; axis++) {
        FC_TRY(fc_check_range("stride", own.stride[axis], 1, MOST_OPTION));
        FC_TRY(fc_check_range("dilation", own.dilation[axis], 1, MOST_OPTION));
        FC_TRY(fc_check_range("padding", own.padding[axis][0], 0, MOST_OPTION));
        FC_TRY(fc_check_range("padding", own.padding[axis][1], 0, MOST_OPTION));
        const ptrdiff_t taps = weight->size[2 + axis];
        const ptrdiff_t padded = x->size[2 + axis] + own.padding[axis][0] + own.padding[axis][1];
        ptrdiff_t reach;
        if (taps < 1)
            return fc_fail(FASTCONV_BAD_SHAPE, "weight must have taps, got size[%d] %td", 2 + axis, taps);
        if (__builtin_mul_overflow(own.dilation[axis], taps - 1, &reach) || reach >= padded)
            return fc_fail(FASTCONV_BAD_SHAPE,
                           "weight of %td taps and dilation %td is larger than x of %td and padding %td + %td", taps,
                           own.dilation[axis], x->size[2 + axis], own.padding[axis][0], own.padding[axis][1]);
        size[axis] = (padded - reach - 1) / own.stride[axis] + 1;
        conv->stride[axis] = own.stride[axis];
        conv->dilation[axis] = own.dilation[axis];
        memcpy(conv->pad[axis], own.padding[axis], sizeof conv->pad[axis]);
    }
    conv->groups = own.groups;
    conv->algorithm = own.algorithm;
    if (!fc_conv2d_supports(conv, weight))
        return fc_fail(FASTCONV_BAD_OPTION,
                       "FASTCONV_WINOGRAD needs square filters of more than s and at most 5 s taps at a stride s of 1 "
                       "to 4, and dilation 1, got %td x %td, stride %td x %td, dilation %td x %td",
                       weight->size[2], weight->size[3], conv->stride[0], conv->stride[1], conv->dilation[0],
                       conv->dilation[1]);
    return FASTCONV_OK;
}

/* Sizes alone, which memory is not needed for. */
static int sizes_of(const char *name, const fastconv_tensor *given, fc_tensor *t)
{
    static float somewhere;
    fastconv_tensor own;
    FC_TRY(fc_check_struct(name, given, &own, sizeof own));
    own.data = &somewhere;
    memset(own.stride, 0, sizeof own.stride);
    return fc_check_input(name, &own, t);
}

static int conv2d_output_size(const fastconv_conv2d *given, const fastconv_tensor *x, const fastconv_tensor *weight,
                              ptrdiff_t size[2])
{
    fc_tensor tx, tw;
    fc_conv2d conv;
    ptrdiff_t own[2];
    int relu;
    FC_TRY(sizes_of("x", x, &tx));
    FC_TRY(sizes_of("weight", weight, &tw));
    FC_TRY(fc_check_vector("size", size));
    FC_TRY(conv2d_geometry(given, &tx, &tw, &conv, own, &relu));
    memcpy(size, own, sizeof own);
    return FASTCONV_OK;
}

/* What both forms of a linear map share: bias, and a result apart from everything. */
static int check_result(const fc_tensor *y, const fc_tensor *x, const fc_tensor *weight, const float *bias)
{
    FC_TRY(fc_check_optional("bias", bias));
    FC_TRY(fc_check_apart(y, "y", x, "x"));
    FC_TRY(fc_check_apart(y, "y", weight, "weight"));
    return fc_check_apart_from_span(y, "y", bias, (size_t)weight->size[0] * sizeof(float), "bias");
}

/* residual: added in a pass of its own, or NULL. */
static int run_conv2d(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *weight, fc_conv2d_extras extras,
                      const fc_tensor *residual, const fc_tensor *y)
{
    const int relu = extras.relu;
    extras.relu = relu && !residual;
    const int status = fc_conv2d_forward(conv, x, weight, &extras, y);
    if (status || !residual)
        return status;
    const float *const terms[2] = {y->data, residual->data};
    fc_sum((size_t)(y->size[0] * y->size[1] * y->size[2] * y->size[3]), 2, terms, relu, y->data);
    return 0;
}

static int conv2d_forward(const fastconv_conv2d *given, const fastconv_tensor *x, const fastconv_tensor *weight,
                          const float *bias, const fastconv_tensor *residual, const fastconv_tensor *y)
{
    fc_tensor tx, tw, ty, tr;
    fc_conv2d conv;
    fc_conv2d_extras extras = {.bias = bias};
    ptrdiff_t size[2];
    int relu, added_later = 0;
    FC_TRY(fc_check_input("x", x, &tx));
    FC_TRY(fc_check_input("weight", weight, &tw));
    FC_TRY(fc_check_output("y", y, &ty));
    FC_TRY(conv2d_geometry(given, &tx, &tw, &conv, size, &relu));
    FC_TRY(fc_check_size("y", &ty, tx.size[0], tw.size[0], size[0], size[1]));
    FC_TRY(check_result(&ty, &tx, &tw, bias));
    extras.relu = relu;
    if (residual) {
        FC_TRY(fc_check_input("residual", residual, &tr));
        FC_TRY(fc_check_dense("y", &ty));
        FC_TRY(fc_check_same_layout("residual", &tr, "y", &ty));
        FC_TRY(fc_check_apart(&ty, "y", &tr, "residual"));
        added_later = ty.stride[1] != 1 && ty.size[1] > 1;
        if (!added_later)
            extras.residual = tr.data;
    }
    FC_RETURN(run_conv2d(&conv, &tx, &tw, extras, added_later ? &tr : NULL, &ty), .op = "conv2d",
           .arrays = {&tx, &tw, residual ? &tr : NULL, &ty}, .conv = &conv, .bias = bias != NULL, .relu = relu);
}

static int conv2d_backward_input(const fastconv_conv2d *given, const fastconv_tensor *dy, const fastconv_tensor *weight,
                                 const fastconv_tensor *dx)
{
    fc_tensor tdy, tw, tdx;
    fc_conv2d conv;
    ptrdiff_t size[2];
    int relu;
    FC_TRY(fc_check_input("dy", dy, &tdy));
    FC_TRY(fc_check_input("weight", weight, &tw));
    FC_TRY(fc_check_output("dx", dx, &tdx));
    FC_TRY(conv2d_geometry(given, &tdx, &tw, &conv, size, &relu));
    FC_TRY(fc_check_size("dy", &tdy, tdx.size[0], tw.size[0], size[0], size[1]));
    FC_TRY(fc_check_apart(&tdx, "dx", &tdy, "dy"));
    FC_TRY(fc_check_apart(&tdx, "dx", &tw, "weight"));
    FC_RETURN(fc_conv2d_backward_input(&conv, &tdy, &tw, NULL, &tdx), .op = "conv2d_backward_input",
           .arrays = {&tdy, &tw, &tdx}, .conv = &conv);
}

static int conv2d_backward_weight(const fastconv_conv2d *given, const fastconv_tensor *dy, const fastconv_tensor *x,
                                  const fastconv_tensor *dweight)
{
    fc_tensor tdy, tx, tdw;
    fc_conv2d conv;
    ptrdiff_t size[2];
    int relu;
    FC_TRY(fc_check_input("dy", dy, &tdy));
    FC_TRY(fc_check_input("x", x, &tx));
    FC_TRY(fc_check_output("dweight", dweight, &tdw));
    FC_TRY(conv2d_geometry(given, &tx, &tdw, &conv, size, &relu));
    FC_TRY(fc_check_size("dy", &tdy, tx.size[0], tdw.size[0], size[0], size[1]));
    FC_TRY(fc_check_apart(&tdw, "dweight", &tdy, "dy"));
    FC_TRY(fc_check_apart(&tdw, "dweight", &tx, "x"));
    FC_RETURN(fc_conv2d_backward_weight(&conv, &tdy, &tx, &tdw), .op = "conv2d_backward_weight",
           .arrays = {&tdy, &tx, &tdw}, .conv = &conv);
}

static int backward_bias(const fastconv_tensor *dy, float *dbias)
{
    fc_tensor tdy;
    FC_TRY(fc_check_input("dy", dy, &tdy));
    FC_TRY(fc_check_dense("dy", &tdy));
    FC_TRY(fc_check_vector("dbias", dbias));
    FC_TRY(fc_check_apart_from_span(&tdy, "dy", dbias, (size_t)tdy.size[1] * sizeof(float), "dbias"));
    FC_RETURN(fc_sum_channels(&tdy, dbias), .op = "sum_channels", .arrays = {&tdy});
}

/* ---- linear: 1x1 convolutions over one row of N pixels ----------------------------------------------------- */

static const fc_conv2d POINTWISE = {.stride = {1, 1}, .dilation = {1, 1}, .groups = 1};

/* N x D x 1 x 1 seen as one image of D channels and one row of N pixels. */
static void as_row(fc_tensor *t)
{
    t->size[3] = t->size[0];
    t->stride[3] = t->stride[0];
    t->size[0] = 1;
    t->stride[0] = 0;
}

static int check_matrix(const char *name, const fc_tensor *t, ptrdiff_t rows, ptrdiff_t columns)
{
    return fc_check_size(name, t, rows, columns, 1, 1);
}

static int check_rows(const char *name, const fc_tensor *t)
{
    if (t->size[0] && t->size[1] > 1 && t->stride[1] != 1)
        return fc_fail(FASTCONV_BAD_LAYOUT, "%s must have contiguous rows, got stride[1] %td", name, t->stride[1]);
    return FASTCONV_OK;
}

static int linear_forward(const fastconv_tensor *x, const fastconv_tensor *weight, const float *bias,
                          const fastconv_tensor *y)
{
    fc_tensor tx, tw, ty;
    const fc_conv2d_extras extras = {.bias = bias};
    FC_TRY(fc_check_input("x", x, &tx));
    FC_TRY(fc_check_input("weight", weight, &tw));
    FC_TRY(fc_check_output("y", y, &ty));
    FC_TRY(check_matrix("x", &tx, tx.size[0], tx.size[1]));
    FC_TRY(check_matrix("weight", &tw, tw.size[0], tx.size[1]));
    FC_TRY(check_matrix("y", &ty, tx.size[0], tw.size[0]));
    FC_TRY(check_rows("x", &tx));
    FC_TRY(check_rows("y", &ty));
    FC_TRY(check_result(&ty, &tx, &tw, bias));
    as_row(&tx);
    as_row(&ty);
    FC_RETURN(fc_linear_forward(&POINTWISE, &tx, &tw, &extras, &ty), .op = "linear",
           .arrays = {&tx, &tw, &ty}, .bias = bias != NULL);
}

static int linear_backward_input(const fastconv_tensor *dy, const fastconv_tensor *weight, const fastconv_tensor *dx)
{
    fc_tensor tdy, tw, tdx;
    FC_TRY(fc_check_input("dy", dy, &tdy));
    FC_TRY(fc_check_input("weight", weight, &tw));
    FC_TRY(fc_check_output("dx", dx, &tdx));
    FC_TRY(check_matrix("dy", &tdy, tdy.size[0], tdy.size[1]));
    FC_TRY(check_matrix("weight", &tw, tdy.size[1], tw.size[1]));
    FC_TRY(check_matrix("dx", &tdx, tdy.size[0], tw.size[1]));
    FC_TRY(fc_check_apart(&tdx, "dx", &tdy, "dy"));
    FC_TRY(fc_check_apart(&tdx, "dx", &tw, "weight"));
    as_row(&tdy);
    as_row(&tdx);
    FC_RETURN(fc_conv2d_backward_input(&POINTWISE, &tdy, &tw, NULL, &tdx), .op = "linear_backward_input",
           .arrays = {&tdy, &tw, &tdx});
}

static int linear_backward_weight(const fastconv_tensor *dy, const fastconv_tensor *x, const fastconv_tensor *dweight)
{
    fc_tensor tdy, tx, tdw;
    FC_TRY(fc_check_input("dy", dy, &tdy));
    FC_TRY(fc_check_input("x", x, &tx));
    FC_TRY(fc_check_output("dweight", dweight, &tdw));
    FC_TRY(check_matrix("x", &tx, tx.size[0], tx.size[1]));
    FC_TRY(check_matrix("dy", &tdy, tx.size[0], tdy.size[1]));
    FC_TRY(check_matrix("dweight", &tdw, tdy.size[1], tx.size[1]));
    FC_TRY(fc_check_apart(&tdw, "dweight", &tdy, "dy"));
    FC_TRY(fc_check_apart(&tdw, "dweight", &tx, "x"));
    as_row(&tdy);
    as_row(&tx);
    FC_RETURN(fc_linear_backward_weight(&POINTWISE, &tdy, &tx, &tdw), .op = "linear_backward_weight",
           .arrays = {&tdy, &tx, &tdw});
}

/* ---- pooling ----------------------------------------------------------------------------------------------- */

/* Reads the options and sizes the pooled array: `size` of P and Q. */
static int pool2d_geometry(const fastconv_pool2d *given, const fc_tensor *x, fc_pool2d *pool, ptrdiff_t size[2])
{
    fastconv_pool2d own;
    FC_TRY(fc_check_struct("pool", given, &own, sizeof own));
    *pool = (fc_pool2d){.count_include_pad = own.count_include_pad != 0};
    for (int axis = 0; axis < 2; axis++) {
        const ptrdiff_t kernel = own.kernel[axis], step = own.stride[axis], pad = own.padding[axis];
        FC_TRY(fc_check_range("kernel", kernel, 1, MOST_OPTION));
        FC_TRY(fc_check_range("stride", step, 1, MOST_OPTION));
        FC_TRY(fc_check_range("padding", pad, 0, kernel / 2));
        FC_TRY(fc_check_range("dilation", own.dilation[axis], 1, MOST_OPTION));
        const ptrdiff_t room = x->size[2 + axis] + 2 * pad - own.dilation[axis] * (kernel - 1) - 1;
        size[axis] = room < 0 ? 0 : room / step + (own.ceil_mode && room % step) + 1;
        if (own.ceil_mode && (size[axis] - 1) * step >= x->size[2 + axis] + pad)
            size[axis]--;
        if (size[axis] < 1)
            return fc_fail(FASTCONV_BAD_SHAPE, "kernel of %td and dilation %td is larger than x of %td and padding %td",
                           kernel, own.dilation[axis], x->size[2 + axis], pad);
        pool->kernel[axis] = kernel;
        pool->stride[axis] = step;
        pool->pad[axis] = pad;
        pool->dilation[axis] = own.dilation[axis];
    }
    return FASTCONV_OK;
}

static int pool2d_output_size(const fastconv_pool2d *given, const fastconv_tensor *x, ptrdiff_t size[2])
{
    fc_tensor tx;
    fc_pool2d pool;
    ptrdiff_t own[2];
    FC_TRY(sizes_of("x", x, &tx));
    FC_TRY(fc_check_vector("size", size));
    FC_TRY(pool2d_geometry(given, &tx, &pool, own));
    memcpy(size, own, sizeof own);
    return FASTCONV_OK;
}

/* The geometry between an image and what it is pooled to, either of which may be the result. */
static int check_pool(const fastconv_pool2d *given, const char *image_name, const fc_tensor *image,
                      const char *pooled_name, const fc_tensor *pooled, fc_pool2d *pool)
{
    ptrdiff_t size[2];
    FC_TRY(pool2d_geometry(given, image, pool, size));
    FC_TRY(fc_check_size(pooled_name, pooled, image->size[0], image->size[1], size[0], size[1]));
    return fc_check_apart(image, image_name, pooled, pooled_name);
}

/* Whether positions in a window take 32 bits. */
static int check_argmax(const fc_pool2d *pool, const void *argmax, int *wide)
{
    const ptrdiff_t pixels = pool->kernel[0] * pool->kernel[1];
    if (pixels > (ptrdiff_t)1 << 31)
        return fc_fail(FASTCONV_BAD_OPTION, "kernel must have at most 2^31 pixels, got %td x %td", pool->kernel[0],
                       pool->kernel[1]);
    *wide = pixels > 256;
    return *wide ? fc_check_optional("argmax", argmax) : FASTCONV_OK;
}

static int max_pool2d_forward(const fastconv_pool2d *given, const fastconv_tensor *x, const fastconv_tensor *y,
                              void *argmax)
{
    fc_tensor tx, ty;
    fc_pool2d pool;
    int wide = 0;
    FC_TRY(fc_check_input("x", x, &tx));
    FC_TRY(fc_check_output("y", y, &ty));
    FC_TRY(check_pool(given, "x", &tx, "y", &ty, &pool));
    if (argmax)
        FC_TRY(check_argmax(&pool, argmax, &wide));
    FC_RETURN(fc_max_pool2d_forward(&pool, &tx, &ty, argmax, wide), .op = "max_pool2d",
           .arrays = {&tx, &ty}, .pool = &pool, .argmax = argmax ? wide ? 4 : 1 : 0);
}

static int max_pool2d_backward(const fastconv_pool2d *given, const fastconv_tensor *dy, const void *argmax,
                               const fastconv_tensor *dx)
{
    fc_tensor tdy, tdx;
    fc_pool2d pool;
    int wide;
    FC_TRY(fc_check_input("dy", dy, &tdy));
    FC_TRY(fc_check_output("dx", dx, &tdx));
    FC_TRY(check_pool(given, "dx", &tdx, "dy", &tdy, &pool));
    FC_TRY(check_argmax(&pool, argmax, &wide));
    if (!argmax)
        return fc_fail(FASTCONV_BAD_POINTER, "argmax must not be NULL");
    FC_RETURN(fc_max_pool2d_backward(&pool, &tdy, argmax, wide, &tdx), .op = "max_pool2d_backward",
           .arrays = {&tdy, &tdx}, .pool = &pool, .argmax = wide ? 4 : 1);
}

static int check_average(const fastconv_pool2d *given, const char *image_name, const fc_tensor *image,
                         const char *pooled_name, const fc_tensor *pooled, fc_pool2d *pool)
{
    FC_TRY(check_pool(given, image_name, image, pooled_name, pooled, pool));
    if (pool->dilation[0] != 1 || pool->dilation[1] != 1)
        return fc_fail(FASTCONV_BAD_OPTION, "dilation of an average must be 1, got %td, %td", pool->dilation[0],
                       pool->dilation[1]);
    return FASTCONV_OK;
}

static int avg_pool2d_forward(const fastconv_pool2d *given, const fastconv_tensor *x, const fastconv_tensor *y)
{
    fc_tensor tx, ty;
    fc_pool2d pool;
    FC_TRY(fc_check_input("x", x, &tx));
    FC_TRY(fc_check_output("y", y, &ty));
    FC_TRY(check_average(given, "x", &tx, "y", &ty, &pool));
    FC_RETURN(fc_avg_pool2d_forward(&pool, &tx, &ty), .op = "avg_pool2d",
           .arrays = {&tx, &ty}, .pool = &pool);
}

static int avg_pool2d_backward(const fastconv_pool2d *given, const fastconv_tensor *dy, const fastconv_tensor *dx)
{
    fc_tensor tdy, tdx;
    fc_pool2d pool;
    FC_TRY(fc_check_input("dy", dy, &tdy));
    FC_TRY(fc_check_output("dx", dx, &tdx));
    FC_TRY(check_average(given, "dx", &tdx, "dy", &tdy, &pool));
    FC_RETURN(fc_avg_pool2d_backward(&pool, &tdy, &tdx), .op = "avg_pool2d_backward",
           .arrays = {&tdy, &tdx}, .pool = &pool);
}

static const fc_pool2d ADAPTIVE = {.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .adaptive = 1};

static int check_adaptive(const char *image_name, const fc_tensor *image, const char *pooled_name,
                          const fc_tensor *pooled)
{
    for (int axis = 2; axis < 4; axis++) {
        if (image->size[axis] < 1)
            return fc_fail(FASTCONV_BAD_SHAPE, "%s must have pixels, got size[%d] 0", image_name, axis);
        if (pooled->size[axis] < 1 || pooled->size[axis] > MOST_OPTION || image->size[axis] > MOST_OPTION)
            return fc_fail(FASTCONV_BAD_SHAPE, "%s must have 1 to 2^31 - 1 rows and columns, got size[%d] %td",
                           pooled_name, axis, pooled->size[axis]);
    }
    FC_TRY(fc_check_size(pooled_name, pooled, image->size[0], image->size[1], pooled->size[2], pooled->size[3]));
    return fc_check_apart(image, image_name, pooled, pooled_name);
}

static int adaptive_avg_pool2d_forward(const fastconv_tensor *x, const fastconv_tensor *y)
{
    fc_tensor tx, ty;
    FC_TRY(fc_check_input("x", x, &tx));
    FC_TRY(fc_check_output("y", y, &ty));
    FC_TRY(check_adaptive("x", &tx, "y", &ty));
    FC_RETURN(fc_avg_pool2d_forward(&ADAPTIVE, &tx, &ty), .op = "avg_pool2d",
           .arrays = {&tx, &ty}, .pool = &ADAPTIVE);
}

static int adaptive_avg_pool2d_backward(const fastconv_tensor *dy, const fastconv_tensor *dx)
{
    fc_tensor tdy, tdx;
    FC_TRY(fc_check_input("dy", dy, &tdy));
    FC_TRY(fc_check_output("dx", dx, &tdx));
    FC_TRY(check_adaptive("dx", &tdx, "dy", &tdy));
    FC_RETURN(fc_avg_pool2d_backward(&ADAPTIVE, &tdy, &tdx), .op = "avg_pool2d_backward",
           .arrays = {&tdy, &tdx}, .pool = &ADAPTIVE);
}

/* ---- activations ------------------------------------------------------------------------------------------- */

/* n floats as an array. */
static int check_span(const char *name, size_t n, const float *data, fc_tensor *t)
{
    const ptrdiff_t count = n > PTRDIFF_MAX ? PTRDIFF_MAX : (ptrdiff_t)n;
    const fastconv_tensor span = fastconv_strided(data, 1, 1, 1, count, 0, 0, 0, 1);
    return fc_check_input(name, &span, t);
}

/* kernels.h counts activations from 0, without the identity. */
static int kind_of(int activation) { return activation - FASTCONV_RELU + FC_RELU; }

static int activation_forward(int activation, size_t n, const float *x, float *y)
{
    fc_tensor tx, ty;
    FC_TRY(fc_check_range("activation", activation, FASTCONV_RELU, FASTCONV_TANH));
    FC_TRY(check_span("x", n, x, &tx));
    FC_TRY(check_span("y", n, y, &ty));
    FC_TRY(fc_check_apart_or_same(&ty, "y", &tx, "x"));
    FC_RETURN((fc_activation_forward(kind_of(activation), n, x, y), 0), .op = "activation", .arrays = {&tx, &ty});
}

static int activation_backward(int activation, size_t n, const float *dy, const float *y, float *dx)
{
    fc_tensor tdy, ty, tdx;
    FC_TRY(fc_check_range("activation", activation, FASTCONV_RELU, FASTCONV_TANH));
    FC_TRY(check_span("dy", n, dy, &tdy));
    FC_TRY(check_span("y", n, y, &ty));
    FC_TRY(check_span("dx", n, dx, &tdx));
    FC_TRY(fc_check_apart_or_same(&tdx, "dx", &tdy, "dy"));
    FC_TRY(fc_check_apart_or_same(&tdx, "dx", &ty, "y"));
    FC_RETURN((fc_activation_backward(kind_of(activation), n, dy, y, dx), 0), .op = "activation_backward",
           .arrays = {&tdy, &ty, &tdx});
}

/* ---- batch normalisation ----------------------------------------------------------------------------------- */

static int check_norm(const fastconv_batch_norm *given, fastconv_batch_norm *own, int *relu)
{
    FC_TRY(fc_check_struct("norm", given, own, sizeof *own));
    FC_TRY(relu_asked(own->activation, relu));
    FC_TRY(fc_check_optional("weight", own->weight));
    FC_TRY(fc_check_optional("bias", own->bias));
    FC_TRY(fc_check_optional("running_mean", own->running_mean));
    FC_TRY(fc_check_optional("running_var", own->running_var));
    if (!(own->momentum >= 0 && own->momentum <= 1))
        return fc_fail(FASTCONV_BAD_OPTION, "momentum must be from 0 to 1, got %g", own->momentum);
    if (!(own->eps >= 0 && own->eps < HUGE_VAL))
        return fc_fail(FASTCONV_BAD_OPTION, "eps must be a non-negative number, got %g", own->eps);
    return FASTCONV_OK;
}

/* norm->mean and, in evaluation, running_var are there; invstd is taken for the call. */
static int run_batch_norm(fc_batch_norm *norm, const fc_tensor *x, const float *residual, int relu, const fc_tensor *y)
{
    if (norm->training)
        return fc_batch_norm_forward(norm, x, residual, relu, y);
    norm->invstd = fc_alloc(((size_t)x->size[1] + 1) * sizeof(float));
    if (!norm->invstd)
        return -1;
    for (ptrdiff_t c = 0; c < x->size[1]; c++)
        norm->invstd[c] = (float)(1 / sqrt(norm->running_var[c] + norm->eps));
    const int status = fc_batch_norm_forward(norm, x, residual, relu, y);
    fc_free(norm->invstd);
    return status;
}

static int batch_norm_forward(const fastconv_batch_norm *given, const fastconv_tensor *x,
                              const fastconv_tensor *residual, const fastconv_tensor *y, float *mean, float *invstd)
{
    fastconv_batch_norm own;
    fc_tensor tx, ty, tr = {0};
    int relu;
    FC_TRY(check_norm(given, &own, &relu));
    FC_TRY(fc_check_input("x", x, &tx));
    FC_TRY(fc_check_output("y", y, &ty));
    FC_TRY(fc_check_dense("x", &tx));
    FC_TRY(fc_check_same_layout("y", &ty, "x", &tx));
    FC_TRY(fc_check_apart_or_same(&ty, "y", &tx, "x"));
    if (residual) {
        FC_TRY(fc_check_input("residual", residual, &tr));
        FC_TRY(fc_check_same_layout("residual", &tr, "x", &tx));
        FC_TRY(fc_check_apart_or_same(&ty, "y", &tr, "residual"));
    }
    fc_batch_norm norm = {
        .weight = own.weight, .bias = own.bias, .mean = mean, .invstd = invstd, .running_mean = own.running_mean,
        .running_var = own.running_var, .momentum = own.momentum, .eps = own.eps, .training = own.training != 0,
    };
    if (norm.training) {
        FC_TRY(fc_check_vector("mean", mean));
        FC_TRY(fc_check_vector("invstd", invstd));
        if (tx.size[0] * tx.size[2] * tx.size[3] < 2)
            return fc_fail(FASTCONV_BAD_SHAPE, "x must have more than one value a channel in training");
    } else {
        FC_TRY(fc_check_vector("running_mean", own.running_mean));
        FC_TRY(fc_check_vector("running_var", own.running_var));
        norm.mean = own.running_mean;
    }
    FC_RETURN(run_batch_norm(&norm, &tx, tr.data, relu, &ty), .op = "batch_norm",
           .arrays = {&tx, residual ? &tr : NULL, &ty}, .relu = relu, .training = norm.training);
}

static int batch_norm_backward(const fastconv_batch_norm *given, const fastconv_tensor *dy, const fastconv_tensor *x,
                               const float *mean, const float *invstd, const fastconv_tensor *y,
                               const fastconv_tensor *dx, const fastconv_tensor *dresidual, float *dweight,
                               float *dbias)
{
    fastconv_batch_norm own;
    fc_tensor tdy, tx, ty = {0}, tdx, tdr = {0};
    int relu;
    FC_TRY(check_norm(given, &own, &relu));
    FC_TRY(fc_check_input("dy", dy, &tdy));
    FC_TRY(fc_check_input("x", x, &tx));
    FC_TRY(fc_check_output("dx", dx, &tdx));
    FC_TRY(fc_check_dense("x", &tx));
    FC_TRY(fc_check_same_layout("dy", &tdy, "x", &tx));
    FC_TRY(fc_check_same_layout("dx", &tdx, "x", &tx));
    FC_TRY(fc_check_apart_or_same(&tdx, "dx", &tdy, "dy"));
    FC_TRY(fc_check_apart_or_same(&tdx, "dx", &tx, "x"));
    FC_TRY(fc_check_vector("mean", mean));
    FC_TRY(fc_check_vector("invstd", invstd));
    FC_TRY(fc_check_vector("dweight", dweight));
    FC_TRY(fc_check_vector("dbias", dbias));
    if (relu != (y != NULL))
        return fc_fail(FASTCONV_BAD_POINTER, relu ? "y must not be NULL behind a relu"
                                                  : "y must be NULL without activation");
    if (relu) {
        FC_TRY(fc_check_input("y", y, &ty));
        FC_TRY(fc_check_same_layout("y", &ty, "x", &tx));
        FC_TRY(fc_check_apart_or_same(&tdx, "dx", &ty, "y"));
    }
    if (dresidual) {
        if (!relu)
            return fc_fail(FASTCONV_BAD_POINTER, "dresidual must be NULL without activation: it is dy");
        FC_TRY(fc_check_output("dresidual", dresidual, &tdr));
        FC_TRY(fc_check_same_layout("dresidual", &tdr, "x", &tx));
        FC_TRY(fc_check_apart(&tdr, "dresidual", &tdy, "dy"));
        FC_TRY(fc_check_apart(&tdr, "dresidual", &tx, "x"));
        FC_TRY(fc_check_apart(&tdr, "dresidual", &ty, "y"));
        FC_TRY(fc_check_apart(&tdr, "dresidual", &tdx, "dx"));
    }
    const fc_batch_norm norm = {
        .weight = own.weight, .mean = (float *)mean, .invstd = (float *)invstd, .training = own.training != 0,
    };
    FC_RETURN(fc_batch_norm_backward(&norm, &tdy, &tx, relu, ty.data, &tdx, tdr.data, dweight, dbias),
           .op = "batch_norm_backward", .arrays = {&tdy, &tx, dresidual ? &tdr : NULL, &tdx}, .relu = relu,
           .training = norm.training);
}

/* ---- the table --------------------------------------------------------------------------------------------- */

static const fastconv_api TABLE = {
    .struct_size = sizeof(fastconv_api),
    .version = FASTCONV_API_VERSION,
    .library_version = library_version,
    .isa = isa,
    .status_text = status_text,
    .last_error = fc_last_error,
    .num_threads = num_threads,
    .set_num_threads = set_num_threads,
    .limit_threads = limit_threads,
    .conv2d_output_size = conv2d_output_size,
    .conv2d_forward = conv2d_forward,
    .conv2d_backward_input = conv2d_backward_input,
    .conv2d_backward_weight = conv2d_backward_weight,
    .backward_bias = backward_bias,
    .pool2d_output_size = pool2d_output_size,
    .max_pool2d_forward = max_pool2d_forward,
    .max_pool2d_backward = max_pool2d_backward,
    .avg_pool2d_forward = avg_pool2d_forward,
    .avg_pool2d_backward = avg_pool2d_backward,
    .adaptive_avg_pool2d_forward = adaptive_avg_pool2d_forward,
    .adaptive_avg_pool2d_backward = adaptive_avg_pool2d_backward,
    .activation_forward = activation_forward,
    .activation_backward = activation_backward,
    .batch_norm_forward = batch_norm_forward,
    .batch_norm_backward = batch_norm_backward,
    .linear_forward = linear_forward,
    .linear_backward_input = linear_backward_input,
    .linear_backward_weight = linear_backward_weight,
};

/* The rest of the extension is hidden (-fvisibility=hidden); on Windows it is setup.py that exports this. */
__attribute__((visibility("default")))
const fastconv_api *fastconv_get_api(int version)
{
    return version <= TABLE.version ? &TABLE : NULL;
}
