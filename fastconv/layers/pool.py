"""Layers over windows of an image: pooling and subsampling."""

import math

import numpy as np

from .. import _core, checks
from .. import functional as F
from .base import Layer, Parameter
from .linear import _count


class MaxPool2d(Layer):
    """Maximum over windows: x (N, C, H, W) -> (N, C, P, Q); options as functional.max_pool2d.

    behind_relu, of forward: whether x is the result of a ReLU whose gradient backward takes as well, on the
    smaller map: the maximum of a window is cut off where all of it is.
    """

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
        options = checks.pool_options(kernel_size, stride, padding, dilation)
        self.kernel_size, self.stride, self.padding, self.dilation = options
        self.ceil_mode = ceil_mode

    def _options(self):
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def forward(self, x, *, behind_relu=False):
        marked = behind_relu and self.training and math.prod(self.kernel_size) < 256
        if self.training:
            (y, argmax), kept = F.max_pool2d_argmax(x, *self._options(), behind_relu=marked), None
        else:
            y, argmax, kept = F.max_pool2d(x, *self._options()), None, x
        return self._save(y, x.shape, argmax, kept, y if behind_relu and not marked else None)

    def backward(self, grad_output):
        input_shape, argmax, x, y = self._restore(grad_output)
        if y is not None:
            grad_output = F.relu_backward(grad_output, y)
        if argmax is None:  # evaluation does not pay for positions that are seldom asked for
            _, argmax = F.max_pool2d_argmax(x, *self._options())
        return F.max_pool2d_backward(grad_output, argmax, input_shape, *self._options())

    def plan(self, planner, x, out=None):
        y = planner.place(out, self.output_shape(x.shape))
        options = self.kernel_size, self.stride, self.padding, self.dilation
        return planner.step(_core.max_pool2d, x, *options, y.shape[2:], False, y)


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

    def plan(self, planner, x, out=None):
        y = planner.place(out, self.output_shape(x.shape))
        options = self.kernel_size, self.stride, self.padding, y.shape[2:], self.count_include_pad
        return planner.step(_core.avg_pool2d, x, *options, False, y)


class Subsample2d(Layer):
    """Mean over windows times a weight plus a bias, both trained: x (N, num_features, H, W) -> (N, C, P, Q).

    The S layers of LeCun et al., Proc. IEEE 86 (1998), section II.B, who weight the sum instead of the mean.
    weight and bias (num_features,), first ones and zeros. kernel_size as of functional.avg_pool2d.
    """

    def __init__(self, num_features, kernel_size):
        self.num_features = _count("num_features", num_features)
        self.pool = AvgPool2d(kernel_size)
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        # Batch normalisation with these constants for its averages is the product and sum per channel.
        self._mean, self._var = np.zeros(num_features, np.float32), np.ones(num_features, np.float32)

    def forward(self, x):
        mean = self.pool.forward(x)
        y = F.batch_norm(mean, self._mean, self._var, self.weight.data, self.bias.data, eps=0)
        return self._save(y, mean)

    def backward(self, grad_output):
        (mean,) = self._restore(grad_output)
        grad_mean, grad_weight, grad_bias = F.batch_norm_backward(
            grad_output, mean, self._mean, self._var, self.weight.data, training=False)
        self.weight.accumulate(lambda out: np.copyto(out, grad_weight))
        self.bias.accumulate(lambda out: np.copyto(out, grad_bias))
        return self.pool.backward(grad_mean)

    def plan(self, planner, x, out=None):
        mean = planner.add(self.pool, x)
        return planner.step(_core.batch_norm, mean, self.weight.data, self.bias.data, self._mean, self._var,
                            False, 0.0, 0.0, None, False, planner.place(out, mean.shape), over=mean)


class AdaptiveAvgPool2d(Layer):
    """Mean over output_size windows that cover the image: x (N, C, H, W) -> (N, C, P, Q)."""

    def __init__(self, output_size):
        self.output_size = checks.bounded_pair("output_size", output_size)

    def forward(self, x):
        return self._save(F.adaptive_avg_pool2d(x, self.output_size), x.shape)

    def backward(self, grad_output):
        (input_shape,) = self._restore(grad_output)
        return F.adaptive_avg_pool2d_backward(grad_output, input_shape)

    def plan(self, planner, x, out=None):
        y = planner.place(out, self.output_shape(x.shape))
        return planner.step(_core.avg_pool2d, x, (1, 1), (1, 1), (0, 0), self.output_size, False, True, y)
