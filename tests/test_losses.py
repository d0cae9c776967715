"""Losses against closed forms, finite differences and torch; the limits of their arguments."""

import numpy as np
import pytest

from fastconv.losses import (
    AuxiliaryLoss,
    CrossEntropyLoss,
    ExponentialLoss,
    HingeLoss,
    LogisticLoss,
    MSELoss,
)

U32, U64 = 2.0**-24, 2.0**-53
INF, NAN = np.inf, np.nan


def scores(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, shape)


def classes(samples, count, seed=1):
    return np.random.default_rng(seed).integers(0, count, samples)


def signs(*shape, seed=1):
    return np.random.default_rng(seed).choice([-1, 1], shape)


CASES = {
    "cross entropy": (CrossEntropyLoss(), scores(7, 5), classes(7, 5)),
    "label smoothing": (CrossEntropyLoss(0.1), scores(7, 5), classes(7, 5)),
    "mean squared": (MSELoss(), scores(3, 4, 2, 2), scores(3, 4, 2, 2, seed=9)),
    "logistic": (LogisticLoss(), scores(6, 1), signs(6, 1)),
    "logistic one-vs-rest": (LogisticLoss(), scores(6, 4), classes(6, 4)),
    "exponential": (ExponentialLoss(), scores(9), signs(9)),
    "exponential one-vs-rest": (ExponentialLoss(), scores(6, 4), classes(6, 4)),
    "hinge": (HingeLoss(), scores(9), signs(9)),
    "hinge one-vs-rest": (HingeLoss(), scores(6, 4), classes(6, 4)),
    "squared hinge": (HingeLoss(squared=True), scores(6, 4), classes(6, 4)),
}
every_case = pytest.mark.parametrize(("loss", "output", "target"), CASES.values(), ids=CASES)


@every_case
def test_gradient_matches_finite_differences(loss, output, target):
    step = 2.0**-17  # about the cube root of U64, where truncation and rounding meet
    loss(output, target)
    gradient = loss.backward()
    differences = np.empty_like(output)
    for place in np.ndindex(output.shape):
        shifted = output.copy()
        shifted[place] += step
        above = loss(shifted, target)
        shifted[place] -= 2 * step
        differences[place] = (above - loss(shifted, target)) / (2 * step)
    # Truncation: step^2 / 6 times a third derivative of at most exp(2). Rounding: losses below exp(2), each
    # wrong by a few U64. The gradient itself: rounded once to float32.
    bound = U32 * np.abs(gradient) + np.exp(2) * (step**2 / 6 + 8 * U64 / step)
    assert (np.abs(gradient - differences) <= bound).all()


@every_case
def test_gradient_is_a_new_float32_array_in_the_memory_order_of_output(loss, output, target):
    output = np.asfortranarray(output, np.float32)
    before = output.copy()
    loss(output, target)
    gradient = loss.backward()
    assert gradient.dtype == np.float32
    assert gradient.shape == output.shape
    assert gradient.flags.f_contiguous
    expected = gradient.copy()
    gradient[:] = NAN
    np.testing.assert_array_equal(loss.backward(), expected)
    np.testing.assert_array_equal(output, before)


def test_auxiliary_heads_add_their_weighted_losses():
    outputs, target = tuple(scores(7, 5, seed=seed) for seed in range(3)), classes(7, 5)
    single = CrossEntropyLoss(0.1)
    values, gradients = zip(*((single(output, target), single.backward()) for output in outputs), strict=True)
    loss = AuxiliaryLoss(CrossEntropyLoss(0.1), 0.25)
    assert loss(outputs, target) == values[0] + 0.25 * (values[1] + values[2])
    gradient = loss.backward()
    assert isinstance(gradient, tuple)
    for ours, alone, weight in zip(gradient, gradients, (1, 0.25, 0.25), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, weight * alone)
    # In evaluation the network gives its scores alone.
    assert loss(outputs[0], target) == values[0]
    np.testing.assert_array_equal(loss.backward(), gradients[0])


