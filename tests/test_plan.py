"""Inference: fuse, compile and no_grad give what evaluation gives, in less time and memory."""

import copy
import gc
import math
import threading

import numpy as np
import pytest
from check import U, assert_same_bits, assert_within, in_layout, using_isa

import fastconv
from fastconv import functional as F
from fastconv import init, layers, models, plan
from fastconv.layers import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Residual, Sequential

# Height and width on which a network is run here, where less than its own will do.
SMALL = {(3, 224, 224): 32, (3, 299, 299): 75}
SIZES = {name: SMALL.get(models.input_shape(name), models.input_shape(name)[1])
         for name in models.available()}
SIZES["alexnet"] = 63


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def with_statistics(model, rng):
    """The model in evaluation, with running averages that say something."""
    for _, layer in model.named_modules():
        if isinstance(layer, BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean[...] = rng.standard_normal(layer.num_features) / 4
            layer.running_var[...] = rng.uniform(0.5, 2, layer.num_features)
            if layer.weight is not None:
                layer.weight.data[...] = rng.uniform(0.5, 1.5, layer.num_features)
                layer.bias.data[...] = rng.standard_normal(layer.num_features) / 4
    return model.eval()


def network(name, rng):
    """The network `name` in evaluation; weights repeat some random ones: drawing millions takes seconds."""
    with init.skipped():
        model = models.create(name, rng=rng)
    for parameter in model.parameters():
        memory = parameter.data.T if parameter.data.ndim < 4 else parameter.data.transpose(2, 3, 1, 0)
        memory = memory if memory.flags.c_contiguous else parameter.data
        fan_in = math.prod(parameter.shape[1:])
        values = rng.standard_normal(min(memory.size, 100_003)) * math.sqrt(2 / fan_in)
        memory.reshape(-1)[...] = np.resize(values.astype(np.float32), memory.size)
    return with_statistics(model, rng)


def rounding(model):
    """Error of a network's outputs relative to the largest: each layer with weights adds that of its sums."""
    fan_ins = [math.prod(parameter.shape[1:]) for parameter in model.parameters() if len(parameter.shape) > 1]
    return sum((2 * math.sqrt(fan_in) + 4) * U for fan_in in fan_ins)


@pytest.mark.parametrize("name", models.available())
def test_every_network_compiles(name, rng):
    """Plan and fused network: the same bits in both layouts; those of the other network but for rounding."""
    model = network(name, rng)
    x = floats(rng, 2, models.input_shape(name)[0], SIZES[name], SIZES[name])
    expected = model(x)
    calls = model.compile(x.shape)
    assert calls.output_shape == expected.shape
    y = calls(x)
    assert_within(y, expected, rounding(model) * abs(expected).max(), "compiled")
    assert_same_bits(model(x), expected, "compile leaves the network as it is")
    x[...] = floats(rng, *x.shape)
    fused = model.fuse()
    assert not any(isinstance(layer, BatchNorm2d) for _, layer in fused.named_modules())
    for layout in ("contiguous", "channels-last"):
        assert_same_bits(calls(in_layout(x, layout)), fused(in_layout(x, layout)), f"another x, {layout}")


# ---- fuse ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda rng: Sequential(Conv2d(6, 8, 3, stride=2, padding=1, groups=2, rng=rng), BatchNorm2d(8)),
    lambda rng: Sequential(Conv2d(6, 8, (1, 3), bias=False, rng=rng), BatchNorm2d(8, eps=0.1)),
    lambda rng: Sequential(Conv2d(6, 5, 1, rng=rng), BatchNorm2d(5, affine=False)),
    lambda rng: Sequential(layers.MappedConv2d(6, [(0, 3), (1,), (5, 2, 4)], 3, rng=rng), BatchNorm2d(3)),
])
def test_fuse_rounds_weights_once(make, rng):
    model = with_statistics(make(rng), rng)
    convolution, norm = model
    x = floats(rng, 2, 6, 9, 8)
    scale = 1 / np.sqrt(norm.running_var.astype(np.float64) + norm.eps)
    shift = -norm.running_mean * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight.data, shift * norm.weight.data + norm.bias.data
    if convolution.bias is not None:
        shift = shift + convolution.bias.data * scale
    maps = convolution._links[0] if isinstance(convolution, layers.MappedConv2d) else slice(None)
    weight = convolution.weight.data.astype(np.float64)
    weight = weight * scale[maps].reshape(-1, *[1] * (weight.ndim - 1))
    strides, before = convolution.weight.data.strides, model(x)
    assert model.fuse() is model
    assert list(model) == [convolution]
    assert convolution.weight.data.strides == strides
    assert_same_bits(convolution.weight.data, weight.astype(np.float32), "weight")
    assert_within(convolution.bias.data, shift, 4 * U * (1 + abs(shift)), "bias")
    # Sums of x w before the scale, and of their fused counterparts: both within the bound of their products.
    products = copy.deepcopy(model)
    products[0].weight.data[...], products[0].bias.data[...] = abs(weight), abs(shift)
    limit = 2 * (2 * math.sqrt(6 * 9) + 8) * U * (products(abs(x)) + abs(shift).max() + abs(before))
    assert_within(model(x), before, limit, "y")


