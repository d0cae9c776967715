"""The perceptron's theorem and its limit: the bound on its mistakes holds; XOR takes a hidden layer."""

import itertools

import numpy as np
import pytest

from fastconv import data
from fastconv.losses import LogisticLoss
from fastconv.models import Perceptron, maximum_margin, mlp, novikoff_bound
from fastconv.optim import Adam

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
FUNCTIONS = [labels for labels in itertools.product((-1, 1), repeat=4) if len(set(labels)) == 2]
XOR = (-1, 1, 1, -1)


def separable(seed, count=60, features=3, gap=0.1):
    """Points on both sides of a random hyperplane, none nearer than `gap`."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(features)
    normal /= np.linalg.norm(normal)
    points = 2 * rng.standard_normal((count, features))
    distances = points @ normal - rng.uniform(-0.5, 0.5)
    labels = np.where(distances > 0, 1, -1)
    return points + np.outer(labels * gap, normal), labels


def certificate(points, labels):
    """Weights over a few points that prove that no hyperplane separates the classes, or None.

    Gordan's alternative to label * (w . point + b) > 0 for all: weights >= 0, not all 0, whose sum of
    label * (point, 1) vanishes. By Caratheodory's theorem D + 2 points are enough, so all are tried.
    """
    signed = np.array([label * np.append(point, 1) for point, label in zip(points, labels, strict=True)])
    for size in range(2, points.shape[1] + 3):
        for chosen in itertools.combinations(range(len(points)), size):
            _, sizes, bases = np.linalg.svd(signed[list(chosen)].T)
            if np.count_nonzero(sizes > 1e-12) == size - 1:  # one combination vanishes, up to a factor
                weights = bases[-1] / bases[-1].sum() if abs(bases[-1].sum()) > 1e-12 else bases[-1]
                if (weights > 0).all():
                    return dict(zip(chosen, weights, strict=True))
    return None


@pytest.mark.parametrize("gap", [0.01, 0.1, 1])
@pytest.mark.parametrize("seed", range(5))
def test_updates_are_within_novikoffs_bound(seed, gap):
    points, labels = separable(seed, gap=gap)
    perceptron = Perceptron(100_000).fit(points, labels)
    assert perceptron.converged
    assert (perceptron.predict(points) == labels).all()
    assert 0 < perceptron.updates <= novikoff_bound(points, labels)
    # The margin of the hyperplane it found proves a bound as well, a looser one.
    length = np.linalg.norm(perceptron.weight)
    margin = (labels * (points @ perceptron.weight + perceptron.bias)).min() / length
    best = maximum_margin(points, labels)[2]
    assert gap * (1 - 1e-6) <= best
    assert margin <= best * (1 + 1e-6)


def test_margin_is_a_certificate_and_the_largest():
    points, labels = separable(3)
    weight, bias, margin = maximum_margin(points, labels)
    distances = labels * (points @ weight + bias)
    assert np.linalg.norm(weight) == pytest.approx(1, rel=1e-15)
    assert distances.min() == margin > 0
    svm = pytest.importorskip("sklearn.svm").SVC(C=1e8, kernel="linear", tol=1e-8).fit(points, labels)
    assert margin == pytest.approx(1 / np.linalg.norm(svm.coef_), rel=1e-5)


@pytest.mark.parametrize(("points", "labels", "margin"), [
    ([[0.0], [3.0]], [-1, 1], 1.5),
    ([[0, 0], [1, 0], [0, 2], [1, 2]], [1, 1, -1, -1], 1),
    (CORNERS, (-1, -1, -1, 1), np.sqrt(0.5) / 2),
])
def test_margins_known_in_closed_form(points, labels, margin):
    assert maximum_margin(points, labels)[2] == pytest.approx(margin, rel=1e-6)


def test_handwritten_threes_and_eights_are_separable():
    train, _ = data.digits()
    chosen = np.isin(train.labels, (3, 8))
    points = train.images[chosen].reshape(chosen.sum(), -1)
    labels = np.where(train.labels[chosen] == 3, 1, -1)
    perceptron = Perceptron().fit(points, labels)
    assert perceptron.converged
    assert perceptron.updates <= novikoff_bound(points, labels)


@pytest.mark.parametrize(("count", "features"), [(30, 2), (60, 3), (200, 50)])
def test_labels_drawn_by_lot_are_proved_to_be_inseparable(count, features):
    rng = np.random.default_rng(count)
    points, labels = rng.standard_normal((count, features)), rng.choice([-1, 1], count)
    with pytest.raises(ValueError, match="no hyperplane separates the classes"):
        maximum_margin(points, labels)
    assert not Perceptron(max_epochs=20).fit(points, labels).converged


def test_a_search_that_ends_early_says_so():
    points, labels = separable(0)
    with pytest.raises(ValueError, match="max_iterations must be more than 1: neither"):
        maximum_margin(points, labels, max_iterations=1)


@pytest.mark.parametrize("labels", FUNCTIONS)
def test_of_the_functions_of_two_bits_xor_alone_is_beyond_it(labels):
    perceptron = Perceptron(max_epochs=50).fit(CORNERS, labels)
    proof = certificate(CORNERS, labels)
    assert perceptron.converged == (proof is None) == (labels not in (XOR, tuple(-np.array(XOR))))
    if proof is None:
        assert perceptron.updates <= novikoff_bound(CORNERS, labels)
    else:
        assert proof == pytest.approx(dict.fromkeys(range(4), 0.25))
        assert "no hyperplane separates the classes" in repr(perceptron)
        with pytest.raises(ValueError, match="no hyperplane separates the classes"):
            novikoff_bound(CORNERS, labels)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_a_hidden_layer_solves_xor(activation):
    model = mlp((2, 8, 1), activation, rng=np.random.default_rng(0))
    inputs, target = CORNERS.astype(np.float32), np.array(XOR)[:, None]
    loss, optimizer = LogisticLoss(), Adam(model.parameters(), 0.1)
    for _ in range(300):
        loss(model(inputs), target)
        optimizer.zero_grad()
        model.backward(loss.backward())
        optimizer.step()
    assert (model(inputs) * target > 1).all()


def test_a_linear_network_does_not():
    """The least loss of any linear score on XOR is that of a constant 0: log 2, and no label is told."""
    model = mlp((2, 1), rng=np.random.default_rng(0))
    inputs, target = CORNERS.astype(np.float32), np.array(XOR)[:, None]
    loss, optimizer = LogisticLoss(), Adam(model.parameters(), 0.1)
    for _ in range(300):
        assert loss(model(inputs), target) >= np.log(2) - 1e-7
        optimizer.zero_grad()
        model.backward(loss.backward())
        optimizer.step()
    assert loss(model(inputs), target) == pytest.approx(np.log(2), rel=1e-3)


def test_representation():
    perceptron = Perceptron(max_epochs=7)
    assert repr(perceptron) == "Perceptron(max_epochs=7)"
    perceptron.fit(CORNERS, (-1, -1, -1, 1))
    counts = f"{perceptron.updates} updates in {perceptron.epochs} epochs"
    assert repr(perceptron) == f"Perceptron({counts}, converged)"


@pytest.mark.parametrize(("points", "labels", "message"), [
    (np.zeros(3), [1, -1, 1], r"points must be \(N, D\) and labels \(N,\), got \(3,\) and \(3,\)"),
    (np.zeros((3, 2)), [1, -1], r"got \(3, 2\) and \(2,\)"),
    (np.full((2, 2), np.nan), [1, -1], "points must be finite"),
    (np.zeros((2, 2)), [0, 1], r"labels must be -1 and \+1, both of them, got \[.*0.*\]"),
    (np.zeros((2, 2)), [1, 1], r"labels must be -1 and \+1, both of them"),
])
def test_wrong_arguments_are_named(points, labels, message):
    for function in (Perceptron().fit, maximum_margin, novikoff_bound):
        with pytest.raises(ValueError, match=message):
            function(points, labels)
    with pytest.raises(ValueError, match="max_epochs must be positive, got 0"):
        Perceptron(0)


@pytest.mark.parametrize(("sizes", "activation", "message"), [
    ((3,), "relu", r"sizes must hold at least .*, got \(3,\)"),
    ((3, 2), "step", "activation must be one of sigmoid, tanh, relu, got 'step'"),
])
def test_mlp_refuses(sizes, activation, message):
    with pytest.raises(ValueError, match=message):
        mlp(sizes, activation)
