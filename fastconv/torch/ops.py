"""The operations as torch.library custom ops, namespace fastconv, and functions that call them.

Tensors are dense float32 on the CPU; they are read in place, and results lie in fastconv's pool, which keeps
their memory from call to call. Each op has a gradient, itself an op without one: a second derivative raises
RuntimeError. Fake kernels state shapes and strides, so that torch.compile takes the ops as they are.
"""

from collections.abc import Sequence

import numpy as np

from .. import _core, checks
from .. import functional as F
from ..extras import require

torch = require("torch", "torch")
forward_ad, profiler = torch.autograd.forward_ad, torch.autograd.profiler
Tensor = torch.Tensor
CHANNELS_LAST = torch.channels_last


PLAIN = (Tensor, torch.nn.Parameter)


def _define(name):
    """Makes an op of a function, which stays its attribute `kernel`.

    torch.compile keeps compiled gradients on disk and finds them by the names of the ops in the forward pass:
    a release that changes the arguments of a gradient's op must rename the op whose gradient it is.
    """
    def decorate(kernel):
        op = torch.library.custom_op(f"fastconv::{name}", kernel, mutates_args=())
        op.kernel = kernel
        return op

    return decorate


def is_unwatched(*arguments):
    """Whether nobody wants to know of a call: no gradient, compiler, tracer, transform, mode or profiler."""
    if torch.compiler.is_compiling():
        return False
    if (torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack()
            or torch._C._functorch.peek_interpreter_stack() is not None
            or torch._C._get_tracing_state() is not None
            or forward_ad._current_level >= 0 or profiler._is_profiler_enabled):
        return False
    with_gradients = torch.is_grad_enabled()
    for argument in arguments:
        if isinstance(argument, Tensor) and (type(argument) not in PLAIN
                                             or (with_gradients and argument.requires_grad)):
            return False
    return True


def _call(op, *arguments):
    """The op; where it is unwatched its kernel, which spares torch's dispatcher, some 20 microseconds."""
    return (op.kernel if is_unwatched(*arguments) else op)(*arguments)


def _array(tensor):
    """The memory of a tensor as an array, or None."""
    if tensor is None:
        return None
    return tensor.detach().numpy() if tensor.requires_grad else tensor.numpy()


def _tensor(array):
    return torch.from_numpy(array)


def _gradient_of(weight):
    """Room for the gradient of a weight in its memory order, so that torch keeps it as it is."""
    if weight.is_contiguous():
        shape = tuple(weight.shape)
        return _tensor(_core.empty((1,) * (4 - len(shape)) + shape, False).reshape(shape))
    return torch.empty_like(weight)


def _none():
    """Stands for a gradient that nobody asked for."""
    return torch.empty(0)


def is_channels_last(x):
    """Whether the channels of a pixel lie side by side, as in fastconv; axes of size 1 say nothing."""
    return x.dim() == 4 and x.shape[1] > 1 and x.stride(1) == 1 and (x.shape[3] == 1 or x.stride(3) != 1)


def _images(shape, channels_last, like):
    """A fake result."""
    return torch.empty(shape, dtype=like.dtype, device=like.device,
                       memory_format=CHANNELS_LAST if channels_last else torch.contiguous_format)


def _native(tensor, channels_last):
    """The tensor in one of the two layouts: gradients arrive with any strides, those of sum() with 0."""
    return tensor.contiguous(memory_format=CHANNELS_LAST if channels_last else torch.contiguous_format)


def _differentiate(op, backward, save):
    torch.library.register_autograd(op, backward, setup_context=save)


def _no_second_derivative(op):
    def backward(ctx, *grads):
        raise RuntimeError(f"{op._name} has no second derivative: fastconv's gradients are first ones")

    torch.library.register_autograd(op, backward)


def check(**tensors):
    """Raises TypeError naming the first that is no dense float32 tensor on the CPU; None is none."""
    for name, tensor in tensors.items():
        if tensor is not None and not is_supported(tensor):
            found = (f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor)
                     else type(tensor).__name__)
            raise TypeError(f"{name} must be a dense float32 tensor on the CPU, got {found}")