def test_fuse_leaves_what_it_cannot_fold(rng):
    class Own(Sequential):
        def forward(self, x):
            return self.bn(self.conv(x))

    model = Sequential(
        Conv2d(3, 4, 1), BatchNorm2d(4, track_running_stats=False), BatchNorm2d(4), ReLU(), BatchNorm2d(4),
        Own({"conv": Conv2d(4, 4, 1), "bn": BatchNorm2d(4)})).eval()
    x = in_layout(floats(rng, 2, 3, 5, 5), "channels-last")  # statistics are sums, in the order of memory
    expected, names = model(x), list(model.state_dict())
    assert list(model.fuse().state_dict()) == names
    assert_same_bits(model(x), expected, "y")
    assert_same_bits(model.compile(x.shape)(x), expected, "compiled")


def test_fuse_needs_evaluation_mode():
    model = Sequential(Conv2d(3, 4, 1), BatchNorm2d(4))
    with pytest.raises(RuntimeError, match="fuse needs evaluation mode"):
        model.fuse()
    model.eval()[1].train()
    with pytest.raises(RuntimeError, match="fuse needs evaluation mode"):
        model.fuse()
    assert len(model) == 2


# ---- compile ------------------------------------------------------------------------------------------


class Doubled(layers.Layer):
    """A layer that no plan knows."""

    def forward(self, x):
        return self._save(x * np.float32(2), None)


class Offered(layers.Layer):
    """One that fuses."""

    fuses = ("residual", "activation")

    def forward(self, x, *, residual=None, activation=None):
        y = x if residual is None else x + residual
        return y if activation is None else F.relu(y)


class Backwards(Sequential):
    def forward(self, x):
        for layer in reversed(list(self.children())):
            x = layer.forward(x)
        return x


def conv(*channels, **options):
    return Conv2d(*channels, 3, padding=1, **options)


