"""Reads ONNX files: nodes become layers of a Graph, all that is constant becomes their parameters.

A graph is followed for one shape of its input, that of the file, where sizes that the file leaves open are
replaced: the first, of images, by PROBE. So shapes that are computed in the graph are constants here, and a
reshape that leaves the images apart is known to be a flatten.
"""

import math
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from .. import init
from ..extras import require
from ..layers import BatchNorm2d, ConstantPad2d, Flatten, Graph, Parameter, Permute, Unflatten
from . import constants, operators, tensors
from .values import Unsupported, Value

PROBE = 1009  # images: a prime, so that it is no product of other sizes
OPEN_SIZE = 224  # of other axes whose size the file leaves open
MOST_COMPUTED = 1 << 26  # elements of all that is computed from constants


def load(path):
    """The network of an ONNX file as a layer in evaluation mode, which takes and gives float32 arrays.

    Its axes are those of the file; the number of images is free. Other sizes than those of the file are too,
    where the layers allow them, but padding that the file leaves to the size is that for the file's.
    state_dict has the names of the file's weights where these end in .weight and .bias, else those of its
    nodes. compile(shape) gives a plan, as for every layer.

    Needs the package onnx. Raises ValueError where the file is damaged, has not one input and one output, or
    asks for what there is no layer for: one error then lists all such nodes with operator, domain and name.
    """
    path = os.fspath(path)
    model = _parse(path)
    try:
        return _Reader(model, Path(path).parent).graph()
    except (ValueError, Unsupported) as error:
        message = re.sub(rf"\b{PROBE}\b", "N", str(error))
        raise ValueError(f"{path}: {message}") from None


def _parse(path):
    onnx = require("onnx", "onnx")
    with open(path, "rb") as file:
        contents = file.read()
    try:
        model = onnx.ModelProto.FromString(contents)
    except Exception as error:  # protobuf's DecodeError has no public place
        raise ValueError(f"{path}: not an ONNX file: {error}") from None
    if not model.graph.node:
        raise ValueError(f"{path}: not an ONNX file: it holds no nodes")
    if model.functions:
        model = require("onnx.inliner", "onnx").inline_local_functions(model)
    return model


# What nodes that are not as they must be lead to; which of them is no matter to who reads the message.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class _Node:
    """A NodeProto, its attributes as Python's values."""

    def __init__(self, proto, number):
        self.op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        self.name = proto.name or f"{self.op}_{number}"
        self._attributes = {attribute.name: attribute for attribute in proto.attribute}

    def get(self, name, default=None):
        """The attribute, of the type of `default`: an int, a float, a string or a tuple of ints."""
        if name not in self._attributes:
            return default
        attribute = self._attributes[name]
        kinds = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
        value = getattr(attribute, kinds.get(attribute.type, "i"))
        if attribute.type == 3:
            return value.decode(errors="replace")
        return tuple(value) if attribute.type in (6, 7, 8) else value

    def ints(self, name, default, count):
        """An attribute of `count` ints."""
        values = self.get(name, default)
        if not isinstance(values, tuple) or len(values) != count or not all(type(v) is int for v in values):
            raise ValueError(f"{name} must be {count} ints, got {values!r}")
        return values

    def __str__(self):
        return f"{self.op} ({self.name})"


