"""Layers that change the shape of an image without weights: pooling and Flatten."""

import math

import numpy as np

from .. import checks
from .. import functional as F
from .base import Layer


class MaxPool2d(Layer):
    """Maximum over windows: x (N, C, H, W) -> (N, C, P, Q); options as functional.max_pool2d."""

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
        options = checks.pool_options(kernel_size, stride, padding, dilation)
        self.kernel_size, self.stride, self.padding, self.dilation = options
        self.ceil_mode = ceil_mode

    def _options(self):
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def forward(self, x):
        if not self.training:
            return self._save(F.max_pool2d(x, *self._options()), x.shape, None, x)
        y, argmax = F.max_pool2d_argmax(x, *self._options())
        return self._save(y, x.shape, argmax, None)

    def backward(self, grad_output):
        input_shape, argmax, x = self._restore(grad_output)
        if argmax is None:  # evaluation does not pay for positions that are seldom asked for
            _, argmax = F.max_pool2d_argmax(x, *self._options())
        return F.max_pool2d_backward(grad_output, argmax, input_shape, *self._options())


class AvgPool2d(Layer):
    """Mean over windows: x (N, C, H, W) -> (N, C, P, Q); options as functional.avg_pool2d."""

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
        self.kernel_size, self.stride, self.padding, _ = checks.pool_options(kernel_size, stride, padding, 1)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def _options(self):
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad

    def forward(self, x):
        return self._save(F.avg_pool2d(x, *self._options()), x.shape)

    def backward(self, grad_output):
        (input_shape,) = self._restore(grad_output)
        return F.avg_pool2d_backward(grad_output, input_shape, *self._options())


class AdaptiveAvgPool2d(Layer):
    """Mean over output_size windows that cover the image: x (N, C, H, W) -> (N, C, P, Q)."""

    def __init__(self, output_size):
        self.output_size = checks.bounded_pair("output_size", output_size)

    def forward(self, x):
        return self._save(F.adaptive_avg_pool2d(x, self.output_size), x.shape)

    def backward(self, grad_output):
        (input_shape,) = self._restore(grad_output)
        return F.adaptive_avg_pool2d_backward(grad_output, input_shape)


class Flatten(Layer):
    """x (N, ...) -> (N, D); an image's elements in the order C, H, W, whatever the memory layout."""

    def forward(self, x):
        return self._save(x.reshape(len(x), math.prod(x.shape[1:])), x)

    def backward(self, grad_output):
        (x,) = self._restore(grad_output)
        grad_input = grad_output.reshape(x.shape)
        if x.flags.c_contiguous:
            return grad_input
        # Back to the layout of x, so that the layers before see gradients as they saw the images.
        out = np.empty_like(x)
        np.copyto(out, grad_input)
        return out
