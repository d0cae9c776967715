"""Layers: gradients against finite differences, state, modes, containers, wrong use."""

import itertools
import math

import numpy as np
import pytest
from check import LAYOUTS, U, in_layout

import fastconv
from fastconv import _core, layers, reference
from fastconv.layers import (
    RBF,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm2d,
    Concat,
    ConstantPad2d,
    Conv2d,
    Dropout,
    Flatten,
    Hardtanh,
    Linear,
    LocalResponseNorm,
    LogSoftmax,
    MappedConv2d,
    MaxPool2d,
    Parameter,
    ReLU,
    Residual,
    ScaledTanh,
    Select,
    Sequential,
    Sigmoid,
    Softmax,
    Square,
    Subsample2d,
    Tanh,
    Unflatten,
)

STATISTICS = {"running_mean": np.float32([0.1, -0.2, 0.3]), "running_var": np.float32([0.5, 1.5, 1.0])}


def evaluating(layer):
    layer.load_state_dict({**STATISTICS, "num_batches_tracked": 0, "weight": [1, 0.5, -1], "bias": [0, 1, 2]}
                          if isinstance(layer, BatchNorm2d) else {})
    return layer.eval()


def conv(x, p, name="", **options):
    return reference.conv2d(x, p[name + "weight"], p.get(name + "bias"), **options)


def batch_norm(x, p, training):
    mean, var = (STATISTICS[name].astype(np.float64) for name in STATISTICS)
    return reference.batch_norm(x, mean, var, p.get("weight"), p.get("bias"), training)


CONNECTIONS = ((0, 2), (1,), (0, 1, 2), (2, 1))
CENTRES = np.random.default_rng(8).choice(np.float32([-1, 1]), (3, 7))


def mapped_conv(x, p):
    dense = np.zeros((len(CONNECTIONS), 3, 3, 2))
    links = [(k, c) for k, maps in enumerate(CONNECTIONS) for c in maps]
    for (k, c), taps in zip(links, p["weight"], strict=True):
        dense[k, c] = taps
    return reference.conv2d(x, dense, p["bias"])


def subsample(x, p):
    column = (slice(None), None, None)
    return reference.avg_pool2d(x, 2) * p["weight"][column] + p["bias"][column]


