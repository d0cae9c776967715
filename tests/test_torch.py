"""fastconv.torch: ops have the bits and gradients of fastconv.functional, models their meaning."""

import copy
import math
import random
import shutil
import sys

import numpy as np
import pytest
from check import U

import fastconv
from fastconv import functional as F

torch = pytest.importorskip("torch")
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn.utils import prune  # noqa: E402
from torch_networks import NETWORKS  # noqa: E402

import fastconv.torch as ft  # noqa: E402  it needs torch
from fastconv.torch import fuse, modules, ops  # noqa: E402

nn = torch.nn
FORMATS = (torch.contiguous_format, torch.channels_last)
each_format = pytest.mark.parametrize("memory_format", FORMATS, ids=("NCHW", "NHWC"))


@pytest.fixture(autouse=True)
def threads():
    before, of_torch = fastconv.get_num_threads(), torch.get_num_threads()
    yield
    fastconv.set_num_threads(before)
    torch.set_num_threads(of_torch)


def images(*shape, memory_format=torch.channels_last, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).contiguous(memory_format=memory_format)
    return x.requires_grad_(grad)


def vector(size, seed=0, grad=True):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


# ---- ops --------------------------------------------------------------------------------------------

def calls(memory_format):
    """(op, arguments) of every op that has a gradient."""
    x = images(2, 6, 9, 8, memory_format=memory_format)
    y = images(2, 6, 9, 8, memory_format=memory_format, seed=1)
    last = memory_format is torch.channels_last
    w = images(4, 3, 3, 3, seed=2)
    yield ops._conv2d, (x, w, vector(4), None, [2, 1], [1, 0, 2, 1], [1, 2], 2, False, last)
    yield ops._conv2d, (x, images(6, 6, 3, 3, seed=2), None, y, [1, 1], [1, 1], [1, 1], 1, True, last)
    yield ops._conv2d, (x, images(5, 6, 1, 1, seed=2), None, None, [1, 1], [0, 0], [1, 1], 1, False, not last)
    yield ops._linear, (vector((3, 5)), vector((4, 5), 1), vector(4, 2))
    yield ops._max_pool2d, (x, [3, 2], [2, 2], [1, 0], [1, 1], True, True)
    yield ops._max_pool2d, (x.detach(), [2, 2], [2, 2], [0, 0], [1, 1], False, False)
    yield ops._avg_pool2d, (x, [3, 3], [2, 2], [1, 1], [5, 4], False, False)
    yield ops._avg_pool2d, (x, [1, 1], [1, 1], [0, 0], [2, 3], True, True)
    yield ops._relu, (x,)
    yield ops._add_relu, (x, y)
    mean, var = vector(6, 3, grad=False), vector(6, 4, grad=False).square()
    for residual, relu in ((None, False), (y, True), (y, False)):
        yield ops._batch_norm_train, (x, vector(6, 1), vector(6, 2), mean, var, residual, 0.1, 1e-5, relu)
        yield ops._batch_norm_eval, (x, vector(6, 1), None, mean, var, residual, 1e-5, relu)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not:UserWarning")  # opcheck's own
@each_format
@pytest.mark.parametrize("index", range(len(list(calls(FORMATS[0])))))
def test_ops_keep_the_contract_of_torch(index, memory_format):
    """Schema, fake kernels with their strides, autograd, tracing."""
    op, arguments = list(calls(memory_format))[index]
    torch.library.opcheck(op, arguments)


def dyadic(*shape, seed):
    """Multiples of 1/4 below 2: sums of some hundred products of two of them are exact in float32."""
    values = torch.randint(-7, 8, shape, generator=torch.Generator().manual_seed(seed)) / 4
    return values.requires_grad_()


