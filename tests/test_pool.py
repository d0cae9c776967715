"""Pooling and its gradients against the reference."""

import numpy as np
import pytest
from check import U, assert_same_bits, check_op, in_layout, using_isa
from hypothesis import given, settings
from hypothesis import strategies as st
from views import check_out_views, check_views

import fastconv
from fastconv import functional, reference

CASES = {
    "one pixel": dict(x=(1, 1, 1, 1), kernel_size=1),
    "LeNet pool1": dict(x=(3, 6, 28, 28), kernel_size=2),
    "LeNet pool2": dict(x=(2, 16, 10, 10), kernel_size=2),
    "AlexNet": dict(x=(1, 64, 13, 13), kernel_size=3, stride=2),
    "ResNet": dict(x=(1, 19, 14, 15), kernel_size=3, stride=2, padding=1),
    "GoogLeNet, ceil mode": dict(x=(2, 3, 14, 14), kernel_size=3, stride=2, ceil_mode=True),
    "GoogLeNet, stride 1": dict(x=(2, 16, 7, 7), kernel_size=3, stride=1, padding=1),
    "side by side, blocks of rows": dict(x=(2, 64, 56, 56), kernel_size=2),
    "side by side, pixels left": dict(x=(2, 6, 33, 31), kernel_size=2),
    "side by side, three channels": dict(x=(3, 3, 20, 22), kernel_size=(3, 4)),
    "side by side, nine channels": dict(x=(2, 9, 13, 14), kernel_size=(4, 3)),
    "side by side, one window": dict(x=(2, 4, 3, 3), kernel_size=3),
    "odd everything": dict(x=(3, 5, 13, 11), kernel_size=(3, 2), stride=(1, 3), padding=(1, 0)),
    "stride larger than kernel": dict(x=(2, 6, 11, 12), kernel_size=2, stride=(3, 5)),
    "ceil mode, padding": dict(x=(2, 3, 8, 9), kernel_size=(3, 4), stride=(2, 3), padding=1, ceil_mode=True),
    "ceil mode, window dropped": dict(x=(1, 19, 5, 5), kernel_size=2, stride=3, padding=1, ceil_mode=True),
    "whole image": dict(x=(2, 64, 7, 6), kernel_size=(7, 6)),
    "kernel larger than image": dict(x=(1, 3, 2, 3), kernel_size=4, stride=1, padding=2),
    "256 taps": dict(x=(1, 3, 20, 19), kernel_size=16, stride=2),
    "289 taps": dict(x=(2, 19, 20, 19), kernel_size=17, stride=2, padding=3),
    "300 taps in a column": dict(x=(1, 1, 310, 2), kernel_size=(300, 1), stride=(4, 1)),
    "one row": dict(x=(2, 16, 1, 40), kernel_size=(1, 3)),
    "one column": dict(x=(2, 6, 50, 1), kernel_size=(5, 1), stride=(2, 1)),
    "no images": dict(x=(0, 3, 8, 8), kernel_size=2),
    "no channels": dict(x=(2, 0, 8, 8), kernel_size=2),
    "large": dict(x=(3, 16, 56, 56), kernel_size=3, stride=2, padding=1),
    "larger than a block": dict(x=(1, 2, 260, 263), kernel_size=3, stride=2, padding=1),
}
MAX_CASES = CASES | {
    "dilated": dict(x=(2, 6, 12, 13), kernel_size=3, dilation=2),
    "dilated and strided": dict(x=(2, 3, 15, 17), kernel_size=(3, 2), stride=(1, 2), padding=1,
                                dilation=(2, 3)),
    "dilated, ceil mode": dict(x=(1, 16, 12, 12), kernel_size=3, stride=2, padding=1, dilation=2,
                               ceil_mode=True),
    "windows without pixels": dict(x=(1, 3, 1, 1), kernel_size=2, padding=1, dilation=2),
}
AVG_CASES = CASES | {
    f"{name}, padding not counted": CASES[name] | dict(count_include_pad=False)
    for name in ("ResNet", "odd everything", "ceil mode, padding", "ceil mode, window dropped",
                 "kernel larger than image", "289 taps")
}
ADAPTIVE_CASES = {
    "global": dict(x=(2, 64, 7, 7), output_size=1),
    "even": dict(x=(2, 16, 12, 8), output_size=(6, 2)),
    "uneven": dict(x=(1, 19, 10, 7), output_size=(4, 3)),
    "AlexNet": dict(x=(1, 3, 13, 11), output_size=6),
    "larger than the image": dict(x=(2, 6, 3, 2), output_size=(7, 4)),
    "one pixel": dict(x=(1, 1, 1, 1), output_size=1),
    "no images": dict(x=(0, 3, 4, 4), output_size=2),
    "large": dict(x=(2, 16, 96, 96), output_size=(1, 7)),
}