# name -> (layer, shape of x, the same function of x and the parameters in float64)
CASES = {
    "Conv2d": (lambda rng: Conv2d(3, 4, (3, 2), stride=2, padding=1, rng=rng), (2, 3, 5, 4),
               lambda x, p: conv(x, p, stride=2, padding=1)),
    "Conv2d, groups": (lambda rng: Conv2d(4, 6, 3, dilation=2, groups=2, bias=False, rng=rng), (2, 4, 6, 5),
                       lambda x, p: conv(x, p, dilation=2, groups=2)),
    "Conv2d, same": (lambda rng: Conv2d(2, 3, 4, padding="same", rng=rng), (2, 2, 5, 5),
                     lambda x, p: conv(x, p, padding="same")),
    "Linear": (lambda rng: Linear(7, 5, rng=rng), (3, 7),
               lambda x, p: reference.linear(x, p["weight"], p["bias"])),
    "Linear, no bias": (lambda rng: Linear(7, 5, bias=False, rng=rng), (3, 7),
                        lambda x, p: reference.linear(x, p["weight"])),
    "MappedConv2d": (lambda rng: MappedConv2d(3, CONNECTIONS, (3, 2), rng=rng), (2, 3, 5, 4), mapped_conv),
    "RBF": (lambda rng: RBF(CENTRES), (4, 7), lambda x, p: -((x[:, None] - CENTRES) ** 2).sum(axis=2)),
    "RBF, variance": (lambda rng: RBF(CENTRES, variance=4), (4, 7),
                      lambda x, p: -((x[:, None] - CENTRES) ** 2).sum(axis=2) / 8),
    "MaxPool2d": (lambda rng: MaxPool2d(3, 2, 1, ceil_mode=True), (2, 3, 6, 5),
                  lambda x, p: reference.max_pool2d(x, 3, 2, 1, 1, True)),
    "MaxPool2d, evaluation": (lambda rng: evaluating(MaxPool2d(2, dilation=2)), (2, 3, 6, 5),
                              lambda x, p: reference.max_pool2d(x, 2, dilation=2)),
    "AvgPool2d": (lambda rng: AvgPool2d((2, 3), 2, 1, count_include_pad=False), (2, 3, 5, 5),
                  lambda x, p: reference.avg_pool2d(x, (2, 3), 2, 1, False, False)),
    "Subsample2d": (lambda rng: Subsample2d(3, 2), (2, 3, 6, 5), subsample),
    "AdaptiveAvgPool2d": (lambda rng: AdaptiveAvgPool2d((3, 2)), (2, 3, 5, 5),
                          lambda x, p: reference.adaptive_avg_pool2d(x, (3, 2))),
    "ReLU": (lambda rng: ReLU(), (2, 3, 4, 4), lambda x, p: reference.relu(x)),
    "Sigmoid": (lambda rng: Sigmoid(), (2, 3, 4, 4), lambda x, p: reference.sigmoid(x)),
    "Tanh": (lambda rng: Tanh(), (2, 3, 4, 4), lambda x, p: reference.tanh(x)),
    "ScaledTanh": (lambda rng: ScaledTanh(), (2, 3, 4, 4), lambda x, p: 1.7159 * reference.tanh(2 * x / 3)),
    "Hardtanh": (lambda rng: Hardtanh(-0.5, 0.25), (2, 3, 4, 4), lambda x, p: np.clip(x, -0.5, 0.25)),
    "Square": (lambda rng: Square(), (2, 3, 4, 4), lambda x, p: x * x),
    "Softmax": (lambda rng: Softmax(1), (2, 3, 4, 4), lambda x, p: reference.softmax(x, 1)),
    "LogSoftmax": (lambda rng: LogSoftmax(), (4, 7), lambda x, p: reference.log_softmax(x)),
    "BatchNorm2d": (lambda rng: BatchNorm2d(3), (2, 3, 4, 3), lambda x, p: batch_norm(x, p, True)),
    "BatchNorm2d, plain": (lambda rng: BatchNorm2d(3, affine=False, track_running_stats=False).eval(),
                           (2, 3, 4, 3), lambda x, p: batch_norm(x, p, True)),
    "BatchNorm2d, evaluation": (lambda rng: evaluating(BatchNorm2d(3)), (2, 3, 4, 3),
                                lambda x, p: batch_norm(x, p, False)),
    "LocalResponseNorm": (lambda rng: LocalResponseNorm(4, alpha=3.0, k=0.5), (2, 6, 3, 4),
                          lambda x, p: reference.local_response_norm(x, 4, alpha=3.0, k=0.5)),
    "Flatten": (lambda rng: Flatten(), (2, 3, 4, 3), lambda x, p: x.reshape(2, 36)),
    "Unflatten": (lambda rng: Unflatten((3, 4)), (2, 12), lambda x, p: x.reshape(2, 3, 4)),
    "ConstantPad2d": (lambda rng: ConstantPad2d(((1, 0), (2, 3)), 0.5), (2, 3, 4, 3),
                      lambda x, p: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 3)), constant_values=0.5)),
    "Select": (lambda rng: Select(-2), (2, 3, 4), lambda x, p: x[:, 1]),
    "Dropout, evaluation": (lambda rng: evaluating(Dropout()), (2, 3, 4, 3), lambda x, p: x),
    "Sequential": (lambda rng: Sequential({"conv": Conv2d(3, 2, 3, rng=rng), "tanh": Tanh()}), (2, 3, 4, 5),
                   lambda x, p: reference.tanh(conv(x, p, "conv."))),
    "Residual": (lambda rng: Residual(Sequential(Conv2d(3, 3, 3, padding=1, rng=rng), Tanh())), (2, 3, 4, 4),
                 lambda x, p: reference.tanh(conv(x, p, "body.0.", padding=1)) + x),
    "Residual, shortcut": (lambda rng: Residual(Conv2d(3, 2, 3, 2, 1, rng=rng), Conv2d(3, 2, 1, 2, rng=rng)),
                           (2, 3, 4, 4), lambda x, p: (conv(x, p, "body.", stride=2, padding=1)
                                                       + conv(x, p, "shortcut.", stride=2))),
    "Concat": (lambda rng: Concat(Conv2d(3, 2, 1, rng=rng), Tanh(), Conv2d(3, 4, 3, padding=1, rng=rng)),
               (2, 3, 4, 4), lambda x, p: np.concatenate(
                   [conv(x, p, "0."), reference.tanh(x), conv(x, p, "2.", padding=1)], axis=1)),
}


