"""pool, norm, activation: operations limited by memory, on the array behind ResNet-50's first layer.

Rates count the least traffic: every array that goes in is read once, every one that comes out written once.
Outputs are allocated by the call.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from fastconv import functional

from . import naive, peers
from .libraries import channels_last
from .report import Measurement, Table, ratios
from .timing import best_seconds

SHAPE = (16, 64, 112, 112)
LAYOUTS = ("NHWC", "NCHW")
TORCH = tuple(f"torch {layout}" for layout in LAYOUTS)
COMPARISONS = {
    **{f"{layout} over best torch": (f"fastconv {layout}", TORCH) for layout in LAYOUTS},
    **{f"{layout} over torch {layout}": (f"fastconv {layout}", (f"torch {layout}",)) for layout in LAYOUTS},
    "over NumPy": ("fastconv NHWC", ("NumPy",)),
}
EPS = 1e-5


@dataclass
class Data:
    """What the operations take: 4-D arrays in one layout, per-channel ones, and the statistics of x."""

    x: object
    grad_output: object
    weight: object
    bias: object
    mean: object
    invstd: object
    running_mean: object
    running_var: object

    @classmethod
    def numpy(cls, shape, layout):
        rng = np.random.default_rng(0)
        x, grad_output = (rng.standard_normal(shape, np.float32) for _ in range(2))
        weight, bias = (rng.standard_normal(shape[1], np.float32) for _ in range(2))
        mean = x.mean((0, 2, 3))
        invstd = 1 / np.sqrt(x.var((0, 2, 3)) + np.float32(EPS))
        if layout == "NHWC":
            x, grad_output = channels_last(x), channels_last(grad_output)
        return cls(x, grad_output, weight, bias, mean, invstd, mean.copy(), invstd**-2)

    @classmethod
    def torch(cls, shape, layout):
        arrays = vars(cls.numpy(shape, "NCHW"))
        images = dict(zip(("x", "grad_output"),
                          peers.to_torch([arrays["x"], arrays["grad_output"]], layout), strict=True))
        return cls(**{name: peers.torch.from_numpy(array) for name, array in arrays.items()} | images)


@dataclass
class Operation:
    """An operation for every contender, each a function of a Data, and its arrays in and out."""

    suite: str
    name: str
    fastconv: callable
    torch: callable
    numpy: callable
    traffic: float = 2  # in arrays of SHAPE


def _max_pool(kernel, stride, padding, outputs):
    """`outputs`: elements out per element in."""
    return Operation(
        "pool", f"max_pool2d {kernel}x{kernel} stride {stride} padding {padding}",
        lambda d: functional.max_pool2d(d.x, kernel, stride, padding),
        lambda d: peers.torch.nn.functional.max_pool2d(d.x, kernel, stride, padding),
        lambda d: naive.max_pool2d(d.x, kernel, stride, padding)[0], 1 + outputs)


OPERATIONS = (
    _max_pool(3, 2, 1, outputs=1 / 4),
    _max_pool(2, 2, 0, outputs=1 / 4),
    Operation(
        "activation", "relu",
        lambda d: functional.relu(d.x),
        lambda d: peers.torch.relu(d.x),
        lambda d: np.maximum(d.x, 0)),
    Operation(
        "norm", "batch_norm training forward",
        lambda d: functional.batch_norm(d.x, d.running_mean, d.running_var, d.weight, d.bias,
                                        training=True, eps=EPS),
        lambda d: peers.torch.nn.functional.batch_norm(d.x, d.running_mean, d.running_var, d.weight, d.bias,
                                                       training=True, eps=EPS),
        lambda d: naive.batch_norm(d.x, d.weight, d.bias, EPS)[0]),
    Operation(
        "norm", "batch_norm training backward",
        lambda d: functional.batch_norm_backward(d.grad_output, d.x, d.mean, d.invstd, d.weight)[0],
        lambda d: peers.torch.ops.aten.native_batch_norm_backward(
            d.grad_output, d.x, d.weight, None, None, d.mean, d.invstd, True, EPS, [True, True, True])[0],
        lambda d: naive.batch_norm_backward(d.grad_output, d.x, d.mean, d.invstd, d.weight)[0],
        traffic=3),
)


def contenders(operation, shape=SHAPE):
    """{name: callable} of everything installed that computes the operation."""
    found = {f"fastconv {layout}": partial(operation.fastconv, Data.numpy(shape, layout))
             for layout in LAYOUTS}
    if peers.torch:
        for layout in LAYOUTS:
            found[f"torch {layout}"] = partial(operation.torch, Data.torch(shape, layout))
    found["NumPy"] = partial(operation.numpy, Data.numpy(shape, "NCHW"))
    return found


def _rows(operations, budget, peak):
    array = np.ones(SHAPE, np.float32)
    copy, copied = peak.copy(array)
    for operation in operations:
        seconds = best_seconds({**contenders(operation), "copy": copy}, budget)
        limit = copied / seconds.pop("copy")
        yield Measurement(operation.name, seconds, ratios(seconds, COMPARISONS),
                          operation.traffic * array.nbytes, limit)


def tables(suite, budget, peak):
    """The table of one suite: "pool", "norm" or "activation"."""
    operations = [operation for operation in OPERATIONS if operation.suite == suite]
    yield Table(f"{suite}, {'x'.join(map(str, SHAPE))}", "GB/s", _rows(operations, budget, peak),
                ours="fastconv NHWC")
