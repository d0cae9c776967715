"""ONNX files that ask for what there is no layer for, and damaged and hostile ones."""

import re

import numpy as np
import pytest
from test_plan import floats

import fastconv.onnx
from fastconv import models

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402  it needs onnx
from onnx_files import file_of, node  # noqa: E402  they need onnx


def test_all_that_is_unsupported_is_listed_at_once(rng, tmp_path):
    own = helper.make_node("Own", ["c"], ["d"], name="third", domain="com.example")
    path = file_of(tmp_path, [
        node("Erf", "x", "a"), node("Relu", "a", "b"), node("Conv", "x w", "c", auto_pad="SAME_UPPER"), own,
        node("Gelu", "d", "e"), node("BatchNormalization", "x s s s s", "f", training_mode=1),
        node("Add", "e f", "y")], {"w": floats(rng, 4, 3, 3, 3), "s": floats(rng, 3)})
    with pytest.raises(ValueError, match=re.escape(
            f"{path}: unsupported: Erf (the_a); com.example.Own (third); Gelu (the_e); "
            "BatchNormalization (the_f): training_mode")):
        fastconv.onnx.load(path)


W = np.zeros((4, 3, 3, 3), np.float32)
REFUSED = {
    "the weight is computed": ([node("Conv", "x x", "y")], {}, "weight is computed, not a constant"),
    "the weight is not there": ([node("Conv", "x", "y")], {}, r"Conv \(the_y\)"),
    "channels do not fit": ([node("Conv", "x w", "y", group=2)], {"w": W}, "group 2 and the weight of shape"),
    "float64": ([node("Conv", "x w", "y")], {"w": W.astype(np.float64)}, "weight is float64, not float32"),
    "3-D": ([node("Conv", "x w", "y")], {"w": W[..., None]}, "of 2-D images"),
    "kernel_shape": ([node("Conv", "x w", "y", kernel_shape=[5, 5])], {"w": W}, "kernel_shape does not fit"),
    "too large": ([node("Conv", "x w", "y")], {"w": np.zeros((4, 3, 9, 9), np.float32)}, "larger"),
    "strides": ([node("Conv", "x w", "y", strides=[1])], {"w": W}, "strides must be 2 ints, got"),
    "auto_pad": ([node("Conv", "x w", "y", auto_pad="ALL")], {"w": W}, "auto_pad must be NOTSET, VALID"),
    "images mixed": ([node("Reshape", "x s", "y")], {"s": np.array([-1, 8])}, "to .* which mixes images"),
    "a shape that does not fit": ([node("Reshape", "x s", "y")], {"s": np.array([0, 5])}, "cannot make the"),
    "two inputs": ([node("Add", "x z", "y")], {}, "'z' is read, but nothing before gives it"),
    "sizes differ": ([node("MaxPool", "x", "p", kernel_shape=[2, 2]), node("Add", "x p", "y")], {},
                     "of arrays of shapes"),
    "several axes": ([node("Add", "x c", "y")], {"c": np.zeros((3, 8, 8), np.float32)}, "of a constant of"),
    "nothing computed": ([node("Identity", "c", "y")], {"c": np.zeros(3, np.float32)}, "'y' is a constant"),
    "the input itself": ([node("Identity", "x", "y")], {}, "its output is its input"),
    "indices": ([node("MaxPool", "x", "m i", kernel_shape=[2, 2]), node("Add", "m i", "y")], {},
                "its output 'i' is used"),
    "a mean over channels": ([node("ReduceMean", "x", "y", axes=[1])], {}, "over the axes .*, not height"),
    "reflection": ([node("Pad", "x p", "y", mode="reflect")], {"p": np.ones(8, np.int64)}, "reflect"),
    "pads of channels": ([node("Pad", "x p", "y")], {"p": np.ones(8, np.int64)}, "other axes than height"),
    "an even LRN": ([node("LRN", "x", "y", size=4)], {}, "of 4 channels, an even number"),
    "a matrix C": ([node("Flatten", "x", "f"), node("Gemm", "f b c", "y")],
                   {"b": np.zeros((192, 4), np.float32), "c": np.zeros((2, 4), np.float32)}, "C of shape"),
    "a billion constants": ([node("ConstantOfShape", "s", "big"), node("Add", "x big", "y")],
                            {"s": np.array([1 << 30])}, "constants are computed"),
    "a billion by repetition": ([node("Concat", "c " * 4000, "big", axis=0), node("Add", "x big", "y")],
                                {"c": np.zeros(1 << 15, np.float32)}, "constants are computed"),
    "a repeated weight": ([node("Conv", f"c{i} w", f"c{i + 1}") for i in range(200)],
                          {"w": np.zeros((1024, 1024, 1, 1), np.float32)}, "group 1|constants are computed"),
}


