"""Activations, softmax and dropout, with their gradients, against the reference."""

import numpy as np
import pytest
from check import LAYOUTS, U, assert_same_bits, assert_within, check_op, in_layout, using_isa
from hypothesis import given, settings
from hypothesis import strategies as st
from views import check_out_views, check_views

import fastconv
from fastconv import functional, reference

TINY = 2.0**-126  # below it float32 is denormal, and all but relu flush it to zero
SHAPES = {
    "scalar": (),
    "one": (1,),
    "none": (0,),
    "15": (15,),
    "16": (16,),
    "17": (17,),
    "linear": (9, 84),
    "3-D": (2, 3, 5),
    "one channel": (2, 1, 5, 7),
    "image": (3, 6, 14, 14),
    "19 channels": (2, 19, 5, 3),
    "no images": (0, 3, 4, 4),
    "5-D": (2, 2, 3, 2, 5),
    "spans": (3 * 2**14 + 5,),
    "large": (8, 64, 28, 28),
}
# From the errors of one addition, product or quotient, U each, and of exp and tanh, 2 units = 4 U.
BOUNDS = {
    "sigmoid": lambda y: 6 * U * abs(y) + TINY,  # exp 4, sum 1, quotient 1
    "tanh": lambda y: 4 * U * abs(y) + TINY,
}
BACKWARD_BOUNDS = {
    "sigmoid": lambda dy, y: 3 * U * abs(dy * y * (1 - y)) + TINY * (1 + abs(dy)),
    "tanh": lambda dy, y: U * abs(dy) * (y**2 + 2 * (1 - y**2)) + TINY * (1 + abs(dy)),
}
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, TINY, -TINY, 1e-20, 0.1, 0.6249999,
                    0.625, 1.0, -1.0, 9.5, 44.5, 87.3, 88.7, 88.8, 89.1, 104.0, -87.3, -88.7, -88.8, -104.5,
                    3e38, -3e38], np.float32)


def floats(rng, shape, scale=3):
    return (scale * rng.standard_normal(shape)).astype(np.float32)


# ---- relu -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_relu_matches_reference(shape, rng):
    x, dy = floats(rng, SHAPES[shape]), floats(rng, SHAPES[shape])
    check_op("relu", [x], per_image=x.ndim > 0)
    check_op("relu_backward", [dy, x], per_image=x.ndim > 0)


@pytest.mark.parametrize("isa", fastconv.available_isas())
@pytest.mark.parametrize("size", [1, len(SPECIAL), 16 * len(SPECIAL) + 3])
def test_relu_keeps_every_bit_of_what_it_lets_through(isa, size, rng):
    x, dy = np.resize(SPECIAL, size), rng.choice(SPECIAL, size)
    with using_isa(isa):
        y, dx = functional.relu(x), functional.relu_backward(dy, x)
    assert_same_bits(y, np.where(x <= 0, np.float32(0), x), "relu")  # -0 becomes 0; NaN, denormals stay
    assert_same_bits(dx, np.where(x <= 0, np.float32(0), dy), "relu_backward")


# ---- sigmoid and tanh -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", BOUNDS)
def test_sigmoid_and_tanh_match_reference(op, shape, rng):
    x, dy = floats(rng, SHAPES[shape]), floats(rng, SHAPES[shape])
    check_op(op, [x], bound=BOUNDS[op], per_image=x.ndim > 0)
    y = getattr(functional, op)(x)
    limit = BACKWARD_BOUNDS[op](dy.astype(np.float64), y.astype(np.float64))
    check_op(f"{op}_backward", [dy, y], bound=lambda _: limit, per_image=x.ndim > 0)


@pytest.mark.parametrize("isa", fastconv.available_isas())
@pytest.mark.parametrize("op", BOUNDS)
def test_all_of_the_floats_stay_within_the_bound(op, isa):
    """Every 4,001st bit pattern, odd and even, of both signs, and the special values."""
    x = np.concatenate([np.arange(0, 2**32, 4001).astype(np.uint32).view(np.float32), SPECIAL])
    with using_isa(isa):
        y = getattr(functional, op)(x)
    with np.errstate(invalid="ignore"):  # of signalling NaNs
        expected = getattr(reference, op)(x)
    assert_within(y, expected, BOUNDS[op](expected), f"{op} with {isa}")