NETWORKS = {
    "nothing": lambda: Sequential(),
    "dropout alone": lambda: Sequential(layers.Dropout()),
    "flatten alone": lambda: Flatten(),
    "relu alone": lambda: ReLU(),
    "in place": lambda: Sequential(MaxPool2d(2), layers.Tanh(), layers.Sigmoid(), layers.ScaledTanh()),
    "pre-activation": lambda: Sequential(
        conv(4, 4), Residual(Sequential(BatchNorm2d(4), ReLU(), conv(4, 4), BatchNorm2d(4), conv(4, 4))),
        BatchNorm2d(4)),
    "of x itself": lambda: Sequential(Residual(Sequential(ReLU(), layers.Tanh())), ReLU()),
    "unfused sum": lambda: Sequential(Residual(Sequential(conv(4, 4), layers.Tanh()), conv(4, 4)), ReLU(),
                                      MaxPool2d(2)),
    "branches last": lambda: layers.Concat(conv(4, 3), Sequential(), layers.AvgPool2d(3, 1, 1), ReLU(),
                                           Sequential(MaxPool2d(3, 1, 1), layers.Tanh(), layers.Dropout())),
    "branches in branches": lambda: Sequential(
        conv(4, 6), layers.Concat(layers.Concat(conv(6, 3), Residual(conv(6, 6))), layers.Subsample2d(6, 1),
                                  layers.LocalResponseNorm(3)), ReLU(), conv(21, 5)),
    "a part is the result": lambda: Sequential(layers.Concat(conv(4, 2), conv(4, 3)), Flatten()),
    "unknown layers": lambda: Sequential(conv(4, 4), Doubled(), Backwards(ReLU(), conv(4, 4)),
                                         Residual(Offered()), ReLU(), layers.Concat(Doubled(), conv(4, 1))),
    "statistics of the batch": lambda: Sequential(conv(4, 5), BatchNorm2d(5, track_running_stats=False)),
    "classifier": lambda: Sequential(conv(4, 4), ReLU(), layers.AdaptiveAvgPool2d(2), Flatten(),
                                     layers.Dropout(), Linear(16, 8), ReLU(), Linear(8, 3)),
}


@pytest.fixture
def turns_pay(monkeypatch):
    """Caches that hold a few images, as of the networks below, and calls that cost nothing."""
    monkeypatch.setattr(plan, "TURN_CACHES", 0.001)
    monkeypatch.setattr(plan, "CALL_BYTES", 0)


