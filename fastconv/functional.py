"""Operations on NumPy arrays: float32, logically N x C x H x W, any strides.

Outputs take the memory layout of the input: contiguous (NCHW) or channels-last (an N x H x W x C array seen
through ``transpose(0, 3, 1, 2)``). Every function takes ``out=``. Wrong dtypes raise TypeError, wrong
shapes and options ValueError, both naming the argument and its value.
"""

from . import _core

ALGORITHMS = ("direct",)


def _pair(name, value):
    """(vertical, horizontal) from an int or a pair of ints."""
    if isinstance(value, int):
        return (value, value)
    try:
        vertical, horizontal = value
        return (vertical.__index__(), horizontal.__index__())
    except (TypeError, ValueError, AttributeError):
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}") from None


def _padding(padding, weight_shape, stride, dilation):
    """((top, bottom), (left, right)) from an int, a pair, a pair of pairs, "same" or "valid"."""
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0), (0, 0))
        if padding != "same":
            raise ValueError(f'padding must be ints, "same" or "valid", got {padding!r}')
        if stride != (1, 1):
            raise ValueError(f'padding="same" needs stride 1, got stride {stride}')
        totals = [d * (taps - 1) for d, taps in zip(dilation, weight_shape[2:], strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    try:
        vertical, horizontal = padding
    except (TypeError, ValueError):
        raise TypeError(f"padding must be an int, a pair or a pair of pairs, got {padding!r}") from None
    return (_pair("padding", vertical), _pair("padding", horizontal))


def _geometry(weight_shape, stride, padding, dilation, algorithm):
    if algorithm != "auto" and algorithm not in ALGORITHMS:
        names = ", ".join(("auto", *ALGORITHMS))
        raise ValueError(f"algorithm must be one of {names}, got {algorithm!r}")
    stride = _pair("stride", stride)
    dilation = _pair("dilation", dilation)
    return stride, _padding(padding, weight_shape, stride, dilation), dilation


def _shape(name, shape):
    """A shape of four non-negative ints."""
    try:
        extents = tuple(extent.__index__() for extent in shape)
    except (TypeError, AttributeError):
        raise TypeError(f"{name} must be a shape of 4 ints, got {shape!r}") from None
    if len(extents) != 4 or min(extents) < 0:
        raise ValueError(f"{name} must be 4 non-negative ints, got {shape!r}")
    return extents


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *,
           algorithm="auto", out=None):
    """2-D convolution (cross-correlation, as in every deep-learning library).

    x (N, C, H, W), weight (K, C/groups, R, S), bias (K,) or None -> (N, K, P, Q), where
    P = floor((H + top + bottom - dilation*(R-1) - 1) / stride) + 1, and Q likewise.

    padding: an int, a pair (vertical, horizontal), ((top, bottom), (left, right)), "same" or
    "valid". algorithm: "auto" or a name from ``fastconv.algorithms()``.
    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, MemoryError.
    """
    stride, padding, dilation = _geometry(weight.shape, stride, padding, dilation, algorithm)
    return _core.conv2d(x, weight, bias, stride, padding, dilation, groups, out)


def conv2d_backward_input(grad_output, weight, input_shape, stride=1, padding=0, dilation=1,
                          groups=1, *, algorithm="auto", out=None):
    """Gradient of conv2d with respect to x: grad_output (N, K, P, Q) -> (N, C, H, W) = input_shape."""
    input_shape = _shape("input_shape", input_shape)
    stride, padding, dilation = _geometry(weight.shape, stride, padding, dilation, algorithm)
    return _core.conv2d_backward_input(grad_output, weight, input_shape, stride, padding, dilation,
                                       groups, out)


def conv2d_backward_weight(grad_output, x, weight_shape, stride=1, padding=0, dilation=1, groups=1,
                           *, algorithm="auto", out=None):
    """Gradient of conv2d with respect to weight: grad_output (N, K, P, Q) -> weight_shape.

    Without out= the result is contiguous for NCHW gradients; for channels-last ones the output
    channel is its fastest axis in memory, the order in which the kernels read weights.
    """
    weight_shape = _shape("weight_shape", weight_shape)
    stride, padding, dilation = _geometry(weight_shape, stride, padding, dilation, algorithm)
    return _core.conv2d_backward_weight(grad_output, x, weight_shape, stride, padding, dilation,
                                        groups, out)
