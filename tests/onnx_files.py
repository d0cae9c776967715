"""Small ONNX files for tests, and what is to hold of every file that can be read. Needs onnx."""

import numpy as np
import pytest
from check import U, assert_within
from onnx import TensorProto, helper, numpy_helper
from test_plan import rounding

import fastconv.onnx

FLOAT = TensorProto.FLOAT


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), output.split(), name=f"the_{output.split()[0]}", **attributes)


def file_of(folder, nodes, constants=None, shape=("N", 3, 8, 8), opset=17, **options):
    """The path of a file with these nodes from "x" to "y"."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", [helper.make_tensor_value_info("x", FLOAT, shape)],
                              [helper.make_tensor_value_info("y", FLOAT, None)], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def run(path, x):
    """What onnxruntime computes."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def check(path, x, expected=None):
    """The network of a file and its plan give `expected`, by default what onnxruntime gives; returns it."""
    model = fastconv.onnx.load(path)
    expected = run(path, x) if expected is None else expected
    limit = 2 * (rounding(model) + 8 * U) * abs(expected).max()  # both round
    assert not model.training
    assert_within(model(x), expected, limit, "forward")
    assert_within(model.compile(x.shape)(x), expected, limit, "plan")
    return model
