"""Operations on arrays: float32, logically N x C x H x W, any strides.

An array is NumPy's, or anything with a buffer, ``__dlpack__`` (tensors of torch and JAX in the memory of the
CPU), ``__array_interface__`` or, to be read, ``__array__``; it is taken as it lies. Results are NumPy arrays.
They have the memory layout of the input: contiguous (NCHW) or channels-last (an N x H x W x C array seen
through ``transpose(0, 3, 1, 2)``). Images of one channel or one pixel are both: conv2d goes by the weight,
channels-last where filters lie side by side, as in layers.Conv2d. Every function takes ``out=``, any writable
array, and returns it. Wrong dtypes raise TypeError, wrong shapes and options ValueError, both naming the
argument and its value.
"""

import math
from operator import index

import numpy as np

from . import _core, checks

ALGORITHMS = _core.ALGORITHMS[1:]


def _padding(padding, weight, stride, dilation):
    """((top, bottom), (left, right)) from an int, a pair, a pair of pairs, "same" or "valid"."""
    if type(padding) is int:
        return ((padding, padding), (padding, padding))
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0), (0, 0))
        if padding != "same":
            raise ValueError(f'padding must be ints, "same" or "valid", got {padding!r}')
        if stride != (1, 1):
            raise ValueError(f'padding="same" needs stride 1, got stride {stride}')
        filter_size = (weight if type(weight) is tuple else _shape_of("weight", weight))[2:]
        totals = [d * (taps - 1) for d, taps in zip(dilation, filter_size, strict=False)]
        return tuple((total // 2, total - total // 2) for total in totals)
    pair = checks.two_ints(padding)
    if pair is not None:
        return ((pair[0], pair[0]), (pair[1], pair[1]))
    try:
        pairs = tuple(map(checks.two_ints, padding))
    except TypeError:
        pairs = ()
    if len(pairs) != 2 or None in pairs:
        raise TypeError(f"padding must be an int, a pair of ints or a pair of pairs, got {padding!r}")
    return pairs


def _geometry(weight, stride, padding, dilation, groups, algorithm):
    """The options as _core takes them; their ranges are checked there. weight: an array or a shape."""
    if algorithm not in _core.ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(_core.ALGORITHMS)}, got {algorithm!r}")
    stride = checks.pair("stride", stride)
    dilation = checks.pair("dilation", dilation)
    try:
        groups = index(groups)
    except TypeError:
        raise TypeError(f"groups must be an int, got {groups!r}") from None
    return stride, _padding(padding, weight, stride, dilation), dilation, groups


def _shape(name, value):
    """A shape of four ints, none negative nor beyond what an array can have."""
    try:
        extents = tuple(map(index, value))
    except TypeError:
        raise TypeError(f"{name} must be a shape of 4 ints, got {value!r}") from None
    if len(extents) != 4 or min(extents) < 0 or max(extents) >= 1 << 62:
        raise ValueError(f"{name} must be 4 non-negative ints below 2**62, got {value!r}")
    return extents


def _shape_of(name, array):
    """The shape of an argument; its dtype is checked in _core."""
    try:
        return tuple(array.shape)
    except AttributeError:
        return _core.array_of(name, array).shape


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, residual=None, activation=None,
           algorithm="auto", filters=None, out=None):
    """2-D convolution (cross-correlation, as in every deep-learning library).

    x (N, C, H, W), weight (K, C/groups, R, S), bias (K,) or None -> (N, K, P, Q), where
    P = floor((H + top + bottom - dilation*(R-1) - 1) / stride) + 1, and Q likewise.

    padding: an int, a pair (vertical, horizontal), ((top, bottom), (left, right)), "same" or
    "valid". residual: an array of the result's shape, added to it; activation "relu" is then applied; both
    without another pass over memory. algorithm: "auto" or a name from ``fastconv.algorithms()``; "winograd"
    rounds more than "direct", twice as much here and up to seven times in its gradients, at a stride of 2
    little more, and an infinite or NaN pixel reaches all outputs of the tiles that read it. filters: from
    prepare_conv2d, of this weight.
    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, MemoryError.
    """
    stride, padding, dilation, groups = _geometry(weight, stride, padding, dilation, groups, algorithm)
    return _core.conv2d(x, weight, bias, stride, padding, dilation, groups, algorithm, residual,
                        _relu_asked(activation), filters, out)


