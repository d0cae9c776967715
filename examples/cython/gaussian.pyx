# cython: language_level=3, freethreading_compatible=True
"""Gaussian blur in Cython: two convolutions of every channel by itself, along rows and along columns."""

cimport fastconv
from libc.math cimport exp

import numpy as np

fastconv.import_fastconv()


cdef float[::1] taps_of(double sigma):
    """The Gaussian up to 3 sigma on either side, of sum 1."""
    cdef Py_ssize_t reach = <Py_ssize_t>(3 * sigma + 0.5), i
    taps = np.empty(2 * reach + 1, np.float32)
    cdef float[::1] view = taps
    for i in range(-reach, reach + 1):
        view[i + reach] = <float>exp(-(i * i) / (2 * sigma * sigma))
    taps /= taps.sum()
    return view


def gaussian_blur(const float[:, :, ::1] image, double sigma):
    """image (H, W, C) float32 -> its blur, of the same shape; outside the image it is black."""
    if not 0 < sigma <= 100:
        raise ValueError(f"sigma must be above 0 and at most 100, got {sigma}")
    cdef Py_ssize_t height = image.shape[0], width = image.shape[1], channels = image.shape[2]
    cdef float[::1] taps = taps_of(sigma)
    cdef Py_ssize_t count = taps.shape[0]
    result = np.empty((height, width, channels), np.float32)
    cdef float[:, :, ::1] half = np.empty_like(result), blurred = result
    if result.size == 0:
        return result

    cdef fastconv.Conv2d conv = fastconv.conv2d_defaults()
    conv.groups = channels
    conv.padding[1][0] = conv.padding[1][1] = count // 2
    cdef fastconv.Tensor x = fastconv.channels_last(&image[0, 0, 0], 1, channels, height, width)
    cdef fastconv.Tensor middle = fastconv.channels_last(&half[0, 0, 0], 1, channels, height, width)
    cdef fastconv.Tensor y = fastconv.channels_last(&blurred[0, 0, 0], 1, channels, height, width)
    # A stride of 0: all channels have the same filter.
    cdef fastconv.Tensor row = fastconv.strided(&taps[0], channels, 1, 1, count, 0, 0, 0, 1)
    cdef fastconv.Tensor column = fastconv.strided(&taps[0], channels, 1, count, 1, 0, 0, 1, 0)
    cdef int status
    with nogil:
        status = fastconv.conv2d_forward(&conv, &x, &row, NULL, NULL, &middle)
        if status == fastconv.OK:
            conv.padding[0][0] = conv.padding[0][1] = count // 2
            conv.padding[1][0] = conv.padding[1][1] = 0
            status = fastconv.conv2d_forward(&conv, &middle, &column, NULL, NULL, &y)
    fastconv.check(status)
    return result
