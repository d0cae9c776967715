/* SPDX-License-Identifier: MIT */
#include "checks.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[256];

int fc_fail(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return status;
}

const char *fc_last_error(void) { return message; }

int fc_check_struct(const char *name, const void *given, void *own, size_t size)
{
    size_t known;
    if (!given)
        return fc_fail(FASTCONV_BAD_POINTER, "%s must not be NULL", name);
    memcpy(&known, given, sizeof known);
    if (known < size)
        return fc_fail(FASTCONV_BAD_OPTION, "%s.struct_size must be at least %zu, got %zu", name, size, known);
    memcpy(own, given, size);
    return FASTCONV_OK;
}

/* Sizes, products of sizes and reaches of strides beyond this are refused: bytes of tables with an entry a row or
 * column, and sums of a few, stay below 2^63. */
static const ptrdiff_t MOST = (ptrdiff_t)1 << 56;

static int is_empty(const fc_tensor *t) { return !t->size[0] || !t->size[1] || !t->size[2] || !t->size[3]; }

int fc_check_input(const char *name, const fastconv_tensor *given, fc_tensor *t)
{
    fastconv_tensor own;
    const int status = fc_check_struct(name, given, &own, sizeof own);
    if (status < 0)
        return status;
    double elements = 1;
    ptrdiff_t reach = 0;
    for (int i = 0; i < 4; i++) {
        const ptrdiff_t size = own.size[i];
        if (size < 0 || size > MOST)
            return fc_fail(FASTCONV_BAD_SHAPE, "%s.size[%d] must be from 0 to 2^56, got %td", name, i, size);
        elements *= size ? (double)size : 1;
        t->size[i] = size;
        t->stride[i] = own.stride[i];
    }
    t->data = own.data;
    if (elements > (double)MOST)
        return fc_fail(FASTCONV_BAD_SHAPE, "%s must have at most 2^56 elements, got %td x %td x %td x %td", name,
                       own.size[0], own.size[1], own.size[2], own.size[3]);
    if (is_empty(t)) {
        memset(t->stride, 0, sizeof t->stride);
        return FASTCONV_OK;
    }
    for (int i = 0; i < 4; i++) {
        ptrdiff_t step;
        if (t->size[i] == 1 && (own.stride[i] < -MOST || own.stride[i] > MOST))
            t->stride[i] = 0;
        if (__builtin_mul_overflow(t->size[i] - 1, t->stride[i], &step) || step < -MOST || step > MOST ||
            (reach += step < 0 ? -step : step) > MOST)
            return fc_fail(FASTCONV_BAD_LAYOUT, "%s.stride[%d] must stay within the address space, got %td", name, i,
                           own.stride[i]);
    }
    return fc_check_vector(name, own.data);
}

int fc_check_output(const char *name, const fastconv_tensor *given, fc_tensor *t)
{
    const int status = fc_check_input(name, given, t);
    if (status < 0)
        return status;
    for (int i = 0; i < 4; i++)
        if (!is_empty(t) && t->size[i] > 1 && t->stride[i] == 0)
            return fc_fail(FASTCONV_BAD_LAYOUT, "%s must not repeat elements, got stride[%d] 0", name, i);
    return FASTCONV_OK;
}

int fc_check_optional(const char *name, const void *data)
{
    if ((uintptr_t)data % sizeof(float))
        return fc_fail(FASTCONV_BAD_POINTER, "%s must be aligned to 4 bytes, got %p", name, data);
    return FASTCONV_OK;
}

int fc_check_vector(const char *name, const void *data)
{
    if (!data)
        return fc_fail(FASTCONV_BAD_POINTER, "%s must not be NULL", name);
    return fc_check_optional(name, data);
}

int fc_check_size(const char *name, const fc_tensor *t, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w)
{
    if (t->size[0] != n || t->size[1] != c || t->size[2] != h || t->size[3] != w)
        return fc_fail(FASTCONV_BAD_SHAPE, "%s must have size %td x %td x %td x %td, got %td x %td x %td x %td", name,
                       n, c, h, w, t->size[0], t->size[1], t->size[2], t->size[3]);
    return FASTCONV_OK;
}

int fc_check_range(const char *name, ptrdiff_t value, ptrdiff_t least, ptrdiff_t most)
{
    if (value < least || value > most)
        return fc_fail(FASTCONV_BAD_OPTION, "%s must be from %td to %td, got %td", name, least, most, value);
    return FASTCONV_OK;
}

/* ---- layouts ------------------------------------------------------------------------------------------ */

