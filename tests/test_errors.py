"""Wrong arguments: an exception that names the argument and its value, never a crash or a silent result."""

import math
import re

import numpy as np
import pytest
from script import run_script

import fastconv
from fastconv import functional

X, W, B = (2, 4, 6, 7), (8, 4, 3, 3), (8,)
DY = (2, 8, 4, 5)  # of X with W and no padding
CONV = {
    "conv2d": dict(x=X, weight=W, bias=B),
    "conv2d_backward_input": dict(grad_output=DY, weight=W, input_shape=X, addend=X),
    "conv2d_backward_weight": dict(grad_output=DY, x=X, weight_shape=W),
}
POOL = {
    "max_pool2d": dict(x=X),
    "max_pool2d_argmax": dict(x=X),
    "avg_pool2d": dict(x=X),
    "avg_pool2d_backward": dict(grad_output=(2, 4, 3, 3), input_shape=X),
}
ADAPTIVE = {
    "adaptive_avg_pool2d": dict(x=X),
    "adaptive_avg_pool2d_backward": dict(grad_output=(2, 4, 3, 2), input_shape=X),
    "global_avg_pool2d": dict(x=X),
}
NORM = {
    "batch_norm": dict(x=X, running_mean=(4,), running_var=(4,), weight=(4,), bias=(4,)),
    "batch_norm_train": dict(x=X, weight=(4,), bias=(4,), running_mean=(4,), running_var=(4,)),
    "batch_norm_backward": dict(grad_output=X, x=X, mean=(4,), invstd=(4,), weight=(4,), bias=(4,)),
}
LOCAL = {
    "local_response_norm": dict(x=X),
    "local_response_norm_backward": dict(grad_output=X, x=X),
}
STEPS, STATE, OF_GATES = (3, 4, 6), (3, 6), (3, 4, 24)
WEIGHTS, RNN_WEIGHTS = dict(weight_ih=(24, 5), weight_hh=(24, 6)), dict(weight_ih=(6, 5), weight_hh=(6, 6))
LSTM = dict(x=(3, 4, 5), h0=STATE, c0=STATE, **WEIGHTS, bias_ih=(24,), bias_hh=(24,))
RECURRENT = {
    "lstm": LSTM,
    "lstm_train": LSTM,
    "lstm_backward": dict(grad_output=STEPS, x=(3, 4, 5), h0=STATE, c0=STATE, **WEIGHTS, output=STEPS,
                          cells=STEPS, gates=OF_GATES, grad_h_n=STATE, grad_c_n=STATE),
    "rnn_tanh": dict(x=(3, 4, 5), h0=STATE, **RNN_WEIGHTS, bias_ih=(6,), bias_hh=(6,)),
    "rnn_tanh_backward": dict(grad_output=STEPS, x=(3, 4, 5), h0=STATE, **RNN_WEIGHTS, output=STEPS,
                              grad_h_n=STATE),
}
LINEAR = {
    "linear": dict(x=(3, 5), weight=(7, 5), bias=(7,)),
    "linear_backward_input": dict(grad_output=(3, 7), weight=(7, 5)),
    "linear_backward_weight": dict(grad_output=(3, 7), x=(3, 5)),
}
SUMS = {
    "conv2d_backward_bias": dict(grad_output=DY),
    "linear_backward_bias": dict(grad_output=(3, 7)),
}
ACTIVATIONS = {
    **{op: dict(x=(3, 5)) for op in ("relu", "sigmoid", "tanh", "softmax", "log_softmax", "dropout")},
    **{f"{op}_backward": dict(grad_output=(3, 5), y=(3, 5)) for op in ("relu", "sigmoid", "tanh")},
}
CALLS = CONV | POOL | ADAPTIVE | NORM | LOCAL | RECURRENT | LINEAR | SUMS | ACTIVATIONS
OPTIONS = {**{op: dict(kernel_size=2) for op in POOL}, **{op: dict(size=5) for op in LOCAL},
           "adaptive_avg_pool2d": dict(output_size=(3, 2))}
