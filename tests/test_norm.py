"""Batch normalisation and its gradients against the reference, and against exact arithmetic."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from check import LAYOUTS, U, assert_same_bits, assert_within, check_op, in_layout, using_isa
from hypothesis import given, settings
from hypothesis import strategies as st
from views import NOT_NATIVE, check_out_views, check_views

import fastconv
from fastconv import functional, reference

SHAPES = {
    "two values": (2, 1, 1, 1),
    "one channel": (2, 1, 9, 7),
    "LeNet conv1": (4, 6, 14, 14),
    "LeNet conv2": (3, 16, 10, 10),
    "19 channels": (3, 19, 5, 7),
    "ResNet": (2, 64, 7, 7),
    "rows": (50, 33, 1, 1),
    "one image": (1, 3, 17, 1),
    "blocks": (4, 16, 57, 61),
    "large plane": (2, 3, 200, 181),
}
AXES = (0, 2, 3)


def floats(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def per_channel(values):
    return np.asarray(values, np.float64)[:, None, None]


def rounding(terms):
    """Relative error of a sum of that many rounded terms."""
    return (2 * math.sqrt(terms) + 4) * U


def within(limits):
    """Fixed limits, as check_op takes them."""
    return tuple(lambda _, limit=limit: limit for limit in limits)


def training_problem(shape, rng, offset=0.5, affine=True):
    """(x, weight, bias, running_mean, running_var)"""
    channels = shape[1]
    x = floats(rng, shape) + np.float32(offset) * rng.integers(-9, 10, (1, channels, 1, 1)).astype(np.float32)
    weight, bias = (floats(rng, channels), floats(rng, channels)) if affine else (None, None)
    return x, weight, bias, floats(rng, channels), abs(floats(rng, channels))


def training_limits(x, weight, bias, running_mean, running_var, momentum, eps):
    """Allowed errors of y, mean, invstd, running_mean and running_var.

    The first pass's mean is off by `shift`, the second pass sums the deviations from it, which are exact or
    rounded relative to themselves; their sum corrects the mean, and their squares make the variance.
    """
    x = x.astype(np.float64)
    count = x[:, 0].size
    g = rounding(count)
    mean, var = x.mean(AXES), x.var(AXES)
    deviation = abs(x - per_channel(mean))
    shift = g * abs(x).mean(AXES)
    mean_error = g * (deviation.mean(AXES) + shift)
    var_error = (2 * g + 4 * U) * (var + shift**2)
    stored_error = mean_error + U * abs(mean)  # of the mean as a float, which y subtracts
    invstd = 1 / np.sqrt(var + eps)
    invstd_error = var_error / (2 * (var + eps)) + U  # relative
    scale = invstd if weight is None else abs(invstd * weight)
    y_abs = deviation * per_channel(scale) + (0 if bias is None else per_channel(abs(bias)))
    y_error = per_channel(scale) * (per_channel(stored_error) + deviation * per_channel(invstd_error + 4 * U))
    unbiased = count / (count - 1)
    new_mean, new_var = (abs(old + momentum * (batch - old)) + momentum * abs(batch - old)
                         for old, batch in ((running_mean, mean), (running_var, var * unbiased)))
    return (y_error + U * y_abs, stored_error, invstd_error * invstd, momentum * mean_error + U * new_mean,
            momentum * unbiased * var_error + U * new_var)


def check_training(shape, rng, momentum=0.1, eps=1e-5, offset=0.5, affine=True):
    arrays = training_problem(shape, rng, offset, affine)
    limits = training_limits(*arrays, momentum, eps)
    check_op("batch_norm_train", arrays, dict(momentum=momentum, eps=eps), per_image=False,
             bound=within(limits), updates=("running_mean", "running_var"))


def check_evaluation(shape, rng, eps=1e-5, affine=True):
    x, weight, bias, mean, var = training_problem(shape, rng, affine=affine)
    scale = per_channel((1 if weight is None else abs(weight)) / np.sqrt(var.astype(np.float64) + eps))
    # Rounded: the difference, invstd, scale, the product; then the sum.
    limit = 4 * U * abs(x - per_channel(mean)) * scale
    check_op("batch_norm", [x, mean, var, weight, bias], dict(eps=eps),
             bound=lambda y: limit + U * (abs(y) + limit))


def check_backward(shape, rng, training, affine=True):
    x, weight, _, mean, var = training_problem(shape, rng, affine=affine)
    if training:
        _, mean, invstd = functional.batch_norm_train(x)
    else:
        invstd = 1 / np.sqrt(var + np.float32(1e-5))
    dy = floats(rng, shape)
    size, deviation = abs(dy.astype(np.float64)), abs(x - per_channel(mean))
    count = max(1, x[:, :1].size)
    g = rounding(count)
    products = (size * deviation).sum(AXES)
    scale = per_channel(invstd if weight is None else invstd * abs(weight))
    whole = size
    if training:
        slope = products * invstd.astype(np.float64) ** 2 / count
        whole = size + per_channel(size.sum(AXES) / count) + deviation * per_channel(slope)
    limits = (g + 8 * U) * whole * scale, (g + 3 * U) * products * invstd, (g + U) * size.sum(AXES)
    check_op("batch_norm_backward", [dy, x, mean, invstd, weight], dict(training=training), per_image=False,
             bound=within(limits))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_matches_reference(shape, affine, rng):
    check_training(SHAPES[shape], rng, affine=affine)
    check_evaluation(SHAPES[shape], rng, affine=affine)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_backward_matches_reference(shape, affine, training, rng):
    check_backward(SHAPES[shape], rng, training, affine)


@pytest.mark.parametrize("momentum", [0, 0.3, 1])
@pytest.mark.parametrize("eps", [0, 1e-3])
def test_momentum_and_eps(momentum, eps, rng):
    check_training(SHAPES["19 channels"], rng, momentum, eps)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(shape=st.tuples(st.integers(2, 5), st.integers(1, 70), st.integers(1, 12), st.integers(1, 12)),
       offset=st.sampled_from([0, 1, 1000]), affine=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_batch_norm_of_any_shape_matches_reference(shape, offset, affine, seed):
    rng = np.random.default_rng(seed)
    check_training(shape, rng, offset=offset, affine=affine)
    check_evaluation(shape, rng, affine=affine)
    check_backward(shape, rng, bool(seed % 2), affine)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_nothing_to_normalise_in_evaluation(shape, rng):
    check_evaluation(shape, rng)
    check_backward(shape, rng, training=False)


def test_powers_of_two_are_exact(rng):
    x, dy = (rng.integers(-9, 10, (2, 19, 5, 7)).astype(np.float32) for _ in range(2))
    mean, weight, bias = (rng.integers(-3, 4, 19).astype(np.float32) for _ in range(3))
    var = rng.choice(np.array([0.25, 1, 4, 16], np.float32), 19)
    check_op("batch_norm", [x, mean, var, weight, bias], dict(eps=0))
    check_op("batch_norm_backward", [dy, x, mean, 1 / np.sqrt(var), weight], dict(training=False),
             per_image=False)


# ---- statistics -------------------------------------------------------------------------------------

# NIST StRD, univariate summary statistics: a large mean, alternating small deviations from it.
NUM_ACC = {
    "NumAcc1": [10000001, 10000003, 10000002],
    "NumAcc2": ["1.2", *["1.1", "1.3"] * 500],
    "NumAcc3": ["1000000.2", *["1000000.1", "1000000.3"] * 500],
    "NumAcc4": ["10000000.2", *["10000000.1", "10000000.3"] * 500],  # as floats all the same
    "one unit apart": [2**23 + 1, *[2**23, 2**23 + 2] * 500],
    "one unit apart, drifting": [2**22 + i / 2 for i in range(1001)],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("data", NUM_ACC)
def test_statistics_survive_a_large_mean(data, layout):
    """The certified values of the data as floats, in exact arithmetic."""
    values = np.array([float(value) for value in NUM_ACC[data]], np.float32)
    count = len(values)
    exact = [Fraction(float(value)) for value in values]
    mean = sum(exact) / count
    squares = sum((value - mean) ** 2 for value in exact)
    shape = (13, 1, 7, 11) if count == 1001 else (count, 1, 1, 1)
    x = in_layout(np.repeat(values.reshape(shape), 3, 1), layout)
    zeros, eps = np.zeros(3, np.float32), 2.0**-10
    *_, var_error = training_limits(x, None, None, zeros, zeros, 1, eps)
    for isa, threads in itertools.product(fastconv.available_isas(), (1, 2)):
        running_mean, running_var = zeros.copy(), zeros.copy()
        with using_isa(isa), fastconv.num_threads(threads):
            y, batch_mean, invstd = functional.batch_norm_train(x, None, None, running_mean, running_var,
                                                                momentum=1, eps=eps)
        # The correction leaves an error far below a unit of the mean: what is stored is the mean, rounded.
        np.testing.assert_array_equal(batch_mean, np.float32(float(mean)))
        np.testing.assert_array_equal(running_mean, batch_mean)
        unbiased = np.full(3, float(squares / (count - 1)))
        assert_within(running_var.astype(np.float64), unbiased, var_error, data)
        certified = 1 / math.sqrt(squares / count + Fraction(eps))
        np.testing.assert_allclose(invstd, certified, rtol=rounding(count))
        if not squares:
            assert not y.any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["LeNet conv1", "19 channels", "blocks", "rows", "large plane"])
def test_constant_channels_give_exactly_the_bias(shape, layout, rng):
    values = np.array([0, -0.1, 1 / 3, 1e-3, 12345.678, 1e7, -3e8, 1e-20], np.float32)
    images, channels, *plane = SHAPES[shape]
    constants = np.resize(values, channels)[:, None, None]
    x = in_layout(np.broadcast_to(constants, (images, channels, *plane)), layout)
    weight, bias = floats(rng, channels), floats(rng, channels)
    for isa in fastconv.available_isas():
        with using_isa(isa):
            y, mean, _ = functional.batch_norm_train(x, weight, bias)
        np.testing.assert_array_equal(mean, x[0, :, 0, 0])
        np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None, None], x.shape))


@pytest.mark.parametrize("isa", fastconv.available_isas())
def test_large_results_have_the_same_bits_wherever_they_lie(isa, rng):
    """Aligned to vectors, they are written past the caches."""
    size = 4, 192, 192, 16  # 9.4 MB
    x, dy, y = (rng.standard_normal(size, np.float32).transpose(0, 3, 1, 2) for _ in range(3))
    places = [place[at:at + x.size].reshape(size).transpose(0, 3, 1, 2)
              for place in [np.empty(x.size + 32, np.float32)]
              for at in (-place.ctypes.data // 4 % 16, -place.ctypes.data // 4 % 16 + 1)]
    assert [place.ctypes.data % 64 for place in places] == [0, 4]
    weight, bias = rng.standard_normal((2, 16), np.float32)
    with using_isa(isa):
        results = []
        for out in places:
            _, mean, invstd = functional.batch_norm_train(x, weight, bias, residual=dy, activation="relu",
                                                          out=out)
            forward = out.copy()
            _, _, _, masked = functional.batch_norm_backward(dy, x, mean, invstd, weight, y=y,
                                                             return_residual=True, out=out)
            results.append((forward, out.copy(), masked))
    for aligned, other in zip(*results, strict=True):
        assert_same_bits(aligned, other, isa)


def test_nan_and_infinity_stay_in_their_channel(rng):
    x, weight, bias, *_ = training_problem(SHAPES["19 channels"], rng)
    clean = functional.batch_norm_train(x, weight, bias)
    for value in (np.nan, np.inf):
        x[1, 7, 2, 3] = value
        for result, same in zip(functional.batch_norm_train(x, weight, bias), clean, strict=True):
            axis = result.ndim // 3
            assert not np.isfinite(result.take(7, axis)).all()
            assert_same_bits(np.delete(result, 7, axis), np.delete(same, 7, axis), "the other channels")


def test_gradients_are_those_of_differences(rng):
    """(loss(x + h) - loss(x - h)) / 2h of the reference, loss = sum of dy * y."""
    x, weight, bias, *_ = training_problem((3, 4, 2, 3), rng)
    dy = floats(rng, x.shape).astype(np.float64)
    _, mean, invstd = reference.batch_norm_train(x, weight, bias)
    dx, dweight, dbias = reference.batch_norm_backward(dy, x, mean, invstd, weight)

    def loss(x, weight, bias):
        return (dy * reference.batch_norm_train(x, weight, bias)[0]).sum()

    arrays = [array.astype(np.float64) for array in (x, weight, bias)]
    for i, gradient in enumerate((dx, dweight, dbias)):
        for at in np.ndindex(gradient.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [array.copy() for array in arrays]
                moved[i][at] += step
                sides.append(loss(*moved))
            # Truncation h^2 = 1e-10 and rounding 1e-16 / h = 1e-11, of values of order 10.
            np.testing.assert_allclose((sides[0] - sides[1]) / 2e-5, gradient[at], rtol=1e-6, atol=1e-7)


# ---- conventions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_conventions_are_torch_s(affine, training, rng):
    """Up to the roundings of torch: once more the bounds of this library's."""
    torch = pytest.importorskip("torch")
    x, weight, bias, mean, var = training_problem(SHAPES["19 channels"], rng, affine=affine)
    theirs = [None if a is None else torch.from_numpy(a.copy()) for a in (x, mean, var, weight, bias)]
    y = functional.batch_norm(x, mean, var, weight, bias, training=training, momentum=0.3, eps=1e-3)
    their_y = torch.nn.functional.batch_norm(*theirs, training=training, momentum=0.3, eps=1e-3)
    tolerance = dict(rtol=2 * rounding(x[:, 0].size), atol=2 * rounding(x[:, 0].size) * abs(x).max())
    np.testing.assert_allclose(y, their_y.numpy(), **tolerance)
    np.testing.assert_allclose(mean, theirs[1].numpy(), **tolerance)
    np.testing.assert_allclose(var, theirs[2].numpy(), **tolerance)


