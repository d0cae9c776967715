"""conv2d and its gradients against the reference: by the direct sum, which is exact on integers."""

import itertools

import numpy as np
import pytest
from check import assert_same_bits, check_op, using_isa
from guard import guard_pages
from hypothesis import given, settings
from hypothesis import strategies as st
from views import check_out_views, check_views

import fastconv
from fastconv import functional, reference

CASES = {
    "one pixel": dict(x=(1, 1, 1, 1), w=(1, 1, 1, 1)),
    "1x1": dict(x=(2, 19, 7, 7), w=(33, 19, 1, 1)),
    "1x1, stride 2": dict(x=(2, 5, 8, 9), w=(17, 5, 1, 1), stride=2),
    "1x1, stride 2, groups": dict(x=(3, 40, 9, 7), w=(54, 20, 1, 1), groups=2, stride=(2, 1)),
    "1x1, stride 3, two parts": dict(x=(2, 530, 7, 8), w=(130, 530, 1, 1), stride=3),
    "1x1, strips": dict(x=(3, 200, 5, 6), w=(290, 200, 1, 1)),
    "1x1, strips, stride 2, groups": dict(x=(2, 390, 7, 8), w=(580, 195, 1, 1), groups=2, stride=2),
    "1x1, strips, images of a pixel": dict(x=(70, 193, 1, 1), w=(280, 193, 1, 1)),
    "1x1, few outputs": dict(x=(2, 70, 9, 7), w=(5, 70, 1, 1)),
    "1x1, few outputs, stride 2": dict(x=(2, 40, 8, 9), w=(18, 40, 1, 1), stride=2),
    "1x1, few outputs, blocks": dict(x=(3, 600, 17, 14), w=(3, 600, 1, 1)),
    "1x1, padding": dict(x=(2, 4, 5, 5), w=(6, 4, 1, 1), padding=1),
    "LeNet conv1": dict(x=(3, 1, 32, 32), w=(6, 1, 5, 5)),
    "LeNet conv2": dict(x=(3, 6, 14, 14), w=(16, 6, 5, 5)),
    "LeNet conv3": dict(x=(3, 16, 5, 5), w=(120, 16, 5, 5)),
    "AlexNet conv1": dict(x=(1, 3, 47, 43), w=(20, 3, 11, 11), stride=4, padding=2),
    "ResNet conv1": dict(x=(1, 3, 30, 30), w=(40, 3, 7, 7), stride=2, padding=3),
    "VGG conv1": dict(x=(1, 3, 24, 20), w=(64, 3, 3, 3), padding=1),
    "7x7 map": dict(x=(2, 40, 7, 7), w=(72, 40, 3, 3), padding=1),
    "512 channels": dict(x=(1, 512, 3, 3), w=(16, 512, 3, 3), padding=1),
    "odd everything": dict(x=(3, 5, 13, 11), w=(7, 5, 3, 5), stride=(2, 1), padding=(1, 2)),
    "stride 3": dict(x=(2, 6, 14, 13), w=(9, 6, 3, 3), stride=3),
    "stride larger than filter": dict(x=(2, 3, 13, 14), w=(5, 3, 2, 1), stride=(4, 3)),
    "asymmetric padding": dict(x=(2, 4, 6, 7), w=(5, 4, 3, 3), padding=((2, 0), (1, 3))),
    "padding only behind": dict(x=(2, 3, 9, 9), w=(8, 3, 3, 3), stride=2, padding=((0, 1), (0, 1))),
    "padding wider than filter": dict(x=(1, 2, 3, 3), w=(3, 2, 2, 2), padding=4),
    "same": dict(x=(2, 4, 7, 6), w=(5, 4, 4, 3), padding="same"),
    "same, dilated": dict(x=(2, 4, 9, 9), w=(5, 4, 4, 3), padding="same", dilation=(1, 3)),
    "valid": dict(x=(2, 4, 7, 6), w=(5, 4, 4, 3), padding="valid"),
    "dilated": dict(x=(2, 4, 12, 12), w=(6, 4, 3, 3), dilation=2, padding=2),
    "dilated and strided": dict(x=(2, 4, 15, 17), w=(6, 4, 3, 3), dilation=(2, 3), stride=(3, 2), padding=3),
    "groups": dict(x=(2, 12, 8, 8), w=(18, 4, 3, 3), groups=3, padding=1),
    "depthwise": dict(x=(2, 19, 9, 9), w=(19, 1, 3, 3), groups=19, padding=1),
    "depthwise, stride 2": dict(x=(2, 16, 10, 9), w=(16, 1, 3, 3), groups=16, stride=2, padding=1),
    "depth multiplier": dict(x=(2, 6, 8, 8), w=(18, 1, 3, 3), groups=6, padding=1),
    "filter larger than x": dict(x=(2, 3, 2, 2), w=(4, 3, 5, 5), padding=2),
    "one row": dict(x=(2, 8, 1, 200), w=(8, 8, 1, 9), padding=(0, 4)),
    "one column": dict(x=(2, 8, 90, 1), w=(8, 8, 9, 1), padding=(4, 0)),
    "few outputs, long rows": dict(x=(1, 48, 4, 700), w=(3, 48, 3, 3), padding=1),
    "few outputs, many tiles": dict(x=(2, 3, 9, 33), w=(29, 3, 2, 3)),
    "few outputs, strided rows": dict(x=(2, 4, 17, 21), w=(5, 4, 3, 2), stride=(2, 1)),
    "few outputs, padding behind": dict(x=(3, 1, 40, 30), w=(2, 1, 5, 3), padding=((0, 0), (1, 9))),
    "few outputs, dilated": dict(x=(2, 1, 20, 40), w=(2, 1, 3, 3), dilation=3),
    "few outputs, grouped": dict(x=(2, 6, 10, 35), w=(6, 2, 3, 3), groups=3, padding=(0, 2)),
    "few outputs, many taps": dict(x=(2, 4, 13, 17), w=(4, 2, 5, 5), groups=2, stride=(2, 1), padding=(2, 1),
                                   dilation=(2, 1)),
    "few inputs, taps beside the image": dict(x=(2, 2, 9, 8), w=(30, 2, 3, 3), padding=3),
    "few inputs, asymmetric padding": dict(x=(2, 6, 12, 11), w=(18, 6, 5, 5), padding=((1, 0), (4, 2))),
    "few inputs, dilated rows": dict(x=(2, 1, 7, 10), w=(18, 1, 3, 7), padding=3, dilation=(2, 1)),
    "few outputs, filter larger than x": dict(x=(70, 1, 3, 3), w=(2, 1, 5, 5), padding=1),
    "few outputs, columns together": dict(x=(2, 2, 14, 12), w=(5, 2, 3, 4), stride=(2, 1),
                                          padding=((1, 0), (1, 2)), dilation=(2, 1)),
    "few outputs of narrow images": dict(x=(3, 20, 9, 10), w=(6, 20, 5, 5), padding=2),
    "many small images": dict(x=(70, 20, 7, 7), w=(40, 20, 3, 3), padding=1),
    "many small images, in place": dict(x=(70, 16, 7, 6), w=(24, 16, 1, 1), stride=2),
    "many small images, panels in place": dict(x=(150, 32, 7, 7), w=(64, 16, 1, 1), groups=2),
    "large image, panels in place": dict(x=(2, 10, 30, 31), w=(32, 10, 1, 1)),
    "many small images, groups": dict(x=(50, 12, 5, 5), w=(18, 4, 3, 3), groups=3),
    "no images": dict(x=(0, 3, 8, 8), w=(4, 3, 3, 3)),
    "no input channels": dict(x=(2, 0, 5, 5), w=(4, 0, 3, 3)),
    "no output channels": dict(x=(2, 3, 5, 5), w=(0, 3, 3, 3)),
    "no pixels but padding": dict(x=(2, 3, 0, 0), w=(4, 3, 3, 3), padding=2),
}
# Large enough to pay for a team of five with any instruction set: 7 to 10 million products each.
LARGE = {
    "large": dict(x=(2, 16, 28, 28), w=(32, 16, 3, 3), padding=1),
    "large, stride 2": dict(x=(2, 16, 65, 65), w=(32, 16, 3, 3), stride=2, padding=1),
    "large, few channels": dict(x=(1, 3, 64, 64), w=(32, 3, 5, 5), padding=2),
    "large, grouped": dict(x=(2, 32, 33, 33), w=(64, 8, 3, 3), groups=4, padding=1),
    "large, 1x1": dict(x=(2, 128, 20, 20), w=(96, 128, 1, 1)),
    "large, 1x1, strips of several blocks": dict(x=(2, 200, 25, 24), w=(290, 200, 1, 1)),
    "large, 1x1, chunks of several images": dict(x=(19, 430, 5, 9), w=(90, 430, 1, 1)),
    "large, 1x1, wide outputs": dict(x=(4, 24, 13, 14), w=(520, 24, 1, 1)),
    "large, 1x1, many weights": dict(x=(2, 530, 5, 6), w=(500, 530, 1, 1), stride=(2, 1)),
    "large, 1x1, stride 2, two parts": dict(x=(3, 600, 13, 14), w=(112, 600, 1, 1), stride=2),
    "large, few outputs": dict(x=(4, 32, 40, 72), w=(3, 32, 5, 5), padding=2),
    "large, few inputs": dict(x=(64, 6, 14, 14), w=(16, 6, 5, 5)),
    "large, few outputs, nearly two parts": dict(x=(5, 90, 6, 35), w=(8, 90, 3, 4), padding=(1, 0)),
    "large, few outputs of one channel": dict(x=(96, 1, 28, 28), w=(6, 1, 5, 5)),
    "large, depthwise": dict(x=(8, 64, 40, 40), w=(64, 1, 3, 3), groups=64, padding=1),
}
OPS = ("conv2d", "conv2d_backward_input", "conv2d_backward_weight", "conv2d_backward_bias")
FILLS = {
    "integers": lambda rng, shape: rng.integers(-4, 5, shape).astype(np.float32),
    "floats": lambda rng, shape: rng.standard_normal(shape).astype(np.float32),
}


def problem(op, case, fill, rng):
    """(arrays, options, terms) of one operation on a case's shapes."""
    x, w = fill(rng, case["x"]), fill(rng, case["w"])
    options = {name: value for name, value in case.items() if name not in "xw"}
    pinned = dict(options, algorithm="direct")
    images, outputs, height, width = reference.conv2d(x, w, **options).shape
    dy = fill(rng, (images, outputs, height, width))
    channels, rows, columns = w.shape[1:]
    if op == "conv2d":
        return [x, w, fill(rng, outputs)], pinned, channels * rows * columns + 1
    if op == "conv2d_backward_input":
        terms = outputs // options.get("groups", 1) * rows * columns
        return [dy, w], dict(pinned, input_shape=x.shape), terms
    if op == "conv2d_backward_weight":
        return [dy, x], dict(pinned, weight_shape=w.shape), images * height * width
    return [dy], {}, images * height * width


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", OPS)
def test_conv2d_matches_reference(op, case, fill, rng):
    arrays, options, terms = problem(op, CASES[case], FILLS[fill], rng)
    check_op(op, arrays, options, terms=max(1, terms), per_image=op in OPS[:2])


@pytest.mark.parametrize("case", LARGE)
@pytest.mark.parametrize("op", OPS)
def test_conv2d_in_a_team_matches_reference(op, case, rng):
    arrays, options, terms = problem(op, LARGE[case], FILLS["floats"], rng)
    check_op(op, arrays, options, terms=terms, per_image=op in OPS[:2])


@st.composite
def geometries(draw):
    """A valid case; every option is drawn for itself, the image to fit."""
    def pairs(low, high):
        return st.tuples(st.integers(low, high), st.integers(low, high))
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    channels, outputs = draw(st.integers(1, 20)), draw(st.integers(1, 36))
    taps, stride, dilation = draw(pairs(1, 5)), draw(pairs(1, 4)), draw(pairs(1, 3))
    padding = (draw(pairs(0, 4)), draw(pairs(0, 4)))
    reach = [d * (t - 1) + 1 - sum(pad) for d, t, pad in zip(dilation, taps, padding, strict=True)]
    size = [max(1, r) + extra for r, extra in zip(reach, draw(pairs(0, 12)), strict=True)]
    return dict(x=(draw(st.integers(0, 3)), channels * groups, *size), w=(outputs * groups, channels, *taps),
                stride=stride, padding=padding, dilation=dilation, groups=groups)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(case=geometries(), seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("op", OPS[:3])
def test_conv2d_of_any_geometry_matches_reference(op, case, seed):
    arrays, options, terms = problem(op, case, FILLS["integers"], np.random.default_rng(seed))
    check_op(op, arrays, options, terms=max(1, terms), per_image=op in OPS[:2])


# ---- memory of the arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["odd everything", "1x1", "1x1, strips", "1x1, strips, stride 2, groups",
                                  "LeNet conv1", "groups", "depthwise",
                                  "many small images, in place", "large image, panels in place"])
