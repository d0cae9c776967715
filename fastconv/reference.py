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


def max_pool2d_argmax(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """(y, argmax): y (N,C,P,Q), argmax uint8 the position r*S + s of the maximum in its window.

    Padding never wins.  The first of equal maxima wins, except that a NaN beats everything before it.
    A window that meets no pixel (possible with dilation) is -inf, its position 0.
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
    if argmax.size and kernel[0] * kernel[1] > 256:
        raise ValueError(f"kernel_size={kernel_size!r} has more than 256 taps")
    return y, argmax.astype(np.uint8)