def test_batch_norm_in_training_is_batch_norm_train(rng):
    x, weight, bias, mean, var = training_problem(SHAPES["ResNet"], rng)
    same_mean, same_var = mean.copy(), var.copy()
    y = functional.batch_norm(x, mean, var, weight, bias, training=True)
    same, *_ = functional.batch_norm_train(x, weight, bias, same_mean, same_var)
    for result, expected in ((y, same), (mean, same_mean), (var, same_var)):
        assert_same_bits(result, expected, "batch_norm")
    alone = functional.batch_norm(x, None, None, weight, bias, training=True)
    assert_same_bits(alone, y, "without running averages")


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (0, 3, 4, 4), (2, 3, 0, 4)])
def test_fewer_than_two_values_per_channel_are_refused(shape):
    with pytest.raises(ValueError, match=r"x must have more than one value per channel.*" + str(shape[0])):
        functional.batch_norm_train(np.ones(shape, np.float32))


# ---- memory of the arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["19 channels", "LeNet conv1"])
@pytest.mark.parametrize("op", ["batch_norm", "batch_norm_train", "batch_norm_backward"])
def test_any_strides_give_the_bits_of_a_contiguous_copy(op, shape, rng):
    x, weight, bias, mean, var = training_problem(SHAPES[shape], rng)
    arrays = {"batch_norm": [x, mean, var, weight, bias], "batch_norm_train": [x, weight, bias],
              "batch_norm_backward": [floats(rng, x.shape), x, mean, var, weight]}[op]
    check_views(op, arrays, names=NOT_NATIVE)
    check_out_views(op, arrays)


