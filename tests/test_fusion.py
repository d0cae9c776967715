"""What is done in one pass gives the bits of the passes it replaces: batch normalisation with a residual and
relu, sums, joins, containers that let layers work together, steps of optimisers."""

import itertools

import numpy as np
import pytest
from check import LAYOUTS, assert_same_bits, in_layout, memory_order, using_isa
from guard import guard_pages

import fastconv
from fastconv import functional as F
from fastconv.layers import BatchNorm2d, Concat, Conv2d, Layer, Linear, MaxPool2d, ReLU, Residual, Sequential
from fastconv.optim import SGD, Adam, clip_grad_norm

SHAPES = [(2, 1, 9, 7), (3, 19, 5, 7), (2, 64, 7, 7), (50, 33, 1, 1), (1, 3, 17, 1), (4, 16, 57, 61),
          (2, 80, 40, 41)]
RUNS = [*itertools.product(fastconv.available_isas(), (1, 2, 5))]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def floats(rng, shape, layout="NCHW"):
    return in_layout(rng.standard_normal(shape).astype(np.float32), layout)


def same_order(array, model):
    """Whether both lie alike; strides of sizes of 1 say nothing."""
    pairs = zip(array.shape, array.strides, model.strides, strict=True)
    return all(one == other for size, one, other in pairs if size > 1)


def strange(rng, shape, layout):
    """With some values that relu and sums must treat as the operations alone do."""
    array = floats(rng, shape, layout)
    values = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -1e-40], np.float32)
    return in_layout(np.where(rng.random(shape) < 0.2, rng.choice(values, shape), array), layout)


def assert_all_same_bits(results, expected, where):
    for i, (result, other) in enumerate(zip(results, expected, strict=True)):
        assert_same_bits(result, other, f"{where}, result {i}")


@pytest.mark.parametrize("training", [True, False])
@every_layout
@every_shape
def test_batch_norm_with_residual_and_relu(shape, layout, training, rng):
    x, weight, bias = floats(rng, shape, layout), floats(rng, shape[1]), floats(rng, shape[1])
    mean, var = floats(rng, shape[1]), abs(floats(rng, shape[1]))
    for (isa, threads), (added, relu) in itertools.product(RUNS, [(0, 1), (1, 0), (1, 1)]):
        residual = strange(rng, shape, layout) if added else None
        with using_isa(isa), fastconv.num_threads(threads):
            statistics = mean.copy(), var.copy()
            expected = F.batch_norm(x, *statistics, weight, bias, training)
            expected = F.add(expected, residual) if added else expected
            expected = F.relu(expected) if relu else expected
            own = mean.copy(), var.copy()
            y = F.batch_norm(x, *own, weight, bias, training, residual=residual,
                             activation="relu" if relu else None)
        assert same_order(y, expected)
        assert_all_same_bits((y, *own), (expected, *statistics), f"{isa}, {threads} threads")


@pytest.mark.parametrize("part", [False, True])
@every_layout
@every_shape
def test_batch_norm_backward_behind_relu(shape, layout, part, rng):
    """part: the gradient is some channels of a wider one."""
    x, y = floats(rng, shape, layout), strange(rng, shape, layout)
    dy = floats(rng, (shape[0], shape[1] + 5 * part, *shape[2:]), layout)[:, 2 * part:shape[1] + 2 * part]
    statistics, weight = (floats(rng, shape[1]), abs(floats(rng, shape[1]))), floats(rng, shape[1])
    y[np.abs(y) < 1e-30] = 0  # batch_norm has no such results
    for isa, threads in RUNS:
        with using_isa(isa), fastconv.num_threads(threads):
            masked = F.relu_backward(np.ascontiguousarray(dy), y)
            expected = F.batch_norm_backward(masked, x, *statistics, weight)
            results = F.batch_norm_backward(dy, x, *statistics, weight, y=y)
            assert_all_same_bits(results, expected, f"{isa}, {threads} threads")
            results = F.batch_norm_backward(dy, x, *statistics, weight, y=y, return_residual=True)
            assert_all_same_bits(results, (*expected, masked), f"{isa}, {threads} threads")
            plain = F.batch_norm_backward(dy, x, *statistics, weight)
            expected = F.batch_norm_backward(np.ascontiguousarray(dy), x, *statistics, weight)
            assert_all_same_bits(plain, expected, f"{isa}, {threads} threads")


