"""Normalisation and dropout: BatchNorm2d, LocalResponseNorm, Dropout."""

import numpy as np

from .. import _core
from .. import functional as F
from .base import Layer, Parameter
from .linear import _count


class BatchNorm2d(Layer):
    """Normalises each channel: x (N, num_features, H, W) -> the same shape; see functional.batch_norm.

    In training with the mean and variance of the batch, in evaluation with their running averages, or again
    with those of the batch where track_running_stats is False. momentum None: the plain average over all
    batches. affine: weight and bias (num_features,), first ones and zeros.
    forward raises ValueError where the batch has one value per channel, which has no variance.
    """

    fuses = ("residual", "activation")
    buffer_names = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True):
        self.num_features = _count("num_features", num_features)
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_features, np.float32)) if affine else None
        self.running_mean = np.zeros(num_features, np.float32) if track_running_stats else None
        self.running_var = np.ones(num_features, np.float32) if track_running_stats else None
        self.num_batches_tracked = np.zeros((), np.int64) if track_running_stats else None

    def _affine(self):
        return (None, None) if self.weight is None else (self.weight.data, self.bias.data)

    def forward(self, x, *, residual=None, activation=None):
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"x must have shape (N, {self.num_features}, H, W), got {x.shape}")
        fused = {"residual": residual, "activation": activation}
        tracked = self.running_mean is not None
        if tracked and not self.training:
            y = F.batch_norm(x, self.running_mean, self.running_var, *self._affine(), eps=self.eps, **fused)
            return self._keep(y, x, None, None, **fused)
        if not self.training and x.size == 0:
            nothing = np.zeros(self.num_features, np.float32)
            return self._keep(np.empty_like(x), x, nothing, nothing, **fused)
        if x.size == self.num_features:
            raise ValueError(f"x must have more than one value per channel in training, got shape {x.shape}")
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / (int(self.num_batches_tracked) + 1) if tracked else 0.0
        y, mean, invstd = F.batch_norm_train(
            x, *self._affine(), self.running_mean, self.running_var, momentum, self.eps, **fused)
        if tracked:
            self.num_batches_tracked += 1
        return self._keep(y, x, mean, invstd, **fused)

    def _keep(self, y, x, mean, invstd, residual, activation):
        again = residual is None and mean is not None  # from x and the statistics backward computes y again
        return self._save(y, x, mean, invstd, activation, None if activation is None or again else y,
                          residual is not None)

    def backward(self, grad_output):
        x, mean, invstd, activation, y, with_residual = self._restore(grad_output)
        of_batch = mean is not None
        if not of_batch:
            mean, invstd = self.running_mean, 1 / np.sqrt(self.running_var + np.float32(self.eps))
        weight, bias = self._affine()
        grad_input, grad_weight, grad_bias, *grad_residual = F.batch_norm_backward(
            grad_output, x, mean, invstd, weight, of_batch, bias=bias, activation=activation, y=y,
            return_residual=with_residual)
        if self.weight is not None:
            self.weight.accumulate(lambda out: np.copyto(out, grad_weight))
            self.bias.accumulate(lambda out: np.copyto(out, grad_bias))
        if not self.needs_input_grad:
            grad_input = None
        return (grad_input, *grad_residual) if with_residual else grad_input

    def _scale_and_shift(self):
        """What evaluation does with running averages, scale * x + shift: float64, one for each channel."""
        scale = 1 / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        if self.weight is None:
            return scale, -self.running_mean * scale
        scale *= self.weight.data
        return scale, self.bias.data - self.running_mean * scale

    def plan(self, planner, x, out=None, *, residual=None, activation=None):
        of_batch = self.running_mean is None
        return planner.step(_core.batch_norm, x, *self._affine(), self.running_mean, self.running_var,
                            of_batch, 0.0, self.eps, residual, activation is not None,
                            planner.place(out, x.shape), over=x, whole=of_batch)


class LocalResponseNorm(Layer):
    """Divides by a power of the mean square of `size` channels: x (N, C, H, W) -> the same shape.

    Options as functional.local_response_norm.
    """

    def __init__(self, size, alpha=1e-4, beta=0.75, k=1.0):
        self.size, self.alpha, self.beta, self.k = F._local_response(size, alpha, beta, k)

    def _options(self):
        return self.size, self.alpha, self.beta, self.k

    def forward(self, x):
        return self._save(F.local_response_norm(x, *self._options()), x)

    def backward(self, grad_output):
        (x,) = self._restore(grad_output)
        return F.local_response_norm_backward(grad_output, x, *self._options())

    def plan(self, planner, x, out=None):
        y = planner.place(out, x.shape)
        return planner.step(_core.local_response_norm, x, *self._options(), y, over=x)


class Dropout(Layer):
    """In training zeroes elements with probability p and scales the others by 1 / (1 - p); else x itself.

    rng: the numpy Generator that chooses, kept as an attribute; by default a new one.
    """

    def __init__(self, p=0.5, *, rng=None):
        if not 0 <= p <= 1:
            raise ValueError(f"p must be from 0 to 1, got {p!r}")
        self.p = p
        self.rng = rng or np.random.default_rng()

    def forward(self, x):
        if not self.training or self.p == 0:
            return self._save(x, None)
        y, mask = F.dropout(x, self.p, rng=self.rng, return_mask=True)
        return self._save(y, mask)

    def backward(self, grad_output):
        (mask,) = self._restore(grad_output)
        return grad_output if mask is None else F.dropout_backward(grad_output, mask, self.p)

    def plan(self, planner, x, out=None):
        return x
