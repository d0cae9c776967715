"""Naive NumPy in float32: what a NumPy user writes without a convolution library, in its two usual forms.

`taps` loops over the taps of the filter, one matrix product each; `im2col` copies every window into a column
and does one product.  NCHW arrays, one stride and one padding for both axes, no groups.
"""

import numpy as np


def _padded(x, padding, fill=0):
    border = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
    return np.pad(x, border, constant_values=fill) if padding else x


def _tap(image, r, s, size, stride):
    """View of the pixels that tap (r, s) of every window meets: (N, C, H, W) -> (N, C, *size)."""
    height, width = size
    return image[:, :, r : r + (height - 1) * stride + 1 : stride, s : s + (width - 1) * stride + 1 : stride]


def _output_size(x_shape, kernel, stride, padding):
    return tuple((extent + 2 * padding - taps) // stride + 1
                 for extent, taps in zip(x_shape[2:], kernel, strict=True))


def _flat(array):
    """(N, C, P, Q) -> (N, C, P*Q)"""
    return array.reshape(*array.shape[:2], -1)


def _columns(x, kernel, stride, padding):
    """Every window as a column: (N, C, H, W) -> (N, C*R*S, P*Q)."""
    windows = np.lib.stride_tricks.sliding_window_view(_padded(x, padding), kernel, axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride].transpose(0, 1, 4, 5, 2, 3)
    batch, channels, rows, cols, height, width = windows.shape
    return windows.reshape(batch, channels * rows * cols, height * width)


def _uncolumns(columns, input_shape, kernel, stride, padding):
    """The transpose of `_columns`: adds every column back to the pixels of its window."""
    batch, channels, height, width = input_shape
    size = _output_size(input_shape, kernel, stride, padding)
    columns = columns.reshape(batch, channels, *kernel, *size)
    image = np.zeros((batch, channels, height + 2 * padding, width + 2 * padding), np.float32)
    for r, s in np.ndindex(*kernel):
        _tap(image, r, s, size, stride)[...] += columns[:, :, r, s]
    return image[:, :, padding : padding + height, padding : padding + width]


def forward_im2col(x, weight, stride=1, padding=0):
    size = _output_size(x.shape, weight.shape[2:], stride, padding)
    y = weight.reshape(len(weight), -1) @ _columns(x, weight.shape[2:], stride, padding)
    return y.reshape(*y.shape[:2], *size)


def backward_input_im2col(grad_output, weight, input_shape, stride=1, padding=0):
    columns = weight.reshape(len(weight), -1).T @ _flat(grad_output)
    return _uncolumns(columns, input_shape, weight.shape[2:], stride, padding)


def backward_weight_im2col(grad_output, x, weight_shape, stride=1, padding=0):
    columns = _columns(x, weight_shape[2:], stride, padding)
    return (_flat(grad_output) @ columns.transpose(0, 2, 1)).sum(0).reshape(weight_shape)


def forward_taps(x, weight, stride=1, padding=0):
    image = _padded(x, padding)
    size = _output_size(x.shape, weight.shape[2:], stride, padding)
    y = np.zeros((len(x), len(weight), size[0] * size[1]), np.float32)
    for r, s in np.ndindex(*weight.shape[2:]):
        y += weight[:, :, r, s] @ _flat(_tap(image, r, s, size, stride))
    return y.reshape(*y.shape[:2], *size)


def backward_input_taps(grad_output, weight, input_shape, stride=1, padding=0):
    batch, channels, height, width = input_shape
    size = grad_output.shape[2:]
    image = np.zeros((batch, channels, height + 2 * padding, width + 2 * padding), np.float32)
    for r, s in np.ndindex(*weight.shape[2:]):
        pixels = weight[:, :, r, s].T @ _flat(grad_output)
        _tap(image, r, s, size, stride)[...] += pixels.reshape(batch, channels, *size)
    return image[:, :, padding : padding + height, padding : padding + width]


def backward_weight_taps(grad_output, x, weight_shape, stride=1, padding=0):
    image = _padded(x, padding)
    size = grad_output.shape[2:]
    grad_weight = np.empty(weight_shape, np.float32)
    for r, s in np.ndindex(*weight_shape[2:]):
        pixels = _flat(_tap(image, r, s, size, stride))
        grad_weight[:, :, r, s] = (_flat(grad_output) @ pixels.transpose(0, 2, 1)).sum(0)
    return grad_weight


def max_pool2d(x, kernel, stride, padding=0):
    """(y, argmax): the maximum of every window and the tap, r * kernel + s, that holds it."""
    image = _padded(x, padding, -np.inf)
    size = _output_size(x.shape, (kernel, kernel), stride, padding)
    y = np.full((*x.shape[:2], *size), -np.inf, np.float32)
    argmax = np.zeros(y.shape, np.uint8)
    for tap, (r, s) in enumerate(np.ndindex(kernel, kernel)):
        pixels = _tap(image, r, s, size, stride)
        larger = pixels > y
        np.copyto(y, pixels, where=larger)
        np.copyto(argmax, tap, where=larger)
    return y, argmax


def max_pool2d_backward(grad_output, argmax, input_shape, kernel, stride):
    """The gradient goes to the pixel that held the maximum (no padding)."""
    grad_input = np.zeros(input_shape, np.float32)
    for tap, (r, s) in enumerate(np.ndindex(kernel, kernel)):
        _tap(grad_input, r, s, grad_output.shape[2:], stride)[...] += grad_output * (argmax == tap)
    return grad_input


def batch_norm(x, weight, bias, eps=1e-5):
    """(y, mean, invstd) with the statistics of the batch."""
    mean = x.mean((0, 2, 3))
    invstd = 1 / np.sqrt(x.var((0, 2, 3)) + np.float32(eps))
    y = (x - mean[:, None, None]) * (invstd * weight)[:, None, None] + bias[:, None, None]
    return y, mean, invstd


def batch_norm_backward(grad_output, x, mean, invstd, weight):
    """(grad_input, grad_weight, grad_bias)"""
    normalised = (x - mean[:, None, None]) * invstd[:, None, None]
    grad_bias = grad_output.sum((0, 2, 3))
    grad_weight = (grad_output * normalised).sum((0, 2, 3))
    count = np.float32(x.size // x.shape[1])
    grad_input = grad_output - (grad_bias / count)[:, None, None]
    grad_input -= normalised * (grad_weight / count)[:, None, None]
    grad_input *= (invstd * weight)[:, None, None]
    return grad_input, grad_weight, grad_bias