@every_layout
@every_shape
def test_batch_norm_backward_computes_the_result_again(shape, layout, rng):
    x, dy = floats(rng, shape, layout), floats(rng, shape, layout)
    weight, bias = floats(rng, shape[1]), floats(rng, shape[1])
    weight[::3] = bias[::3] = 0  # results that are 0 without the relu
    for isa, threads in RUNS:
        with using_isa(isa), fastconv.num_threads(threads):
            y, *statistics = F.batch_norm_train(x, weight, bias, activation="relu")
            expected = F.batch_norm_backward(dy, x, *statistics, weight, y=y)
            again = F.batch_norm_backward(dy, x, *statistics, weight, bias=bias, activation="relu")
            assert_all_same_bits(again, expected, f"{isa}, {threads} threads")


# (x, output channels, filter size, stride): rows of one tile and of several, Winograd, few output channels in
# each of three ways
CONVOLUTIONS = [((2, 20, 7, 7), 17, 1, 1), ((2, 64, 8, 40), 80, 1, 1), ((1, 33, 30, 31), 48, 3, 1),
                ((2, 16, 9, 41), 33, 3, 2), ((1, 64, 28, 28), 64, 3, 1), ((3, 5, 9, 40), 3, 3, 1),
                ((2, 3, 9, 12), 5, 3, 1), ((3, 20, 9, 10), 6, 5, 1), ((2, 40, 1, 1), 50, 1, 1)]


