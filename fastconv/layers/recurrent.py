"""Recurrent layers over whole sequences: RNN and LSTM. Names of parameters and order of gates are torch's."""

import math

import numpy as np

from .. import _core, init
from .. import functional as F
from .base import Layer, Parameter
from .linear import _count


class _Recurrent(Layer):
    """Layers of cells one above the other, each in one direction or in both, whose outputs are joined.

    A subclass says how many gates a cell has and what its states are called.
    """

    def __init__(self, input_size, hidden_size, num_layers=1, bidirectional=False, batch_first=True,
                 dropout=0.0, *, rng=None):
        self.input_size = _count("input_size", input_size)
        self.hidden_size = _count("hidden_size", hidden_size)
        self.num_layers = _count("num_layers", num_layers)
        self.bidirectional, self.batch_first = bool(bidirectional), bool(batch_first)
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be from 0 to 1, got {dropout!r}")
        self.dropout = dropout
        self.rng = rng or np.random.default_rng()
        bound, rows = 1 / math.sqrt(self.hidden_size), self._gates * self.hidden_size
        for layer in range(self.num_layers):
            features = self.input_size if layer == 0 else self.output_size
            for suffix in self._suffixes(layer):
                for name, stored in (("weight_ih", (features, rows)), ("weight_hh", (self.hidden_size, rows)),
                                     ("bias_ih", (rows,)), ("bias_hh", (rows,))):
                    values = init.uniform(np.empty(stored, np.float32).T, -bound, bound, rng=rng)
                    setattr(self, name + suffix, Parameter(values))

    @property
    def output_size(self):
        """Features of the output: hidden_size for each direction."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    def _suffixes(self, layer):
        """Ends of the names of a layer's parameters, one for each direction."""
        return (f"_l{layer}", f"_l{layer}_reverse")[:1 + self.bidirectional]

    def _parameters(self, suffix):
        return [getattr(self, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]

    def _batch_first(self, x):
        return x if self.batch_first else x.transpose(1, 0, 2)

    def _check_states(self, names, states, sequences):
        shape = (self.num_layers * (1 + self.bidirectional), sequences, self.hidden_size)
        for name, state in zip(names, states, strict=True):
            if state is not None:
                F._array(name, state, shape)
        return shape

    def __call__(self, x, state=None):
        return self.forward(x, state)

    def _forward(self, x, states):
        """(output, last states) of x and the first states; None: zeros."""
        x = _core.array_of("x", x)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            axes = "N, T" if self.batch_first else "T, N"
            raise ValueError(f"x must have shape ({axes}, {self.input_size}), got {x.shape}")
        x = self._batch_first(x)
        shape = self._check_states(self._state_names, states, len(x))
        states = [np.zeros(shape, np.float32) if state is None else state for state in states]
        last = [np.empty(shape, np.float32) for _ in states]
        runs = []
        for layer in range(self.num_layers):
            mask = None
            if layer and self.training and self.dropout:
                x, mask = F.dropout(x, self.dropout, rng=self.rng, return_mask=True)
            directions = []
            for reverse, suffix in enumerate(self._suffixes(layer)):
                first = [state[len(runs)] for state in states]
                weights = [parameter.data for parameter in self._parameters(suffix)]
                outputs, gates = F._recurrent(x, first, *weights, bool(reverse), None)
                for state, steps in zip(last, outputs, strict=True):
                    state[len(runs)] = steps[:, 0 if reverse else -1]
                runs.append((x, mask, first, outputs, gates))
                directions.append(outputs[0])
            x = np.concatenate(directions, axis=2) if self.bidirectional else directions[0]
        return self._save(self._batch_first(x), runs), last

    def _backward(self, grad_output, grad_last):
        """(gradient of x, gradients of the first states)."""
        (runs,) = self._restore(grad_output)
        grad = self._batch_first(grad_output)
        shape = self._check_states(self._grad_names, grad_last, len(grad))
        grad_first = [np.empty(shape, np.float32) for _ in grad_last]
        for layer in reversed(range(self.num_layers)):
            grads = []
            for reverse, suffix in enumerate(self._suffixes(layer)):
                at = layer * (1 + self.bidirectional) + reverse
                x, mask, first, outputs, gates = runs[at]
                weight_ih, weight_hh, *biases = self._parameters(suffix)
                grad_gates, before, grad_states = F._recurrent_backward(
                    grad[..., reverse * self.hidden_size:(reverse + 1) * self.hidden_size], first,
                    weight_hh.data, outputs, gates,
                    [None if state is None else state[at] for state in grad_last], bool(reverse))
                for state, value in zip(grad_first, grad_states, strict=True):
                    state[at] = value
                _accumulate(weight_ih, grad_gates, x.reshape(len(grad_gates), x.shape[2]))
                _accumulate(weight_hh, grad_gates, before)
                grad_bias = F.linear_backward_bias(grad_gates)
                for bias in biases:
                    bias.accumulate(lambda out, grad=grad_bias: np.copyto(out, grad))
                if layer or self.needs_input_grad:
                    grads.append(F.linear_backward_input(grad_gates, weight_ih.data).reshape(x.shape))
            if not grads:
                return None, grad_first
            grad = sum(grads[1:], grads[0])
            if mask is not None:
                grad = F.dropout_backward(grad, mask, self.dropout)
        return self._batch_first(grad), grad_first

    def plan(self, planner, x, out=None):
        raise TypeError(f"{type(self).__name__} gives states beside its output, which a plan cannot")

    def output_shape(self, input_shape):
        """Shape of the output for x of `input_shape`."""
        if len(input_shape) != 3 or input_shape[2] != self.input_size:
            raise ValueError(f"x must have 3 axes, the last of {self.input_size}, got shape {input_shape}")
        return (*input_shape[:2], self.output_size)

    def multiply_adds(self, input_shape):
        """Every weight once for each step of each sequence."""
        weights = sum(parameter.data.size for parameter in self.parameters() if parameter.data.ndim == 2)
        return input_shape[0] * input_shape[1] * weights


def _accumulate(weight, grad_gates, rows):
    weight.accumulate(lambda out: F.linear_backward_weight(grad_gates, rows, out=out))


def _pair(name, state):
    if state is None:
        return None, None
    if not isinstance(state, (tuple, list)):
        raise TypeError(f"{name} must be a pair (h, c), got {type(state).__name__}")
    if len(state) != 2:
        raise TypeError(f"{name} must be a pair (h, c), got {type(state).__name__} of {len(state)}")
    return state


class RNN(_Recurrent):
    """h_t = tanh(W x_t + U h_{t-1} + b); Elman, "Finding structure in time" (1990). See LSTM for all options.

    forward(x, h0=None) -> (output, h_n); backward(grad_output, grad_h_n=None) -> (grad_x, grad_h0).
    Its gradient shrinks or grows with every step (Bengio, Simard & Frasconi, 1994); an LSTM's cells keep it.
    """

    _gates, _state_names, _grad_names = 1, ("h0",), ("grad_h_n",)
    plan = _Recurrent.plan

    def forward(self, x, h0=None):
        output, (h_n,) = self._forward(x, (h0,))
        return output, h_n

    def backward(self, grad_output, grad_h_n=None):
        grad_x, (grad_h0,) = self._backward(grad_output, (grad_h_n,))
        return grad_x, grad_h0


class LSTM(_Recurrent):
    """Long short-term memory over whole sequences; functional.lstm has the formulas and sources.

    forward(x, (h0, c0)=None) -> (output, (h_n, c_n)): x (N, T, input_size), or (T, N, input_size) where
    batch_first is False; output (N, T, hidden_size), twice as many features where bidirectional; states
    (num_layers * directions, N, hidden_size), zeros where they are None.
    backward(grad_output, (grad_h_n, grad_c_n)=None) -> (grad_x, (grad_h0, grad_c0)); grad_x is None where
    needs_input_grad is False.

    dropout: the probability with which the outputs of all layers but the last are zeroed in training.
    rng draws the weights, uniform within 1 / sqrt(hidden_size), and what is zeroed. Parameters: weight_ih_l0,
    weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ..., with the rows of the gates i, f, g, o.
    Raises ValueError or TypeError for options, shapes and dtypes that do not fit.
    """

    _gates, _state_names, _grad_names = 4, ("h0", "c0"), ("grad_h_n", "grad_c_n")
    plan = _Recurrent.plan

    def forward(self, x, state=None):
        output, last = self._forward(x, _pair("state", state))
        return output, tuple(last)

    def backward(self, grad_output, grad_state=None):
        grad_x, grad_first = self._backward(grad_output, _pair("grad_state", grad_state))
        return grad_x, tuple(grad_first)
