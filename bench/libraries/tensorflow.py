"""TensorFlow, NHWC: single operations, and networks rebuilt from the ONNX file."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from .. import PREPARED
from . import conv_arrays, images, onnx_graph


def start(threads):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_visible_devices([], "GPU")


class _Filters:
    """A gradient of filters, which has no batch."""

    def __init__(self, value):
        self.value = value


def to_numpy(y):
    if isinstance(y, _Filters):
        return y.value.numpy().transpose(3, 2, 0, 1)
    return y.numpy().transpose(0, 3, 1, 2) if y.ndim == 4 else y.numpy()


def _options(strides, padding):
    """padding: (top, left, bottom, right)."""
    top, left, bottom, right = padding
    return {"strides": [1, *strides, 1], "padding": "EXPLICIT",
            "explicit_paddings": [0, 0, top, bottom, left, right, 0, 0]}


def convolution(contender, layer, direction):
    if layer.groups > 1 or direction == PREPARED:
        return None
    x, weight, grad_output = conv_arrays(layer)
    x, grad_output = (tf.constant(array.transpose(0, 2, 3, 1)) for array in (x, grad_output))
    weight = tf.constant(weight.transpose(2, 3, 1, 0))
    options = _options([layer.stride] * 2, [layer.padding] * 4)
    if direction == "forward":
        return lambda: tf.raw_ops.Conv2D(input=x, filter=weight, **options)
    if direction == "backward_input":
        return lambda: tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=weight, out_backprop=grad_output, **options)
    return lambda: _Filters(tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=tf.shape(weight), out_backprop=grad_output, **options))


class _Operations:
    """The operations of onnx_graph."""

    constant = staticmethod(tf.constant)
    relu = staticmethod(tf.nn.relu)
    matmul = staticmethod(tf.matmul)
    transpose = staticmethod(tf.transpose)
    reshape = staticmethod(tf.reshape)

    @staticmethod
    def conv(x, weight, strides, padding):
        return tf.raw_ops.Conv2D(input=x, filter=weight, **_options(strides, padding))

    @staticmethod
    def max_pool(x, size, strides, padding):
        top, left, bottom, right = padding
        x = tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=x.dtype.min)
        return tf.nn.max_pool2d(x, size, strides, "VALID")

    @staticmethod
    def concat(arrays):
        return tf.concat(arrays, 3)

    @staticmethod
    def mean(x):
        return tf.reduce_mean(x, (1, 2))


def inference(contender, network, batch, path):
    if not path:
        return None
    forward = tf.function(onnx_graph.load(path, _Operations))
    x = tf.constant(images(network, batch)[0].transpose(0, 2, 3, 1))
    return lambda: forward(x)
