"""Readers of the files that data sets come in: IDX and the binary format of CIFAR-10, gzip-compressed or not.

A file is hostile until proved otherwise: what its header claims is compared with the size of the file (for
gzip, with the size stated in its trailer) before memory is allocated, and never more is unpacked than that.
"""

import gzip
import math
import os
import tarfile
import zlib
from contextlib import contextmanager
from pathlib import PurePosixPath

import numpy as np

# The third byte of an IDX file names its type; numbers are big-endian.
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_MAX_AXES = 32  # of a NumPy 1 array; NumPy 2 allows 64

_CIFAR10_RECORD = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_OVERHEAD = 18  # header and trailer, RFC 1952
_DEFLATE_MAX_RATIO = 1032  # 258 bytes from two bits at best, zlib's technical notes


def read_idx(path):
    """Reads an IDX file (the format of MNIST), gzip-compressed or not, of any of its six types.

    Returns an array of the file's shape, in the machine's byte order: uint8, int8, int16, int32, float32 or
    float64. Raises ValueError where the file is not IDX, is damaged, or is not of the size that its header
    claims; OSError where it cannot be opened. Compressed files may hold up to 4 GiB.
    """
    with _opened(path) as (file, size):
        dtype, shape, header_size = _idx_header(path, file)
        # Python's integers do not overflow; a zero among huge dimensions must not hide them.
        if math.prod(extent or 1 for extent in shape) * dtype.itemsize >= 2**62:
            raise ValueError(f"{path}: dimensions {shape} are too large")
        needed = header_size + math.prod(shape) * dtype.itemsize
        if size != needed:
            raise ValueError(f"{path}: {size} bytes, but its header (shape {shape}, {dtype.name}) "
                             f"needs {needed}")
        array = np.empty(shape, dtype)
        _fill(path, file, array)
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_cifar10(path):
    """Reads a file of CIFAR-10's binary format (data_batch_1.bin, ...), gzip-compressed or not.

    Returns (images, labels): uint8 (N, 3, 32, 32) and uint8 (N,), N being the records in the file. Raises
    ValueError where the file is damaged, not of whole records, or has a label above 9; OSError where it
    cannot be opened.
    """
    with _opened(path) as (file, size):
        return _cifar10_records(path, file, size)


def read_cifar10_archive(path, names):
    """Reads the members called `names` of CIFAR-10's tar archive: a list of (images, labels), in that order.

    The archive's checksum is to be verified by the caller: tar headers are not bounded here.
    """
    parts = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            if member.isfile() and name in names:
                parts[name] = _cifar10_records(f"{path}: {name}", archive.extractfile(member), member.size)
    missing = [name for name in names if name not in parts]
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}")
    return [parts[name] for name in names]


@contextmanager
def _opened(path):
    """(file, size): the contents, unpacked where the file is gzip, and the bytes they are stated to have."""
    with open(path, "rb") as file:
        stored = os.fstat(file.fileno()).st_size
        is_gzip = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        if not is_gzip:
            file.seek(0)
            yield file, stored
            return
        if stored < _GZIP_OVERHEAD:
            raise ValueError(f"{path}: damaged gzip file: {stored} bytes")
        file.seek(-4, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")  # of the contents, modulo 2^32
        if size > stored * _DEFLATE_MAX_RATIO:
            raise ValueError(f"{path}: damaged gzip file: {stored} bytes cannot unpack to {size}")
        file.seek(0)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked, size
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file: {error}") from error


def _fill(path, file, array):
    """Reads exactly `array` from the rest of the file."""
    rest = memoryview(array.reshape(-1).view(np.uint8))
    while rest:
        count = file.readinto(rest)
        if not count:
            raise ValueError(f"{path}: ends {len(rest)} bytes early")
        rest = rest[count:]
    if file.read(1):  # for gzip this also verifies the checksum in the trailer
        raise ValueError(f"{path}: holds more data than it states")


def _idx_header(path, file):
    """(dtype, shape, bytes of the header)."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES:
        raise ValueError(f"{path}: not an IDX file: it begins with {magic.hex(' ') or 'nothing'}")
    axes = magic[3]
    if not 1 <= axes <= _IDX_MAX_AXES:
        raise ValueError(f"{path}: an IDX file has 1 to {_IDX_MAX_AXES} dimensions, this one {axes}")
    extents = file.read(4 * axes)
    if len(extents) < 4 * axes:
        raise ValueError(f"{path}: ends within its header of {axes} dimensions")
    shape = tuple(int.from_bytes(extents[i:i + 4], "big") for i in range(0, len(extents), 4))
    return np.dtype(_IDX_TYPES[magic[2]]), shape, 4 + len(extents)


def _cifar10_records(path, file, size):
    if size == 0 or size % _CIFAR10_RECORD:
        raise ValueError(f"{path}: {size} bytes are not whole records of {_CIFAR10_RECORD} bytes")
    records = np.empty((size // _CIFAR10_RECORD, _CIFAR10_RECORD), np.uint8)
    _fill(path, file, records)
    labels = records[:, 0].copy()
    if labels.max() > 9:
        raise ValueError(f"{path}: record {labels.argmax()} has label {labels.max()}, not 0 to 9")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels
