"""conv2d and its gradients by Winograd's algorithm: errors, bits, and what a call may be given besides."""

import itertools

import numpy as np
import pytest
from check import LAYOUTS, assert_norm_within, assert_same_bits, check_op, in_layout, using_isa
from guard import guard_pages
from views import check_out_views, check_views

import fastconv
from fastconv import functional as F
from fastconv import init, models, reference
from fastconv.layers import Conv2d

# Of weights without a mean and inputs behind a ReLU: design bound, some four times the error of a plain sum.
RELATIVE = 2e-6
OPS = ("conv2d", "conv2d_backward_input", "conv2d_backward_weight")
BOTH = ("direct", "winograd")
CASES = {
    "one pixel": dict(x=(1, 1, 1, 1), w=(1, 1, 3, 3), padding=1),
    "one tile": dict(x=(1, 16, 6, 6), w=(16, 16, 3, 3)),
    "7 x 7": dict(x=(3, 20, 7, 7), w=(17, 20, 3, 3), padding=1),
    "13 x 14": dict(x=(2, 17, 13, 14), w=(33, 17, 3, 3), padding=1),
    "27 x 27": dict(x=(1, 33, 27, 27), w=(20, 33, 3, 3), padding=2),
    "one row": dict(x=(2, 5, 1, 61), w=(7, 5, 3, 3), padding=1),
    "one column": dict(x=(2, 5, 61, 1), w=(7, 5, 3, 3), padding=1),
    "row longer than a run": dict(x=(1, 16, 3, 130), w=(16, 16, 3, 3)),
    "asymmetric padding": dict(x=(2, 6, 9, 8), w=(5, 6, 3, 3), padding=((2, 0), (1, 3))),
    "padding wider than filter": dict(x=(1, 4, 5, 6), w=(3, 4, 3, 3), padding=7),
    "padding wider than a run": dict(x=(1, 3, 2, 2), w=(4, 3, 3, 3), padding=((0, 9), (0, 70))),
    "no pixels but padding": dict(x=(2, 3, 0, 0), w=(4, 3, 3, 3), padding=3),
    "groups": dict(x=(2, 12, 8, 9), w=(18, 4, 3, 3), groups=3, padding=1),
    "groups of vectors": dict(x=(1, 64, 10, 10), w=(96, 32, 3, 3), groups=2, padding=1),
    "depthwise": dict(x=(2, 19, 9, 9), w=(19, 1, 3, 3), groups=19, padding=1),
    "one output": dict(x=(2, 40, 9, 9), w=(1, 40, 3, 3), padding=1),
    "one input": dict(x=(2, 1, 12, 12), w=(40, 1, 3, 3)),
    "three outputs of a panel": dict(x=(2, 16, 8, 8), w=(35, 16, 3, 3), padding=1),
    "two parts": dict(x=(2, 130, 6, 7), w=(20, 130, 3, 3), padding=1),
    "three parts, not whole": dict(x=(1, 300, 5, 5), w=(33, 300, 3, 3), padding=1),
    "5 x 5": dict(x=(2, 20, 9, 7), w=(33, 20, 5, 5), padding=2),
    "5 x 5, two parts": dict(x=(1, 131, 6, 6), w=(17, 131, 5, 5)),
    "5 x 5, padding": dict(x=(2, 3, 5, 8), w=(4, 3, 5, 5), padding=((6, 0), (1, 7))),
    "5 x 5, groups": dict(x=(2, 10, 8, 8), w=(6, 5, 5, 5), groups=2, padding=2),
    "2 x 2": dict(x=(2, 20, 9, 12), w=(17, 20, 2, 2), padding=1),
    "4 x 4": dict(x=(2, 20, 9, 11), w=(17, 20, 4, 4), padding=(1, 2)),
    "no images": dict(x=(0, 20, 8, 8), w=(17, 20, 3, 3)),
    "images in lanes": dict(x=(37, 6, 14, 14), w=(16, 6, 5, 5)),
    "2 x 2, few channels": dict(x=(17, 3, 7, 8), w=(19, 3, 2, 2), padding=1),
    "images in lanes, 3 x 3": dict(x=(35, 5, 9, 11), w=(9, 5, 3, 3), padding=((2, 0), (1, 3))),
    "images in lanes, 4 x 4": dict(x=(18, 7, 5, 6), w=(6, 7, 4, 4), padding=((0, 5), (4, 0))),
    "images in lanes, panels": dict(x=(16, 4, 6, 6), w=(70, 4, 3, 3)),
    "lanes, no images": dict(x=(0, 6, 14, 14), w=(16, 6, 5, 5)),
    "stride 2": dict(x=(2, 20, 28, 27), w=(33, 20, 3, 3), stride=2, padding=1),
    "stride 2, no padding": dict(x=(2, 17, 14, 15), w=(20, 17, 3, 3), stride=2),
    "stride 2, odd padding": dict(x=(1, 5, 10, 13), w=(6, 5, 3, 3), stride=2, padding=((0, 1), (5, 2))),
    "stride 2, one pixel": dict(x=(2, 5, 1, 1), w=(6, 5, 3, 3), stride=2, padding=1),
    "stride 2, one row": dict(x=(2, 5, 1, 50), w=(6, 5, 3, 3), stride=2, padding=1),
    "stride 2, no pixels but padding": dict(x=(2, 3, 0, 0), w=(4, 3, 3, 3), stride=2, padding=3),
    "stride 2, groups, two parts": dict(x=(1, 262, 9, 9), w=(34, 131, 3, 3), groups=2, stride=2, padding=1),
    "stride 2, 4 x 4": dict(x=(2, 20, 16, 17), w=(17, 20, 4, 4), stride=2, padding=1),
    "stride 2, 5 x 5": dict(x=(2, 20, 15, 16), w=(17, 20, 5, 5), stride=2, padding=2),
    "stride 2, 7 x 7": dict(x=(2, 3, 29, 26), w=(17, 3, 7, 7), stride=2, padding=3),
    "stride 2, few channels, groups": dict(x=(2, 10, 20, 23), w=(34, 5, 4, 4), groups=2, stride=2, padding=1),
    "stride 2, few channels, last taps alone": dict(x=(1, 3, 17, 18), w=(5, 3, 8, 8), stride=2, padding=3),
    "stride 3, few channels": dict(x=(2, 4, 31, 30), w=(9, 4, 5, 5), stride=3, padding=((0, 4), (1, 2))),
    "stride 4, 11 x 11": dict(x=(2, 3, 47, 50), w=(17, 3, 11, 11), stride=4, padding=2),
    "stride 4, many channels": dict(x=(1, 20, 30, 33), w=(18, 20, 5, 5), stride=4, padding=2),
    "stride 4, one pixel": dict(x=(2, 3, 1, 1), w=(6, 3, 5, 5), stride=4, padding=2),
    "stride 2, 10 x 10": dict(x=(1, 4, 29, 26), w=(5, 4, 10, 10), stride=2, padding=3),
}
# Large enough for a team of five with any instruction set. Between them they take, with an L2 cache of
# 1 or 2 MiB and an L3 cache of 32 MiB, each way of winograd.c and each kind of block.
LARGE = {
    "many tiles": dict(x=(3, 32, 31, 30), w=(40, 32, 3, 3), padding=1),
    "many tiles, two parts": dict(x=(2, 160, 28, 28), w=(160, 160, 3, 3), padding=1),
    "several blocks a thread": dict(x=(1, 512, 61, 63), w=(64, 512, 3, 3), padding=1),
    "many panels": dict(x=(2, 16, 38, 38), w=(320, 16, 3, 3), padding=1),
    "few tiles, many weights": dict(x=(2, 256, 7, 7), w=(272, 256, 3, 3), padding=1),
    "four tiles, two parts": dict(x=(1, 200, 7, 6), w=(296, 200, 3, 3), padding=1),
    "one tile": dict(x=(1, 150, 2, 2), w=(320, 150, 5, 5), padding=2),
    "few tiles, groups": dict(x=(2, 256, 7, 7), w=(256, 64, 3, 3), groups=4, padding=1),
    "many images": dict(x=(70, 16, 14, 14), w=(20, 16, 3, 3), padding=1),
    "many images, many weights": dict(x=(40, 96, 7, 7), w=(96, 96, 3, 3), padding=1),
    "chunks of images, many weights": dict(x=(800, 90, 2, 2), w=(96, 90, 3, 3), padding=1),
    "5 x 5": dict(x=(3, 33, 28, 27), w=(48, 33, 5, 5), padding=2),
    "images in lanes": dict(x=(300, 6, 14, 14), w=(16, 6, 5, 5)),
    "images in lanes, 3 x 3": dict(x=(250, 8, 13, 14), w=(24, 8, 3, 3), padding=1),
    "stride 2, many tiles": dict(x=(3, 64, 56, 55), w=(96, 64, 3, 3), stride=2, padding=1),
    "stride 2, several blocks": dict(x=(8, 48, 56, 56), w=(64, 48, 3, 3), stride=2, padding=1),
    "stride 2, few channels": dict(x=(3, 3, 96, 97), w=(40, 3, 7, 7), stride=2, padding=3),
    "stride 2, many weights": dict(x=(1, 160, 18, 18), w=(256, 160, 3, 3), stride=2, padding=1),
}


def gaussian(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def problem(op, case, rng):
    """(arrays, options) of one operation: He weights, inputs as behind a ReLU, gradients without a mean."""
    options = {name: value for name, value in case.items() if name not in "xw"}
    x, w = np.maximum(gaussian(rng, *case["x"]), 0), gaussian(rng, *case["w"])
    w *= np.float32(np.sqrt(2 / np.prod(case["w"][1:])))
    shape = reference.conv2d(x, w, **options).shape
    options["algorithm"] = "winograd"
    if op == "conv2d":
        return [x, w, gaussian(rng, shape[1])], options
    if op == "conv2d_backward_input":
        return [gaussian(rng, *shape), w], dict(options, input_shape=x.shape)
    return [gaussian(rng, *shape), x], dict(options, weight_shape=w.shape)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", OPS)
def test_winograd_matches_reference(op, case, rng):
    arrays, options = problem(op, CASES[case], rng)
    check_op(op, arrays, options, relative=RELATIVE, per_image=op != OPS[2])


@pytest.mark.parametrize("case", LARGE)
@pytest.mark.parametrize("op", OPS)
def test_winograd_in_a_team_matches_reference(op, case, rng):
    arrays, options = problem(op, LARGE[case], rng)
    check_op(op, arrays, options, relative=RELATIVE, per_image=op != OPS[2])


@pytest.mark.parametrize(("taps", "size"),
                         [(3, (7, 7)), (3, (12, 4)), (4, (4, 5)), (5, (4, 3)), (5, (3, 2))])
@pytest.mark.parametrize(("channels", "outputs"), [(40, 33), (160, 100), (300, 64)])
def test_points_made_in_registers_are_those_that_are_stored(taps, size, channels, outputs, rng):
    """Single images of three or four tiles never store the weights' points; three images do."""
    x, w = gaussian(rng, 3, channels, *size), gaussian(rng, outputs, channels, taps, taps)
    options = dict(padding=taps // 2, algorithm="winograd")
    filters = F.prepare_conv2d(w, x[:1].shape, **options)
    for image, stored in zip(x[:, None], F.conv2d(x, w, **options)[:, None], strict=True):
        assert_same_bits(F.conv2d(image, w, **options), stored, "of an image")
        assert_same_bits(F.conv2d(image, w, **options, filters=filters), stored, "of an image, prepared")


@pytest.mark.parametrize("images", [1, 5, 40])
@pytest.mark.parametrize("shape", [(16, 6, 5, 5), (40, 3, 3, 3), (5, 7, 4, 4), (5, 7, 2, 2),
                                   (33, 150, 5, 5), (16, 200, 3, 3)])
def test_residuals_and_kept_filters_in_lanes(images, shape, rng):
    """With filters kept as points, or as taps for few tiles; by tile, as one image is, and by image. Many
    channels, whose points are kept in parts, and 2 x 2 taps do not go in lanes."""
    x, w = in_layout(gaussian(rng, images, shape[1], 12, 9), "channels-last"), gaussian(rng, *shape)
    options = dict(padding=1, algorithm="winograd")
    plain = F.conv2d(x, w, **options)
    residual = in_layout(gaussian(rng, *plain.shape), "channels-last")
    for size in (None, (3, 3), (19, 19)):
        filters = size and F.prepare_conv2d(w, (1, shape[1], *size), **options)
        assert_same_bits(F.conv2d(x, w, **options, filters=filters), plain, f"filters made for {size}")
        for activation in (None, "relu"):
            y = F.conv2d(x, w, **options, filters=filters, residual=residual, activation=activation)
            expected = plain + residual
            assert_same_bits(y, np.maximum(expected, 0) if activation else expected, f"{activation}, {size}")


@pytest.mark.parametrize(("taps", "stride", "size"), [(3, 2, 17), (3, 2, 19), (5, 2, 13), (5, 3, 20)])
def test_what_lies_in_kept_memory_does_not_reach_gradients(taps, stride, size, rng):
    """Phases of fewer taps leave planes of points unwritten."""
    w = gaussian(rng, 64, 64, taps, taps)
    options = dict(stride=stride, padding=taps // 2, algorithm="winograd")
    dy = gaussian(rng, 1, 64, *(((size - 1) // stride + 1,) * 2))
    expected = F.conv2d_backward_input(dy, w, (1, 64, size, size), **dict(options, algorithm="direct"))
    F.conv2d_backward_input(np.full_like(dy, np.nan), w, (1, 64, size, size), **options)
    F.conv2d(np.full((2, 64, 21, 21), np.nan, np.float32), gaussian(rng, 64, 64, 3, 3), algorithm="winograd")
    dx = F.conv2d_backward_input(dy, w, (1, 64, size, size), **options)
    assert_norm_within(dx, expected, RELATIVE, "dx")


@pytest.mark.parametrize("case", ["7 x 7", "groups", "one output", "depthwise", "5 x 5", "stride 2",
                                  "stride 2, few channels, groups", "stride 4, 11 x 11"])
@pytest.mark.parametrize("op", OPS)
def test_any_strides_give_the_bits_of_a_contiguous_copy(op, case, rng):
    check_views(op, *problem(op, CASES[case], rng))


@pytest.mark.parametrize("case", ["7 x 7", "groups", "one output", "5 x 5", "stride 2", "stride 2, 5 x 5",
                                  "stride 2, few channels, groups", "stride 4, 11 x 11"])
@pytest.mark.parametrize("op", OPS)
def test_out_of_any_strides(op, case, rng):
    check_out_views(op, *problem(op, CASES[case], rng))


@pytest.mark.parametrize("channels", [64, 256, 512])
@pytest.mark.parametrize("op", OPS)
def test_errors_of_many_channels(op, channels, rng):
    case = dict(x=(2, channels, 14, 14), w=(channels, channels, 3, 3), padding=1)
    arrays, options = problem(op, case, rng)
    plain = {name: value for name, value in options.items() if name != "algorithm"}
    expected = getattr(reference, op)(*(array.astype(np.float64) for array in arrays), **plain)
    for layout in LAYOUTS:
        given = [in_layout(array, layout) if array.ndim == 4 else array for array in arrays]
        assert_norm_within(getattr(F, op)(*given, **options), expected, RELATIVE, layout)


def errors(x, w, stride):
    """Norms of the errors of Winograd's algorithm and of a running sum of all products."""
    expected = reference.conv2d(x.astype(np.float64), w.astype(np.float64), stride=stride)
    running = np.zeros(expected.shape, np.float32)
    height, width = (stride * (size - 1) + 1 for size in expected.shape[2:])
    for c, r, s in itertools.product(*map(range, w.shape[1:])):
        pixels = x[:, None, c, r:r + height:stride, s:s + width:stride]
        running += pixels * w[None, :, c, r, s, None, None]
    y = F.conv2d(x, w, stride=stride, algorithm="winograd")
    return np.linalg.norm(y - expected), np.linalg.norm(running - expected)


@pytest.mark.parametrize("channels", [64, 256, 512])
@pytest.mark.parametrize("mean", [0, 1])
def test_errors_are_near_those_of_a_running_sum(mean, channels, rng):
    """The points were chosen for it, and let no error grow with the channels."""
    x, w = gaussian(rng, 2, channels, 14, 14), gaussian(rng, 16, channels, 3, 3)
    error, running = errors(np.maximum(x, 0) if mean else x, w, stride=1)
    assert error <= 2.5 * running


@pytest.mark.parametrize("channels", [64, 256, 512])
def test_errors_of_strides_are_at_most_those_of_a_running_sum(channels, rng):
    """Of four points, pieces of 2 x 2 taps round little more than sums of products."""
    x, w = np.maximum(gaussian(rng, 2, channels, 15, 15), 0), gaussian(rng, 16, channels, 3, 3)
    error, running = errors(x, w, stride=2)
    assert error <= running


# ---- special values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("isa", fastconv.available_isas())
def test_nan_reaches_the_outputs_that_meet_it_and_their_tiles_alone(isa, taps, layout, rng):
    x, w = gaussian(rng, 2, 20, 15, 15), gaussian(rng, 17, 20, taps, taps)
    size = 16 - taps
    tiles = {3: [0] * 4 + [4] * 3 + [7] * 3 + [10] * 3, 5: [*sorted([0, 2, 4, 6, 8] * 2), 10]}[taps]
    with using_isa(isa):
        clean = F.conv2d(in_layout(x, layout), w, algorithm="winograd")
        for row, column in [(0, 0), (7, 7), (14, 3), (4, 14)]:
            spoilt = x.copy()
            spoilt[1, 19, row, column] = np.nan
            y = F.conv2d(in_layout(spoilt, layout), w, algorithm="winograd")
            met, may = np.zeros((2, 17, size, size), bool), np.zeros((2, 17, size, size), bool)
            for p, q in itertools.product(range(size), repeat=2):
                met[1, :, p, q] = p <= row < p + taps and q <= column < q + taps
                may[1, :, p, q] = all(0 <= at - tiles[output] < tiles.count(tiles[output]) + taps - 1
                                      for at, output in ((row, p), (column, q)))
            assert np.isnan(y[met]).all()
            np.testing.assert_array_equal(y[~may], clean[~may])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("isa", fastconv.available_isas())
def test_nan_in_pixels_that_a_stride_skips_reaches_nothing(isa, channels, layout, rng):
    x, w = gaussian(rng, 2, channels, 16, 16), gaussian(rng, 17, channels, 3, 3)
    x[:, :, 15] = x[:, :, :, 15] = np.nan                     # 7 x 7 outputs meet pixels 0 to 14
    options = dict(stride=2, algorithm="winograd")
    with using_isa(isa):
        y = F.conv2d(in_layout(x, layout), w, **options)
        assert np.isfinite(y).all()
        assert np.isfinite(F.conv2d_backward_weight(y, in_layout(x, layout), w.shape, **options)).all()


@pytest.mark.parametrize("isa", fastconv.available_isas())
def test_zeros_of_either_sign_give_zeros(isa, rng):
    w, zeros = gaussian(rng, 17, 20, 3, 3), np.full((2, 20, 9, 9), -0.0, np.float32)
    dy = np.full((2, 17, 7, 7), -0.0, np.float32)
    with using_isa(isa):
        for y in (F.conv2d(zeros, w, algorithm="winograd"), F.conv2d(abs(zeros), -w, algorithm="winograd"),
                  F.conv2d_backward_input(dy, w, zeros.shape, algorithm="winograd"),
                  F.conv2d_backward_weight(dy, gaussian(rng, *zeros.shape), w.shape, algorithm="winograd")):
            np.testing.assert_array_equal(y, 0)


def test_denormals_are_zeros(rng):
    """As in every operation, so that they do not slow a kernel: prepared filters must not see them either."""
    w = np.full((17, 20, 3, 3), 1.1e-38, np.float32)  # nine of them would sum up to normal numbers
    x = np.full((1, 20, 9, 9), 1e30, np.float32)
    filters = F.prepare_conv2d(w, x.shape, algorithm="winograd")
    for y in (F.conv2d(x, w, algorithm="winograd"), F.conv2d(x, w, algorithm="winograd", filters=filters),
              F.conv2d(w[:1], x[:, :, :3, :3], padding=2, algorithm="winograd")):
        np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize("algorithm", ["auto", *BOTH])
def test_no_images(algorithm, rng):
    """auto takes winograd for these."""
    x, w, dy = gaussian(rng, 0, 64, 16, 16), gaussian(rng, 64, 64, 3, 3), gaussian(rng, 0, 64, 14, 14)
    out = np.full(w.shape, np.nan, np.float32)
    assert F.conv2d(x, w, algorithm=algorithm).shape == dy.shape
    assert F.conv2d_backward_input(dy, w, x.shape, algorithm=algorithm).shape == x.shape
    np.testing.assert_array_equal(F.conv2d_backward_weight(dy, x, w.shape, algorithm=algorithm, out=out), 0)


@pytest.mark.parametrize(("options", "shape"), [
    (dict(stride=5), (4, 4, 7, 7)), (dict(stride=(1, 2)), (4, 4, 3, 3)), (dict(dilation=2), (4, 4, 3, 3)),
    (dict(stride=2, dilation=2), (4, 4, 3, 3)), (dict(stride=2), (4, 4, 2, 2)),
    (dict(stride=2), (4, 4, 11, 11)), ({}, (4, 4, 1, 1)), ({}, (4, 4, 3, 5)), ({}, (4, 4, 6, 6)),
    ({}, (0, 4, 3, 3))])
def test_what_winograd_cannot_do_is_refused(options, shape):
    x, w = np.zeros((1, 4, 12, 12), np.float32), np.zeros(shape, np.float32)
    dy = np.zeros(F.conv2d(x, w, **options).shape, np.float32)
    options = dict(options, algorithm="winograd")
    for call in (lambda: F.conv2d(x, w, **options), lambda: F.prepare_conv2d(w, x.shape, **options),
                 lambda: F.conv2d_backward_input(dy, w, x.shape, **options),
                 lambda: F.conv2d_backward_weight(dy, x, w.shape, **options)):
        with pytest.raises(ValueError, match='algorithm="winograd" needs square filters of more than s'):
            call()


@pytest.mark.parametrize(("algorithm", "shape"),
                         [("winograd", (1, 2**57, 3, 3)), ("direct", (1, 2**60, 1, 1))])
def test_weights_that_repeat_elements_without_end_are_out_of_memory(algorithm, shape):
    """What is made of them would number more than 64 bits can say."""
    w = np.broadcast_to(np.float32(1), shape)
    with pytest.raises(MemoryError, match="no memory for the workspace of prepare_conv2d"):
        F.prepare_conv2d(w, w.shape, algorithm=algorithm)
    with pytest.raises(MemoryError, match="no memory for the workspace of conv2d"):
        F.conv2d(w, w, algorithm=algorithm)


# ---- the same bits --------------------------------------------------------------------------------------


def layers_of_all_models():
    """{(input shape without N, weight shape, options): layer} of each convolution of the networks by name."""
    found = {}
    for name in models.available():
        with init.skipped():
            model = models.create(name).eval()
        for _, layer, shape in model.trace((1, *models.input_shape(name))):
            if isinstance(layer, Conv2d):
                options = layer.stride, layer.padding, layer.dilation, layer.groups
                found[shape[1:], layer.weight.shape, options] = layer
    return found


def test_bits_of_auto_do_not_depend_on_the_batch(rng):
    taken = set()
    for (image, weight, options), layer in layers_of_all_models().items():
        chosen = {choice.algorithm for choice in fastconv.explain((1, *image), weight, *options)}
        taken |= chosen
        if "winograd" not in chosen or layer.multiply_adds((1, *image)) > 250e6:
            continue
        x, w = gaussian(rng, 16, *image[1:], image[0]).transpose(0, 3, 1, 2), gaussian(rng, *weight)
        y = F.conv2d(x, w, None, *options)
        dx = F.conv2d_backward_input(y, w, x.shape, *options)
        for n in (0, 11):
            where = f"image {n} of 16 {image}, weight {weight}"
            assert_same_bits(F.conv2d(x[n:n + 1], w, None, *options), y[n:n + 1], where)
            one = F.conv2d_backward_input(y[n:n + 1], w, (1, *image), *options)
            assert_same_bits(one, dx[n:n + 1], where)
    assert taken == set(BOTH)


# ---- residual and activation ----------------------------------------------------------------------------

FUSED = {
    "17 outputs": dict(x=(2, 20, 9, 10), w=(17, 20, 3, 3), padding=1),
    "one output": dict(x=(2, 20, 9, 10), w=(1, 20, 3, 3), padding=1),
    "three outputs": dict(x=(2, 20, 9, 40), w=(3, 20, 3, 3), padding=1),
    "groups": dict(x=(2, 12, 9, 10), w=(66, 6, 3, 3), groups=2, padding=1),
    "depthwise": dict(x=(2, 18, 9, 10), w=(18, 1, 3, 3), groups=18, padding=1),
    "5 x 5": dict(x=(2, 20, 9, 10), w=(33, 20, 5, 5)),
    "stride 2": dict(x=(2, 20, 19, 20), w=(17, 20, 3, 3), stride=2, padding=1),
    "team": dict(x=(3, 64, 20, 21), w=(80, 64, 3, 3), padding=1),
    "one pixel": dict(x=(3, 140, 1, 1), w=(40, 140, 3, 3), padding=1),
}


def wide(array):
    """Channels in the middle of a wider channels-last array."""
    n, k, p, q = array.shape
    room = np.full((n, p, q, k + 9), np.nan, np.float32).transpose(0, 3, 1, 2)[:, 5:5 + k]
    room[...] = array
    return room


def turned(array):
    """The same, columns further apart than rows."""
    return wide(array.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize("case", FUSED)
def test_residual_and_activation_give_the_bits_of_one_after_the_other(case, algorithm, layout, rng):
    (x, w, bias), options = problem("conv2d", FUSED[case], rng)
    options["algorithm"], x = algorithm, in_layout(x, layout)
    for isa, threads in itertools.product(fastconv.available_isas(), (1, 5)):
        with using_isa(isa), fastconv.num_threads(threads):
            y = F.conv2d(x, w, bias, **options)
            residual = gaussian(rng, *y.shape)
            values = np.array([0, -0.0, np.nan, np.inf, -np.inf], np.float32)
            residual = np.where(rng.random(y.shape) < 0.1, rng.choice(values, y.shape), residual)
            summed = F.add(y, residual)
            expected = [(F.relu(y), None, "relu"), (summed, residual, None),
                        (F.relu(summed), residual, "relu")]
            for (result, added, activation), other in itertools.product(expected, LAYOUTS):
                fused = dict(options, residual=in_layout(added, other), activation=activation)
                where = f"{isa}, {threads} threads, residual {other}, {activation}"
                assert_same_bits(F.conv2d(x, w, bias, **fused), result, where)
                for place in (np.ascontiguousarray, wide, turned):
                    out = place(np.zeros_like(y))
                    assert F.conv2d(x, w, bias, **fused, out=out) is out
                    assert_same_bits(out, result, f"{where}, out=")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", BOTH)
def test_nothing_outside_the_residual_is_read(algorithm, layout, rng):
    (x, w, _), options = problem("conv2d", FUSED["17 outputs"], rng)
    residual, order = gaussian(rng, 2, 17, 9, 10), None if layout == "contiguous" else (0, 2, 3, 1)
    for isa, at in itertools.product(fastconv.available_isas(), ("start", "end")):
        with using_isa(isa), guard_pages(f"{algorithm} with {isa}") as place:
            added = place(residual, "residual", order, at)
            out = place(np.zeros_like(residual), "out", order, at)
            F.conv2d(in_layout(x, layout), w, **dict(options, algorithm=algorithm), residual=added, out=out)


@pytest.mark.parametrize(("fused", "error", "message"), [
    (dict(residual=np.zeros((1, 4, 6, 7), np.float32)), ValueError,
     r"residual must have shape \(1, 4, 6, 6\)"),
    (dict(residual=np.zeros((1, 4, 6, 6))), TypeError, "residual must be float32, got float64"),
    (dict(activation="tanh"), ValueError, "activation must be None or \"relu\", got 'tanh'"),
    (dict(filters="filters"), TypeError, "filters"),
])
def test_wrong_arguments_are_named(fused, error, message):
    x, w = np.zeros((1, 4, 6, 6), np.float32), np.zeros((4, 4, 3, 3), np.float32)
    with pytest.raises(error, match=message):
        F.conv2d(x, w, padding=1, **fused)


def test_residual_must_not_overlap_out(rng):
    x, w, y = gaussian(rng, 1, 4, 6, 6), gaussian(rng, 4, 4, 3, 3), gaussian(rng, 1, 4, 6, 6)
    with pytest.raises(ValueError, match="residual"):
        F.conv2d(x, w, padding=1, residual=y, out=y)


# ---- prepared filters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", fastconv.algorithms())
@pytest.mark.parametrize("case", ["7 x 7", "groups", "depthwise", "three parts, not whole", "5 x 5",
                                  "stride 2", "stride 2, groups, two parts", "stride 4, 11 x 11"])
@pytest.mark.parametrize("isa", fastconv.available_isas())
def test_prepared_filters_give_the_same_bits(isa, case, algorithm, rng):
    (x, w, bias), options = problem("conv2d", CASES[case], rng)
    options["algorithm"] = algorithm
    with using_isa(isa):
        for layout, name in itertools.product(LAYOUTS, ("x", "weight")):
            filters = F.prepare_conv2d(in_layout(w, layout, name), x.shape, **options)
            for images, threads in itertools.product((0, 1, 9), (1, 5)):
                many = in_layout(np.resize(x, (images, *x.shape[1:])), layout)
                with fastconv.num_threads(threads):
                    assert_same_bits(F.conv2d(many, w, bias, **options, filters=filters),
                                     F.conv2d(many, w, bias, **options), f"{layout}, {images} images")


@pytest.mark.parametrize("algorithm", fastconv.algorithms())
@pytest.mark.parametrize("case", ["many tiles, two parts", "few tiles, many weights", "few tiles, groups",
                                  "stride 2, many tiles", "stride 2, many weights",
                                  "stride 2, few channels"])
def test_prepared_filters_in_a_team(case, algorithm, rng):
    (x, w, bias), options = problem("conv2d", LARGE[case], rng)
    options["algorithm"] = algorithm
    filters = F.prepare_conv2d(w, x.shape, **options)
    expected = F.conv2d(x, w, bias, **options)
    for threads, layout in itertools.product((1, 2, 5), LAYOUTS):
        with fastconv.num_threads(threads):
            y = F.conv2d(in_layout(x, layout), w, bias, **options, filters=filters)
        assert_same_bits(y, expected, f"{threads} threads, {layout}")


def test_prepared_filters_are_not_used_where_they_do_not_fit(rng):
    x, w, options = gaussian(rng, 1, 32, 20, 20), gaussian(rng, 32, 32, 3, 3), dict(algorithm="winograd")
    filters = F.prepare_conv2d(w, x.shape, **options)
    for isa in fastconv.available_isas():
        with using_isa(isa):
            assert_same_bits(F.conv2d(x, w, **options, filters=filters), F.conv2d(x, w, **options), isa)
    others = [(x, gaussian(rng, 33, 32, 3, 3), options), (x, gaussian(rng, 32, 32, 5, 5), options),
              (x[:, :16], gaussian(rng, 32, 16, 3, 3), options),
              (np.concatenate([x, x], 1), gaussian(rng, 32, 32, 3, 3), dict(options, groups=2)),
              (x, w, dict(algorithm="direct")), (x, w, dict(stride=2)), (x, w, dict(dilation=2)),
              (x, w, dict(options, stride=2))]
    with using_isa(fastconv.isa()):
        for image, weight, other in others:
            expected = F.conv2d(image, weight, **other)
            assert_same_bits(F.conv2d(image, weight, **other, filters=filters), expected, other)
            given = F.prepare_conv2d(weight, image.shape, **other)
            assert_same_bits(F.conv2d(x, w, **options, filters=given), F.conv2d(x, w, **options), other)


def test_prepared_filters_of_folded_pixels_fit_any_padding(rng):
    x, w = gaussian(rng, 1, 3, 40, 40), gaussian(rng, 32, 3, 7, 7)
    options = dict(stride=2, algorithm="winograd")
    filters = F.prepare_conv2d(w, x.shape, **options, padding=3)
    for padding in ((2, 2), (3, 2), (2, 3), (1, 4)):
        expected = F.conv2d(x, w, **options, padding=padding)
        assert_same_bits(F.conv2d(x, w, **options, padding=padding, filters=filters), expected, padding)
        assert F.conv2d(x, 0 * w, **options, padding=padding, filters=filters).any()          # they are used


def test_prepared_filters_of_any_convolution_give_the_same_bits(rng):
    cases = [dict(w=(65, 40, 1, 1)), dict(w=(32, 40, 1, 1), stride=2), dict(w=(96, 512, 1, 1)),
             dict(w=(48, 40, 7, 7), stride=2, padding=3), dict(w=(40, 40, 3, 3), dilation=2),
             dict(w=(64, 20, 3, 3), groups=2)]
    for case in cases:
        w = gaussian(rng, *case.pop("w"))
        x = gaussian(rng, 3, w.shape[1] * case.get("groups", 1), 20, 17)
        filters = F.prepare_conv2d(w, x.shape, **case)
        for layout in LAYOUTS:
            given = in_layout(x, layout)
            assert_same_bits(F.conv2d(given, w, **case, filters=filters), F.conv2d(given, w, **case), case)


@pytest.mark.parametrize("algorithm", fastconv.algorithms())
def test_prepared_filters_are_what_is_multiplied_by(algorithm, rng):
    x, w = in_layout(gaussian(rng, 1, 64, 16, 16), "channels-last"), gaussian(rng, 64, 64, 3, 3)
    filters = F.prepare_conv2d(w, x.shape, algorithm=algorithm)
    assert_same_bits(F.conv2d(x, np.zeros_like(w), algorithm=algorithm, filters=filters),
                     F.conv2d(x, w, algorithm=algorithm), algorithm)


def test_prepared_filters_are_none_where_weights_are_taken_as_they_are():
    w = np.zeros((64, 64, 3, 3), np.float32)
    assert F.prepare_conv2d(w[:2, :3], (1, 3, 28, 64)) is None
    assert F.prepare_conv2d(w, (1, 64, 2**40, 2**40)) is not None
    with pytest.raises(ValueError, match="weight must have 32 input channels"):
        F.prepare_conv2d(w, (1, 32, 28, 28))


# ---- explain --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "w", "options"), [
    ((2, 64, 16, 16), (64, 64, 3, 3), dict(padding=1)), ((2, 3, 16, 16), (64, 3, 3, 3), dict(padding="same")),
    ((1, 64, 5, 5), (64, 64, 3, 3), {}), ((2, 64, 16, 16), (64, 64, 3, 3), dict(stride=2)),
    ((2, 32, 12, 12), (32, 32, 5, 5), dict(padding=2)), ((2, 64, 9, 9), (4, 64, 3, 3), {}),
    ((2, 64, 12, 12), (64, 32, 3, 3), dict(groups=2)),
    ((2, 3, 64, 64), (64, 3, 7, 7), dict(stride=2, padding=3)),
    ((2, 3, 64, 64), (64, 3, 11, 11), dict(stride=4)),
    ((3, 6, 14, 14), (16, 6, 5, 5), {}), ((3, 3, 20, 20), (8, 3, 5, 5), dict(padding=9))])
def test_explain_names_what_auto_takes(x, w, options, rng):
    """Of the two algorithms, by their bits."""
    image, weight = gaussian(rng, *x), gaussian(rng, *w)
    dy = gaussian(rng, *F.conv2d(image, weight, **options).shape)
    explanation = fastconv.explain(x, w, **options)
    calls = {"forward": (F.conv2d, image, weight), "backward_input": (F.conv2d_backward_input, dy, weight, x),
             "backward_weight": (F.conv2d_backward_weight, dy, image, w)}
    assert [choice.name for choice in explanation] == list(calls)
    for choice, (function, *arguments) in zip(explanation, calls.values(), strict=True):
        results = {name: function(*arguments, **options, algorithm=name) for name in choice.costs}
        assert_same_bits(function(*arguments, **options), results[choice.algorithm], choice)
        if len(results) == 2:
            assert (results["direct"] != results["winograd"]).any()
        assert choice.why
        assert min(choice.costs.values()) > 0


def test_explain_counts_the_products_of_an_image():
    for images in (0, 1, 7):
        forward = fastconv.explain((images, 64, 58, 58), (128, 64, 3, 3))[0]
        assert forward.costs["direct"] == 64 * 128 * 9 * 56 * 56
        assert forward.costs["winograd"] > 64 * 128 * 36 * 14 * 14
    whole, short = (fastconv.explain((1, 64, size, size), (128, 64, 3, 3), padding=1)[0].costs["winograd"]
                    for size in (16, 14))
    assert whole - short == 64 * 128 * ((4 * 6) ** 2 - (2 * 6 + 2 * 5) ** 2)
    far = fastconv.explain((1, 64, 85, 85), (128, 64, 3, 3), stride=3)
    assert [choice.costs for choice in far] == [{"direct": 64 * 128 * 9 * 28 * 28}] * 3
    strided = dict(stride=2, padding=1)
    whole, short = (fastconv.explain((1, 64, size, size), (128, 64, 3, 3), **strided)[0].costs["winograd"]
                    for size in (18, 16))
    assert whole - short == 64 * 128 * ((3 * (4 + 3)) ** 2 - (2 * (4 + 3) + 3 + 2) ** 2)


def test_explain_counts_images_of_any_size():
    for stride in (1, 2):
        for choice in fastconv.explain((1, 64, 2**62 - 1, 20), (128, 64, 5, 5), stride, padding=1):
            assert 0 < choice.costs["winograd"] < choice.costs["direct"]


def test_explain_counts_the_sums_of_a_gradient_once_for_all_images():
    one, two, many = (fastconv.explain((n, 64, 28, 28), (128, 64, 3, 3), padding=1)[2].costs["winograd"]
                      for n in (1, 2, 10**9))
    assert one > two > many
    assert one - many == pytest.approx(2 * (two - many))


def test_explain_prints_a_table():
    lines = str(fastconv.explain((1, 64, 56, 56), (64, 64, 3, 3), padding=1)).splitlines()
    assert lines[0].split() == ["pass", "auto", "takes", "why", "direct,", "M", "winograd,", "M"]
    assert [line.split()[0] for line in lines[2:]] == ["forward", "backward_input", "backward_weight"]
    assert "115.6" in lines[2]
    assert len(set(map(len, lines))) == 1
    pointwise = str(fastconv.explain((1, 4, 8, 8), (4, 4, 1, 1))).splitlines()
    assert all(line.endswith(" -") for line in pointwise[2:])


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (((1, 64, 5), (64, 64, 3, 3)), ValueError, "x_shape must be 4 non-negative ints"),
    ((5, (64, 64, 3, 3)), TypeError, "x_shape must be a shape of 4 ints, got 5"),
    (((1, 64, 5, 5), (64, 64, 3)), ValueError, "weight_shape must be 4 non-negative ints"),
    (((1, 64, 5, 5), (64, 32, 3, 3)), ValueError, "weight must have 64 input channels"),
    (((1, 64, 5, 5), (64, 64, 3, 3), 0), ValueError, "stride must be positive"),
])
def test_explain_names_what_is_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        fastconv.explain(*arguments)