def spaced(rng, shape):
    """Values in (-1, 1) in random order, 2/n apart and 1/n from 0: no maximum or sign changes nearby."""
    n = math.prod(shape)
    return (((rng.permutation(n) + 0.5) * 2 - n) / n).astype(np.float32).reshape(shape)


def finite_differences(function, values):
    """Gradient of function(values) -> float by central differences in float64, within about 1e-9."""
    grad = np.empty(values.shape)
    step = 1e-5
    for index in np.ndindex(*values.shape):
        shifted = values.astype(np.float64)
        shifted[index] += step
        above = function(shifted)
        shifted[index] -= 2 * step
        grad[index] = (above - function(shifted)) / (2 * step)
    return grad


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("create", "shape", "exact"), CASES.values(), ids=CASES)
def test_gradients_are_those_of_finite_differences(create, shape, exact, layout):
    rng = np.random.default_rng(0)
    layer = create(rng)
    x = in_layout(spaced(rng, shape), layout)
    y = layer(x)
    grad_output = in_layout(spaced(rng, y.shape), layout)
    grad_input = layer.backward(grad_output)

    state = {name: parameter.data.astype(np.float64) for name, parameter in layer.named_parameters()}
    # Every factor is below 2 and no sum has more terms than x or y has elements.
    terms = max(x.size, y.size)
    bound = (2 * math.sqrt(terms) + 4) * U * 2 * terms

    def loss(**changed):
        return np.vdot(exact(changed.pop("x", x.astype(np.float64)), state | changed), grad_output)

    np.testing.assert_allclose(y, exact(x.astype(np.float64), state), rtol=0, atol=bound)
    expected = finite_differences(lambda values: loss(x=values), x)
    np.testing.assert_allclose(grad_input, expected, rtol=0, atol=bound)
    for name, parameter in layer.named_parameters():
        expected = finite_differences(lambda values, name=name: loss(**{name: values}), parameter.data)
        np.testing.assert_allclose(parameter.grad, expected, rtol=0, atol=bound, err_msg=name)
    assert grad_input.strides == x.strides, "backward changes the layout"
    if y.ndim == 4:
        assert y.strides == in_layout(y, layout).strides, "forward changes the layout"


# ---- parameters and gradients -----------------------------------------------------------------------


def images(*shape):
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


def backward_once(layer, x):
    y = layer(x)
    return layer.backward(np.ones_like(y))


def test_weights_have_the_output_channel_fastest_and_gradients_their_order():
    for layer, x in ((Conv2d(3, 4, 2), images(2, 3, 5, 5)), (Linear(6, 5), images(2, 6))):
        backward_once(layer, x)
        for array in (layer.weight.data, layer.weight.grad):
            assert array.strides[0] == array.itemsize
        assert layer.weight.data.strides == layer.weight.grad.strides


def test_gradients_add_up_until_zero_grad_and_keep_their_memory():
    layer, x = Conv2d(2, 3, 3), images(2, 2, 5, 5)
    assert layer.weight.grad is None
    backward_once(layer, x)
    memory, once = layer.weight.grad, layer.weight.grad.copy()
    backward_once(layer, x)
    np.testing.assert_array_equal(layer.weight.grad, once + once)
    layer.zero_grad()
    assert layer.weight.grad is None
    assert layer.bias.grad is None
    backward_once(layer, x)
    assert layer.weight.grad is memory
    np.testing.assert_array_equal(memory, once)


def test_the_same_generator_gives_the_same_weights():
    first, second = (Sequential(Conv2d(2, 3, 3, rng=rng), Linear(3, 2, rng=rng)).state_dict()
                     for rng in (np.random.default_rng(3), np.random.default_rng(3)))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_parameter_refuses_other_arrays():
    with pytest.raises(TypeError, match="data must be a float32 ndarray, got float64"):
        Parameter(np.zeros(3))
    with pytest.raises(TypeError, match="data must be a float32 ndarray, got list"):
        Parameter([0.0])


