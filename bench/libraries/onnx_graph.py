"""A file of fastconv.onnx.save as a function of NHWC images, in another library's operations."""

import onnx
from onnx import numpy_helper


def load(path, operations):
    """function(x): (N, H, W, C) -> scores.

    operations: conv, max_pool, relu, concat, mean, matmul, reshape, transpose and constant of a library, on
    channels-last arrays; batch normalisation must be folded. Raises NotImplementedError for an operation
    that the networks of the benchmark lack.
    """
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [(node, _attributes(node)) for node in graph.node]
    weights = {name: operations.constant(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)
               for name, array in constants.items()}

    def function(x):
        values = {**weights, "x": x}
        for node, attributes in nodes:
            given = [values[name] for name in node.input]
            values[node.output[0]] = _apply(operations, node.op_type, given, attributes)
        return values["y"]

    return function


def _attributes(node):
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _apply(operations, name, given, attributes):
    x, *others = given
    if name == "Conv":
        y = operations.conv(x, others[0], attributes["strides"], attributes["pads"])
        return y + others[1] if len(others) > 1 else y
    if name == "MaxPool":
        return _max_pool(operations, x, attributes)
    if name == "Relu":
        return operations.relu(x)
    if name == "Add":
        return x + others[0]
    if name == "Concat":
        return operations.concat(given)
    if name == "GlobalAveragePool":
        return operations.mean(x)
    if name == "Flatten":
        if len(x.shape) == 4:
            x = operations.transpose(x, (0, 3, 1, 2))  # the weights that follow are in this order
        return operations.reshape(x, (x.shape[0], -1))
    if name == "Gemm":
        return operations.matmul(x, operations.transpose(others[0], (1, 0))) + others[1]
    raise NotImplementedError(f"no {name} on channels-last arrays")


def _max_pool(operations, x, attributes):
    """With ceil_mode a last window may reach beyond the image: the padding grows by what it lacks."""
    size, strides = attributes["kernel_shape"], attributes["strides"]
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    if attributes.get("ceil_mode"):
        bottom += -(x.shape[1] + top + bottom - size[0]) % strides[0]
        right += -(x.shape[2] + left + right - size[1]) % strides[1]
    return operations.max_pool(x, size, strides, (top, left, bottom, right))
