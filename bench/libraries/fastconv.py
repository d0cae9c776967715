"""fastconv on channels-last and on contiguous arrays."""

from functools import partial

import fastconv
import fastconv.onnx
from fastconv import functional

from .. import PREPARED
from . import LEARNING_RATE, MOMENTUM, channels_last, conv_arrays, filters_last, images, model


def start(threads):
    fastconv.set_num_threads(threads)


def to_numpy(y):
    return y


def convolution(contender, layer, direction, algorithm="auto"):
    x, weight, grad_output = conv_arrays(layer)
    if contender == "fastconv NHWC":
        x, weight, grad_output = channels_last(x), filters_last(weight), channels_last(grad_output)
    geometry = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
    options = {**geometry, "algorithm": algorithm}
    if direction == PREPARED:
        module = fastconv.layers.Conv2d(layer.channels, layer.filters, layer.kernel, bias=False, **geometry)
        module.weight.data[...] = weight
        return partial(module.compile(x.shape), x)
    if direction == "forward":
        return partial(functional.conv2d, x, weight, **options)
    if direction == "backward_input":
        return partial(functional.conv2d_backward_input, grad_output, weight, layer.input_shape, **options)
    return partial(functional.conv2d_backward_weight, grad_output, x, layer.weight_shape, **options)


def _in_layout(contender, x):
    return channels_last(x) if contender == "fastconv NHWC" else x


def inference(contender, network, batch, path):
    x = _in_layout(contender, images(network, batch)[0])
    return partial(model(network).eval().compile(x.shape), x)


def from_file(contender, network, batch, path):
    if not path:
        return None
    x = _in_layout(contender, images(network, batch)[0])
    return partial(fastconv.onnx.load(path).compile(x.shape), x)


def export(network, batch, path):
    """With normalisation folded into the convolutions."""
    fastconv.onnx.save(model(network).eval().fuse(), path, images(network, batch)[0].shape)


def training(contender, network, batch):
    x, labels = images(network, batch)
    x = _in_layout(contender, x)
    net = model(network).train()
    net.needs_input_grad = False  # the images: torch computes no gradient for them either
    loss = fastconv.losses.CrossEntropyLoss()
    if hasattr(net, "aux_weight"):
        loss = fastconv.losses.AuxiliaryLoss(loss, net.aux_weight)
    optimizer = fastconv.optim.SGD(net.parameters(), LEARNING_RATE, momentum=MOMENTUM)

    def step():
        value = loss(net(x), labels)
        optimizer.zero_grad()
        net.backward(loss.backward())
        optimizer.step()
        return value

    return step