@pytest.mark.parametrize("model", [
    Sequential(Conv2d(2, 3, 3), ReLU()),
    Sequential(Flatten(), Linear(50, 3)),
    Sequential(Sequential(ReLU(), BatchNorm2d(2)), ReLU()),
    Sequential(Residual(Conv2d(2, 2, 3, padding=1), BatchNorm2d(2))),
    Concat(Conv2d(2, 3, 1), Sequential(MaxPool2d(1), Conv2d(2, 3, 1))),
])
def test_the_first_layer_can_be_spared_its_input_gradient(model):
    x = images(2, 2, 5, 5)
    assert backward_once(model, x).shape == x.shape
    expected = [parameter.grad.copy() for parameter in model.parameters()]
    model.zero_grad()
    model.needs_input_grad = False
    assert backward_once(model, x) is None
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)
    model.needs_input_grad = True
    assert backward_once(model, x).shape == x.shape


def test_only_the_first_layer_with_parameters_is_spared():
    model = Sequential(ReLU(), Conv2d(1, 2, 1), Conv2d(2, 1, 1))
    model.needs_input_grad = False
    assert [layer.needs_input_grad for layer in model] == [False, False, True]


# ---- single layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_flatten_follows_the_logical_order(layout):
    x = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    layer = Flatten()
    y = layer(in_layout(x, layout))
    np.testing.assert_array_equal(y, x.reshape(2, 60))
    grad_input = layer.backward(y)
    np.testing.assert_array_equal(grad_input, x)
    assert grad_input.strides == in_layout(x, layout).strides


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 70, 1, 33), (3, 17, 40, 41), (2, 1, 7, 9), (0, 3, 4, 5),
                                   (1, 512, 7, 7), (1, 9001, 3, 7), (1500, 5, 2, 2)])
def test_copies_go_from_any_layout_to_any_other(shape, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    orders = [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3)]
    for of_x, of_y in itertools.product(orders, orders):
        given = x.transpose(of_x).copy().transpose(np.argsort(of_x))
        wide = np.full([extent + 3 for extent in np.array(shape)[list(of_y)]], 7, np.float32)
        y = wide[1:-2, 1:-2, 1:-2, 1:-2].transpose(np.argsort(of_y))
        for threads, target in ((1, y), (3, np.full(shape, 7, np.float32))):
            with fastconv.num_threads(threads):
                assert _core.copy(given, target) is target
            np.testing.assert_array_equal(target, x)
        y[...] = 7
        assert (wide == 7).all()  # nothing around it was written


def test_dropout_gradient_goes_where_the_value_went():
    layer = Dropout(0.25, rng=np.random.default_rng(0))
    y = layer(np.ones((4, 3, 8, 8), np.float32))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(layer.backward(np.ones_like(y)), y)


def test_dropout_draws_from_its_generator():
    x = np.ones((2, 3, 8, 8), np.float32)
    first, second = (Dropout(rng=np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first(x), second(x))
    assert (first(x) != Dropout(rng=np.random.default_rng(6))(x)).any()


def test_batch_norm_moves_its_running_averages_in_training_only():
    x, layer = images(4, 2, 3, 3), BatchNorm2d(2, momentum=0.25)
    layer.eval()(x)
    np.testing.assert_array_equal(layer.running_mean, 0)
    assert layer.num_batches_tracked == 0
    layer.train()(x)
    values = x.astype(np.float64).transpose(1, 0, 2, 3).reshape(2, -1)
    bound = (2 * math.sqrt(values.shape[1]) + 4) * U
    np.testing.assert_allclose(layer.running_mean, 0.25 * values.mean(1), rtol=0, atol=bound)
    np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * values.var(1, ddof=1), rtol=0, atol=bound)
    assert layer.num_batches_tracked == 1


def test_batch_norm_without_momentum_averages_all_batches():
    layer, batches = BatchNorm2d(2, momentum=None), [images(4, 2, 3, 3) + shift for shift in (0, 1, 5)]
    for x in batches:
        layer(x)
    expected = np.mean([x.astype(np.float64).mean((0, 2, 3)) for x in batches], axis=0)
    np.testing.assert_allclose(layer.running_mean, expected, rtol=0, atol=(2 * math.sqrt(36) + 4) * U * 6)


def test_batch_norm_refuses_one_value_per_channel():
    layer, x = BatchNorm2d(3), images(1, 3, 1, 1)
    with pytest.raises(ValueError, match=r"more than one value per channel .* got shape \(1, 3, 1, 1\)"):
        layer(x)
    assert layer.num_batches_tracked == 0
    assert layer.eval()(x).shape == x.shape


