"""Modules of torch.nn whose forward is fastconv's: subclasses that add nothing but that.

Where fastconv has no kernel (tensors that are not dense float32 on the CPU, autocast, padding modes) they
compute what torch does, and say so once.
"""

import warnings
import weakref

from .. import _core
from .. import functional as F
from . import ops
from .ops import torch

nn = torch.nn


_WARNED = set()  # the kinds of modules that have said that torch computes them


def _fits(module, *tensors):
    """Whether fastconv computes this; if not, a warning, once for each kind of module."""
    if ops.is_supported(*tensors) and not torch.is_autocast_enabled("cpu"):
        return True
    name = type(module).__name__
    if not torch.compiler.is_compiling() and name not in _WARNED:
        _WARNED.add(name)
        warnings.warn(f"{name} is computed by torch: fastconv has dense float32 on the CPU, without autocast",
                      stacklevel=3)
    return False


def is_plain(module):
    """Whether nobody looks at what goes into or comes out of the module: it has no hooks."""
    return not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or nn.modules.module._has_any_global_hook())


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d; the result is channels-last, whatever x is."""

    def fits(self, x, residual=None):
        return (self.padding_mode == "zeros" and x.dim() == 4
                and _fits(self, x, self.weight, self.bias, residual))

    def forward(self, x, residual=None, activation=None):
        y = evaluated(self, None, x, residual, activation is not None)
        if y is not None:
            return y
        if not self.fits(x):
            return super().forward(x)
        return ops.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
                          residual=residual, activation=activation, channels_last=True)


class BatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d."""

    def fits(self, x, residual=None):
        return (x.dim() == 4 and not (self.training and x.numel() <= x.shape[1])
                and _fits(self, x, self.weight, self.running_mean, residual))

    def forward(self, x, residual=None, activation=None):
        if not self.fits(x):
            return super().forward(x)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
        of_batch = self.training or self.running_mean is None
        moves = self.training and self.track_running_stats
        running = (self.running_mean, self.running_var) if moves or not of_batch else (None, None)
        return ops.batch_norm(x, *running, self.weight, self.bias, of_batch, momentum, self.eps,
                              residual=residual, activation=activation)


class ReLU(nn.ReLU):
    """torch.nn.ReLU; in place it is torch's."""

    def forward(self, x):
        return super().forward(x) if self.inplace or not _fits(self, x) else ops.relu(x)


class MaxPool2d(nn.MaxPool2d):
    """torch.nn.MaxPool2d; torch's where it returns indices."""

    def forward(self, x):
        if self.return_indices or x.dim() != 4 or not _fits(self, x):
            return super().forward(x)
        return ops.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class AvgPool2d(nn.AvgPool2d):
    """torch.nn.AvgPool2d; torch's with a divisor."""

    def forward(self, x):
        if self.divisor_override is not None or x.dim() != 4 or not _fits(self, x):
            return super().forward(x)
        return ops.avg_pool2d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode,
                              self.count_include_pad)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """torch.nn.AdaptiveAvgPool2d."""

    def forward(self, x):
        size = self.output_size
        if x.dim() != 4 or (not isinstance(size, int) and None in size) or not _fits(self, x):
            return super().forward(x)
        return ops.adaptive_avg_pool2d(x, size)


class Linear(nn.Linear):
    """torch.nn.Linear; torch's but for few rows and large weights.

    There reading the weight and writing its gradient, which torch puts into fresh memory, take the time.
    Elsewhere torch's product is faster on weights in its order: without gradients for one or two rows too.
    """

    def forward(self, x):
        large = x.dim() == 2 and x.shape[0] <= 16 and self.weight.numel() >= 1 << 22
        if (not large or (x.shape[0] <= 2 and not torch.is_grad_enabled())
                or not _fits(self, x, self.weight, self.bias)):
            return super().forward(x)
        return ops.linear(x, self.weight, self.bias)


# torch's class -> ours
FAST = {cls.__base__: cls for cls in (Conv2d, BatchNorm2d, ReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d,
                                      Linear)}


# ---- evaluation -------------------------------------------------------------------------------------

_KEPT = weakref.WeakKeyDictionary()  # convolution -> Kept


def evaluated(conv, norm, x, residual, relu):
    """relu(norm(conv(x)) + residual) without gradients, by what is kept while its tensors are the same.

    None where the ops have to do it, or torch. With gradients, which come before changes, nothing is kept.
    """
    if torch.compiler.is_compiling():
        return None
    if torch.is_grad_enabled():
        forget(conv)
        return None
    if (x.dim() != 4 or not ops.is_unwatched(x, residual) or not ops.is_supported(x, residual)
            or torch.is_autocast_enabled("cpu")):
        return None
    tensors, kept = _tensors(conv, norm), _KEPT.get(conv)
    state = tensors and _state(conv, norm, tensors)
    if kept is None or kept.state != state or not kept.samples.agree():
        if not state or not _keepable(conv, tensors):
            return None
        _KEPT[conv] = kept = Kept(conv, norm, tensors, state)
    return kept(x, residual, relu)


def forget(conv):
    """Drops what is kept for a convolution."""
    _KEPT.pop(conv, None)


