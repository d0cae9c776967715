"""The functions of fastconv.h: the bits of fastconv.functional, and an error for every wrong argument."""

import ctypes
import gc
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from c_api import CODES, TABLE, Error, call, tensor
from script import run_script

import fastconv
from fastconv import functional as F

LAYOUTS = ("nchw", "channels-last")
RELU = CODES["FASTCONV_RELU"]


def floats(rng, *shape, layout="nchw"):
    if layout == "nchw":
        return rng.standard_normal(shape).astype(np.float32)
    n, c, h, w = shape
    return rng.standard_normal((n, h, w, c)).astype(np.float32).transpose(0, 3, 1, 2)


def poisoned(shape, layout="nchw", dtype=np.float32):
    if layout == "nchw":
        return np.full(shape, 123, dtype)
    n, c, h, w = shape
    return np.full((n, h, w, c), 123, dtype).transpose(0, 3, 1, 2)


def equal(actual, expected):
    np.testing.assert_array_equal(actual.view(np.int32), expected.view(np.int32))


def size_of(name, *arguments):
    size = (ctypes.c_ssize_t * 2)()
    call(name, *arguments, ctypes.addressof(size))
    return tuple(size)


# ---- the process ------------------------------------------------------------------------------------


def test_versions_and_instruction_set():
    assert TABLE.library_version().decode() == fastconv.__version__
    assert TABLE.isa().decode() == fastconv.isa()


def test_every_status_has_a_text():
    texts = {TABLE.status_text(value) for name, value in CODES.items() if value < 0 or name == "FASTCONV_OK"}
    assert len(texts) == 7
    assert TABLE.status_text(-99) not in texts


def test_threads_are_those_of_python():
    before = fastconv.get_num_threads()
    assert TABLE.num_threads() == before
    assert TABLE.set_num_threads(7) == before
    assert fastconv.get_num_threads() == 7
    assert TABLE.limit_threads(3) == 0
    assert (fastconv.get_num_threads(), TABLE.num_threads()) == (3, 3)
    assert TABLE.limit_threads(0) == 3
    assert TABLE.set_num_threads(before) == 7


@pytest.mark.parametrize(("name", "threads"), [("set_num_threads", 0), ("set_num_threads", 1025),
                                               ("limit_threads", -1), ("limit_threads", 1025)])
def test_wrong_numbers_of_threads_are_refused(name, threads):
    with pytest.raises(Error, match=f"FASTCONV_BAD_OPTION: threads .* {threads}"):
        call(name, threads)