def floats(rng, shape):
    return rng.standard_normal(shape).astype(np.float32)


def integers(rng, shape):
    """So few values that every window has ties."""
    return rng.integers(-2, 3, shape).astype(np.float32)


def specials(rng, shape):
    """NaN, infinities, zeros of both signs and denormals among numbers; ties of all of them."""
    values = [np.nan, -np.inf, np.inf, -0.0, 0.0, 1e-40, -1e-40, 1.5, -1.5]
    return rng.choice(np.array(values, np.float32), shape, p=[0.02, *[0.1225] * 8])


FILLS = {"integers": integers, "floats": floats, "specials": specials}


def split(case):
    return case["x"], {name: value for name, value in case.items() if name != "x"}


def area(size):
    return int(np.prod(reference.pair(size)))


def taps(options):
    return area(options["kernel_size"])


# ---- maximum ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("case", MAX_CASES)
def test_max_pool2d_matches_reference(case, fill, rng):
    shape, options = split(MAX_CASES[case])
    x = FILLS[fill](rng, shape)
    check_op("max_pool2d", [x], options)
    check_op("max_pool2d_argmax", [x], options)
    if taps(options) < 256:
        check_op("max_pool2d_argmax", [x], dict(options, behind_relu=True))


def backward_problem(case, fill, rng):
    shape, options = split(case)
    y, argmax = reference.max_pool2d_argmax(integers(rng, shape), **options)
    return [fill(rng, y.shape), argmax], dict(options, input_shape=shape)


@pytest.mark.parametrize("fill", ["integers", "floats"])
@pytest.mark.parametrize("case", MAX_CASES)
def test_max_pool2d_backward_matches_reference(case, fill, rng):
    arrays, options = backward_problem(MAX_CASES[case], FILLS[fill], rng)
    check_op("max_pool2d_backward", arrays, options, terms=taps(options))


@pytest.mark.parametrize("case", ["LeNet pool1", "odd everything", "289 taps", "dilated, ceil mode"])
@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_maxima_have_the_bits_of_their_pixels(case, layout, rng):
    shape, options = split(MAX_CASES[case])
    x = specials(rng, shape)
    for isa in fastconv.available_isas():
        with using_isa(isa):
            y, indices = functional.max_pool2d(in_layout(x, layout), **options, return_indices=True)
        expected, same = reference.max_pool2d(x, **options, return_indices=True)
        np.testing.assert_array_equal(indices, same)
        pixels = np.take_along_axis(x.reshape(*shape[:2], -1), indices.reshape(*shape[:2], -1), 2)
        assert_same_bits(y, pixels.reshape(y.shape), f"{isa}, {layout}")
        assert_same_bits(y, expected.astype(np.float32), f"{isa}, {layout}")
    assert indices.dtype == np.int64


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (17, 16)])
def test_one_nan_anywhere_in_a_window_wins(kernel, layout):
    """One image for each tap; every channel has the NaN."""
    count = area(kernel)
    x = np.full((count, 19, *kernel), np.inf, np.float32)
    x.reshape(count, 19, count)[np.arange(count), :, np.arange(count)] = np.nan
    for isa in fastconv.available_isas():
        with using_isa(isa):
            y, argmax = functional.max_pool2d_argmax(in_layout(x, layout), kernel)
            average = functional.avg_pool2d(in_layout(x, layout), kernel)
        assert np.isnan(y).all()
        assert np.isnan(average).all()
        assert (argmax[..., 0, 0] == np.arange(count)[:, None]).all()
        assert argmax.dtype == (np.uint8 if count <= 256 else np.int32)