@pytest.mark.parametrize("by_turns", [False, True], ids=["at once", "by turns"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_has_the_bits_of_the_network(name, by_turns, rng, request):
    if by_turns:
        request.getfixturevalue("turns_pay")
    model = with_statistics(NETWORKS[name](), rng)
    x = floats(rng, 5, 4, 8, 6)
    calls, fused = model.compile(x.shape), copy.deepcopy(model).fuse()
    expected = fused(in_layout(x, "channels-last"))
    for layout in ("contiguous", "channels-last"):
        arranged = in_layout(x, layout)
        assert_same_bits(calls(arranged), expected, layout)
        assert_same_bits(arranged, x, "x")
    assert_same_bits(calls(np.repeat(x, 2, axis=3)[..., ::2]), expected, "strided x")
    wide = np.zeros((*expected.shape[:-1], 2 * expected.shape[-1]), np.float32)
    out = wide[..., ::2]
    assert calls(x, out=out) is out
    assert_same_bits(out, expected, "strided out")
    assert not wide[..., 1::2].any()


def images_of(calls):
    """The images of each call of a plan, as it makes them."""
    return [end - first for _, first, end in calls._turns()]


def test_large_activations_take_turns(turns_pay, rng):
    """Memory is that of a turn; the last turn may have fewer images."""
    few = Sequential(conv(4, 4), ReLU(), conv(4, 4), layers.AdaptiveAvgPool2d(1))
    calls = few.compile((5, 4, 32, 32))
    assert images_of(calls).count(1) > 5
    assert calls.memory_bytes < 3 * 4 * 4 * 32 * 32
    x = floats(rng, 5, 4, 32, 32)
    assert_same_bits(calls(x), copy.deepcopy(few).eval()(in_layout(x, "channels-last")), "y")


def test_layers_that_no_plan_knows_see_all_images(turns_pay, rng, monkeypatch):
    known = [layer for _ in range(4) for layer in (conv(4, 4), layers.Tanh())]
    calls = Sequential(*known, Doubled()).compile((6, 4, 32, 32))
    assert min(images_of(calls)) < 6
    seen, forward = [], Doubled.forward
    monkeypatch.setattr(Doubled, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    calls(floats(rng, 6, 4, 32, 32))
    assert seen == [6]


def test_images_on_another_axis_take_no_turns(turns_pay, rng):
    swaps = [layers.Permute((1, 0, 2, 3)) for _ in range(2)]
    model = Sequential(conv(4, 4), swaps[0], ReLU(), swaps[1], conv(4, 4)).eval()
    x = floats(rng, 4, 4, 32, 32)
    expected = model(in_layout(x, "channels-last"))
    assert_same_bits(model.compile(x.shape)(x), expected, "y")


@pytest.mark.parametrize(("costs", "turns"), [
    ([(100, 0, 0), (100, 0, 100)], (4, 4)),                                  # two images fit
    ([(100, 1000, 0), (100, 1000, 100)], (1, 1)),                            # weights outweigh them
    ([(200, 0, 0), (200, 0, 100), (20, 90, 20), (20, 90, 20)], (8, 8, 1, 1)),
    ([(200, 0, 0), (200, 0, 100), (20, 90, 100), (20, 90, 20)], (8, 8, 8, 1)),   # cut where less crosses
    ([(100, 0, 0), (None, 0, 10), (100, 0, 10)], (4, 1, 4)),
    ([(100, 0, 0), (None, 0, 1000), (100, 0, 1000)], (1, 1, 1)),
], ids=str)
def test_turns_move_the_fewest_bytes(costs, turns, turns_pay):
    assert plan.choose_turns(costs, 8, 200) == turns


@pytest.mark.parametrize("make", [lambda: models.mlp((12, 7, 5), "tanh"),
                                  lambda: models.LSTMClassifier(4, 6, 5)])
def test_images_are_not_asked_for(make, rng):
    model = make().eval()
    x = floats(rng, 2, 3, 4)
    assert_same_bits(model.compile(x.shape)(x), model(x), "y")


def test_a_plan_follows_the_instruction_set(rng):
    """Weights prepared for one are of no use to another."""
    model = Sequential(conv(3, 40), ReLU(), conv(40, 40), conv(40, 5))
    x = floats(rng, 2, 3, 12, 12)
    calls = model.compile(x.shape)
    for isa in fastconv.available_isas():
        with using_isa(isa):
            assert_same_bits(calls(x), model.compile(x.shape)(x), isa)


def test_a_plan_is_a_copy(rng):
    model = with_statistics(Sequential(conv(3, 64), BatchNorm2d(64), ReLU(), conv(64, 64)), rng).train()
    x = floats(rng, 2, 3, 12, 12)
    names, y = list(model.state_dict()), model(x)
    calls = model.compile(x.shape)
    assert list(model.state_dict()) == names
    assert model.training
    model.backward(np.ones_like(y))  # what forward kept is still there
    expected = calls(x)
    for parameter in model.parameters():
        parameter.data[...] = 0
    assert_same_bits(calls(x), expected, "y")


def test_copies_of_layers_have_no_gradient_and_nothing_for_backward(rng):
    model = Sequential(conv(3, 4))
    y = model(floats(rng, 1, 3, 4, 4))
    model.backward(y)
    model(floats(rng, 1, 3, 4, 4))
    other = copy.deepcopy(model)
    assert all(parameter.grad is None for parameter in other.parameters())
    assert model.parameters()[0].grad is not None
    with pytest.raises(RuntimeError, match="needs a forward before it"):
        other.backward(y)


def test_a_new_result_is_not_that_of_the_last_call(rng):
    calls = Sequential(Flatten(), Linear(4, 3)).compile((2, 4))
    first = calls(floats(rng, 2, 4))
    kept = first.copy()
    calls(floats(rng, 2, 4))
    assert_same_bits(first, kept, "first result")


def test_threads_share_a_plan(rng):
    model = with_statistics(models.resnet20(rng=rng), rng)
    calls = model.compile((2, 3, 32, 32))
    images = [floats(rng, 2, 3, 32, 32) for _ in range(4)]
    expected, results = [calls(x) for x in images], [[] for _ in images]
    barrier = threading.Barrier(len(images))

    def work(x, found):
        barrier.wait()
        found.extend(calls(x) for _ in range(10))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(images, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found, y in zip(results, expected, strict=True):
        assert len(found) == 10
        for one in found:
            assert_same_bits(one, y, "in a thread")


def test_a_call_that_fails_leaves_the_plan_usable(rng):
    class Moody(layers.Layer):
        def forward(self, x):
            if len(x) and x[0, 0] < 0:
                raise ArithmeticError("negative")
            return x

    calls = Sequential(Moody(), ReLU()).compile((2, 3))
    x = abs(floats(rng, 2, 3))
    with pytest.raises(ArithmeticError):
        calls(-x)
    assert_same_bits(calls(x), x, "y")


def test_a_call_keeps_neither_x_nor_the_result(rng):
    calls = Sequential(conv(3, 4), ReLU()).compile((2, 3, 8, 8))
    x, out = floats(rng, 2, 3, 8, 8), np.empty((2, 4, 8, 8), np.float32)
    calls(x, out)
    bound, = calls._idle
    arrays = [value for _, arguments in bound[0] for value in arguments if isinstance(value, np.ndarray)]
    assert not any(np.may_share_memory(array, one) for array in arrays for one in (x, out))


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda p, x: p(x[:1]), ValueError, r"x must have shape \(2, 3, 8, 8\), got \(1, 3, 8, 8\)"),
    (lambda p, x: p(x.astype(float)), TypeError, "x must be float32, got float64"),
    (lambda p, x: p([1.0]), TypeError, "x must be a float32 array, got list"),
    (lambda p, x: p(x, x), ValueError, r"out must have shape \(2, 4, 8, 8\), got \(2, 3, 8, 8\)"),
    (lambda p, x: p(x, np.empty((2, 4, 8, 8))), TypeError, "out must be float32"),
])
def test_a_plan_refuses(call, error, message, rng):
    with pytest.raises(error, match=message):
        call(conv(3, 4).compile((2, 3, 8, 8)), floats(rng, 2, 3, 8, 8))


def test_out_must_not_overlap_x(rng):
    both = floats(rng, 3, 3, 8, 8)
    with pytest.raises(ValueError, match="out must not overlap x"):
        conv(3, 3).compile((2, 3, 8, 8))(both[:2], out=both[1:])


@pytest.mark.parametrize(("model", "shape", "error", "message"), [
    (conv(3, 4), (1, 4, 8, 8), ValueError, "weight must have 4 input channels"),
    (conv(3, 4), (0, 3, 8, 8), ValueError, r"input_shape must be positive ints, got \(0, 3, 8, 8\)"),
    (conv(3, 4), (1, 3, 8.5, 8), TypeError, r"input_shape must be a shape, got \(1, 3, 8.5, 8\)"),
    (conv(3, 4), 3, TypeError, "input_shape must be a shape, got 3"),
    (layers.LSTM(4, 5), (2, 3, 4), TypeError, "LSTM gives states beside its output"),
])
def test_compile_refuses(model, shape, error, message):
    with pytest.raises(error, match=message):
        model.compile(shape)


# ---- memory -------------------------------------------------------------------------------------------


def most_at_once(spans):
    return max((sum(size for size, first, last in spans if first <= step <= last)
                for step in range(1 + max((last for _, _, last in spans), default=0))), default=0)


@pytest.mark.parametrize("blocks", [0, 1, 2, 5, 20, 100])
def test_blocks_that_are_needed_together_lie_apart(blocks, rng):
    for _ in range(50):
        first = rng.integers(0, 30, blocks)
        spans = [(int(size) * plan.ALIGNMENT, int(begin), int(begin + length)) for size, begin, length in
                 zip(rng.integers(0, 50, blocks), first, rng.geometric(0.3, blocks) - 1, strict=True)]
        offsets, total = plan.arrange(spans)
        assert total >= most_at_once(spans)
        for i, (size, begin, end) in enumerate(spans):
            assert offsets[i] % plan.ALIGNMENT == 0
            assert 0 <= offsets[i] <= total - size
            for j in range(i):
                if begin <= spans[j][2] and spans[j][1] <= end:
                    assert offsets[i] + size <= offsets[j] or offsets[j] + spans[j][0] <= offsets[i]


def test_gaps_are_filled_best_fit():
    # Five blocks one behind the other, of which the second and the fourth are needed at first alone.
    spans = [(10, 0, 9), (5, 0, 0), (4, 0, 9), (3, 0, 0), (3, 0, 9), (2, 1, 9)]
    assert plan.arrange(spans) == ([0, 10, 15, 19, 22, 19], 25)


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "resnet50", "googlenet", "inception_v3"])
def test_memory_is_that_of_the_activations_alive_at_once(name, rng, monkeypatch):
    found, arrange = [], plan.arrange
    monkeypatch.setattr(plan, "arrange", lambda spans: found.append(spans) or arrange(spans))
    calls = network(name, rng).compile((2, models.input_shape(name)[0], SIZES[name], SIZES[name]))
    assert calls.memory_bytes == most_at_once(found[0])


