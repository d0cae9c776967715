"""Writes networks as ONNX files: one node, seldom some, for each layer, under the names of the state dict."""

import math
from operator import index
from typing import NamedTuple

import numpy as np

from .. import files, layers
from .. import functional as F
from ..extras import require
from ..layers.base import join
from ..models import LSTMClassifier
from ..models.blocks import Fork
from ..models.resnet import Subsample
from . import recurrent

OPSET, IR_VERSION = 17, 8  # of 2022: what reads files of today reads them
MOST_BYTES = 2**31 - 2**20  # of weights: a protobuf file ends before 2 GiB


class Wire(NamedTuple):
    """What a name of the file stands for; shape[0] does not matter."""

    name: str
    shape: tuple


def save(model, path, input_shape):
    """Writes what `model` computes in evaluation as an ONNX file, for x of `input_shape`.

    input_shape: as (16, 3, 224, 224), or (None, 3, 224, 224) for any number of images. The input is called
    "x", the output "y", weights as in model.state_dict(). Batch normalisations stay nodes of their own, which
    run-times fold themselves; save model.fuse() to have them folded in the file.

    Needs the package onnx. Replaces the file in one step. Raises ValueError or TypeError where input_shape
    does not fit the model, and ValueError for a layer that ONNX has no operators for.
    """
    require("onnx", "onnx")
    try:
        batch, *rest = input_shape
        shape = (1 if batch is None else index(batch), *map(index, rest))
    except TypeError:
        raise TypeError(f"input_shape must be a shape, got {input_shape!r}") from None
    if min(shape) < 1:
        raise ValueError(f"input_shape must be positive ints, got {input_shape!r}")
    contents = _Writer().model(model, shape, "N" if batch is None else batch)
    with files.atomic_write(path) as file:
        file.write(contents)


class _Writer:
    def __init__(self):
        self.helper = require("onnx.helper", "onnx")
        self.from_array = require("onnx.numpy_helper", "onnx").from_array
        self.nodes, self.initializers, self.taken, self.bytes = [], [], {"x", "y"}, 0

    def model(self, model, shape, batch):
        """The contents of the file."""
        helper = self.helper
        y = self.layer(model, "", Wire("x", shape))
        if y.name == "x":
            y = self.node("Identity", "identity", [y], y.shape)
        (last,) = (node for node in self.nodes if y.name in node.output)
        last.output[0] = "y"
        wires = [helper.make_tensor_value_info(name, 1, [batch, *wire[1:]])
                 for name, wire in (("x", shape), ("y", y.shape))]
        graph = helper.make_graph(self.nodes, "fastconv", wires[:1], wires[1:], self.initializers)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
                                 producer_name="fastconv")
        return made.SerializeToString()

    def layer(self, layer, name, x):
        """The Wire of layer(x)."""
        write = _WRITERS.get(type(layer))
        if write is None:
            raise ValueError(f"there are no ONNX operators for layer {name!r}, {type(layer).__name__}")
        return write(self, layer, name, x)

    def children(self, layer, name):
        """(layer, name) of the layers below a container."""
        for below, child in layer.named_children():
            yield child, name if child.flat else join(name, below)

    def unique(self, name):
        base, number = name, 1
        while name in self.taken:
            number += 1
            name = f"{base}_{number}"
        self.taken.add(name)
        return name

    def node(self, op, name, inputs, shape, **attributes):
        """A node with one output, of `shape`; inputs are Wires or names of constants."""
        name = self.unique(name or op.lower())
        names = [one.name if isinstance(one, Wire) else one for one in inputs]
        self.nodes.append(self.helper.make_node(op, names, [name], name=name, **attributes))
        return Wire(name, tuple(shape))

    def constant(self, name, array):
        """The name of a new initializer."""
        self.bytes += array.nbytes
        if self.bytes > MOST_BYTES:
            raise ValueError(f"the weights take more than the {MOST_BYTES} bytes that an ONNX file can hold")
        name = self.unique(name)
        self.initializers.append(self.from_array(np.asarray(array, order="C"), name))
        return name

    def weights(self, name, **arrays):
        """The names of the initializers name.weight, name.bias, ...; "" for None."""
        return ["" if array is None else self.constant(join(name, key), array)
                for key, array in arrays.items()]


def _data(parameter):
    return None if parameter is None else parameter.data


# ---- layers -----------------------------------------------------------------------------------------------