def test_nan_stays_in_the_windows_that_meet_it(rng):
    x = floats(rng, (1, 19, 9, 9))
    x[0, 3, 4, 4] = np.nan
    met = np.zeros((19, 9, 9), bool)
    met[3, 3:6, 3:6] = True
    for y in (functional.max_pool2d(x, 3, 1, 1), functional.avg_pool2d(x, 3, 1, 1)):
        np.testing.assert_array_equal(np.isnan(y[0]), met)


@pytest.mark.parametrize("value", [0.0, -np.inf, 1e-40, np.nan])
def test_of_equal_maxima_the_first_wins_and_of_nans_the_last(value):
    x = np.full((2, 16, 6, 6), value, np.float32)
    _, argmax = functional.max_pool2d_argmax(x, 3)
    assert (argmax == (8 if np.isnan(value) else 0)).all()
    zeros = np.zeros((1, 16, 2, 2), np.float32)
    zeros[..., 0, 0] = -0.0
    assert np.signbit(functional.max_pool2d(zeros, 2)).all()  # -0 == 0: it came first


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("channels", [1, 3, 6, 9, 16, 19])
@pytest.mark.parametrize("options", [(2,), (3, 2, 1), ((2, 3), (2, 3)), ((3, 1), (3, 1)), (15, 1, 7)],
                         ids=str)
def test_behind_relu_what_is_cut_off_gets_no_gradient(options, channels, layout, rng):
    x = functional.relu(in_layout(floats(rng, (2, channels, 18, 17)) - np.float32(1.5), layout))
    x[0, 0, :4, :4] = np.nan
    y, argmax = functional.max_pool2d_argmax(x, *options)
    dy = in_layout(floats(rng, y.shape), layout)
    expected = functional.max_pool2d_backward(functional.relu_backward(dy, y), argmax, x.shape, *options)
    for isa in fastconv.available_isas():
        with using_isa(isa):
            cut_y, cut = functional.max_pool2d_argmax(x, *options, behind_relu=True)
            dx = functional.max_pool2d_backward(dy, cut, x.shape, *options)
        assert_same_bits(cut_y, y, isa)
        assert (cut == np.where(y <= 0, 255, argmax)).all()
        assert_same_bits(dx, expected, isa)


def test_windows_whose_positions_fill_a_byte_are_not_cut(rng):
    x = floats(rng, (1, 2, 16, 16))
    with pytest.raises(ValueError, match=r"behind_relu.*256 pixels, got kernel_size \(16, 16\)"):
        functional.max_pool2d_argmax(x, 16, behind_relu=True)


def test_padding_never_wins():
    x = np.full((1, 19, 4, 4), -np.inf, np.float32)
    y, indices = functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert (y == -np.inf).all()
    np.testing.assert_array_equal(indices[0, 0], [[0, 1], [4, 5]])


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
def test_max_pooling_keeps_denormals_both_ways(layout):
    x = np.full((1, 19, 4, 4), -1e-40, np.float32)
    x[..., 1::2, ::2] = 1e-40
    y, argmax = functional.max_pool2d_argmax(in_layout(x, layout), 2)
    assert (y == np.float32(1e-40)).all()
    dx = functional.max_pool2d_backward(y, argmax, x.shape, 2)
    np.testing.assert_array_equal(dx, np.where(x > 0, x, 0))


