"""Naive NumPy, in its two usual forms."""

from functools import partial

from .. import PREPARED, naive
from . import conv_arrays


def start(threads):
    """The environment has told the matrix product how many."""


def to_numpy(y):
    return y


def convolution(contender, layer, direction):
    if layer.groups > 1 or direction == PREPARED:
        return None
    x, weight, grad_output = conv_arrays(layer)
    function = getattr(naive, f"{direction}_{contender.removeprefix('NumPy ')}")
    arguments = {"forward": (x, weight), "backward_input": (grad_output, weight, layer.input_shape),
                 "backward_weight": (grad_output, x, layer.weight_shape)}[direction]
    return partial(function, *arguments, layer.stride, layer.padding)