# And weight, of NORM.
MAY_BE_NONE = {"addend", "bias", "bias_ih", "bias_hh", "running_mean", "running_var", "grad_h_n", "grad_c_n"}
APART = CONV | POOL | ADAPTIVE | LINEAR | SUMS  # out must not overlap an argument
ARRAYS = [(op, name) for op, arguments in CALLS.items() for name in arguments if not name.endswith("_shape")]


def valid(op):
    """Arguments of a call that works."""
    return {name: value if name.endswith("_shape") else np.ones(value, np.float32)
            for name, value in CALLS[op].items()} | OPTIONS.get(op, {})


def result_shape(op):
    result = getattr(functional, op)(**valid(op))
    return (result[0] if isinstance(result, tuple) else result).shape


def refuses(error, words, op, **changes):
    """The call with these changes raises `error`; its message holds every one of `words`."""
    arguments = valid(op) | changes
    with pytest.raises(error) as caught:
        getattr(functional, op)(**arguments)
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


@pytest.mark.parametrize("op", CALLS)
def test_the_unchanged_call_works(op):
    getattr(functional, op)(**valid(op))


# ---- arrays -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool", "complex64", ">f4", "O"])
@pytest.mark.parametrize(("op", "name"), ARRAYS)
def test_other_dtypes_are_refused(op, name, dtype):
    array = np.ones(valid(op)[name].shape, dtype)
    refuses(TypeError, [name, "float32", str(array.dtype)], op, **{name: array})


@pytest.mark.parametrize("value", [[[[[1.0]]]], 1.0, "image", None, b"\0\0\0\0"])
@pytest.mark.parametrize(("op", "name"), [pair for pair in ARRAYS if pair[1] not in MAY_BE_NONE])
def test_other_objects_are_refused(op, name, value):
    if value is None and name == "weight" and op in NORM:
        pytest.skip("batch normalisation without a weight")
    refuses(TypeError, [name, "float32"], op, **{name: value})


@pytest.mark.parametrize(("op", "name"), [pair for pair in ARRAYS if pair[0] not in ACTIVATIONS])
def test_other_numbers_of_axes_are_refused(op, name):
    array = valid(op)[name]
    for other in (np.array(array[0]), array[None], np.ones((), np.float32)):
        refuses(ValueError, [name, str(other.shape)], op, **{name: other})


def test_torchs_input_without_a_batch_axis_is_refused():
    refuses(ValueError, ["x", "4 axes", str(X[1:])], "conv2d", x=np.ones(X[1:], np.float32))


def test_an_image_with_another_number_of_channels_is_refused():
    refuses(ValueError, ["weight", "7", str(W)], "conv2d", x=np.ones((2, 7, 5, 6), np.float32))


@pytest.mark.parametrize(("op", "name", "shape"), [
    ("conv2d", "weight", (8, 3, 3, 3)),
    ("conv2d", "weight", (4, 8, 3, 3)),
    ("conv2d", "weight", (8, 4, 0, 3)),
    ("conv2d", "weight", (8, 4, 7, 3)),
    ("conv2d", "weight", (8, 4, 3, 8)),
    ("conv2d", "bias", (7,)),
    ("conv2d", "bias", (0,)),
    ("conv2d_backward_input", "grad_output", (2, 8, 4, 4)),
    ("conv2d_backward_input", "grad_output", (2, 4, 4, 5)),
    ("conv2d_backward_input", "grad_output", (1, 8, 4, 5)),
    ("conv2d_backward_input", "weight", (8, 3, 3, 3)),
    ("conv2d_backward_weight", "grad_output", (2, 8, 5, 4)),
    ("conv2d_backward_weight", "grad_output", (3, 8, 4, 5)),
])
def test_shapes_that_do_not_fit_are_refused(op, name, shape):
    refuses(ValueError, [name, str(shape)], op, **{name: np.ones(shape, np.float32)})


@pytest.mark.parametrize("value", [(2, 4, 6), (2, 4, 6, 7, 1), (2, 4, 6, -7), ()])
@pytest.mark.parametrize(("op", "name"), [("conv2d_backward_input", "input_shape"),
                                          ("conv2d_backward_weight", "weight_shape")])