def _tensors(conv, norm):
    """What the result depends on, or None where one is made for every call, as by pruning."""
    try:
        tensors = [conv._parameters["weight"], conv._parameters["bias"]]
        if norm is not None:
            tensors += [norm._parameters["weight"], norm._parameters["bias"], norm._buffers["running_mean"],
                        norm._buffers["running_var"]]
    except KeyError:
        return None
    return tensors


def _state(conv, norm, tensors):
    """Equal while the tensors are the same; None where nothing tells, as of tensors of inference mode."""
    weight = tensors[0]
    state = [weight.shape, weight.stride(), conv.stride, conv.padding, conv.dilation, conv.groups,
             conv.padding_mode, None if norm is None else norm.eps]
    try:
        for tensor in tensors:
            state += (None,) if tensor is None else (id(tensor), tensor.data_ptr(), tensor._version)
    except RuntimeError:
        return None
    return state


def _keepable(conv, tensors):
    """Whether fastconv computes this, and torch knows all about the tensors."""
    return (conv.padding_mode == "zeros" and ops.is_supported(*tensors)
            and all(tensor is None or type(tensor) in ops.PLAIN for tensor in tensors))


class Kept:
    """What a convolution, and a norm folded into it, make of their tensors for all images.

    A tensor is the same while its memory is, and torch's count of its changes; it is held here, so that no
    new one can take its address. Changes that torch does not count, by `.data` or NumPy, show in samples.
    """

    def __init__(self, conv, norm, tensors, state):
        self.tensors, self.state = tensors, state
        self.samples = _core.Samples([ops._array(tensor) for tensor in tensors if tensor is not None])
        self.weight, self.bias = _folded(norm, *tensors)
        self.options = F._geometry(self.weight.shape, conv.stride, conv.padding, conv.dilation, conv.groups,
                                   "auto")
        self.last = None, None, None  # shapes of x and of the result, filters

    def __call__(self, x, residual, relu):
        x_shape, shape, filters = self.last
        if x.shape != x_shape:
            if filters is None:  # of more images there may be some
                filters = _core.prepare_conv2d(self.weight, tuple(x.shape), *self.options, "auto")
            shape = ops._conv2d_shape(x, self.weight, *self.options[:3])
            self.last = x.shape, shape, filters
        if residual is not None and residual.shape != shape:
            return None
        y = _core.conv2d(ops._array(x), self.weight, self.bias, *self.options, "auto", ops._array(residual),
                         relu, filters, _core.empty(shape, True))
        return torch.from_numpy(y)


def _folded(norm, weight, bias, gain=None, offset=None, mean=None, var=None):
    """Arrays (weight, bias) of the convolution followed by the norm, the output channel fastest in memory."""
    with torch.no_grad():
        weight = weight.permute(2, 3, 1, 0).clone(memory_format=torch.contiguous_format)
        if norm is None:
            bias = None if bias is None else bias.clone()
        else:
            scale, shift = (var.double() + norm.eps).rsqrt(), -mean.double()
            scale = scale if gain is None else scale * gain
            shift = (shift if bias is None else shift + bias) * scale
            bias = (shift if offset is None else shift + offset).float()
            torch.mul(weight, scale, out=weight)  # in float64, rounded once
        return ops._array(weight.permute(3, 2, 0, 1)), ops._array(bias)


# ---- steps of fused programs ------------------------------------------------------------------------

def fused(module, x, residual=None, relu=None):
    """relu(module(x) + residual) in one call where that is sound; relu: True, a module, or None."""
    quiet = is_plain(module) and (relu is None or relu is True or is_plain(relu))
    if (quiet and module.fits(x, residual) and (residual is None or residual.dim() == 4)
            and (residual is None or _result_shape(module, x) == residual.shape)):
        return module.forward(x, residual, None if relu is None else "relu")
    y = module(x)
    return activated(y if residual is None else y + residual, relu)


def _result_shape(module, x):
    if isinstance(module, BatchNorm2d):
        return x.shape
    options = F._geometry(tuple(module.weight.shape), module.stride, module.padding, module.dilation,
                          module.groups, "auto")
    return torch.Size(ops._conv2d_shape(x, module.weight, *options[:3]))


def normed(conv, norm, x, residual=None, relu=None):
    """relu(norm(conv(x)) + residual): one convolution in evaluation, else norm and what follows in one."""
    quiet = is_plain(conv) and is_plain(norm) and (relu is None or relu is True or is_plain(relu))
    if quiet and not norm.training and norm.running_mean is not None:
        y = evaluated(conv, norm, x, residual, relu is not None)
        if y is not None:
            return y
    return fused(norm, conv(x), residual, relu)


def activated(y, relu):
    if relu is None:
        return y
    return nn.functional.relu(y) if relu is True else relu(y)


def added(x, y, relu):
    """relu(x + y)."""
    same = isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.shape == y.shape
    if same and (relu is True or is_plain(relu)) and ops.is_supported(x, y):
        return ops.add_relu(x, y)
    return activated(x + y, relu)


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """torch.nn.functional.max_pool2d."""
    if return_indices or x.dim() != 4 or not ops.is_supported(x):
        return nn.functional.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return ops.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)