def is_supported(*tensors):
    """Whether all of them, but those that are None, are dense float32 tensors on the CPU."""
    for tensor in tensors:
        if tensor is not None and not (isinstance(tensor, Tensor) and tensor.dtype == torch.float32
                                       and tensor.is_cpu and tensor.layout == torch.strided):
            return False
    return True


# ---- convolution ------------------------------------------------------------------------------------

def _pads(padding):
    """((top, bottom), (left, right)) of (vertical, horizontal) or (top, bottom, left, right)."""
    if len(padding) == 2:
        return ((padding[0], padding[0]), (padding[1], padding[1]))
    return (tuple(padding[:2]), tuple(padding[2:]))


def _options(stride, padding, dilation, groups):
    return tuple(stride), _pads(padding), tuple(dilation), groups


@_define("conv2d")
def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, stride: Sequence[int],
            padding: Sequence[int], dilation: Sequence[int], groups: int, relu: bool,
            channels_last: bool) -> Tensor:
    options = _options(stride, padding, dilation, groups)
    out = _core.empty(_conv2d_shape(x, weight, *options[:3]), channels_last)
    return _tensor(_core.conv2d(_array(x), _array(weight), _array(bias), *options, "auto", _array(residual),
                                relu, None, out))


def _conv2d_shape(x, weight, stride, pads, dilation):
    return (x.shape[0], weight.shape[0], *(
        max(0, (x.shape[2 + axis] + sum(pads[axis]) - dilation[axis] * (weight.shape[2 + axis] - 1) - 1)
            // stride[axis] + 1) for axis in range(2)))


@_conv2d.register_fake
def _(x, weight, bias, residual, stride, padding, dilation, groups, relu, channels_last):
    return _images(_conv2d_shape(x, weight, stride, _pads(padding), dilation), channels_last, x)


@_define("conv2d_backward")
def _conv2d_backward(grad: Tensor, x: Tensor, weight: Tensor, y: Tensor | None, stride: Sequence[int],
                     padding: Sequence[int], dilation: Sequence[int], groups: int,
                     wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and residual; y: the result, where it ended in a relu."""
    options = _options(stride, padding, dilation, groups)
    grad = _array(grad)
    if y is not None:
        grad = F.relu_backward(grad, _array(y))
    grads = [_none() for _ in range(4)]
    if wanted[0]:
        out = _core.empty(tuple(x.shape), is_channels_last(x))
        grads[0] = _tensor(_core.conv2d_backward_input(grad, _array(weight), tuple(x.shape), *options, "auto",
                                                       None, out))
    if wanted[1]:
        grads[1] = _gradient_of(weight)
        _core.conv2d_backward_weight(grad, _array(x), tuple(weight.shape), *options, "auto", grads[1].numpy())
    if wanted[2]:
        grads[2] = _tensor(_core.sum_channels(grad, None))
    if wanted[3]:
        grads[3] = _tensor(grad if y is not None else grad.copy(order="K"))
    return tuple(grads)


@_conv2d_backward.register_fake
def _(grad, x, weight, y, stride, padding, dilation, groups, wanted):
    return (_images(x.shape, is_channels_last(x), x) if wanted[0] else x.new_empty(0),
            torch.empty_like(weight) if wanted[1] else x.new_empty(0),
            x.new_empty(grad.shape[1] if wanted[2] else 0),
            torch.empty_like(grad) if wanted[3] else x.new_empty(0))


def _save_conv2d(ctx, inputs, output):
    x, weight, _, _, *ctx.options, ctx.relu, ctx.channels_last = inputs
    ctx.save_for_backward(x, weight, output if ctx.relu else None)


def _backward_conv2d(ctx, grad):
    wanted, grad = list(ctx.needs_input_grad[:4]), _native(grad, ctx.channels_last)
    grads = _call(_conv2d_backward, grad, *ctx.saved_tensors, *ctx.options, wanted)
    return (*(grad if asked else None for asked, grad in zip(wanted, grads, strict=True)), *[None] * 6)


_differentiate(_conv2d, _backward_conv2d, _save_conv2d)
_no_second_derivative(_conv2d_backward)


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, residual=None, activation=None,
           channels_last=None):
    """torch.nn.functional.conv2d: x (N, C, H, W), weight (K, C/groups, R, S), bias (K,) -> (N, K, P, Q).

    padding: as fastconv.functional.conv2d. residual (N, K, P, Q) is added and activation "relu" then applied
    in the same pass. channels_last: the memory format of the result, by default that of x.
    Raises TypeError for tensors that are not dense float32 on the CPU, and as fastconv.functional.conv2d.
    """
    check(x=x, weight=weight, bias=bias, residual=residual)
    stride, ((top, bottom), (left, right)), dilation, groups = F._geometry(
        tuple(weight.shape), stride, padding, dilation, groups, "auto")
    if channels_last is None:
        channels_last = is_channels_last(x)
    return _call(_conv2d, x, weight, bias, residual, stride, (top, bottom, left, right), dilation, groups,
                 F._relu_asked(activation), channels_last)


# ---- linear -----------------------------------------------------------------------------------------

@_define("linear")
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _tensor(F.linear(_array(x), _array(weight), _array(bias)))


@_linear.register_fake
def _(x, weight, bias):
    return x.new_empty(x.shape[0], weight.shape[0])


@_define("linear_backward")
def _linear_backward(grad: Tensor, x: Tensor, weight: Tensor,
                     wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    grad, grads = _array(grad), [_none() for _ in range(3)]
    if wanted[0]:
        grads[0] = _tensor(F.linear_backward_input(grad, _array(weight)))
    if wanted[1]:
        grads[1] = _gradient_of(weight)
        F.linear_backward_weight(grad, _array(x), out=grads[1].numpy())
    if wanted[2]:
        grads[2] = _tensor(F.linear_backward_bias(grad))
    return tuple(grads)


@_linear_backward.register_fake
def _(grad, x, weight, wanted):
    return (x.new_empty(x.shape) if wanted[0] else x.new_empty(0),
            torch.empty_like(weight) if wanted[1] else x.new_empty(0),
            x.new_empty(grad.shape[1] if wanted[2] else 0))


def _save_linear(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:2])


def _backward_linear(ctx, grad):
    wanted = list(ctx.needs_input_grad)
    grads = _call(_linear_backward, grad.contiguous(), *ctx.saved_tensors, wanted)
    return tuple(grad if asked else None for asked, grad in zip(wanted, grads, strict=True))


_differentiate(_linear, _backward_linear, _save_linear)
_no_second_derivative(_linear_backward)


def linear(x, weight, bias=None):
    """torch.nn.functional.linear for x (N, D), weight (K, D), bias (K,) -> (N, K); raises as conv2d does."""
    check(x=x, weight=weight, bias=bias)
    return _call(_linear, x, weight, bias)


# ---- pooling ----------------------------------------------------------------------------------------

@_define("max_pool2d")
def _max_pool2d(x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int],
                dilation: Sequence[int], ceil_mode: bool, positions: bool) -> tuple[Tensor, Tensor]:
    options = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
    size = F._pooled_size("x", tuple(x.shape), *options, ceil_mode)
    y, argmax = _core.max_pool2d(_array(x), *options, size, positions, None)
    if not positions:
        return _tensor(y), torch.empty(0, dtype=torch.uint8)
    # In the order of y, which a fake kernel can tell; the kernels' own depends on the sizes.
    ordered = np.empty_like(y, argmax.dtype)
    if ordered.strides != argmax.strides:
        np.copyto(ordered, argmax)
        argmax = ordered
    return _tensor(y), _tensor(argmax)


@_max_pool2d.register_fake
def _(x, kernel_size, stride, padding, dilation, ceil_mode, positions):
    size = F._pooled_size("x", tuple(x.shape), kernel_size, stride, padding, dilation, ceil_mode)
    y = _images((*x.shape[:2], *size), is_channels_last(x), x)
    dtype = torch.uint8 if kernel_size[0] * kernel_size[1] <= 256 else torch.int32
    return y, torch.empty_like(y, dtype=dtype) if positions else x.new_empty(0, dtype=torch.uint8)


@_define("max_pool2d_backward")
def _max_pool2d_backward(grad: Tensor, argmax: Tensor, input_shape: Sequence[int], kernel_size: Sequence[int],
                         stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Tensor:
    options = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
    dx = _core.max_pool2d_backward(_array(grad), _array(argmax), tuple(input_shape), *options, None)
    return _tensor(dx)


@_max_pool2d_backward.register_fake
def _(grad, argmax, input_shape, kernel_size, stride, padding, dilation):
    return _images(input_shape, is_channels_last(grad), grad)


def _save_max_pool2d(ctx, inputs, output):
    x, *ctx.options, _, positions = inputs
    ctx.shape, ctx.channels_last = x.shape, is_channels_last(x)
    ctx.save_for_backward(output[1] if positions else None)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward_max_pool2d(ctx, grad, _):
    (argmax,) = ctx.saved_tensors
    if grad is None:
        return (None,) * 7
    if argmax is None:
        raise RuntimeError("fastconv::max_pool2d needs positions=True for its gradient")
    grad = _native(grad, ctx.channels_last)
    return _call(_max_pool2d_backward, grad, argmax, ctx.shape, *ctx.options), *[None] * 6


_differentiate(_max_pool2d, _backward_max_pool2d, _save_max_pool2d)
_no_second_derivative(_max_pool2d_backward)


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """torch.nn.functional.max_pool2d: x (N, C, H, W) -> (N, C, P, Q); raises as conv2d does."""
    check(x=x)
    options = checks.pool_options(kernel_size, stride, padding, dilation)
    return _call(_max_pool2d, x, *options, ceil_mode, x.requires_grad and torch.is_grad_enabled())[0]


@_define("avg_pool2d")
def _avg_pool2d(x: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int],
                size: Sequence[int], count_include_pad: bool, adaptive: bool) -> Tensor:
    return _tensor(_core.avg_pool2d(_array(x), tuple(kernel_size), tuple(stride), tuple(padding), tuple(size),
                                    count_include_pad, adaptive, None))


@_avg_pool2d.register_fake
def _(x, kernel_size, stride, padding, size, count_include_pad, adaptive):
    return _images((*x.shape[:2], *size), is_channels_last(x), x)


@_define("avg_pool2d_backward")
def _avg_pool2d_backward(grad: Tensor, input_shape: Sequence[int], kernel_size: Sequence[int],
                         stride: Sequence[int], padding: Sequence[int], count_include_pad: bool,
                         adaptive: bool, channels_last: bool) -> Tensor:
    out = _core.empty(tuple(input_shape), channels_last)
    window = tuple(kernel_size), tuple(stride), tuple(padding)
    return _tensor(_core.avg_pool2d_backward(_array(grad), tuple(input_shape), *window, count_include_pad,
                                             adaptive, out))


@_avg_pool2d_backward.register_fake
def _(grad, input_shape, kernel_size, stride, padding, count_include_pad, adaptive, channels_last):
    return _images(input_shape, channels_last, grad)


def _save_avg_pool2d(ctx, inputs, output):
    x, *ctx.window, _, ctx.include, ctx.adaptive = inputs
    ctx.shape, ctx.channels_last = x.shape, is_channels_last(x)


def _backward_avg_pool2d(ctx, grad):
    grad = _native(grad, ctx.channels_last)
    return (_call(_avg_pool2d_backward, grad, ctx.shape, *ctx.window, ctx.include, ctx.adaptive,
                  ctx.channels_last), *[None] * 6)


_differentiate(_avg_pool2d, _backward_avg_pool2d, _save_avg_pool2d)
_no_second_derivative(_avg_pool2d_backward)


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """torch.nn.functional.avg_pool2d: x (N, C, H, W) -> (N, C, P, Q); raises as conv2d does."""
    check(x=x)
    *window, dilation = checks.pool_options(kernel_size, stride, padding, 1)
    size = F._pooled_size("x", tuple(x.shape), *window, dilation, ceil_mode)
    return _call(_avg_pool2d, x, *window, size, count_include_pad, False)


def adaptive_avg_pool2d(x, output_size):
    """torch.nn.functional.adaptive_avg_pool2d: x (N, C, H, W) -> (N, C, P, Q); raises as conv2d does."""
    check(x=x)
    if x.dim() != 4 or not x.shape[2] or not x.shape[3]:
        raise ValueError(f"x must have 4 axes and pixels, got shape {tuple(x.shape)}")
    size = checks.bounded_pair("output_size", output_size)
    return _call(_avg_pool2d, x, (1, 1), (1, 1), (0, 0), size, False, True)


# ---- ReLU and sums ----------------------------------------------------------------------------------

@_define("relu")
def _relu(x: Tensor) -> Tensor:
    return _tensor(F.relu(_array(x)))


@_define("relu_backward")
def _relu_backward(grad: Tensor, y: Tensor) -> Tensor:
    return _tensor(F.relu_backward(_array(grad), _array(y)))


@_relu.register_fake
def _(x):
    return torch.empty_like(x)


@_relu_backward.register_fake
def _(grad, y):
    return torch.empty_like(grad)


def _save_relu(ctx, inputs, output):
    ctx.save_for_backward(output)


def _backward_relu(ctx, grad):
    return _call(_relu_backward, grad, *ctx.saved_tensors)


_differentiate(_relu, _backward_relu, _save_relu)
_no_second_derivative(_relu_backward)


def relu(x):
    """torch.relu, any shape; raises as conv2d does."""
    check(x=x)
    return _call(_relu, x)


@_define("add_relu")
def _add_relu(x: Tensor, y: Tensor) -> Tensor:
    return _tensor(F.add(_array(x), _array(y), activation="relu"))


@_add_relu.register_fake
def _(x, y):
    return torch.empty_like(x)


def _backward_add_relu(ctx, grad):
    grad = _call(_relu_backward, grad, *ctx.saved_tensors)
    return grad, grad


_differentiate(_add_relu, _backward_add_relu, _save_relu)


def add_relu(x, y):
    """relu(x + y) of two tensors of one shape, in one pass; raises as conv2d does."""
    check(x=x, y=y)
    return _call(_add_relu, x, y)


# ---- batch normalisation ----------------------------------------------------------------------------

@_define("batch_norm_train")
def _batch_norm_train(x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
                      running_var: Tensor | None, residual: Tensor | None, momentum: float, eps: float,
                      relu: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, mean, invstd and the new running averages: an op that changed them could have no gradient."""
    running = [np.array(_array(average)) if average is not None else np.zeros(x.shape[1], np.float32)
               for average in (running_mean, running_var)]
    y, mean, invstd = _core.batch_norm(_array(x), _array(weight), _array(bias), *running, True, momentum, eps,
                                       _array(residual), relu, None)
    return tuple(map(_tensor, (y, mean, invstd, *running)))


@_batch_norm_train.register_fake
def _(x, weight, bias, running_mean, running_var, residual, momentum, eps, relu):
    return (_images(x.shape, is_channels_last(x), x), *(x.new_empty(x.shape[1]) for _ in range(4)))


@_define("batch_norm_eval")
def _batch_norm_eval(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor,
                     residual: Tensor | None, eps: float, relu: bool) -> Tensor:
    return _tensor(_core.batch_norm(_array(x), _array(weight), _array(bias), _array(mean), _array(var), False,
                                    0.0, eps, _array(residual), relu, None)[0])


@_batch_norm_eval.register_fake
def _(x, weight, bias, mean, var, residual, eps, relu):
    return _images(x.shape, is_channels_last(x), x)


@_define("batch_norm_backward")
def _batch_norm_backward(grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None,
                         bias: Tensor | None, y: Tensor | None, training: bool, relu: bool,
                         residual: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and residual; y: the result, behind a relu, needed with a residual."""
    arrays = map(_array, (grad, x, mean, invstd, weight, bias))
    grads = list(_core.batch_norm_backward(*arrays, training, relu, _array(y), residual and relu, None))
    if residual and not relu:
        grads.append(_array(grad).copy(order="K"))
    grads = list(map(_tensor, grads))
    return tuple(grads) if residual else (*grads, _none())


@_batch_norm_backward.register_fake
def _(grad, x, mean, invstd, weight, bias, y, training, relu, residual):
    images = [_images(x.shape, is_channels_last(x), x) for _ in range(2)]
    return (images[0], torch.empty_like(mean), torch.empty_like(mean),
            images[1] if residual else x.new_empty(0))


def _batch_norm_grads(grad, x, mean, invstd, weight, bias, y, training, relu, wanted):
    """Gradients of x, weight, bias and residual, None where nobody asked for them."""
    grad = _native(grad, is_channels_last(x))
    grads = _call(_batch_norm_backward, grad, x, mean, invstd, weight, bias, y, training, relu, wanted[3])
    return [grad if asked else None for asked, grad in zip(wanted, grads, strict=True)]


def _save_batch_norm_train(ctx, inputs, output):
    x, weight, bias, _, _, residual, *_, ctx.relu = inputs
    y, mean, invstd, *_ = output
    ctx.save_for_backward(x, mean, invstd, weight, bias, y if ctx.relu and residual is not None else None)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward_batch_norm_train(ctx, grad, *_):
    if grad is None:
        return (None,) * 9
    needs = ctx.needs_input_grad
    grads = _batch_norm_grads(grad, *ctx.saved_tensors, True, ctx.relu, (*needs[:3], needs[5]))
    return (*grads[:3], None, None, grads[3], None, None, None)


def _save_batch_norm_eval(ctx, inputs, output):
    x, weight, bias, mean, var, _, ctx.eps, ctx.relu = inputs
    ctx.save_for_backward(x, mean, var, weight, bias, output if ctx.relu else None)


def _backward_batch_norm_eval(ctx, grad):
    x, mean, var, weight, bias, y = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grads = _batch_norm_grads(grad, x, mean, torch.rsqrt(var + ctx.eps), weight, bias, y, False, ctx.relu,
                              (*needs[:3], needs[5]))
    return (*grads[:3], None, None, grads[3], None, None)


_differentiate(_batch_norm_train, _backward_batch_norm_train, _save_batch_norm_train)
_differentiate(_batch_norm_eval, _backward_batch_norm_eval, _save_batch_norm_eval)
_no_second_derivative(_batch_norm_backward)


def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
               *, residual=None, activation=None):
    """torch.nn.functional.batch_norm for x (N, C, H, W): the running averages are moved in place in training.

    residual, of x's shape, is added and activation "relu" then applied in the same passes, both ways.
    Raises TypeError for tensors that are not dense float32 on the CPU, ValueError as
    fastconv.functional.batch_norm does.
    """
    check(x=x, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias,
          residual=residual)
    F._check_norm(momentum, eps)
    relu = F._relu_asked(activation)
    if training:
        y, _, _, *moved = _call(_batch_norm_train, x, weight, bias, running_mean, running_var, residual,
                                momentum, eps, relu)
        with torch.no_grad():
            for average, value in zip((running_mean, running_var), moved, strict=True):
                if average is not None:
                    average.copy_(value)
        return y
    if running_mean is None or running_var is None:
        raise ValueError("running_mean and running_var must be given when training is False")
    return _call(_batch_norm_eval, x, weight, bias, running_mean, running_var, residual, eps, relu)