@every_layout
@pytest.mark.parametrize(("shape", "outputs", "size", "stride"), CONVOLUTIONS, ids=str)
def test_convolution_with_residual_and_relu(shape, outputs, size, stride, layout, rng):
    x, bias = floats(rng, shape, layout), floats(rng, outputs)
    weight = in_layout(floats(rng, (outputs, shape[1], size, size)), layout, "weight")
    options = {"stride": stride, "padding": size // 2}
    residual = strange(rng, F.conv2d(x, weight, **options).shape, layout)
    for (isa, threads), (added, relu) in itertools.product(RUNS, [(0, 1), (1, 0), (1, 1)]):
        with using_isa(isa), fastconv.num_threads(threads):
            expected = F.conv2d(x, weight, bias, **options)
            expected = F.add(expected, residual) if added else expected
            expected = F.relu(expected) if relu else expected
            y = F.conv2d(x, weight, bias, **options, residual=residual if added else None,
                         activation="relu" if relu else None)
            part = np.empty((len(y), outputs + 5, *y.shape[2:]), np.float32)
            part = in_layout(part, layout)[:, 2:outputs + 2]
            F.conv2d(x, weight, bias, **options, residual=residual if added else None,
                     activation="relu" if relu else None, out=part)
        assert_same_bits(y, expected, f"{isa}, {threads} threads, residual {added}, relu {relu}")
        assert_same_bits(part, expected, f"into channels, {isa}, {threads} threads, {added}, {relu}")


# Those above; phases with few taps or none, pixels that no tap reaches, parts of the channels, groups.
GRADIENTS = {
    **{str((x, k, size, stride)): dict(x=x, w=(k, x[1], size, size), stride=stride, padding=size // 2)
       for x, k, size, stride in CONVOLUTIONS},
    "1x1, stride 2": dict(x=(2, 33, 15, 14), w=(48, 33, 1, 1), stride=2),
    "1x1, stride 3, two parts": dict(x=(2, 40, 9, 10), w=(600, 40, 1, 1), stride=3),
    "1x1, padding": dict(x=(2, 20, 6, 7), w=(17, 20, 1, 1), padding=1),
    "stride larger than filter": dict(x=(2, 21, 13, 14), w=(5, 21, 2, 1), stride=(4, 3)),
    "two parts": dict(x=(2, 17, 9, 8), w=(300, 17, 3, 3), stride=2, padding=1),
    "border not reached": dict(x=(2, 18, 20, 21), w=(16, 18, 3, 3), stride=4),
    "dilated": dict(x=(2, 16, 15, 17), w=(6, 16, 3, 3), dilation=(2, 3), padding=2),
    "dilated and strided": dict(x=(2, 4, 15, 17), w=(6, 4, 3, 3), dilation=(2, 3), stride=(3, 2), padding=3),
    "groups": dict(x=(2, 34, 9, 8), w=(24, 17, 3, 3), groups=2, stride=2, padding=1),
    "depthwise": dict(x=(2, 19, 9, 9), w=(19, 1, 3, 3), groups=19, padding=1),
    "depthwise, stride 2": dict(x=(2, 16, 10, 9), w=(16, 1, 3, 3), groups=16, stride=2, padding=1),
    "few channels, long rows": dict(x=(2, 3, 19, 75), w=(20, 3, 5, 5), padding=2),
    "few channels, stride 2": dict(x=(2, 3, 38, 75), w=(20, 3, 7, 7), stride=2, padding=3),
    "few channels, grouped": dict(x=(2, 6, 10, 70), w=(20, 3, 3, 3), groups=2, stride=(2, 1)),
    "one channel, stride 2": dict(x=(2, 1, 30, 70), w=(20, 1, 5, 5), stride=(2, 1)),
    "many small images": dict(x=(50, 24, 5, 5), w=(40, 24, 1, 1)),
    "Winograd": dict(x=(2, 20, 9, 10), w=(17, 20, 3, 3), padding=1, algorithm="winograd"),
    "Winograd, stride 2": dict(x=(2, 20, 9, 10), w=(17, 20, 3, 3), stride=2, padding=1, algorithm="winograd"),
    "Winograd, 5x5, groups": dict(x=(1, 34, 13, 12), w=(32, 17, 5, 5), groups=2, algorithm="winograd"),
    "large, stride 2": dict(x=(2, 32, 65, 65), w=(16, 32, 3, 3), stride=2, padding=1),
    "large, few panels": dict(x=(1, 256, 14, 14), w=(512, 256, 1, 1)),
    "no filters": dict(x=(2, 3, 5, 5), w=(0, 3, 3, 3)),
    "no images": dict(x=(0, 3, 5, 5), w=(4, 3, 3, 3)),
}


@every_layout
@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS)
def test_convolution_backward_input_with_an_addend(case, layout, rng):
    options = {name: value for name, value in case.items() if name not in "xw"}
    shape, weight = case["x"], in_layout(floats(rng, case["w"]), layout, "weight")
    dy = floats(rng, F.conv2d(floats(rng, shape), weight, **options).shape, layout)
    addends = {layout: strange(rng, shape, layout)}
    addends["other"] = in_layout(addends[layout], LAYOUTS[layout == LAYOUTS[0]])
    wide = floats(rng, (shape[0], shape[1] + 5, *shape[2:]), layout)
    addends["channels of a wider one"] = wide[:, 2:shape[1] + 2]
    addends["channels of a wider one"][...] = addends[layout]
    for isa, threads in RUNS:
        with using_isa(isa), fastconv.num_threads(threads):
            dx = F.conv2d_backward_input(dy, weight, shape, **options)
            expected = F.add(dx, addends[layout])
            for name, addend in addends.items():
                result = F.conv2d_backward_input(dy, weight, shape, **options, addend=addend)
                assert_same_bits(result, expected, f"{isa}, {threads} threads, addend {name}")
                assert same_order(result, dx)
            out = floats(rng, wide.shape, layout)[:, 3:shape[1] + 3]
            assert F.conv2d_backward_input(dy, weight, shape, **options, addend=addend, out=out) is out
            assert_same_bits(out, expected, f"into channels, {isa}, {threads} threads")


@every_layout
@pytest.mark.parametrize("case", ["few channels, stride 2", "stride larger than filter", "Winograd",
                                  "depthwise"])
def test_nothing_outside_the_addend_is_read(case, layout, rng):
    options = dict(GRADIENTS[case])
    shape, weight = options.pop("x"), floats(rng, options.pop("w"))
    dy = floats(rng, F.conv2d(floats(rng, shape), weight, **options).shape, layout)
    for isa, at in itertools.product(fastconv.available_isas(), ("start", "end")):
        with using_isa(isa), guard_pages(f"{case} with {isa}, guard at the {at}") as place:
            order = memory_order("x", 4, layout)
            addend, out = (place(floats(rng, shape), name, order, at) for name in ("addend", "out"))
            F.conv2d_backward_input(dy, weight, shape, **options, addend=addend, out=out)


def test_gradient_of_a_residual_without_relu_is_that_of_the_result(rng):
    x, dy = floats(rng, (2, 3, 4, 4)), floats(rng, (2, 3, 4, 4))
    _, mean, invstd = F.batch_norm_train(x)
    assert F.batch_norm_backward(dy, x, mean, invstd, return_residual=True)[3] is dy


@pytest.mark.parametrize("argument", range(3))
def test_batch_norm_backward_writes_over_its_arguments(argument, rng):
    arrays = [floats(rng, (3, 19, 5, 7)) for _ in range(3)]
    statistics = floats(rng, 19), abs(floats(rng, 19))
    expected = F.batch_norm_backward(arrays[0], arrays[1], *statistics, y=arrays[2])
    out = arrays[argument]
    results = F.batch_norm_backward(arrays[0], arrays[1], *statistics, y=arrays[2], out=out)
    assert results[0] is out
    assert_all_same_bits(results, expected, f"out is argument {argument}")


# ---- sums and joins ---------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [1, 2, 3, 5])
@every_layout
@every_shape
def test_add_is_the_sum_from_left_to_right(shape, layout, terms, rng):
    arrays = [floats(rng, shape, layout) for _ in range(terms)]
    expected = sum(arrays[1:], arrays[0])
    for isa, threads in RUNS:
        with using_isa(isa), fastconv.num_threads(threads):
            y = F.add(*arrays)
            assert same_order(y, arrays[0])
            assert_same_bits(y, expected, f"{isa}, {threads} threads")
            assert_same_bits(F.add(*arrays, activation="relu"), F.relu(expected), f"{isa}, {threads} threads")
    mixed = [arrays[0], *map(np.ascontiguousarray, arrays[1:])]
    assert_same_bits(F.add(*mixed), expected, "mixed layouts")
    assert F.add(*arrays, out=arrays[-1]) is arrays[-1]
    assert_same_bits(arrays[-1], expected, "in place")


def test_large_sums_are_the_same_wherever_they_lie(rng):
    """From 8 MiB on, and where they are aligned to vectors, they are written past the caches."""
    a, b = rng.standard_normal((2, (2 << 20) + 5), np.float32)
    place = np.empty(a.size + 32, np.float32)
    aligned = -place.ctypes.data // 4 % 16
    for isa, threads in RUNS:
        with using_isa(isa), fastconv.num_threads(threads):
            for at in (aligned, aligned + 1):
                out = F.add(a, b, out=place[at:at + a.size])
                assert_same_bits(out, a + b, f"{isa}, {threads} threads, at {at - aligned}")


@every_layout
@every_shape
def test_concat_joins_channels(shape, layout, rng):
    n, channels, *plane = shape
    wide = floats(rng, (n, channels + 7, *plane), layout)
    arrays = [floats(rng, shape, layout), wide[:, 3:3 + channels], floats(rng, (n, 1, *plane)), wide[:, :5]]
    expected = np.concatenate(arrays, axis=1)
    for threads in (1, 2, 5):
        with fastconv.num_threads(threads):
            assert_same_bits(F.concat(arrays), expected, f"{threads} threads")
    out = floats(rng, expected.shape, layout)[:, :, ::-1]
    assert F.concat(arrays, out=out) is out
    assert_same_bits(out, expected, "into out")
    assert 1 in shape or same_order(F.concat(arrays), in_layout(expected, layout))


def test_concat_into_an_argument(rng):
    out = floats(rng, (2, 6, 5, 5))
    expected = np.concatenate([out[:, 3:], out[:, :3]], axis=1)
    assert_same_bits(F.concat([out[:, 3:], out[:, :3]], out=out), expected, "exchanged")


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda x: F.add(x, activation="tanh"), ValueError, "activation must be None or \"relu\", got 'tanh'"),
    (lambda x: F.add(x, x[:, :2]), ValueError, r"arrays\[1\] must have the shape \(2, 3, 4, 4\)"),
    (lambda x: F.add(), ValueError, "arrays must be from 1 to 64, got 0"),
    (lambda x: F.add(x, x.astype(float)), TypeError, r"arrays\[1\] must be float32, got float64"),
    (lambda x: F.concat([]), ValueError, "arrays must be from 1 to 64, got 0"),
    (lambda x: F.concat([x, x[:, :, 1:]]), ValueError,
     r"arrays must agree in all but the channels, got shapes \(2, 3, 4, 4\), \(2, 3, 3, 4\)"),
    (lambda x: F.conv2d_backward_input(x, np.ones((3, 2, 1, 1), np.float32), (2, 2, 4, 4), addend=x),
     ValueError, r"addend must have shape \(2, 2, 4, 4\), got \(2, 3, 4, 4\)"),
    (lambda x: F.batch_norm_train(x, residual=x[:1]), ValueError, r"residual must have shape \(2, 3, 4, 4\)"),
    (lambda x: F.batch_norm_train(x, activation="gelu"), ValueError, "activation must be None or \"relu\""),
    (lambda x: F.batch_norm_backward(x, x, x[0, :, 0, 0], x[0, :, 0, 0], y=x[:1]), ValueError,
     r"y must have shape \(2, 3, 4, 4\)"),
    (lambda x: F.batch_norm_backward(x, x, x[0, :, 0, 0], x[0, :, 0, 0], activation="relu",
                                     return_residual=True), ValueError, "y must be given .*, got None"),
])
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((2, 3, 4, 4), np.float32))


