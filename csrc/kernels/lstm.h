/* SPDX-License-Identifier: MIT */
/* The pointwise part of one step of an LSTM, for n cells of one sequence.
 *
 *   gates      i, f, g, o, n floats each:  i, f, o = sigmoid(z),  g = tanh(z)
 *   forward    c = f * c_before + i * g,   h = o * tanh(c)
 *   backward   dc += dh * o * (1 - tanh(c)^2);  then dz of each gate, and dc of the step before: dc * f
 *
 * One pass: each float is loaded and stored once. */
#ifndef FC_LSTM_H
#define FC_LSTM_H

#include "elementwise.h"

FC_INLINE void lstm_cells(size_t lanes, size_t n, float *gates, const float *c_before, float *c, float *h)
{
    const vf i = activate(FC_SIGMOID, vload_lanes(gates, lanes));
    const vf f = activate(FC_SIGMOID, vload_lanes(gates + n, lanes));
    const vf g = activate(FC_TANH, vload_lanes(gates + 2 * n, lanes));
    const vf o = activate(FC_SIGMOID, vload_lanes(gates + 3 * n, lanes));
    const vf now = f * vload_lanes(c_before, lanes) + vproduct(i, g);
    vstore_lanes(gates, i, lanes);
    vstore_lanes(gates + n, f, lanes);
    vstore_lanes(gates + 2 * n, g, lanes);
    vstore_lanes(gates + 3 * n, o, lanes);
    vstore_lanes(c, now, lanes);
    vstore_lanes(h, o * vtanh(now), lanes);
}

FC_INLINE void lstm_cells_backward(size_t lanes, size_t n, const float *gates, const float *c_before, const float *c,
                                   const float *dh, float *dc, float *dz)
{
    const vf i = vload_lanes(gates, lanes), f = vload_lanes(gates + n, lanes);
    const vf g = vload_lanes(gates + 2 * n, lanes), o = vload_lanes(gates + 3 * n, lanes);
    const vf y = vtanh(vload_lanes(c, lanes)), d = vload_lanes(dh, lanes);
    const vf d_now = vload_lanes(dc, lanes) + activate_backward(FC_TANH, d * o, y);
    vstore_lanes(dz, activate_backward(FC_SIGMOID, d_now * g, i), lanes);
    vstore_lanes(dz + n, activate_backward(FC_SIGMOID, d_now * vload_lanes(c_before, lanes), f), lanes);
    vstore_lanes(dz + 2 * n, activate_backward(FC_TANH, d_now * i, g), lanes);
    vstore_lanes(dz + 3 * n, activate_backward(FC_SIGMOID, d * y, o), lanes);
    vstore_lanes(dc, d_now * f, lanes);
}

static void lstm_cell_span(size_t n, float *gates, const float *c_before, float *c, float *h)
{
    FC_OVER_LANES(n, lstm_cells(lanes, n, gates + i, c_before + i, c + i, h + i));
}

static void lstm_cell_backward_span(size_t n, const float *gates, const float *c_before, const float *c,
                                    const float *dh, float *dc, float *dz)
{
    FC_OVER_LANES(n, lstm_cells_backward(lanes, n, gates + i, c_before + i, c + i, dh + i, dc + i, dz + i));
}

#endif