@pytest.mark.parametrize("isa", fastconv.available_isas())
def test_the_ends_of_sigmoid_and_tanh_are_exact(isa):
    x = np.array([np.inf, -np.inf, 0, -0.0, 100, -200], np.float32)
    with using_isa(isa):
        np.testing.assert_array_equal(functional.sigmoid(x), np.array([1, 0, 0.5, 0.5, 1, 0], np.float32))
        y = functional.tanh(x)
    assert_same_bits(y, np.array([1, -1, 0, -0.0, 1, -1], np.float32), "tanh")


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(shape=st.lists(st.integers(0, 9), max_size=5), seed=st.integers(0, 2**32 - 1))
def test_activations_of_any_shape_match_reference(shape, seed):
    rng = np.random.default_rng(seed)
    x, dy = (rng.choice(SPECIAL, shape) for _ in range(2))
    check_op("relu", [x], per_image=x.ndim > 0)
    check_op("relu_backward", [dy, x], per_image=x.ndim > 0)
    for op, bound in BOUNDS.items():
        check_op(op, [x], bound=bound, per_image=x.ndim > 0)


# ---- softmax ----------------------------------------------------------------------------------------


def softmax_limits(x, axis):
    """Allowed errors of (softmax, log_softmax).

    exp(x - max) is off by U |x - max| from the subtraction and 4 U from exp, each relative to itself;
    so the sum by their weighted mean, and by the rounding of its n additions.
    """
    x = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        depth = abs(x - x.max(axis, keepdims=True))
    p = reference.softmax(x, axis)
    far = np.where(p > 0, p * depth, 0).sum(axis, keepdims=True)
    of_sum = U * (far + 4 + 2 * np.sqrt(x.shape[axis]) + 4)
    log_p = reference.log_softmax(x, axis)
    depth = np.where(p > 0, depth, 0)
    of_log = U * depth + of_sum + U * (2 * abs(depth + log_p) + abs(log_p)) + TINY
    return p * (U * (depth + 4 + 2) + of_sum) + TINY, of_log


def check_softmax(x, axis):
    limits = softmax_limits(x, axis)
    per_image = axis % x.ndim != 0
    for op, limit in zip(("softmax", "log_softmax"), limits, strict=True):
        check_op(op, [x], dict(axis=axis), bound=lambda _, limit=limit: limit, per_image=per_image)


@pytest.mark.parametrize(("shape", "axis"), [
    ((1, 1), -1), ((5, 1), 1), ((3, 10), -1), ((3, 10), 0), ((4, 16), 1), ((2, 17), -1), ((2, 1000), 1),
    ((7,), 0), ((2, 5, 3), 1), ((2, 6, 5, 4), 1), ((2, 19, 3, 4), -1), ((2, 3, 4, 5), 0), ((0, 10), 1),
    ((3000, 40), -1),
])
def test_softmax_matches_reference(shape, axis, rng):
    check_softmax(floats(rng, shape), axis)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(shape=st.lists(st.integers(1, 40), min_size=1, max_size=3), data=st.data(),
       scale=st.sampled_from([1, 30, 1e4]), seed=st.integers(0, 2**32 - 1))
def test_softmax_of_any_shape_matches_reference(shape, data, scale, seed):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    check_softmax(floats(np.random.default_rng(seed), shape, scale), axis)


@pytest.mark.parametrize("size", [1, 3, 10, 16, 33])
def test_huge_logits_neither_overflow_nor_vanish(size):
    for value in (1e30, -1e30, 88.8, -104, 3.4e38):
        x = np.full((2, size), value, np.float32)
        np.testing.assert_allclose(functional.softmax(x), 1 / size, rtol=2 * U)
        np.testing.assert_allclose(functional.log_softmax(x), -np.log(size), rtol=3 * U)
        x[:, :-1] -= np.float32(abs(value) / 2 + 200)
        np.testing.assert_array_equal(functional.softmax(x)[:, -1], np.ones(2, np.float32))
        np.testing.assert_array_equal(functional.softmax(x)[:, :-1], np.zeros((2, size - 1), np.float32))
        assert np.isfinite(functional.log_softmax(x)).all()


def test_softmax_of_infinities_and_nan():
    """Those of minus infinity have probability 0; a row whose largest is infinite or NaN has none."""
    x = np.array([[0, -np.inf, 0, -np.inf], [-np.inf] * 4, [0, np.inf, 0, 0], [0, 1, np.nan, 2], [0] * 4],
                 np.float32)
    y, log_y = functional.softmax(x), functional.log_softmax(x)
    np.testing.assert_array_equal(y[0], [0.5, 0, 0.5, 0])
    np.testing.assert_allclose(log_y[0], [-np.log(2), -np.inf, -np.log(2), -np.inf], rtol=2 * U)
    assert np.isnan(y[1:4]).all()
    assert np.isnan(log_y[1:4]).all()
    np.testing.assert_array_equal(y[4], np.full(4, 0.25))


# ---- memory of the arguments ------------------------------------------------------------------------

UNARY = ("relu", "sigmoid", "tanh")


