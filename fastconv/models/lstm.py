"""A classifier of sequences: Hochreiter & Schmidhuber, Long short-term memory, Neural Comput. 9 (1997)."""

import numpy as np

from ..layers import LSTM, Linear
from ..layers.containers import Container


class LSTMClassifier(Container):
    """The last hidden state of an LSTM, then Linear: x (N, T, input_size) -> scores (N, classes).

    The rows of an image, for one, are a sequence. bidirectional: the last states of both directions, joined.
    The children are `lstm` and `fc`; rng: a numpy Generator for the weights.
    """

    def __init__(self, input_size, hidden_size, classes, num_layers=1, bidirectional=False, *, rng=None):
        lstm = LSTM(input_size, hidden_size, num_layers, bidirectional, rng=rng)
        super().__init__({"lstm": lstm, "fc": Linear(lstm.output_size, classes, rng=rng)})

    def _input_layers(self):
        return (self.lstm,)

    def _ends(self, steps):
        """What the two directions give last: the first features of the last step, the others of the first."""
        return steps[:, -1, :self.lstm.hidden_size], steps[:, 0, self.lstm.hidden_size:]

    def forward(self, x):
        output, _ = self.lstm.forward(x)
        return self._save(self.fc.forward(np.concatenate(self._ends(output), axis=1)), output.shape)

    def backward(self, grad_output):
        (shape,) = self._restore(grad_output)
        grad_last = self.fc.backward(grad_output)
        grad_steps = np.zeros(shape, np.float32)
        forward, reverse = self._ends(grad_steps)
        forward[...] = grad_last[:, :self.lstm.hidden_size]
        reverse[...] = grad_last[:, self.lstm.hidden_size:]
        grad_x, _ = self.lstm.backward(grad_steps)
        return grad_x

    def trace(self, input_shape):
        yield "lstm", self.lstm, tuple(input_shape)
        yield "fc", self.fc, (input_shape[0], self.lstm.output_size)