def test_shapes_of_other_lengths_are_refused(op, name, value):
    refuses(ValueError, [name, str(value)], op, **{name: value})


@pytest.mark.parametrize("value", [None, 4, "2467", (2, 4, 6.0, 7), (2, 4, None, 7)])
@pytest.mark.parametrize(("op", "name"), [("conv2d_backward_input", "input_shape"),
                                          ("conv2d_backward_weight", "weight_shape")])
def test_shapes_of_other_things_are_refused(op, name, value):
    refuses(TypeError, [name, repr(value)], op, **{name: value})


# ---- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", CONV)
@pytest.mark.parametrize("name", ["stride", "dilation"])
@pytest.mark.parametrize("value", [0, -1, (1, 0), (-2, 1), 2**31, 2**70, (1, -2**70)])
def test_strides_and_dilations_out_of_range_are_refused(op, name, value):
    number = next(n for n in (value if isinstance(value, tuple) else (value,)) if not 0 < n < 2**31)
    refuses(ValueError, [name, str(number)], op, **{name: value})


@pytest.mark.parametrize("op", CONV)
@pytest.mark.parametrize("value", [-1, (0, -1), ((0, 0), (0, -1)), ((-3, 0), (0, 0)), 2**31, 2**70])
def test_paddings_out_of_range_are_refused(op, value):
    number = re.search(r"-\d+|\d{6,}", str(value)).group()
    refuses(ValueError, ["padding", number], op, padding=value)


@pytest.mark.parametrize("op", CONV)
@pytest.mark.parametrize("name", ["stride", "dilation", "padding"])
@pytest.mark.parametrize("value", [1.0, 1.5, None, (1, 1.0), (1, None), (1, 1, 1), (1,), np.float32(1), str])
def test_options_that_are_not_ints_are_refused(op, name, value):
    refuses(TypeError, [name, repr(value)], op, **{name: value})


@pytest.mark.parametrize("op", CONV)
@pytest.mark.parametrize("value", [0, -1, 3, 5, 16, 2**62, 2**70])
def test_groups_that_do_not_divide_the_channels_are_refused(op, value):
    refuses(ValueError, ["groups", str(value)], op, groups=value)


@pytest.mark.parametrize("op", CONV)
@pytest.mark.parametrize("value", [1.0, "1", None, (1, 1)])
def test_groups_that_are_not_an_int_are_refused(op, value):
    refuses(TypeError, ["groups", repr(value)], op, groups=value)


@pytest.mark.parametrize("op", CONV)
def test_unknown_words_are_refused(op):
    refuses(ValueError, ["padding", "'SAME'"], op, padding="SAME")
    refuses(ValueError, ["padding", "'reflect'"], op, padding="reflect")
    refuses(ValueError, ["algorithm", "'fft'", *fastconv.algorithms()], op, algorithm="fft")
    refuses(ValueError, ["padding", "same", "stride", "(2, 2)"], op, padding="same", stride=2)


def test_torchs_words_that_do_not_exist_here_are_refused():
    with pytest.raises(TypeError, match="padding_mode"):
        functional.conv2d(**valid("conv2d"), padding_mode="reflect")
    with pytest.raises(TypeError, match="input"):
        functional.conv2d(input=np.ones(X, np.float32), weight=np.ones(W, np.float32))


def test_numbers_from_numpy_are_ints(rng):
    x, w = rng.standard_normal(X).astype(np.float32), rng.standard_normal((8, 2, 3, 3)).astype(np.float32)
    plain = functional.conv2d(x, w, None, 2, 1, 1, 2)
    two, one = np.int64(2), np.uint8(1)
    np.testing.assert_array_equal(functional.conv2d(x, w, None, two, one, one, two), plain)
    np.testing.assert_array_equal(functional.conv2d(x, w, None, [two, two], np.array([1, 1]), 1, 2), plain)
    dx = functional.conv2d_backward_input(plain, w, np.array(x.shape), 2, 1, 1, 2)
    assert dx.shape == x.shape


