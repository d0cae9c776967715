"""Layers that multiply by weights: Conv2d, MappedConv2d, Linear; and RBF, which compares with templates.

Conv2d and Linear keep the output channel as the fastest axis of the weight in memory, the order in which the
kernels read it, and show it with torch's shape through a transpose.
"""

import math
import operator

import numpy as np

from .. import _core, checks, init
from .. import functional as F
from .base import Layer, Parameter


def _count(name, value):
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if count < 1:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return count


def _aligned(*shape):
    """An uninitialised array from the start of a cache line on: else each of its vectors lies in two."""
    size = math.prod(shape)
    memory = np.empty(size + 15, np.float32)
    first = -memory.ctypes.data % 64 // memory.itemsize
    return memory[first:first + size].reshape(shape)


def _initial(weight, bias, rng):
    """(weight, bias) as Parameters with torch's default: both uniform within 1 / sqrt(fan_in)."""
    init.kaiming_uniform(weight, a=math.sqrt(5), rng=rng)
    if not bias:
        return Parameter(weight), None
    bound = 1 / math.sqrt(init.fans(weight.shape)[0])
    values = init.uniform(np.empty(len(weight), np.float32), -bound, bound, rng=rng)
    return Parameter(weight), Parameter(values)


def _scale(weight, bias, scale, shift, maps=slice(None)):
    """Makes the outputs of a convolution scale * y + shift, by its parameters; returns that of the bias.

    scale and shift: float64, one for each output map; maps: those that the filters belong to.
    """
    per_filter = scale[maps].reshape(-1, *[1] * (weight.data.ndim - 1))
    np.multiply(weight.data, per_filter, out=weight.data, casting="same_kind", dtype=np.float64)
    if bias is not None:
        shift = bias.data * scale + shift
    return Parameter(shift.astype(np.float32))


def _plan_conv2d(planner, x, out, output_shape, weight, bias, options, residual=None, activation=None):
    """The step of a convolution; options as functional.conv2d takes them."""
    filters = F.prepare_conv2d(weight, x.shape, *options)
    options = F._geometry(weight, *options, "auto")
    return planner.step(_core.conv2d, x, weight, bias, *options, "auto", residual, activation is not None,
                        filters, planner.place(out, output_shape))


