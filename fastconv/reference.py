"""The specification: every operation and every gradient in plain NumPy, float64.

The functions have the names and signatures of `fastconv.functional`, without `algorithm=` and `out=`.
They compute in float64, whatever they are given, and are written to be read: loops over the taps of a
window, one array expression per tap.  Tests compare the kernels against them, benchmarks use them as the
"naive NumPy" column; nothing else imports this module.

Letters: N images, C input channels, H x W input, K output channels, R x S window, P x Q output.
"""

import numpy as np

# ---------------------------------------------------------------------------------- geometry


def pair(value):
    """(height, width) of an option given as one int or as two."""
    return (value, value) if np.ndim(value) == 0 else tuple(value)


def conv_padding(padding, filter_size, stride, dilation):
    """((top, bottom), (left, right)) of every accepted form of `padding`.

    "same" keeps the image size; where the total is odd, the extra row or column goes to the bottom or
    right, as in torch.  It needs stride 1.
    """
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        if pair(stride) != (1, 1):
            raise ValueError(f'padding="same" needs stride 1, got stride={stride!r}')
        totals = [d * (k - 1) for d, k in zip(pair(dilation), filter_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    height, width = pair(padding)
    return pair(height), pair(width)


def conv_output_size(size, filter_size, pad, stride, dilation):
    """floor((size + before + after - dilation (filter_size - 1) - 1) / stride) + 1 along one axis."""
    return (size + sum(pad) - dilation * (filter_size - 1) - 1) // stride + 1


def pool_output_size(size, kernel, pad, stride, dilation, ceil_mode):
    """Windows along one axis; with `ceil_mode` the last one may hang over the end of the image.

    It must still start inside the image or the padding before it, otherwise it is dropped (torch's rule).
    """
    span = size + 2 * pad - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad else count


def tap(image, r, s, output_size, stride, dilation):
    """View of the pixels that tap (r, s) of every window meets: (..., H, W) -> (..., P, Q)."""
    (height, width), (stride_h, stride_w), (dilation_h, dilation_w) = output_size, stride, dilation
    top, left = r * dilation_h, s * dilation_w
    return image[
        ...,
        top : top + (height - 1) * stride_h + 1 : stride_h,
        left : left + (width - 1) * stride_w + 1 : stride_w,
    ]


def pad_image(image, pads, fill=0.0):
    """float64 copy of (..., H, W) with a border of `fill`."""
    border = [(0, 0)] * (image.ndim - 2) + list(pads)
    return np.pad(np.asarray(image, np.float64), border, constant_values=fill)


# ---------------------------------------------------------------------------------- convolution


def _conv_geometry(input_shape, weight_shape, stride, padding, dilation):
    stride, dilation = pair(stride), pair(dilation)
    pads = conv_padding(padding, weight_shape[2:], stride, dilation)
    output_size = tuple(
        conv_output_size(*axis)
        for axis in zip(input_shape[2:], weight_shape[2:], pads, stride, dilation, strict=True)
    )
    if min(output_size) < 1:
        raise ValueError(f"no filter of shape {weight_shape} fits into x of shape {input_shape}")
    return pads, output_size, stride, dilation


def _grouped(array, groups, axis):
    """Splits the channel axis in two: (groups, channels per group)."""
    array = np.asarray(array, np.float64)
    shape = array.shape
    return array.reshape(
        *shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]
    )


def _join_groups(array, axis):
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """y[n,k,p,q] = bias[k] + sum over c, r, s of
    x[n, c, p stride + r dilation - top, q stride + s dilation - left] * weight[k,c,r,s],
    with x zero outside the image and c running over the channels of k's group.

    x (N,C,H,W), weight (K,C/groups,R,S), bias (K,) -> (N,K,P,Q).
    """
    pads, output_size, stride, dilation = _conv_geometry(
        x.shape, weight.shape, stride, padding, dilation
    )
    image = _grouped(pad_image(x, pads), groups, axis=1)
    filters = _grouped(weight, groups, axis=0)
    y = np.zeros((x.shape[0], groups, filters.shape[1], *output_size))
    for r, s in np.ndindex(*weight.shape[2:]):
        pixels = tap(image, r, s, output_size, stride, dilation)
        y += np.einsum("ngcpq,gkc->ngkpq", pixels, filters[..., r, s], optimize=True)
    y = _join_groups(y, axis=1)
    return y if bias is None else y + np.asarray(bias, np.float64)[:, None, None]


def conv2d_backward_input(
    grad_output, weight, input_shape, stride=1, padding=0, dilation=1, groups=1
):
    """The transpose of conv2d in x: every product goes back to the pixel it came from."""
    pads, output_size, stride, dilation = _conv_geometry(
        input_shape, weight.shape, stride, padding, dilation
    )
    grad_image = _grouped(pad_image(np.zeros(input_shape), pads), groups, axis=1)
    grad_output = _grouped(grad_output, groups, axis=1)
    filters = _grouped(weight, groups, axis=0)
    for r, s in np.ndindex(*weight.shape[2:]):
        pixels = tap(grad_image, r, s, output_size, stride, dilation)
        pixels += np.einsum("ngkpq,gkc->ngcpq", grad_output, filters[..., r, s], optimize=True)
    (top, _), (left, _) = pads
    grad_image = _join_groups(grad_image, axis=1)
    return grad_image[..., top : top + input_shape[2], left : left + input_shape[3]].copy()


def conv2d_backward_weight(
    grad_output, x, weight_shape, stride=1, padding=0, dilation=1, groups=1
):
    """grad_weight[k,c,r,s] = sum over n, p, q of grad_output[n,k,p,q] * (the pixel that tap meets)."""
    pads, output_size, stride, dilation = _conv_geometry(
        x.shape, weight_shape, stride, padding, dilation
    )
    image = _grouped(pad_image(x, pads), groups, axis=1)
    grad_output = _grouped(grad_output, groups, axis=1)
    grad_weight = np.zeros((groups, weight_shape[0] // groups, *weight_shape[1:]))
    for r, s in np.ndindex(*weight_shape[2:]):
        pixels = tap(image, r, s, output_size, stride, dilation)
        grad_weight[..., r, s] = np.einsum("ngkpq,ngcpq->gkc", grad_output, pixels, optimize=True)
    return _join_groups(grad_weight, axis=0)


def conv2d_backward_bias(grad_output):
    """Sum over images and pixels: (N,K,P,Q) -> (K,)."""
    return np.asarray(grad_output, np.float64).sum(axis=(0, 2, 3))


# ---------------------------------------------------------------------------------- pooling


def _pool_geometry(input_shape, kernel_size, stride, padding, dilation, ceil_mode):
    """(kernel, pads, output_size, stride, dilation); pads at the end reach as far as the last window."""
    kernel, padding, dilation = pair(kernel_size), pair(padding), pair(dilation)
    stride = kernel if stride is None else pair(stride)
    sizes, pads = [], []
    for size, k, pad, step, d in zip(
        input_shape[2:], kernel, padding, stride, dilation, strict=True
    ):
        count = pool_output_size(size, k, pad, step, d, ceil_mode)
        last = (count - 1) * step + d * (k - 1) + 1
        sizes.append(count)
        pads.append((pad, max(0, last - size - pad)))
    if min(sizes) < 1:
        raise ValueError(f"no window of {kernel} fits into x of shape {tuple(input_shape)}")
    return kernel, pads, tuple(sizes), stride, dilation


def max_pool2d_argmax(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, behind_relu=False):
    """(y, argmax): y (N,C,P,Q), argmax uint8 the position r*S + s of the maximum in its window.

    Padding never wins.  The first of equal maxima wins, except that a NaN beats everything before it.
    A window that meets no pixel (possible with dilation) is -inf, its position 0. behind_relu: of maxima
    that are not above 0 the position is 255.
    """
    kernel, pads, output_size, stride, dilation = _pool_geometry(
        x.shape, kernel_size, stride, padding, dilation, ceil_mode
    )
    image = pad_image(x, pads, fill=-np.inf)
    inside = pad_image(np.ones(x.shape[2:]), pads) > 0
    y = np.full((*x.shape[:2], *output_size), -np.inf)
    argmax = np.zeros(y.shape, np.int64)
    empty = np.ones(y.shape, bool)
    for position, (r, s) in enumerate(np.ndindex(*kernel)):
        pixels = tap(image, r, s, output_size, stride, dilation)
        wins = tap(inside, r, s, output_size, stride, dilation) & (
            empty | (pixels > y) | np.isnan(pixels)
        )
        y[wins], argmax[wins], empty[wins] = pixels[wins], position, False
    if behind_relu:
        argmax[y <= 0] = 255
    return y, argmax.astype(np.uint8 if kernel[0] * kernel[1] <= 256 else np.int32)


def max_pool2d(
    x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    """The maxima and, with return_indices, their positions h*W + w in the image."""
    y, argmax = max_pool2d_argmax(x, kernel_size, stride, padding, dilation, ceil_mode)
    if not return_indices:
        return y
    kernel, pads, (height, width), stride, dilation = _pool_geometry(
        x.shape, kernel_size, stride, padding, dilation, ceil_mode
    )
    r, s = np.divmod(argmax.astype(np.int64), kernel[1])
    row = r * dilation[0] + np.arange(height)[:, None] * stride[0] - pads[0][0]
    column = s * dilation[1] + np.arange(width) * stride[1] - pads[1][0]
    return y, row * x.shape[3] + column


def max_pool2d_backward(
    grad_output, argmax, input_shape, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False
):
    """Every gradient goes back to the pixel that won."""
    kernel, pads, output_size, stride, dilation = _pool_geometry(
        input_shape, kernel_size, stride, padding, dilation, ceil_mode
    )
    grad_image = pad_image(np.zeros(input_shape), pads)
    for position, (r, s) in enumerate(np.ndindex(*kernel)):
        pixels = tap(grad_image, r, s, output_size, stride, dilation)
        pixels += np.where(argmax == position, np.asarray(grad_output, np.float64), 0)
    return _inside(grad_image, pads, input_shape)


def _inside(image, pads, shape):
    (top, _), (left, _) = pads
    return image[..., top : top + shape[2], left : left + shape[3]].copy()


def _window_area(input_shape, kernel, pads, output_size, stride, padding, count_include_pad):
    """(P, Q) pixels that each window is averaged over: those of the padded image, or of the image."""
    inside = np.ones(input_shape[2:])
    if count_include_pad:
        inside = np.ones([size + 2 * pad for size, pad in zip(input_shape[2:], padding, strict=True)])
        pads = [(0, after - pad) if after > pad else (0, 0)
                for (_, after), pad in zip(pads, padding, strict=True)]
    image = pad_image(inside, pads)
    return sum(tap(image, r, s, output_size, stride, (1, 1)) for r, s in np.ndindex(*kernel))


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Sum of each window over its pixels, divided by their number."""
    kernel, pads, output_size, stride, _ = _pool_geometry(
        x.shape, kernel_size, stride, padding, 1, ceil_mode
    )
    area = _window_area(x.shape, kernel, pads, output_size, stride, pair(padding), count_include_pad)
    image = pad_image(x, pads)
    return sum(tap(image, r, s, output_size, stride, (1, 1)) for r, s in np.ndindex(*kernel)) / area


def avg_pool2d_backward(
    grad_output, input_shape, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True
):
    """Every pixel of a window receives the gradient divided by the window's number of pixels."""
    kernel, pads, output_size, stride, _ = _pool_geometry(
        input_shape, kernel_size, stride, padding, 1, ceil_mode
    )
    area = _window_area(input_shape, kernel, pads, output_size, stride, pair(padding), count_include_pad)
    grad_image = pad_image(np.zeros(input_shape), pads)
    for r, s in np.ndindex(*kernel):
        pixels = tap(grad_image, r, s, output_size, stride, (1, 1))
        pixels += np.asarray(grad_output, np.float64) / area
    return _inside(grad_image, pads, input_shape)


def adaptive_windows(size, count):
    """Slices of the `count` windows of one axis: floor(p size / count) up to ceil((p + 1) size / count)."""
    return [slice(p * size // count, -(-(p + 1) * size // count)) for p in range(count)]


def adaptive_avg_pool2d(x, output_size):
    """Means of output_size windows that cover the image."""
    height, width = pair(output_size)
    y = np.zeros((*x.shape[:2], height, width))
    for p, rows in enumerate(adaptive_windows(x.shape[2], height)):
        for q, columns in enumerate(adaptive_windows(x.shape[3], width)):
            y[..., p, q] = np.asarray(x[..., rows, columns], np.float64).mean(axis=(2, 3))
    return y


def adaptive_avg_pool2d_backward(grad_output, input_shape):
    """Every pixel of a window receives the gradient divided by the window's number of pixels."""
    grad_input = np.zeros(input_shape)
    for p, rows in enumerate(adaptive_windows(input_shape[2], grad_output.shape[2])):
        for q, columns in enumerate(adaptive_windows(input_shape[3], grad_output.shape[3])):
            window = grad_input[..., rows, columns]
            area = window.shape[2] * window.shape[3]
            window += np.asarray(grad_output[..., p, q], np.float64)[..., None, None] / area
    return grad_input


def global_avg_pool2d(x):
    """Means over all pixels: (N,C,H,W) -> (N,C,1,1)."""
    return np.asarray(x, np.float64).mean(axis=(2, 3), keepdims=True)


# ---------------------------------------------------------------------------------- linear


def linear(x, weight, bias=None):
    """x (N,D), weight (K,D), bias (K,) -> (N,K)."""
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return y if bias is None else y + np.asarray(bias, np.float64)


def linear_backward_input(grad_output, weight):
    return np.asarray(grad_output, np.float64) @ np.asarray(weight, np.float64)


def linear_backward_weight(grad_output, x):
    return np.asarray(grad_output, np.float64).T @ np.asarray(x, np.float64)


def linear_backward_bias(grad_output):
    return np.asarray(grad_output, np.float64).sum(axis=0)


# ---------------------------------------------------------------------------------- activations


def relu(x):
    """0 for x <= 0, else x; NaN is not <= 0."""
    x = np.asarray(x, np.float64)
    return np.where(x <= 0, 0.0, x)


def relu_backward(grad_output, y):
    return np.where(np.asarray(y) <= 0, 0.0, np.asarray(grad_output, np.float64))


def sigmoid(x):
    """1 / (1 + exp(-x)), as exp(x) / (1 + exp(x)) for negative x, so that no exp overflows."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1.0) / (1 + small)


def sigmoid_backward(grad_output, y):
    y = np.asarray(y, np.float64)
    return np.asarray(grad_output, np.float64) * y * (1 - y)


def tanh(x):
    return np.tanh(np.asarray(x, np.float64))


def tanh_backward(grad_output, y):
    return np.asarray(grad_output, np.float64) * (1 - np.asarray(y, np.float64) ** 2)


def log_softmax(x, axis=-1):
    """x - log(sum of exp(x)), the largest x subtracted first."""
    x = np.asarray(x, np.float64)
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def softmax(x, axis=-1):
    return np.exp(log_softmax(x, axis))


# ---------------------------------------------------------------------------------- batch normalisation


def _per_channel(values):
    return np.asarray(values, np.float64)[:, None, None]


def batch_norm(
    x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *,
    residual=None, activation=None
):
    """(x - mean) / sqrt(var + eps) * weight + bias; in training the running averages move in place."""
    if training:
        return batch_norm_train(x, weight, bias, running_mean, running_var, momentum, eps, residual=residual,
                                activation=activation)[0]
    invstd = 1 / np.sqrt(np.asarray(running_var, np.float64) + eps)
    return _activated(_normalized(x, running_mean, invstd, weight, bias), residual, activation)


def _activated(y, residual, activation):
    y = y if residual is None else y + residual
    return relu(y) if activation == "relu" else y


def add(*arrays, activation=None):
    return _activated(sum(np.asarray(array, np.float64) for array in arrays), None, activation)


def concat(arrays):
    return np.concatenate([np.asarray(array, np.float64) for array in arrays], axis=1)


def _normalized(x, mean, invstd, weight, bias):
    y = (np.asarray(x, np.float64) - _per_channel(mean)) * _per_channel(invstd)
    if weight is not None:
        y *= _per_channel(weight)
    return y if bias is None else y + _per_channel(bias)


def batch_norm_train(
    x, weight=None, bias=None, running_mean=None, running_var=None, momentum=0.1, eps=1e-5, *,
    residual=None, activation=None
):
    """(y, mean, invstd), with the batch's biased variance; running_var takes the unbiased one."""
    image = np.asarray(x, np.float64)
    mean, var = image.mean(axis=(0, 2, 3)), image.var(axis=(0, 2, 3))
    count = image.size // image.shape[1]
    if running_mean is not None:
        running_mean += momentum * (mean - running_mean)
    if running_var is not None:
        running_var += momentum * (var * count / (count - 1) - running_var)
    invstd = 1 / np.sqrt(var + eps)
    return _activated(_normalized(x, mean, invstd, weight, bias), residual, activation), mean, invstd


def batch_norm_backward(
    grad_output, x, mean, invstd, weight=None, training=True, *, y=None, return_residual=False
):
    """(grad_input, grad_weight, grad_bias); mean and invstd depend on x in training only."""
    grad_output = np.asarray(grad_output, np.float64)
    if y is not None:
        grad_output = relu_backward(grad_output, y)
    normalized = _normalized(x, mean, invstd, None, None)
    grad_weight = (grad_output * normalized).sum(axis=(0, 2, 3))
    grad_bias = grad_output.sum(axis=(0, 2, 3))
    grad_input = grad_output
    if training:
        count = grad_output.size // grad_output.shape[1]
        grad_input = (
            grad_output
            - _per_channel(grad_bias) / count
            - normalized * _per_channel(grad_weight) / count
        )
    scale = _per_channel(invstd) if weight is None else _per_channel(invstd) * _per_channel(weight)
    results = grad_input * scale, grad_weight, grad_bias
    return (*results, grad_output) if return_residual else results


# ---------------------------------------------------------------------------------- local response norm


def _window_sums(values, before, after):
    """Sums over the channels c - before ... c + after that exist."""
    sums = np.empty_like(values)
    for c in range(values.shape[1]):
        sums[:, c] = values[:, max(0, c - before) : c + after + 1].sum(axis=1)
    return sums


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0):
    """x / (k + alpha / size * sum of x^2 over channels c - size // 2 ... c + (size - 1) // 2)^beta."""
    x = np.asarray(x, np.float64)
    return x * (k + alpha / size * _window_sums(x**2, size // 2, (size - 1) // 2)) ** -beta


def local_response_norm_backward(grad_output, x, size, alpha=1e-4, beta=0.75, k=1.0):
    """Each x is in its own numerator, and in the sums d of the channels whose windows it is in."""
    grad_output, x = np.asarray(grad_output, np.float64), np.asarray(x, np.float64)
    before, after = size // 2, (size - 1) // 2
    d = k + alpha / size * _window_sums(x**2, before, after)
    shared = _window_sums(grad_output * x * d ** (-beta - 1), after, before)
    return grad_output * d**-beta - 2 * alpha * beta / size * x * shared


# ---------------------------------------------------------------------------------- recurrent layers


def _in_order(steps, reverse):
    return range(steps - 1, -1, -1) if reverse else range(steps)


def rnn_tanh(x, h0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, reverse=False):
    """(output, h_n): h_t = tanh(W x_t + U h_{t-1} + b).  x (N,T,D), h0 (N,H) -> (N,T,H), (N,H)."""
    h = np.asarray(h0, np.float64)
    output = np.empty((*x.shape[:2], h.shape[1]))
    for t in _in_order(x.shape[1], reverse):
        h = output[:, t] = np.tanh(linear(x[:, t], weight_ih, bias_ih) + linear(h, weight_hh, bias_hh))
    return output, h


def rnn_tanh_backward(
    grad_output, x, h0, weight_ih, weight_hh, output, grad_h_n=None, reverse=False
):
    """(grad_x, grad_h0, grad_weight_ih, grad_weight_hh, grad_bias), step by step from the last."""
    grad_h = np.zeros(h0.shape) if grad_h_n is None else np.asarray(grad_h_n, np.float64)
    grad_z = np.empty((*x.shape[:2], len(weight_hh)))
    order = _in_order(x.shape[1], reverse)
    for t in reversed(order):
        grad_z[:, t] = tanh_backward(grad_h + grad_output[:, t], output[:, t])
        grad_h = linear_backward_input(grad_z[:, t], weight_hh)
    return _recurrent_gradients(grad_z, x, h0, weight_ih, output, order, [grad_h])


def _recurrent_gradients(grad_z, x, h0, weight_ih, output, order, grad_states):
    """Gradients of x, the first states, the weights and either bias, from that of W x_t + U h_{t-1} + b."""
    before = np.empty(output.shape)
    for i, t in enumerate(order):
        before[:, t] = output[:, order[i - 1]] if i else h0
    return (
        np.asarray(grad_z) @ np.asarray(weight_ih, np.float64),
        *grad_states,
        np.einsum("ntg,ntd->gd", grad_z, np.asarray(x, np.float64)),
        np.einsum("ntg,nth->gh", grad_z, before),
        grad_z.sum(axis=(0, 1)),
    )


def lstm_train(x, h0, c0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, reverse=False):
    """(output, cells, gates) of every step; the formulas are those of functional.lstm."""
    h, c = np.asarray(h0, np.float64), np.asarray(c0, np.float64)
    output, cells = np.empty((2, *x.shape[:2], h.shape[1]))
    gates = np.empty((*x.shape[:2], 4 * h.shape[1]))
    for t in _in_order(x.shape[1], reverse):
        z = linear(x[:, t], weight_ih, bias_ih) + linear(h, weight_hh, bias_hh)
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = cells[:, t] = f * c + i * g
        h = output[:, t] = o * np.tanh(c)
        gates[:, t] = np.concatenate([i, f, g, o], axis=1)
    return output, cells, gates


def lstm(x, h0, c0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, reverse=False):
    """(output, (h_n, c_n)); x (N,T,D), states (N,H) -> (N,T,H), states."""
    output, cells, _ = lstm_train(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, reverse)
    last = 0 if reverse else -1
    return output, (output[:, last], cells[:, last])


def lstm_backward(
    grad_output, x, h0, c0, weight_ih, weight_hh, output, cells, gates, grad_h_n=None, grad_c_n=None,
    reverse=False,
):
    """(grad_x, grad_h0, grad_c0, grad_weight_ih, grad_weight_hh, grad_bias), step by step from the last."""
    grad_h = np.zeros(h0.shape) if grad_h_n is None else np.asarray(grad_h_n, np.float64)
    grad_c = np.zeros(h0.shape) if grad_c_n is None else np.asarray(grad_c_n, np.float64)
    gates, cells = np.asarray(gates, np.float64), np.asarray(cells, np.float64)
    grad_z = np.empty(gates.shape)
    order = _in_order(x.shape[1], reverse)
    for step in reversed(range(len(order))):
        t = order[step]
        before = cells[:, order[step - 1]] if step else np.asarray(c0, np.float64)
        i, f, g, o = np.split(gates[:, t], 4, axis=1)
        y = np.tanh(cells[:, t])
        grad_h = grad_h + grad_output[:, t]
        grad_c = grad_c + tanh_backward(grad_h * o, y)
        grad_z[:, t] = np.concatenate(
            [
                sigmoid_backward(grad_c * g, i),
                sigmoid_backward(grad_c * before, f),
                tanh_backward(grad_c * i, g),
                sigmoid_backward(grad_h * y, o),
            ],
            axis=1,
        )
        grad_c = grad_c * f
        grad_h = linear_backward_input(grad_z[:, t], weight_hh)
    return _recurrent_gradients(grad_z, x, h0, weight_ih, output, order, [grad_h, grad_c])
