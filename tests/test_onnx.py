"""ONNX files: what fastconv writes and onnxruntime reads, and what others write."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from check import assert_same_bits, assert_within
from test_plan import SIZES, floats, network, rounding, with_statistics

import fastconv.onnx
from fastconv import layers, models
from fastconv.layers import BatchNorm2d, Conv2d, Linear, Sequential

onnx = pytest.importorskip("onnx")
from onnx import helper  # noqa: E402  it needs onnx
from onnx_files import FLOAT, check, file_of, node, run  # noqa: E402  they need onnx

# ---- what we write ------------------------------------------------------------------------------------

# All but networks that differ from another in depth. Average pooling of AlexNet and VGG before the classifier
# needs the size they were made for.
FAMILIES = [name for name in models.available() if not name.startswith(("vgg", "resnet"))]
ROUND_TRIPS = {name: SIZES[name] for name in (*FAMILIES, "resnet18", "resnet50", "resnet20")}
ROUND_TRIPS |= {"alexnet": 224, "vgg11_bn": 224}
# Networks with layers that a file says by other ones: the names of their weights change.
OTHER_NAMES = {"lenet1", "lenet4", "lenet5_1998", "resnet20"}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_every_network_is_written_and_read(name, rng, tmp_path):
    model = network(name, rng)
    if "vgg" in name:  # without 100 million weights
        model.classifier = Sequential(Linear(512 * 7 * 7, 16), layers.ReLU(), Linear(16, 10)).eval()
    shape = (2, models.input_shape(name)[0], ROUND_TRIPS[name], ROUND_TRIPS[name])
    x, path = floats(rng, *shape), tmp_path / "model.onnx"
    fastconv.onnx.save(model, path, (None, *shape[1:]))
    onnx.checker.check_model(str(path), full_check=True)
    expected = model(x)
    assert_within(run(path, x), expected, 2 * rounding(model) * abs(expected).max(), "onnxruntime")
    loaded = check(path, x, expected)
    if name not in OTHER_NAMES:
        written = {key: array for key, array in loaded.state_dict().items() if "num_batches" not in key}
        ours = model.state_dict()
        assert set(written) == {key for key in ours if "num_batches" not in key and "aux" not in key.lower()}
        for key, array in written.items():
            assert_same_bits(array, ours[key], key)


@pytest.mark.parametrize("name", ["resnet50", "googlenet"])
def test_what_is_read_compiles_as_our_own_does(name, rng, tmp_path):
    model = network(name, rng)
    fastconv.onnx.save(model, tmp_path / "model.onnx", (1, 3, 64, 64))
    loaded = fastconv.onnx.load(tmp_path / "model.onnx")
    ours, theirs = (one.compile((2, 3, 64, 64)) for one in (loaded, model))
    assert [function for function, _ in ours._steps] == [function for function, _ in theirs._steps]
    assert ours.memory_bytes <= theirs.memory_bytes


@pytest.mark.parametrize(("layers_below", "bidirectional"), [(1, False), (1, True), (3, True)])
def test_a_classifier_of_sequences(layers_below, bidirectional, rng, tmp_path):
    model = models.LSTMClassifier(5, 7, 3, layers_below, bidirectional, rng=rng).eval()
    x, path = floats(rng, 4, 6, 5), tmp_path / "model.onnx"
    fastconv.onnx.save(model, path, (None, 6, 5))
    expected = model(x)
    loaded = check(path, x)
    assert_within(loaded(x), expected, rounding(model) * abs(expected).max(), "forward")
    fastconv.onnx.save(loaded, path, (None, 6, 5))
    check(path, x)


def test_a_multilayer_perceptron_and_a_graph_that_was_read(rng, tmp_path):
    path = tmp_path / "model.onnx"
    fastconv.onnx.save(models.mlp((12, 5, 3), "tanh", rng=rng), path, (None, 3, 4))
    loaded = check(path, floats(rng, 4, 3, 4))
    fastconv.onnx.save(loaded, path, (2, 3, 4))
    check(path, floats(rng, 2, 3, 4))


def test_the_example_runs(tmp_path):
    example = Path(__file__).parents[1] / "examples" / "onnx" / "classify.py"
    done = subprocess.run([sys.executable, example, tmp_path / "lenet5.onnx"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    share = int(re.match(r"fastconv: (\d+)% of 64 digits, \d+ us\n", done.stdout)[1])
    assert share > 90


def test_layers_that_come_from_files_are_written(rng, tmp_path):
    model = with_statistics(layers.Graph({
        "nhwc": (layers.Permute((0, 3, 1, 2)), "x"),
        "pad": (layers.ConstantPad2d(((0, 1), (1, 2)), 0.5), "nhwc"),
        "conv": (Conv2d(3, 4, 3, padding=((1, 0), (2, 1)), dilation=2, rng=rng), "pad"),
        "clip": (layers.Hardtanh(0, 6), "conv"), "square": (layers.Square(), "clip"),
        "norm": (BatchNorm2d(4, affine=False), "square"), "sum": (layers.Add(), "norm", "clip", "square"),
        "join": (layers.Join(), "sum", "conv"), "soft": (layers.Softmax(1), "join"),
        "pool": (layers.AvgPool2d(2, 1, 1, count_include_pad=False), "soft"),
        "max": (layers.MaxPool2d(3, 2, 1, ceil_mode=True), "pool"), "rows": (layers.Flatten(), "max"),
        "steps": (layers.Unflatten((8, 18)), "rows"), "last": (layers.Select(-1), "steps"),
        "fc": (Linear(18, 5, bias=False, rng=rng), "last"), "log": (layers.LogSoftmax(), "fc")}), rng)
    x, path = floats(rng, 2, 6, 7, 3), tmp_path / "model.onnx"
    fastconv.onnx.save(model, path, (None, 6, 7, 3))
    check(path, x, model(x))
    check(path, x)


@pytest.mark.parametrize(("model", "shape", "error", "message"), [
    (Sequential(layers.LSTM(3, 4)), (1, 2, 3), ValueError, "no ONNX operators for layer '0', LSTM"),
    (Sequential(BatchNorm2d(3, track_running_stats=False)), (2, 3, 4, 4), ValueError, "no running averages"),
    (layers.LocalResponseNorm(4), (1, 8, 2, 2), ValueError, "has an even size, 4"),
    (layers.AdaptiveAvgPool2d(3), (1, 2, 5, 6), ValueError, r"makes \(3, 3\) of \(5, 6\) pixels"),
    (Conv2d(3, 4, 3), (None, 2, 8, 8), ValueError, "channels"),
    (Conv2d(3, 4, 3), (None, 3, None, 8), TypeError, "input_shape must be a shape, got"),
    (Conv2d(3, 4, 3), (0, 3, 8, 8), ValueError, "input_shape must be positive ints"),
    (Conv2d(3, 4, 3), 3, TypeError, "input_shape must be a shape, got 3"),
])
def test_save_refuses(model, shape, error, message, tmp_path):
    with pytest.raises(error, match=message):
        fastconv.onnx.save(model, tmp_path / "model.onnx", shape)
    assert not list(tmp_path.iterdir())


def test_a_layer_of_one_s_own_is_refused(tmp_path):
    class Own(Sequential):
        def forward(self, x):
            return 2 * x

    with pytest.raises(ValueError, match="no ONNX operators for layer '', Own"):
        fastconv.onnx.save(Own(), tmp_path / "model.onnx", (1, 3))


def test_the_identity_is_written(tmp_path):
    fastconv.onnx.save(layers.Dropout(), tmp_path / "model.onnx", (2, 3))
    x = np.ones((2, 3), np.float32)
    assert_same_bits(run(tmp_path / "model.onnx", x), x, "y")


# ---- what others write --------------------------------------------------------------------------------


def images_of(rng, count, shape=(3, 8, 8)):
    return floats(rng, count, *shape)


def weights(rng, *shape):
    return floats(rng, *shape) / np.float32(np.sqrt(np.prod(shape[1:])))


def test_channels_last_models(rng, tmp_path):
    """As converters write TensorFlow's: images N x H x W x C, transposes, SAME padding, MatMul + Add."""
    constants = {
        "mean": np.float32([0.5, 0.4, 0.3]), "scale": np.float32(0.25), "w1": weights(rng, 8, 3, 3, 3),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w2": weights(rng, 8, 1, 3, 3), "b2": floats(rng, 8),
        "by_channel": floats(rng, 1, 8, 1, 1), "six": np.float32(6), "zero": np.float32(0),
        "shape": np.array([-1, 8 * 4 * 4]), "dense": weights(rng, 128, 5), "bias": floats(rng, 5)}
    path = file_of(tmp_path, [
        node("Sub", "x mean", "centred"), node("Mul", "centred scale", "scaled"),
        node("Transpose", "scaled", "nchw", perm=[0, 3, 1, 2]),
        node("Conv", "nchw w1", "c1", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Clip", "c1 zero six", "r1"), node("Pad", "r1 pads", "padded"),
        node("Conv", "padded w2 b2", "c2", group=8, strides=[1, 1]), node("Add", "c2 by_channel", "a2"),
        node("MaxPool", "a2", "p", kernel_shape=[2, 2], strides=[1, 1], auto_pad="SAME_UPPER"),
        node("Transpose", "p", "nhwc", perm=[0, 2, 3, 1]), node("Reshape", "nhwc shape", "rows"),
        node("MatMul", "rows dense", "product"), node("Add", "product bias", "scores"),
        node("Softmax", "scores", "y", axis=-1)], constants, ("N", 8, 8, 3))
    x = images_of(rng, 5, (8, 8, 3))
    model = check(path, x)
    # The border, the constants behind c2 and the bias are in the layers with weights.
    kinds = [type(layer).__name__ for layer, *_ in model.nodes.values()]
    assert kinds == ["Permute", "BatchNorm2d", "Conv2d", "Hardtanh", "Conv2d", "ConstantPad2d", "MaxPool2d",
                     "Permute", "Flatten", "Linear", "Softmax"]


@pytest.mark.parametrize("keepdims", [0, 1])
def test_the_mean_of_channels_last_images(keepdims, rng, tmp_path):
    """The first scale is one number, of images whose height the file leaves open."""
    constants = {"scale": np.float32(1 / 127.5), "one": np.float32(1), "axes": np.array([1, 2])}
    path = file_of(tmp_path, [
        node("Mul", "x scale", "s"), node("Sub", "s one", "c"),
        node("Transpose", "c", "t", perm=[0, 3, 1, 2]), node("Relu", "t", "r"),
        node("Transpose", "r", "back", perm=[0, 2, 3, 1]),
        node("ReduceMean", "back axes", "y", keepdims=keepdims)], constants, ("N", "H", "W", 3), opset=18)
    check(path, images_of(rng, 2, (7, 5, 3)))


def test_normalisation_in_the_graph_is_one_layer(rng, tmp_path):
    constants = {"mean": floats(rng, 1, 3, 1, 1), "std": np.float32([[[0.5]], [[0.25]], [[2]]]),
                 "w": weights(rng, 4, 3, 3, 3)}
    path = file_of(tmp_path, [node("Sub", "x mean", "a"), node("Div", "a std", "b"),
                              node("Conv", "b w", "y", pads=[1, 1, 1, 1])], constants)
    assert [type(layer) for layer in check(path, images_of(rng, 2))] == [BatchNorm2d, Conv2d]


def test_constants_behind_a_convolution_go_into_its_weight(rng, tmp_path):
    constants = {"w": weights(rng, 4, 3, 1, 1), "s": floats(rng, 4, 1, 1), "b": np.float32(2)}
    path = file_of(tmp_path, [node("Conv", "x w", "c"), node("Mul", "s c", "m"), node("Sub", "b m", "d"),
                              node("Div", "d b", "y")], constants)
    assert [type(layer) for layer in check(path, images_of(rng, 2))] == [Conv2d]
    # Not along another axis, nor where something else reads the convolution.
    along = {**constants, "s": floats(rng, 8)}
    path = file_of(tmp_path, [node("Conv", "x w", "c"), node("Mul", "c s", "y")], along)
    assert BatchNorm2d in [type(layer) for layer in check(path, images_of(rng, 2))]
    several = [node("Conv", "x w", "c"), node("Mul", "s c", "m"), node("Add", "m c", "y")]
    path = file_of(tmp_path, several, constants)
    assert [type(layer) for layer in check(path, images_of(rng, 2))] == [Conv2d, BatchNorm2d, layers.Add]
    several[1:2] = [node("Identity", "c", "same"), node("Mul", "same s", "m")]
    path = file_of(tmp_path, several, constants)
    check(path, images_of(rng, 2))


def test_shapes_that_are_computed(rng, tmp_path):
    """x.view(x.size(0), -1) with an open number of images, as exporters write it."""
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1]),
                 "w": weights(rng, 5, 192)}
    path = file_of(tmp_path, [
        node("Shape", "x", "shape"), node("Gather", "shape zero", "count"),
        node("Unsqueeze", "count axes", "counts"), node("Concat", "counts rest", "target", axis=0),
        node("Reshape", "x target", "rows"), node("Gemm", "rows w", "y", transB=1)], constants)
    model = check(path, images_of(rng, 3))
    assert model(images_of(rng, 7)).shape == (7, 5)


