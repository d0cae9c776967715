"""What a call of each kernel has to do: shapes, layout, algorithm, operations and bytes, from its arguments.

Operations are those of the formula, a convolution's those of the direct sum whatever the algorithm. Bytes are
those that must move: every argument is read once, every result written once.
"""

import math
from functools import lru_cache
from typing import NamedTuple

from .. import _core

_choices = lru_cache(maxsize=4096)(_core.conv2d_choices)


class Seen(NamedTuple):
    """What a record keeps of an array."""

    shape: tuple
    strides: tuple | None
    itemsize: int

    @property
    def size(self):
        return math.prod(self.shape)

    @property
    def nbytes(self):
        return round(self.size * self.itemsize)


class Convolution(NamedTuple):
    """The problem of a conv2d or one of its gradients: what another algorithm or library has to do."""

    direction: str
    x_shape: tuple
    weight_shape: tuple
    stride: tuple
    padding: tuple
    dilation: tuple
    groups: int

    @property
    def output_shape(self):
        sizes = ((size + sum(pad) - d * (taps - 1) - 1) // step + 1 for size, taps, step, pad, d in
                 zip(self.x_shape[2:], self.weight_shape[2:], self.stride, self.padding, self.dilation,
                     strict=True))
        return (self.x_shape[0], self.weight_shape[0], *sizes)


class Work(NamedTuple):
    """shapes: of the arrays, for people; flops, bytes: see above; convolution: where it is one."""

    shapes: str
    layout: str
    algorithm: str
    flops: int
    bytes: int
    convolution: Convolution | None = None


def work(op, arguments, result):
    """The Work of a call; its arguments and result as _core.Timed recorded them."""
    return _DESCRIBE[op](arguments, result)


def names():
    """The functions of _core that are kernels."""
    return tuple(_DESCRIBE)


def _text(*shapes):
    return " -> ".join("x".join(map(str, shape)) for shape in shapes)


