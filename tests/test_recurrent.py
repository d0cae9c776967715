"""Recurrent layers: kernels against the reference, gradients against differences."""

import itertools
import math

import numpy as np
import pytest
from check import U, assert_same_bits, check_op
from views import VIEWS, check_out_views, check_views

from fastconv import functional, reference

# (N, T, D, H): sequences, steps, features, units
CASES = {
    "one": (1, 1, 1, 1),
    "one step": (3, 1, 5, 4),
    "one unit": (3, 4, 2, 1),
    "odd everything": (5, 4, 7, 13),
    "a vector": (7, 3, 16, 16),
    "rows of tiles": (33, 2, 3, 19),
    "no sequences": (0, 3, 4, 5),
    "no features": (2, 3, 0, 4),
    "large": (70, 6, 28, 64),
}
DIRECTIONS = {"forward": False, "reverse": True}


def floats(rng, *shape, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def problem(sizes, rng, gates=4):
    """x, states, weights and biases of an LSTM (4 gates) or RNN (1), scaled so that gates do not saturate."""
    sequences, steps, features, hidden = sizes
    states = [floats(rng, sequences, hidden) for _ in range(2 if gates == 4 else 1)]
    weights = [floats(rng, gates * hidden, columns, scale=1 / math.sqrt(columns + 1))
               for columns in (features, hidden)]
    biases = [floats(rng, gates * hidden) for _ in range(2)]
    return floats(rng, sequences, steps, features), states, weights, biases


def rounding(terms):
    """Relative error of a sum of that many rounded terms."""
    return (2 * math.sqrt(terms) + 4) * U


def limits(x, states, weights, biases, outputs, reverse):
    """Allowed errors of every step's outputs and, for an LSTM, gates.

    A step rounds the sums of its gates, and hands on the error of the h before it: independent errors, added
    as squares. sigmoid and tanh have slopes up to 1/4 and 1, and round by 6 U and 4 U of at most 1.
    """
    weight_ih, weight_hh = (weight.astype(np.float64) for weight in weights)
    bias = sum(abs(bias.astype(np.float64)) for bias in biases)
    lstm, hidden = len(states) == 2, weight_hh.shape[1]
    g = rounding(x.shape[2] + hidden + 2)
    h, h_error, c_error = states[0], np.zeros(states[0].shape), np.zeros(states[0].shape)
    errors = [np.empty(array.shape) for array in outputs]
    c = states[-1]
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        own = g * (abs(x[:, t]) @ abs(weight_ih).T + abs(h) @ abs(weight_hh).T + bias)
        z_error = np.sqrt(own**2 + h_error**2 @ (weight_hh**2).T)
        if lstm:
            slopes = np.repeat([0.25, 0.25, 1, 0.25], hidden)
            errors[2][:, t] = z_error * slopes + 6 * U
            i, f, g_, _ = np.split(outputs[2][:, t], 4, axis=1)
            of_i, of_f, of_g, of_o = np.split(errors[2][:, t], 4, axis=1)
            c_error = np.sqrt((of_f * c)**2 + (f * c_error)**2 + (of_i * g_)**2 + (of_g * i)**2)
            c_error += 2 * U * (abs(f * c) + abs(i * g_))
            h_error = of_o + c_error + 6 * U
            c = outputs[1][:, t]
            errors[1][:, t] = c_error
        else:
            h_error = z_error + 4 * U
        h = outputs[0][:, t]
        errors[0][:, t] = h_error
    return tuple(lambda _, error=error: error for error in errors)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_lstm_matches_reference(case, direction, rng):
    reverse = DIRECTIONS[direction]
    x, states, weights, biases = problem(CASES[case], rng)
    arrays = [x, *states, *weights, *biases]
    expected = reference.lstm_train(*arrays, reverse)
    bound = limits(x, states, weights, biases, expected, reverse)
    check_op("lstm_train", arrays, dict(reverse=reverse), bound=bound)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_rnn_matches_reference(case, direction, rng):
    reverse = DIRECTIONS[direction]
    x, states, weights, biases = problem(CASES[case], rng, gates=1)
    arrays = [x, *states, *weights, *biases]
    expected = reference.rnn_tanh(*arrays, reverse)
    of_steps, = limits(x, states, weights, biases, expected[:1], reverse)
    of_last = of_steps(None)[:, 0 if reverse else -1]
    check_op("rnn_tanh", arrays, dict(reverse=reverse), bound=(of_steps, lambda _: of_last))


def terms_of_gradients(case, gates):
    """Of the longest sum: a product and some ten roundings a step, then the gates of all steps."""
    sequences, steps, _, hidden = CASES[case]
    return steps * (gates * hidden + 10) + sequences * steps


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_lstm_match_reference(case, direction, rng):
    x, states, weights, biases = problem(CASES[case], rng)
    reverse = DIRECTIONS[direction]
    saved = functional.lstm_train(x, *states, *weights, *biases, reverse)
    grads = [floats(rng, *saved[0].shape), *(floats(rng, *state.shape) for state in states)]
    check_op("lstm_backward", [grads[0], x, *states, *weights, *saved, *grads[1:]], dict(reverse=reverse),
             terms=terms_of_gradients(case, 4), per_image=False)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_rnn_match_reference(case, direction, rng):
    x, states, weights, biases = problem(CASES[case], rng, gates=1)
    reverse = DIRECTIONS[direction]
    output, _ = functional.rnn_tanh(x, *states, *weights, *biases, reverse)
    grads = [floats(rng, *output.shape), floats(rng, *states[0].shape)]
    check_op("rnn_tanh_backward", [grads[0], x, *states, *weights, output, grads[1]], dict(reverse=reverse),
             terms=terms_of_gradients(case, 1), per_image=False)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("gates", [1, 4])
def test_gradients_are_those_of_differences(gates, direction, rng):
    """(loss(a + h) - loss(a - h)) / 2h of the reference, loss = sum of gradient * result, for each a."""
    x, states, weights, biases = problem((2, 3, 3, 2), rng, gates)
    reverse = DIRECTIONS[direction]
    arrays = [array.astype(np.float64) for array in (x, *states, *weights, *biases)]
    forward = reference.lstm if gates == 4 else reference.rnn_tanh

    def results(arrays):
        output, last = forward(*arrays, reverse)
        return [output, *last] if gates == 4 else [output, last]

    grads = [rng.standard_normal(result.shape) for result in results(arrays)]
    if gates == 4:
        saved = reference.lstm_train(*arrays, reverse)
        gradients = reference.lstm_backward(grads[0], *arrays[:5], *saved, *grads[1:], reverse)
    else:
        gradients = reference.rnn_tanh_backward(grads[0], *arrays[:4], results(arrays)[0], grads[1], reverse)
    for i, gradient in enumerate((*gradients, gradients[-1])):  # of either bias
        for at in np.ndindex(gradient.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [array.copy() for array in arrays]
                moved[i][at] += step
                sides.append(sum(map(np.vdot, grads, results(moved))))
            # Truncation h^2 = 1e-10 and rounding 1e-16 / h = 1e-11, of values of order 10.
            np.testing.assert_allclose((sides[0] - sides[1]) / 2e-5, gradient[at], rtol=1e-6, atol=1e-8)


def test_lstm_gives_the_last_states(rng):
    x, states, weights, biases = problem(CASES["odd everything"], rng)
    for reverse, last in ((False, -1), (True, 0)):
        output, (h_n, c_n) = functional.lstm(x, *states, *weights, *biases, reverse)
        steps, cells, _ = functional.lstm_train(x, *states, *weights, *biases, reverse)
        for result, same in ((output, steps), (h_n, steps[:, last]), (c_n, cells[:, last])):
            assert_same_bits(result, same, "lstm")


def test_biases_that_are_left_out_are_zero(rng):
    x, states, weights, biases = problem(CASES["odd everything"], rng)
    zeros = np.zeros_like(biases[0])
    for given in itertools.product((None, zeros), (None, zeros)):
        for result, same in zip(functional.lstm_train(x, *states, *weights, *given),
                                functional.lstm_train(x, *states, *weights), strict=True):
            assert_same_bits(result, same, "lstm_train")


def test_one_call_for_two_halves_of_a_sequence(rng):
    """The states are all that a step hands on."""
    x, states, weights, biases = problem(CASES["large"], rng)
    whole, last = functional.lstm(x, *states, *weights, *biases)
    first, between = functional.lstm(x[:, :2], *states, *weights, *biases)
    second, same_last = functional.lstm(x[:, 2:], *between, *weights, *biases)
    assert_same_bits(np.concatenate([first, second], axis=1), whole, "output")
    for state, same in zip(last, same_last, strict=True):
        assert_same_bits(state, same, "last state")


def test_saturated_gates_are_exact(rng):
    """Gates of 0 and 1 keep or replace the cell; NaN stays in its sequence."""
    x, weights = np.zeros((3, 2, 1), np.float32), [np.zeros((8, 1), np.float32), np.zeros((8, 2), np.float32)]
    h0, c0 = np.zeros((3, 2), np.float32), floats(rng, 3, 2)
    huge = np.repeat(np.float32([-1e30, 1e30, 1, -1e30]), 2)
    _, cells, _ = functional.lstm_train(x, h0, c0, *weights, huge)
    assert_same_bits(cells, np.repeat(c0[:, None], 2, axis=1), "kept cells")
    _, cells, _ = functional.lstm_train(x, h0, c0, *weights, -huge)
    np.testing.assert_array_equal(cells, np.full(cells.shape, functional.tanh(np.float32([-1]))[0]))
    x[1] = np.nan
    output, _ = functional.lstm(x, h0, c0, *weights, huge)
    np.testing.assert_array_equal(np.isnan(output).all(axis=(1, 2)), [False, True, False])


# ---- memory of the arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("gates", [1, 4])
def test_any_strides_give_the_bits_of_a_contiguous_copy(gates, rng):
    x, states, weights, biases = problem(CASES["odd everything"], rng, gates)
    forward, backward = ("lstm_train", "lstm_backward") if gates == 4 else ("rnn_tanh", "rnn_tanh_backward")
    arrays = [x, *states, *weights, *biases]
    saved = getattr(functional, forward)(*arrays)
    saved = saved if gates == 4 else saved[:1]
    gradients = [floats(rng, *saved[0].shape), *arrays[:-2], *saved,
                 *(floats(rng, *state.shape) for state in states)]
    for op, given in ((forward, arrays), (backward, gradients)):
        check_views(op, given, names=[name for name in VIEWS if name != "output channel fastest"])
        check_out_views(op, given)


@pytest.mark.parametrize("state", [0, 1])
def test_out_may_overlap_a_state(state, rng):
    x, states, weights, biases = problem(CASES["one step"], rng)
    expected, _ = functional.lstm(x, *states, *weights, *biases)
    out = states[state][:, None]
    functional.lstm(x, *states, *weights, *biases, out=out)
    assert_same_bits(out, expected, "lstm")