# ---- layers -----------------------------------------------------------------------------------------


class Alone(BatchNorm2d):
    """Batch normalisation that does nothing besides."""

    fuses = ()


NETWORKS = {
    "norm and relu": lambda norm, rng: Sequential(Conv2d(4, 6, 3, rng=rng), norm(6), ReLU(),
                                                  Conv2d(6, 2, 1, rng=rng)),
    "two relus": lambda norm, rng: Sequential(norm(4), ReLU(), ReLU()),
    "block": lambda norm, rng: Sequential(
        Residual(Sequential(Conv2d(4, 4, 1, rng=rng), norm(4), ReLU(), Sequential(norm(4)))), ReLU()),
    "block with projection": lambda norm, rng: Sequential(
        Residual(Sequential(Conv2d(4, 8, 3, 2, 1, rng=rng), norm(8)),
                 Sequential(Conv2d(4, 8, 1, 2, rng=rng), norm(8))), ReLU()),
    "block without relu": lambda norm, rng: Sequential(Residual(norm(4)), Conv2d(4, 2, 1, rng=rng)),
    "block that ends in relu": lambda norm, rng: Residual(Sequential(norm(4), ReLU())),
    "of a convolution": lambda norm, rng: Sequential(Residual(Conv2d(4, 4, 1, rng=rng)), ReLU(), norm(4)),
    "of a block": lambda norm, rng: Sequential(Residual(Sequential(Residual(norm(4)), ReLU())), ReLU()),
    "branches": lambda norm, rng: Concat(
        Sequential(Conv2d(4, 3, 1, rng=rng), norm(3), ReLU()), Sequential(MaxPool2d(3, 1, 1), norm(4)),
        Sequential(norm(4), ReLU())),
}