# ---- state ------------------------------------------------------------------------------------------


def network():
    return Sequential({"stem": Conv2d(3, 4, 3, bias=False), "bn": BatchNorm2d(4),
                       "block": Residual(Sequential(Conv2d(4, 4, 1), ReLU())), "fc": Linear(4, 2)})


NAMES = {"stem.weight": (4, 3, 3, 3), "bn.weight": (4,), "bn.bias": (4,), "block.body.0.weight": (4, 4, 1, 1),
         "block.body.0.bias": (4,), "fc.weight": (2, 4), "fc.bias": (2,), "bn.running_mean": (4,),
         "bn.running_var": (4,), "bn.num_batches_tracked": ()}


def test_state_dict_has_torch_names_and_live_arrays():
    model = network()
    state = model.state_dict()
    assert {name: array.shape for name, array in state.items()} == NAMES
    assert state["stem.weight"] is model.stem.weight.data
    assert [name for name, _ in model.named_buffers()] == list(NAMES)[-3:]
    assert len(model.parameters()) == 7


def test_load_state_dict_copies_into_the_arrays():
    source, target = network(), network()
    source.bn(images(2, 4, 3, 3))
    weight, order = target.stem.weight.data, target.stem.weight.data.strides
    assert target.load_state_dict(source.state_dict()) == ([], [])
    assert target.stem.weight.data is weight
    assert weight.strides == order
    for name, array in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[name], array)


def test_load_state_dict_names_everything_that_does_not_fit_and_changes_nothing():
    model = network()
    state = {name: np.ones_like(array) for name, array in model.state_dict().items()}
    before = {name: array.copy() for name, array in model.state_dict().items()}
    del state["fc.bias"]
    state |= {"extra": np.zeros(1), "bn.weight": np.zeros(5), "bn.num_batches_tracked": np.array(1.5)}
    with pytest.raises(ValueError, match="state does not fit") as caught:
        model.load_state_dict(state)
    assert str(caught.value) == (
        "state does not fit Sequential: missing: fc.bias; unexpected: extra; bn.weight must have shape (4,), "
        "got (5,); bn.num_batches_tracked must be int64, got float64")
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_load_state_dict_not_strict_takes_what_fits():
    model = network()
    assert model.load_state_dict({"fc.bias": [1, 2], "extra": 0}, strict=False) == (
        [name for name in NAMES if name != "fc.bias"], ["extra"])
    np.testing.assert_array_equal(model.fc.bias.data, [1, 2])
    with pytest.raises(ValueError, match=r"fc\.bias must have shape"):
        model.load_state_dict({"fc.bias": [1, 2, 3]}, strict=False)


def test_train_and_eval_reach_every_layer():
    model = network()
    assert model.eval() is model
    assert not any(layer.training for _, layer in model.named_modules())
    assert model.train() is model
    assert all(layer.training for _, layer in model.named_modules())
    assert [name for name, _ in model.named_modules()] == [
        "", "stem", "bn", "block", "block.body", "block.body.0", "block.body.1", "fc"]


def test_flat_containers_are_not_in_the_names_below_them():
    branch = Sequential({"b_1": BatchNorm2d(4), "b_2": Conv2d(4, 2, 1)}, flat=True)
    branches = Concat({"a": Conv2d(4, 2, 1, bias=False), "b": branch}, flat=True)
    model = Sequential({"block": Sequential({
        "sum": Residual(Sequential({"split": branches}, flat=True),
                        Sequential({"downsample": Conv2d(4, 4, 1, bias=False)}, flat=True), flat=True),
        "relu": ReLU()})})
    names = ["a", "b_1", "b_2", "downsample", "relu"]
    assert [name for name, _, _ in model.trace((1, 4, 2, 2))] == [f"block.{name}" for name in names]
    assert list(model.state_dict()) == [
        "block.a.weight", "block.b_1.weight", "block.b_1.bias", "block.b_2.weight", "block.b_2.bias",
        "block.downsample.weight", "block.b_1.running_mean", "block.b_1.running_var",
        "block.b_1.num_batches_tracked"]
    assert not any(layer.training for _, layer in model.eval().named_modules())


# ---- containers and shapes --------------------------------------------------------------------------