def test_gradients_reach_the_winner_alone(rng):
    x = floats(rng, (1, 19, 6, 6))
    y, argmax = functional.max_pool2d_argmax(x, 3, 1)
    for value in (np.nan, np.inf):
        dy = np.zeros_like(y)
        dy[0, 7, 1, 2] = value
        dx = functional.max_pool2d_backward(dy, argmax, x.shape, 3, 1)
        (where,) = np.argwhere(dx != 0)
        np.testing.assert_array_equal(dx[tuple(where)], value)
        assert x[tuple(where)] == y[0, 7, 1, 2]


# ---- average ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", AVG_CASES)
def test_avg_pool2d_matches_reference(case, rng):
    shape, options = split(AVG_CASES[case])
    x = floats(rng, shape)
    dy = floats(rng, reference.avg_pool2d(x, **options).shape)
    check_op("avg_pool2d", [x], options, terms=taps(options))
    check_op("avg_pool2d_backward", [dy], dict(options, input_shape=shape), terms=taps(options))


@pytest.mark.parametrize("case", ADAPTIVE_CASES)
def test_adaptive_avg_pool2d_matches_reference(case, rng):
    shape, options = split(ADAPTIVE_CASES[case])
    x = floats(rng, shape)
    dy = floats(rng, (*shape[:2], *reference.pair(options["output_size"])))
    check_op("adaptive_avg_pool2d", [x], options, terms=shape[2] * shape[3])
    check_op("adaptive_avg_pool2d_backward", [dy], dict(input_shape=shape), terms=dy.shape[2] * dy.shape[3])
    if options["output_size"] == 1:
        check_op("global_avg_pool2d", [x], terms=shape[2] * shape[3])