def test_each_thread_has_its_own_last_error():
    def fail(threads, messages):
        TABLE.limit_threads(threads)
        barrier.wait()
        messages.append(TABLE.last_error().decode())

    barrier, messages = threading.Barrier(2), []
    workers = [threading.Thread(target=fail, args=(threads, messages)) for threads in (-1, -2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {message[-2:] for message in messages} == {"-1", "-2"}


# ---- conv2d -----------------------------------------------------------------------------------------

CONVS = {
    "plain": dict(x=(2, 5, 9, 8), w=(7, 5, 3, 2)),
    "everything": dict(x=(2, 6, 13, 11), w=(8, 3, 3, 3), stride=(2, 1), padding=((1, 2), (0, 3)),
                       dilation=(1, 2), groups=2),
    "depthwise": dict(x=(1, 8, 12, 12), w=(8, 1, 3, 3), padding=((1, 1), (1, 1)), groups=8),
    "winograd": dict(x=(1, 32, 14, 14), w=(32, 32, 3, 3), padding=((1, 1), (1, 1)), algorithm="winograd"),
    "a team's": dict(x=(4, 64, 28, 28), w=(64, 64, 3, 3), padding=((1, 1), (1, 1))),
    "no images": dict(x=(0, 5, 9, 8), w=(7, 5, 3, 2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CONVS)
def test_conv2d_has_the_bits_of_functional(case, layout, rng):
    options = dict(CONVS[case])
    x, w = floats(rng, *options.pop("x"), layout=layout), floats(rng, *options.pop("w"))
    bias = floats(rng, len(w))
    conv = dict(options, algorithm=CODES[f"FASTCONV_{options.get('algorithm', 'auto').upper()}"])
    expected = F.conv2d(x, w, bias, **options)
    y = poisoned(expected.shape, layout)
    assert size_of("conv2d_output_size", conv, x, w) == y.shape[2:]
    call("conv2d_forward", conv, x, w, bias, None, y)
    equal(y, expected)
    residual = floats(rng, *y.shape, layout=layout)
    call("conv2d_forward", dict(conv, activation=RELU), x, w, None, residual, y)
    equal(y, F.conv2d(x, w, residual=residual, activation="relu", **options))

    dy = floats(rng, *y.shape, layout=layout)
    dx, dw, dbias = poisoned(x.shape, layout), poisoned(w.shape), poisoned(bias.shape)
    call("conv2d_backward_input", conv, dy, w, dx)
    equal(dx, F.conv2d_backward_input(dy, w, x.shape, **options))
    call("conv2d_backward_weight", conv, dy, x, dw)
    equal(dw, F.conv2d_backward_weight(dy, x, w.shape, **options))
    call("backward_bias", dy, dbias)
    equal(dbias, F.conv2d_backward_bias(dy))


def test_any_strides(rng):
    x = floats(rng, 2, 6, 20, 22)[:, ::-2, ::2, 1::3]
    w = floats(rng, 3, 4, 5, 5).transpose(3, 0, 2, 1)[:, :, :3, :3]
    y = np.zeros((5, 8, 7, 2), np.float32).transpose(3, 0, 1, 2)[:, :, :, :5]
    call("conv2d_forward", dict(), x, w, None, None, y)
    equal(y, np.ascontiguousarray(F.conv2d(x, w)))


def test_channels_of_one_array_may_be_read_and_others_written(rng):
    both = np.moveaxis(floats(rng, 2, 6, 6, 8), 3, 1)
    before, w = both.copy(), floats(rng, 5, 3, 1, 1)
    call("conv2d_forward", dict(), both[:, :3], w, None, None, both[:, 3:])
    equal(both[:, :3].copy(), before[:, :3].copy())
    equal(both[:, 3:].copy(), F.conv2d(before[:, :3].copy(), w).copy())
    with pytest.raises(Error, match=r"FASTCONV_OVERLAP: y .* x"):
        call("conv2d_forward", dict(), both[:, :3], w, None, None, both[:, 2:7])


# ---- linear -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [0, 1, 5, 200])
def test_linear_has_the_bits_of_functional(images, rng):
    x, w, bias, dy = floats(rng, images, 30), floats(rng, 30, 17).T, floats(rng, 17), floats(rng, images, 17)
    y, dx, dw = poisoned(dy.shape), poisoned(x.shape), poisoned(w.shape)
    call("linear_forward", x, w, bias, y)
    equal(y, F.linear(x, w, bias))
    call("linear_backward_input", dy, w, dx)
    equal(dx, F.linear_backward_input(dy, w))
    call("linear_backward_weight", dy, x, dw)
    equal(dw, np.ascontiguousarray(F.linear_backward_weight(dy, x)))


# ---- pooling ----------------------------------------------------------------------------------------

POOLS = {
    "LeNet": dict(kernel=(2, 2), stride=(2, 2)),
    "ResNet": dict(kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    "everything": dict(kernel=(3, 2), stride=(2, 3), padding=(1, 0), dilation=(2, 3), ceil_mode=1),
    "289 pixels": dict(kernel=(17, 17), stride=(1, 3), padding=(4, 8)),
}


def of_functional(pool):
    """The same options with PyTorch's names."""
    return {"kernel_size" if name == "kernel" else name: bool(value) if name == "ceil_mode" else value
            for name, value in pool.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", POOLS)
def test_max_pool2d_has_the_bits_of_functional(case, layout, rng):
    pool, options, x = POOLS[case], of_functional(POOLS[case]), floats(rng, 2, 5, 19, 21, layout=layout)
    expected, positions = F.max_pool2d_argmax(x, **options)
    y, argmax = poisoned(expected.shape, layout), np.zeros(expected.shape, positions.dtype)
    assert size_of("pool2d_output_size", pool, x) == y.shape[2:]
    call("max_pool2d_forward", pool, x, y, argmax)
    equal(y, expected)
    call("max_pool2d_forward", pool, x, y, None)
    equal(y, expected)
    dy, dx = floats(rng, *y.shape, layout=layout), poisoned(x.shape, layout)
    call("max_pool2d_backward", pool, dy, argmax, dx)
    equal(dx, F.max_pool2d_backward(dy, positions, x.shape, **options))


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [case for case, pool in POOLS.items() if "dilation" not in pool])
def test_avg_pool2d_has_the_bits_of_functional(case, layout, counted, rng):
    pool = dict(POOLS[case], count_include_pad=counted)
    options, x = of_functional(pool), floats(rng, 2, 5, 19, 21, layout=layout)
    expected = F.avg_pool2d(x, **options)
    y, dx = poisoned(expected.shape, layout), poisoned(x.shape, layout)
    dy = floats(rng, *y.shape, layout=layout)
    call("avg_pool2d_forward", pool, x, y)
    equal(y, expected)
    call("avg_pool2d_backward", pool, dy, dx)
    equal(dx, F.avg_pool2d_backward(dy, x.shape, **options))


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (20, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_adaptive_avg_pool2d_has_the_bits_of_functional(layout, size, rng):
    x, dy = floats(rng, 2, 5, 9, 8, layout=layout), floats(rng, 2, 5, *size, layout=layout)
    y, dx = poisoned(dy.shape, layout), poisoned(x.shape, layout)
    call("adaptive_avg_pool2d_forward", x, y)
    equal(y, F.adaptive_avg_pool2d(x, size))
    call("adaptive_avg_pool2d_backward", dy, dx)
    equal(dx, F.adaptive_avg_pool2d_backward(dy, x.shape))


# ---- activations and batch normalisation --------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 1003])
@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh"])
def test_activations_have_the_bits_of_functional(name, count, rng):
    kind, x, dy = CODES[f"FASTCONV_{name.upper()}"], floats(rng, count), floats(rng, count)
    y, dx = poisoned(count), poisoned(count)
    call("activation_forward", kind, count, x, y)
    equal(y, getattr(F, name)(x))
    call("activation_backward", kind, count, dy, y, dx)
    equal(dx, getattr(F, f"{name}_backward")(dy, y))
    call("activation_forward", kind, count, x, x)
    equal(x, y)
    call("activation_backward", kind, count, dy, y, dy)
    equal(dy, dx)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_in_training_has_the_bits_of_functional(layout, activation, rng):
    shape, relu = (3, 6, 5, 7), RELU if activation else 0
    x, residual, dy = (floats(rng, *shape, layout=layout) for _ in range(3))
    weight, bias, running_mean, running_var = (floats(rng, 6) for _ in range(4))
    means, variances = running_mean.copy(), running_var.copy()
    expected, mean, invstd = F.batch_norm_train(x, weight, bias, means, variances, 0.3, 1e-3,
                                                residual=residual, activation=activation)
    norm = dict(weight=weight, bias=bias, running_mean=running_mean, running_var=running_var, momentum=0.3,
                eps=1e-3, training=1, activation=relu)
    y, m, s = poisoned(shape, layout), poisoned(6), poisoned(6)
    call("batch_norm_forward", norm, x, residual, y, m, s)
    equal(y, expected)
    for actual, wanted in ((m, mean), (s, invstd), (running_mean, means), (running_var, variances)):
        equal(actual, wanted)

    dx, dresidual = poisoned(shape, layout), poisoned(shape, layout)
    dweight, dbias = poisoned(6), poisoned(6)
    call("batch_norm_backward", norm, dy, x, m, s, y if relu else None, dx, dresidual if relu else None,
         dweight, dbias)
    wanted = F.batch_norm_backward(dy, x, mean, invstd, weight, y=y if relu else None, return_residual=True)
    for actual, gradient in zip((dx, dweight, dbias, dresidual if relu else dy), wanted, strict=True):
        equal(actual, gradient)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_in_inference_has_the_bits_of_functional(layout, rng):
    x, weight, mean = floats(rng, 2, 6, 5, 7, layout=layout), floats(rng, 6), floats(rng, 6)
    var, y = floats(rng, 6) ** 2, poisoned(x.shape, layout)
    norm = dict(weight=weight, running_mean=mean, running_var=var)
    call("batch_norm_forward", norm, x, None, y, None, None)
    equal(y, F.batch_norm(x, mean, var, weight))
    call("batch_norm_forward", norm, x, None, x, None, None)
    equal(x, y)


# ---- errors -----------------------------------------------------------------------------------------

X, W, Y, V = (2, 4, 6, 7), (8, 4, 3, 3), (2, 8, 4, 5), (8,)
POOLED = (2, 4, 3, 3)
# A call of each function that works: shapes stand for arrays.
VALID = {
    "conv2d_forward": [dict(), X, W, V, Y, Y],
    "conv2d_backward_input": [dict(), Y, W, X],
    "conv2d_backward_weight": [dict(), Y, X, W],
    "conv2d_output_size": [dict(), X, W, V],
    "backward_bias": [Y, V],
    "pool2d_output_size": [POOLS["LeNet"], X, V],
    "max_pool2d_forward": [POOLS["LeNet"], X, POOLED, None],
    "max_pool2d_backward": [POOLS["LeNet"], POOLED, POOLED, X],
    "avg_pool2d_forward": [POOLS["LeNet"], X, POOLED],
    "avg_pool2d_backward": [POOLS["LeNet"], POOLED, X],
    "adaptive_avg_pool2d_forward": [X, POOLED],
    "adaptive_avg_pool2d_backward": [POOLED, X],
    "activation_forward": [RELU, 8, V, V],
    "activation_backward": [RELU, 8, V, V, V],
    "batch_norm_forward": [dict(training=1), X, X, X, V, V],
    "batch_norm_backward": [dict(training=1, activation=RELU), X, X, V, V, X, X, X, V, V],
    "linear_forward": [(2, 4), (8, 4), V, (2, 8)],
    "linear_backward_input": [(2, 8), (8, 4), (2, 4)],
    "linear_backward_weight": [(2, 8), (2, 4), (8, 4)],
}


def arrays_of(name):
    return [np.ones(a, np.float32) if isinstance(a, tuple) else a for a in VALID[name]]


def refused(name, status, words, changes):
    """The valid call with other arguments at some places fails and leaves the arrays as they were."""
    arguments = arrays_of(name)
    for place, value in changes.items():
        arguments[place] = value
    with pytest.raises(Error, match=f"{status}.*{re.escape(words)}"):
        call(name, *arguments)
    for argument in arguments:
        if isinstance(argument, np.ndarray) and argument.flags.c_contiguous:
            assert (argument == 1).all()


@pytest.mark.parametrize("name", VALID)
def test_the_unchanged_call_works(name):
    call(name, *arrays_of(name))


TENSORS = [(name, place) for name, arguments in VALID.items() for place, value in enumerate(arguments)
           if isinstance(value, tuple) and len(value) > 1 and (name, place) != ("max_pool2d_backward", 2)]
OPTIONAL = {("conv2d_forward", 4), ("batch_norm_forward", 2), ("batch_norm_backward", 7)}


@pytest.mark.parametrize(("name", "place"), TENSORS)
def test_wrong_tensors_are_refused(name, place):
    shape = VALID[name][place]
    array = np.ones(shape, np.float32)
    if (name, place) not in OPTIONAL:
        refused(name, "FASTCONV_BAD_POINTER", "NULL", {place: None})
    if "output_size" not in name:
        for data, words in ((0, "NULL"), (array.ctypes.data + 2, "aligned")):
            bad = tensor(array)
            bad.data = data
            refused(name, "FASTCONV_BAD_POINTER", words, {place: bad})
        far = tensor(array)
        far.stride[0] = 2**62
        refused(name, "FASTCONV_BAD_LAYOUT", "stride[0]", {place: far})
    small = tensor(array)
    small.struct_size -= 1
    refused(name, "FASTCONV_BAD_OPTION", "struct_size", {place: small})
    for sizes, words in (({0: -1}, "-1"), ({0: 2**62}, "2^56"), ({0: 2**40, 1: 2**40}, "2^56")):
        bad = tensor(array)
        for axis, size in sizes.items():
            bad.size[axis] = size
        refused(name, "FASTCONV_BAD_SHAPE", words, {place: bad})


def axes_that_must_fit(name, shape):
    """The pooled size of an adaptive pooling may be any, as the sizes of what is summed over."""
    if name == "backward_bias" or "output_size" in name:
        return ()
    return range(2) if name.startswith("adaptive") else range(len(shape))


@pytest.mark.parametrize(("name", "place"), TENSORS)
def test_shapes_that_do_not_fit_are_refused(name, place):
    shape = VALID[name][place]
    for axis in axes_that_must_fit(name, shape):
        other = tuple(extent + 2 * (i == axis) for i, extent in enumerate(shape))
        refused(name, "FASTCONV_BAD_SHAPE", "", {place: np.ones(other, np.float32)})


# Where the result is that must not overlap: at the end.
RESULTS = {name: len(arguments) - 1 - (name == "max_pool2d_forward") for name, arguments in VALID.items()
           if name.startswith(("conv2d_forward", "conv2d_back", "max", "avg", "adaptive", "linear"))}


@pytest.mark.parametrize(("name", "place"), [pair for pair in TENSORS if pair[0] in RESULTS])
def test_overlaps_are_refused(name, place):
    result = RESULTS[name]
    if place == result:
        place = next(p for n, p in TENSORS if n == name and p != result)
    memory = np.ones(4096, np.float32)
    of = {p: memory[:int(np.prod(VALID[name][p]))].reshape(VALID[name][p]) for p in (place, result)}
    refused(name, "FASTCONV_OVERLAP", "overlap", of)
    assert (memory == 1).all()


@pytest.mark.parametrize("name", RESULTS)
def test_results_that_repeat_elements_are_refused(name):
    place = RESULTS[name]
    repeated = np.broadcast_to(np.ones(1, np.float32), VALID[name][place])
    refused(name, "FASTCONV_BAD_LAYOUT", "repeat", {place: repeated})


@pytest.mark.parametrize(("name", "place"), [
    ("conv2d_forward", 4), ("backward_bias", 0), *[("batch_norm_forward", p) for p in (1, 2, 3)],
    *[("batch_norm_backward", p) for p in (1, 2, 5, 6, 7)]])
def test_other_layouts_are_refused_where_they_must_be_dense(name, place):
    shape = VALID[name][place]
    wide = np.ones((*shape[:3], 2 * shape[3]), np.float32)[..., ::2]
    refused(name, "FASTCONV_BAD_LAYOUT", "stride", {place: wide})


def test_rows_of_linear_must_be_contiguous():
    refused("linear_forward", "FASTCONV_BAD_LAYOUT", "x must have contiguous rows",
            {0: np.ones((4, 2), np.float32).T})
    refused("linear_forward", "FASTCONV_BAD_LAYOUT", "y must have contiguous rows",
            {3: np.ones((8, 2), np.float32).T})


@pytest.mark.parametrize(("options", "words"), [
    *[(dict(stride=value), "stride must be") for value in ((0, 1), (1, -1), (2**31, 1))],
    *[(dict(dilation=value), "dilation must be") for value in ((0, 1), (1, 2**31))],
    *[(dict(padding=((0, 0), value)), "padding must be") for value in ((-1, 0), (0, 2**31))],
    *[(dict(groups=value), "groups must") for value in (0, -1, 3, 2**40)],
    *[(dict(algorithm=value), "algorithm must be") for value in (-1, 3)],
    *[(dict(activation=value), "activation must be") for value in (-1, 2, 3)],
    (dict(algorithm=2, stride=(3, 3)), "FASTCONV_WINOGRAD needs"),
    (dict(struct_size=80), "conv.struct_size"),
])
@pytest.mark.parametrize("name", [name for name in VALID if name.startswith("conv2d")])
def test_wrong_options_of_conv2d_are_refused(name, options, words):
    refused(name, "FASTCONV_BAD_OPTION", words, {0: options})


def test_filters_larger_than_the_image_are_refused():
    for options in (dict(dilation=(3, 1)), dict(dilation=(1, 2**31 - 1))):
        refused("conv2d_output_size", "FASTCONV_BAD_SHAPE", "larger than x", {0: options})


@pytest.mark.parametrize(("options", "words"), [
    *[(dict(kernel=value), "kernel must be") for value in ((0, 2), (2, -1), (2**31, 2))],
    *[(dict(stride=value), "stride must be") for value in ((0, 1), (1, 2**31))],
    *[(dict(padding=value), "padding must be") for value in ((-1, 0), (0, 2))],
    *[(dict(dilation=value), "dilation must be") for value in ((0, 1), (1, 2**31))],
    (dict(struct_size=8), "pool.struct_size"),
])
@pytest.mark.parametrize("name", [name for name in VALID if re.match("(max_|avg_)?pool2d", name)])
def test_wrong_options_of_pooling_are_refused(name, options, words):
    refused(name, "FASTCONV_BAD_OPTION", words, {0: POOLS["LeNet"] | options})


def test_averages_have_no_dilation():
    refused("avg_pool2d_forward", "FASTCONV_BAD_OPTION", "dilation", {
        0: dict(kernel=(2, 2), stride=(2, 2), dilation=(2, 2)), 2: np.ones((2, 4, 2, 3), np.float32)})


def test_positions_of_max_pooling_are_needed_and_aligned():
    refused("max_pool2d_backward", "FASTCONV_BAD_POINTER", "argmax must not be NULL", {2: None})
    x, y = np.ones((1, 1, 17, 17), np.float32), np.ones((1, 1, 1, 1), np.float32)
    positions = np.ones(2, np.int32)
    with pytest.raises(Error, match=r"FASTCONV_BAD_POINTER: argmax .*aligned"):
        call("max_pool2d_forward", dict(kernel=(17, 17), stride=(1, 1)), x, y, positions.ctypes.data + 1)


@pytest.mark.parametrize("name", ["activation_forward", "activation_backward"])
def test_wrong_spans_are_refused(name):
    for kind in (0, -1, 4):
        refused(name, "FASTCONV_BAD_OPTION", "activation", {0: kind})
    for place in range(2, len(VALID[name])):
        refused(name, "FASTCONV_BAD_POINTER", "NULL", {place: None})
        refused(name, "FASTCONV_BAD_SHAPE", "2^56", {1: 2**63 + 5})
    memory = np.ones(9, np.float32)
    refused(name, "FASTCONV_OVERLAP", "overlap", {2: memory[:8], len(VALID[name]) - 1: memory[1:]})


@pytest.mark.parametrize(("options", "words"), [
    *[(dict(momentum=value), "momentum must be") for value in (-0.1, 1.5, np.nan)],
    *[(dict(eps=value), "eps must be") for value in (-1e-9, np.inf, np.nan)],
    (dict(activation=2), "activation must be"),
    (dict(struct_size=56), "norm.struct_size"),
])
@pytest.mark.parametrize("name", ["batch_norm_forward", "batch_norm_backward"])
def test_wrong_options_of_batch_norm_are_refused(name, options, words):
    refused(name, "FASTCONV_BAD_OPTION", words, {0: VALID[name][0] | options})


def test_missing_arrays_of_batch_norm_are_refused():
    for place in (4, 5):
        refused("batch_norm_forward", "FASTCONV_BAD_POINTER", "NULL", {place: None})
    for place in (3, 4, 8, 9):
        refused("batch_norm_backward", "FASTCONV_BAD_POINTER", "NULL", {place: None})
    refused("batch_norm_forward", "FASTCONV_BAD_POINTER", "running_mean must not be NULL", {0: dict()})
    refused("batch_norm_backward", "FASTCONV_BAD_POINTER", "y must be NULL", {0: dict(training=1)})
    refused("batch_norm_backward", "FASTCONV_BAD_POINTER", "dresidual must be NULL",
            {0: dict(training=1), 5: None})
    one = np.ones((1, 4, 1, 1), np.float32)
    refused("batch_norm_forward", "FASTCONV_BAD_SHAPE", "more than one value", {
        1: one, 2: one.copy(), 3: one.copy()})


def test_no_memory_is_a_status():
    script = f"""
        import resource, sys
        import numpy as np
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from c_api import Error, call
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        x, y = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
        try:
            call("adaptive_avg_pool2d_forward", np.broadcast_to(x, (1, 1, 2**30, 1)), y)
        except Error as error:
            print(error)
    """
    assert run_script(script).startswith("FASTCONV_NO_MEMORY")


# ---- the profiler ---------------------------------------------------------------------------------------


def pairs(rng):
    """(call from C, call from Python) of each function, of the same arrays."""
    x, w, bias = floats(rng, 2, 8, 12, 12, layout="channels-last"), floats(rng, 16, 8, 3, 3), floats(rng, 16)
    conv = options = dict(padding=((1, 1), (1, 0)), stride=(2, 1))
    y, residual, dx = F.conv2d(x, w, bias, **options), F.conv2d(x, w, **options), np.empty_like(x)
    dw = np.empty_like(w)
    yield (lambda: call("conv2d_forward", dict(conv, activation=RELU), x, w, bias, residual, y),
           lambda: F.conv2d(x, w, bias, residual=residual, activation="relu", **options))
    direct = dict(conv, algorithm=CODES["FASTCONV_DIRECT"])
    yield (lambda: call("conv2d_backward_input", direct, y, w, dx),
           lambda: F.conv2d_backward_input(y, w, x.shape, algorithm="direct", **options))
    yield (lambda: call("conv2d_backward_weight", conv, y, x, dw),
           lambda: F.conv2d_backward_weight(y, x, w.shape, **options))
    yield lambda: call("backward_bias", y, bias.copy()), lambda: F.conv2d_backward_bias(y)

    a, m, b = floats(rng, 3, 20), floats(rng, 16, 20), floats(rng, 3, 16)
    yield lambda: call("linear_forward", a, m, bias, b), lambda: F.linear(a, m, bias)
    yield lambda: call("linear_backward_input", b, m, a), lambda: F.linear_backward_input(b, m)
    yield lambda: call("linear_backward_weight", b, a, m), lambda: F.linear_backward_weight(b, a)

    pool = dict(kernel=(3, 2), stride=(2, 2), padding=(1, 1))
    pooled, argmax = F.max_pool2d_argmax(x, (3, 2), 2, 1)
    yield (lambda: call("max_pool2d_forward", pool, x, pooled, argmax),
           lambda: F.max_pool2d_argmax(x, (3, 2), 2, 1))
    yield lambda: call("max_pool2d_forward", pool, x, pooled, None), lambda: F.max_pool2d(x, (3, 2), 2, 1)
    yield (lambda: call("max_pool2d_backward", pool, pooled, argmax, dx),
           lambda: F.max_pool2d_backward(pooled, argmax, x.shape, (3, 2), 2, 1))
    yield lambda: call("avg_pool2d_forward", pool, x, pooled), lambda: F.avg_pool2d(x, (3, 2), 2, 1)
    yield (lambda: call("avg_pool2d_backward", pool, pooled, dx),
           lambda: F.avg_pool2d_backward(pooled, x.shape, (3, 2), 2, 1))
    few = np.empty((2, 8, 5, 3), np.float32)
    yield lambda: call("adaptive_avg_pool2d_forward", x, few), lambda: F.adaptive_avg_pool2d(x, (5, 3))
    yield (lambda: call("adaptive_avg_pool2d_backward", few, dx),
           lambda: F.adaptive_avg_pool2d_backward(few, x.shape))

    yield lambda: call("activation_forward", RELU, 60, a, a.copy()), lambda: F.relu(a.ravel())
    yield (lambda: call("activation_backward", RELU, 60, a, a, a.copy()),
           lambda: F.relu_backward(a.ravel(), a.ravel()))

    of_channel = [floats(rng, 8) ** 2 for _ in range(6)]
    weight, shift, mean, invstd, dweight, dshift = of_channel
    norm = dict(weight=weight, bias=shift, running_mean=mean, running_var=invstd)
    normal, gone = np.empty_like(x), np.empty_like(x)
    yield (lambda: call("batch_norm_forward", dict(norm, activation=RELU), x, dx, normal, None, None),
           lambda: F.batch_norm(x, mean, invstd, weight, shift, residual=dx, activation="relu"))
    yield (lambda: call("batch_norm_forward", dict(norm, training=1), x, None, normal, mean, invstd),
           lambda: F.batch_norm_train(x, weight, shift))
    for training in (0, 1):
        plain = dict(norm, training=training)
        yield (lambda plain=plain: call("batch_norm_backward", plain, dx, x, mean, invstd, None, gone, None,
                                        dweight, dshift),
               lambda training=training: F.batch_norm_backward(dx, x, mean, invstd, weight, bool(training)))
    yield (lambda: call("batch_norm_backward", dict(norm, training=1, activation=RELU), dx, x, mean, invstd,
                        normal, gone, np.empty_like(x), dweight, dshift),
           lambda: F.batch_norm_backward(dx, x, mean, invstd, weight, y=normal, return_residual=True))


def test_a_profile_sees_calls_from_c_as_those_from_python(rng):
    seen = set()
    for from_c, from_python in pairs(rng):
        with fastconv.profile() as p:
            from_c()
            from_python()
        ours, theirs = p.records
        for name in ("op", "shapes", "layout", "algorithm", "isa", "thread", "flops", "bytes", "convolution"):
            assert getattr(ours, name) == getattr(theirs, name), (ours, theirs)
        assert 0 <= ours.start < ours.start + ours.seconds <= theirs.start
        assert ours.threads >= 1
        seen.add(ours.op)
    functions = [name for name, _ in TABLE._fields_ if re.search("forward|backward", name)]
    assert len(seen) == len(functions) - 2  # adaptive pooling is one with the other


def test_a_profile_sees_calls_while_it_is_open_and_those_that_succeed(rng):
    x, w = floats(rng, 1, 64, 56, 56, layout="channels-last"), floats(rng, 64, 64, 1, 1)
    y = np.empty_like(x)
    with fastconv.profile() as outer:
        call("conv2d_forward", {}, x, w, None, None, y)
        with pytest.raises(Error):
            call("conv2d_forward", {}, x, w, None, None, x)
        with fastconv.profile() as inner:
            caller = threading.Thread(target=call, args=("conv2d_forward", {}, x, w, None, None, y))
            caller.start()
            caller.join()
            assert len(inner.records) == 1
    call("conv2d_forward", {}, x, w, None, None, y)
    assert (len(outer.records), len(inner.records)) == (2, 1)
    first, second = outer.records
    assert first.thread != second.thread
    assert set(first.phases) >= {"multiply"}
    with fastconv.profile() as p:
        pass
    assert p.records == []


def test_calls_that_a_profile_keeps_take_little_memory_and_give_it_back(rng):
    x = floats(rng, 8)
    gc.collect()  # what tests before this one have left to it
    before = fastconv.memory_stats()["used_bytes"]
    with fastconv.profile() as p:
        for _ in range(1000):
            call("activation_forward", RELU, 8, x, x)
        assert fastconv.memory_stats()["used_bytes"] - before < 1 << 20
        assert len(p.records) == 1000
        assert fastconv.memory_stats()["used_bytes"] == before


def test_calls_that_began_before_a_profile_are_not_of_it(rng):
    x, w = floats(rng, 16, 64, 56, 56, layout="channels-last"), floats(rng, 64, 64, 3, 3)
    y = np.empty((16, 64, 54, 54), np.float32)
    with fastconv.profile():  # so that the call is kept
        caller = threading.Thread(target=call, args=("conv2d_forward", {}, x, w, None, None, y))
        caller.start()
        time.sleep(1e-3)  # the call takes more than ten times as long
        with fastconv.profile() as p:
            caller.join()
    assert p.records == []
