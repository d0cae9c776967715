"""The perceptron and the theorem on its mistakes, in plain NumPy and float64: it learns point by point.

Rosenblatt, Psychological Review 65 (1958); Block, Reviews of Modern Physics 34 (1962); Novikoff, On
convergence proofs on perceptrons (1962); Cristianini and Shawe-Taylor, An Introduction to Support Vector
Machines (2000).
"""

import numpy as np


class Perceptron:
    """Linear classifier of points (N, D) with labels -1 and +1 that learns from its mistakes alone.

    fit goes through the points in order, again and again: where label * (weight . point + bias) <= 0 it adds
    label * point to weight and label * R^2 to bias, R being the radius of the points (Cristianini and
    Shawe-Taylor, table 2.1, whose rate changes nothing here). It stops after an epoch without a mistake, or
    after max_epochs, and cannot tell then whether no hyperplane separates the classes: maximum_margin can.

    After fit: weight (D,), bias, updates (mistakes in all), epochs, and converged, False where it had to
    stop.
    """

    def __init__(self, max_epochs=1000):
        if max_epochs < 1:
            raise ValueError(f"max_epochs must be positive, got {max_epochs!r}")
        self.max_epochs = max_epochs
        self.weight, self.bias = None, 0.0
        self.updates = self.epochs = 0
        self.converged = False

    def __repr__(self):
        if self.weight is None:
            return f"Perceptron(max_epochs={self.max_epochs})"
        end = "converged" if self.converged else "not converged: no hyperplane separates the classes, or " \
                                                 "max_epochs is too small"
        return f"Perceptron({self.updates} updates in {self.epochs} epochs, {end})"

    def fit(self, points, labels):
        """Learns from scratch; returns itself. Raises ValueError for shapes and labels that do not fit."""
        points, labels = _checked(points, labels)
        squared_radius = float(_radius(points)) ** 2
        self.weight, self.bias = np.zeros(points.shape[1]), 0.0
        self.updates, self.converged = 0, False
        for epoch in range(1, self.max_epochs + 1):
            self.epochs, before = epoch, self.updates
            for point, label in zip(points, labels, strict=True):
                if label * (self.weight @ point + self.bias) <= 0:
                    self.weight += label * point
                    self.bias += label * squared_radius
                    self.updates += 1
            if self.updates == before:
                self.converged = True
                break
        return self

    def predict(self, points):
        """Labels -1 and +1, (N,) int64; a point on the hyperplane counts as -1."""
        return np.where(np.asarray(points, np.float64) @ self.weight + self.bias > 0, 1, -1)


def novikoff_bound(points, labels):
    """(2 R / margin)^2: the most updates that Perceptron.fit can make on separable classes, as a float.

    Novikoff's theorem, Cristianini and Shawe-Taylor, theorem 2.3: R is the largest norm of a point, margin
    that of maximum_margin. Without bias the bound is (R / margin)^2. The bias is the weight of one more
    coordinate, R, which makes the norms at most sqrt(2) R, and the separating unit vector at most sqrt(2)
    long, since a hyperplane between points of both classes is no further than R from 0: together factor 2.
    Any separating hyperplane's margin gives a bound that holds; the largest gives the best.
    Raises ValueError as maximum_margin does.
    """
    _, _, margin = maximum_margin(points, labels)
    return float((2 * _radius(np.asarray(points, np.float64)) / margin) ** 2)


def maximum_margin(points, labels, tolerance=1e-6, max_iterations=100_000):
    """(weight (D,), bias, margin): the unit vector and hyperplane furthest from both classes.

    The nearest points of the classes' convex hulls are found by the algorithm of Mitchell, Dem'yanov and
    Malozemov (SIAM Journal on Control 12, 1974): mass moves from the worst point in use to the best. The
    result proves itself: `margin` is the least label * (weight . point + bias), positive, and within the
    share `tolerance` of the largest there is, unless max_iterations end the search before.
    Raises ValueError where the hulls meet, or nearly (within 1e-9 R), so that no hyperplane separates the
    classes, where max_iterations end the search before that is known, and for shapes and labels that do not
    fit.
    """
    points, labels = _checked(points, labels)
    classes = [np.flatnonzero(labels == label) for label in (1, -1)]
    mass = np.zeros(len(points))  # w is the difference of a point of one hull and a point of the other
    mass[[members[0] for members in classes]] = 1
    nothing = (1e-9 * _radius(points)) ** 2  # the square of a distance that is rounding alone
    for _ in range(max_iterations):
        w = (mass * labels) @ points
        scores = labels * (points @ w)
        best = [members[scores[members].argmin()] for members in classes]
        if w @ w <= nothing or w @ w - scores[best].sum() <= tolerance * (w @ w):
            break
        worst = [max(members[mass[members] > 0], key=scores.__getitem__) for members in classes]
        better, worse = max(zip(best, worst, strict=True), key=lambda pair: scores[pair[1]] - scores[pair[0]])
        change = points[better] - points[worse]
        moved = min(mass[worse], (scores[worse] - scores[better]) / (change @ change))
        mass[better] += moved
        mass[worse] -= moved
    if w @ w <= nothing:
        raise ValueError("no hyperplane separates the classes: the convex hulls of their points meet")
    if scores[best].sum() <= 0:
        raise ValueError(f"max_iterations must be more than {max_iterations}: neither a hyperplane nor a "
                         "point of both hulls was found")
    w /= np.linalg.norm(w)
    bias = -(points[best] @ w).mean()
    return w, float(bias), float((labels * (points @ w + bias)).min())


def _radius(points):
    return np.linalg.norm(points, axis=1).max()


def _checked(points, labels):
    """Both as float64, of the shapes (N, D) and (N,)."""
    points, labels = np.asarray(points, np.float64), np.asarray(labels, np.float64)
    if points.ndim != 2 or labels.shape != points.shape[:1]:
        raise ValueError(f"points must be (N, D) and labels (N,), got {points.shape} and {labels.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite")
    if set(labels) != {-1, 1}:
        raise ValueError(f"labels must be -1 and +1, both of them, got {sorted(set(labels))}")
    return points, labels