def distinct(*shape):
    """Values at least 1/2 apart, none within 1/4 of 0: a step of 1/8 changes no order and no sign."""
    order = torch.randperm(math.prod(shape), generator=torch.Generator().manual_seed(0))
    return (order.reshape(shape) / 2 - math.prod(shape) // 4 + 0.25).requires_grad_()


EXACT = {
    "conv2d": (lambda x, w, b: ft.conv2d(x, w, b, (2, 1), 1, 1, 2),
               lambda: (dyadic(2, 4, 4, 3, seed=0), dyadic(2, 2, 3, 3, seed=1), dyadic(2, seed=2))),
    "conv2d residual": (lambda x, w, r: ft.conv2d(x, w, padding=(0, 1), dilation=2, residual=r),
                        lambda: (dyadic(1, 2, 5, 4, seed=0), dyadic(3, 2, 2, 2, seed=1),
                                 dyadic(1, 3, 3, 4, seed=2))),
    "linear": (ft.linear, lambda: (dyadic(3, 5, seed=0), dyadic(2, 5, seed=1), dyadic(2, seed=2))),
    "max_pool2d": (lambda x: ft.max_pool2d(x, 3, 2, 1), lambda: (distinct(1, 2, 5, 4),)),
    "avg_pool2d": (lambda x: ft.avg_pool2d(x, 2), lambda: (dyadic(1, 2, 4, 4, seed=0),)),
    "adaptive_avg_pool2d": (lambda x: ft.adaptive_avg_pool2d(x, 2), lambda: (dyadic(1, 2, 4, 4, seed=0),)),
    "relu": (ft.relu, lambda: (distinct(2, 3, 4),)),
    "add_relu": (lambda x: ft.add_relu(x, x), lambda: (distinct(2, 3, 4),)),
}


@pytest.mark.filterwarnings("ignore:Input #:UserWarning")
@pytest.mark.parametrize("name", EXACT)
def test_gradcheck(name):
    """Piecewise linear functions of multiples of 1/4, steps of 1/8: every difference quotient is exact."""
    function, inputs = EXACT[name]
    assert torch.autograd.gradcheck(function, inputs(), eps=0.125, atol=0, rtol=0)


@each_format
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("with_residual", "activation"), [(False, None), (True, "relu"), (True, None)])
def test_batch_norm_has_the_gradients_of_torch_in_float64(training, with_residual, activation, memory_format):
    x = images(4, 3, 5, 6, memory_format=memory_format)
    residual = images(4, 3, 5, 6, seed=1) if with_residual else None
    inputs = [x, vector(3, 2), vector(3, 3), *([residual] if with_residual else [])]
    running = torch.randn(3), torch.rand(3) + 0.5
    there = [tensor.detach().double().requires_grad_() for tensor in inputs]
    running_there = [average.double() for average in running]
    y = ft.batch_norm(x, *running, inputs[1], inputs[2], training, 0.3, residual=residual,
                      activation=activation)
    expected = nn.functional.batch_norm(there[0], *running_there, there[1], there[2], training, 0.3)
    expected = expected + there[3] if with_residual else expected
    expected = expected.relu() if activation else expected
    grad = torch.randn(y.shape)
    y.backward(grad)
    expected.backward(grad.double())
    assert y.is_contiguous(memory_format=memory_format)
    # Sums of n values of at most `most`, multiplied with two factors of at most `most`.
    bound = (2 * math.sqrt(120) + 4) * U * 120 ** 0.5
    pairs = [(y, expected), *zip(running, running_there, strict=True),
             *((here.grad, other.grad) for here, other in zip(inputs, there, strict=True))]
    for actual, wanted in pairs:
        assert (actual - wanted).abs().max() <= bound * max(1, wanted.abs().max())