# ---- options of the other operations ----------------------------------------------------------------


@pytest.mark.parametrize("op", POOL)
@pytest.mark.parametrize(("name", "value"), [
    *[(name, value) for name in ("kernel_size", "stride") for value in (0, -1, (1, 0), 2**31, 2**70)],
    *[("padding", value) for value in (-1, (0, -1), 2, (1, 2), 2**70)],
    ("kernel_size", (8, 2)), ("kernel_size", (2, 10)),
])
def test_windows_out_of_range_are_refused(op, name, value):
    refuses(ValueError, [name, str(value)], op, **{name: value})


@pytest.mark.parametrize("op", ["max_pool2d", "max_pool2d_argmax"])
@pytest.mark.parametrize("value", [0, (1, -3), 7, 2**31])
def test_dilations_of_windows_out_of_range_are_refused(op, value):
    refuses(ValueError, ["dilation", str(value)], op, dilation=value)


@pytest.mark.parametrize("op", POOL)
@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding"])
@pytest.mark.parametrize("value", [1.0, (1, 1.5), (1, 1, 1), "2"])
def test_windows_that_are_not_ints_are_refused(op, name, value):
    refuses(TypeError, [name, repr(value)], op, **{name: value})


def test_positions_that_int32_cannot_hold_are_refused():
    huge = dict(kernel_size=(70000, 70000), padding=(35000, 35000))
    refuses(ValueError, ["kernel_size", "70000"], "max_pool2d_argmax", **huge)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ((2, -1), ValueError), (1.5, TypeError),
                                              (None, TypeError), ((1, 2, 3), TypeError)])
def test_wrong_output_sizes_are_refused(value, error):
    refuses(error, ["output_size", str(value)], "adaptive_avg_pool2d", output_size=value)


def test_wrong_positions_are_refused():
    arguments = dict(grad_output=np.ones((2, 4, 3, 3), np.float32), input_shape=X, kernel_size=2)
    for argmax, error, word in ((np.zeros((2, 4, 3, 3), np.int64), TypeError, "int64"),
                                (np.zeros((2, 4, 3, 3), np.int32), TypeError, "int32"),
                                (None, TypeError, "NoneType"),
                                (np.zeros((2, 4, 3, 2), np.uint8), ValueError, "(2, 4, 3, 2)")):
        with pytest.raises(error, match=f"argmax.*{re.escape(word)}"):
            functional.max_pool2d_backward(argmax=argmax, **arguments)


@pytest.mark.parametrize(("op", "name", "shape"), [
    ("avg_pool2d_backward", "grad_output", (2, 4, 3, 4)),
    ("avg_pool2d_backward", "grad_output", (2, 3, 3, 3)),
    ("adaptive_avg_pool2d_backward", "grad_output", (2, 3, 3, 2)),
    ("batch_norm", "running_mean", (5,)),
    ("batch_norm", "running_var", (3,)),
    ("batch_norm_train", "weight", (0,)),
    ("batch_norm_train", "bias", (5,)),
    ("batch_norm_backward", "grad_output", (2, 4, 7, 6)),
    ("batch_norm_backward", "mean", (5,)),
    ("batch_norm_backward", "invstd", (1,)),
    ("batch_norm_backward", "bias", (5,)),
    ("local_response_norm_backward", "grad_output", (2, 4, 7, 6)),
    ("lstm", "x", (3, 0, 5)),
    ("lstm", "h0", (4, 6)),
    ("lstm", "c0", (3, 5)),
    ("lstm", "weight_ih", (6, 5)),
    ("lstm", "weight_hh", (24, 5)),
    ("lstm", "weight_hh", (0, 0)),
    ("lstm", "bias_ih", (6,)),
    ("lstm", "bias_hh", (25,)),
    ("lstm_backward", "grad_output", (3, 4, 7)),
    ("lstm_backward", "output", (3, 5, 6)),
    ("lstm_backward", "cells", (2, 4, 6)),
    ("lstm_backward", "gates", (3, 4, 6)),
    ("lstm_backward", "grad_h_n", (6,)),
    ("lstm_backward", "grad_c_n", (4, 6)),
    ("rnn_tanh", "weight_hh", (24, 6)),
    ("rnn_tanh_backward", "output", (3, 4, 5)),
    ("linear", "weight", (5, 7)),
    ("linear", "bias", (5,)),
    ("linear_backward_input", "weight", (5, 7)),
    ("linear_backward_weight", "grad_output", (4, 7)),
    ("relu_backward", "grad_output", (5, 3)),
    ("tanh_backward", "grad_output", (15,)),
])
def test_other_shapes_that_do_not_fit_are_refused(op, name, shape):
    refuses(ValueError, [name, str(shape)], op, **{name: np.ones(shape, np.float32)})


