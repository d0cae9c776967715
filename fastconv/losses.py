"""Loss functions: the mean loss of a batch and its gradient with respect to the network's output.

A loss has `forward(output, target)` -> float (also called as `loss(output, target)`) and `backward()` ->
float32 array of the output's shape and memory order, for the latest forward.  Formulas and means are torch's.

Everything is computed in float64 and rounded once, so float32 outputs of any size cannot overflow on the way
to a representable result.  Infinities and NaN follow IEEE arithmetic, without warnings; each class says where
they lead.  All losses raise TypeError for dtypes and ValueError for shapes and labels that do not fit, naming
the argument and its value, and RuntimeError for a backward before the first forward.
"""

import copy
import math

import numpy as np


class Loss:
    """What the losses share: checks, float64, and what forward keeps for backward."""

    _saved = None

    def __call__(self, output, target):
        return self.forward(output, target)

    def forward(self, output, target):
        """Mean loss as a float.  output: float32 or float64 array; target: see the class."""
        output = np.asarray(output)
        if output.dtype not in (np.float32, np.float64):
            raise TypeError(f"output must be float32 or float64, got {output.dtype}")
        if output.ndim == 0 or output.size == 0:
            raise ValueError(f"output must be a batch of at least one value, got shape {output.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            loss, self._saved = self._forward(output.astype(np.float64), np.asarray(target))
        return float(loss)

    def backward(self):
        """Gradient of the latest forward's loss: a new float32 array of the output's shape."""
        if self._saved is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward before it")
        with np.errstate(over="ignore", invalid="ignore"):
            return self._backward(*self._saved).astype(np.float32)


class CrossEntropyLoss(Loss):
    """Mean over the batch of -sum over k of q[k] log softmax(output)[k], as torch.nn.CrossEntropyLoss.

    output (N, K) are scores before the softmax, target (N,) integer class indices in 0 .. K-1.
    q is label_smoothing / K for every class, plus 1 - label_smoothing for the target (Szegedy et al. 2016,
    "Rethinking the Inception architecture", section 7); 0 <= label_smoothing < 1.

    A score of -inf is a class ruled out: probability and gradient 0, loss inf where it is the target or
    label_smoothing > 0.  A score of +inf or NaN makes the sample's loss and gradient NaN, as in torch.
    """

    def __init__(self, label_smoothing=0.0):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing!r}")
        self.label_smoothing = float(label_smoothing)

    def _forward(self, scores, target):
        if scores.ndim != 2:
            raise ValueError(f"output must have shape (samples, classes), got {scores.shape}")
        _check_class_indices(target, scores.shape)
        scores -= scores.max(axis=1, keepdims=True)  # the largest exponential is 1: no overflow, sum >= 1
        exponentials = np.exp(scores)
        total = exponentials.sum(axis=1, keepdims=True)
        expected = scores[np.arange(len(target)), target]
        if self.label_smoothing:  # guarded: 0 * -inf would be NaN
            expected *= 1 - self.label_smoothing
            expected += self.label_smoothing * scores.mean(axis=1)
        loss = np.mean(np.log(total[:, 0]) - expected)
        return loss, (exponentials, total, target.copy())

    def _backward(self, exponentials, total, target):
        samples, classes = exponentials.shape
        gradient = exponentials / total
        gradient -= self.label_smoothing / classes
        gradient[np.arange(samples), target] -= 1 - self.label_smoothing
        gradient /= samples
        return gradient


class AuxiliaryLoss:
    """The loss of the scores plus `weight` times those of auxiliary heads, with the same targets.

    Szegedy et al., arXiv 1409.4842, section 5. loss: a Loss, used for each. output is what the network gives:
    in training a tuple, of the scores and those of the heads, for which backward gives a tuple of gradients;
    in evaluation the scores alone.
    """

    def __init__(self, loss, weight):
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be a finite number of at least 0, got {weight!r}")
        self.loss, self.weight = loss, float(weight)
        self._heads = ()

    def __call__(self, output, target):
        return self.forward(output, target)

    def forward(self, output, target):
        scores, *heads = output if isinstance(output, tuple) else (output,)
        self._heads = [copy.copy(self.loss) for _ in heads]  # each keeps what its own backward needs
        auxiliary = [loss.forward(head, target) for loss, head in zip(self._heads, heads, strict=True)]
        return self.loss.forward(scores, target) + self.weight * sum(auxiliary)

    def backward(self):
        gradient = self.loss.backward()
        if not self._heads:
            return gradient
        return (gradient, *(self.weight * loss.backward() for loss in self._heads))