@each_format
def test_results_have_the_bits_of_functional_and_their_strides(memory_format):
    x, w, b = images(3, 5, 12, 11, memory_format=memory_format), images(7, 5, 3, 3, seed=1), vector(7)
    y = ft.conv2d(x, w, b, padding=1)
    grad = images(*y.shape, memory_format=memory_format, grad=False, seed=2)
    y.backward(grad)
    images_, weight, bias, dy = [tensor.detach().numpy() for tensor in (x, w, b, grad)]
    for actual, expected in ((y.detach(), F.conv2d(images_, weight, bias, padding=1)),
                             (x.grad, F.conv2d_backward_input(dy, weight, x.shape, padding=1)),
                             (w.grad, F.conv2d_backward_weight(dy, images_, w.shape, padding=1))):
        np.testing.assert_array_equal(actual.numpy(), expected)
    assert y.is_contiguous(memory_format=memory_format)
    assert x.grad.stride() == x.stride()
    assert w.grad.stride() == w.stride()


def test_tensors_are_read_in_place_and_results_lie_in_the_pool():
    x = images(8, 32, 32, 32, grad=False)
    before = fastconv.memory_stats()["used_bytes"]
    y = ft.relu(x)
    assert fastconv.memory_stats()["used_bytes"] >= before + 4 * y.numel()
    assert ops._array(x).ctypes.data == x.data_ptr()
    del y
    assert fastconv.memory_stats()["used_bytes"] == before


def test_other_tensors_are_refused_by_name():
    x, w = images(1, 2, 4, 4), images(2, 2, 3, 3)
    with pytest.raises(TypeError, match=r"weight must be a dense float32 tensor on the CPU, got torch\.f"):
        ft.conv2d(x, w.double())
    with pytest.raises(TypeError, match=r"x must be .* got torch.bfloat16"):
        ft.relu(x.bfloat16())
    with pytest.raises(TypeError, match=r"x must be .* on meta"):
        ft.max_pool2d(x.to("meta"), 2)
    with pytest.raises(TypeError, match=r"residual must be .* got ndarray"):
        ft.batch_norm(x, None, None, training=True, residual=np.zeros(3))
    with pytest.raises(ValueError, match="groups"):
        ft.conv2d(x, w, groups=3)


def test_second_derivatives_are_refused():
    x, w = images(1, 2, 6, 6), images(3, 2, 3, 3, seed=1)
    (grad,) = torch.autograd.grad(ft.conv2d(x, w).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    x, w = images(1, 2, 6, 6), images(3, 2, 3, 3, seed=1)
    expected = ft.max_pool2d(ft.conv2d(x, w), 2).detach()
    with mode():
        y = ft.max_pool2d(ft.conv2d(x, w), 2)
    assert not y.requires_grad
    assert torch.equal(y, expected)


class Watching(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(function.name())
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_ops_are_seen_by_those_who_watch():
    model, x = ft.accelerate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval(), images(1, 3, 8, 8)
    y = model(x)
    assert ops.is_unwatched(x, model[0].weight)
    with Watching() as mode:
        agree(model(x), y)
    assert {"fastconv::conv2d", "fastconv::batch_norm_eval"} <= mode.seen
    with torch.profiler.profile() as profile:
        model(x)
    assert "fastconv::conv2d" in {event.name for event in profile.events()}
    agree(make_fx(model)(x)(x + 1), model(x + 1))
    moved = y + model[1].weight.view(-1, 1, 1) / math.sqrt(1 + 1e-5)
    agree(torch.func.functional_call(model, {"0.bias": model[0].bias + 1}, x), moved)


# ---- models -----------------------------------------------------------------------------------------

def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12, momentum=None), nn.ReLU(),
        nn.AvgPool2d(2), nn.Conv2d(12, 12, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(12, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 4))


class Block(nn.Module):
    """As torchvision writes it."""

    def __init__(self, channels, downsample=None):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample
        self.plain = False

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        if not self.plain:
            out += identity
        return self.relu(out)


def agree(actual, expected, tolerance=1e-5):
    """Relative to the largest value: a few layers round by some 1e-6 of it in float32, here and there."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * max(1, expected.abs().max())


def same_training(model, x, steps=3, tolerance=1e-4):
    """Losses and state of an accelerated copy and of torch's stay together over some steps of SGD."""
    twins = [ft.accelerate(copy.deepcopy(model)), model]
    optimizers = [torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9) for twin in twins]
    for step in range(steps):
        losses = []
        for twin, optimizer in zip(twins, optimizers, strict=True):
            torch.manual_seed(step)
            loss = twin(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        agree(*losses, tolerance)
    for (name, here), there in zip(twins[0].state_dict().items(), model.state_dict().values(), strict=True):
        assert here.dtype == there.dtype, name
        agree(here.double(), there.double(), tolerance)


@each_format
def test_training_goes_as_in_torch(memory_format):
    same_training(cnn(), images(8, 3, 20, 20, memory_format=memory_format, grad=False))


def test_training_of_residual_networks_goes_as_in_torch():
    torch.manual_seed(0)
    shortcut = nn.Sequential(nn.Conv2d(16, 16, 1))
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), Block(16), Block(16, shortcut))
    same_training(model, images(4, 3, 16, 16, grad=False))


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "googlenet", "vgg11"])
def test_networks_in_evaluation_give_torch_s_scores(name):
    torch.manual_seed(0)
    model = NETWORKS[name](10).eval()
    x = images(2, 3, 32 if name == "resnet20" else 64, 64 if name != "resnet20" else 32, grad=False)
    with torch.no_grad():
        expected = model(x)
        agree(ft.accelerate(model)(x), expected, 1e-4)


