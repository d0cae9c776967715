"""Readers of IDX and CIFAR-10: what is right is read, what is wrong gives ValueError, and neither takes more
memory than the file is worth."""

import gzip
import tarfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv.formats import read_cifar10, read_cifar10_archive, read_idx

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
RECORD = 3073

fuzz = settings(deadline=None)  # the time of a file operation says nothing


def idx_header(code, *extents):
    return bytes([0, 0, code, len(extents)]) + b"".join(extent.to_bytes(4, "big") for extent in extents)


def idx_bytes(array):
    big_endian = array.astype(array.dtype.newbyteorder(">"))
    return idx_header(IDX_CODES[array.dtype.str[1:]], *array.shape) + big_endian.tobytes()


def packed(contents):
    return gzip.compress(contents, mtime=0)


def peak_memory(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("formats") / "file"


@pytest.mark.parametrize("pack", [bytes, packed], ids=["plain", "gzip"])
@pytest.mark.parametrize("dtype", IDX_CODES)
@pytest.mark.parametrize("shape", [(1,), (7,), (0,), (3, 0, 2), (4, 5, 6), (2, 1, 3, 1, 2)], ids=str)
def test_read_idx_every_type(path, dtype, shape, pack):
    bits = np.random.default_rng(0).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    array = np.nan_to_num(bits.view(dtype)[..., 0]) if dtype[0] == "f" else bits.view(dtype)[..., 0]
    path.write_bytes(pack(idx_bytes(array)))
    found = read_idx(path)
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


ARRAY = np.arange(210, dtype=np.int16).reshape(5, 6, 7)


@pytest.mark.parametrize(("contents", "message"), [
    (b"", "not an IDX file: it begins with nothing"),
    (b"\0\0\x08", "not an IDX file"),
    (b"\0\1\x08\1\0\0\0\0", "not an IDX file: it begins with 00 01 08 01"),
    (idx_header(0x0A, 3) + b"abc", "not an IDX file"),
    (idx_header(0x08), "1 to 32 dimensions, this one 0"),
    (idx_header(0x08, *[1] * 33) + b"a", "1 to 32 dimensions, this one 33"),
    (idx_header(0x08, 3)[:-1], "ends within its header"),
    (idx_header(0x08, 3) + b"ab", r"10 bytes, but its header \(shape \(3,\), uint8\) needs 11"),
    (idx_header(0x08, 3) + b"abcd", "12 bytes, but its header"),
    (idx_header(0x0E, 2**32 - 1, 2**20) + b"abcd", "16 bytes, but its header"),
    # The product is 2^64, which is 0 where it overflows.
    (idx_header(0x08, 2**31, 2**31, 4), "dimensions .* are too large"),
    (idx_header(0x08, 0, 2**31, 2**31, 4), "dimensions .* are too large"),
])
def test_read_idx_says_what_is_wrong(path, contents, message):
    for form in (contents, packed(contents)):
        path.write_bytes(form)
        with pytest.raises(ValueError, match=message):
            read_idx(path)


@fuzz
@given(cut=st.integers(0, len(idx_bytes(ARRAY)) - 1), pack=st.sampled_from([bytes, packed]))
def test_read_idx_truncated(path, cut, pack):
    path.write_bytes(pack(idx_bytes(ARRAY)[:cut]))
    with pytest.raises(ValueError, match=str(path)):
        read_idx(path)


@fuzz
@given(header=st.binary(max_size=24), rest=st.binary(max_size=64), pack=st.sampled_from([bytes, packed]))
def test_read_idx_arbitrary_header(path, header, rest, pack):
    contents = b"\0\0" + header + rest
    path.write_bytes(pack(contents))
    try:
        array = read_idx(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 - reading may succeed too
    else:
        assert idx_bytes(array) == contents or np.isnan(array).any()


@fuzz
@given(where=st.integers(0, len(packed(idx_bytes(ARRAY))) - 1), bit=st.integers(0, 7))
def test_read_idx_flipped_bit_in_gzip(path, where, bit):
    damaged = bytearray(packed(idx_bytes(ARRAY)))
    damaged[where] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        found = read_idx(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 - flags and times in gzip's header change nothing
    else:
        np.testing.assert_array_equal(found, ARRAY)


@fuzz
@given(cut=st.integers(2, len(packed(idx_bytes(ARRAY))) - 1))
def test_read_idx_truncated_gzip(path, cut):
    path.write_bytes(packed(idx_bytes(ARRAY))[:cut])
    with pytest.raises(ValueError, match=str(path)):
        read_idx(path)


def with_stated_size(compressed, size):
    """A gzip file whose trailer states another size of its contents."""
    return compressed[:-4] + size.to_bytes(4, "little")


def read_and_fail(path, message):
    with pytest.raises(ValueError, match=message):
        read_idx(path)


def test_read_idx_gzip_bomb_is_not_unpacked(path):
    contents = idx_header(0x08, 10) + bytes(50_000_000)
    bomb = packed(contents)
    path.write_bytes(bomb)
    assert peak_memory(lambda: read_and_fail(path, "50000008 bytes, but its header")) < 1_000_000
    path.write_bytes(with_stated_size(bomb, 8 + 10))
    assert peak_memory(lambda: read_and_fail(path, "more data than it states")) < 1_000_000


def test_read_idx_allocates_nothing_for_a_lying_header(path):
    path.write_bytes(idx_header(0x08, 2**31) + bytes(100))
    assert peak_memory(lambda: read_and_fail(path, "108 bytes, but its header")) < 1_000_000
    path.write_bytes(with_stated_size(packed(idx_header(0x08, 2**31) + bytes(100)), 8 + 2**31))
    assert peak_memory(lambda: read_and_fail(path, "cannot unpack to 2147483656")) < 1_000_000


def test_read_idx_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none")


def cifar10_records(count, seed=0):
    records = np.random.default_rng(seed).integers(0, 256, (count, RECORD), np.uint8)
    records[:, 0] %= 10
    return records


@pytest.mark.parametrize("pack", [bytes, packed], ids=["plain", "gzip"])
def test_read_cifar10(path, pack):
    records = cifar10_records(5)
    path.write_bytes(pack(records.tobytes()))
    images, labels = read_cifar10(path)
    assert images.shape == (5, 3, 32, 32)
    assert images.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, records[:, 0])
    np.testing.assert_array_equal(images[3, 1, 2, 5], records[3, 1 + 1024 + 2 * 32 + 5])


@pytest.mark.parametrize("pack", [bytes, packed], ids=["plain", "gzip"])
@pytest.mark.parametrize(("contents", "message"), [
    (b"", "0 bytes are not whole records of 3073"),
    (bytes(RECORD - 1), "3072 bytes are not whole records"),
    (bytes(2 * RECORD + 1), "6147 bytes are not whole records"),
    (bytes(RECORD) + bytes([10]) + bytes(RECORD - 1), "record 1 has label 10, not 0 to 9"),
])
def test_read_cifar10_says_what_is_wrong(path, contents, message, pack):
    path.write_bytes(pack(contents))
    with pytest.raises(ValueError, match=message):
        read_cifar10(path)


def test_read_cifar10_archive(tmp_path):
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as archive:
        for seed, name in enumerate(("b.bin", "readme.html", "a.bin")):
            (tmp_path / name).write_bytes(cifar10_records(2, seed).tobytes())
            archive.add(tmp_path / name, f"folder/{name}")
    parts = read_cifar10_archive(tmp_path / "archive.tar.gz", ["a.bin", "b.bin"])
    for (images, labels), seed in zip(parts, (2, 0), strict=True):
        records = cifar10_records(2, seed)
        np.testing.assert_array_equal(labels, records[:, 0])
        np.testing.assert_array_equal(images.reshape(2, -1), records[:, 1:])
    with pytest.raises(ValueError, match=r"has no c\.bin, d\.bin"):
        read_cifar10_archive(tmp_path / "archive.tar.gz", ["a.bin", "c.bin", "d.bin"])