def test_batch_norm_of_rows(rng, tmp_path):
    constants = {"w": weights(rng, 8, 192), "scale": floats(rng, 8), "bias": floats(rng, 8),
                 "mean": floats(rng, 8), "var": rng.uniform(0.5, 2, 8).astype(np.float32),
                 "w2": weights(rng, 8, 8)}
    path = file_of(tmp_path, [
        node("Flatten", "x", "f"), node("Gemm", "f w", "g", transB=1), node("Relu", "g", "r"),
        node("BatchNormalization", "r scale bias mean var", "n"), node("MatMul", "n w2", "m"),
        node("BatchNormalization", "m scale bias mean var", "y")], constants)
    model = check(path, images_of(rng, 4))
    assert sum(isinstance(layer, BatchNorm2d) for layer in model) == 1  # the other is in the weight


@pytest.mark.parametrize("form", ["raw", "numbers", "external"])
def test_where_weights_lie(form, rng, tmp_path):
    weight = weights(rng, 4, 3, 3, 3)
    path = file_of(tmp_path, [node("Conv", "x w", "y")], {"w": weight})
    model = onnx.load(path)
    if form == "numbers":
        tensor = helper.make_tensor("w", FLOAT, weight.shape, weight.ravel().tolist())
        model.graph.initializer[0].CopyFrom(tensor)
    onnx.save(model, path, save_as_external_data=form == "external", size_threshold=0, location="weights.bin")
    loaded = check(path, images_of(rng, 2))
    assert_same_bits(loaded[0].weight.data, weight, "weight")


def test_functions_are_inlined(rng, tmp_path):
    twice = helper.make_function("own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
                                 [helper.make_opsetid("", 17)])
    path = file_of(tmp_path, [helper.make_node("Twice", ["x"], ["y"], domain="own")], functions=[twice])
    model = onnx.load(path)
    model.opset_import.add(domain="own", version=1)
    path.write_bytes(model.SerializeToString())
    x = images_of(rng, 2)
    assert_same_bits(check(path, x)(x), x + x, "y")
