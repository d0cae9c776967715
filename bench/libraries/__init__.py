"""The libraries that are compared, a module for each, imported in the process of that library alone.

start(threads)                            -> None
convolution(contender, layer, direction)  -> a callable, or None where the library has no such thing;
                                             direction: of bench.PASSES, or PREPARED
inference(contender, network, batch, path) -> the same; path: the network as an ONNX file, or None
from_file(contender, network, batch, path) -> the same, of the file alone
training(contender, network, batch)       -> the same
export(network, batch, path)              -> None; writes the network in evaluation as an ONNX file
to_numpy(y)                               -> what a callable returns as an array, channels second

All compute in float32. Inputs lie in memory as the contender wants them, from the start of a cache line on,
as arrays that the libraries make do and NumPy's do not; the weights of all networks are those of
`models.create(network, rng=numpy.random.default_rng(0))`.
"""

import numpy as np

from fastconv import models  # not fastconv, which is a module of this package too

LEARNING_RATE, MOMENTUM = 1e-3, 0.9
CACHE_LINE = 64  # bytes


def _aligned(array):
    """A contiguous copy that begins with a cache line."""
    memory = np.empty(array.nbytes + CACHE_LINE, np.uint8)
    first = -memory.ctypes.data % CACHE_LINE
    copy = memory[first:first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def conv_arrays(layer):
    """x, weight and grad_output of a layer, contiguous."""
    rng = np.random.default_rng(0)
    shapes = layer.input_shape, layer.weight_shape, layer.output_shape
    return [_aligned(rng.standard_normal(shape, np.float32)) for shape in shapes]


def images(network, batch):
    """(images, labels) for a network of `fastconv.models`."""
    rng = np.random.default_rng(1)
    return (_aligned(rng.standard_normal((batch, *models.input_shape(network)), np.float32)),
            rng.integers(10, size=batch))


def model(network):
    return models.create(network, rng=np.random.default_rng(0))


def channels_last(array):
    """A copy of an (N, C, H, W) array that lies in memory as N, H, W, C."""
    return _aligned(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def filters_last(weight):
    """A copy of (K, C, R, S) weights that lies in memory as R, S, C, K, as `layers.Conv2d` keeps them."""
    return _aligned(weight.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
