"""pytest bench: fastconv's operations under pytest-benchmark; the contenders compute the same."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fastconv import functional, reference

from . import convolution, memory_bound, naive, peers
from .layers import LAYERS, ConvLayer
from .naive_lenet import NaiveLeNet

UNIT = 2.0**-24  # the relative rounding error of a float32 operation
SMALL_LAYERS = (
    ConvLayer("5x5", 2, 1, 12, 6, 5, padding=2),
    ConvLayer("7x7/2", 2, 3, 15, 8, 7, 2, 3),
    ConvLayer("1x1", 2, 20, 6, 24, 1),
)
SMALL_SHAPE = (3, 8, 14, 14)
BACKWARD_LAYERS = [layer for layer in LAYERS if layer.backward]


def name_of(thing):
    return thing.name


def to_numpy(result):
    """The array of a contender's result: an ndarray, a torch tensor or an onnxruntime value."""
    return np.asarray(result.numpy() if hasattr(result, "numpy") else result)


def error_bound(terms, magnitude):
    """Of a float32 sum of `terms` products; `magnitude`: the sum of their absolute values."""
    return (2 * np.sqrt(terms) + 4) * UNIT * magnitude


def specified(layer, direction, x, weight, grad_output):
    geometry = layer.stride, layer.padding
    if direction == "forward":
        return reference.conv2d(x, weight, None, *geometry)
    if direction == "backward_input":
        return reference.conv2d_backward_input(grad_output, weight, layer.input_shape, *geometry)
    return reference.conv2d_backward_weight(grad_output, x, layer.weight_shape, *geometry)


@pytest.mark.parametrize("direction", convolution.PASSES)
@pytest.mark.parametrize("layer", SMALL_LAYERS, ids=name_of)
def test_convolutions_agree(layer, direction):
    arrays = convolution.arrays(layer)
    expected = specified(layer, direction, *arrays)
    terms = {"forward": np.prod(layer.weight_shape[1:]),
             "backward_input": layer.filters * layer.kernel**2,
             "backward_weight": layer.batch * layer.output_size**2}[direction]
    bound = error_bound(terms, specified(layer, direction, *map(np.abs, arrays)))
    with peers.settings(2):
        for name, call in convolution.contenders(layer, direction, threads=2).items():
            assert (abs(to_numpy(call()) - expected) <= bound).all(), name


@pytest.mark.parametrize("operation", memory_bound.OPERATIONS, ids=name_of)
def test_memory_bound_operations_agree(operation):
    expected, bound = specified_memory_bound(operation)
    with peers.settings(2):
        for name, call in memory_bound.contenders(operation, SMALL_SHAPE).items():
            assert (abs(to_numpy(call()) - expected) <= bound).all(), name


def specified_memory_bound(operation):
    """(result in float64, largest error): none for maxima; sums over a channel are rounded as any sum."""
    given = memory_bound.Data.numpy(SMALL_SHAPE, "NCHW")
    if operation.suite != "norm":
        return operation.numpy(given), 0
    data = memory_bound.Data(*(np.float64(array) for array in vars(given).values()))
    weight, bias, mean, invstd = (array[:, None, None]
                                  for array in (data.weight, data.bias, data.mean, data.invstd))
    if operation.name == "batch_norm training forward":
        y = naive.batch_norm(data.x, data.weight, data.bias, memory_bound.EPS)[0]
        # The mean's error, and the standard deviation's, which is relative to y - bias.
        mean_magnitude = abs(data.x).mean((0, 2, 3))[:, None, None]
        magnitude = abs(weight) * invstd * (abs(data.x) + mean_magnitude) + abs(bias) + abs(y - bias)
    else:
        y = naive.batch_norm_backward(data.grad_output, data.x, data.mean, data.invstd, data.weight)[0]
        normalised = (abs(data.x) + abs(mean)) * invstd
        grad = abs(data.grad_output)
        means = [array.mean((0, 2, 3))[:, None, None] for array in (grad, grad * normalised)]
        magnitude = abs(weight) * invstd * (grad + means[0] + normalised * means[1])
    return y, error_bound(data.x.size // data.x.shape[1], magnitude)


def test_naive_lenet_descends():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((16, 1, 32, 32), np.float32)
    labels = rng.integers(10, size=16)
    network = NaiveLeNet(rng)
    first = network.step(images, labels, 0.05, 0.9)
    for _ in range(20):
        last = network.step(images, labels, 0.05, 0.9)
    assert last < first


def test_command_writes_json(tmp_path):
    output = tmp_path / "conv.json"
    subprocess.run([sys.executable, "-m", "bench", "conv", "--layers", "LeNet-5 c3", "--pass", "forward",
                    "--seconds", "0.01", "--output", str(output)], check=True)
    document = json.loads(output.read_text())
    (table,) = document["tables"]
    (row,) = table["rows"]
    assert document["machine"]["peak"]
    assert row["name"] == "LeNet-5 c3 5x5 6->16 @14"
    assert min(row["seconds"].values()) > 0
    assert row["limit"] > 0


@pytest.mark.parametrize("name", ["fastconv NHWC", "fastconv NCHW"])
@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
def test_conv2d(benchmark, layer, name):
    benchmark(convolution.ours(layer, "forward")[name])


@pytest.mark.parametrize("name", ["fastconv NHWC", "fastconv NCHW"])
@pytest.mark.parametrize("layer", BACKWARD_LAYERS, ids=name_of)
def test_conv2d_backward_input(benchmark, layer, name):
    benchmark(convolution.ours(layer, "backward_input")[name])


@pytest.mark.parametrize("name", ["fastconv NHWC", "fastconv NCHW"])
@pytest.mark.parametrize("layer", BACKWARD_LAYERS, ids=name_of)
def test_conv2d_backward_weight(benchmark, layer, name):
    benchmark(convolution.ours(layer, "backward_weight")[name])


@pytest.mark.parametrize("layout", memory_bound.LAYOUTS)
@pytest.mark.parametrize("operation", memory_bound.OPERATIONS, ids=name_of)
def test_memory_bound(benchmark, operation, layout):
    benchmark(operation.fastconv, memory_bound.Data.numpy(memory_bound.SHAPE, layout))


def test_call_overhead(benchmark):
    x = np.ones((1, 1, 8, 8), np.float32)
    benchmark(functional.relu, x, out=np.empty_like(x))
