/* SPDX-License-Identifier: MIT */
/* Whole arrays as spans of floats that the threads take in turn, and what reading and writing memory costs. */
#ifndef FC_SPANS_H
#define FC_SPANS_H

#include <stddef.h>
#include <stdint.h>

enum { FC_SPAN_FLOATS = 1 << 14 };      /* 64 KiB of each array a turn */

/* Nanoseconds of one thread for a float read and written in memory. */
static const double FC_FLOAT_NS = 0.4;

/* So long a result has left the caches when it is read. */
enum { FC_STREAM_FLOATS = 2 << 20 };

/* Whether a result is written past the caches: to a place that is aligned to the widest vectors. */
static inline int fc_streams(const float *out, size_t floats)
{
    return floats >= FC_STREAM_FLOATS && (uintptr_t)out % 64 == 0;
}

static inline size_t fc_spans(size_t n) { return (n + FC_SPAN_FLOATS - 1) / FC_SPAN_FLOATS; }

static inline size_t fc_span_length(size_t n, size_t i)
{
    const size_t left = n - i * FC_SPAN_FLOATS;
    return left < FC_SPAN_FLOATS ? left : FC_SPAN_FLOATS;
}

#endif
