/* SPDX-License-Identifier: MIT */
/* Maxima of windows that lie side by side, channels-last, as of a filter of 2 x 2 pixels and a stride of 2: no pixel
 * is in two of them, so that a row of windows goes once through its rows of pixels.
 *
 * Of few channels several windows are taken together, so that they fill a vector of results: their pixels of a row are
 * two vectors at most, from which the lanes of a tap, or to which those of a gradient, are permuted. Of some more, that
 * do not fill a vector, whole vectors are read and stored all the same, but for the last pixel of a row: what is stored
 * behind a pixel, the next one overwrites. */
#ifndef FC_POOL_APART_H
#define FC_POOL_APART_H

#include "kernels.h"
#include "pool.h"
#include "simd.h"

enum { PIXEL_LANES = 2 * FC_LANES };   /* of windows that are taken together */

/* How many; at least one where channels are half the lanes or fewer. */
_Static_assert(FC_APART_WIDTH * FC_LANES / 2 <= PIXEL_LANES, "a row of one window's pixels is two vectors at most");
FC_INLINE size_t windows_together(const fc_apart *a)
{
    const size_t of_results = FC_LANES / a->channels, of_pixels = PIXEL_LANES / (a->width * a->channels);
    return of_results < of_pixels ? of_results : of_pixels;
}

/* All lanes where so much of the row is left: what is stored too much is stored over by what follows. Else `used`. */
FC_INLINE size_t lanes_within(size_t at, size_t row, size_t used) { return at + FC_LANES <= row ? FC_LANES : used; }

FC_INLINE void max_of_windows(int keep, size_t width, size_t together, const vi *from, const fc_apart *a,
                              const float *x, float *y, uint8_t *argmax)
{
    const size_t row = a->windows * a->channels;
    for (size_t at = 0; at < row; at += together * a->channels) {
        const size_t results = row - at < together * a->channels ? row - at : together * a->channels;
        const size_t first = results * width < FC_LANES ? results * width : FC_LANES;
        vf best = {0};
        vi where = {0};
        for (size_t r = 0; r < a->height; r++) {
            const float *pixels = x + (ptrdiff_t)r * a->row + at * width;
            const vf low = vload_part(pixels, first), high = vload_part(pixels + first, results * width - first);
            for (size_t s = 0; s < width; s++) {
                const vf value = vlanes_of(low, high, from[s]);
                take_value(keep, !r && !s, value, (int32_t)(r * width + s), &best, &where);
            }
        }
        const size_t lanes = lanes_within(at, row, results);
        vstore_lanes(y + at, best, lanes);
        if (keep)
            store_positions(argmax, (ptrdiff_t)at, unless_cut(best, a->cut, where), lanes, 0);
    }
}

/* Lanes of one window, of which `last` are read of its last pixel, and stored. */
FC_INLINE void max_of_window(int keep, size_t height, size_t width, size_t last, const fc_apart *a, const float *x,
                             float *y, uint8_t *argmax)
{
    vf best = {0};
    vi where = {0};
    for (size_t r = 0; r < height; r++)
        for (size_t s = 0; s < width; s++) {
            const vf value = vload_lanes(x + (ptrdiff_t)r * a->row + s * a->channels, s + 1 < width ? FC_LANES : last);
            take_value(keep, !r && !s, value, (int32_t)(r * width + s), &best, &where);
        }
    vstore_lanes(y, best, last);
    if (keep)
        store_positions(argmax, 0, unless_cut(best, a->cut, where), last, 0);
}

/* A row of windows of more than half as many channels as lanes: two pixels, or results, are more than a vector. */
FC_INLINE void max_of_each(int keep, size_t height, size_t width, const fc_apart *a, const float *x, float *y,
                           uint8_t *argmax)
{
    const size_t channels = a->channels;
    for (size_t left = a->windows; left; left--, x += width * channels, y += channels) {
        if (channels >= FC_LANES)
            for (size_t done = 0; done < channels; done += FC_LANES) {
                const size_t c = channels - done < FC_LANES ? channels - FC_LANES : done;  /* some of them once more */
                max_of_window(keep, height, width, FC_LANES, a, x + c, y + c, keep ? argmax + c : NULL);
            }
        else if (left > 1)
            max_of_window(keep, height, width, FC_LANES, a, x, y, argmax);
        else
            max_of_window(keep, height, width, channels, a, x, y, argmax);
        argmax += keep ? channels : 0;
    }
}

