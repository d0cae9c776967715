"""JAX, NHWC and compiled: single operations, and networks rebuilt from the ONNX file."""

import os

import jax
import numpy as np
from jax import lax

from .. import PREPARED
from . import conv_arrays, images, onnx_graph


def start(threads):
    # XLA has no setting for its threads: at the first call it starts one for each processor it may use.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def to_numpy(y):
    order = getattr(y, "order", None)
    return np.asarray(y.value).transpose(order) if order else np.asarray(y)


class _Ordered:
    """A result and the order of its axes that puts the channels second."""

    def __init__(self, value, order):
        self.value, self.order = value, order


def _conv(x, weight, strides, padding, groups=1):
    """padding: (top, left, bottom, right)."""
    top, left, bottom, right = padding
    return lax.conv_general_dilated(x, weight, strides, ((top, bottom), (left, right)),
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


def convolution(contender, layer, direction):
    if direction == PREPARED:
        return None
    x, weight, grad_output = conv_arrays(layer)
    x, grad_output = (jax.numpy.asarray(array.transpose(0, 2, 3, 1)) for array in (x, grad_output))
    weight = jax.numpy.asarray(weight.transpose(2, 3, 1, 0))

    def forward(x, weight):
        return _conv(x, weight, (layer.stride,) * 2, (layer.padding,) * 4, layer.groups)

    order = (3, 2, 0, 1) if direction == "backward_weight" else (0, 3, 1, 2)
    if direction == "forward":
        function, operands = forward, (x, weight)
    elif direction == "backward_input":
        def function(grad, weight):
            return jax.linear_transpose(lambda x: forward(x, weight), x)(grad)[0]
        operands = grad_output, weight
    else:
        def function(grad, x):
            return jax.linear_transpose(lambda weight: forward(x, weight), weight)(grad)[0]
        operands = grad_output, x
    compiled = jax.jit(function)
    return lambda: _Ordered(compiled(*operands).block_until_ready(), order)


class _Operations:
    """The operations of onnx_graph."""

    conv = staticmethod(_conv)

    @staticmethod
    def constant(array):
            return jax.numpy.asarray(array)

    @staticmethod
    def relu(x):
            return jax.nn.relu(x)

    @staticmethod
    def matmul(a, b):
        return a @ b

    @staticmethod
    def transpose(x, axes):
        return x.transpose(axes)

    @staticmethod
    def reshape(x, shape):
        return x.reshape(shape)

    @staticmethod
    def max_pool(x, size, strides, padding):
        top, left, bottom, right = padding
        return lax.reduce_window(x, -np.inf, lax.max, (1, *size, 1), (1, *strides, 1),
                                 ((0, 0), (top, bottom), (left, right), (0, 0)))

    @staticmethod
    def concat(arrays):
            return jax.numpy.concatenate(arrays, 3)

    @staticmethod
    def mean(x):
        return x.mean((1, 2))


def inference(contender, network, batch, path):
    if not path:
        return None
    forward = jax.jit(onnx_graph.load(path, _Operations))
    x = jax.numpy.asarray(images(network, batch)[0].transpose(0, 2, 3, 1))
    return lambda: forward(x).block_until_ready()