def test_a_call_allocates_the_result_alone(rng):
    model = Sequential(conv(8, 8), ReLU(), MaxPool2d(3, 1, 1), Residual(conv(8, 8)), ReLU())
    calls = model.compile((4, 8, 64, 64))
    x = floats(rng, 4, 8, 64, 64)
    out = calls(x)
    gc.collect()
    fastconv.trim()
    before = fastconv.memory_stats()["used_bytes"]
    calls(x, out)
    assert fastconv.memory_stats()["used_bytes"] == before
    assert fastconv.memory_stats()["peak_bytes"] - before < x.nbytes  # workspace of the kernels


def peak(model, x):
    gc.collect()
    fastconv.trim()
    before = fastconv.memory_stats()["used_bytes"]
    y = model(x)
    assert y.nbytes == x.nbytes
    return (fastconv.memory_stats()["peak_bytes"] - before) / x.nbytes


@pytest.mark.parametrize(("model", "alive"), [
    (Sequential(*[ReLU() for _ in range(8)]), 2),
    (Sequential(*[Residual(Sequential(layers.Tanh(), ReLU(), layers.Tanh())) for _ in range(4)]), 3),
    (Sequential(MaxPool2d(3, 1, 1), layers.Dropout(), BatchNorm2d(8), layers.LocalResponseNorm(3)), 2),
])
def test_no_grad_keeps_no_activations(model, alive, rng):
    """Activations of one size: no more at once than the computation needs; the pool adds up to 1/8."""
    x = floats(rng, 4, 8, 128, 128)
    model.eval()
    with fastconv.no_grad():
        assert peak(model, x) <= alive * 1.125 + 0.25
    assert peak(model, x) > alive * 1.125 + 0.25


def test_no_grad_forgets_and_ends(rng):
    model, x = Sequential(conv(3, 4), MaxPool2d(2), Flatten()), floats(rng, 2, 3, 4, 4)
    y = model(x)
    assert fastconv.is_grad_enabled()
    with fastconv.no_grad():
        assert not fastconv.is_grad_enabled()
        with fastconv.no_grad():
            assert_same_bits(model(x), y, "y")
        assert not fastconv.is_grad_enabled()
        others = []
        thread = threading.Thread(target=lambda: others.append(fastconv.is_grad_enabled()))
        thread.start()
        thread.join()
        assert others == [True]
    with pytest.raises(RuntimeError, match=r"Flatten\.backward needs a forward before it"):
        model.backward(y)
    model(x)
    model.backward(y)
    with pytest.raises(ZeroDivisionError), fastconv.no_grad():
        raise ZeroDivisionError
    assert fastconv.is_grad_enabled()
