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
