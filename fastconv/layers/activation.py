"""Activations, element by element, on arrays of any shape. Each keeps its output alone for backward."""

from .. import functional as F
from .base import Layer


class ReLU(Layer):
    """max(x, 0)."""

    def forward(self, x):
        y = F.relu(x)
        return self._save(y, y)

    def backward(self, grad_output):
        (y,) = self._restore(grad_output)
        return F.relu_backward(grad_output, y)


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def forward(self, x):
        y = F.sigmoid(x)
        return self._save(y, y)

    def backward(self, grad_output):
        (y,) = self._restore(grad_output)
        return F.sigmoid_backward(grad_output, y)


class Tanh(Layer):
    """Hyperbolic tangent."""

    def forward(self, x):
        y = F.tanh(x)
        return self._save(y, y)

    def backward(self, grad_output):
        (y,) = self._restore(grad_output)
        return F.tanh_backward(grad_output, y)