def test_sequential_is_a_sequence_and_its_layers_are_attributes():
    model = Sequential(Conv2d(1, 2, 3), ReLU())
    assert len(model) == 2
    assert model[0] is next(iter(model))
    assert isinstance(model[-1], ReLU)
    named = Sequential({"first": Tanh(), "second": ReLU()})
    named.first = Sigmoid()
    assert [type(layer) for layer in named] == [Sigmoid, ReLU]
    np.testing.assert_array_equal(named(np.zeros((1, 2), np.float32)), 0.5)


def test_output_shape_leaves_the_layer_as_it_was():
    model, x = network(), images(2, 3, 6, 6)
    y = model.stem(x)
    assert model.stem.output_shape((7, 3, 9, 8)) == (7, 4, 7, 6)
    assert model.stem.backward(np.ones_like(y)).shape == x.shape
    assert BatchNorm2d(4, track_running_stats=False).output_shape((2, 4, 1, 1)) == (2, 4, 1, 1)
    assert model.bn.training
    assert model.bn.num_batches_tracked == 0


# ---- wrong use --------------------------------------------------------------------------------------

ONE_OF_EACH = [Conv2d(3, 4, 1), Linear(3, 2), MaxPool2d(1), AvgPool2d(1), AdaptiveAvgPool2d(2), ReLU(),
               Sigmoid(), Tanh(), BatchNorm2d(3), LocalResponseNorm(5), Flatten(), Dropout(), Concat(ReLU()),
               RBF(CENTRES[:, :3]), MappedConv2d(3, CONNECTIONS, 2), ScaledTanh(), Subsample2d(3, 2),
               Hardtanh(), Square(), Softmax(), LogSoftmax(), ConstantPad2d(((1, 1), (1, 1))),
               Unflatten((3, 1)), Select(0)]


@pytest.mark.parametrize("layer", ONE_OF_EACH, ids=lambda layer: type(layer).__name__)
def test_backward_needs_a_forward_and_the_shape_of_its_output(layer):
    x = images(4, 3, 5, 5)
    if isinstance(layer, (Linear, RBF, Unflatten, Select)):
        x = images(4, 3, 5) if isinstance(layer, Select) else images(4, 3)
    grad = np.ones_like(layer(x))
    with pytest.raises(ValueError, match=r"grad_output must have shape \(4, .*\), got \(3, "):
        layer.backward(grad[1:])
    layer.backward(grad)
    with pytest.raises(RuntimeError, match="backward needs a forward before it"):
        layer.backward(grad)


def test_every_layer_is_tried():
    tried = {type(layer).__name__ for layer in ONE_OF_EACH}
    elsewhere = {"LSTM", "RNN", "Add", "Graph", "Join", "Permute"}  # test_recurrent.py, test_graph.py
    assert tried == set(layers.__all__) - {"Layer", "Parameter", "Residual", "Sequential"} - elsewhere