class _Reader:
    def __init__(self, model, folder):
        self.folder = folder
        self.proto = model.graph
        self.computed = 0
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
                         default=1)
        self.initializers = {tensor.name: tensor for tensor in self.proto.initializer}
        self.constants, self.values, self.layers = {}, {}, {}
        self.open = []  # whether the file leaves the size of an axis of the input open
        self.given = {}  # layer -> the name in the file of what it gives
        self.used = set()  # names of weights
        self.nodes = [_Node(proto, number) for number, proto in enumerate(self.proto.node)]
        self.reads = Counter(name for node in self.nodes for name in node.inputs)
        self.reads.update(output.name for output in self.proto.output)

    def graph(self):
        self._begin()
        unsupported, lost = [], set()
        with init.skipped(), np.errstate(all="ignore"):
            for node in self.nodes:
                if node.op not in operators.CONVERTERS and node.op not in constants.FUNCTIONS:
                    unsupported.append(str(node))
                    lost.update(node.outputs)
                elif lost.isdisjoint(node.inputs):
                    try:
                        self._convert(node)
                    except Unsupported as error:
                        unsupported.append(f"{node}: {error}")
                        lost.update(node.outputs)
                    except _DAMAGE as error:
                        raise ValueError(f"{node}: {error}") from None
                else:
                    lost.update(node.outputs)
            if unsupported:
                raise ValueError("unsupported: " + "; ".join(unsupported))
            return self._end()

    def _begin(self):
        if self.opset < 7:
            raise Unsupported(f"operator set {self.opset} is older than 7")
        inputs = [value for value in self.proto.input if value.name not in self.initializers]
        if len(inputs) != 1 or len(self.proto.output) != 1:
            raise Unsupported(f"it has {len(inputs)} inputs and {len(self.proto.output)} outputs, not one of "
                              "each")
        (given,) = inputs
        kind = given.type.tensor_type
        if kind.elem_type != 1 or not kind.HasField("shape") or not kind.shape.dim:
            raise Unsupported(f"its input {given.name!r} is no float tensor with a number of axes")
        shape = []
        for axis, dim in enumerate(kind.shape.dim):
            size = dim.dim_value if dim.HasField("dim_value") else 0
            shape.append(size if size > 0 else OPEN_SIZE if axis else PROBE)
            self.open.append(size <= 0)
            if size >= 1 << 31:
                raise ValueError(f"its input {given.name!r} has an axis of {size}")
        self.values[given.name] = Value("x", tuple(shape), tuple(range(len(shape))))

    def _end(self):
        name = self.proto.output[0].name
        value = self.plain(self.named(name))
        if value.node == "x":
            raise Unsupported("its output is its input or a constant")
        # What nothing reads, as an output of a node that is left out, and what leads there alone.
        needed = {value.node}
        for node in reversed(list(self.layers)):
            if node in needed:
                needed.update(self.layers[node][1:])
        layers = {node: self.layers[node] for node in self.layers if node in needed}
        layers[value.node] = layers.pop(value.node)
        return Graph(layers).eval()

    # ---- constants ----------------------------------------------------------------------------------

    def constant(self, name):
        """The array that a name stands for, or None where it is computed from the input or not given."""
        if name in self.initializers and name not in self.constants:
            self.constants[name] = tensors.array(self.initializers[name], self.folder)
        return self.constants.get(name)

    def weights(self, node, place, what):
        """The float32 constant that is input `place` of a node; None where it has no such input."""
        if place >= len(node.inputs) or not node.inputs[place]:
            return None
        array = self.constant(node.inputs[place])
        if array is None:
            raise Unsupported(f"{what} is computed, not a constant")
        if array.dtype != np.float32:
            raise Unsupported(f"{what} is {array.dtype}, not float32")
        if node.inputs[place] in self.used:  # every layer has parameters of its own
            self.spend(array.size)
        self.used.add(node.inputs[place])
        return array

    def parameters(self, node, name, place, count):
        """`count` ints from an attribute or, as later operator sets have it, from a constant input."""
        given = node.get(name)
        if given is None and place < len(node.inputs) and node.inputs[place]:
            array = self.constant(node.inputs[place])
            if array is None:
                raise Unsupported(f"{name} is computed, not a constant")
            given = array.ravel().tolist()
        if given is None:
            return None
        if not all(type(value) is int for value in given) or (count is not None and len(given) != count):
            raise ValueError(f"{name} must be ints, got {given!r}")
        return tuple(given)

    def _convert(self, node):
        given = [self.constant(name) for name in node.inputs if name]
        if node.op in constants.FUNCTIONS and all(array is not None for array in given):
            array = constants.FUNCTIONS[node.op](self, node, *given)
            self.constants[node.outputs[0]] = np.asarray(array)
        elif node.op not in operators.CONVERTERS:
            raise Unsupported("of what is no constant")
        elif node.op not in operators.SEVERAL_OUTPUTS and any(self.reads[name] for name in node.outputs[1:]):
            raise Unsupported(f"its output {node.outputs[1]!r} is used")
        else:
            operators.CONVERTERS[node.op](self, node)

    def spend(self, *shape):
        """Allows a constant of this shape to be computed."""
        self.computed += math.prod(shape)
        if self.computed > MOST_COMPUTED:
            raise Unsupported(f"more than {MOST_COMPUTED} constants are computed in the graph")

    # ---- values -------------------------------------------------------------------------------------

    def named(self, name):
        if name not in self.values:
            if self.constant(name) is not None:
                raise Unsupported(f"{name!r} is a constant, not computed from the input")
            raise ValueError(f"{name!r} is read, but nothing before gives it")
        return self.values[name]

    def seen(self, name):
        array = self.constant(name)
        return self.named(name).seen if array is None else array.shape

    def add(self, name, layer, *values):
        """The Value that a new layer gives of plain ones; its name is changed where it is taken."""
        base = name.strip("/.") or type(layer).__name__
        number, name = 1, base
        while name in self.layers or name == "x" or hasattr(Graph, name):
            number += 1
            name = f"{base}_{number}"
        inputs = [value.node for value in values]
        shape = layer.output_shape(*(value.shape for value in values))
        self.layers[name] = (layer, *inputs)
        return Value(name, tuple(shape), tuple(range(len(shape))))

    def plain(self, value):
        """The value as a layer gives it: what waits for a layer gets one of its own."""
        return self._ordered(self.settled(value))

    def _ordered(self, value):
        """The value with its axes as the file has them."""
        if value.ordered:
            return value
        moved = self.add(f"{value.node}_permute", Permute(value.axes), value)
        return replace(value, node=moved.node, shape=moved.shape, axes=moved.axes)

    def settled(self, value):
        """The value with nothing but its axes in another order."""
        if value.scale is not None:
            if not value.scale.ndim:  # the channels are where the file has them
                value = self._ordered(value)
            return replace(self._affine(value), axes=value.axes)
        if value.pads is None:
            return value
        if len(value.pads) != 4 or any(sum(pair) for pair in value.pads[:2]):
            raise Unsupported("pads other axes than height and width")
        plain = self.plain(replace(value, pads=None))
        return self.add(f"{plain.node}_pad", ConstantPad2d(value.pads[2:]), plain)

    def _affine(self, value):
        """A batch normalisation with constants for its averages is the product and sum per channel."""
        if len(value.shape) not in (2, 4):
            raise Unsupported(f"multiplies or adds constants to an array of shape {value.shape}")
        channels = value.shape[1]
        self.spend(channels)
        layer = BatchNorm2d(channels, eps=0.0)
        layer.weight = Parameter(np.array(np.broadcast_to(value.scale, channels), np.float32))
        layer.bias = Parameter(np.array(np.broadcast_to(value.shift, channels), np.float32))
        name = f"{value.node}_scale"
        if len(value.shape) == 4:
            return self.add(name, layer, value)
        image = self.add(f"{name}_image", Unflatten((value.shape[1], 1, 1)), value)
        return self.add(f"{name}_rows", Flatten(), self.add(name, layer, image))

    def input(self, node, place=0, *, plain=True):
        """The Value that is an input of a node; not plain: its axes may still be in another order."""
        name = node.inputs[place]
        value = self.named(name)
        self.values[name] = self.plain(value) if plain else self.settled(value)
        return self.values[name]

    def image(self, node):
        value = self.input(node)
        if len(value.shape) != 4:
            raise Unsupported(f"of {len(value.shape) - 2}-D images")
        return value

    def give(self, node, value, place=0):
        """Says that output `place` of a node is the value."""
        self.values[node.outputs[place]] = value
        self.given.setdefault(value.node, node.outputs[place])

    def alone(self, name):
        """The layer that gives what one node alone reads, under this name; None where there is no such."""
        node = self.values[name].node
        found = self.layers.get(node) if self.given.get(node) == name and self.reads[name] == 1 else None
        return found and found[0]

    def same_axes(self, node, layer):
        """A layer that treats every element alike, whatever the order of the axes."""
        value = self.input(node, plain=False)
        self.give(node, replace(self.add(node.name, layer, value), axes=value.axes))

    def layer_name(self, node):
        """The name of a layer with weights: that of its weight without its end, or of the node."""
        weight = node.inputs[1]
        return weight.removesuffix(".weight") if weight.endswith(".weight") else node.name
