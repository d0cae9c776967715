"""Activations, element by element, on arrays of any shape. Each keeps its output alone for backward."""

import numpy as np

from .. import _core
from .. import functional as F
from .base import Layer


def _plan(kind, planner, x, out):
    return planner.step(_core.activation, kind, x, planner.place(out, x.shape), over=x)


class ReLU(Layer):
    """max(x, 0)."""

    def forward(self, x):
        y = F.relu(x)
        return self._save(y, y)

    def backward(self, grad_output):
        (y,) = self._restore(grad_output)
        return F.relu_backward(grad_output, y)

    def plan(self, planner, x, out=None):
        return _plan(_core.RELU, planner, x, out)


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def forward(self, x):
        y = F.sigmoid(x)
        return self._save(y, y)

    def backward(self, grad_output):
        (y,) = self._restore(grad_output)
        return F.sigmoid_backward(grad_output, y)

    def plan(self, planner, x, out=None):
        return _plan(_core.SIGMOID, planner, x, out)


class Tanh(Layer):
    """Hyperbolic tangent."""

    def forward(self, x):
        y = F.tanh(x)
        return self._save(y, y)

    def backward(self, grad_output):
        (y,) = self._restore(grad_output)
        return F.tanh_backward(grad_output, y)

    def plan(self, planner, x, out=None):
        return _plan(_core.TANH, planner, x, out)


class ScaledTanh(Layer):
    """1.7159 tanh(2 x / 3): LeCun et al., Proc. IEEE 86 (1998), appendix A.

    The constants make f(1) = 1 and f(-1) = -1, so that targets of +-1 lie where the curvature is greatest,
    not at the asymptotes.
    """

    AMPLITUDE, SLOPE = np.float32(1.7159), np.float32(2 / 3)

    def forward(self, x):
        tanh = F.tanh(x * self.SLOPE)
        return self._save(tanh * self.AMPLITUDE, tanh)

    def backward(self, grad_output):
        (tanh,) = self._restore(grad_output)
        return F.tanh_backward(grad_output * (self.AMPLITUDE * self.SLOPE), tanh)

    def plan(self, planner, x, out=None):
        scaled = planner.step(np.multiply, x, self.SLOPE, planner.place(None, x.shape), over=x)
        tanh = _plan(_core.TANH, planner, scaled, None)
        return planner.step(np.multiply, tanh, self.AMPLITUDE, planner.place(out, x.shape), over=tanh)


class Hardtanh(Layer):
    """x where it lies from min_val to max_val, else the nearer of the two; Hardtanh(0, 6) is ReLU6."""

    def __init__(self, min_val=-1.0, max_val=1.0):
        if not min_val < max_val:
            raise ValueError(f"min_val must be below max_val, got {min_val!r} and {max_val!r}")
        self.min_val, self.max_val = np.float32(min_val), np.float32(max_val)

    def forward(self, x):
        return self._save(np.clip(x, self.min_val, self.max_val), x)

    def backward(self, grad_output):
        (x,) = self._restore(grad_output)
        return grad_output * ((x > self.min_val) & (x < self.max_val))

    def plan(self, planner, x, out=None):
        return planner.step(np.clip, x, self.min_val, self.max_val, planner.place(out, x.shape), over=x)


class Square(Layer):
    """x * x."""

    def forward(self, x):
        return self._save(np.multiply(x, x), x)

    def backward(self, grad_output):
        (x,) = self._restore(grad_output)
        return grad_output * x * 2

    def plan(self, planner, x, out=None):
        return planner.step(np.multiply, x, x, planner.place(out, x.shape), over=x)


class Softmax(Layer):
    """exp(x) / sum of exp(x) over `axis`: functional.softmax."""

    def __init__(self, axis=-1):
        self.axis = axis

    def forward(self, x):
        y = F.softmax(x, self.axis)
        return self._save(y, y)

    def backward(self, grad_output):
        (y,) = self._restore(grad_output)
        return y * (grad_output - (grad_output * y).sum(axis=self.axis, keepdims=True))


class LogSoftmax(Layer):
    """log(softmax(x)) over `axis`: functional.log_softmax."""

    def __init__(self, axis=-1):
        self.axis = axis

    def forward(self, x):
        y = F.log_softmax(x, self.axis)
        return self._save(y, y)

    def backward(self, grad_output):
        (y,) = self._restore(grad_output)
        return grad_output - np.exp(y) * grad_output.sum(axis=self.axis, keepdims=True)
