"""Initial weights: formulas, fans, distributions, wrong arguments."""

import math

import numpy as np
import pytest

from fastconv import init
from fastconv.layers import Conv2d, Linear

SHAPE = (40, 30, 5, 5)
FAN_IN, FAN_OUT = 30 * 25, 40 * 25

# function(array, rng) -> standard deviation; bounded draws are uniform
STANDARD_DEVIATIONS = {
    "kaiming_uniform": (lambda w, rng: init.kaiming_uniform(w, rng=rng), math.sqrt(2 / FAN_IN), True),
    "kaiming_uniform, leaky": (lambda w, rng: init.kaiming_uniform(w, math.sqrt(5), rng=rng),
                               math.sqrt(1 / (3 * FAN_IN)), True),
    "kaiming_normal, fan_out": (lambda w, rng: init.kaiming_normal(w, 0, "fan_out", "relu", rng=rng),
                                math.sqrt(2 / FAN_OUT), False),
    "xavier_uniform": (lambda w, rng: init.xavier_uniform(w, rng=rng),
                       math.sqrt(2 / (FAN_IN + FAN_OUT)), True),
    "xavier_normal": (lambda w, rng: init.xavier_normal(w, gain=init.gain("tanh"), rng=rng),
                      5 / 3 * math.sqrt(2 / (FAN_IN + FAN_OUT)), False),
    "lecun_normal": (lambda w, rng: init.lecun_normal(w, rng=rng), math.sqrt(1 / FAN_IN), False),
    "uniform": (lambda w, rng: init.uniform(w, -0.3, 0.3, rng=rng), 0.3 / math.sqrt(3), True),
    "normal": (lambda w, rng: init.normal(w, std=0.2, rng=rng), 0.2, False),
}


@pytest.mark.parametrize(
    ("fill", "std", "bounded"), STANDARD_DEVIATIONS.values(), ids=STANDARD_DEVIATIONS)
def test_distribution(fill, std, bounded):
    array = np.full(SHAPE, np.nan, np.float32)
    assert fill(array, np.random.default_rng(0)) is array
    # Six standard errors; the fourth moment of a uniform variable is 9/5 of its variance squared, of a normal
    # one 3 times.
    kurtosis = 1.8 if bounded else 3.0
    values = array.astype(np.float64)
    assert abs(values.mean()) < 6 * std / math.sqrt(values.size)
    assert abs(values.var() / std**2 - 1) < 6 * math.sqrt((kurtosis - 1) / values.size)
    if bounded:
        largest = abs(values).max() / (math.sqrt(3) * std)
        assert 1 - 1e-3 < largest <= 1 + 2**-22


def test_values_do_not_depend_on_the_memory_order():
    plain = init.kaiming_normal(np.empty((4, 3, 2, 2), np.float32), rng=np.random.default_rng(0))
    stored = np.empty((2, 2, 3, 4), np.float32).transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(init.kaiming_normal(stored, rng=np.random.default_rng(0)), plain)
    assert stored.strides[0] == 4


def test_large_arrays_are_drawn_as_one():
    shape = (5, 3, 2**17)
    array = init.normal(np.empty(shape, np.float32), rng=np.random.default_rng(0))
    np.testing.assert_array_equal(array, np.random.default_rng(0).standard_normal(shape, np.float32))


def test_nothing_is_drawn_while_skipped():
    array, rng = np.full((2, 3), 7, np.float32), np.random.default_rng(0)
    with init.skipped():
        init.kaiming_normal(array, rng=rng)
        init.uniform(array, rng=rng)
    np.testing.assert_array_equal(array, 7)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
    assert (init.uniform(array, rng=rng) != 7).all()


def test_default_generator_goes_on():
    first, second = (init.uniform(np.empty(100, np.float32)) for _ in range(2))
    assert (first != second).any()


def test_constant():
    np.testing.assert_array_equal(init.constant(np.empty((2, 3), np.float32), 0.5), 0.5)


@pytest.mark.parametrize("layer", [Conv2d(6, 8, 5, groups=2, rng=np.random.default_rng(0)),
                                   Linear(75, 400, rng=np.random.default_rng(0))])
def test_layers_start_as_torch_starts_them(layer):
    bound = 1 / math.sqrt(75)
    for parameter in layer.parameters():
        assert abs(parameter.data).max() <= bound * (1 + 2**-22)
    assert abs(layer.weight.data).max() > 0.99 * bound


def test_gains_and_fans_are_torch_s():
    torch = pytest.importorskip("torch")
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "selu"):
        assert init.gain(name) == torch.nn.init.calculate_gain(name)
    assert init.gain("leaky_relu", 0.2) == torch.nn.init.calculate_gain("leaky_relu", 0.2)
    for shape in ((7, 5), (8, 3, 5, 4)):
        assert init.fans(shape) == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


VECTOR, MATRIX = np.zeros(3, np.float32), np.zeros((3, 3), np.float32)


@pytest.mark.parametrize(("fill", "error", "message"), [
    (lambda: init.uniform(np.zeros(3)), TypeError, "array must be a float32 ndarray, got float64"),
    (lambda: init.constant([1.0], 0), TypeError, "array must be a float32 ndarray, got list"),
    (lambda: init.uniform(VECTOR, 2, 1), ValueError, "low must not exceed high, got low=2, high=1"),
    (lambda: init.normal(VECTOR, 0, -1), ValueError, "std must not be negative, got -1"),
    (lambda: init.kaiming_normal(VECTOR), ValueError, r"at least 2 axes .* got shape \(3,\)"),
    (lambda: init.kaiming_normal(MATRIX, mode="fan"), ValueError, "mode must be .* got 'fan'"),
    (lambda: init.gain("gelu"), ValueError, "nonlinearity must be one of .* got 'gelu'"),
])
def test_wrong_arguments_are_named(fill, error, message):
    with pytest.raises(error, match=message):
        fill()
