"""conv: conv2d and its two gradients on the layers of `layers.LAYERS`."""

from functools import partial

import numpy as np

from fastconv import functional

from . import naive, peers
from .layers import LAYERS
from .report import Measurement, Table, ratios
from .timing import best_seconds

PASSES = ("forward", "backward_input", "backward_weight")
TORCH = ("torch NHWC", "torch NCHW")
COMPARISONS = {
    "over best torch": ("fastconv NHWC", TORCH),
    "over best peer": ("fastconv NHWC", (*TORCH, "onnxrt")),
    "NCHW over torch NCHW": ("fastconv NCHW", ("torch NCHW",)),
    "over best NumPy": ("fastconv NHWC", ("NumPy im2col", "NumPy taps")),
}


def _filters_last(weight):
    """A copy of (K, C, R, S) weights that lies in memory as R, S, C, K, as `layers.Conv2d` keeps them."""
    return weight.transpose(2, 3, 1, 0).copy().transpose(3, 2, 0, 1)


def arrays(layer):
    """x, weight and grad_output of a layer, contiguous."""
    rng = np.random.default_rng(0)
    shapes = layer.input_shape, layer.weight_shape, layer.output_shape
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def _fastconv(layer, direction, x, weight, grad_output):
    geometry = {"stride": layer.stride, "padding": layer.padding}
    if direction == "forward":
        return partial(functional.conv2d, x, weight, **geometry)
    if direction == "backward_input":
        return partial(functional.conv2d_backward_input, grad_output, weight, layer.input_shape, **geometry)
    return partial(functional.conv2d_backward_weight, grad_output, x, layer.weight_shape, **geometry)


def _naive(layer, direction, form, x, weight, grad_output):
    function = getattr(naive, f"{direction}_{form}")
    arguments = {"forward": (x, weight), "backward_input": (grad_output, weight, layer.input_shape),
                 "backward_weight": (grad_output, x, layer.weight_shape)}[direction]
    return partial(function, *arguments, layer.stride, layer.padding)


def _torch(layer, direction, x, weight, grad_output):
    torch = peers.torch
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    if direction == "forward":
        return partial(torch.nn.functional.conv2d, x, weight, None, stride, padding)
    index = PASSES.index(direction) - 1
    backward = partial(torch.ops.aten.convolution_backward, grad_output, x, weight, None, stride, padding,
                       [1, 1], False, [0, 0], 1, [index == 0, index == 1, False])
    return lambda: backward()[index]


def ours(layer, direction):
    """{name: callable} of fastconv on channels-last and on contiguous arrays."""
    x, weight, grad_output = arrays(layer)
    return {
        "fastconv NHWC": _fastconv(layer, direction, peers.channels_last(x), _filters_last(weight),
                                   peers.channels_last(grad_output)),
        "fastconv NCHW": _fastconv(layer, direction, x, weight, grad_output),
    }


def contenders(layer, direction, threads):
    """{name: callable} of everything installed that computes `direction` of the layer."""
    found = ours(layer, direction)
    operands = arrays(layer)
    if peers.torch:
        for name in TORCH:
            found[name] = _torch(layer, direction, *peers.to_torch(operands, name.split()[1]))
    if peers.onnxruntime and peers.onnx and direction == "forward":
        found["onnxrt"] = peers.onnx_conv(layer, *operands[:2], threads)
    for form in ("im2col", "taps"):
        found[f"NumPy {form}"] = _naive(layer, direction, form, *operands)
    return found


def _rows(layers, direction, budget, threads, peak):
    for layer in layers:
        seconds = best_seconds({**contenders(layer, direction, threads), "peak": peak.call}, budget)
        limit = peak.flops / seconds.pop("peak")
        yield Measurement(layer.name, seconds, ratios(seconds, COMPARISONS), layer.flops, limit,
                          layer.mid_size)


def tables(passes, substring, budget, threads, peak):
    """A table for each of `passes`, over the layers with `substring` in their name."""
    for direction in passes:
        layers = [layer for layer in LAYERS if substring.lower() in layer.name.lower()
                  and (direction == "forward" or layer.backward)]
        if layers:
            yield Table(f"conv2d {direction}", "GFLOP/s",
                        _rows(layers, direction, budget, threads, peak), ours="fastconv NHWC")
