/* SPDX-License-Identifier: MIT */
/* Checks of the arguments of the public interface. Each returns FASTCONV_OK, or the status of fc_fail. */
#ifndef FC_CHECKS_H
#define FC_CHECKS_H

#include <fastconv.h>

#include "../ops/ops.h"

/* Keeps the message for fc_last_error, of the calling thread, and returns the status. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
int fc_fail(int status, const char *format, ...);
const char *fc_last_error(void);

/* Copies a structure of the caller's, whose first field is its size, to one of `size` bytes. */
int fc_check_struct(const char *name, const void *given, void *own, size_t size);

/* Whether sizes, pointer and strides may be true; `t` becomes the array. */
int fc_check_input(const char *name, const fastconv_tensor *given, fc_tensor *t);
int fc_check_output(const char *name, const fastconv_tensor *given, fc_tensor *t);  /* repeats no element */
int fc_check_vector(const char *name, const void *data);                           /* neither NULL nor misaligned */
int fc_check_optional(const char *name, const void *data);                         /* not misaligned */

int fc_check_size(const char *name, const fc_tensor *t, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w);
int fc_check_range(const char *name, ptrdiff_t value, ptrdiff_t least, ptrdiff_t most);

/* Dense, NCHW or channels-last: strides of axes of size 1 become those of the layout. */
int fc_check_dense(const char *name, fc_tensor *t);
int fc_check_same_layout(const char *name, fc_tensor *t, const char *model_name, const fc_tensor *model);

/* Whether the result `y` and another array have no element in common. */
int fc_check_apart(const fc_tensor *y, const char *y_name, const fc_tensor *x, const char *x_name);
int fc_check_apart_from_span(const fc_tensor *y, const char *y_name, const void *span, size_t bytes, const char *name);

/* The same, unless they are one array: what goes element by element may go in place. */
int fc_check_apart_or_same(const fc_tensor *y, const char *y_name, const fc_tensor *x, const char *x_name);

#endif