@pytest.mark.parametrize("op", OPS[:3])
def test_any_strides_give_the_bits_of_a_contiguous_copy(op, case, rng):
    arrays, options, _ = problem(op, CASES[case], FILLS["floats"], rng)
    check_views(op, arrays, options)


@pytest.mark.parametrize("op", OPS[:3])
def test_out_of_any_strides(op, rng):
    arrays, options, _ = problem(op, CASES["odd everything"], FILLS["floats"], rng)
    check_out_views(op, arrays, options)


def placed(place, array, name, at):
    """The array channels-last beside a guard page, with its pixels in their order and backwards."""
    yield place(array, name, (0, 2, 3, 1), at)
    yield place(array[::-1, :, ::-1, ::-1], name, (0, 2, 3, 1), at)[::-1, :, ::-1, ::-1]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("filters", [6, 20])
def test_gradients_that_fill_no_vector_are_read_inside_alone(filters, groups, rng):
    """dy is read on into the pixels that follow, where they lie behind and are its own."""
    grad = rng.standard_normal((3, filters * groups, 24, 24)).astype(np.float32)
    x = rng.standard_normal((3, groups, 28, 28)).astype(np.float32)
    shape, options = (filters * groups, 1, 5, 5), {"groups": groups, "algorithm": "direct"}
    row = rng.standard_normal((1, 1, 1, filters * groups - 1 + 3 * 24 * 24)).astype(np.float32)
    sliding = [row.itemsize * step for step in (24 * 24, 1, 24, 1)]

    def gradient(dy):
        return functional.conv2d_backward_weight(dy, x, shape, **options)

    for isa, at in itertools.product(fastconv.available_isas(), ("start", "end")):
        with using_isa(isa), guard_pages(f"backward_weight with {isa}, guard at the {at}") as place:
            expected = gradient(grad)
            for dy in placed(place, grad, "grad_output", at):
                assert_same_bits(gradient(dy), expected, isa)
            numbers = place(row, "grad_output", None, at)
            overlapping = np.lib.stride_tricks.as_strided(numbers, grad.shape, sliding)
            assert_same_bits(gradient(overlapping), gradient(overlapping.copy()), isa)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [193, 200, 208])
def test_strips_are_read_inside_alone(channels, stride, rng):
    """Whole vectors are read, over the end of what a strip has of a pixel."""
    x = rng.standard_normal((2, channels, 7, 7)).astype(np.float32)
    grad = rng.standard_normal((2, 290, 7, 7)).astype(np.float32)[:, :, ::stride, ::stride]

    def gradient(x):
        return functional.conv2d_backward_weight(grad, x, (290, channels, 1, 1), stride=stride)

    for isa, at in itertools.product(fastconv.available_isas(), ("start", "end")):
        with using_isa(isa), guard_pages(f"backward_weight with {isa}, guard at the {at}") as place:
            expected = gradient(x)
            for pixels in placed(place, x, "x", at):
                assert_same_bits(gradient(pixels), expected, isa)


@pytest.mark.parametrize("apart", [True, False])
def test_a_plane_is_read_inside_alone(apart, rng):
    """Vectors of pixels read on into the next image only where one lies behind."""
    x, w = rng.standard_normal((3, 1, 32, 32), np.float32), rng.standard_normal((6, 1, 5, 5), np.float32)
    for isa, at in itertools.product(fastconv.available_isas(), ("start", "end")):
        with using_isa(isa), guard_pages(f"conv2d with {isa}, guard at the {at}") as place:
            out = place(np.empty((3, 6, 28, 28), np.float32), "out", (0, 2, 3, 1), at)
            functional.conv2d(place(x, "x", None, at, apart), w, algorithm="direct", out=out)
            assert_same_bits(out, functional.conv2d(x, w, algorithm="direct"), isa)


def test_nan_and_infinity_reach_only_the_outputs_that_meet_them(rng):
    x = rng.standard_normal((1, 3, 9, 9)).astype(np.float32)
    w = rng.standard_normal((20, 3, 3, 3)).astype(np.float32)
    clean = functional.conv2d(x, w, padding=1, algorithm="direct")
    x[0, 1, 4, 4] = np.nan
    y = functional.conv2d(x, w, padding=1, algorithm="direct")
    met = np.zeros((9, 9), bool)
    met[3:6, 3:6] = True
    assert np.isnan(y[..., met]).all()
    np.testing.assert_array_equal(y[..., ~met], clean[..., ~met])
