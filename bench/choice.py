"""choice: conv2d and its gradients by each algorithm, and whether "auto" takes the fastest."""

import fastconv

from .libraries.fastconv import convolution
from .report import Measurement, Table
from .timing import best_seconds

CLOSE = 0.95  # of the speed of the fastest: goal for 95 % of the layers


def _rows(layers, direction, budget):
    for layer in layers:
        taken, costs = _choice(layer, direction)
        if len(costs) > 1:
            calls = {name: convolution("fastconv NHWC", layer, direction, name) for name in costs}
            for call in calls.values():
                call()  # the first call takes its memory
            seconds = best_seconds(calls, budget)
            ratios = {"auto over fastest": min(seconds.values()) / seconds[taken]}
            yield Measurement(layer.name, seconds, ratios, layer.flops, used_by=layer.used_by)


def _choice(layer, direction):
    """(the algorithm taken, {algorithm that can: cost})"""
    choices = fastconv.explain(layer.input_shape, layer.weight_shape, layer.stride, layer.padding,
                               groups=layer.groups)
    return next((choice.algorithm, choice.costs) for choice in choices if choice.name == direction)


def tables(layers, passes, budget, threads):
    """A table for each of `passes`, of the layers that more than one algorithm can compute."""
    with fastconv.num_threads(threads):
        for direction in passes:
            yield Table(f"conv2d {direction} by algorithm", "GFLOP/s", _rows(layers, direction, budget),
                        goal=CLOSE)
