"""Local response normalisation and its gradient against the reference, finite differences and torch."""

import math

import numpy as np
import pytest
from check import U, assert_same_bits, assert_within, check_op, using_isa
from hypothesis import given, settings
from hypothesis import strategies as st
from views import check_out_views, check_views

import fastconv
from fastconv import functional, reference

SHAPES = {
    "one": (1, 1, 1, 1),
    "one channel": (2, 1, 5, 7),
    "one pixel": (5, 33, 1, 1),
    "19 channels": (3, 19, 5, 7),
    "two channels": (2, 2, 9, 4),
    "no images": (0, 3, 4, 4),
    "no channels": (2, 0, 4, 4),
    "AlexNet 1": (1, 64, 55, 55),
    "many channels": (1, 700, 6, 5),
    "large": (8, 64, 40, 40),
}
OPTIONS = {
    "torch": dict(size=5),
    "AlexNet": dict(size=5, alpha=5e-4, k=2.0),
    "strong": dict(size=4, alpha=3.0, k=0.5),
    "one": dict(size=1, alpha=1.0),
    "two": dict(size=2, alpha=1.0, beta=0.5),
    "wider than the channels": dict(size=50, alpha=2.0, beta=1.0, k=0.1),
    "small beta": dict(size=3, alpha=1.0, beta=0.1),
    "steep": dict(size=3, alpha=10.0, beta=2.5, k=4.0),
}


def floats(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def rounding(terms):
    """Relative error of a sum of that many rounded terms."""
    return (2 * math.sqrt(terms) + 4) * U


def power_errors(x, size, alpha=1e-4, beta=0.75, k=1.0):
    """(d, relative errors of d and of d^-beta), d = k + alpha / size * sum of squares.

    d^-0.75 is two square roots, a product and a quotient, rounded once each, of which the first root counts
    one and a half times. Otherwise log is off by 2 units = 4 U and its product with beta by U, all of them
    times beta log(d) after exp, which adds 2 units.
    """
    d = k + alpha / size * reference._window_sums(x.astype(np.float64) ** 2, size // 2, (size - 1) // 2)
    of_d = rounding(size)
    of_power = 4.5 * U if beta == 0.75 else 4 * U + 6 * U * abs(beta * np.log(d))
    return d, of_d, beta * of_d + of_power


def check_forward(x, options):
    *_, of_power = power_errors(x, **options)
    check_op("local_response_norm", [x], options, bound=lambda y: (of_power + U) * abs(y))


def check_backward(dy, x, size, alpha=1e-4, beta=0.75, k=1.0):
    d, of_d, of_power = power_errors(x, size, alpha, beta, k)
    own = abs(dy * d**-beta)
    ratio = abs(dy * x * d ** (-beta - 1))
    shared = 2 * alpha * beta / size * abs(x) * reference._window_sums(
        ratio * (of_power + of_d + rounding(size)), (size - 1) // 2, size // 2)
    limit = own * (of_power + 2 * U) + shared
    check_op("local_response_norm_backward", [dy, x], dict(size=size, alpha=alpha, beta=beta, k=k),
             bound=lambda _: limit)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", ["one", "one channel", "one pixel", "19 channels", "two channels"])
def test_local_response_norm_matches_reference(shape, options, rng):
    x, dy = floats(rng, SHAPES[shape]), floats(rng, SHAPES[shape])
    check_forward(x, OPTIONS[options])
    check_backward(dy, x, **OPTIONS[options])


@pytest.mark.parametrize("shape", ["no images", "no channels", "AlexNet 1", "many channels", "large"])
def test_blocks_and_teams_match_reference(shape, rng):
    x, dy = floats(rng, SHAPES[shape]), floats(rng, SHAPES[shape])
    check_forward(x, OPTIONS["AlexNet"])
    check_backward(dy, x, **OPTIONS["AlexNet"])


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9)),
       size=st.integers(1, 20), beta=st.sampled_from([0.75, 0.6]), seed=st.integers(0, 2**32 - 1))
def test_local_response_norm_of_any_shape_matches_reference(shape, size, beta, seed):
    rng = np.random.default_rng(seed)
    x, dy = floats(rng, shape), floats(rng, shape)
    check_forward(x, dict(size=size, alpha=1.0, beta=beta))
    check_backward(dy, x, size, alpha=1.0, beta=beta)