@pytest.mark.parametrize("kernel", [1, 2, (4, 1), (8, 4)])
def test_averages_of_powers_of_two_are_exact(kernel, rng):
    """Dividing by the area rounds nothing."""
    height, width = reference.pair(kernel)
    x = (height * width * rng.integers(-9, 10, (2, 19, 16, 8))).astype(np.float32)
    dy = x[:, :, :16 // height, :8 // width]
    check_op("avg_pool2d", [x], dict(kernel_size=kernel), terms=height * width)
    check_op("avg_pool2d_backward", [dy], dict(input_shape=x.shape, kernel_size=kernel), terms=1)


def test_the_average_of_a_constant_image_is_the_constant(rng):
    """Where padding is not counted, up to the rounding of 9 terms."""
    x = np.full((1, 19, 13, 11), 0.7, np.float32)
    y = functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
    np.testing.assert_allclose(y, np.float32(0.7), rtol=(2 * 3 + 4) * U)


# ---- any geometry -----------------------------------------------------------------------------------


@st.composite
def geometries(draw, dilated):
    def pairs(low, high):
        return st.tuples(st.integers(low, high), st.integers(low, high))
    kernel, stride = draw(pairs(1, 5)), draw(st.none() | pairs(1, 6))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    dilation = draw(pairs(1, 3)) if dilated else (1, 1)
    reach = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = [max(1, r) + extra for r, extra in zip(reach, draw(pairs(0, 12)), strict=True)]
    case = dict(x=(draw(st.integers(0, 3)), draw(st.integers(1, 40)), *size), kernel_size=kernel,
                stride=stride, padding=padding, ceil_mode=draw(st.booleans()))
    return case | (dict(dilation=dilation) if dilated else dict(count_include_pad=draw(st.booleans())))


ANY = dict(max_examples=25, deadline=None, derandomize=True, database=None)


@settings(**ANY)
@given(case=geometries(dilated=True), seed=st.integers(0, 2**32 - 1))
def test_max_pool2d_of_any_geometry_matches_reference(case, seed):
    rng = np.random.default_rng(seed)
    shape, options = split(case)
    check_op("max_pool2d_argmax", [specials(rng, shape)], options)
    arrays, options = backward_problem(case, integers, rng)
    check_op("max_pool2d_backward", arrays, options, terms=taps(options))


@settings(**ANY)
@given(case=geometries(dilated=False), seed=st.integers(0, 2**32 - 1))
def test_avg_pool2d_of_any_geometry_matches_reference(case, seed):
    rng = np.random.default_rng(seed)
    shape, options = split(case)
    x = floats(rng, shape)
    check_op("avg_pool2d", [x], options, terms=taps(options))
    dy = floats(rng, reference.avg_pool2d(x, **options).shape)
    check_op("avg_pool2d_backward", [dy], dict(options, input_shape=shape), terms=taps(options))


@settings(**ANY)
@given(x=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
       output_size=st.tuples(st.integers(1, 9), st.integers(1, 9)), seed=st.integers(0, 2**32 - 1))
def test_adaptive_avg_pool2d_of_any_geometry_matches_reference(x, output_size, seed):
    rng = np.random.default_rng(seed)
    check_op("adaptive_avg_pool2d", [floats(rng, x)], dict(output_size=output_size), terms=x[2] * x[3])
    dy = floats(rng, (*x[:2], *output_size))
    check_op("adaptive_avg_pool2d_backward", [dy], dict(input_shape=x), terms=area(output_size))


# ---- memory of the arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["odd everything", "289 taps", "LeNet pool1"])
@pytest.mark.parametrize("op", ["max_pool2d_argmax", "max_pool2d_backward", "avg_pool2d",
                                "avg_pool2d_backward", "adaptive_avg_pool2d",
                                "adaptive_avg_pool2d_backward", "global_avg_pool2d"])
def test_any_strides_give_the_bits_of_a_contiguous_copy(op, case, rng):
    shape, options = split(CASES[case])
    if op == "max_pool2d_backward":
        arrays, options = backward_problem(CASES[case], floats, rng)
    elif op == "avg_pool2d_backward":
        arrays = [floats(rng, reference.avg_pool2d(np.zeros(shape), **options).shape)]
        options["input_shape"] = shape
    elif op == "adaptive_avg_pool2d_backward":
        arrays, options = [floats(rng, (*shape[:2], 3, 2))], dict(input_shape=shape)
    else:
        arrays = [floats(rng, shape)]
        options = {"adaptive_avg_pool2d": dict(output_size=(3, 2)), "global_avg_pool2d": {}}.get(op, options)
    check_views(op, arrays, options)
    check_out_views(op, arrays, options)


# ---- torch ------------------------------------------------------------------------------------------


def torch_s(op, x, **options):
    torch = pytest.importorskip("torch")
    if not x.shape[1]:
        pytest.skip("torch refuses images without channels")
    results = getattr(torch.nn.functional, op)(torch.from_numpy(x), **options)
    return [result.numpy() for result in results] if isinstance(results, tuple) else results.numpy()


@pytest.mark.parametrize("case", [name for name in MAX_CASES if name != "windows without pixels"])
def test_max_pool2d_and_its_indices_are_torch_s(case, rng):
    shape, options = split(MAX_CASES[case])
    for fill in (integers, specials):
        x = fill(rng, shape)
        y, indices = functional.max_pool2d(x, **options, return_indices=True)
        their_y, their_indices = torch_s("max_pool2d", x, **options, return_indices=True)
        np.testing.assert_array_equal(y, their_y)
        np.testing.assert_array_equal(indices, their_indices)


@pytest.mark.parametrize("case", AVG_CASES)
def test_the_reference_averages_as_torch_does(case, rng):
    """Integers, whose sums are exact: only torch's division rounds."""
    shape, options = split(AVG_CASES[case])
    x = integers(rng, shape)
    theirs = torch_s("avg_pool2d", x, **options)
    np.testing.assert_allclose(reference.avg_pool2d(x, **options), theirs, rtol=U)


@pytest.mark.parametrize("case", ADAPTIVE_CASES)
def test_the_reference_averages_adaptively_as_torch_does(case, rng):
    """Integers, whose sums are exact: torch divides twice, by the height and by the width."""
    shape, options = split(ADAPTIVE_CASES[case])
    x = integers(rng, shape)
    theirs = torch_s("adaptive_avg_pool2d", x, **options)
    np.testing.assert_allclose(reference.adaptive_avg_pool2d(x, **options), theirs, rtol=3 * U)