def prepare_conv2d(weight, input_shape, stride=1, padding=0, dilation=1, groups=1, *, algorithm="auto"):
    """What conv2d makes of a weight before it multiplies: its argument filters, for many calls with it.

    input_shape (N, C, H, W): of channels-last images of this size. Any others are computed as well, to the
    same bits, but Winograd's algorithm keeps four times the weights, at strides up to ten times, for many
    images and their order alone for the few tiles of a small one. The weight that conv2d gets with them
    must still be the same, for other images may be multiplied by the weight itself. None where conv2d takes
    weights as they are.
    """
    input_shape = _shape("input_shape", input_shape)
    return _core.prepare_conv2d(weight, input_shape,
                                *_geometry(weight, stride, padding, dilation, groups, algorithm), algorithm)


def conv2d_backward_input(grad_output, weight, input_shape, stride=1, padding=0, dilation=1,
                          groups=1, *, addend=None, algorithm="auto", out=None):
    """Gradient of conv2d with respect to x: grad_output (N, K, P, Q) -> (N, C, H, W) = input_shape.

    addend: an array of the result's shape, as the gradient by way of another reader of x is, that is added to
    it without another pass over memory.
    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, MemoryError.
    """
    input_shape = _shape("input_shape", input_shape)
    stride, padding, dilation, groups = _geometry(weight, stride, padding, dilation, groups, algorithm)
    return _core.conv2d_backward_input(grad_output, weight, input_shape, stride, padding, dilation,
                                       groups, algorithm, addend, out)


def conv2d_backward_weight(grad_output, x, weight_shape, stride=1, padding=0, dilation=1, groups=1,
                           *, algorithm="auto", out=None):
    """Gradient of conv2d with respect to weight: grad_output (N, K, P, Q) -> weight_shape.

    Without out= the result is contiguous for NCHW gradients; for channels-last ones the output
    channel is its fastest axis in memory, the order in which the kernels read weights.
    """
    weight_shape = _shape("weight_shape", weight_shape)
    stride, padding, dilation, groups = _geometry(weight_shape, stride, padding, dilation, groups, algorithm)
    return _core.conv2d_backward_weight(grad_output, x, weight_shape, stride, padding, dilation,
                                        groups, algorithm, out)


def conv2d_backward_bias(grad_output, *, out=None):
    """Gradient of conv2d with respect to bias: the sum over images and pixels, (N, K, P, Q) -> (K,)."""
    return _core.sum_channels(grad_output, out)


# ---- linear -----------------------------------------------------------------------------------------


def linear(x, weight, bias=None, *, activation=None, out=None):
    """Fully connected layer: x (N, D), weight (K, D), bias (K,) -> x weight^T + bias, (N, K).

    activation: "relu", applied to the result, or None.
    Fastest when the output features are the fastest axis of weight in memory (weight.T contiguous); of one
    row faster still by what compress_weight made of it.
    Raises ValueError or TypeError for shapes and dtypes that do not fit, MemoryError.
    """
    return _core.linear(x, weight, bias, _relu_asked(activation), out)


def compress_weight(weight):
    """A weight (K, D) of linear in some 7/8 of its bytes, without loss, to give to linear in its place.

    That of one row takes as long as its weight takes to be read; for more rows the weight itself is faster.
    What is made has shape and nbytes, and does not follow changes of the weight. None where that saves no
    time: without AVX2, or where less than 1/16 of the bytes would go, since exponents differ widely or one
    weight in 200 is zero.
    """
    return _core.compress_weight(weight)


