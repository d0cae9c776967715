"""Operators on constants: what a graph computes without its input, for the most part shapes.

Functions of (reader, node, arrays...). reader.spend says what is about to be allocated.
"""

import numpy as np

from . import tensors
from .values import Unsupported


def _computed(function):
    """The function of two constants, of the type of the first."""
    def convert(reader, node, a, b):
        reader.spend(*np.broadcast_shapes(a.shape, b.shape))
        return function(a, b).astype(a.dtype)
    return convert


def _gathered(reader, node, array, indices):
    axis = node.get("axis", 0)
    reader.spend(array.size // max(array.shape[axis], 1), indices.size)
    return np.take(array, indices, axis)


def _joined(reader, node, *arrays):
    reader.spend(sum(array.size for array in arrays))
    return np.concatenate(arrays, node.get("axis", 0))


def _cast(reader, node, array, *_):
    if node.get("to") not in tensors.DTYPES:
        raise Unsupported(f"to the type {node.get('to')}")
    reader.spend(array.size)
    return array.astype(tensors.DTYPES[node.get("to")])


def _filled(reader, node, shape):
    reader.spend(*shape.tolist())
    value = node.get("value")
    value = np.zeros(1, np.float32) if value is None else tensors.array(value, reader.folder)
    return np.full(shape.tolist(), value.ravel()[0])


def _expanded(reader, node, array, shape):
    shape = np.broadcast_shapes(array.shape, tuple(shape.tolist()))
    reader.spend(*shape)
    return np.broadcast_to(array, shape)


def _sliced(reader, node, array, *given):
    given = [one.tolist() for one in given] or [node.get("starts"), node.get("ends"), node.get("axes")]
    starts, ends, axes, steps = (*given, *[None] * 4)[:4]
    place = [slice(None)] * array.ndim
    for number, axis in enumerate(axes or range(len(starts))):
        place[axis] = slice(starts[number], ends[number], steps[number] if steps else 1)
    return array[tuple(place)]


def _reordered(reader, node, array):
    return array.transpose(node.get("perm"))


def _given_shape(reader, node, array, shape):
    return array.reshape([array.shape[axis] if size == 0 and not node.get("allowzero", 0) else size
                          for axis, size in enumerate(shape.tolist())])


def _without_axes(reader, node, array, *_):
    axes = reader.parameters(node, "axes", 1, None)
    return np.squeeze(array, axes)


def _with_axes(reader, node, array, *_):
    return np.expand_dims(array, reader.parameters(node, "axes", 1, None) or ())


FUNCTIONS = {
    "Add": _computed(np.add), "Cast": _cast, "Concat": _joined, "ConstantOfShape": _filled,
    "Div": _computed(lambda a, b: a // b if a.dtype.kind == "i" else a / b), "Expand": _expanded,
    "Gather": _gathered, "Identity": lambda reader, node, array: array, "Mul": _computed(np.multiply),
    "Reshape": _given_shape, "Slice": _sliced, "Squeeze": _without_axes, "Sub": _computed(np.subtract),
    "Transpose": _reordered, "Unsqueeze": _with_axes,
}