static void max_pool_apart(const fc_apart *a, const float *x, float *y, uint8_t *argmax)
{
    const size_t together = windows_together(a);
    vi from[FC_APART_WIDTH] = {{0}};
    for (size_t s = 0; s < a->width; s++)
        for (size_t lane = 0; lane < together * a->channels; lane++)
            from[s][lane] = (int32_t)((lane / a->channels * a->width + s) * a->channels + lane % a->channels);
    for (size_t i = 0; i < a->rows; i++, x += (ptrdiff_t)a->height * a->row, y += a->windows * a->channels) {
        if (2 * a->channels > FC_LANES && a->height == 2 && a->width == 2)
            argmax ? max_of_each(1, 2, 2, a, x, y, argmax) : max_of_each(0, 2, 2, a, x, y, NULL);
        else if (2 * a->channels > FC_LANES)
            max_of_each(argmax != NULL, a->height, a->width, a, x, y, argmax);
        else if (!argmax)
            max_of_windows(0, a->width, together, from, a, x, y, NULL);
        else if (a->width == 2)
            max_of_windows(1, 2, together, from, a, x, y, argmax);
        else
            max_of_windows(1, a->width, together, from, a, x, y, argmax);
        argmax += argmax ? a->windows * a->channels : 0;
    }
}

/* The gradients that have position `here`, of others 0. As of a sum, it has no negative zero. */
FC_INLINE vf where_largest(vf dy, vi where, vi here) { return (vf)((vi)dy & (where == here)) + 0.0f; }

FC_INLINE void spread_together(size_t together, const vi from[2], const vi tap[2], const fc_apart *a, const float *dy,
                               const uint8_t *argmax, float *dx)
{
    const size_t row = a->windows * a->channels, all = row * a->width;
    for (size_t at = 0; at < row; at += together * a->channels) {
        const size_t results = row - at < together * a->channels ? row - at : together * a->channels;
        const size_t lanes = lanes_within(at, row, results), pixels = results * a->width;
        const vf value = vload_lanes(dy + at, lanes), where = (vf)load_positions(argmax, (ptrdiff_t)at, lanes, 0);
        FC_UNROLL(2)
        for (size_t v = 0; v < 2; v++) {
            const size_t begin = v * FC_LANES, to = at * a->width + begin;
            if (begin >= pixels)
                break;
            const vf spread = vlanes_of(value, value, from[v]);
            const vi position = (vi)vlanes_of(where, where, from[v]);
            const size_t left = pixels - begin < FC_LANES ? pixels - begin : FC_LANES;
            for (size_t r = 0; r < a->height; r++)
                vstore_lanes(dx + (ptrdiff_t)r * a->row + to,
                             where_largest(spread, position, tap[v] + (int32_t)(r * a->width)),
                             lanes_within(to, all, left));
        }
    }
}

/* Lanes of one window, of which `last` are read, and stored of its last pixel. */
FC_INLINE void spread_lanes(size_t height, size_t width, size_t last, const fc_apart *a, const float *dy,
                            const uint8_t *argmax, float *dx)
{
    const vf value = vload_lanes(dy, last);
    const vi where = load_positions(argmax, 0, last, 0);
    for (size_t r = 0; r < height; r++)
        for (size_t s = 0; s < width; s++)
            vstore_lanes(dx + (ptrdiff_t)r * a->row + s * a->channels,
                         where_largest(value, where, (int32_t)(r * width + s) - (vi){0}),
                         s + 1 < width ? FC_LANES : last);
}

/* Likewise. */
FC_INLINE void spread_each(size_t height, size_t width, const fc_apart *a, const float *dy, const uint8_t *argmax,
                           float *dx)
{
    const size_t channels = a->channels;
    for (size_t left = a->windows; left; left--, dy += channels, argmax += channels, dx += width * channels)
        if (channels >= FC_LANES)
            for (size_t done = 0; done < channels; done += FC_LANES) {
                const size_t c = channels - done < FC_LANES ? channels - FC_LANES : done;  /* some of them once more */
                spread_lanes(height, width, FC_LANES, a, dy + c, argmax + c, dx + c);
            }
        else if (left > 1)
            spread_lanes(height, width, FC_LANES, a, dy, argmax, dx);
        else
            spread_lanes(height, width, channels, a, dy, argmax, dx);
}

static void max_pool_apart_backward(const fc_apart *a, const float *dy, const uint8_t *argmax, float *dx)
{
    const size_t together = windows_together(a), row = a->windows * a->channels;
    vi from[2] = {{0}}, tap[2] = {{0}};
    for (size_t i = 0; together && i < PIXEL_LANES; i++) {
        const size_t pixel = i / a->channels;
        from[i / FC_LANES][i % FC_LANES] = (int32_t)(pixel / a->width * a->channels + i % a->channels);
        tap[i / FC_LANES][i % FC_LANES] = (int32_t)(pixel % a->width);
    }
    for (size_t left = a->rows; left; left--, dx += (ptrdiff_t)a->height * a->row, dy += row, argmax += row) {
        if (2 * a->channels <= FC_LANES)
            spread_together(together, from, tap, a, dy, argmax, dx);
        else if (a->height == 2 && a->width == 2)
            spread_each(2, 2, a, dy, argmax, dx);
        else
            spread_each(a->height, a->width, a, dy, argmax, dx);
    }
}

#endif