class MSELoss(Loss):
    """Mean over all elements of (output - target)^2, as torch.nn.MSELoss.

    output and target have the same shape, any number of axes.  Equal infinities in both give NaN.
    """

    def _forward(self, output, target):
        if target.dtype.kind not in "iuf":
            raise TypeError(f"target must be real numbers, got {target.dtype}")
        if target.shape != output.shape:
            raise ValueError(f"target must have the output's shape {output.shape}, got {target.shape}")
        output -= target
        return np.mean(np.square(output)), (output,)

    def _backward(self, difference):
        return difference * (2 / difference.size)


class MarginLoss(Loss):
    """Mean over all elements of a decreasing function of the margin m = y * output, y = -1 or +1.

    target: labels -1 and +1 of the output's shape; or, for output (N, K) with K > 1, integer class indices
    (N,), which stand for +1 at the class and -1 at the others: one-vs-rest, K binary problems at once.
    """

    def _forward(self, output, target):
        labels = _signs(target, output.shape)
        output *= labels
        return np.mean(self._loss(output)), (output, labels)

    def _backward(self, margin, labels):
        gradient = self._slope(margin)
        gradient *= labels
        gradient /= margin.size
        return gradient


class LogisticLoss(MarginLoss):
    """log(1 + exp(-m)), as torch.nn.SoftMarginLoss.  Targets: see MarginLoss.

    Neither exponential overflows: the loss tends to -m, its slope to -1, up to and including m = -inf.
    """

    def _loss(self, margin):
        return np.logaddexp(0, -margin)

    def _slope(self, margin):
        return -np.exp(-np.logaddexp(0, margin))  # -1 / (1 + exp(m))


class ExponentialLoss(MarginLoss):
    """exp(-m), AdaBoost's loss (Friedman, Hastie and Tibshirani 2000).  Targets: see MarginLoss.

    Exponential in truth, not by accident of the formula: the loss is inf below m = -709 and the float32
    gradient below about -88.  Use LogisticLoss for outputs that may be that wrong.
    """

    def _loss(self, margin):
        return np.exp(-margin)

    def _slope(self, margin):
        return -np.exp(-margin)


class HingeLoss(MarginLoss):
    """max(0, 1 - m) (Cortes and Vapnik 1995), or with squared=True its square (the L2-SVM of Tang 2013).

    Targets: see MarginLoss.  At the kink m = 1 the slope is taken as 0.
    """

    def __init__(self, squared=False):
        self.squared = bool(squared)

    def _loss(self, margin):
        violation = np.maximum(0, 1 - margin)
        return np.square(violation) if self.squared else violation

    def _slope(self, margin):
        if self.squared:
            return -2 * np.maximum(0, 1 - margin)
        return -np.heaviside(1 - margin, 0)  # unlike a comparison, keeps NaN


def _check_class_indices(target, output_shape):
    samples, classes = output_shape
    if target.dtype.kind not in "iu":
        raise TypeError(f"target must be integer class indices, got {target.dtype}")
    if target.shape != (samples,):
        raise ValueError(f"target must have shape ({samples},) for output of shape {output_shape}, "
                         f"got {target.shape}")
    outside = (target < 0) | (target >= classes)
    if outside.any():
        raise ValueError(f"target must lie in 0 .. {classes - 1}, got {target[outside][0]} "
                         f"at index {np.flatnonzero(outside)[0]}")


def _signs(target, output_shape):
    """float64 labels -1 and +1 of the output's shape, from signs or from class indices."""
    if target.shape == output_shape:
        if target.dtype.kind not in "iuf":
            raise TypeError(f"target must be numbers -1 and +1, got {target.dtype}")
        wrong = (target != 1) & (target != -1)
        if wrong.any():
            raise ValueError(f"target must be -1 or +1, got {target[wrong][0]}")
        return target.astype(np.float64)
    if len(output_shape) != 2 or output_shape[1] < 2:
        raise ValueError(f"target must have the output's shape {output_shape}, got {target.shape}")
    _check_class_indices(target, output_shape)
    labels = np.full(output_shape, -1.0)
    labels[np.arange(len(target)), target] = 1
    return labels