@pytest.mark.parametrize("weight", [-0.1, INF, NAN])
def test_auxiliary_weight_is_checked(weight):
    with pytest.raises(ValueError, match=f"weight must be .* got {weight}"):
        AuxiliaryLoss(CrossEntropyLoss(), weight)


def test_losses_match_torch():
    torch = pytest.importorskip("torch")
    pairs = [
        ("cross entropy", torch.nn.CrossEntropyLoss(), torch.tensor),
        ("label smoothing", torch.nn.CrossEntropyLoss(label_smoothing=0.1), torch.tensor),
        ("mean squared", torch.nn.MSELoss(), torch.tensor),
        ("logistic", torch.nn.SoftMarginLoss(), torch.tensor),
        ("logistic one-vs-rest", torch.nn.BCEWithLogitsLoss(), lambda target: torch.eye(4).double()[target]),
        # HingeEmbeddingLoss is max(0, 1 - x) where its target is -1, x being the margin.
        ("hinge", lambda x, y: torch.nn.HingeEmbeddingLoss()(x * y, -torch.ones_like(x)), torch.tensor),
    ]
    for name, theirs, their_target in pairs:
        ours, output, target = CASES[name]
        x = torch.tensor(output, requires_grad=True)
        expected = theirs(x, their_target(target))
        expected.backward()
        # Sums of at most 48 terms below 8 in magnitude.
        assert abs(ours(output, target) - expected.item()) <= (2 * np.sqrt(48) + 4) * U64 * 8, name
        gradient, expected = ours.backward(), x.grad.numpy()
        assert (np.abs(gradient - expected) <= U32 * np.abs(expected) + 32 * U64).all(), name


def test_cross_entropy_closed_form():
    loss = CrossEntropyLoss()
    assert loss(np.zeros((3, 10), np.float32), [0, 5, 9]) == pytest.approx(np.log(10), rel=4 * U64)
    output = np.log(np.array([[1, 2, 5], [3, 3, 2]], float))
    target = np.array([2, 0])
    expected = -(np.log(5 / 8) + np.log(3 / 8)) / 2
    assert loss(output, target) == pytest.approx(expected, rel=8 * U64)
    probabilities = np.array([[1, 2, -3], [-5, 3, 2]]) / 8
    np.testing.assert_array_equal(loss.backward(), (probabilities / 2).astype(np.float32))


def test_cross_entropy_of_huge_scores():
    loss = CrossEntropyLoss()
    big = np.finfo(np.float32).max
    output = np.array([[big, -big, 0], [-big, big, 0]], np.float32)
    assert loss(output, [0, 1]) == 0
    np.testing.assert_array_equal(loss.backward(), np.zeros((2, 3)))
    assert loss(output, [1, 1]) == float(big)
    np.testing.assert_array_equal(loss.backward(), [[0.5, -0.5, 0], [0, 0, 0]])


def test_cross_entropy_of_infinite_scores():
    loss = CrossEntropyLoss()
    assert loss(np.array([[0, 0, -INF]]), [0]) == pytest.approx(np.log(2), rel=4 * U64)
    np.testing.assert_array_equal(loss.backward(), [[-0.5, 0.5, 0]])
    assert loss(np.array([[0, -INF]]), [1]) == INF
    np.testing.assert_array_equal(loss.backward(), [[1, -1]])
    assert CrossEntropyLoss(0.1)(np.array([[0, -INF]]), [0]) == INF
    for bad in (INF, NAN):
        assert np.isnan(loss(np.array([[0, bad], [0, 0]]), [0, 0]))
        gradient = loss.backward()
        assert np.isnan(gradient[0]).all()
        np.testing.assert_array_equal(gradient[1], [-0.25, 0.25])