/* Takes the strides of a dense layout, if they are those of `t` but for axes of size 1. */
static int has_strides(fc_tensor *t, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w)
{
    const ptrdiff_t stride[4] = {t->size[1] * t->size[2] * t->size[3], c, h, w};
    for (int i = 0; i < 4; i++)
        if (t->size[i] > 1 && t->stride[i] != stride[i])
            return 0;
    memcpy(t->stride, stride, sizeof stride);
    return 1;
}

int fc_check_dense(const char *name, fc_tensor *t)
{
    const ptrdiff_t c = t->size[1], h = t->size[2], w = t->size[3];
    if (is_empty(t) || has_strides(t, 1, w * c, c) || has_strides(t, h * w, w, 1))
        return FASTCONV_OK;
    return fc_fail(FASTCONV_BAD_LAYOUT, "%s must be dense, NCHW or channels-last, got strides %td, %td, %td, %td", name,
                   t->stride[0], t->stride[1], t->stride[2], t->stride[3]);
}

static int same_strides(const fc_tensor *a, const fc_tensor *b)
{
    for (int i = 0; i < 4; i++)
        if (a->size[i] > 1 && a->stride[i] != b->stride[i])
            return 0;
    return 1;
}

int fc_check_same_layout(const char *name, fc_tensor *t, const char *model_name, const fc_tensor *model)
{
    const int status = fc_check_size(name, t, model->size[0], model->size[1], model->size[2], model->size[3]);
    if (status < 0)
        return status;
    if (!is_empty(t) && !same_strides(t, model))
        return fc_fail(FASTCONV_BAD_LAYOUT, "%s must have the strides of %s: %td, %td, %td, %td", name, model_name,
                       model->stride[0], model->stride[1], model->stride[2], model->stride[3]);
    memcpy(t->stride, model->stride, sizeof t->stride);
    return FASTCONV_OK;
}

/* ---- overlap ------------------------------------------------------------------------------------------ */

/* Addresses of the first byte and behind the last one. */
static void bounds(const fc_tensor *t, uintptr_t *low, uintptr_t *high)
{
    *low = *high = (uintptr_t)t->data;
    if (is_empty(t))
        return;
    for (int i = 0; i < 4; i++) {
        const uintptr_t reach = (uintptr_t)((t->size[i] - 1) * t->stride[i]) * sizeof(float);
        *(t->stride[i] < 0 ? low : high) += reach;
    }
    *high += sizeof(float);
}

static ptrdiff_t common_divisor(ptrdiff_t a, ptrdiff_t b)
{
    while (b) {
        const ptrdiff_t rest = a % b;
        a = b;
        b = rest;
    }
    return a < 0 ? -a : a;
}

/* Whether two arrays lie in one as different runs of channels or columns do: all strides but those of 1 have a common
 * divisor, and modulo it the runs of stride 1 do not meet. */
static int interleaved(const fc_tensor *a, const fc_tensor *b)
{
    const fc_tensor *of[2] = {a, b};
    ptrdiff_t divisor = 0, run[2] = {1, 1};
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < 4; i++)
            if (of[k]->size[i] > 1) {
                if (of[k]->stride[i] == 1 && run[k] == 1)
                    run[k] = of[k]->size[i];
                else
                    divisor = common_divisor(divisor, of[k]->stride[i]);
            }
    const ptrdiff_t bytes = divisor * (ptrdiff_t)sizeof(float);
    if (!bytes)
        return 0;
    ptrdiff_t apart = (ptrdiff_t)((uintptr_t)b->data - (uintptr_t)a->data) % bytes;
    apart = (apart + bytes) % bytes / (ptrdiff_t)sizeof(float);
    return run[0] <= apart && apart + run[1] <= divisor;
}

int fc_check_apart(const fc_tensor *y, const char *y_name, const fc_tensor *x, const char *x_name)
{
    uintptr_t y_low, y_high, x_low, x_high;
    bounds(y, &y_low, &y_high);
    bounds(x, &x_low, &x_high);
    if (!is_empty(y) && !is_empty(x) && y_low < x_high && x_low < y_high && !interleaved(y, x))
        return fc_fail(FASTCONV_OVERLAP, "%s must not overlap %s", y_name, x_name);
    return FASTCONV_OK;
}

int fc_check_apart_from_span(const fc_tensor *y, const char *y_name, const void *span, size_t bytes, const char *name)
{
    uintptr_t low, high;
    bounds(y, &low, &high);
    if (!is_empty(y) && span && low < (uintptr_t)span + bytes && (uintptr_t)span < high)
        return fc_fail(FASTCONV_OVERLAP, "%s must not overlap %s", y_name, name);
    return FASTCONV_OK;
}

int fc_check_apart_or_same(const fc_tensor *y, const char *y_name, const fc_tensor *x, const char *x_name)
{
    if (y->data == x->data && same_strides(y, x))
        return FASTCONV_OK;
    return fc_check_apart(y, y_name, x, x_name);
}
