"""Checks of options that several modules share: plain ints come back, or an error names the option."""

from operator import index

import numpy as np


def count(name, value, least):
    """An int of at least `least`; ValueError for anything else."""
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def two_ints(value):
    """(vertical, horizontal) from an int or a pair of ints; None for anything else."""
    if type(value) is not tuple:  # raising an error for each would take longer than the rest of a check
        try:
            return (index(value),) * 2
        except TypeError:
            pass
    try:
        vertical, horizontal = value
        return (index(vertical), index(horizontal))
    except (TypeError, ValueError):
        return None


def pair(name, value):
    """(vertical, horizontal) from an int or a pair of ints."""
    if type(value) is int:
        return (value, value)
    ints = two_ints(value)
    if ints is None:
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    return ints


def bounded_pair(name, value, least=1):
    """(vertical, horizontal), both at least `least` and below 2**31."""
    ints = pair(name, value)
    if min(ints) < least or max(ints) >= 1 << 31:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return ints


def pool_options(kernel_size, stride, padding, dilation):
    """(kernel, stride, padding, dilation) of a pooling, as pairs; stride None is kernel_size."""
    kernel = bounded_pair("kernel_size", kernel_size)
    stride = kernel if stride is None else bounded_pair("stride", stride)
    padding = bounded_pair("padding", padding, 0)
    if padding[0] > kernel[0] // 2 or padding[1] > kernel[1] // 2:
        raise ValueError(f"padding must be at most half of kernel_size {kernel}, got {padding}")
    return kernel, stride, padding, bounded_pair("dilation", dilation)
