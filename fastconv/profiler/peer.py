"""Convolutions by another library, in a process of its own: ``python -m fastconv.profiler.peer torch``.

Reads from standard input what compare.peers asks, writes {"version", "seconds"}, null for what the library
cannot do. torch takes arrays in their layout. onnxruntime takes NCHW alone, has no gradients, and has its
weights as constants, which it prepares.
"""

import importlib.util
import json
import sys

from ..extras import require
from .compare import arrays, best_of
from .operations import Convolution


def main(library):
    """Answers one question; returns the exit code."""
    question = json.load(sys.stdin)
    if importlib.util.find_spec(library) is None:
        print(json.dumps({"version": "not installed", "seconds": []}))
        return 0
    call_of = {"torch": torch_call, "onnxruntime": onnxruntime_call}[library]
    seconds = []
    for *fields, layout in question["problems"]:
        call = call_of(problem_of(fields), layout, question["threads"])
        seconds.append(best_of({"": call}, question["seconds"])[""] if call else None)
    print(json.dumps({"version": sys.modules[library].__version__ if seconds else "", "seconds": seconds}))
    return 0


def problem_of(fields):
    """A Convolution from its fields as JSON has them."""
    direction, x_shape, weight_shape, stride, padding, dilation, groups = fields
    return Convolution(direction, tuple(x_shape), tuple(weight_shape), tuple(stride),
                       tuple(map(tuple, padding)), tuple(dilation), groups)


def torch_call(problem, layout, threads):
    """The problem as a callable, or None where torch's padding cannot say it."""
    torch = require("torch", "torch")
    torch.set_num_threads(threads)
    if any(before != after for before, after in problem.padding):
        return None
    padding = [before for before, _ in problem.padding]
    order = torch.contiguous_format if layout == "NCHW" else torch.channels_last
    x, weight, grad = (torch.from_numpy(array).clone(memory_format=order)
                       for array in arrays(problem, layout))
    stride, dilation = list(problem.stride), list(problem.dilation)
    if problem.direction == "forward":
        @torch.inference_mode()
        def forward():
            return torch.conv2d(x, weight, None, stride, padding, dilation, problem.groups)
        return forward
    index = ("backward_input", "backward_weight").index(problem.direction)

    @torch.inference_mode()
    def backward():
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, dilation, False, [0, 0], problem.groups,
            [index == 0, index == 1, False])[index]
    return backward


def onnxruntime_call(problem, layout, threads):
    """The problem as a callable on an NCHW array, or None for gradients and where onnx is missing."""
    onnxruntime = require("onnxruntime", "onnx")
    if problem.direction != "forward" or importlib.util.find_spec("onnx") is None:
        return None
    onnx = require("onnx", "onnx")
    x, weight, _ = arrays(problem, "NCHW")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    (top, bottom), (left, right) = problem.padding
    node = helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=problem.weight_shape[2:],
                            strides=problem.stride, dilations=problem.dilation, group=problem.groups,
                            pads=[top, left, bottom, right])
    graph = helper.make_graph([node], "conv",
                              [helper.make_tensor_value_info("x", float32, problem.x_shape)],
                              [helper.make_tensor_value_info("y", float32, problem.output_shape)],
                              [onnx.numpy_helper.from_array(weight.copy(), "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    feeds = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(x)}
    return lambda: session.run_with_ort_values(["y"], feeds)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