@pytest.mark.parametrize("op", ["batch_norm", "batch_norm_train"])
@pytest.mark.parametrize(("name", "value"), [
    *[("momentum", value) for value in (-0.1, 1.5, math.nan)],
    *[("eps", value) for value in (-1e-9, math.inf, math.nan)],
])
def test_options_of_batch_norm_out_of_range_are_refused(op, name, value):
    refuses(ValueError, [name, repr(value)], op, **{name: value})


@pytest.mark.parametrize("op", LOCAL)
@pytest.mark.parametrize(("name", "value", "error"), [
    *[("size", value, ValueError) for value in (0, -5, 2**31, 2**70)],
    *[("size", value, TypeError) for value in (5.0, None, (5, 5))],
    *[(name, value, ValueError) for name in ("alpha", "beta", "k") for value in (math.inf, math.nan)],
    *[(name, value, TypeError) for name in ("alpha", "beta", "k") for value in (None, "much")],
])
def test_wrong_options_of_local_response_norm_are_refused(op, name, value, error):
    refuses(error, [name, repr(value)], op, **{name: value})


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_evaluation_needs_the_running_averages(name):
    refuses(ValueError, [name, "training"], "batch_norm", **{name: None})


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_running_averages_that_cannot_be_updated_are_refused(name):
    fixed = np.ones(4, np.float32)
    fixed.flags.writeable = False
    refuses(TypeError, [name, "writable"], "batch_norm_train", **{name: fixed})
    refuses(ValueError, [name, "contiguous"], "batch_norm_train", **{name: np.ones(8, np.float32)[::2]})


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [2, -3, 100])
def test_axes_that_do_not_exist_are_refused(op, axis):
    refuses(ValueError, ["axis", str(axis)], op, axis=axis)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_probabilities_out_of_range_are_refused(p):
    refuses(ValueError, ["p must", repr(p)], "dropout", p=p)


# ---- out= -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", CALLS)
def test_a_wrong_out_is_refused(op):
    shape = result_shape(op)
    other = (shape[0] + 1, *shape[1:])
    refuses(ValueError, ["out", str(shape), str(other)], op, out=np.empty(other, np.float32))
    refuses(ValueError, ["out", "(3,)"], op, out=np.empty(3, np.float32))
    refuses(TypeError, ["out", "float64"], op, out=np.empty(shape))
    refuses(TypeError, ["out", "list"], op, out=[])
    refuses(ValueError, ["out", "aligned"], op,
            out=np.zeros(4 * int(np.prod(shape)) + 1, np.uint8)[1:].view(np.float32).reshape(shape))
    fixed = np.ones(shape, np.float32)
    fixed.flags.writeable = False
    refuses(TypeError, ["out", "writable"], op, out=fixed)
    assert (fixed == 1).all()


@pytest.mark.parametrize(("op", "name"), [pair for pair in ARRAYS if pair[0] in APART])
def test_an_out_that_overlaps_an_argument_is_refused(op, name):
    memory = np.ones(4096, np.float32)
    out, array = (memory[:math.prod(shape)].reshape(shape)
                  for shape in (result_shape(op), valid(op)[name].shape))
    refuses(ValueError, ["out", "overlap", name], op, out=out, **{name: array})
    assert (memory == 1).all()