def _conv(writer, name, x, layer, weight, bias, options=(1, 0, 1, 1)):
    stride, pads, dilation, groups = F._geometry(weight.shape, *options, "auto")
    inputs = [one for one in writer.weights(name, weight=weight, bias=bias) if one]
    return writer.node("Conv", name, [x, *inputs], layer.output_shape(x.shape), kernel_shape=weight.shape[2:],
                       strides=stride, pads=_pads(pads), dilations=dilation, group=groups)


def _pads(pads):
    """All that lie before, then all behind."""
    return [pair[0] for pair in pads] + [pair[1] for pair in pads]


def _conv2d(writer, layer, name, x):
    return _conv(writer, name, x, layer, layer.weight.data, _data(layer.bias), layer._options())


def _mapped_conv2d(writer, layer, name, x):
    return _conv(writer, name, x, layer, layer._dense(), layer.bias.data)


def _subsample(writer, layer, name, x):
    """A convolution of 1x1 filters that pass a channel on, or nothing."""
    weight = np.eye(layer.out_channels, layer.in_channels, dtype=np.float32)[:, :, None, None]
    return _conv(writer, name, x, layer, weight, None, (layer.stride, 0, 1, 1))


def _linear(writer, layer, name, x):
    inputs = [one for one in writer.weights(name, weight=layer.weight.data, bias=_data(layer.bias)) if one]
    return writer.node("Gemm", name, [x, *inputs], layer.output_shape(x.shape), transB=1)


def _rbf(writer, layer, name, x):
    """x - c for all templates c by a matrix of ones and zeros, then the weighted sum of its squares."""
    count, features = layer.centres.shape
    copies = writer.constant(f"{name}_copies", np.tile(np.eye(features, dtype=np.float32), count))
    centres = writer.constant(f"{name}_centres", -layer.centres.reshape(-1))
    factors = np.repeat(np.eye(count, dtype=np.float32), features, axis=0) * (-layer._precision / 2)
    shape = (x.shape[0], count * features)
    x = writer.node("Gemm", join(name, "difference"), [x, copies, centres], shape)
    x = writer.node("Mul", join(name, "square"), [x, x], shape)
    return writer.node("Gemm", name, [x, writer.constant(f"{name}_factors", factors)], (x.shape[0], count))


def _ints(writer, name, key, *values):
    return writer.constant(join(name, key), np.array(values, np.int64))


def _batch_norm(writer, layer, name, x):
    if layer.running_mean is None:
        raise ValueError(f"BatchNorm2d {name!r} has no running averages")
    weight, bias = layer._affine()
    inputs = writer.weights(name, weight=np.ones_like(layer.running_mean) if weight is None else weight,
                            bias=np.zeros_like(layer.running_mean) if bias is None else bias,
                            running_mean=layer.running_mean, running_var=layer.running_var)
    return writer.node("BatchNormalization", name, [x, *inputs], x.shape, epsilon=layer.eps)


def _local_response_norm(writer, layer, name, x):
    if layer.size % 2 == 0:
        raise ValueError(f"LocalResponseNorm {name!r} has an even size, {layer.size}, whose window lies "
                         "elsewhere in ONNX")
    return writer.node("LRN", name, [x], x.shape, size=layer.size, alpha=layer.alpha, beta=layer.beta,
                       bias=layer.k)


def _elementwise(op):
    return lambda writer, layer, name, x: writer.node(op, name, [x], x.shape)


def _along_axis(op):
    return lambda writer, layer, name, x: writer.node(op, name, [x], x.shape, axis=layer.axis)


def _hardtanh(writer, layer, name, x):
    bounds = [writer.constant(join(name, key), np.array(value)) for key, value in
              (("min", layer.min_val), ("max", layer.max_val))]
    return writer.node("Clip", name, [x, *bounds], x.shape)


def _scaled_tanh(writer, layer, name, x):
    slope = writer.constant(join(name, "slope"), np.array(layer.SLOPE))
    amplitude = writer.constant(join(name, "amplitude"), np.array(layer.AMPLITUDE))
    x = writer.node("Mul", join(name, "scaled"), [x, slope], x.shape)
    x = writer.node("Tanh", join(name, "tanh"), [x], x.shape)
    return writer.node("Mul", name, [x, amplitude], x.shape)


def _max_pool2d(writer, layer, name, x):
    return writer.node("MaxPool", name, [x], layer.output_shape(x.shape), kernel_shape=layer.kernel_size,
                       strides=layer.stride, pads=[*layer.padding, *layer.padding], dilations=layer.dilation,
                       ceil_mode=int(layer.ceil_mode))


