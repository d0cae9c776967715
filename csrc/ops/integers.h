/* SPDX-License-Identifier: MIT */
/* Arithmetic of sizes and indices. */
#ifndef FC_INTEGERS_H
#define FC_INTEGERS_H

#include <stddef.h>

static inline ptrdiff_t min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static inline ptrdiff_t max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static inline ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

/* Share i of `shares` that n things are dealt to as equally as can be, the larger ones first. */
static inline ptrdiff_t share_of(ptrdiff_t n, ptrdiff_t i, ptrdiff_t shares) { return n / shares + (i < n % shares); }

/* Of any a. */
static inline ptrdiff_t floor_div(ptrdiff_t a, ptrdiff_t b) { return (a - (a % b + b) % b) / b; }

/* Floats rounded up to whole cache lines. */
static inline size_t round_up(ptrdiff_t floats) { return ((size_t)floats + 15) & ~(size_t)15; }

/* Likewise to an odd number of them: so far apart, planes, rows or pixels do not meet in few sets of the L1 cache. */
static inline ptrdiff_t odd_lines(ptrdiff_t floats) { return (ptrdiff_t)(round_up(floats) | 16); }

/* The largest one that is at most n; 1 below. As many shares of work as that suit the usual numbers of threads. */
static inline ptrdiff_t power_of_two(ptrdiff_t n)
{
    ptrdiff_t power = 1;
    while (2 * power <= n)
        power *= 2;
    return power;
}

#endif
