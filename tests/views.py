"""Arrays of equal values that lie in memory in every other way, and operations on them."""

import numpy as np
from check import as_tuple, assert_same_bits, in_layout

from fastconv import functional


def reversed_axes(array):
    backwards = (slice(None, None, -1),) * array.ndim
    return array[backwards].copy()[backwards]


def every_second(array):
    """All bits set in the gaps: NaN as a float."""
    wide = np.empty([2 * n + 1 for n in array.shape], array.dtype)
    wide.view(np.uint8)[...] = 255
    view = wide[(slice(1, None, 2),) * array.ndim]
    view[...] = array
    return view


def fields(array):
    """Values of a packed record: one byte more apart than they are long, so most of them are unaligned."""
    records = np.zeros(array.shape, np.dtype([("flag", "u1"), ("value", array.dtype)]))
    records["value"] = array
    return records["value"]


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    return raw


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


VIEWS = {
    "negative strides": reversed_axes,
    "gaps": every_second,
    "fields of records": fields,
    "unaligned": unaligned,
    "read-only": read_only,
    "axes reversed in memory": np.asfortranarray,
    "channels-last": lambda array: in_layout(array, "channels-last"),
    "output channel fastest": lambda array: in_layout(array, "channels-last", "weight"),
}
NOT_NATIVE = [name for name in VIEWS if name not in ("channels-last", "output channel fastest")]
OUT_VIEWS = ("negative strides", "gaps", "axes reversed in memory", "channels-last")


def check_views(op, arrays, options=None, names=VIEWS):
    """Arguments that lie otherwise, or repeat elements, give the bits of contiguous copies.

    names: of VIEWS; NOT_NATIVE for sums over images and pixels, whose order is the layout's.
    """
    def results_with(i, array):
        return as_tuple(getattr(functional, op)(*arrays[:i], array, *arrays[i + 1:], **options or {}))

    for i, array in enumerate(arrays):
        if array is None:
            continue
        expected = results_with(i, array)
        for name in names:
            viewed = VIEWS[name](array)
            np.testing.assert_array_equal(viewed, array)
            for result, same in zip(results_with(i, viewed), expected, strict=True):
                assert_same_bits(result, same, f"{op}, argument {i}: {name}")
        for axis in range(array.ndim):
            repeated = np.broadcast_to(array.take([0], axis), array.shape)
            for result, same in zip(results_with(i, repeated), results_with(i, repeated.copy()), strict=True):
                assert_same_bits(result, same, f"{op}, argument {i} repeats axis {axis}")


def check_out_views(op, arrays, options=None):
    """out= of any strides receives the result, and the gaps between its elements nothing."""
    function, options = getattr(functional, op), options or {}
    expected = as_tuple(function(*arrays, **options))[0]
    for name in OUT_VIEWS:
        out = VIEWS[name](np.full(expected.shape, np.nan, np.float32))
        assert as_tuple(function(*arrays, **options, out=out))[0] is out
        assert_same_bits(out, expected, f"{op} into out= with {name}")
        if name == "gaps":
            assert np.isnan(out.base).sum() == out.base.size - out.size, f"{op} wrote into the gaps"
