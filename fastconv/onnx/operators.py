"""Operators on what is computed from the input: functions of (reader, node) that add layers to the reader."""

import math
from dataclasses import replace

import numpy as np

from ..layers import (
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    BatchNorm2d,
    ConstantPad2d,
    Conv2d,
    Dropout,
    Flatten,
    Hardtanh,
    Join,
    Linear,
    LocalResponseNorm,
    LogSoftmax,
    MaxPool2d,
    Permute,
    ReLU,
    Select,
    Sigmoid,
    Softmax,
    Square,
    Tanh,
    Unflatten,
)
from . import recurrent, tensors
from .values import Unsupported


def _parameter(target, array):
    np.copyto(target.data, array)


def _window(reader, node, size, filter_size, dilation, stride):
    """((top, bottom), (left, right)) from pads or auto_pad."""
    auto = node.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return (0, 0), (0, 0)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        if any(reader.open[1:]) and stride != (1, 1):
            raise Unsupported(f"auto_pad {auto} of images whose size the file leaves open")
        pads = []
        for length, taps, step, gap in zip(size, filter_size, stride, dilation, strict=True):
            total = max((-(-length // step) - 1) * step + (taps - 1) * gap + 1 - length, 0)
            less = total // 2
            pads.append((less, total - less) if auto == "SAME_UPPER" else (total - less, less))
        return tuple(pads)
    if auto != "NOTSET":
        raise ValueError(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto!r}")
    top, left, bottom, right = node.ints("pads", (0, 0, 0, 0), 4)
    return (top, bottom), (left, right)


def _symmetric(pads):
    """(vertical, horizontal), or None where the two sides differ."""
    return tuple(pair[0] for pair in pads) if all(pair[0] == pair[1] for pair in pads) else None


def _conv(reader, node):
    value, outer = reader.named(node.inputs[0]), ((0, 0), (0, 0))
    if value.pads is not None and len(value.pads) == 4 and not any(sum(pair) for pair in value.pads[:2]):
        value, outer = reader.plain(replace(value, pads=None)), value.pads[2:]
    else:
        value = reader.input(node)
    weight, bias = reader.weights(node, 1, "weight"), reader.weights(node, 2, "bias")
    if weight is None or len(value.shape) != 4 or weight.ndim != 4:
        raise Unsupported(f"of {len(value.shape) - 2}-D images")
    groups = node.get("group", 1)
    stride, dilation = node.ints("strides", (1, 1), 2), node.ints("dilations", (1, 1), 2)
    if node.ints("kernel_shape", weight.shape[2:], 2) != weight.shape[2:]:
        raise ValueError(f"kernel_shape does not fit the weight of shape {weight.shape}")
    size = [length + sum(pair) for length, pair in zip(value.shape[2:], outer, strict=True)]
    pads = _window(reader, node, size, weight.shape[2:], dilation, stride)
    pads = tuple((a + c, b + d) for (a, b), (c, d) in zip(pads, outer, strict=True))
    if groups < 1 or weight.shape[1] * groups != value.shape[1]:
        raise ValueError(f"group {groups} and the weight of shape {weight.shape} do not fit images of shape "
                         f"{value.shape}")
    layer = Conv2d(value.shape[1], weight.shape[0], weight.shape[2:], stride, _symmetric(pads) or pads,
                   dilation, groups, bias is not None)
    _parameter(layer.weight, weight)
    if bias is not None:
        _parameter(layer.bias, bias)
    reader.give(node, reader.add(reader.layer_name(node), layer, value))


def _linear(reader, node, weight, bias):
    value = reader.input(node)
    if len(value.shape) != 2 or weight.ndim != 2:
        raise Unsupported(f"of arrays of shapes {value.shape} and {weight.shape}")
    layer = Linear(weight.shape[1], weight.shape[0], bias is not None)
    _parameter(layer.weight, weight)
    if bias is not None:
        _parameter(layer.bias, bias)
    reader.give(node, reader.add(reader.layer_name(node), layer, value))


def _gemm(reader, node):
    weight, bias = reader.weights(node, 1, "B"), reader.weights(node, 2, "C")
    if node.get("transA", 0):
        raise Unsupported("transA")
    weight = weight if node.get("transB", 0) else weight.T
    if node.get("alpha", 1.0) != 1:
        weight = weight * np.float32(node.get("alpha"))
    if bias is not None and node.get("beta", 1.0) != 1:
        bias = bias * np.float32(node.get("beta"))
    if bias is not None:
        if bias.ndim > 1 and bias.shape[0] != 1:
            raise Unsupported(f"C of shape {bias.shape}")
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[:1])
    _linear(reader, node, weight, bias)


def _matmul(reader, node):
    _linear(reader, node, reader.weights(node, 1, "the second matrix").T, None)


def _batch_norm(reader, node):
    if node.get("training_mode", 0):
        raise Unsupported("training_mode")
    weight, bias, mean, var = (reader.weights(node, place, what) for place, what in
                               enumerate(("scale", "bias", "mean", "variance"), 1))
    eps = node.get("epsilon", 1e-5)
    value = reader.named(node.inputs[0])
    if len(value.seen) == 2:
        scale = weight / np.sqrt(var.astype(np.float64) + eps)
        reader.give(node, _scaled(reader, node, scale, bias - mean * scale))
        return
    value = reader.image(node)
    for array in (weight, bias, mean, var):
        if array.shape != value.shape[1:2]:
            raise ValueError(f"constants of shape {array.shape} do not fit images of shape {value.shape}")
    layer = BatchNorm2d(value.shape[1], eps)
    for target, array in ((layer.weight.data, weight), (layer.bias.data, bias), (layer.running_mean, mean),
                          (layer.running_var, var)):
        np.copyto(target, array)
    reader.give(node, reader.add(reader.layer_name(node), layer, value))


def _pool_options(reader, node, value):
    kernel = node.ints("kernel_shape", None, 2)
    stride, dilation = node.ints("strides", (1, 1), 2), node.ints("dilations", (1, 1), 2)
    return kernel, stride, dilation, _window(reader, node, value.shape[2:], kernel, dilation, stride)


def _padded(reader, node, value, pads, filling):
    """Images with a border of their own where the layer's cannot be like that."""
    return reader.add(f"{node.name}_pad", ConstantPad2d(pads, filling), value)


def _max_pool(reader, node):
    value = reader.image(node)
    kernel, stride, dilation, pads = _pool_options(reader, node, value)
    both = _symmetric(pads)
    if both is None or any(2 * pad > taps for pad, taps in zip(both, kernel, strict=True)):
        value, both = _padded(reader, node, value, pads, -math.inf), (0, 0)
    layer = MaxPool2d(kernel, stride, both, dilation, bool(node.get("ceil_mode", 0)))
    reader.give(node, reader.add(node.name, layer, value))


def _average_pool(reader, node):
    value = reader.image(node)
    kernel, stride, dilation, pads = _pool_options(reader, node, value)
    if dilation != (1, 1):
        raise Unsupported(f"dilations {dilation}")
    both, include = _symmetric(pads), bool(node.get("count_include_pad", 0))
    if both is None or any(2 * pad > taps for pad, taps in zip(both, kernel, strict=True)):
        if not include or node.get("ceil_mode", 0):
            raise Unsupported(f"pads {pads} that are not counted")
        value, both = _padded(reader, node, value, pads, 0.0), (0, 0)
    if kernel == stride == (1, 1) and both == (0, 0):  # adaptive pooling to the size that x has
        reader.give(node, value)
        return
    layer = AvgPool2d(kernel, stride, both, bool(node.get("ceil_mode", 0)), include)
    reader.give(node, reader.add(node.name, layer, value))


def _global_average_pool(reader, node):
    reader.give(node, reader.add(node.name, AdaptiveAvgPool2d(1), reader.image(node)))


def _reduce_mean(reader, node):
    value = reader.input(node, plain=False)
    axes = reader.parameters(node, "axes", 1, None)
    if len(value.axes) != 4 or axes is None or {value.axes[axis % 4] for axis in axes} != {2, 3}:
        raise Unsupported(f"of the shape {value.seen} over the axes {axes}, not height and width")
    y = replace(reader.add(node.name, AdaptiveAvgPool2d(1), value), axes=value.axes)
    if not node.get("keepdims", 1):
        y = reader.add(f"{node.name}_flatten", Flatten(), y)
    reader.give(node, y)


def _add(reader, node):
    values = [name for name in node.inputs if reader.constant(name) is None]
    if len(values) < len(node.inputs):
        _arithmetic(reader, node)
        return
    values = [reader.input(node, place, plain=False) for place in range(len(node.inputs))]
    if len({value.axes for value in values}) > 1:
        values = [reader.plain(value) for value in values]
    if len({value.shape for value in values}) > 1:
        raise Unsupported(f"of arrays of shapes {', '.join(str(value.shape) for value in values)}")
    y = values[0] if len(values) == 1 else reader.add(node.name, Add(), *values)
    reader.give(node, replace(y, axes=values[0].axes))


def _arithmetic(reader, node):
    """+, -, * and / of one value and constants that are one number or one for each channel."""
    if len(node.inputs) != 2:
        raise Unsupported("of several arrays and constants")
    left, right = (reader.constant(name) for name in node.inputs)
    if node.op == "Mul" and node.inputs[0] == node.inputs[1]:
        reader.same_axes(node, Square())
        return
    if left is None and right is None:
        raise Unsupported("of two arrays that are computed")
    first = left is None  # the value stands first
    number = np.asarray(right if first else left, np.float64)
    scale, shift = np.ones(()), np.zeros(())
    if node.op == "Mul":
        scale = number
    elif node.op == "Div" and first:
        scale = 1 / number
    elif node.op in ("Add", "Sub", "Sum"):
        scale = -scale if node.op == "Sub" and not first else scale
        shift = -number if node.op == "Sub" and first else number
    else:
        raise Unsupported("of a constant by an array that is computed")
    reader.give(node, _scaled(reader, node, scale, shift, 0 if first else 1))


def _scaled(reader, node, scale, shift, place=0):
    """scale * x + shift, one each or one for each channel, in the layer before where that is possible."""
    value = reader.named(node.inputs[place])
    along = [_per_channel(array, value.seen) for array in (scale, shift)]
    axis = None if None in along else max(along)
    if axis == 0 or axis is None or len(value.axes) not in (2, 4):
        raise Unsupported(f"of a constant of shape {np.broadcast_shapes(scale.shape, shift.shape)} and an "
                          f"array of shape {value.seen}")
    if value.pads is not None:
        value = reader.settled(value)
    if axis != -1 and value.axes[axis] != 1:  # the axis of a layer's channels
        value, inner = reader.settled(value), value.axes[axis]
        order = (0, inner, *(one for one in range(1, len(value.axes)) if one != inner))
        moved = reader.add(f"{value.node}_permute", Permute(order), value)
        value = replace(moved, axes=tuple(order.index(one) for one in value.axes))
    scale, shift = np.broadcast_arrays(*(array.reshape(() if axis == -1 else -1) for array in (scale, shift)))
    if value.scale is not None:
        return replace(value, scale=value.scale * scale, shift=value.shift * scale + shift)
    layer = reader.alone(node.inputs[place])
    if type(layer) in (Conv2d, Linear) and value.node == reader.named(node.inputs[place]).node:
        layer._fold(*(np.broadcast_to(array, value.shape[1]) for array in (scale, shift)))
        reader.given[value.node] = node.outputs[0]
        return value
    return replace(value, scale=scale, shift=shift)


def _per_channel(array, shape):
    """The axis of `shape` along which a constant varies, -1 where it is one number; None: several do."""
    if array.ndim > len(shape):
        return None
    sizes = (1,) * (len(shape) - array.ndim) + array.shape
    varying = [axis for axis, size in enumerate(sizes) if size != 1]
    if len(varying) > 1 or any(sizes[axis] != shape[axis] for axis in varying):
        return None
    return varying[0] if varying else -1


def _concat(reader, node):
    values = [reader.input(node, place, plain=False) for place in range(len(node.inputs))]
    axis = node.get("axis", 1)
    rank = len(values[0].shape)
    inner = values[0].axes[axis % rank]
    if len({value.axes for value in values}) > 1 or inner != 1:
        values = [reader.plain(value) for value in values]
        inner = axis % rank
    if inner != 1:
        raise Unsupported(f"along axis {axis}")
    if len(values) == 1:
        y = values[0]
    elif len(values) > 64:
        raise Unsupported(f"of {len(values)} arrays, more than 64")
    else:
        y = reader.add(node.name, Join(), *values)
    reader.give(node, replace(y, axes=values[0].axes))


def _identity(reader, node):
    reader.give(node, reader.named(node.inputs[0]))


def _cast(reader, node):
    if node.get("to") != 1:
        raise Unsupported("to another type than float32")
    _identity(reader, node)


def _dropout(reader, node):
    training = reader.constant(node.inputs[2]) if any(node.inputs[2:]) else np.zeros(1)
    if training is None or training.any():
        raise Unsupported("training_mode")
    if any(reader.reads[name] for name in node.outputs[1:]):
        raise Unsupported("its mask is used")
    ratio = reader.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    reader.same_axes(node, Dropout(node.get("ratio", 0.5) if ratio is None else ratio.item()))


def _clip(reader, node):
    bounds = []
    for place, (name, default) in enumerate((("min", -math.inf), ("max", math.inf)), 1):
        array = reader.weights(node, place, name)
        bounds.append(node.get(name, default) if array is None else array.item())
    reader.same_axes(node, Hardtanh(*bounds))


def _softmax(reader, node):
    layer = LogSoftmax if node.op == "LogSoftmax" else Softmax
    value = reader.input(node)
    rank, axis = len(value.shape), node.get("axis", -1 if reader.opset >= 13 else 1)
    if not -rank <= axis < rank:
        raise ValueError(f"axis must be an axis of the shape {value.shape}, got {axis}")
    if reader.opset < 13 and any(size > 1 for size in value.shape[axis % rank + 1:]):
        raise Unsupported("over several axes at once")
    reader.give(node, reader.add(node.name, layer(axis), value))


def _lrn(reader, node):
    size = node.get("size", 0)
    if size % 2 == 0:
        raise Unsupported(f"of {size} channels, an even number")
    layer = LocalResponseNorm(size, node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0))
    reader.give(node, reader.add(node.name, layer, reader.image(node)))


def _pad(reader, node):
    value = reader.input(node, plain=False)
    rank = len(value.shape)
    if node.get("mode", "constant") != "constant":
        raise Unsupported(f"mode {node.get('mode')}")
    filling = node.get("value", 0.0)
    if len(node.inputs) > 2 and node.inputs[2]:
        filling = reader.weights(node, 2, "its value").item()
    axes = reader.parameters(node, "axes", 3, None) or tuple(range(rank))
    pads = reader.parameters(node, "pads", 1, 2 * len(axes))
    if pads is None or min(pads) < 0:
        raise Unsupported(f"pads {pads}")
    pairs = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads, pads[len(axes):], strict=False):
        pairs[axis] = (before, after)
    if not any(pads):
        reader.give(node, value)
    elif filling == 0:
        reader.give(node, replace(value, pads=tuple(pairs)))
    elif rank != 4 or any(sum(pair) for pair in pairs[:2]):
        raise Unsupported("pads other axes than height and width")
    else:
        reader.give(node, _padded(reader, node, reader.plain(value), tuple(pairs[2:]), filling))