def test_margin_losses_at_the_limits():
    big = float(np.finfo(np.float32).max)
    # margin: loss and slope of logistic, exponential, hinge and squared hinge
    table = {
        INF: [(0, 0), (0, 0), (0, 0), (0, 0)],
        big: [(0, 0), (0, 0), (0, 0), (0, 0)],
        1.0: [(np.log1p(np.exp(-1)), -1 / (1 + np.e)), (np.exp(-1), -np.exp(-1)), (0, 0), (0, 0)],
        0.0: [(np.log(2), -0.5), (1, -1), (1, -1), (1, -2)],
        -big: [(big, -1), (INF, -INF), (big, -1), (big**2, -INF)],
        -INF: [(INF, -1), (INF, -INF), (INF, -1), (INF, -INF)],
        NAN: [(NAN, NAN)] * 4,
    }
    losses = LogisticLoss(), ExponentialLoss(), HingeLoss(), HingeLoss(squared=True)
    for margin, row in table.items():
        for loss, (value, slope) in zip(losses, row, strict=True):
            for sign in (1, -1):
                message = f"{type(loss).__name__} at margin {margin}, label {sign}"
                found = loss(np.array([sign * margin], np.float32), [sign])
                np.testing.assert_allclose(found, value, rtol=4 * U64, err_msg=message)
                np.testing.assert_allclose(loss.backward(), [np.float32(slope * sign)], rtol=2 * U32,
                                           err_msg=message)


def test_mean_squared_of_infinities():
    loss = MSELoss()
    assert loss(np.array([INF, 0]), [0, 0]) == INF
    np.testing.assert_array_equal(loss.backward(), [INF, 0])
    assert np.isnan(loss(np.array([INF]), [INF]))
    big = np.finfo(np.float32).max
    assert loss(np.array([big], np.float32), np.array([-big])) == 4 * float(big) ** 2


@pytest.mark.parametrize(("loss", "output", "target", "error", "message"), [
    (CrossEntropyLoss(), np.zeros((2, 3)), [0.0, 1.0], TypeError, "target .* float64"),
    (CrossEntropyLoss(), np.zeros((2, 3)), [True, False], TypeError, "target .* bool"),
    (CrossEntropyLoss(), np.zeros((2, 3)), [0, 3], ValueError, r"target .* 0 \.\. 2, got 3 at index 1"),
    (CrossEntropyLoss(), np.zeros((2, 3)), [-1, 0], ValueError, r"target .* got -1 at index 0"),
    (CrossEntropyLoss(), np.zeros((2, 3)), [0, 1, 2], ValueError, r"target .* \(2,\) .* got \(3,\)"),
    (CrossEntropyLoss(), np.zeros(3), [0, 1, 2], ValueError, r"output .* got \(3,\)"),
    (CrossEntropyLoss(), np.zeros((0, 3)), [], ValueError, r"output .* got shape \(0, 3\)"),
    (CrossEntropyLoss(), np.zeros((2, 3), int), [0, 1], TypeError, "output .* int64"),
    (MSELoss(), np.zeros((2, 3)), np.zeros((3, 2)), ValueError, r"target .* \(2, 3\), got \(3, 2\)"),
    (MSELoss(), np.zeros(2), np.zeros(2, complex), TypeError, "target .* complex128"),
    (LogisticLoss(), np.zeros(2), [1, 0], ValueError, r"target must be -1 or \+1, got 0"),
    (HingeLoss(), np.zeros(2), [1, NAN], ValueError, r"target must be -1 or \+1, got nan"),
    (HingeLoss(), np.zeros(2), [True, True], TypeError, "target .* bool"),
    (HingeLoss(), np.zeros((2, 1)), [1, 1], ValueError, r"target .* \(2, 1\), got \(2,\)"),
    (ExponentialLoss(), np.zeros((2, 3)), [0, 4], ValueError, r"target .* got 4 at index 1"),
])
def test_wrong_arguments_are_named(loss, output, target, error, message):
    with pytest.raises(error, match=message):
        loss(output, target)


@pytest.mark.parametrize("value", [-0.1, 1.0, NAN])
def test_label_smoothing_out_of_range(value):
    with pytest.raises(ValueError, match=r"label_smoothing .* got"):
        CrossEntropyLoss(label_smoothing=value)


def test_backward_before_forward():
    with pytest.raises(RuntimeError, match=r"MSELoss\.backward needs a forward"):
        MSELoss().backward()
