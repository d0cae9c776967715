"""pytest bench: fastconv's operations under pytest-benchmark; all contenders compute the same."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fastconv import functional, reference

from . import NETWORKS, PASSES, PREPARED, choice, libraries, memory_bound, naive, networks, peers, report
from .layers import ConvLayer, conv_layers
from .libraries.fastconv import convolution
from .naive_lenet import NaiveLeNet
from .workers import LIBRARIES, Team

UNIT = 2.0**-24  # the relative rounding error of a float32 operation
SMALL_LAYERS = (
    ConvLayer(2, 1, 12, 6, 5, padding=2),
    ConvLayer(2, 3, 15, 8, 7, 2, 3),
    ConvLayer(2, 20, 6, 24, 1),
    ConvLayer(2, 16, 9, 8, 3, padding=1, groups=2),
)
SMALL_SHAPE = (3, 8, 14, 14)
LAYERS = conv_layers(["resnet18"], 16)


def name_of(thing):
    return thing.name


def to_numpy(result):
    """The array of a contender's result: an ndarray, a torch tensor or an onnxruntime value."""
    return np.asarray(result.numpy() if hasattr(result, "numpy") else result)


def error_bound(terms, magnitude):
    """Of a float32 sum of `terms` products; `magnitude`: the sum of their absolute values."""
    return (2 * np.sqrt(terms) + 4) * UNIT * magnitude


def specified(layer, direction, x, weight, grad_output):
    geometry = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
    if direction in ("forward", PREPARED):
        return reference.conv2d(x, weight, None, **geometry)
    if direction == "backward_input":
        return reference.conv2d_backward_input(grad_output, weight, layer.input_shape, **geometry)
    return reference.conv2d_backward_weight(grad_output, x, layer.weight_shape, **geometry)


@pytest.fixture(scope="module", params=LIBRARIES)
def team(request):
    """The worker of one library."""
    pytest.importorskip("onnx" if request.param == "onnxruntime" else request.param)
    with Team(2, [request.param]) as team:
        yield team


@pytest.mark.parametrize("direction", [*PASSES, PREPARED])
@pytest.mark.parametrize("layer", SMALL_LAYERS, ids=name_of)
def test_convolutions_agree(team, layer, direction, capsys):
    arrays = libraries.conv_arrays(layer)
    expected = specified(layer, direction, *arrays)
    forward = np.prod(layer.weight_shape[1:])
    terms = {"forward": forward, PREPARED: forward,
             "backward_input": layer.filters // layer.groups * layer.kernel**2,
             "backward_weight": layer.batch * layer.output_size**2}[direction]
    bound = error_bound(terms, specified(layer, direction, *map(np.abs, arrays)))
    for name, y in team.results(team.build("convolution", layer, direction)).items():
        assert y.shape == expected.shape, name
        assert (abs(y - expected) <= bound).all(), name
    assert capsys.readouterr().err == ""  # none failed


def test_networks_agree(capsys):
    """LeNet-5, from our ONNX file for some; through five layers 1e-5 are a few roundings of 2^-24."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    with Team(2) as team:
        with networks.exported(team, "fastconv", "lenet5", 3) as path:
            found = team.build("inference", "lenet5", 3, path)
            scores = team.results(found)
        with networks.exported(team, "torch", "lenet5", 3) as path:
            from_file = team.results(team.build("from_file", "lenet5", 3, path))
        losses = team.results(team.build("training", "lenet5", 3))
    expected = scores["fastconv NHWC"]
    assert set(LIBRARIES["torch"]) <= set(scores)
    assert {*LIBRARIES["fastconv"], *LIBRARIES["onnxruntime"]} <= set(from_file)
    for name, y in (*scores.items(), *from_file.items()):
        assert abs(y - expected).max() <= 1e-5 * abs(expected).max(), name
    for name, loss in losses.items():
        assert abs(loss - losses["fastconv NHWC"]) <= 1e-5 * loss, name
    assert "left out" not in capsys.readouterr().err


def test_a_library_that_fails_is_left_out(capsys):
    with Team(1, ["fastconv"]) as team:
        assert team.build("inference", "no such network", 1, None) == {}
        assert "fastconv is left out of inference of no such network" in capsys.readouterr().err
        assert team.build("convolution", SMALL_LAYERS[0], "forward")  # and the process goes on


def test_layers_are_those_of_the_networks():
    layers = conv_layers(NETWORKS, 16)
    assert len(set(layers)) == len(layers)
    uses = {name: sum(layer.used_by.get(name, 0) for layer in layers) for name in NETWORKS}
    assert uses == {"lenet5": 2, "alexnet": 5, "vgg16": 13, "googlenet": 57, "resnet18": 20, "resnet50": 53}
    assert {layer.batch for layer in layers if "vgg16" in layer.used_by} == {4}


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


def test_command_writes_json_and_markdown(tmp_path):
    output = tmp_path / "conv.json"
    subprocess.run([sys.executable, "-m", "bench", "conv", "--network", "lenet5", "--pass", "forward",
                    "--batch", "2", "--peers", "fastconv,numpy", "--seconds", "0.01",
                    "--output", str(output)], check=True)
    document = json.loads(output.read_text())
    (table,) = document["tables"]
    row = table["rows"][1]
    assert document["machine"]["peak"]
    assert row["name"] == "5x5 6->16 @14 p0 N2"
    assert row["used_by"] == {"lenet5": 1}
    assert set(row["measured"]) == {*LIBRARIES["fastconv"], *LIBRARIES["numpy"]}
    assert min(row["measured"].values()) > 0
    assert row["limit"] > 0
    assert f"| {row['name']} |" in output.with_suffix(".md").read_text()
    pytest.importorskip("matplotlib")
    assert (tmp_path / "conv-conv2d-forward-roofline.png").read_bytes().startswith(b"\x89PNG")


def test_the_choice_is_counted(capsys):
    layers = [ConvLayer(1, 64, 28, 64, 3, padding=1), ConvLayer(1, 64, 28, 64, 1)]
    tables = [report.show(table) for table in choice.tables(layers, PASSES, 0.01, 1)]
    assert [table["title"] for table in tables] == [f"conv2d {name} by algorithm" for name in PASSES]
    for table in tables:
        (row,) = table["rows"]  # 1x1 has but one algorithm
        direct, winograd = row["measured"]["direct"], row["measured"]["winograd"]
        (label, ratio), = row["ratios"].items()
        assert winograd < direct  # by more than twice
        assert ratio == 1
        assert table["goal"] == {"ratio": 0.95, "reached": {label: 1}}
    assert "auto over fastest: at least 0.95 in 1 of 1 rows" in capsys.readouterr().out


@pytest.mark.parametrize("name", LIBRARIES["fastconv"])
@pytest.mark.parametrize("direction", PASSES)
@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
def test_conv2d(benchmark, layer, direction, name):
    benchmark(convolution(name, layer, direction))


@pytest.mark.parametrize("layout", memory_bound.LAYOUTS)
@pytest.mark.parametrize("operation", memory_bound.OPERATIONS, ids=name_of)
def test_memory_bound(benchmark, operation, layout):
    benchmark(operation.fastconv, memory_bound.Data.numpy(memory_bound.SHAPE, layout))


def test_call_overhead(benchmark):
    x = np.ones((1, 1, 8, 8), np.float32)
    benchmark(functional.relu, x, out=np.empty_like(x))