class Unfused(Conv2d):
    """A convolution that does nothing besides."""

    fuses = ()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool", [(2,), (3, 2), (3, 1, 1), (3, 2, 1, 2, True)], ids=str)
@every_layout
def test_relu_before_max_pooling_has_the_gradient_of_the_pooled_map(pool, layout, training, rng):
    x = np.rint(floats(rng, (3, 4, 9, 10), layout))     # equal values in a window, and zeros
    x[0, :, 3, 4] = np.nan
    models = [Sequential(conv(4, 5, 3, padding=1, rng=np.random.default_rng(1)), ReLU(), MaxPool2d(*pool))
              for conv in (Conv2d, Unfused)]
    for model in models:
        model.train(training)
        model[0].weight.data[...] = np.rint(4 * model[0].weight.data)
    together, alone = (model(x) for model in models)
    assert_same_bits(together, alone, "output")
    dy = floats(rng, alone.shape, layout)
    models[0][1].backward = None
    assert_same_bits(models[0].backward(dy), models[1].backward(dy), "gradient of x")
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert_same_bits(one.grad, other.grad, "gradient of a parameter")


@pytest.mark.parametrize("training", [True, False])
@every_layout
@pytest.mark.parametrize("create", NETWORKS.values(), ids=NETWORKS)
def test_layers_together_give_the_bits_of_layers_alone(create, layout, training, rng):
    x = floats(rng, (3, 4, 6, 7), layout)
    together, alone = (create(norm, np.random.default_rng(1)) for norm in (BatchNorm2d, Alone))
    together.train(training)
    alone.train(training)
    for _ in range(2):
        y, expected = together(x), alone(x)
        assert_same_bits(y, expected, "output")
        dy = floats(rng, y.shape, layout)
        assert_same_bits(together.backward(dy), alone.backward(dy), "gradient of x")
        for one, other in zip(together.parameters(), alone.parameters(), strict=True):
            assert_same_bits(one.grad, other.grad, "gradient of a parameter")
    for (name, one), (_, other) in zip(together.named_buffers(), alone.named_buffers(), strict=True):
        np.testing.assert_array_equal(one, other, name)


