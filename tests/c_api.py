"""Calls of the functions of fastconv.h, through ctypes and the one exported symbol."""

import ctypes
import re

import header
import numpy as np

import fastconv

STRUCTURES = header.ctypes_structures()
CODES = {name: value for enum in header.enumerators().values() for name, value in enum.items()}
_SIGNATURES = dict(header.structures()["fastconv_api"])
_library = ctypes.CDLL(fastconv._core.__file__)
_library.fastconv_get_api.restype = ctypes.c_void_p
TABLE = STRUCTURES["fastconv_api"].from_address(_library.fastconv_get_api(header.version()))
# As of the functions in fastconv.h that end in _defaults.
_DEFAULTS = {
    "fastconv_conv2d": dict(stride=(1, 1), dilation=(1, 1), padding=((0, 0), (0, 0)), groups=1),
    "fastconv_pool2d": dict(dilation=(1, 1), count_include_pad=1),
    "fastconv_batch_norm": dict(momentum=0.1, eps=1e-5),
}


class Error(Exception):
    """A negative status: its name and the message."""



def struct(name, /, **fields):
    """A structure with its size, its defaults and these fields; arrays become pointers."""
    values = {**_DEFAULTS.get(name, {}), **fields}
    result = STRUCTURES[name](ctypes.sizeof(STRUCTURES[name]))
    for field, value in values.items():
        if isinstance(value, tuple) and isinstance(value[0], tuple):
            for i, row in enumerate(value):
                getattr(result, field)[i][:] = row
        elif isinstance(value, tuple):
            getattr(result, field)[:] = value
        else:
            setattr(result, field, value.ctypes.data if isinstance(value, np.ndarray) else value)
    return result


def tensor(array):
    """A float32 array of at most four axes."""
    missing = 4 - array.ndim
    return struct("fastconv_tensor", data=array.ctypes.data, size=(*array.shape, *(1,) * missing),
                  stride=(*(stride // 4 for stride in array.strides), *(1,) * missing))


def call(name, *arguments):
    """Calls a function of the table: arrays for tensors and pointers, dicts of fields for options.

    Returns what it returns, or raises Error."""
    declarations = re.search(r"\(\*\w+\)\((.*)\)$", _SIGNATURES[name])[1].split(", ")
    given, alive = [], []
    for declaration, value in zip(declarations, arguments, strict=True):
        kind = declaration.removeprefix("const ").split()[0]
        if isinstance(value, dict):
            value = struct(kind, **value)
        elif isinstance(value, np.ndarray):
            value = tensor(value) if kind == "fastconv_tensor" else value.ctypes.data
        if isinstance(value, ctypes.Structure):
            alive.append(value)
            value = ctypes.addressof(value)
        given.append(value)
    result = getattr(TABLE, name)(*given)
    if isinstance(result, int) and result < 0:
        status = next(code for code, number in CODES.items() if number == result)
        raise Error(f"{status}: {TABLE.last_error().decode()}")
    return result