def _avg_pool2d(writer, layer, name, x):
    return writer.node("AveragePool", name, [x], layer.output_shape(x.shape), kernel_shape=layer.kernel_size,
                       strides=layer.stride, pads=[*layer.padding, *layer.padding],
                       ceil_mode=int(layer.ceil_mode), count_include_pad=int(layer.count_include_pad))


def _subsample2d(writer, layer, name, x):
    mean = writer.layer(layer.pool, join(name, "pool"), x)
    weight, bias = writer.weights(name, weight=layer.weight.data[:, None, None],
                                  bias=layer.bias.data[:, None, None])
    product = writer.node("Mul", join(name, "product"), [mean, weight], mean.shape)
    return writer.node("Add", name, [product, bias], mean.shape)


def _adaptive_avg_pool2d(writer, layer, name, x):
    size, pooled = x.shape[2:], layer.output_size
    if pooled == (1, 1):
        return writer.node("GlobalAveragePool", name, [x], (*x.shape[:2], 1, 1))
    if any(pixels % windows for pixels, windows in zip(size, pooled, strict=True)):
        raise ValueError(f"AdaptiveAvgPool2d {name!r} makes {pooled} of {size} pixels, not a divisor")
    if size == pooled:
        return x
    kernel = [pixels // windows for pixels, windows in zip(size, pooled, strict=True)]
    return writer.node("AveragePool", name, [x], (*x.shape[:2], *pooled), kernel_shape=kernel, strides=kernel)


def _flatten(writer, layer, name, x):
    return writer.node("Flatten", name, [x], (x.shape[0], math.prod(x.shape[1:])), axis=1)


def _unflatten(writer, layer, name, x):
    shape = _ints(writer, name, "shape", 0, *layer.sizes)  # 0: as it was
    return writer.node("Reshape", name, [x, shape], layer.output_shape(x.shape))


def _permute(writer, layer, name, x):
    return writer.node("Transpose", name, [x], layer.output_shape(x.shape), perm=layer.axes)


def _constant_pad2d(writer, layer, name, x):
    pads = _ints(writer, name, "pads", *_pads(((0, 0), (0, 0), *layer.padding)))
    inputs = [x, pads]
    if layer.value:
        inputs.append(writer.constant(join(name, "value"), np.array(layer.value, np.float32)))
    return writer.node("Pad", name, inputs, layer.output_shape(x.shape))


def _select(writer, layer, name, x):
    return _step(writer, name, x, layer.index)


def _step(writer, name, x, index):
    """x[:, index]."""
    place = writer.constant(join(name, "index"), np.array(index))
    return writer.node("Gather", name, [x, place], (x.shape[0], *x.shape[2:]), axis=1)


# ---- LSTM -------------------------------------------------------------------------------------------------


def _lstm_layers(writer, layer, name, x):
    """(outputs (T, directions, N, H), last outputs (directions, N, H)) of all layers of an LSTM."""
    images, steps, features = x.shape
    directions = 1 + layer.bidirectional
    if layer.batch_first:
        x = writer.node("Transpose", join(name, "steps"), [x], (steps, images, features), perm=(1, 0, 2))
    for number in range(layer.num_layers):
        suffixes = layer._suffixes(number)
        arrays = [np.stack(arrays) for arrays in zip(*(_lstm_weights(layer, suffix) for suffix in suffixes),
                                                     strict=True)]
        inputs = [writer.constant(join(name, f"{key}_l{number}"), array)
                  for key, array in zip("WRB", arrays, strict=True)]
        outputs = writer.node("LSTM", join(name, f"l{number}"), [x, *inputs],
                              (steps, directions, images, layer.hidden_size), hidden_size=layer.hidden_size,
                              direction="bidirectional" if directions == 2 else "forward")
        last = Wire(writer.unique(f"{outputs.name}_last"), (directions, images, layer.hidden_size))
        writer.nodes[-1].output.append(last.name)
        if number + 1 < layer.num_layers:
            x = _joined_directions(writer, join(name, f"l{number}"), outputs, (0, 2, 1, 3), (0, 0, -1))
    return outputs, last


def _lstm_weights(layer, suffix):
    """W, R and B of a direction."""
    weight_ih, weight_hh, *biases = (parameter.data for parameter in layer._parameters(suffix))
    return (recurrent.reordered(weight_ih, recurrent.FILE_GATES),
            recurrent.reordered(weight_hh, recurrent.FILE_GATES),
            np.concatenate([recurrent.reordered(bias, recurrent.FILE_GATES) for bias in biases]))


def _joined_directions(writer, name, x, perm, shape):
    """The features of both directions side by side."""
    moved = [x.shape[axis] for axis in perm]
    x = writer.node("Transpose", f"{name}_directions", [x], moved, perm=perm)
    target = writer.constant(f"{name}_joined_shape", np.array(shape, np.int64))
    return writer.node("Reshape", f"{name}_joined", [x, target], (*moved[:-2], math.prod(moved[-2:])))


def _lstm_classifier(writer, layer, name, x):
    lstm = join(name, "lstm")
    _, last = _lstm_layers(writer, layer.lstm, lstm, x)
    rows = _joined_directions(writer, lstm, last, (1, 0, 2), (0, -1))
    return writer.layer(layer.fc, join(name, "fc"), rows)


def _steps(writer, layer, name, x):
    outputs, _ = _lstm_layers(writer, layer, name, x)
    perm = (2, 0, 1, 3)
    return writer.node("Transpose", name, [outputs], [outputs.shape[axis] for axis in perm], perm=perm)


def _ends(writer, layer, name, x):
    directions, features = x.shape[2:]
    ends = [_step(writer, join(name, f"end{reverse}"),
                  _step(writer, join(name, f"step{reverse}"), x, 0 if reverse else -1), reverse)
            for reverse in range(directions)]
    shape = _ints(writer, name, "shape", 0, directions, features)
    return writer.node("Reshape", name, [_concatenated(writer, join(name, "concat"), ends), shape],
                       (x.shape[0], directions, features))


# ---- containers -------------------------------------------------------------------------------------------


def _sequential(writer, layer, name, x):
    for child, below in writer.children(layer, name):
        x = writer.layer(child, below, x)
    return x


def _residual(writer, layer, name, x):
    parts = [writer.layer(child, below, x) for child, below in writer.children(layer, name)]
    body, skip = parts if len(parts) > 1 else (*parts, x)
    return writer.node("Add", join(name, "add"), [body, skip], body.shape)


def _concat(writer, layer, name, x):
    parts = [writer.layer(child, below, x) for child, below in writer.children(layer, name)]
    return _concatenated(writer, join(name, "concat"), parts)


def _concatenated(writer, name, parts):
    shape = list(parts[0].shape)
    shape[1] = sum(part.shape[1] for part in parts)
    return writer.node("Concat", name, parts, shape, axis=1)


def _fork(writer, layer, name, x):
    child, below = next(writer.children(layer, name))
    return writer.layer(child, below, x)


def _graph(writer, layer, name, x):
    wires = {"x": x}
    for node, (child, *inputs) in layer.nodes.items():
        given, below = [wires[one] for one in inputs], name if child.flat else join(name, node)
        if type(child) is layers.Add:
            wires[node] = writer.node("Add" if len(given) == 2 else "Sum", below, given, given[0].shape)
        elif type(child) is layers.Join:
            wires[node] = _concatenated(writer, below, given)
        else:
            wires[node] = writer.layer(child, below, given[0])
    return wires[node]


_WRITERS = {
    Fork: _fork,
    LSTMClassifier: _lstm_classifier,
    Subsample: _subsample,
    layers.AdaptiveAvgPool2d: _adaptive_avg_pool2d,
    layers.AvgPool2d: _avg_pool2d,
    layers.BatchNorm2d: _batch_norm,
    layers.Concat: _concat,
    layers.ConstantPad2d: _constant_pad2d,
    layers.Conv2d: _conv2d,
    layers.Dropout: lambda writer, layer, name, x: x,
    layers.Flatten: _flatten,
    layers.Graph: _graph,
    layers.Hardtanh: _hardtanh,
    layers.Linear: _linear,
    layers.LocalResponseNorm: _local_response_norm,
    layers.LogSoftmax: _along_axis("LogSoftmax"),
    layers.MappedConv2d: _mapped_conv2d,
    layers.MaxPool2d: _max_pool2d,
    layers.Permute: _permute,
    layers.RBF: _rbf,
    layers.ReLU: _elementwise("Relu"),
    layers.Residual: _residual,
    layers.ScaledTanh: _scaled_tanh,
    layers.Select: _select,
    layers.Sequential: _sequential,
    layers.Sigmoid: _elementwise("Sigmoid"),
    layers.Square: lambda writer, layer, name, x: writer.node("Mul", name, [x, x], x.shape),
    layers.Softmax: _along_axis("Softmax"),
    layers.Subsample2d: _subsample2d,
    layers.Tanh: _elementwise("Tanh"),
    layers.Unflatten: _unflatten,
    recurrent.Ends: _ends,
    recurrent.Steps: _steps,
}