def linear_backward_input(grad_output, weight, *, out=None):
    """Gradient of linear with respect to x: grad_output (N, K), weight (K, D) -> (N, D)."""
    return _core.linear_backward_input(grad_output, weight, out)


def linear_backward_weight(grad_output, x, *, out=None):
    """Gradient of linear with respect to weight: grad_output (N, K), x (N, D) -> (K, D).

    Without out= the output features are the fastest axis of the result in memory.
    """
    return _core.linear_backward_weight(grad_output, x, out)


def linear_backward_bias(grad_output, *, out=None):
    """Gradient of linear with respect to bias: the sum over rows, (N, K) -> (K,)."""
    return _core.sum_rows(grad_output, out)


# ---- pooling ----------------------------------------------------------------------------------------


def _pooled_size(name, shape, kernel, stride, padding, dilation, ceil_mode):
    """Windows per axis. A window of ceil_mode must start inside the image or the padding before it."""
    if len(shape) != 4:
        raise ValueError(f"{name} must have 4 axes, got shape {shape}")
    sizes = []
    for axis in range(2):
        size, step = shape[2 + axis], stride[axis]
        room = size + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1
        count = (-(-room // step) if ceil_mode else room // step) + 1
        if ceil_mode and (count - 1) * step >= size + padding[axis]:
            count -= 1
        if room < 0 or count < 1:
            raise ValueError(f"kernel_size {kernel} with dilation {dilation} is larger than {name} of shape "
                             f"{shape} with padding {padding}")
        sizes.append(count)
    return tuple(sizes)


def _check_gradient(grad_output, input_shape, size):
    expected, shape = (*input_shape[:2], *size), _shape_of("grad_output", grad_output)
    if shape != expected:
        raise ValueError(f"grad_output must have shape {expected}, got {shape}")


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False, *,
               out=None):
    """Maximum over windows: x (N, C, H, W) -> (N, C, P, Q).

    P = floor((H + 2*padding - dilation*(kernel_size-1) - 1) / stride) + 1; with ceil_mode the quotient is
    rounded up, but a window must still start inside the image or its left padding. stride None is
    kernel_size. Padding never wins; the first of equal maxima wins; NaN wins over numbers.
    return_indices: also the int64 positions h*W + w of the maxima, (N, C, P, Q).
    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, MemoryError.
    """
    options = checks.pool_options(kernel_size, stride, padding, dilation)
    size = _pooled_size("x", _shape_of("x", x), *options, ceil_mode)
    y, argmax = _core.max_pool2d(x, *options, size, return_indices, out)
    if not return_indices:
        return y
    kernel, stride, padding, dilation = options
    row, column = np.divmod(argmax.astype(np.int64), kernel[1])
    row = row * dilation[0] + (np.arange(size[0]) * stride[0] - padding[0])[:, None]
    column = column * dilation[1] + (np.arange(size[1]) * stride[1] - padding[1])
    return y, row * _shape_of("x", x)[3] + column


def max_pool2d_argmax(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, *,
                      behind_relu=False, out=None):
    """(y, argmax): max_pool2d and, for its backward pass, where in its window each maximum lies.

    argmax (N, C, P, Q) holds r*S + s for tap (r, s): uint8, or int32 for windows of more than 256 pixels.
    behind_relu: where y is not above 0, argmax is 255, of no tap. Of x that a ReLU gave, max_pool2d_backward
    then gives what relu_backward would leave of its result. For windows of less than 256 pixels, else
    ValueError.
    """
    options = checks.pool_options(kernel_size, stride, padding, dilation)
    if behind_relu and math.prod(options[0]) >= 256:
        raise ValueError(f"behind_relu needs windows of less than 256 pixels, got kernel_size {options[0]}")
    size = _pooled_size("x", _shape_of("x", x), *options, ceil_mode)
    return _core.max_pool2d(x, *options, size, True, out, behind_relu)


def max_pool2d_backward(grad_output, argmax, input_shape, kernel_size, stride=None, padding=0, dilation=1,
                        ceil_mode=False, *, out=None):
    """Gradient of max_pool2d: each grad_output (N, C, P, Q) goes to the pixel that won, (N, C, H, W).

    argmax: from max_pool2d_argmax with the same options.
    """
    input_shape = _shape("input_shape", input_shape)
    options = checks.pool_options(kernel_size, stride, padding, dilation)
    _check_gradient(grad_output, input_shape, _pooled_size("input_shape", input_shape, *options, ceil_mode))
    return _core.max_pool2d_backward(grad_output, argmax, input_shape, *options, out)


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, *, out=None):
    """Mean over windows: x (N, C, H, W) -> (N, C, P, Q); sizes as of max_pool2d.

    count_include_pad: divide by the window's pixels in the padded image, else by those in the image.
    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, MemoryError.
    """
    kernel, stride, padding, dilation = checks.pool_options(kernel_size, stride, padding, 1)
    size = _pooled_size("x", _shape_of("x", x), kernel, stride, padding, dilation, ceil_mode)
    return _core.avg_pool2d(x, kernel, stride, padding, size, count_include_pad, False, out)


