"""OpenVINO: models of a single convolution, and networks as ONNX files; outputs are kept."""

import openvino
from openvino import opset13

from .. import PREPARED
from . import conv_arrays, images

_core = openvino.Core()
_config = {}


def start(threads):
    # Without the hint it computes in bfloat16 where the processor can.
    _config.update(INFERENCE_NUM_THREADS=threads, INFERENCE_PRECISION_HINT="f32", NUM_STREAMS=1,
                   PERFORMANCE_HINT="LATENCY")


def to_numpy(y):
    return y.data.copy()


def _request(model, x):
    compiled = _core.compile_model(model, "CPU", _config)
    request = compiled.create_infer_request()
    given = openvino.Tensor(x, shared_memory=True)
    request.set_input_tensor(given)

    def call(alive=(compiled, given, x)):  # the request keeps neither the model nor the array
        request.infer()
        return request.get_output_tensor()

    return call


def convolution(contender, layer, direction):
    """The weights are constants."""
    if direction not in ("forward", PREPARED) or layer.groups > 1:
        return None
    x, weight, _ = conv_arrays(layer)
    given = opset13.parameter(layer.input_shape, openvino.Type.f32)
    y = opset13.convolution(given, opset13.constant(weight), [layer.stride] * 2, [layer.padding] * 2,
                            [layer.padding] * 2, [1, 1])
    return _request(openvino.Model([y], [given], "conv"), x)


def inference(contender, network, batch, path):
    return path and _request(_core.read_model(path), images(network, batch)[0])


from_file = inference
