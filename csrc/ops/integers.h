/* SPDX-License-Identifier: MIT */
/* Arithmetic of sizes and indices. */
#ifndef FC_INTEGERS_H
#define FC_INTEGERS_H

#include <stddef.h>

static inline ptrdiff_t min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

/* Floats rounded up to whole cache lines. */
static inline size_t round_up(ptrdiff_t floats) { return ((size_t)floats + 15) & ~(size_t)15; }

#endif
