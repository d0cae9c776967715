"""fastconv's convolution, ReLU and max pooling in JAX, through jax.pure_callback.

    from fastconv import jax as fjax
    jax.jit(jax.grad(lambda w: fjax.conv2d(x, w, padding=1).sum()))(w)

They have first derivatives (custom_vjp), and jit takes them; under vmap they are called once for each
example. A call leaves XLA and copies arrays into Python and back: see the README for what that costs. Arrays
are float32, (N, C, H, W). Needs JAX 0.5 or later: pip install "fastconv[jax]".
"""

import functools

import numpy as np

from . import checks
from . import functional as F
from .extras import require

jax = require("jax", "jax")

__all__ = ["conv2d", "max_pool2d", "relu"]


def _check(**arrays):
    for name, array in arrays.items():
        if getattr(array, "dtype", None) != np.float32:
            found = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"{name} must be a float32 array, got {found}")


def _call(function, shapes, *arrays):
    """function(*ndarrays) -> float32 arrays of `shapes`, within a JAX program."""
    results = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, np.float32), shapes,
                           is_leaf=lambda shape: isinstance(shape, tuple))
    return jax.pure_callback(lambda *values: function(*map(np.asarray, values)), results, *arrays,
                             vmap_method="sequential")


# ---- convolution ------------------------------------------------------------------------------------

@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d(x, weight, options):
    stride, padding, dilation, _ = options
    room = [x.shape[2 + i] + sum(padding[i]) - dilation[i] * (weight.shape[2 + i] - 1) - 1 for i in range(2)]
    size = tuple(extent // step + 1 for extent, step in zip(room, stride, strict=True))
    return _call(lambda x, weight: F.conv2d(x, weight, None, *options),
                 (x.shape[0], weight.shape[0], *size), x, weight)


def _conv2d_forward(x, weight, options):
    return _conv2d(x, weight, options), (x, weight)


def _conv2d_backward(options, saved, grad):
    def gradients(grad, x, weight):
        return (F.conv2d_backward_input(grad, weight, x.shape, *options),
                F.conv2d_backward_weight(grad, x, weight.shape, *options))

    return tuple(_call(gradients, [array.shape for array in saved], grad, *saved))


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """functional.conv2d: x (N, C, H, W), weight (K, C/groups, R, S), bias (K,) -> (N, K, P, Q).

    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, when it is traced.
    """
    _check(x=x, weight=weight, **({} if bias is None else {"bias": bias}))
    if len(x.shape) != 4 or len(weight.shape) != 4:
        raise ValueError(f"x and weight must have 4 axes, got shapes {x.shape} and {weight.shape}")
    options = F._geometry(tuple(weight.shape), stride, padding, dilation, groups, "auto")
    F._core.conv2d_choices(tuple(x.shape), tuple(weight.shape), *options)  # raises where they do not fit
    y = _conv2d(x, weight, options)
    return y if bias is None else y + bias[:, None, None]


# ---- ReLU and pooling -------------------------------------------------------------------------------

@jax.custom_vjp
def _relu(x):
    return _call(F.relu, x.shape, x)


def _relu_forward(x):
    y = _relu(x)
    return y, y


def _relu_backward(y, grad):
    return (_call(F.relu_backward, y.shape, grad, y),)


_relu.defvjp(_relu_forward, _relu_backward)


def relu(x):
    """functional.relu, any shape. Raises TypeError for other dtypes than float32."""
    _check(x=x)
    return _relu(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool2d(x, options, size):
    return _call(lambda x: F.max_pool2d(x, *options), (*x.shape[:2], *size), x)


def _max_pool2d_forward(x, options, size):
    return _max_pool2d(x, options, size), x


def _max_pool2d_backward(options, size, x, grad):
    def gradient(grad, x):
        _, argmax = F.max_pool2d_argmax(x, *options)
        return F.max_pool2d_backward(grad, argmax, x.shape, *options)

    return (_call(gradient, x.shape, grad, x),)


_max_pool2d.defvjp(_max_pool2d_forward, _max_pool2d_backward)


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """functional.max_pool2d: x (N, C, H, W) -> (N, C, P, Q); raises as it does, when it is traced."""
    _check(x=x)
    options = checks.pool_options(kernel_size, stride, padding, dilation)
    size = F._pooled_size("x", tuple(x.shape), *options, ceil_mode)
    return _max_pool2d(x, (*options, ceil_mode), size)