def _transpose(reader, node):
    value = reader.named(node.inputs[0])
    rank = len(value.axes)
    order = node.ints("perm", tuple(reversed(range(rank))), rank)
    if sorted(order) != list(range(rank)):
        raise ValueError(f"perm must be 0 to {rank - 1} in any order, got {order}")
    pads = value.pads and tuple(value.pads[axis] for axis in order)
    reader.give(node, replace(value, axes=tuple(value.axes[axis] for axis in order), pads=pads))


def _flatten(reader, node):
    shape = reader.seen(node.inputs[0])
    axis = node.get("axis", 1) % len(shape) if node.get("axis", 1) else 0
    _reshaped(reader, node, (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _reshape(reader, node):
    shape = reader.seen(node.inputs[0])
    target = list(reader.parameters(node, "shape", 1, None) or ())
    for axis, size in enumerate(target):
        if size == 0 and not node.get("allowzero", 0) and axis < len(shape):
            target[axis] = shape[axis]
    if target.count(-1) == 1:
        rest = -math.prod(target)
        target[target.index(-1)] = math.prod(shape) // rest if rest else 0
    if math.prod(target) != math.prod(shape) or any(size < 0 for size in target):
        raise ValueError(f"cannot make the shape {target} of {shape}")
    _reshaped(reader, node, tuple(target))


def _squeeze(reader, node):
    value = reader.input(node, plain=False)
    shape = value.seen
    axes = reader.parameters(node, "axes", 1, None)
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    if any(not -len(shape) <= axis < len(shape) or shape[axis] != 1 for axis in axes):
        raise ValueError(f"cannot leave out the axes {axes} of the shape {shape}")
    gone = {value.axes[axis] for axis in axes}
    if 0 in gone:
        raise Unsupported("leaves out the axis of the images")
    rest = [axis for axis in range(len(shape)) if axis not in gone]
    reader.give(node, _relaid(reader, node, value, tuple(value.shape[axis] for axis in rest),
                              tuple(rest.index(axis) for axis in value.axes if axis not in gone)))


def _unsqueeze(reader, node):
    shape = list(reader.seen(node.inputs[0]))
    axes = reader.parameters(node, "axes", 1, None) or ()
    for axis in sorted(axis % (len(shape) + len(axes)) for axis in axes):
        shape.insert(axis, 1)
    _reshaped(reader, node, tuple(shape))


def _reshaped(reader, node, target):
    """Another shape with the images as they were, the first axis of what the layers give."""
    value = reader.input(node, plain=False)
    if not _heads(value, target):
        value = reader.plain(value)
    heads = _heads(value, target)
    if not heads:
        raise Unsupported(f"to {target} from {value.seen}, which mixes images")
    head = value.axes[:heads[0]]
    shape = (*(target[head.index(axis)] for axis in range(len(head))), *target[len(head):])
    reader.give(node, _relaid(reader, node, value, shape, (*head, *range(len(head), len(shape)))))


def _heads(value, target):
    """Numbers of first axes that stay as they are, while those behind them lie in the file's order."""
    rank, shape = len(value.axes), value.seen
    return [count for count in range(1, min(rank, len(target)) + 1)
            if target[:count] == shape[:count] and sorted(value.axes[:count]) == list(range(count))
            and value.axes[count:] == tuple(range(count, rank))]


def _relaid(reader, node, value, shape, axes):
    """The same elements as an array of `shape`, seen with these axes."""
    if len(shape) < 2:
        raise Unsupported(f"to the shape {shape}")
    if shape != value.shape:
        if len(value.shape) > 2:
            value = reader.add(f"{node.name}_rows" if len(shape) > 2 else node.name, Flatten(), value)
        if len(shape) > 2:
            value = reader.add(node.name, Unflatten(shape[1:]), value)
    return replace(value, axes=axes)


def _select(reader, node):
    """Gather of one step of sequences."""
    value = reader.input(node, plain=False)
    index, axis = reader.constant(node.inputs[1]), node.get("axis", 0)
    if index is None or index.ndim or value.axes[axis % len(value.axes)] != 1 or len(value.axes) < 3:
        raise Unsupported("of anything but one step of sequences")
    y = reader.add(node.name, Select(index.item()), value)
    rest = [one for one in value.axes if one != 1]
    reader.give(node, replace(y, axes=tuple(sorted(rest).index(one) for one in rest)))


def _constant(reader, node):
    for name, dtype in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32),
                        ("value_floats", np.float32)):
        if node.get(name) is not None:
            reader.constants[node.outputs[0]] = np.array(node.get(name), dtype)
            return
    if node.get("value") is None:
        raise Unsupported("its value is no dense tensor")
    reader.constants[node.outputs[0]] = tensors.array(node.get("value"), reader.folder)


def _shape(reader, node):
    shape = reader.seen(node.inputs[0])
    reader.constants[node.outputs[0]] = np.array(shape[node.get("start", 0):node.get("end", len(shape))],
                                                 np.int64)


def _elementwise(layer):
    """The converter to a layer without options that treats every element alike."""
    return lambda reader, node: reader.same_axes(node, layer())


CONVERTERS = {
    "Add": _add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "Div": _arithmetic,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gather": _select,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "Identity": _identity,
    "LRN": _lrn,
    "LSTM": recurrent.convert,
    "LogSoftmax": _softmax,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _arithmetic,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _elementwise(ReLU),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _elementwise(Sigmoid),
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _arithmetic,
    "Sum": _add,
    "Tanh": _elementwise(Tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
SEVERAL_OUTPUTS = {"Dropout", "LSTM"}  # whose converters say which they can give
