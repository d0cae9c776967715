"""Initial weights. Every function fills a float32 array in place and returns it.

The formulas and the fan conventions are torch's: a weight (K, C/groups, R, S) or (K, D) has
fan_in = C/groups * R * S and fan_out = K * R * S. Values are drawn in the logical order of the array, so they
do not depend on how it lies in memory. `rng` is a numpy Generator; the default is one that the module seeds
from the operating system. Wrong arrays raise TypeError, wrong options ValueError.
"""

import math
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_GENERATOR = np.random.default_rng()
_SKIPPED = ContextVar("skipped", default=False)
_BLOCK = 2**18  # values drawn at a time: 1 MiB stays in the cache until it is in its place

_GAINS = {"linear": 1.0, "conv2d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}


@contextmanager
def skipped():
    """Within the ``with`` block random arrays stay as they are: for weights about to be loaded or counted.

    Their memory is not touched either, so that a network of gigabytes is there at once.
    """
    token = _SKIPPED.set(True)
    try:
        yield
    finally:
        _SKIPPED.reset(token)


def fans(shape):
    """(fan_in, fan_out) of a weight of `shape`. Raises ValueError for fewer than two axes."""
    if len(shape) < 2:
        raise ValueError(f"array must have at least 2 axes to have fans, got shape {tuple(shape)}")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def gain(nonlinearity, a=0.0):
    """Factor that keeps the variance through `nonlinearity`; `a` is the negative slope of "leaky_relu"."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + a * a))
    if nonlinearity not in _GAINS:
        names = ", ".join(("leaky_relu", *_GAINS))
        raise ValueError(f"nonlinearity must be one of {names}, got {nonlinearity!r}")
    return _GAINS[nonlinearity]


def uniform(array, low=0.0, high=1.0, *, rng=None):
    """Uniform between low and high."""
    _check(array)
    if not low <= high:
        raise ValueError(f"low must not exceed high, got low={low!r}, high={high!r}")
    return _fill(array, (rng or _GENERATOR).random, high - low, low)


def normal(array, mean=0.0, std=1.0, *, rng=None):
    """Normal with the given mean and standard deviation."""
    _check(array)
    if not std >= 0:
        raise ValueError(f"std must not be negative, got {std!r}")
    return _fill(array, (rng or _GENERATOR).standard_normal, std, mean)


def constant(array, value):
    """The same value everywhere."""
    _check(array)
    array.fill(value)
    return array


def kaiming_uniform(array, a=0.0, mode="fan_in", nonlinearity="leaky_relu", *, rng=None):
    """Uniform with standard deviation gain / sqrt(fan); mode: "fan_in" or "fan_out".

    He et al., arXiv 1502.01852, equations 10 and 14. a: negative slope of the rectifier that follows.
    """
    std = _kaiming_std(array, a, mode, nonlinearity)
    return _centred_uniform(array, std, rng)


def kaiming_normal(array, a=0.0, mode="fan_in", nonlinearity="leaky_relu", *, rng=None):
    """Normal with the standard deviation of kaiming_uniform."""
    return normal(array, 0.0, _kaiming_std(array, a, mode, nonlinearity), rng=rng)


def xavier_uniform(array, gain=1.0, *, rng=None):
    """Uniform with standard deviation gain * sqrt(2 / (fan_in + fan_out)).

    Glorot & Bengio, AISTATS 2010, equation 16.
    """
    return _centred_uniform(array, _xavier_std(array, gain), rng)


def xavier_normal(array, gain=1.0, *, rng=None):
    """Normal with the standard deviation of xavier_uniform."""
    return normal(array, 0.0, _xavier_std(array, gain), rng=rng)


def lecun_normal(array, *, rng=None):
    """Normal with standard deviation 1 / sqrt(fan_in).

    LeCun et al., Efficient BackProp (1998), equation 16.
    """
    return kaiming_normal(array, nonlinearity="linear", rng=rng)


def _check(array):
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"array must be a float32 ndarray, got {found}")


def _fill(array, draw, scale, shift):
    """array = scale * draw(...) + shift, block by block."""
    if _SKIPPED.get():
        return array
    rows = np.atleast_1d(array)
    count = max(1, _BLOCK // max(1, math.prod(rows.shape[1:])))
    for start in range(0, len(rows), count):
        block = rows[start:start + count]
        values = draw(block.shape, np.float32)
        values *= np.float32(scale)
        values += np.float32(shift)
        block[...] = values
    return array


def _kaiming_std(array, a, mode, nonlinearity):
    _check(array)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f'mode must be "fan_in" or "fan_out", got {mode!r}')
    return gain(nonlinearity, a) / math.sqrt(fans(array.shape)[mode == "fan_out"])


def _xavier_std(array, gain):
    _check(array)
    return gain * math.sqrt(2 / sum(fans(array.shape)))


def _centred_uniform(array, std, rng):
    bound = math.sqrt(3) * std  # a uniform variable on (-b, b) has the variance b^2 / 3
    return uniform(array, -bound, bound, rng=rng)