@pytest.mark.parametrize(("create", "error", "message"), [
    (lambda: Conv2d(0, 4, 3), ValueError, "in_channels must be positive, got 0"),
    (lambda: Conv2d(3, 4.0, 3), TypeError, "out_channels must be an int, got 4.0"),
    (lambda: Conv2d(3, 4, 0), ValueError, "kernel_size must be at least 1, got 0"),
    (lambda: Conv2d(3, 4, 3, groups=2), ValueError, "groups must divide in_channels 3 and .* 4, got 2"),
    (lambda: MappedConv2d(2, ((0,), (1, 2)), 3), ValueError,
     r"connections\[1\] must be different input maps from 0 to 1, got \(1, 2\)"),
    (lambda: MappedConv2d(2, ((0, 0),), 3), ValueError, r"connections\[0\] must .*, got \(0, 0\)"),
    (lambda: MappedConv2d(2, ((),), 3), ValueError, r"connections\[0\] must .*, got \(\)"),
    (lambda: MappedConv2d(2, (), 3), ValueError, "number of connections must be positive, got 0"),
    (lambda: Hardtanh(1, 1), ValueError, "min_val must be below max_val, got 1 and 1"),
    (lambda: ConstantPad2d(((1, -1), (0, 0))), ValueError, "padding must be at least 0, got"),
    (lambda: ConstantPad2d((1, 1, 1)), ValueError, r"padding must be \(\(top, bottom\), \(left, right\)\)"),
    (lambda: layers.Permute((0, 2)), ValueError, r"axes must be 0 to 1 in any order, got \(0, 2\)"),
    (lambda: layers.Permute((1, 0)).output_shape((2, 3, 4)), ValueError, "x must have 2 axes, got shape"),
    (lambda: Unflatten((3, 0)), ValueError, "sizes must be positive, got 0"),
    (lambda: Unflatten((3, 2)).output_shape((4, 5)), ValueError, r"x must have shape \(N, 6\), got \(4, 5\)"),
    (lambda: Select(3)(np.zeros((1, 3, 2), np.float32)), ValueError, "x must have 3 axes or more and a"),
    (lambda: Subsample2d(0, 2), ValueError, "num_features must be positive, got 0"),
    (lambda: RBF(CENTRES[0]), ValueError, r"centres must be a float32 array \(K, D\), got float32 \(7,\)"),
    (lambda: RBF(CENTRES, variance=0), ValueError, "variance must be positive, got 0"),
    (lambda: RBF(CENTRES)(images(4, 6)), ValueError, r"x must have shape \(N, 7\), got \(4, 6\)"),
    (lambda: Linear(-1, 2), ValueError, "in_features must be positive, got -1"),
    (lambda: BatchNorm2d(0), ValueError, "num_features must be positive, got 0"),
    (lambda: LocalResponseNorm(0), ValueError, "size must be positive, got 0"),
    (lambda: MaxPool2d(2, padding=2), ValueError, "padding must be at most half of kernel_size"),
    (lambda: AvgPool2d(0), ValueError, "kernel_size must be at least 1, got 0"),
    (lambda: AdaptiveAvgPool2d(0), ValueError, "output_size must be at least 1, got 0"),
    (lambda: Dropout(1.5), ValueError, "p must be from 0 to 1, got 1.5"),
    (lambda: Sequential(ReLU(), "tanh"), TypeError, "layer '1' of Sequential must be a Layer, got 'tanh'"),
    (lambda: Sequential({"forward": ReLU()}), ValueError, "layer name 'forward' of Sequential"),
    (lambda: Sequential({"a.b": ReLU()}), ValueError, "layer name 'a.b' of Sequential"),
    (lambda: Concat(*[ReLU()] * 2), ValueError, "Concat got a layer twice"),
    (lambda: Sequential({"a": ReLU(), "b": Sequential({"a": ReLU()}, flat=True)}), ValueError,
     "flat containers in Sequential bring names together: a"),
    (lambda: Concat(), ValueError, "branches must not be empty"),
    (lambda: Residual(None), TypeError, "layer 'body' of Residual must be a Layer, got None"),
    (lambda: Residual(Conv2d(2, 3, 1))(images(1, 2, 4, 4)), ValueError,
     r"body gives shape \(1, 3, 4, 4\), shortcut \(1, 2, 4, 4\)"),
    (lambda: Residual(Sequential(Conv2d(2, 3, 1), Tanh()))(images(1, 2, 4, 4)), ValueError,
     r"body gives shape \(1, 3, 4, 4\), shortcut \(1, 2, 4, 4\)"),
    (lambda: Residual(Sequential(Conv2d(2, 3, 1), ReLU()))(images(1, 2, 4, 4)), ValueError,
     r"body gives shape \(1, 3, 4, 4\), shortcut \(1, 2, 4, 4\)"),
    (lambda: Residual(Conv2d(3, 3, 1))(images(1, 2, 4, 4)), ValueError,
     r"weight must have 2 input channels"),
    (lambda: Concat(ReLU(), MaxPool2d(2))(images(1, 2, 4, 4)), ValueError,
     r"branches must agree in all but the channels, got shapes \(1, 2, 4, 4\), \(1, 2, 2, 2\)"),
    (lambda: BatchNorm2d(3)(images(1, 2, 4, 4)), ValueError,
     r"x must have shape \(N, 3, H, W\), got \(1, 2, 4, 4\)"),
    (lambda: layers.Layer()(images(1)), NotImplementedError, "Layer defines no forward"),
    (lambda: layers.Layer().backward(images(1)), NotImplementedError, "Layer defines no backward"),
])
def test_wrong_use_is_named(create, error, message):
    with pytest.raises(error, match=message):
        create()