def _layout(array):
    """"NHWC", "NCHW" or "strided" of four axes, else ""; sizes of 1 say nothing, as in _core."""
    if len(array.shape) != 4:
        return ""
    if array.strides is None:
        return "unknown"
    _, c, h, w = array.shape
    steps = [step // array.itemsize for step in array.strides]
    for name, dense in (("NCHW", (c * h * w, h * w, w, 1)), ("NHWC", (h * w * c, 1, w * c, c))):
        if all(size < 2 or step == of for size, step, of in zip(array.shape, steps, dense, strict=True)):
            return "NHWC" if name == "NCHW" and c > 1 and h * w == 1 else name
    return "NHWC" if c > 1 and steps[1] == 1 else "strided"


def _bytes(*arrays):
    return sum(array.nbytes for array in arrays if array is not None)


def _array(value):
    return None if value is None else Seen(*value)


# ---- convolutions and linear layers -------------------------------------------------------------------


def _convolution(direction, x_shape, weight_shape, options, algorithm):
    """(Convolution, the algorithm it takes, flops)"""
    problem = Convolution(direction, x_shape, weight_shape, *options)
    if algorithm == "auto":
        taken = {name: chosen for name, chosen, _ in _choices(x_shape, weight_shape, *options)}
        algorithm = taken[direction]
    return problem, algorithm, 2 * math.prod(problem.output_shape) * math.prod(weight_shape[1:])


def _conv2d(a, result):
    x, weight, bias, residual, y = map(_array, (a[0], a[1], a[2], a[8], result))
    problem, algorithm, flops = _convolution("forward", x.shape, weight.shape, a[3:7], a[7])
    extra = y.size * ((bias is not None) + (residual is not None) + bool(a[9]))
    return Work(_text(x.shape, weight.shape, y.shape), _layout(x), algorithm, flops + extra,
                _bytes(x, weight, bias, residual, y), problem)


def _conv2d_backward_input(a, result):
    grad, weight, addend, y = map(_array, (a[0], a[1], a[8], result))
    problem, algorithm, flops = _convolution("backward_input", a[2], weight.shape, a[3:7], a[7])
    extra = y.size if addend is not None else 0
    return Work(_text(grad.shape, weight.shape, y.shape), _layout(grad), algorithm, flops + extra,
                _bytes(grad, weight, addend, y), problem)


def _conv2d_backward_weight(a, result):
    grad, x, y = map(_array, (a[0], a[1], result))
    problem, algorithm, flops = _convolution("backward_weight", x.shape, a[2], a[3:7], a[7])
    return Work(_text(grad.shape, x.shape, y.shape), _layout(grad), algorithm, flops, _bytes(grad, x, y),
                problem)


def _prepare(a, result):
    weight = _array(a[0])
    return Work(_text(weight.shape), "", "", 0, weight.nbytes)


def _linear(a, result):
    x, weight, bias, y = map(_array, (*a[:3], result))
    flops = 2 * y.size * weight.shape[1] + y.size * ((bias is not None) + bool(a[3]))
    return Work(_text(x.shape, weight.shape, y.shape), "", "", flops, _bytes(x, weight, bias, y))


def _linear_backward_input(a, result):
    grad, weight, y = map(_array, (a[0], a[1], result))
    return Work(_text(grad.shape, weight.shape, y.shape), "", "", 2 * y.size * grad.shape[1],
                _bytes(grad, weight, y))


def _linear_backward_weight(a, result):
    grad, x, y = map(_array, (a[0], a[1], result))
    return Work(_text(grad.shape, x.shape, y.shape), "", "", 2 * y.size * grad.shape[0], _bytes(grad, x, y))


def _recurrent(a, result):
    """Of each step, the product with weight_hh; the one with weight_ih is a linear layer before it."""
    gates, weight = _array(a[0]), _array(a[2])
    outputs = gates.size // max(1, weight.shape[0]) * weight.shape[1]
    return Work(_text(gates.shape, weight.shape), "", "", 2 * gates.size * weight.shape[1],
                2 * gates.nbytes + weight.nbytes + 4 * outputs * len(a[1]))


def _recurrent_backward(a, result):
    grad, weight, gates = _array(a[0]), _array(a[3]), _array(result)
    return Work(_text(grad.shape, weight.shape, gates.shape), "", "", 2 * gates.size * weight.shape[1],
                grad.nbytes * (1 + len(a[2])) + weight.nbytes + 2 * gates.nbytes)


# ---- what memory bounds -------------------------------------------------------------------------------


def _over(array, operations, moved, *shapes):
    """Work of `operations` for each element of an array."""
    return Work(_text(*(shapes or (array.shape,))), _layout(array), "", operations * array.size, moved)


def _sums(a, result):
    grad, y = _array(a[0]), _array(result)
    return _over(grad, 1, _bytes(grad, y), grad.shape, y.shape)


def _max_pool2d(a, result):
    x, y, argmax = map(_array, (a[0], *result))
    return Work(_text(x.shape, y.shape), _layout(x), "", y.size * math.prod(a[1]), _bytes(x, y, argmax))


def _max_pool2d_backward(a, result):
    grad, argmax, y = map(_array, (a[0], a[1], result))
    return Work(_text(grad.shape, y.shape), _layout(grad), "", grad.size, _bytes(grad, argmax, y))


def _avg_pool2d(a, result):
    x, y = _array(a[0]), _array(result)
    taps = x.size if a[6] else y.size * math.prod(a[1])
    return Work(_text(x.shape, y.shape), _layout(x), "", taps, _bytes(x, y))


def _avg_pool2d_backward(a, result):
    grad, y = _array(a[0]), _array(result)
    taps = y.size if a[6] else grad.size * math.prod(a[2])
    return Work(_text(grad.shape, y.shape), _layout(grad), "", taps, _bytes(grad, y))


def _activation(a, result):
    x = _array(a[1])
    return _over(x, 1, 2 * x.nbytes)


def _activation_backward(a, result):
    grad = _array(a[1])
    return _over(grad, 1, 3 * grad.nbytes)


def _add(a, result):
    y = _array(result)
    return _over(y, len(a[0]) - 1 + bool(a[1]), (len(a[0]) + 1) * y.nbytes)


def _moved(a, result):
    y = _array(result)
    return _over(y, 0, 2 * y.nbytes)


def _softmax(a, result):
    x = _array(a[0])
    return _over(x, 4, 2 * x.nbytes)  # maximum, difference, sum, quotient


def _batch_norm(a, result):
    """Training reads x twice: for the moments, and to normalise it."""
    x, training, residual = _array(a[0]), a[5], a[8]
    operations = 2 + (residual is not None) + bool(a[9]) + 4 * training
    return _over(x, operations, (2 + (residual is not None) + bool(training)) * x.nbytes)


def _batch_norm_backward(a, result):
    """Training reads grad_output and x twice: for the sums, and for the result."""
    x, training, masked = _array(a[1]), a[6], a[8] is not None
    passes = 5 if training else 3
    return _over(x, 9 if training else 5, (passes + (passes // 2) * masked + bool(a[9])) * x.nbytes)


def _local_response_norm(a, result):
    x = _array(a[0])
    return _over(x, a[1] + 4, 2 * x.nbytes)


def _local_response_norm_backward(a, result):
    x = _array(a[1])
    return _over(x, 2 * a[2] + 8, 3 * x.nbytes)


def _sgd_step(a, result):
    data, velocity = _array(a[0]), a[2] is not None
    return _over(data, 4 + 2 * velocity, (3 + 2 * velocity) * data.nbytes)


def _adam_step(a, result):
    data = _array(a[0])
    return _over(data, 12, 7 * data.nbytes)


def _square_sum(a, result):
    x = _array(a[1])
    return _over(x, 2, x.nbytes)


_DESCRIBE = {
    "conv2d": _conv2d,
    "conv2d_backward_input": _conv2d_backward_input,
    "conv2d_backward_weight": _conv2d_backward_weight,
    "prepare_conv2d": _prepare,
    "compress_weight": _prepare,
    "sum_channels": _sums,
    "linear": _linear,
    "linear_backward_input": _linear_backward_input,
    "linear_backward_weight": _linear_backward_weight,
    "sum_rows": _sums,
    "recurrent": _recurrent,
    "recurrent_backward": _recurrent_backward,
    "max_pool2d": _max_pool2d,
    "max_pool2d_backward": _max_pool2d_backward,
    "avg_pool2d": _avg_pool2d,
    "avg_pool2d_backward": _avg_pool2d_backward,
    "activation": _activation,
    "activation_backward": _activation_backward,
    "add": _add,
    "concat": _moved,
    "copy": _moved,
    "softmax": _softmax,
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "local_response_norm": _local_response_norm,
    "local_response_norm_backward": _local_response_norm_backward,
    "sgd_step": _sgd_step,
    "adam_step": _adam_step,
    "square_sum": _square_sum,
}


# ---- calls from C -----------------------------------------------------------------------------------------


class Options(NamedTuple):
    """Of a call by way of fastconv.h: the fields of fc_call in csrc/ops/calls.h."""

    conv: tuple | None  # stride, padding, dilation, groups, algorithm, as _core.conv2d takes them
    pool: tuple | None  # kernel, stride, padding, dilation, count_include_pad, adaptive
    bias: bool
    argmax: int
    relu: bool
    training: bool


def facts(op, arrays, *options):
    """(*arguments, result) of a call by way of fastconv.h, as _core.Timed records them of the function `op`.

    arrays: (shape, strides, itemsize) or None; options: as of Options.
    """
    return _FROM_C[op](Options(*options), *arrays)


def _vector(like, axis):
    return (like[0][axis],), None, 4


def _rows(array):
    """(N, D) of what linear layers see as one row of N pixels; also of D x 1 x 1 filters as they are."""
    (images, features, _, pixels), _, itemsize = array
    return (images * pixels, features), None, itemsize


def _span(array):
    return array[0][3:], None, array[2]


def _argmax(like, itemsize):
    return (like[0], None, itemsize) if itemsize else None


_FROM_C = {
    "conv2d": lambda o, x, weight, residual, y:
        (x, weight, _vector(weight, 0) if o.bias else None, *o.conv, residual, o.relu, None, None, y),
    "conv2d_backward_input": lambda o, dy, weight, dx, _: (dy, weight, dx[0], *o.conv, None, None, dx),
    "conv2d_backward_weight": lambda o, dy, x, dw, _: (dy, x, dw[0], *o.conv, None, dw),
    "sum_channels": lambda o, dy, *_: (dy, None, _vector(dy, 1)),
    "linear": lambda o, x, weight, y, _:
        (_rows(x), _rows(weight), _vector(weight, 0) if o.bias else None, o.relu, None, _rows(y)),
    "linear_backward_input": lambda o, dy, weight, dx, _: (_rows(dy), _rows(weight), None, _rows(dx)),
    "linear_backward_weight": lambda o, dy, x, dw, _: (_rows(dy), _rows(x), None, _rows(dw)),
    "max_pool2d": lambda o, x, y, *_:
        (x, *o.pool[:4], y[0][2:], bool(o.argmax), None, (y, _argmax(y, o.argmax))),
    "max_pool2d_backward": lambda o, dy, dx, *_:
        (dy, _argmax(dy, o.argmax), dx[0], *o.pool[:4], None, dx),
    "avg_pool2d": lambda o, x, y, *_: (x, *o.pool[:3], y[0][2:], *o.pool[4:], None, y),
    "avg_pool2d_backward": lambda o, dy, dx, *_: (dy, dx[0], *o.pool[:3], *o.pool[4:], None, dx),
    "activation": lambda o, x, y, *_: (None, _span(x), None, _span(y)),
    "activation_backward": lambda o, dy, y, dx, _: (None, _span(dy), _span(y), None, _span(dx)),
    "batch_norm": lambda o, x, residual, y, _:
        (x, None, None, None, None, o.training, None, None, residual, o.relu, None, y),
    "batch_norm_backward": lambda o, dy, x, dresidual, dx:
        (dy, x, None, None, None, None, o.training, o.relu, dx if o.relu else None, dresidual is not None,
         None, dx),
}