@pytest.mark.parametrize("shape", ["17", "linear", "19 channels", "5-D"])
@pytest.mark.parametrize("op", [*UNARY, *(f"{op}_backward" for op in UNARY), "softmax", "log_softmax"])
def test_any_strides_give_the_bits_of_a_contiguous_copy(op, shape, rng):
    arrays = [floats(rng, SHAPES[shape]) for _ in range(2 if op.endswith("backward") else 1)]
    if arrays[0].ndim in (1, 2, 4):
        check_views(op, arrays)
        check_out_views(op, arrays)
    for i, array in enumerate(arrays):
        turned = array.transpose().copy().transpose()
        expected = getattr(functional, op)(*arrays)
        assert_same_bits(getattr(functional, op)(*arrays[:i], turned, *arrays[i + 1:]), expected, op)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["scalar", "17", "image", "large"])
@pytest.mark.parametrize("op", [*UNARY, *(f"{op}_backward" for op in UNARY), "softmax", "log_softmax"])
def test_out_may_be_an_argument(op, shape, layout, rng):
    if op.endswith("softmax") and shape == "scalar":
        pytest.skip("softmax needs an axis")
    function, count = getattr(functional, op), 2 if op.endswith("backward") else 1
    arrays = [floats(rng, SHAPES[shape]) for _ in range(count)]
    expected = function(*arrays)
    for i in range(count):
        given = [in_layout(array, layout) for array in arrays]
        result = function(*given, out=given[i])
        assert result is given[i]
        assert_same_bits(result, expected, f"{op} into argument {i}")
        for other, array in zip(given[:i] + given[i + 1:], arrays[:i] + arrays[i + 1:], strict=True):
            assert_same_bits(other, array, f"{op} into argument {i}: the other one")


@pytest.mark.parametrize("shift", [1, 3, 40, -1, -3, -40])
@pytest.mark.parametrize("op", UNARY)
def test_out_may_overlap_an_argument(op, shift, rng):
    size = 200
    for count, name in ((1, op), (2, f"{op}_backward")):
        for i in range(count):
            arrays = [floats(rng, size) for _ in range(count)]
            expected = getattr(functional, name)(*arrays)
            memory = np.zeros(size + abs(shift), np.float32)
            first, second = max(0, -shift), max(0, shift)
            shared, out = memory[first:first + size], memory[second:second + size]
            shared[...] = arrays[i]
            getattr(functional, name)(*arrays[:i], shared, *arrays[i + 1:], out=out)
            assert_same_bits(out, expected, f"{name} into argument {i} shifted by {shift}")


# ---- dropout ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", ["one", "none", "linear", "19 channels", "large"])
def test_dropout_zeroes_and_scales(shape, p, layout, rng):
    x = in_layout(1 + abs(floats(rng, SHAPES[shape])), layout)
    y, mask = functional.dropout(x, p, rng=rng, return_mask=True)
    assert y.dtype == np.float32
    assert mask.dtype == bool
    assert y.strides == x.strides
    assert_same_bits(y, np.where(mask, x * np.float32(1 / (1 - p)), np.float32(0)), "dropout")
    dy = in_layout(floats(rng, x.shape), layout)
    dx = functional.dropout_backward(dy, mask, p)
    np.testing.assert_array_equal(dx, np.where(mask, dy * np.float32(1 / (1 - p)), np.float32(0)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_share_it_is_told(p):
    """Within 5 standard deviations of the binomial distribution, overall and in each channel."""
    x = np.ones((50, 16, 25, 25), np.float32)
    _, mask = functional.dropout(x, p, rng=np.random.default_rng(3), return_mask=True)
    for kept in (mask, *mask.transpose(1, 0, 2, 3)):
        assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / kept.size)


def test_dropout_of_nothing_and_of_everything(rng):
    x = floats(rng, (4, 6))
    for y, mask in (functional.dropout(x, 0, return_mask=True),
                    functional.dropout(x, 0.7, training=False, return_mask=True)):
        assert_same_bits(y, x, "dropout")
        assert mask.all()
    y, mask = functional.dropout(x, 1, return_mask=True)
    assert not mask.any()
    assert not y.any()
    assert not functional.dropout_backward(x, mask, 1).any()


def test_dropout_repeats_with_its_generator(rng):
    x = floats(rng, (40, 60))
    same = [functional.dropout(x, rng=np.random.default_rng(5)) for _ in range(2)]
    assert_same_bits(*same, "dropout with the same generator")
    draws = [functional.dropout(x) for _ in range(2)]
    assert (draws[0] != draws[1]).any()


@pytest.mark.parametrize("view", ["x itself", "another layout"])
def test_dropout_into_out(view, rng):
    x = floats(rng, (2, 19, 5, 7))
    expected = functional.dropout(x, rng=np.random.default_rng(5))
    out = x if view == "x itself" else in_layout(np.full(x.shape, np.nan, np.float32), "channels-last")
    assert functional.dropout(x, rng=np.random.default_rng(5), out=out) is out
    assert_same_bits(out, expected, "dropout")