def avg_pool2d_backward(grad_output, input_shape, kernel_size, stride=None, padding=0, ceil_mode=False,
                        count_include_pad=True, *, out=None):
    """Gradient of avg_pool2d: grad_output (N, C, P, Q) -> (N, C, H, W) = input_shape."""
    input_shape = _shape("input_shape", input_shape)
    kernel, stride, padding, dilation = checks.pool_options(kernel_size, stride, padding, 1)
    size = _pooled_size("input_shape", input_shape, kernel, stride, padding, dilation, ceil_mode)
    _check_gradient(grad_output, input_shape, size)
    return _core.avg_pool2d_backward(grad_output, input_shape, kernel, stride, padding, count_include_pad,
                                     False, out)


def adaptive_avg_pool2d(x, output_size, *, out=None):
    """Mean over output_size windows: x (N, C, H, W) -> (N, C, P, Q).

    Window p covers the rows floor(p H / P) up to ceil((p + 1) H / P), as in torch.
    """
    size, shape = checks.bounded_pair("output_size", output_size), _shape_of("x", x)
    if len(shape) != 4 or min(shape[2:]) < 1:
        raise ValueError(f"x must have 4 axes and pixels, got shape {shape}")
    return _core.avg_pool2d(x, (1, 1), (1, 1), (0, 0), size, False, True, out)


def adaptive_avg_pool2d_backward(grad_output, input_shape, *, out=None):
    """Gradient of adaptive_avg_pool2d: grad_output (N, C, P, Q) -> (N, C, H, W) = input_shape."""
    input_shape, shape = _shape("input_shape", input_shape), _shape_of("grad_output", grad_output)
    if len(shape) != 4 or shape[:2] != input_shape[:2]:
        raise ValueError(f"grad_output must have 4 axes, the first two of input_shape {input_shape}, "
                         f"got shape {shape}")
    return _core.avg_pool2d_backward(grad_output, input_shape, (1, 1), (1, 1), (0, 0), False, True, out)


def global_avg_pool2d(x, *, out=None):
    """Mean over all pixels: x (N, C, H, W) -> (N, C, 1, 1)."""
    return adaptive_avg_pool2d(x, 1, out=out)


# ---- activations ------------------------------------------------------------------------------------


def relu(x, *, out=None):
    """max(x, 0), any shape; NaN stays NaN. out may be x."""
    return _core.activation(_core.RELU, x, out)


def relu_backward(grad_output, y, *, out=None):
    """grad_output where y, the output (or input) of relu, is positive or NaN, else 0.

    out may be grad_output.
    """
    return _core.activation_backward(_core.RELU, grad_output, y, out)


def sigmoid(x, *, out=None):
    """1 / (1 + exp(-x)), any shape. out may be x."""
    return _core.activation(_core.SIGMOID, x, out)