def test_accelerate_changes_classes_alone():
    model = cnn()
    parameters, buffers = list(model.parameters()), list(model.buffers())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    children = list(model.modules())
    assert ft.accelerate(model) is model
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(a is b for a, b in zip(model.buffers(), buffers, strict=True))
    assert all(a is b for a, b in zip(model.modules(), children, strict=True))
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert isinstance(model[0], nn.Conv2d)
    assert type(model[0]) is modules.Conv2d
    assert ft.accelerate(model) is model, "twice is once"
    model.load_state_dict(cnn().state_dict())


def test_restore_gives_torch_s_bits_back():
    model, x = cnn().eval(), images(2, 3, 20, 20, grad=False)
    classes = [type(module) for module in model.modules()]
    attributes = [set(vars(module)) for module in model.modules()]
    expected = model(x)
    ft.accelerate(model)(x)
    ft.restore(model)
    assert [type(module) for module in model.modules()] == classes
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert torch.equal(model(x), expected)


def rebuilt(model):
    """As a file or another process would build it."""
    create, arguments, state = model.__reduce_ex__(4)
    assert getattr(sys.modules[create.__module__], create.__qualname__) is create
    twin = create(*arguments)
    twin.__setstate__(copy.deepcopy(state))
    return twin


@pytest.mark.parametrize("duplicate", [copy.deepcopy, rebuilt])
def test_copies_are_accelerated_too(duplicate):
    model = ft.accelerate(nn.Sequential(nn.Conv2d(3, 4, 1), Block(4))).eval()
    x = images(1, 3, 8, 8, grad=False)
    expected = model(x)
    twin = duplicate(model)
    assert [type(module) for module in twin.modules()] == [type(module) for module in model.modules()]
    assert torch.equal(twin(x), expected)
    with torch.no_grad():
        model[1].conv1.weight.zero_()
    assert torch.equal(twin(x), expected), "the copy has weights of its own"


def test_chains_are_fused_and_hooks_see_what_torch_shows_them():
    model = ft.accelerate(nn.Sequential(nn.Conv2d(3, 4, 1), Block(4))).eval()
    x = images(1, 3, 8, 8, grad=False)
    assert fuse.program(model[1]) is not None
    expected, seen = model(x), []
    handle = model[1].bn1.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    assert torch.equal(model(x), expected)
    assert seen[0].min() < 0, "before the ReLU"
    handle.remove()
    seen.clear()
    model[1].relu.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    model(x)
    assert len(seen) == 2
    assert min(output.min() for output in seen) >= 0