class Conv2d(Layer):
    """2-D convolution: x (N, in_channels, H, W) -> (N, out_channels, P, Q); options as functional.conv2d.

    weight (out_channels, in_channels/groups, R, S) and bias (out_channels,) or None; rng draws their values.
    masked, of forward: whether the layer behind gives gradients that are 0 where the activation cut off.
    Raises ValueError or TypeError for options that do not fit.
    """

    fuses = ("residual", "activation")
    backward_adds = True

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1,
                 bias=True, *, rng=None):
        self.in_channels = _count("in_channels", in_channels)
        self.out_channels = _count("out_channels", out_channels)
        self.kernel_size = checks.bounded_pair("kernel_size", kernel_size)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups = _count("groups", groups)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"groups must divide in_channels {in_channels} and out_channels {out_channels}, "
                             f"got {groups}")
        stored = (*self.kernel_size, self.in_channels // self.groups, self.out_channels)
        self.weight, self.bias = _initial(_aligned(*stored).transpose(3, 2, 0, 1), bias, rng)

    def _options(self):
        return self.stride, self.padding, self.dilation, self.groups

    def forward(self, x, *, residual=None, activation=None, masked=False):
        bias = None if self.bias is None else self.bias.data
        y = F.conv2d(x, self.weight.data, bias, *self._options(), residual=residual, activation=activation)
        return self._save(y, x, None if activation is None or masked else y, residual is not None)

    def backward(self, grad_output, *, addend=None):
        x, y, with_residual = self._restore(grad_output)
        if y is not None:
            grad_output = F.relu_backward(grad_output, y)
        weight, options = self.weight, self._options()
        weight.accumulate(
            lambda out: F.conv2d_backward_weight(grad_output, x, weight.shape, *options, out=out))
        if self.bias is not None:
            self.bias.accumulate(lambda out: F.conv2d_backward_bias(grad_output, out=out))
        grad_input = None
        if self.needs_input_grad:
            grad_input = F.conv2d_backward_input(grad_output, weight.data, x.shape, *options, addend=addend)
        return (grad_input, grad_output) if with_residual else grad_input

    def _fold(self, scale, shift):
        self.bias = _scale(self.weight, self.bias, scale, shift)

    def plan(self, planner, x, out=None, *, residual=None, activation=None):
        bias = None if self.bias is None else self.bias.data
        return _plan_conv2d(planner, x, out, self.output_shape(x.shape), self.weight.data, bias,
                            self._options(), residual, activation)

    def multiply_adds(self, input_shape):
        """R*S*C/groups for each of the N*K*P*Q outputs."""
        return math.prod(self.output_shape(input_shape)) * math.prod(self.weight.shape[1:])


class MappedConv2d(Layer):
    """2-D convolution in which output map k sees the input maps connections[k] alone, as in torch7's
    SpatialConvolutionMap: x (N, in_channels, H, W) -> (N, len(connections), P, Q), stride 1, no padding.

    LeCun et al., Proc. IEEE 86 (1998), table I. weight (links, R, S) has a filter for each pair (k, c) in the
    order of `connections`, so nothing is stored, counted or trained where there is no link; bias
    (len(connections),). rng draws both within 1 / sqrt(fan_in) of their map.
    Raises ValueError where a map has no input, a repeated one or one outside 0 .. in_channels - 1.
    """

    def __init__(self, in_channels, connections, kernel_size, *, rng=None):
        self.in_channels = _count("in_channels", in_channels)
        self.out_channels = _count("the number of connections", len(connections))
        self.kernel_size = checks.bounded_pair("kernel_size", kernel_size)
        for k, maps in enumerate(connections):
            if not maps or len(set(maps)) < len(maps) or not set(maps) <= set(range(in_channels)):
                raise ValueError(f"connections[{k}] must be different input maps from 0 to "
                                 f"{in_channels - 1}, got {maps!r}")
        self._links = tuple(np.array([(k, c) for k, maps in enumerate(connections) for c in maps]).T)
        weight = np.empty((len(self._links[0]), *self.kernel_size), np.float32)
        bias = np.empty(self.out_channels, np.float32)
        for k, maps in enumerate(connections):
            bound = 1 / math.sqrt(len(maps) * math.prod(self.kernel_size))
            of_map = self._links[0] == k
            weight[of_map] = init.uniform(weight[of_map], -bound, bound, rng=rng)
            init.uniform(bias[k:k + 1], -bound, bound, rng=rng)
        self.weight, self.bias = Parameter(weight), Parameter(bias)

    def _dense(self):
        """(out_channels, in_channels, R, S): the weight, and 0 where there is no link."""
        stored = (*self.kernel_size, self.in_channels, self.out_channels)
        dense = np.zeros(stored, np.float32).transpose(3, 2, 0, 1)
        dense[self._links] = self.weight.data
        return dense

    def forward(self, x):
        return self._save(F.conv2d(x, self._dense(), self.bias.data), x)

    def backward(self, grad_output):
        (x,) = self._restore(grad_output)
        dense = self._dense()
        grad_dense = F.conv2d_backward_weight(grad_output, x, dense.shape)
        self.weight.accumulate(lambda out: np.copyto(out, grad_dense[self._links]))
        self.bias.accumulate(lambda out: F.conv2d_backward_bias(grad_output, out=out))
        return F.conv2d_backward_input(grad_output, dense, x.shape) if self.needs_input_grad else None

    def _fold(self, scale, shift):
        self.bias = _scale(self.weight, self.bias, scale, shift, self._links[0])

    def plan(self, planner, x, out=None):
        return _plan_conv2d(planner, x, out, self.output_shape(x.shape), self._dense(), self.bias.data,
                            (1, 0, 1, 1))

    def multiply_adds(self, input_shape):
        """R*S for each link and each of its N*P*Q outputs."""
        images, _, rows, columns = self.output_shape(input_shape)
        return images * rows * columns * self.weight.data.size


class Linear(Layer):
    """Fully connected layer: x (N, in_features) -> x weight^T + bias, (N, out_features).

    weight (out_features, in_features) and bias (out_features,) or None; rng draws their values.
    """

    fuses = ("activation",)

    def __init__(self, in_features, out_features, bias=True, *, rng=None):
        self.in_features = _count("in_features", in_features)
        self.out_features = _count("out_features", out_features)
        self.weight, self.bias = _initial(_aligned(self.in_features, self.out_features).T, bias, rng)

    def forward(self, x, *, activation=None):
        bias = None if self.bias is None else self.bias.data
        y = F.linear(x, self.weight.data, bias, activation=activation)
        return self._save(y, x, None if activation is None else y)

    def backward(self, grad_output):
        x, y = self._restore(grad_output)
        if y is not None:
            grad_output = F.relu_backward(grad_output, y)
        self.weight.accumulate(lambda out: F.linear_backward_weight(grad_output, x, out=out))
        if self.bias is not None:
            self.bias.accumulate(lambda out: F.linear_backward_bias(grad_output, out=out))
        return F.linear_backward_input(grad_output, self.weight.data) if self.needs_input_grad else None

    def _fold(self, scale, shift):
        self.bias = _scale(self.weight, self.bias, scale, shift)

    def plan(self, planner, x, out=None, *, activation=None):
        weight, bias = self.weight.data, None if self.bias is None else self.bias.data
        if x.shape[0] == 1 and weight.nbytes > planner.core_cache_bytes:
            weight = F.compress_weight(weight) or weight
        y = planner.place(out, (x.shape[0], self.out_features))
        return planner.step(_core.linear, x, weight, bias, activation is not None, y)

    def multiply_adds(self, input_shape):
        """in_features for each of the N*out_features outputs."""
        return math.prod(self.output_shape(input_shape)) * self.in_features


class RBF(Layer):
    """Log-likelihoods of normal distributions around K fixed templates, up to a constant: x (N, D) -> (N, K).

    y = -|x - c|^2 / (2 variance): LeCun et al., Proc. IEEE 86 (1998), equation 7, with the sign changed so
    that the largest output wins; theirs has variance 1/2. Under CrossEntropyLoss this is their equation 9
    without its constant for rubbish. centres: float32 (K, D), a buffer. Raises ValueError for centres,
    variance or x that do not fit.
    """

    buffer_names = ("centres",)

    def __init__(self, centres, variance=0.5):
        if centres.ndim != 2 or centres.dtype != np.float32:
            raise ValueError(f"centres must be a float32 array (K, D), got {centres.dtype} {centres.shape}")
        if not 0 < variance < math.inf:
            raise ValueError(f"variance must be positive, got {variance!r}")
        self.centres = centres
        self._precision = np.float32(1 / variance)

    def forward(self, x):
        if x.ndim != 2 or x.shape[1] != self.centres.shape[1]:
            raise ValueError(f"x must have shape (N, {self.centres.shape[1]}), got {x.shape}")
        squares = np.square(x[:, None] - self.centres).sum(axis=2)
        return self._save(squares * (-self._precision / 2), x)

    def backward(self, grad_output):
        (x,) = self._restore(grad_output)
        towards = F.linear_backward_input(grad_output, self.centres)
        return (towards - x * grad_output.sum(axis=1, keepdims=True)) * self._precision

    def multiply_adds(self, input_shape):
        """D for each of the N*K outputs."""
        return math.prod(self.output_shape(input_shape)) * self.centres.shape[1]
