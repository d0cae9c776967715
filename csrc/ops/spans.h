/* SPDX-License-Identifier: MIT */
/* Whole arrays as spans of floats that the threads take in turn, and what a float costs that comes from memory. */
#ifndef FC_SPANS_H
#define FC_SPANS_H

#include <stddef.h>

enum { FC_SPAN_FLOATS = 1 << 14 };      /* 64 KiB of each array a turn */

/* Nanoseconds of one thread for a float read and written in memory. */
static const double FC_FLOAT_NS = 0.4;

static inline size_t fc_spans(size_t n) { return (n + FC_SPAN_FLOATS - 1) / FC_SPAN_FLOATS; }

static inline size_t fc_span_length(size_t n, size_t i)
{
    const size_t left = n - i * FC_SPAN_FLOATS;
    return left < FC_SPAN_FLOATS ? left : FC_SPAN_FLOATS;
}

#endif
