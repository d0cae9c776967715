"""The networks against torch: names and costs of all, outputs and gradients of one of each kind.

torch computes in float32 too: through tens of layers both round to some 1e-5 of a tensor's largest value;
1e-4 is allowed. Outputs always keep to that, gradients do where nothing jumps: an input of ReLU that rounds
to above 0 here and below 0 there, or two pixels of a window that change places, send a gradient another way.
Deep networks with batch normalisation meet several of those, and there torch in float32 is up to 5 % away
from torch in float64. So they are compared a second time with tanh for ReLU and the mean of a window for its
maximum.
"""

import math

import numpy as np
import pytest
from check import LAYOUTS, in_layout

from fastconv import init, models
from fastconv.layers import AvgPool2d, Dropout, MaxPool2d, ReLU, Tanh

torch = pytest.importorskip("torch")
torch_files = pytest.importorskip("safetensors.torch")
from torch_networks import NETWORKS  # noqa: E402  it needs torch

pytestmark = pytest.mark.usefixtures("torch_on_one_thread")
nn, F = torch.nn, torch.nn.functional

ALLOWED = 1e-4  # of the largest value of a tensor
ALLOWED_JUMPS = 0.05  # of the length of all gradients together


def create(name, **options):
    """The network without its first weights, all of which must come from torch."""
    with init.skipped():
        model = models.create(name, **options)
    for _, layer in model.named_modules():
        if isinstance(layer, Dropout):
            layer.p = 0
    return model


def test_all_networks_have_a_twin():
    large = {name for name in models.available() if not name.startswith("lenet")}
    assert set(NETWORKS) == large


@pytest.mark.parametrize("name", NETWORKS)
def test_names_shapes_and_costs_are_torch_s(name):
    """On torch's device without memory."""
    with torch.device("meta"):
        twin = NETWORKS[name](17).eval()
    model = create(name, num_classes=17).eval()
    assert {path: array.shape for path, array in model.state_dict().items()} == {
        path: tuple(tensor.shape) for path, tensor in twin.state_dict().items()}

    products = []
    for module in twin.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(
                lambda module, _, y: products.append(y.numel() * module.weight[0].numel()))
    shape = (1, *models.input_shape(name))
    twin(torch.empty(shape, device="meta"))
    assert model.multiply_adds(shape) == sum(products)


def randomised(twin):
    """The twin with normalisations that have seen something; small scales keep rounding errors small."""
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.4)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.num_batches_tracked.fill_(7)
    return twin