def sigmoid_backward(grad_output, y, *, out=None):
    """grad_output * y * (1 - y), y the output of sigmoid. out may be grad_output."""
    return _core.activation_backward(_core.SIGMOID, grad_output, y, out)


def tanh(x, *, out=None):
    """Hyperbolic tangent, any shape. out may be x."""
    return _core.activation(_core.TANH, x, out)


def tanh_backward(grad_output, y, *, out=None):
    """grad_output * (1 - y**2), y the output of tanh. out may be grad_output."""
    return _core.activation_backward(_core.TANH, grad_output, y, out)


def _softmax(x, axis, log, out):
    x = _core.array_of("x", x)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be an axis of x of shape {x.shape}, got {axis!r}")
    target = np.empty_like(x) if out is None else _core.array_of_out(out, x.shape)
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    y = np.moveaxis(_core.softmax(rows, log, np.empty_like(rows)), -1, axis)
    if out is None and y.strides == target.strides:
        return y
    np.copyto(target, y)
    return target if out is None else out


def softmax(x, axis=-1, *, out=None):
    """exp(x) / sum of exp(x) over `axis`; the largest x is subtracted first."""
    return _softmax(x, axis, False, out)


def log_softmax(x, axis=-1, *, out=None):
    """log(softmax(x)) without the rounding of small probabilities."""
    return _softmax(x, axis, True, out)


# ---- sums and joins ---------------------------------------------------------------------------------


def _relu_asked(activation):
    if activation not in (None, "relu"):
        raise ValueError(f'activation must be None or "relu", got {activation!r}')
    return activation is not None


def add(*arrays, activation=None, out=None):
    """Sum of 1 to 64 arrays of one shape, from left to right, then relu where activation is "relu".

    The result has the memory order of the first. out may be one of the arrays.
    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, MemoryError.
    """
    return _core.add(arrays, _relu_asked(activation), out)


def concat(arrays, *, out=None):
    """1 to 64 arrays along the channels: (N, C1, H, W), (N, C2, H, W), ... -> (N, C1 + C2 + ..., H, W).

    Raises ValueError or TypeError for shapes and dtypes that do not fit, MemoryError.
    """
    return _core.concat(tuple(arrays), out)


# ---- normalisation and dropout ----------------------------------------------------------------------


def _check_norm(momentum, eps):
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be from 0 to 1, got {momentum!r}")
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be a non-negative number, got {eps!r}")


def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
               *, residual=None, activation=None, out=None):
    """(x - mean) / sqrt(var + eps) * weight + bias per channel: x (N, C, H, W), the others (C,) or None.

    Ioffe & Szegedy, arXiv 1502.03167. Training takes mean and the biased variance (divided by n = N H W) of
    the batch and moves the running averages in place: running += momentum * (batch - running), with the
    unbiased variance (divided by n - 1), as torch does. Otherwise the running averages are used.
    residual: an array of x's shape that is added to the result. activation: "relu" for relu of that, or None.
    Both take no further pass over memory, and give the bits of add and relu one after the other.
    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, MemoryError.
    """
    _check_norm(momentum, eps)
    return _core.batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, residual,
                            _relu_asked(activation), out)[0]


def batch_norm_train(x, weight=None, bias=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-5,
                     *, residual=None, activation=None, out=None):
    """(y, mean, invstd): batch_norm in training and, for its backward pass, the batch's statistics.

    mean and invstd = 1 / sqrt(var + eps) have shape (C,).
    """
    _check_norm(momentum, eps)
    return _core.batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps, residual,
                            _relu_asked(activation), out)