@pytest.mark.parametrize(("nodes", "constants", "message"), REFUSED.values(), ids=REFUSED)
def test_load_refuses(nodes, constants, message, tmp_path):
    if nodes[0].output[0] == "c1":
        nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    path = file_of(tmp_path, nodes, constants, ("N", 1024, 8, 8) if len(nodes) > 100 else ("N", 3, 8, 8))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*(?:{message})"):
        fastconv.onnx.load(path)


def test_load_needs_one_float_input_of_known_rank_and_one_output(tmp_path):
    path = file_of(tmp_path, [node("Relu", "x", "y")])
    changes = {
        "2 inputs and 1 outputs": lambda graph: graph.input.add(name="z"),
        "1 inputs and 2 outputs": lambda graph: graph.output.add(name="z"),
        "no float tensor":
            lambda graph: setattr(graph.input[0].type.tensor_type, "elem_type", TensorProto.INT64),
        "with a number of axes": lambda graph: graph.input[0].type.tensor_type.ClearField("shape"),
        "has an axis of 1099511627776":
            lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 1 << 40),
    }
    contents = path.read_bytes()
    for message, change in changes.items():
        model = onnx.ModelProto.FromString(contents)
        change(model.graph)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=message):
            fastconv.onnx.load(path)
    path = file_of(tmp_path, [node("Relu", "x", "y")], opset=6)
    with pytest.raises(ValueError, match="operator set 6 is older than 7"):
        fastconv.onnx.load(path)
    with pytest.raises(FileNotFoundError):
        fastconv.onnx.load(tmp_path / "none.onnx")


EXTERNAL = {
    "../weights.bin": "not below the model's folder",
    "/etc/passwd": "not below the model's folder",
    "link.bin": "not below the model's folder",
    "missing.bin": "which is not there",
    "short.bin": "needs 432 bytes; it has 432 from 0 of 'short.bin', which has 431",
}


@pytest.mark.parametrize(("location", "message"), EXTERNAL.items())
def test_external_weights_lie_below_the_model(location, message, rng, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(432))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "short.bin").write_bytes(bytes(431))
    path = file_of(folder, [node("Conv", "x w", "y")], {"w": floats(rng, 4, 3, 3, 3)})
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "432")):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{message}"):
        fastconv.onnx.load(path)


@pytest.mark.parametrize(("change", "message"), [
    (lambda tensor: tensor.dims.__setitem__(0, 1 << 40), r"of shape .* needs \d+ bytes, got 432"),
    (lambda tensor: tensor.dims.__setitem__(0, -4), "has the shape"),
    (lambda tensor: setattr(tensor, "data_type", TensorProto.STRING), "has the type 8"),
    (lambda tensor: tensor.ClearField("raw_data"), "needs 108 numbers, got 0"),
])
def test_weights_of_wrong_sizes(change, message, rng, tmp_path):
    path = file_of(tmp_path, [node("Conv", "x w", "y")], {"w": floats(rng, 4, 3, 3, 3)})
    model = onnx.load(path)
    change(model.graph.initializer[0])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=message):
        fastconv.onnx.load(path)


def test_damaged_files_give_a_clear_error(tmp_path):
    """Truncated, and with bytes changed: a ValueError that names the file, or a network."""
    rng = np.random.default_rng(0)
    fastconv.onnx.save(models.lenet5(rng=rng), tmp_path / "lenet5.onnx", (None, 1, 32, 32))
    fastconv.onnx.save(models.LSTMClassifier(3, 2, 2, rng=rng), tmp_path / "lstm.onnx", (None, 4, 3))
    path, messages = tmp_path / "damaged.onnx", []
    for name in ("lenet5.onnx", "lstm.onnx"):
        contents = (tmp_path / name).read_bytes()
        # Not the weights, whose bytes may be anything: nodes come first in a file, names and shapes last.
        places = [place for place in range(len(contents)) if min(place, len(contents) - place) < 1500]
        for _ in range(300):
            damaged = bytearray(contents)
            for place in rng.choice(places, rng.integers(1, 4)):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged[:rng.integers(len(damaged))] if rng.random() < 0.2 else damaged)
            try:
                fastconv.onnx.load(path)
            except ValueError as error:
                messages.append(str(error))
    assert len(messages) > 200
    assert all(message.startswith(str(path)) for message in messages)
