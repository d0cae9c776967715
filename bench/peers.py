"""The libraries that fastconv is compared with, each only where it is installed."""

import importlib
from contextlib import ExitStack, contextmanager

import fastconv


def _installed(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


torch = _installed("torch")
onnx = _installed("onnx")
onnxruntime = _installed("onnxruntime")


@contextmanager
def settings(threads):
    """Gives every library `threads` threads, and has torch record nothing for gradients.

    NumPy's matrix products take theirs from the environment, which `python -m bench` sets.
    """
    with ExitStack() as stack:
        stack.enter_context(fastconv.num_threads(threads))
        if torch:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
            stack.enter_context(torch.inference_mode())
        yield


def versions():
    libraries = {"torch": torch, "onnxruntime": onnxruntime}
    return {name: module.__version__ for name, module in libraries.items() if module}


def channels_last(array):
    """A copy of an (N, C, H, W) array that lies in memory as N, H, W, C."""
    return array.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)


def to_torch(arrays, layout):
    """torch tensors of (N, C, H, W) arrays, in the memory format of `layout`: "NCHW" or "NHWC"."""
    memory_format = torch.channels_last if layout == "NHWC" else torch.contiguous_format
    return [torch.from_numpy(array).clone(memory_format=memory_format) for array in arrays]


def onnx_conv(layer, x, weight, threads):
    """A callable that runs the convolution as an ONNX model of a single node; the weights are constants."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[layer.kernel] * 2,
                            strides=[layer.stride] * 2, pads=[layer.padding] * 4)
    graph = helper.make_graph([node], "conv",
                              [helper.make_tensor_value_info("x", float32, layer.input_shape)],
                              [helper.make_tensor_value_info("y", float32, layer.output_shape)],
                              [onnx.numpy_helper.from_array(weight, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin after a call would take the processor from the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    feeds = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(x)}
    return lambda: session.run_with_ort_values(["y"], feeds)[0]
