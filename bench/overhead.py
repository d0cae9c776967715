"""overhead: what a call costs when there is nothing to compute."""

from itertools import repeat

import numpy as np

from fastconv import functional

from . import peers
from .report import Measurement, Table, ratios
from .timing import best_seconds

REPEATS = 1000  # calls timed together: a clock reading costs as much as a tenth of a call
COMPARISONS = {"over torch": ("fastconv, out=", ("torch",))}


def _contenders():
    """{operation: {name: callable}}; torch's conv2d has no out=, so torch allocates."""
    x = np.ones((1, 1, 8, 8), np.float32)
    weight = np.ones((1, 1, 1, 1), np.float32)
    y = np.empty_like(x)
    relu = {"fastconv, out=": lambda: functional.relu(x, out=y),
            "fastconv": lambda: functional.relu(x),
            "NumPy": lambda: np.maximum(x, 0, out=y)}
    conv2d = {"fastconv, out=": lambda: functional.conv2d(x, weight, out=y),
              "fastconv": lambda: functional.conv2d(x, weight),
              "NumPy": lambda: np.multiply(x, weight, out=y)}
    if peers.torch:
        x_torch, weight_torch = peers.to_torch([x, weight], "NCHW")
        relu["torch"] = lambda: peers.torch.relu(x_torch)
        conv2d["torch"] = lambda: peers.torch.nn.functional.conv2d(x_torch, weight_torch)
    return {"relu 1x1x8x8": relu, "conv2d 1x1x8x8, one 1x1 filter": conv2d}


def _repeated(call):
    def calls():
        for _ in repeat(None, REPEATS):
            call()

    return calls


def _rows(budget):
    for name, calls in _contenders().items():
        seconds = best_seconds({contender: _repeated(call) for contender, call in calls.items()}, budget)
        seconds = {contender: total / REPEATS for contender, total in seconds.items()}
        yield Measurement(name, seconds, ratios(seconds, COMPARISONS))


def tables(budget):
    yield Table("time of a call", "us", _rows(budget))