def test_programs_follow_what_they_depend_on():
    model = ft.accelerate(nn.Sequential(nn.Conv2d(3, 4, 1), Block(4))).eval()
    x = images(1, 3, 8, 8, grad=False)
    block = model[1]
    for change in (lambda: setattr(block, "plain", True), lambda: setattr(block, "bn2", nn.Identity()),
                   lambda: setattr(block, "downsample", nn.Conv2d(4, 4, 1)), lambda: block.train()):
        model(x)
        change()
        expected = ft.restore(copy.deepcopy(model))(x)
        agree(model(x), expected)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "vgg11_bn"])
def test_evaluation_folds_norms_and_follows_the_weights(name):
    torch.manual_seed(0)
    model = NETWORKS[name](10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    twin, x = ft.accelerate(copy.deepcopy(model)), images(2, 3, 64, 64, grad=False)
    convolution = next(module for module in twin.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        agree(twin(x), model(x), 1e-4)
        assert torch.equal(twin(x), twin(x))
        kept = modules._KEPT[convolution]
        agree(twin(x[:1]), model(x[:1]), 1e-4)
        assert modules._KEPT[convolution] is kept
        for parameter in (*model.parameters(), *model.buffers()):
            if parameter.is_floating_point():
                parameter.mul_(0.9)
        twin.load_state_dict(model.state_dict())
        agree(twin(x), model(x), 1e-4)
    twin(x).sum().backward()
    assert convolution.weight.grad is not None
    assert convolution not in modules._KEPT
    with torch.inference_mode():
        twin(x)
    assert convolution in modules._KEPT
    ft.restore(twin)
    assert not any(module in modules._KEPT for module in twin.modules())


def of_data(tensor):
    return tensor.data.copy_(tensor.data * 2)


CHANGES = {
    "in place": lambda conv, norm: conv.weight.mul_(2),
    "assigned": lambda conv, norm: setattr(conv, "weight", nn.Parameter(2 * conv.weight)),
    "data assigned": lambda conv, norm: setattr(conv.weight, "data", 2 * conv.weight),
    "data flipped": lambda conv, norm: setattr(conv.weight, "data", conv.weight.data.transpose(2, 3)),
    "data": lambda conv, norm: of_data(conv.weight),
    "a filter by data": lambda conv, norm: of_data(conv.weight[3]),
    "an input channel by data": lambda conv, norm: of_data(conv.weight[:, 2]),
    "a tap by data": lambda conv, norm: of_data(conv.weight[:, :, 0, 1]),
    "NumPy": lambda conv, norm: np.copyto(conv.weight.detach().numpy(), 2),
    "an element of the bias by data": lambda conv, norm: of_data(conv.bias[1]),
    "an average by NumPy": lambda conv, norm: np.copyto(norm.running_mean.numpy()[2:], 5),
    "stride": lambda conv, norm: setattr(conv, "stride", (2, 2)),
    "padding_mode": lambda conv, norm: setattr(conv, "padding_mode", "reflect"),
    "eps": lambda conv, norm: setattr(norm, "eps", 1.0),
    "norm's mode": lambda conv, norm: norm.train(),
    "no bias": lambda conv, norm: setattr(conv, "bias", None),
    "pruned": lambda conv, norm: prune.l1_unstructured(conv, "bias", 0.5),
    "pruned weight": lambda conv, norm: prune.l1_unstructured(conv, "weight", 0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_no_change_is_missed_without_gradients(change):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)).eval()
    x = images(2, 3, 8, 8, grad=False)
    twin = ft.accelerate(copy.deepcopy(model))
    before = twin(x)
    for one in (model, twin):
        change(*one)
    after = twin(x)
    agree(after, model(x))
    assert after.shape != before.shape or not torch.equal(after, before)
    agree(twin(x), model(x))


class Counting(Block):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return self.relu(self.bn1(self.conv1(x)))


class Gambling(Block):
    def forward(self, x):
        return self.relu(self.bn1(self.conv1(x))) if random.random() < 0.5 else x


class Branching(Block):
    """On the value of a buffer."""

    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("level", torch.ones(()))

    def forward(self, x):
        return self.relu(self.bn1(self.conv1(x))) if self.level > 0 else x


class Weighing(Block):
    """torch.add with a factor, and an addition in place that the caller sees."""

    def forward(self, x):
        y = torch.relu(torch.add(self.bn1(self.conv1(x)), x, alpha=2))
        x += self.bn2(self.conv2(y))
        return torch.relu(x)


class Keeping(Block):
    """The norm's result is used twice."""

    def forward(self, x):
        y = self.bn1(self.conv1(x))
        return torch.cat([torch.relu(y), y], 1)


def test_what_a_trace_would_lose_is_not_traced():
    for kind in (Counting, Gambling, Branching):
        assert fuse.program(ft.accelerate(kind(4))) is None
    model, x = ft.accelerate(Counting(4)), images(1, 4, 8, 8)
    model(x)
    model(x)
    assert model.calls == 2
    weighing, inputs = ft.accelerate(Weighing(4).eval()), [x.detach().clone() for _ in range(2)]
    assert fuse.program(weighing) is not None
    agree(weighing(inputs[0]), ft.restore(copy.deepcopy(weighing))(inputs[1]))
    agree(*inputs)
    assert not torch.equal(inputs[0], x)
    keeping = ft.accelerate(Keeping(4))
    agree(keeping(x), ft.restore(copy.deepcopy(keeping))(x))


def test_other_dtypes_are_torch_s_with_one_warning(monkeypatch):
    monkeypatch.setattr(modules, "_WARNED", set())
    model = ft.accelerate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()).double())
    x = images(1, 3, 8, 8, grad=False).double()
    with pytest.warns(UserWarning, match="Conv2d is computed by torch") as caught:
        y = model(x)
    assert len(caught) == 1
    assert torch.equal(model(x), y)  # and says nothing, or the warning were an error
    assert torch.equal(y, ft.restore(model)(x))