def batch_norm_backward(grad_output, x, mean, invstd, weight=None, training=True, *, bias=None,
                        activation=None, y=None, return_residual=False, out=None):
    """(grad_input, grad_weight, grad_bias) of batch_norm; shapes of x, (C,) and (C,).

    training=False: mean and invstd are constants, as in evaluation with the running averages.
    Where batch_norm ended in a relu, its relu_backward comes first, in the same passes. That takes y, the
    result, or, if there was no residual, activation "relu" and the bias: computed again it is one array less
    to read.
    return_residual: also the gradient of the residual, which without a relu is grad_output itself.
    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, MemoryError.
    """
    relu = y is not None or _relu_asked(activation)
    if relu and return_residual and y is None:
        raise ValueError("y must be given for the gradient of a residual behind a relu, got None")
    return _core.batch_norm_backward(grad_output, x, mean, invstd, weight, bias, training, relu, y,
                                     return_residual, out)


def _local_response(size, alpha, beta, k):
    """The options as _core takes them."""
    try:
        count = index(size)
    except TypeError:
        raise TypeError(f"size must be an int, got {size!r}") from None
    if not 0 < count < 1 << 31:
        raise ValueError(f"size must be positive, got {size!r}")
    options = {"alpha": alpha, "beta": beta, "k": k}
    for name, value in options.items():
        try:
            options[name] = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be a number, got {value!r}") from None
        if not abs(options[name]) < float("inf"):
            raise ValueError(f"{name} must be finite, got {value!r}")
    return count, *options.values()


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0, *, out=None):
    """x / (k + alpha / size * sum of x^2 over `size` neighbouring channels)^beta: x (N, C, H, W), same shape.

    Krizhevsky et al., "ImageNet classification with deep convolutional neural networks" (2012), section 3.3.
    The window of channel c is c - size // 2 ... c + (size - 1) // 2, without those that do not exist. As in
    torch, alpha is divided by size; the paper's is not, so that its k=2, n=5, alpha=1e-4 are size=5, k=2,
    alpha=5e-4 here. out may be x.
    Raises ValueError or TypeError for shapes, dtypes and options that do not fit, MemoryError.
    """
    return _core.local_response_norm(x, *_local_response(size, alpha, beta, k), out)


def local_response_norm_backward(grad_output, x, size, alpha=1e-4, beta=0.75, k=1.0, *, out=None):
    """Gradient of local_response_norm: grad_output and x (N, C, H, W) -> (N, C, H, W). out may be either."""
    return _core.local_response_norm_backward(grad_output, x, *_local_response(size, alpha, beta, k), out)