def into_out(op, arrays, i, shift=0):
    """The operation on a copy of argument i, and its out= that lies `shift` floats further."""
    size = arrays[i].size
    memory = np.zeros(size + abs(shift), np.float32)
    first, second = max(0, -shift), max(0, shift)
    shared, out = (memory[at:at + size].reshape(arrays[i].shape) for at in (first, second))
    shared[...] = arrays[i]
    results = getattr(functional, op)(*arrays[:i], shared, *arrays[i + 1:], out=out)
    return [out, *results[1:]] if isinstance(results, tuple) else [out]


@pytest.mark.parametrize("shift", [0, 1, -1, 40, -40])
def test_out_may_be_or_overlap_an_argument(shift, rng):
    x, weight, bias, mean, var = training_problem(SHAPES["19 channels"], rng)
    dy = floats(rng, x.shape)
    for op, arrays, images in (
        ("batch_norm", [x, mean, var, weight, bias], 1),
        ("batch_norm_train", [x, weight, bias], 1),
        ("batch_norm_backward", [dy, x, mean, var, weight], 2),
    ):
        expected = getattr(functional, op)(*arrays)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for i in range(images):
            for result, same in zip(into_out(op, arrays, i, shift), expected, strict=True):
                assert_same_bits(result, same, f"{op} into argument {i} shifted by {shift}")
