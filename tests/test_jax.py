"""fastconv.jax: values, gradients, jit and vmap against JAX's own operations."""

import math

import numpy as np
import pytest
from check import U

jax = pytest.importorskip("jax")
from fastconv import jax as fjax  # noqa: E402  it needs JAX

OPTIONS = {"plain": {}, "strided": {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
           "grouped": {"groups": 2, "padding": ((1, 0), (0, 2))}}


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jax.numpy.asarray(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


def conv_there(x, weight, stride=(1, 1), padding=0, dilation=(1, 1), groups=1):
    pads = [(padding, padding)] * 2 if isinstance(padding, int) else [
        pad if isinstance(pad, tuple) else (pad, pad) for pad in padding]
    return jax.lax.conv_general_dilated(x, weight, stride, pads, rhs_dilation=dilation,
                                        feature_group_count=groups)


def agree(actual, expected, terms):
    """Sums of `terms` products in float32, here and there."""
    assert actual.shape == expected.shape
    actual, expected = np.asarray(actual), np.asarray(expected)
    bound = 2 * (2 * math.sqrt(terms) + 4) * U * math.sqrt(terms)
    assert abs(actual - expected).max() <= bound * max(1, abs(expected).max())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_convolution(options):
    x, weight = arrays((2, 4, 9, 8), (6, 4 // options.get("groups", 1), 3, 3))

    def loss(function):
        return lambda x, weight: (function(x, weight, **options) ** 2).sum()

    agree(fjax.conv2d(x, weight, **options), conv_there(x, weight, **options), 36)
    here = jax.jit(jax.grad(loss(fjax.conv2d), (0, 1)))(x, weight)
    there = jax.grad(loss(conv_there), (0, 1))(x, weight)
    for actual, expected in zip(here, there, strict=True):
        agree(actual, expected, 36 * 144)


def test_bias_relu_and_pooling():
    x, weight, bias = arrays((2, 3, 9, 9), (4, 3, 3, 3), (4,))

    def here(x, weight, bias):
        return fjax.max_pool2d(fjax.relu(fjax.conv2d(x, weight, bias)), 3, 2).sum()

    def there(x, weight, bias):
        y = jax.nn.relu(conv_there(x, weight) + bias[:, None, None])
        return jax.lax.reduce_window(y, -np.inf, jax.lax.max, (1, 1, 3, 3), (1, 1, 2, 2), "VALID").sum()

    agree(here(x, weight, bias), there(x, weight, bias), 27)
    for actual, expected in zip(jax.grad(here, (0, 1, 2))(x, weight, bias),
                                jax.grad(there, (0, 1, 2))(x, weight, bias), strict=True):
        agree(actual, expected, 36 * 18)


def test_vmap_is_a_call_for_each_example():
    x, weight = arrays((3, 2, 4, 6, 6), (5, 4, 3, 3))
    mapped = jax.vmap(fjax.conv2d, (0, None))(x, weight)
    for index in range(3):
        np.testing.assert_array_equal(mapped[index], fjax.conv2d(x[index], weight))


def test_large_arrays_pass_without_hanging():
    x, weight = arrays((16, 64, 56, 56), (64, 64, 1, 1))
    y = jax.jit(lambda x, weight: fjax.relu(fjax.conv2d(x, weight)))(x, weight)
    agree(y, jax.nn.relu(conv_there(x, weight)), 64)


def test_what_does_not_fit_is_refused_while_tracing():
    x, weight = arrays((1, 4, 6, 6), (5, 3, 3, 3))
    with pytest.raises(ValueError, match="weight must have 4 input channels"):
        jax.jit(fjax.conv2d)(x, weight)
    with pytest.raises(TypeError, match="x must be a float32 array, got int32"):
        fjax.relu(jax.numpy.arange(3))
    with pytest.raises(ValueError, match="kernel_size"):
        fjax.max_pool2d(x, 9)
