"""torch in both layouts, and compiled by its Inductor (whole networks, channels-last)."""

import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from torch import nn

from .. import PASSES, PREPARED
from . import LEARNING_RATE, MOMENTUM, conv_arrays, images, model

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from torch_networks import NETWORKS


def start(threads):
    torch.set_num_threads(threads)


def to_numpy(y):
    return y.numpy()


def _memory_format(contender):
    return torch.contiguous_format if contender == "torch NCHW" else torch.channels_last


def convolution(contender, layer, direction):
    if contender == "torch compiled":
        return None
    x, weight, grad_output = (torch.from_numpy(array).clone(memory_format=_memory_format(contender))
                              for array in conv_arrays(layer))
    stride, padding = [layer.stride] * 2, [layer.padding] * 2
    if direction == "forward":
        call = partial(nn.functional.conv2d, x, weight, None, stride, padding, 1, layer.groups)
    elif direction == PREPARED:  # what Inductor generates for a frozen model
        ops, geometry = torch.ops.mkldnn, (padding, stride, [1, 1], layer.groups)
        weight = ops._reorder_convolution_weight(weight, *geometry, layer.input_shape)
        call = partial(ops._convolution_pointwise, x, weight, None, *geometry, "none", [], "")
    else:
        index = PASSES.index(direction) - 1
        backward = partial(torch.ops.aten.convolution_backward, grad_output, x, weight, None, stride, padding,
                           [1, 1], False, [0, 0], layer.groups, [index == 0, index == 1, False])

        def call():
            return backward()[index]

    return torch.inference_mode()(call)


class _LeNet5(nn.Sequential):
    def __init__(self, classes):
        super().__init__()
        for name, module in {
            "conv1": nn.Conv2d(1, 6, 5), "relu1": nn.ReLU(), "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(6, 16, 5), "relu2": nn.ReLU(), "pool2": nn.MaxPool2d(2),
            "flatten": nn.Flatten(), "fc1": nn.Linear(400, 120), "relu3": nn.ReLU(),
            "fc2": nn.Linear(120, 84), "relu4": nn.ReLU(), "fc3": nn.Linear(84, classes),
        }.items():
            self.add_module(name, module)


def _network(name):
    ours = model(name)
    state = {key: torch.from_numpy(array) for key, array in ours.state_dict().items()}
    twin = _LeNet5(10) if name == "lenet5" else NETWORKS[name](1000)
    twin.load_state_dict(state)
    return twin, getattr(ours, "aux_weight", 0)


def inference(contender, network, batch, path):
    memory_format = _memory_format(contender)
    net = _network(network)[0].eval().to(memory_format=memory_format)
    x = torch.from_numpy(images(network, batch)[0]).contiguous(memory_format=memory_format)
    if contender == "torch compiled":
        net = torch.compile(net)
        return torch.no_grad()(partial(net, x))
    return torch.inference_mode()(partial(net, x))


def training(contender, network, batch):
    memory_format = _memory_format(contender)
    net, aux_weight = _network(network)
    net = net.train().to(memory_format=memory_format)
    x, labels = images(network, batch)
    x, labels = torch.from_numpy(x).contiguous(memory_format=memory_format), torch.from_numpy(labels)
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE, momentum=MOMENTUM)
    cross_entropy = nn.CrossEntropyLoss()
    if contender == "torch compiled":
        net = torch.compile(net)

    def step():
        scores = net(x)
        scores, *heads = scores if isinstance(scores, tuple) else (scores,)
        loss = cross_entropy(scores, labels) + aux_weight * sum(cross_entropy(head, labels) for head in heads)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def export(network, batch, path):
    """With normalisation folded into the convolutions."""
    net = _network(network)[0].eval()
    with warnings.catch_warnings():
        # The successor of this exporter needs onnxscript and leaves normalisation as nodes of its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(net, (torch.from_numpy(images(network, batch)[0]),), path, dynamo=False,
                          opset_version=17, input_names=["x"], output_names=["y"])