@pytest.mark.parametrize("op", CALLS)
def test_an_out_whose_elements_share_memory_is_refused(op):
    shape = result_shape(op)
    out = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (0,) * len(shape))
    refuses(ValueError, ["out", str(out.strides)], op, out=out)


# ---- large numbers ----------------------------------------------------------------------------------


def test_a_stride_beyond_the_image_gives_one_output():
    x, w = np.ones(X, np.float32), np.ones(W, np.float32)
    y = functional.conv2d(x, w, stride=10**6)
    np.testing.assert_array_equal(y, np.full((2, 8, 1, 1), 36, np.float32))
    dw = functional.conv2d_backward_weight(y, x, W, stride=10**6)
    np.testing.assert_array_equal(dw, np.full(W, 72, np.float32))


def test_strides_whose_product_64_bits_cannot_say():
    dy, x = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 16, 1, 1), np.float32)
    dw = functional.conv2d_backward_weight(dy, x, (1, 16, 1, 1), stride=2**30)
    np.testing.assert_array_equal(dw, x)


@pytest.mark.parametrize("stride", [20, 10**6, 2**31 - 1])
def test_backward_input_of_a_stride_beyond_the_image(stride):
    script = f"""
        import numpy as np
        from fastconv import functional
        dy, w = np.ones((2, 8, 1, 1), np.float32), np.ones({W}, np.float32)
        dx = functional.conv2d_backward_input(dy, w, {X}, stride={stride})
        print((dx[:, :, :3, :3] == 8).all(), dx.sum() == 8 * 9 * 8)
    """
    assert run_script(script, timeout=10) == "True True"


LIMITED = """
    import resource
    import numpy as np
    from fastconv import functional
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    x, w = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 3), np.float32)
    dy = np.ones((1, 1, 4, 4), np.float32)
    try:
        print(CALL)
    except (MemoryError, ValueError) as error:
        print(type(error).__name__, error)
    print(functional.conv2d(x, w).sum())
"""
FAR = 2**30  # taps so far apart that only the middle one meets the image


@pytest.mark.parametrize(("call", "outcomes"), [
    ("functional.conv2d(x, w, padding=2**31 - 1)", ["MemoryError"]),
    ("functional.conv2d(x, w, padding=((0, 2**31 - 1), (0, 0)), out=dy)", ["ValueError out"]),
    (f"functional.conv2d(x, w, dilation={FAR}, padding={FAR}).sum()", ["16.0", "MemoryError"]),
    (f"functional.conv2d_backward_input(dy, w, x.shape, dilation={FAR}, padding={FAR}).sum()",
     ["16.0", "MemoryError"]),
    (f"functional.conv2d_backward_weight(dy, x, w.shape, dilation={FAR}, padding={FAR}).sum()",
     ["16.0", "MemoryError"]),
    ("functional.conv2d(x, w, dilation=2**31 - 1)", ["ValueError weight"]),
    ("functional.conv2d(x, w, padding=((2**31 - 1,) * 2,) * 2, stride=2**31 - 1).shape",
     ["(1, 1, 3, 3)", "MemoryError"]),
    ("functional.conv2d_backward_input(dy, w, (2**40, 2**40, 4, 4))", ["ValueError"]),
    ("functional.conv2d_backward_input(dy[..., :2, :2], w, (1, 1, 2**62, 2**62))", ["ValueError"]),
    ("functional.conv2d_backward_input(dy, w, (1, 1, 2**70, 4))", ["ValueError"]),
    ("functional.conv2d_backward_weight(dy, x, (1, 1, 2**62, 3))", ["ValueError"]),
    ("functional.conv2d(np.broadcast_to(x, (2**40, 1, 4, 4)), w)", ["MemoryError"]),
])
def test_huge_numbers_do_not_crash(call, outcomes):
    first, after = run_script(LIMITED.replace("CALL", call)).splitlines()
    assert first.startswith(tuple(outcomes)), first
    assert after == "36.0"
