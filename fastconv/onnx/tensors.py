"""Tensors of ONNX files as arrays. A file is hostile until proved otherwise: what a tensor claims is compared
with the bytes that are there before memory is allocated.
"""

import math
from pathlib import Path

import numpy as np

# TensorProto.DataType -> dtype
DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
# dtype -> the field that holds such numbers where raw_data does not
_FIELDS = {"<f4": "float_data", "<f8": "double_data", "<i8": "int64_data"}


def array(tensor, folder):
    """The array of a TensorProto, read-only where it lies in the file's memory.

    folder: where files of external data are. Raises ValueError for types and sizes that do not fit.
    """
    if tensor.data_type not in DTYPES:
        raise ValueError(f"tensor {tensor.name!r} has the type {tensor.data_type}, not a float, int or bool")
    dtype, shape = np.dtype(DTYPES[tensor.data_type]), tuple(tensor.dims)
    if any(size < 0 for size in shape):
        raise ValueError(f"tensor {tensor.name!r} has the shape {shape}")
    size = math.prod(shape)
    if tensor.data_location == 1:
        flat = _external(tensor, folder, size * dtype.itemsize, dtype)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != size * dtype.itemsize:
            raise ValueError(f"tensor {tensor.name!r} of shape {shape} needs {size * dtype.itemsize} bytes, "
                             f"got {len(tensor.raw_data)}")
        flat = np.frombuffer(tensor.raw_data, dtype)
    else:
        numbers = getattr(tensor, _FIELDS.get(DTYPES[tensor.data_type], "int32_data"))
        if len(numbers) != size:
            raise ValueError(f"tensor {tensor.name!r} of shape {shape} needs {size} numbers, "
                             f"got {len(numbers)}")
        # float16 are stored as the integers of their bits.
        flat = np.array(numbers, np.uint16 if dtype == np.float16 else dtype).view(dtype)
    return flat.reshape(shape)


def _external(tensor, folder, needed, dtype):
    """What lies in a file of its own, below `folder` alone."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise ValueError(f"tensor {tensor.name!r} lies in {location!r}, not below the model's folder")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", needed))
    except ValueError:
        raise ValueError(f"tensor {tensor.name!r} has an offset or length that is no number") from None
    if not path.is_file():
        raise ValueError(f"tensor {tensor.name!r} lies in {location!r}, which is not there")
    if length != needed or offset < 0 or offset + needed > path.stat().st_size:
        raise ValueError(f"tensor {tensor.name!r} needs {needed} bytes; it has {length} from {offset} "
                         f"of {location!r}, which has {path.stat().st_size}")
    with open(path, "rb") as file:
        file.seek(offset)
        return np.fromfile(file, dtype, needed // dtype.itemsize)