def dropout(x, p=0.5, training=True, *, rng=None, return_mask=False, out=None):
    """Zeroes each element with probability p and scales the others by 1 / (1 - p); x itself if not training.

    Srivastava et al., JMLR 15 (2014), in its inverted form. rng: a numpy Generator, default a new one.
    return_mask: also the bool array of the kept elements, for dropout_backward.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be from 0 to 1, got {p!r}")
    x = _core.array_of("x", x)
    if not training or p == 0:
        mask = np.ones(x.shape, bool)
    else:
        rng = rng or np.random.default_rng()
        order = np.argsort([-stride for stride in x.strides], kind="stable")
        kept = rng.random([x.shape[axis] for axis in order], np.float32) >= p
        mask = kept.transpose(np.argsort(order))
    y = dropout_backward(x, mask, p if training else 0, out=out)
    return (y, mask) if return_mask else y


def dropout_backward(grad_output, mask, p, *, out=None):
    """Gradient of dropout: grad_output where the mask is set, scaled by 1 / (1 - p)."""
    grad_output, mask = _core.array_of("grad_output", grad_output), np.asarray(mask)
    if mask.shape != grad_output.shape:
        raise ValueError(f"mask must have shape {grad_output.shape}, got {mask.shape}")
    target = None if out is None else _core.array_of_out(out, mask.shape)
    result = np.multiply(grad_output, mask * np.float32(1 / (1 - p) if p < 1 else 0), out=target)
    return result if out is None else out


# ---- recurrent layers -------------------------------------------------------------------------------

def _array(name, array, shape):
    """The NumPy array of a float32 array of this shape; all others are refused."""
    array = _core.array_of(name, array)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def _recurrent_arrays(x, states, weight_ih, weight_hh):
    """The same as NumPy arrays: (N, T, D), [(N, H), ...], (gates * H, D), (gates * H, H).

    states: (h0,) or (h0, c0)."""
    gates = 4 if len(states) == 2 else 1
    x = _core.array_of("x", x)
    if x.ndim != 3 or x.shape[1] < 1:
        raise ValueError(f"x must have shape (N, T, D) with at least one step, got {x.shape}")
    weight_hh = _core.array_of("weight_hh", weight_hh)
    hidden = weight_hh.shape[-1] if weight_hh.ndim else 0
    if hidden < 1 or weight_hh.shape != (gates * hidden, hidden):
        raise ValueError(f"weight_hh must have shape ({gates} * H, H), got {weight_hh.shape}")
    weight_ih = _array("weight_ih", weight_ih, (gates * hidden, x.shape[2]))
    states = [_array(name, state, (len(x), hidden))
              for name, state in zip(("h0", "c0"), states, strict=False)]
    return x, states, weight_ih, weight_hh


def _recurrent(x, states, weight_ih, weight_hh, bias_ih, bias_hh, reverse, out):
    """([output] of an RNN, or [output, cells] of an LSTM, and its gates after their activations)."""
    x, states, weight_ih, weight_hh = _recurrent_arrays(x, states, weight_ih, weight_hh)
    images, steps, features = x.shape
    target = None if out is None else _core.array_of_out(out, (images, steps, weight_hh.shape[1]))
    bias = np.zeros(len(weight_hh), np.float32)
    for name, addend in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
        if addend is not None:
            bias += _array(name, addend, bias.shape)
    gates = linear(x.reshape(images * steps, features), weight_ih, bias).reshape(images, steps, len(bias))
    return _core.recurrent(gates, states, weight_hh, reverse, target), gates


def _recurrent_backward(grad_output, states, weight_hh, outputs, gates, grad_last, reverse):
    """(grad_gates (N*T, gates*H), the h before each step (N*T, H), gradients of the states).

    outputs: [output] or [output, cells]; grad_last: the gradients of the last states, or None.
    """
    grad_states = [np.zeros(state.shape, np.float32) if grad is None else np.array(grad, order="C")
                   for state, grad in zip(states, grad_last, strict=True)]
    grad_gates = _core.recurrent_backward(grad_output, gates, states, weight_hh, outputs, grad_states,
                                          reverse)
    first, output = states[0][:, None], outputs[0]
    before = np.concatenate((output[:, 1:], first) if reverse else (first, output[:, :-1]), axis=1)
    rows = output.shape[0] * output.shape[1]
    return grad_gates.reshape(rows, len(weight_hh)), before.reshape(rows, output.shape[2]), grad_states


def _recurrent_gradients(grad_output, x, states, weight_ih, weight_hh, outputs, gates, grad_last, reverse,
                         out):
    """(grad_x, gradients of the states, grad_weight_ih, grad_weight_hh, grad_bias), everything checked."""
    x, states, weight_ih, weight_hh = _recurrent_arrays(x, states, weight_ih, weight_hh)
    (images, steps, features), hidden = x.shape, weight_hh.shape[1]
    of_steps, of_state = (images, steps, hidden), (images, hidden)
    grad_output = _array("grad_output", grad_output, of_steps)
    outputs = [_array(name, array, of_steps)
               for name, array in zip(("output", "cells"), outputs, strict=False)]
    if gates is not None:
        gates = _array("gates", gates, (images, steps, 4 * hidden))
    grad_last = [None if array is None else _array(name, array, of_state)
                 for name, array in zip(("grad_h_n", "grad_c_n"), grad_last, strict=False)]
    target = None if out is None else _core.array_of_out(out, x.shape)
    grad_gates, before, grad_states = _recurrent_backward(grad_output, states, weight_hh, outputs, gates,
                                                          grad_last, reverse)
    grad_weights = (linear_backward_weight(grad_gates, x.reshape(images * steps, features)),
                    linear_backward_weight(grad_gates, before), linear_backward_bias(grad_gates))
    grad_x = linear_backward_input(grad_gates, weight_ih).reshape(x.shape)
    if out is not None:
        np.copyto(target, grad_x)
        grad_x = out
    return grad_x, *grad_states, *grad_weights


def lstm(x, h0, c0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, reverse=False, *, out=None):
    """One layer and direction of an LSTM over whole sequences: (output, (h_n, c_n)).

    x (N, T, D), h0 and c0 (N, H), weight_ih (4H, D), weight_hh (4H, H), biases (4H,) or None ->
    output (N, T, H), the h of every step; h_n and c_n (N, H), those of the last. The rows of weight_ih W and
    weight_hh U are those of the gates i, f, g, o, as in torch; b is the sum of the biases.

        i, f, o = sigmoid(W x_t + U h_{t-1} + b)    g = tanh(W x_t + U h_{t-1} + b)
        c_t = f c_{t-1} + i g                       h_t = o tanh(c_t)

    Hochreiter & Schmidhuber, "Long short-term memory" (1997), with the forget gate f of Gers, Schmidhuber &
    Cummins, "Learning to forget" (2000). reverse: from the last step to the first.
    Raises ValueError or TypeError for shapes and dtypes that do not fit, MemoryError.
    """
    (output, cells), _ = _recurrent(x, (h0, c0), weight_ih, weight_hh, bias_ih, bias_hh, reverse, out)
    last = 0 if reverse else -1
    return output if out is None else out, (output[:, last].copy(), cells[:, last].copy())


def lstm_train(x, h0, c0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, reverse=False, *, out=None):
    """(output, cells, gates): lstm and, for its backward pass, c (N, T, H) and i, f, g, o (N, T, 4H)."""
    (output, cells), gates = _recurrent(x, (h0, c0), weight_ih, weight_hh, bias_ih, bias_hh, reverse, out)
    return output if out is None else out, cells, gates


def lstm_backward(grad_output, x, h0, c0, weight_ih, weight_hh, output, cells, gates, grad_h_n=None,
                  grad_c_n=None, reverse=False, *, out=None):
    """(grad_x, grad_h0, grad_c0, grad_weight_ih, grad_weight_hh, grad_bias) of lstm, through all steps.

    grad_output (N, T, H); grad_h_n and grad_c_n (N, H), None where nothing depends on the last states.
    output, cells, gates: of lstm_train. grad_bias (4H,) is that of either bias. out= receives grad_x.
    """
    return _recurrent_gradients(grad_output, x, (h0, c0), weight_ih, weight_hh, (output, cells), gates,
                                (grad_h_n, grad_c_n), reverse, out)


def rnn_tanh(x, h0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, reverse=False, *, out=None):
    """One layer and direction of a plain recurrent network: (output, h_n), h_t = tanh(W x_t + U h_{t-1} + b).

    Elman, "Finding structure in time" (1990). Shapes as of lstm, but weight_ih (H, D), weight_hh (H, H) and
    biases (H,). Raises ValueError or TypeError for shapes and dtypes that do not fit, MemoryError.
    """
    (output,), _ = _recurrent(x, (h0,), weight_ih, weight_hh, bias_ih, bias_hh, reverse, out)
    return output if out is None else out, output[:, 0 if reverse else -1].copy()


def rnn_tanh_backward(grad_output, x, h0, weight_ih, weight_hh, output, grad_h_n=None, reverse=False, *,
                      out=None):
    """(grad_x, grad_h0, grad_weight_ih, grad_weight_hh, grad_bias) of rnn_tanh; see lstm_backward."""
    return _recurrent_gradients(grad_output, x, (h0,), weight_ih, weight_hh, (output,), None, (grad_h_n,),
                                reverse, out)
