"""Layers that put elements elsewhere and compute nothing."""

import math

import numpy as np

from .. import _core, checks
from .base import Layer
from .linear import _count


class Flatten(Layer):
    """x (N, ...) -> (N, D); an image's elements in the order C, H, W, whatever the memory layout."""

    def forward(self, x):
        rows = len(x), math.prod(x.shape[1:])
        if x.ndim != 4 or x.flags.c_contiguous:
            return self._save(x.reshape(rows), x)
        return self._save(_core.copy(x, _core.empty(x.shape, False)).reshape(rows), x)

    def backward(self, grad_output):
        (x,) = self._restore(grad_output)
        grad_input = grad_output.reshape(x.shape)
        if x.flags.c_contiguous:
            return grad_input
        # Back to the layout of x, so that the layers before see gradients as they saw the images.
        if x.ndim == 4 and x.transpose(0, 2, 3, 1).flags.c_contiguous:
            return _core.copy(grad_input, _core.empty(x.shape, True))
        out = np.empty_like(x)
        np.copyto(out, grad_input)
        return out

    def plan(self, planner, x, out=None):
        y = x.rows()
        if y is None:
            y = planner.place(None, self.output_shape(x.shape))
            planner.copy(x, y.images(x.shape))
        return y


class Unflatten(Layer):
    """x (N, D) -> (N, *sizes), the reverse of Flatten for images of these sizes."""

    def __init__(self, sizes):
        self.sizes = tuple(_count("sizes", size) for size in sizes)

    def forward(self, x):
        return self._save(x.reshape(len(x), *self.sizes))

    def backward(self, grad_output):
        self._restore(grad_output)
        return grad_output.reshape(len(grad_output), math.prod(self.sizes))

    def output_shape(self, input_shape):
        if len(input_shape) != 2 or input_shape[1] != math.prod(self.sizes):
            raise ValueError(f"x must have shape (N, {math.prod(self.sizes)}), got {tuple(input_shape)}")
        return (input_shape[0], *self.sizes)

    def plan(self, planner, x, out=None):
        rows = x.rows()
        if rows is None:
            rows = planner.copy(x, planner.place(None, x.shape))
        return rows.images(self.output_shape(x.shape))


class Permute(Layer):
    """The axes of x in another order, as numpy.transpose: Permute((0, 3, 1, 2)) makes N x C x H x W of images
    that lie channels-last. Nothing is moved in memory.
    """

    def __init__(self, axes):
        self.axes = tuple(axes)
        if sorted(self.axes) != list(range(len(self.axes))):
            raise ValueError(f"axes must be 0 to {len(self.axes) - 1} in any order, got {axes!r}")

    def forward(self, x):
        return self._save(x.transpose(self.axes))

    def backward(self, grad_output):
        self._restore(grad_output)
        return grad_output.transpose(np.argsort(self.axes))

    def output_shape(self, input_shape):
        if len(input_shape) != len(self.axes):
            raise ValueError(f"x must have {len(self.axes)} axes, got shape {tuple(input_shape)}")
        return tuple(input_shape[axis] for axis in self.axes)

    def plan(self, planner, x, out=None):
        return x.transpose(self.axes)


class ConstantPad2d(Layer):
    """A border of `value` around images: x (N, C, H, W) -> (N, C, top + H + bottom, left + W + right).

    padding: ((top, bottom), (left, right)).
    """

    def __init__(self, padding, value=0.0):
        self.padding = tuple(checks.bounded_pair("padding", pair, 0) for pair in padding)
        if len(self.padding) != 2:
            raise ValueError(f"padding must be ((top, bottom), (left, right)), got {padding!r}")
        self.value = float(value)

    def _inside(self, y):
        (top, bottom), (left, right) = self.padding
        return y[:, :, top:y.shape[2] - bottom, left:y.shape[3] - right]

    def forward(self, x):
        y = np.full_like(x, self.value, shape=self.output_shape(x.shape))
        self._inside(y)[...] = x
        return self._save(y)

    def backward(self, grad_output):
        self._restore(grad_output)
        return self._inside(grad_output).copy(order="K")

    def output_shape(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(f"x must have 4 axes, got shape {tuple(input_shape)}")
        images, channels, rows, columns = input_shape
        return images, channels, rows + sum(self.padding[0]), columns + sum(self.padding[1])


class Select(Layer):
    """One step of sequences: x (N, T, ...) -> x[:, index], (N, ...)."""

    def __init__(self, index):
        self.index = index

    def forward(self, x):
        if x.ndim < 3 or not -x.shape[1] <= self.index < x.shape[1]:
            raise ValueError(f"x must have 3 axes or more and a step {self.index}, got shape {x.shape}")
        return self._save(x[:, self.index], x.shape)

    def backward(self, grad_output):
        (shape,) = self._restore(grad_output)
        grad_input = np.zeros(shape, np.float32)
        grad_input[:, self.index] = grad_output
        return grad_input