class Apart(Conv2d):
    """A convolution that leaves sums of gradients to others."""

    backward_adds = False


class Halved(Conv2d):
    """A convolution with a backward of its own."""

    def backward(self, grad_output):
        return super().backward(grad_output * np.float32(0.5))


class Doubled(Layer):
    def forward(self, x):
        return self._save(x + x)

    def backward(self, grad_output):
        self._restore(grad_output)
        return grad_output + grad_output


def bottleneck(conv, rng, channels=6, stride=1):
    return Sequential(conv(6, 4, 1, rng=rng), BatchNorm2d(4), ReLU(),
                      conv(4, channels, 3, stride, 1, rng=rng), BatchNorm2d(channels))


def inception(conv, rng):
    return Concat(Sequential(conv(6, 3, 1, rng=rng), ReLU()),
                  Sequential(conv(6, 2, 1, rng=rng), BatchNorm2d(2), ReLU(),
                             conv(2, 4, 3, padding=1, rng=rng)),
                  Sequential(conv(6, 1, 1, rng=rng), ReLU(), conv(1, 2, 5, padding=2, rng=rng), ReLU()),
                  Sequential(MaxPool2d(3, 1, 1), conv(6, 3, 1, rng=rng)))


# Networks of which the gradients of an array that is read twice are summed.
SUMMED = {
    "block": lambda conv, rng: Sequential(Residual(bottleneck(conv, rng)), ReLU()),
    "block with projection": lambda conv, rng: Sequential(
        Residual(bottleneck(conv, rng, 8, 2), Sequential(conv(6, 8, 1, 2, rng=rng), BatchNorm2d(8))), ReLU()),
    "block that adds by itself": lambda conv, rng: Sequential(
        Residual(Sequential(conv(6, 6, 3, padding=1, rng=rng), Doubled())), ReLU()),
    "block that begins with a relu": lambda conv, rng: Residual(
        Sequential(conv(6, 6, 1, rng=rng), ReLU(), conv(6, 6, 3, padding=1, rng=rng))),
    "block of one convolution": lambda conv, rng: Sequential(Residual(conv(6, 6, 1, rng=rng)), ReLU()),
    "block of a sequence of one": lambda conv, rng: Residual(Sequential(conv(6, 6, 1, rng=rng))),
    "block of nothing": lambda conv, rng: Residual(Sequential()),
    "nested": lambda conv, rng: Residual(
        Sequential(Sequential(bottleneck(conv, rng), ReLU()), Residual(bottleneck(conv, rng)),
                   Sequential(conv(6, 6, 1, rng=rng), Sequential(BatchNorm2d(6))))),
    "block with another backward": lambda conv, rng: Residual(
        Sequential(Halved(6, 6, 1, rng=rng), BatchNorm2d(6))),
    "branches": inception,
    "branches behind each other": lambda conv, rng: Sequential(
        inception(conv, rng), Residual(Sequential(conv(12, 6, 1, rng=rng), ReLU(), inception(conv, rng)))),
    "branches of other layers": lambda conv, rng: Concat(
        Sequential(Doubled()), conv(6, 2, 1, rng=rng), Doubled(), Halved(6, 3, 1, rng=rng),
        conv(6, 2, 1, rng=rng)),
    "one branch": lambda conv, rng: Concat(conv(6, 2, 1, rng=rng)),
}


@pytest.mark.parametrize("needed", [True, False])
@every_layout
@pytest.mark.parametrize("create", SUMMED.values(), ids=SUMMED)
def test_sums_of_gradients_have_the_bits_of_sums_apart(create, layout, needed, rng):
    x = floats(rng, (3, 6, 8, 7), layout)
    together, apart = (create(conv, np.random.default_rng(1)) for conv in (Conv2d, Apart))
    together.needs_input_grad = apart.needs_input_grad = needed
    for _ in range(2):
        y = together(x)
        assert_same_bits(y, apart(x), "output")
        dy = floats(rng, y.shape, layout)
        dx, summed = together.backward(dy), apart.backward(dy)
        assert (dx is None) == (summed is None)
        if dx is not None:
            assert_same_bits(dx, summed, "gradient of x")
        for one, other in zip(together.parameters(), apart.parameters(), strict=True):
            assert_same_bits(one.grad, other.grad, "gradient of a parameter")