def pair(name, size, path):
    """(network, twin, two images) with the same weights, by way of a file that torch writes."""
    torch.manual_seed(0)
    twin = randomised(NETWORKS[name](10))
    model = create(name, num_classes=10)
    torch_files.save_file(twin.state_dict(), path)
    assert model.load(path) == ([], [])
    path.unlink()  # half a gigabyte
    # Colours in squares of 32 pixels, and noise: noise alone leaves deep layers nearly the same everywhere.
    rng = np.random.default_rng(0)
    x = np.kron(rng.uniform(-2, 2, (2, 3, -(-size // 32), -(-size // 32))), np.ones((32, 32)))
    x = x[:, :, :size, :size] + rng.uniform(-1, 1, (2, 3, size, size))
    return model, twin, x.astype(np.float32)


def error(actual, expected):
    """The largest difference, relative to the largest value."""
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    return abs(actual - expected).max() / abs(expected).max()


def largest(errors):
    """The name of the largest error, for assertions that show both."""
    return max(zip(errors.values(), errors, strict=True))


def backward(model, twin, x, layout):
    """Forward and backward of one batch: (errors of the outputs, name -> gradients here and there)."""
    there = torch.from_numpy(x).requires_grad_()
    scores, expected = model.train()(in_layout(x, layout)), twin.train()(there)
    assert type(scores) is tuple if isinstance(expected, tuple) else isinstance(scores, np.ndarray)
    if not isinstance(expected, tuple):
        scores, expected = (scores,), (expected,)
    errors = {index: error(*outputs) for index, outputs in enumerate(zip(scores, expected, strict=True))}
    rng = np.random.default_rng(1)
    grads = tuple(rng.standard_normal(y.shape).astype(np.float32) for y in scores)
    torch.autograd.backward(expected, [torch.from_numpy(grad) for grad in grads])
    gradients = {"x": (model.backward(grads if len(grads) > 1 else grads[0]), there.grad)}
    parameters = dict(model.named_parameters())
    gradients |= {name: (parameters[name].grad, there.grad) for name, there in twin.named_parameters()}
    return errors, gradients


def without_jumps(model, monkeypatch):
    """tanh for ReLU and the mean of a window for its maximum, here and in torch."""
    for _, container in model.named_modules():
        for name, layer in container.named_children():
            if isinstance(layer, ReLU):
                setattr(container, name, Tanh())
            elif isinstance(layer, MaxPool2d):
                setattr(container, name, AvgPool2d(layer.kernel_size, layer.stride, layer.padding,
                                                   layer.ceil_mode))
    monkeypatch.setattr(F, "relu", lambda x, inplace=False: torch.tanh(x))
    monkeypatch.setattr(F, "max_pool2d", lambda x, kernel_size, stride=None, padding=0, dilation=1,
                        ceil_mode=False, return_indices=False:
                        F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode))


# name -> height and width of the images: few, but so many that every layer has pixels to work on
# (alexnet_2012 has as many at 227, but there two maxima of a window of pool1 are 6.6e-8 apart: which one gets
# the gradient is a matter of rounding).
PLAIN = {"alexnet": 95, "alexnet_2012": 228, "vgg11": 64}
NORMALISED = {"googlenet": 96, "resnet18": 64, "resnet50": 64, "resnet20": 32, "inception_v3": 299,
              "inception_v4": 139}


@pytest.mark.parametrize("name", PLAIN | NORMALISED)
def test_torch_s_weights_give_torch_s_outputs_and_gradients(name, tmp_path):
    size = (PLAIN | NORMALISED)[name]
    model, twin, x = pair(name, size, tmp_path / "weights.safetensors")
    with torch.no_grad():
        expected = twin.eval()(torch.from_numpy(x))
    assert error(model.eval()(in_layout(x, LAYOUTS[1])), expected) <= ALLOWED

    errors, gradients = backward(model, twin, x, LAYOUTS[1])
    assert largest(errors) <= (ALLOWED,)
    if name in PLAIN:
        assert largest({path: error(*both) for path, both in gradients.items()}) <= (ALLOWED,)
    else:
        squares = [(np.square(here - there.numpy()).sum(), np.square(there.numpy()).sum())
                   for here, there in gradients.values()]
        apart, length = (math.sqrt(sum(column)) for column in zip(*squares, strict=True))
        assert apart <= ALLOWED_JUMPS * length
    state = model.state_dict()
    statistics = {path: error(state[path], buffer) for path, buffer in twin.named_buffers()}
    assert not statistics or largest(statistics) <= (ALLOWED,)


@pytest.mark.parametrize("name", NORMALISED)
def test_gradients_without_jumps_are_torch_s(name, tmp_path, monkeypatch):
    model, twin, x = pair(name, NORMALISED[name], tmp_path / "weights.safetensors")
    without_jumps(model, monkeypatch)
    errors, gradients = backward(model, twin, x, LAYOUTS[0])
    assert largest(errors) <= (ALLOWED,)
    assert largest({path: error(*both) for path, both in gradients.items()}) <= (ALLOWED,)


def test_vgg_with_batch_normalisation(tmp_path):
    model, twin, x = pair("vgg11_bn", 64, tmp_path / "weights.safetensors")
    for training in (False, True):
        with torch.no_grad():
            expected = twin.train(training)(torch.from_numpy(x))
        assert error(model.train(training)(x), expected) <= ALLOWED


def test_a_file_of_another_network_is_refused_by_name(tmp_path):
    path = tmp_path / "resnet34.safetensors"
    torch.manual_seed(0)
    state = NETWORKS["resnet18"](10).state_dict()
    state["layer1.2.conv1.weight"] = torch.zeros(64, 64, 3, 3)
    del state["bn1.running_mean"]
    torch_files.save_file(state, path)
    with pytest.raises(ValueError, match="does not fit Sequential") as caught:
        models.resnet18().load(path)
    for part in (str(path), "missing: bn1.running_mean", "unexpected: layer1.2.conv1.weight",
                 "fc.weight must have shape (1000, 512), got (10, 512)",
                 "fc.bias must have shape (1000,), got (10,)"):
        assert part in str(caught.value)
