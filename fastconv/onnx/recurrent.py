"""The operator LSTM, and the layer that it becomes."""

from dataclasses import replace

import numpy as np

from ..layers import LSTM, Layer
from .values import Unsupported

GATES = (0, 2, 3, 1)  # where in a file, i, o, f, g, the gates i, f, g, o of our layers are
FILE_GATES = (0, 3, 1, 2)  # and where in our layers those of a file


def reordered(array, gates):
    """The rows of the gates (4H, ...) in another order."""
    return array.reshape(4, -1, *array.shape[1:])[list(gates)].reshape(array.shape)


class Steps(LSTM):
    """An LSTM of one layer without its states: x (N, T, D) -> (N, T, directions, hidden_size)."""

    def forward(self, x, state=None):
        output, _ = super().forward(x, state)
        return output.reshape(self.output_shape(x.shape))

    def backward(self, grad_output, grad_state=None):
        return super().backward(grad_output.reshape(*grad_output.shape[:2], -1), grad_state)[0]

    def output_shape(self, input_shape):
        images, steps, _ = super().output_shape(input_shape)
        return (images, steps, 1 + self.bidirectional, self.hidden_size)


class Ends(Layer):
    """The last output of each direction: x (N, T, directions, D) -> (N, directions, D)."""

    def _ends(self, steps):
        """Of each direction, where it stops: the second goes from the last step to the first."""
        return [steps[:, 0 if reverse else -1, reverse] for reverse in range(steps.shape[2])]

    def forward(self, x):
        return self._save(np.stack(self._ends(x), axis=1), x.shape)

    def backward(self, grad_output):
        (shape,) = self._restore(grad_output)
        grad_input = np.zeros(shape, np.float32)
        for end, grad in zip(self._ends(grad_input), grad_output.swapaxes(0, 1), strict=True):
            end[...] = grad
        return grad_input


def convert(reader, node):
    weight, recurrent, bias = (reader.weights(node, place, what)
                               for place, what in ((1, "W"), (2, "R"), (3, "B")))
    direction, layout = node.get("direction", "forward"), node.get("layout", 0)
    if direction not in ("forward", "bidirectional") or layout not in (0, 1):
        raise Unsupported(f"direction {direction}")
    if node.get("activations", ()) not in ((), (b"Sigmoid", b"Tanh", b"Tanh") * len(weight)):
        raise Unsupported("other activations")
    if node.get("clip") is not None or node.get("input_forget", 0) or any(node.inputs[7:]):
        raise Unsupported("clip, input_forget or peepholes")
    if any(node.inputs[4:5]) and not _is_whole(reader, node):
        raise Unsupported("sequences of several lengths")
    for place, what in ((5, "initial_h"), (6, "initial_c")):
        state = reader.weights(node, place, what)
        if state is not None and state.any():
            raise Unsupported(f"{what} that is not zero")
    used = [bool(name and reader.reads[name]) for name in (*node.outputs, "", "")[:3]]
    if used[2]:
        raise Unsupported("its last cells are used")
    value = reader.input(node, plain=False)
    if len(value.axes) != 3 or weight.ndim != 3 or weight.shape[2] != value.seen[2] or weight.shape[1] % 4:
        raise ValueError(f"W of shape {weight.shape} does not fit x of shape {value.seen}")
    directions, hidden = weight.shape[0], weight.shape[1] // 4
    if (directions != 1 + (direction == "bidirectional")
            or recurrent.shape != (directions, 4 * hidden, hidden)
            or (bias is not None and bias.shape != (directions, 8 * hidden))):
        raise ValueError(f"R or B does not fit W of shape {weight.shape}")
    order = value.axes if layout else (value.axes[1], value.axes[0], value.axes[2])
    value = reader.plain(replace(value, axes=order))
    layer = Steps(value.shape[2], hidden, 1, directions == 2)
    for number, suffix in enumerate(("_l0", "_l0_reverse")[:directions]):
        both = np.zeros((2, 4 * hidden), np.float32) if bias is None else bias[number].reshape(2, 4 * hidden)
        for name, array in (("weight_ih", weight[number]), ("weight_hh", recurrent[number]),
                            ("bias_ih", both[0]), ("bias_hh", both[1])):
            np.copyto(getattr(layer, name + suffix).data, reordered(array, GATES))
    y = reader.add(node.name, layer, value)
    # With layout 1 the file has the layer's axes, else (T, directions, N, H) and (directions, N, H).
    if used[0]:
        reader.give(node, replace(y, axes=(0, 1, 2, 3) if layout else (1, 2, 0, 3)))
    if used[1]:
        ends = reader.add(f"{node.name}_ends", Ends(), y)
        reader.give(node, replace(ends, axes=(0, 1, 2) if layout else (1, 0, 2)), 1)


def _is_whole(reader, node):
    """Whether all sequences have the length of x."""
    lengths, shape = reader.constant(node.inputs[4]), reader.seen(node.inputs[0])
    return lengths is not None and (lengths == shape[1 if node.get("layout", 0) else 0]).all()