@pytest.mark.parametrize(("create", "sums"), [
    ("block", 0), ("block with projection", 0), ("block that adds by itself", 0), ("branches", 1),
    ("block of one convolution", 1)])
def test_convolutions_sum_gradients_where_they_can(create, sums, rng):
    model = SUMMED[create](Conv2d, rng)
    y = model(floats(rng, (2, 6, 8, 8), LAYOUTS[1]))
    with fastconv.profile() as p:
        model.backward(floats(rng, y.shape, LAYOUTS[1]))
    assert [record.op for record in p.records].count("add") == sums


def test_a_layer_with_a_backward_of_its_own_adds_nothing(rng):
    assert not Halved.backward_adds
    assert not Sequential(Halved(6, 6, 1, rng=rng)).backward_adds
    assert not Sequential().backward_adds
    assert Sequential(Sequential(Conv2d(6, 6, 1, rng=rng))).backward_adds


@pytest.mark.parametrize("training", [True, False])
def test_relu_behind_linear_gives_the_bits_of_layers_alone(training, rng):
    class Alone(Linear):
        fuses = ()

    x = floats(rng, (3, 7))
    models = [Sequential(kind(7, 5, rng=np.random.default_rng(1)), ReLU(),
                         kind(5, 2, rng=np.random.default_rng(2))) for kind in (Linear, Alone)]
    models[0][1].forward = models[0][1].backward = None
    together, alone = (model.train(training)(x) for model in models)
    assert_same_bits(together, alone, "output")
    assert_same_bits(models[0].compile(x.shape)(x), alone, "plan")
    dy = floats(rng, alone.shape)
    assert_same_bits(models[0].backward(dy), models[1].backward(dy), "gradient of x")
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert_same_bits(one.grad, other.grad, "gradient of a parameter")


def test_layers_work_together_where_they_can(rng):
    relu, last = ReLU(), ReLU()
    body = Sequential(Conv2d(4, 4, 1, rng=rng), BatchNorm2d(4), relu, BatchNorm2d(4))
    model = Sequential(Residual(body), last)
    for layer in (relu, last):
        layer.forward = layer.backward = None
    model.backward(model(floats(rng, (2, 4, 3, 3))))
    assert model.fuses == ()


def test_a_layer_with_a_forward_of_its_own_does_nothing_besides(rng):
    class DoubledNorm(BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    assert DoubledNorm.fuses == ()
    x = floats(rng, (2, 4, 3, 3))
    assert_same_bits(Sequential(DoubledNorm(4), ReLU())(x), F.relu(2 * BatchNorm2d(4)(x)), "relu behind it")


# ---- optimisers ---------------------------------------------------------------------------------------


class Parameter:
    def __init__(self, data, grad):
        self.data, self.grad = data, grad


@pytest.mark.parametrize("create", [
    lambda p: SGD(p, 0.1, weight_decay=0.01), lambda p: SGD(p, 0.1, 0.9, 0.3, 0.01),
    lambda p: SGD(p, 0.1, 0.9, nesterov=True), lambda p: Adam(p, 0.1, weight_decay=0.01)])
def test_steps_have_the_same_bits_for_any_thread_count_and_instruction_set(create, rng):
    """Large enough for a team; without fused multiply-adds the bits are others."""
    data, grad = floats(rng, (1201, 1003)), floats(rng, (1201, 1003))
    first = {}
    for isa, threads in RUNS:
        parameter = Parameter(data.copy(), grad.copy())
        optimizer = create([parameter])
        with using_isa(isa), fastconv.num_threads(threads):
            optimizer.step()
            optimizer.step()
            norm = clip_grad_norm([parameter], 1)
        expected = first.setdefault(isa != "baseline", (parameter.data, norm))
        assert_same_bits(parameter.data, expected[0], f"{isa}, {threads} threads")
        assert norm == next(iter(first.values()))[1]
