"""ONNX files as torch writes them, by both of its exporters: outputs are torch's and onnxruntime's."""

import warnings

import numpy as np
import pytest
from check import assert_within
from test_plan import floats, rounding

from fastconv.layers import BatchNorm2d, Conv2d, Linear

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from onnx_files import check  # noqa: E402  it needs onnx
from torch_networks import NETWORKS  # noqa: E402  it needs torch

nn = torch.nn


class Net(nn.Module):
    """A function of its modules and x."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.compute = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.compute(self, x)


def vgg_like():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
        nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(8, 12, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(12 * 16, 20), nn.ReLU(), nn.Dropout(),
        nn.Linear(20, 5), nn.LogSoftmax(1))


def normalising():
    """The input's mean and deviation in the network, a border by functional.pad, view for Flatten."""
    def forward(net, x):
        x = (x / 255 - net.mean) / net.std
        x = nn.functional.relu6(net.conv(nn.functional.pad(x, (0, 1, 2, 1))))
        return net.fc(net.pool(x).view(x.size(0), -1))

    net = Net(forward, conv=nn.Conv2d(3, 8, 3, stride=2), pool=nn.MaxPool2d(3, 2, ceil_mode=True),
              fc=nn.Linear(8 * 8 * 8, 5))
    net.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
    net.register_buffer("std", torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1))
    return net


def mobile():
    """Depthwise convolutions, ReLU6, a shortcut, the mean over pixels."""
    def block(inputs, outputs, stride):
        return nn.Sequential(
            nn.Conv2d(inputs, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.Conv2d(16, 16, 3, stride, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
            nn.Conv2d(16, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(net, x):
        x = net.first(x)
        x = x + net.second(x)
        return torch.sigmoid(net.fc(x.mean([2, 3])))

    return Net(forward, first=block(3, 8, 2), second=block(8, 8, 1), fc=nn.Linear(8, 5))


def dense():
    """DenseNet's blocks: normalisation first, every output joined to all before."""
    def forward(net, x):
        x = net.stem(x)
        for layer in net.layers:
            x = torch.cat([x, layer(x)], 1)
        return net.fc(torch.flatten(net.pool(torch.relu(net.norm(x))), 1))

    layers = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(6 + 4 * index), nn.ReLU(), nn.Conv2d(
        6 + 4 * index, 4, 3, padding=1, bias=False)) for index in range(3))
    return Net(forward, stem=nn.Conv2d(3, 6, 3, 2, 1), layers=layers, norm=nn.BatchNorm2d(18),
               pool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(18, 5))


SMALL = {"vgg-like": vgg_like, "normalising": normalising, "mobile": mobile, "dense": dense,
         "resnet18": lambda: NETWORKS["resnet18"](10), "googlenet": lambda: NETWORKS["googlenet"](10)}


def prepared(net):
    """In evaluation, with running averages that say something."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.25)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


def export(net, x, path, opset):
    """opset 18 and later: by the exporter of today, else by that of TorchScript; any number of images."""
    options = {"dynamo": False, "dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]}
    if opset >= 18:
        pytest.importorskip("onnxscript")
        options = {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("n")},), "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.from_numpy(x),), str(path), opset_version=opset, **options)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 23])
@pytest.mark.parametrize("name", SMALL)
def test_networks_that_torch_wrote(name, opset, rng, tmp_path):
    net, path = prepared(SMALL[name]()), tmp_path / "model.onnx"
    export(net, floats(rng, 2, 3, 32, 32), path, opset)
    x = floats(rng, 3, 3, 32, 32)
    model = check(path, x)
    with torch.inference_mode():
        expected = net(torch.from_numpy(x)).numpy()
    assert_within(model(x), expected, 2 * rounding(model) * abs(expected).max(), "torch")
    if name == "resnet18":  # all is folded and fused: 20 convolutions, 2 poolings, the classifier
        assert len(model.compile(x.shape)._steps) == 23
    if name == "resnet18" and opset >= 18:  # with the names of the network
        assert model.state_dict()["layer1.0.conv1.weight"].shape == (64, 64, 3, 3)


@pytest.mark.parametrize("opset", [11, 17, 18])
@pytest.mark.parametrize("name", ["last step", "last state", "both directions"])
def test_classifiers_of_sequences_that_torch_wrote(name, opset, rng, tmp_path):
    directions = 2 if name == "both directions" else 1

    def forward(net, x):
        output, (h, _) = net.lstm(x)
        if name == "last step":
            return net.fc(output[:, -1])
        return net.fc(h[-1] if name == "last state" else torch.cat([h[-2], h[-1]], 1))

    net = Net(forward, lstm=nn.LSTM(5, 7, 2, batch_first=True, bidirectional=directions == 2),
              fc=nn.Linear(7 * directions, 3)).eval()
    path, x = tmp_path / "model.onnx", floats(rng, 2, 6, 5)
    export(net, x, path, opset)
    check(path, floats(rng, 4, 6, 5))


def test_normalisation_stays_where_torch_leaves_it(rng, tmp_path):
    """In files of training networks batch normalisations are nodes; compile folds them."""
    net, path = prepared(NETWORKS["resnet18"](10)), tmp_path / "model.onnx"
    x = floats(rng, 2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.from_numpy(x),), str(path), opset_version=17, dynamo=False,
                          training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
    model = check(path, x)
    kinds = [type(layer) for layer in model]
    assert kinds.count(BatchNorm2d) == kinds.count(Conv2d) == 20
    assert kinds.count(Linear) == 1
    assert len(model.compile(x.shape)._steps) == 23
    assert np.array_equal(model.state_dict()["conv1.weight"], net.conv1.weight.detach().numpy())
