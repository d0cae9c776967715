"""How fast the convolutions of a network are on this machine: the ``fastconv bench`` command.

    for row in measure("resnet50", batch=1): ...

The comparison with other libraries is `python -m bench`, in the repository.
"""

import time
from collections import Counter
from functools import partial
from typing import NamedTuple

import numpy as np

from . import functional, init, models
from .layers import Conv2d

PASSES = ("forward", "backward_input", "backward_weight")


class Row(NamedTuple):
    """A convolution that a network has `count` times; seconds: of the fastest call of each pass."""

    name: str
    count: int
    flops: int
    seconds: dict


def measure(network, batch=1, passes=PASSES, budget=0.1):
    """Gives a Row for each distinct convolution of the network, when it is ready, on channels-last arrays.

    network: a name of models.available(). budget: seconds of calls for each pass, after a first call that is
    not counted. flops: additions and multiplications of one pass. Raises ValueError for an unknown name.
    """
    with init.skipped():
        model = models.create(network).eval()
    counts, layers = Counter(), {}
    for _, layer, shape in model.trace((batch, *models.input_shape(network))):
        if isinstance(layer, Conv2d):
            key = shape, layer.weight.shape, layer.stride, layer.padding, layer.dilation, layer.groups
            counts[key] += 1
            layers[key] = layer
    for key, layer in layers.items():
        calls = _calls(layer, key[0])
        seconds = {name: _best_seconds(calls[name], budget) for name in passes}
        yield Row(_name(layer, key[0]), counts[key], 2 * layer.multiply_adds(key[0]), seconds)


def _name(layer, shape):
    rows, cols = layer.kernel_size
    stride = "" if layer.stride == 1 else f"/{layer.stride}"
    groups = "" if layer.groups == 1 else f" in {layer.groups} groups"
    return f"{rows}x{cols}{stride} {layer.in_channels}->{layer.out_channels} @{shape[2]}x{shape[3]}{groups}"


def _calls(layer, shape):
    """{pass: callable}, on random arrays."""
    rng = np.random.default_rng(0)
    x, grad_output = (_channels_last(rng, shape) for shape in (shape, layer.output_shape(shape)))
    weight = np.empty_like(layer.weight.data)  # keeps the order in memory
    weight[...] = rng.standard_normal(weight.shape, np.float32)
    options = layer.stride, layer.padding, layer.dilation, layer.groups
    return {
        "forward": partial(functional.conv2d, x, weight, None, *options),
        "backward_input": partial(functional.conv2d_backward_input, grad_output, weight, shape, *options),
        "backward_weight": partial(functional.conv2d_backward_weight, grad_output, x, weight.shape, *options),
    }


def _channels_last(rng, shape):
    n, c, h, w = shape
    return rng.standard_normal((n, h, w, c), np.float32).transpose(0, 3, 1, 2)


def _best_seconds(call, budget):
    call()  # memory and threads are there from the second call on
    best, total = float("inf"), 0.0
    while total == 0 or total < budget:
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        best, total = min(best, seconds), total + seconds
    return best  # other programs only add to it
