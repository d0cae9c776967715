"""The C interface without a compiler: one convolution by ctypes, of memory that is not NumPy's.

Other languages with a foreign function interface (Julia, R, Lua, ...) go the same way: the file that
`fastconv config --library` names exports fastconv_get_api, whose table is laid out as fastconv.h says.
"""

import ctypes

import fastconv

Four = ctypes.c_ssize_t * 4
Pair = ctypes.c_ssize_t * 2
VERSION = 1  # FASTCONV_API_VERSION of the header that the structures below are copied from


class Tensor(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("data", ctypes.c_void_p), ("size", Four), ("stride", Four)]


class Conv2d(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("stride", Pair), ("dilation", Pair), ("padding", Pair * 2),
                ("groups", ctypes.c_ssize_t), ("algorithm", ctypes.c_int), ("activation", ctypes.c_int)]


_text = ctypes.CFUNCTYPE(ctypes.c_char_p)
_pointer = ctypes.c_void_p


class Api(ctypes.Structure):
    """The table up to the function that is used here; what follows does not matter."""

    _fields_ = [("struct_size", ctypes.c_size_t), ("version", ctypes.c_int), ("library_version", _text),
                ("isa", _text), ("status_text", _pointer), ("last_error", _text), ("num_threads", _pointer),
                ("set_num_threads", _pointer), ("limit_threads", _pointer), ("conv2d_output_size", _pointer),
                ("conv2d_forward", ctypes.CFUNCTYPE(ctypes.c_int, *[_pointer] * 6))]


library = ctypes.CDLL(fastconv._core.__file__)
library.fastconv_get_api.restype = ctypes.POINTER(Api)
api = library.fastconv_get_api(VERSION).contents


def nchw(memory, n, c, h, w):
    """A contiguous array of float32 in an array of ctypes."""
    strides = Four(c * h * w, h * w, w, 1)
    return Tensor(ctypes.sizeof(Tensor), ctypes.addressof(memory), Four(n, c, h, w), strides)


def convolve(image, height, width, kernel, taps):
    """image (height x width) with kernel (taps x taps), lists of floats, at stride 1 without padding."""
    rows, columns = height - taps + 1, width - taps + 1
    x = (ctypes.c_float * (height * width))(*image)
    weight = (ctypes.c_float * (taps * taps))(*kernel)
    y = (ctypes.c_float * max(0, rows * columns))()
    conv = Conv2d(ctypes.sizeof(Conv2d), Pair(1, 1), Pair(1, 1), groups=1)
    tensors = nchw(x, 1, 1, height, width), nchw(weight, 1, 1, taps, taps), nchw(y, 1, 1, rows, columns)
    of_x, of_weight, of_y = map(ctypes.addressof, tensors)
    if api.conv2d_forward(ctypes.addressof(conv), of_x, of_weight, None, None, of_y) < 0:
        raise ValueError(api.last_error().decode())
    return list(y)


if __name__ == "__main__":
    print(convolve([0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0], 3, 4, [1 / 9] * 9, 3))
