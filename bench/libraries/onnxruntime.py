"""onnxruntime: models of a single Conv node, and networks as ONNX files."""

import onnx
import onnxruntime

from .. import PREPARED
from . import conv_arrays, images

_threads = 1


def start(threads):
    global _threads
    _threads = threads


def to_numpy(y):
    return y.numpy()


def _session(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads
    # Threads that spin after a call would take the processor from the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(x)}
    return lambda: session.run_with_ort_values(["y"], feeds)[0]


def convolution(contender, layer, direction):
    """The weights are constants."""
    if direction not in ("forward", PREPARED):
        return None
    x, weight, _ = conv_arrays(layer)
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[layer.kernel] * 2,
                            strides=[layer.stride] * 2, pads=[layer.padding] * 4, group=layer.groups)
    graph = helper.make_graph([node], "conv",
                              [helper.make_tensor_value_info("x", float32, layer.input_shape)],
                              [helper.make_tensor_value_info("y", float32, layer.output_shape)],
                              [onnx.numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return _session(model.SerializeToString(), x)


def inference(contender, network, batch, path):
    return path and _session(path, images(network, batch)[0])


from_file = inference
