"""Modules of torch.nn whose forward is fastconv's: subclasses that add nothing but that.

Where fastconv has no kernel (tensors that are not dense float32 on the CPU, autocast, padding modes) they
compute what torch does, and say so once.
"""

import warnings
import weakref

import numpy as np

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
        if not self.fits(x):
            return super().forward(x)
        if is_frozen(self, x):
            return _prepared(self, None, x, residual, activation is not None)
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
    Elsewhere torch's product is faster on weights in its order.
    """

    def forward(self, x):
        large = x.dim() == 2 and x.shape[0] <= 16 and self.weight.numel() >= 1 << 22
        if not large or not _fits(self, x, self.weight, self.bias):
            return super().forward(x)
        return ops.linear(x, self.weight, self.bias)


# torch's class -> ours
FAST = {cls.__base__: cls for cls in (Conv2d, BatchNorm2d, ReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d,
                                      Linear)}


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
    pads = options[1]
    return torch.Size(ops._conv2d_shape(x, module.weight, options[0], (*pads[0], *pads[1]), options[2]))


def normed(conv, norm, x, residual=None, relu=None):
    """relu(norm(conv(x)) + residual): one convolution where frozen, else norm and what follows in one."""
    quiet = is_plain(conv) and is_plain(norm) and (relu is None or relu is True or is_plain(relu))
    if (quiet and is_frozen(conv, x) and not norm.training and norm.running_mean is not None
            and conv.fits(x, residual)
            and (residual is None or residual.shape == _result_shape(conv, x))):
        return _prepared(conv, norm, x, residual, relu is not None)
    return fused(norm, conv(x), residual, relu)


# ---- frozen models ----------------------------------------------------------------------------------

_FILTERS = weakref.WeakKeyDictionary()  # convolution -> (key, weight, bias, filters, aliases)


def is_frozen(module, x):
    """Whether the convolution may keep what it makes of its weights, and nobody wants gradients."""
    return ("_frozen" in module.__dict__ and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
            and type(x) is torch.Tensor)


def _prepared(conv, norm, x, residual, relu):
    """relu(norm(conv(x)) + residual) with filters that are made anew when a tensor has changed.

    Aliases of the tensors are kept with them, so that no new tensor can take the address of an old one.
    """
    tensors = [conv.weight, conv.bias]
    if norm is not None:
        tensors += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    key = (x.shape[1:], _core.isa(), *(tensor is not None and (tensor.data_ptr(), _version(tensor))
                                       for tensor in tensors))
    options = F._geometry(tuple(conv.weight.shape), conv.stride, conv.padding, conv.dilation, conv.groups,
                          "auto")
    kept = _FILTERS.get(conv)
    if kept is None or kept[0] != key:
        weight, bias = _folded(conv, norm)
        filters = _core.prepare_conv2d(weight, tuple(x.shape), *options, "auto")
        aliases = [tensor.detach() for tensor in tensors if tensor is not None]
        _FILTERS[conv] = kept = key, weight, bias, filters, aliases
    out = _core.empty(tuple(_result_shape(conv, x)), True)
    _, weight, bias, filters, _ = kept
    return torch.from_numpy(_core.conv2d(ops._array(x), weight, bias, *options, "auto", ops._array(residual),
                                         relu, filters, out))


def _version(tensor):
    """Counts the changes of a tensor in place; tensors of inference mode count none, and are always new."""
    return object() if tensor.is_inference() else tensor._version


def _folded(conv, norm):
    """(weight, bias) of the convolution followed by the norm, the output channel fastest in memory."""
    weight = np.ascontiguousarray(ops._array(conv.weight).transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    bias = None if conv.bias is None else ops._array(conv.bias)
    if norm is None:
        return weight, None if bias is None else bias.copy()
    mean, var = (ops._array(average).astype(np.float64) for average in (norm.running_mean, norm.running_var))
    scale, shift = 1 / np.sqrt(var + norm.eps), -mean
    if norm.weight is not None:
        scale *= ops._array(norm.weight)
    if bias is not None:
        shift += bias
    shift *= scale
    if norm.bias is not None:
        shift += ops._array(norm.bias)
    np.multiply(weight, scale[:, None, None, None], out=weight, casting="same_kind", dtype=np.float64)
    return weight, shift.astype(np.float32)


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