def test_large_linear_layers_of_few_rows_are_ours(monkeypatch):
    torch.manual_seed(0)
    layer, x = nn.Linear(4096, 1024), vector((2, 4096))
    expected = layer(x)
    expected.sum().backward()
    expected_grad, layer.weight.grad = layer.weight.grad, None
    taken = []
    ours = ops.linear
    monkeypatch.setattr(ops, "linear", lambda *arguments: taken.append(1) or ours(*arguments))
    y = ft.accelerate(layer)(x)
    y.sum().backward()
    assert taken
    agree(y, expected)
    agree(layer.weight.grad, expected_grad)
    layer(torch.cat([x] * 10))
    assert len(taken) == 1


def test_activations_stay_channels_last():
    model = ft.accelerate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)))
    assert model(images(2, 3, 8, 8, memory_format=torch.contiguous_format)).is_contiguous(
        memory_format=torch.channels_last)


def test_threads_are_torch_s():
    torch.set_num_threads(1)
    ft.accelerate(cnn())
    assert fastconv.get_num_threads() == 1


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got list"):
        ft.accelerate([])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # of Inductor's own
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torch_compile_takes_the_ops_whole(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # not what an older fastconv was compiled to
    if backend == "inductor" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("Inductor needs a C++ compiler")
    model = ft.accelerate(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), Block(4), nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    x, again = images(2, 3, 12, 12), images(2, 3, 12, 12)
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled = torch.compile(twin, backend=backend, fullgraph=True)
    model(x).square().sum().backward()
    compiled(again).square().sum().backward()
    agree(again.grad, x.grad)
    for here, there in zip(twin.parameters(), model.parameters(), strict=True):
        agree(here.grad, there.grad)
    for here, there in zip(twin.state_dict().values(), model.state_dict().values(), strict=True):
        agree(here.double(), there.double())
    model.eval()
    twin.eval()
    with torch.no_grad():
        agree(compiled(x), model(x))