@pytest.mark.parametrize("beta", [0.75, 0.5, 1.25, -0.5])
@pytest.mark.parametrize("isa", fastconv.available_isas())
def test_all_magnitudes_stay_within_the_bound(isa, beta):
    """Every 4,001st bit pattern whose power is a normal number, alone in its window: x * (x^2)^-beta."""
    values = np.arange(0, 2**31, 4001).astype(np.uint32).view(np.float32)
    x = values[(values > 2.0**-50) & (values < 2.0**50)][:, None, None, None]
    options = dict(size=1, alpha=1.0, beta=beta, k=0.0)
    with using_isa(isa):
        y = functional.local_response_norm(x, **options)
    expected = reference.local_response_norm(x, **options)
    of_power = 4.5 * U if beta == 0.75 else 4 * U + 6 * U * abs(beta * np.log(x.astype(np.float64) ** 2))
    assert_within(y, expected, (of_power + (abs(beta) + 1) * U) * abs(expected), f"with {isa}")


def test_infinities_nan_and_zero_denominators_go_as_ieee_says():
    x = np.zeros((1, 7, 1, 1), np.float32)
    x[0, 3] = 1e30
    for beta in (0.75, 0.6):
        y = functional.local_response_norm(x, 3, beta=beta)
        np.testing.assert_array_equal(y, np.zeros_like(x))  # the square is infinite, its power too
        assert np.isnan(functional.local_response_norm(0 * x, 3, beta=beta, k=0)).all()  # 0 / 0
        for value in (np.nan, np.inf):
            one = np.where(x > 0, np.float32(value), np.float32(1))
            y = functional.local_response_norm(one, 3, beta=beta)
            assert np.isnan(y[0, 3])
            np.testing.assert_array_equal(np.isnan(y[0, :, 0, 0]).sum(), 3 if np.isnan(value) else 1)


def test_gradient_is_that_of_differences(rng):
    """(loss(x + h) - loss(x - h)) / 2h of the reference, loss = sum of dy * y."""
    for options in OPTIONS.values():
        x, dy = (floats(rng, (2, 6, 2, 1)).astype(np.float64) for _ in range(2))
        dx = reference.local_response_norm_backward(dy, x, **options)
        for at in np.ndindex(x.shape):
            above, below = x.copy(), x.copy()
            above[at] += 1e-5
            below[at] -= 1e-5
            rise = np.vdot(dy, reference.local_response_norm(above, **options)
                           - reference.local_response_norm(below, **options))
            np.testing.assert_allclose(rise / 2e-5, dx[at], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 2, 5, 19])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_windows_are_torch_s(size, channels, rng):
    torch = pytest.importorskip("torch")
    x, dy = (rng.standard_normal((2, channels, 3, 4)) for _ in range(2))
    theirs = torch.from_numpy(x).requires_grad_()
    y = torch.nn.functional.local_response_norm(theirs, size, alpha=2.0, beta=0.75, k=0.5)
    y.backward(torch.from_numpy(dy))
    options = dict(alpha=2.0, beta=0.75, k=0.5)
    same = dict(rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(reference.local_response_norm(x, size, **options), y.detach().numpy(), **same)
    np.testing.assert_allclose(reference.local_response_norm_backward(dy, x, size, **options),
                               theirs.grad.numpy(), **same)


@pytest.mark.parametrize("shape", ["one pixel", "19 channels"])
def test_any_strides_give_the_bits_of_a_contiguous_copy(shape, rng):
    x, dy = floats(rng, SHAPES[shape]), floats(rng, SHAPES[shape])
    for op, arrays in (("local_response_norm", [x]), ("local_response_norm_backward", [dy, x])):
        check_views(op, arrays, dict(size=5))
        check_out_views(op, arrays, dict(size=5))


@pytest.mark.parametrize("shift", [0, 1, -1, 40, -40])
def test_out_may_be_or_overlap_an_argument(shift, rng):
    x, dy = floats(rng, SHAPES["19 channels"]), floats(rng, SHAPES["19 channels"])
    for op, arrays in (("local_response_norm", [x]), ("local_response_norm_backward", [dy, x])):
        expected = getattr(functional, op)(*arrays, 5)
        for i, array in enumerate(arrays):
            memory = np.zeros(array.size + abs(shift), np.float32)
            first, second = max(0, -shift), max(0, shift)
            shared, out = (memory[at:at + array.size].reshape(array.shape) for at in (first, second))
            shared[...] = array
            getattr(functional, op)(*arrays[:i], shared, *arrays[i + 1:], 5, out=out)
            assert_same_bits(out, expected, f"{op} into argument {i} shifted by {shift}")
