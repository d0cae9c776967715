"""Optimisers, learning-rate schedules and clipping of gradients, with torch's formulas, names and state.

An optimiser takes any objects with `data` (float32 array that fills its memory without gaps, in any order of
axes), `grad` (array of the same shape, or None: the parameter is skipped) and `zero_grad()`.  It updates
`data` in place, in one pass over parameter, gradient and state, and allocates nothing after the first step.
A gradient in another memory order than its parameter's is copied first.  No bit depends on the threads.

State is a flat dict of numbers and arrays: the options under their names, and the state of the i-th parameter
under "i.name".  Its arrays are live and have the parameter's shape.  Loading it continues to the same bits.
"""

import bisect
import math

import numpy as np

from . import _core
from .checks import count


class Optimizer:
    """What the optimisers share: checks and state."""

    _options = ("lr",)
    _counts = ()  # names of a parameter's state: integers
    _buffers = ()  # names of a parameter's state: arrays

    def __init__(self, parameters, lr):
        self.parameters = list(parameters)
        self.lr = _at_least_zero("lr", lr)
        self._state = [{} for _ in self.parameters]
        if not self.parameters:
            raise ValueError("parameters must not be empty")
        if len({id(parameter) for parameter in self.parameters}) != len(self.parameters):
            raise ValueError("parameters must not hold the same parameter twice")
        for index, parameter in enumerate(self.parameters):
            if parameter.data.dtype != np.float32:
                raise TypeError(f"parameters[{index}] must be float32, got {parameter.data.dtype}")

    def zero_grad(self):
        """Clears the gradient of every parameter."""
        for parameter in self.parameters:
            parameter.zero_grad()

    def step(self):
        """Updates every parameter that has a gradient.

        Raises ValueError for a gradient of another shape than its parameter's, and for data with gaps.
        """
        for index, (parameter, state) in enumerate(zip(self.parameters, self._state, strict=True)):
            data, grad = parameter.data, parameter.grad
            if grad is None:
                continue
            if grad.shape != data.shape:
                raise ValueError(f"parameters[{index}].grad must have shape {data.shape}, got {grad.shape}")
            if not _core.fills_its_memory(data):
                raise ValueError("parameters must fill their memory without gaps, "
                                 f"got shape {data.shape} with strides {data.strides} bytes")
            self._update(data, grad, state)

    def state_dict(self):
        """Options and state of all parameters: {"lr": number, ..., "0.name": number or live array, ...}."""
        state = {name: getattr(self, name) for name in self._options}
        for index, own in enumerate(self._state):
            state.update((f"{index}.{name}", value) for name, value in own.items())
        return state

    def load_state_dict(self, state):
        """Takes over options and state (copied) from `state`, a state_dict of the same kind of optimiser.

        Raises one ValueError that lists all missing, unexpected and misshapen entries, and changes nothing.
        """
        names = (*self._counts, *self._buffers)
        problems = [f"missing {name}" for name in self._options if name not in state]
        expected = set(self._options)
        loaded = []
        for index, parameter in enumerate(self.parameters):
            keys = {name: f"{index}.{name}" for name in names}
            expected.update(keys.values())
            own = {name: state[key] for name, key in keys.items() if key in state}
            if own:
                problems += [f"missing {key}" for name, key in keys.items() if name not in own]
                problems += [f"{keys[name]} has shape {np.shape(own[name])} instead of {parameter.data.shape}"
                             for name in self._buffers
                             if name in own and np.shape(own[name]) != parameter.data.shape]
            loaded.append(own)
        problems += [f"unexpected {key}" for key in state if key not in expected]
        if problems:
            raise ValueError(f"state does not fit this {type(self).__name__}: " + ", ".join(problems))
        for name in self._options:
            setattr(self, name, (bool if name == "nesterov" else float)(state[name]))
        self._state = [
            {name: int(value) if name in self._counts else _like(parameter.data, value)
             for name, value in own.items()}
            for parameter, own in zip(self.parameters, loaded, strict=True)
        ]


class SGD(Optimizer):
    """Stochastic gradient descent, as torch.optim.SGD:

        g = grad + weight_decay * p
        v = momentum * v + (1 - dampening) * g        (the first time v = g)
        p = p - lr * v                                or with nesterov p - lr * (g + momentum * v)

    Nesterov's momentum in the form of Sutskever et al. 2013; it needs momentum > 0 and no dampening.
    Raises ValueError for options out of range or an empty list of parameters.
    """

    _options = ("lr", "momentum", "dampening", "weight_decay", "nesterov")
    _buffers = ("momentum_buffer",)

    def __init__(self, parameters, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        super().__init__(parameters, lr)
        self.momentum = _at_least_zero("momentum", momentum)
        self.dampening = _finite("dampening", dampening)
        self.weight_decay = _at_least_zero("weight_decay", weight_decay)
        self.nesterov = bool(nesterov)
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum > 0 and dampening 0, "
                             f"got momentum {momentum!r} and dampening {dampening!r}")

    def _update(self, data, grad, state):
        first = self.momentum and "momentum_buffer" not in state
        if first:
            state["momentum_buffer"] = np.empty_like(data)
        velocity = state["momentum_buffer"] if self.momentum else None
        _core.sgd_step(data, grad, velocity, first, self.lr, self.momentum, 1 - self.dampening,
                       self.weight_decay, self.nesterov)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as torch.optim.Adam; t counts the parameter's own steps:

        g = grad + weight_decay * p
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * g^2
        p = p - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    Raises ValueError for options out of range or an empty list of parameters.
    """

    _options = ("lr", "beta1", "beta2", "eps", "weight_decay")
    _counts = ("step",)
    _buffers = ("exp_avg", "exp_avg_sq")

    def __init__(self, parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0):
        super().__init__(parameters, lr)
        self.beta1, self.beta2 = (_at_least_zero("betas", beta) for beta in betas)
        if max(self.beta1, self.beta2) >= 1:
            raise ValueError(f"betas must be below 1, got {betas!r}")
        self.eps = _at_least_zero("eps", eps)
        self.weight_decay = _at_least_zero("weight_decay", weight_decay)

    def _update(self, data, grad, state):
        if not state:
            state.update(step=0, exp_avg=np.zeros_like(data), exp_avg_sq=np.zeros_like(data))
        state["step"] += 1
        step_size = self.lr / (1 - self.beta1 ** state["step"])
        root_correction = math.sqrt(1 - self.beta2 ** state["step"])
        _core.adam_step(data, grad, state["exp_avg"], state["exp_avg_sq"], step_size, root_correction,
                        self.beta1, self.beta2, self.eps, self.weight_decay)


def clip_grad_norm(parameters, max_norm):
    """Scales the gradients so that their norm is at most max_norm; returns the norm before, a float.

    The norm is the Euclidean one of all gradients as one vector, summed in float64: Pascanu, Mikolov and
    Bengio 2013, algorithm 1, and torch's clip_grad_norm_ without its 1e-6. Gradients of an infinite or NaN
    norm are left as they are, parameters without one skipped. Raises ValueError for a negative max_norm.
    """
    max_norm = _at_least_zero("max_norm", max_norm)
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = math.sqrt(sum(_core.square_sum(f"parameters[{i}].grad", grad) for i, grad in enumerate(grads)))
    if max_norm < norm < math.inf:
        for grad in grads:
            grad *= max_norm / norm
    return norm


class Schedule:
    """Sets `optimizer.lr` at once and after every step(); the rate it finds there is the base rate."""

    _options = ()

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.base_lr = float(optimizer.lr)
        self.steps = 0
        self._set()

    def step(self):
        """Goes one step on and sets the optimiser's rate."""
        self.steps += 1
        self._set()

    def _set(self):
        self.optimizer.lr = self._rate(self.steps)

    def state_dict(self):
        """All numbers of the schedule, under their names."""
        return {name: getattr(self, name) for name in ("base_lr", "steps", *self._options)}

    def load_state_dict(self, state):
        """Takes over a state_dict of the same kind of schedule and sets the optimiser's rate.

        Raises ValueError naming missing and unexpected entries.
        """
        own = self.state_dict()
        if state.keys() != own.keys():
            raise ValueError(f"state of {type(self).__name__} must have {sorted(own)}, got {sorted(state)}")
        for name, value in own.items():
            setattr(self, name, type(value)(state[name]))
        self._set()


class StepLR(Schedule):
    """lr = base_lr * gamma^floor(steps / step_size), as torch's StepLR.

    steps counts the calls of step(): once a batch in train.fit, so step_size is in batches there.
    """

    _options = ("step_size", "gamma")

    def __init__(self, optimizer, step_size, gamma=0.1):
        self.step_size = count("step_size", step_size, least=1)
        self.gamma = _at_least_zero("gamma", gamma)
        super().__init__(optimizer)

    def _rate(self, steps):
        return self.base_lr * self.gamma ** (steps // self.step_size)


class MultiStepLR(Schedule):
    """lr = base_lr * gamma^(number of milestones <= steps), as torch's MultiStepLR; steps as in StepLR.

    milestones: integers of at least 1, in any order.
    """

    _options = ("milestones", "gamma")

    def __init__(self, optimizer, milestones, gamma=0.1):
        self.milestones = sorted(count("milestones", milestone, least=1) for milestone in milestones)
        self.gamma = _at_least_zero("gamma", gamma)
        super().__init__(optimizer)

    def _rate(self, steps):
        return self.base_lr * self.gamma ** bisect.bisect(self.milestones, steps)


class CosineLR(Schedule):
    """Half a cosine from base_lr to min_lr (Loshchilov and Hutter 2017), after a linear warm-up.

    lr = min_lr + (base_lr - min_lr) * (1 + cos(pi * (t - W) / (T - W))) / 2,   t steps, W warmup_steps,
    T total_steps; before W: base_lr * (t + 1) / (W + 1), so that no step has rate 0; after T: min_lr.
    Without warm-up this is torch's CosineAnnealingLR, before T.
    """

    _options = ("total_steps", "min_lr", "warmup_steps")

    def __init__(self, optimizer, total_steps, min_lr=0.0, warmup_steps=0):
        self.total_steps = count("total_steps", total_steps, least=1)
        self.min_lr = _at_least_zero("min_lr", min_lr)
        self.warmup_steps = count("warmup_steps", warmup_steps, least=0)
        if self.warmup_steps >= self.total_steps:
            raise ValueError(f"warmup_steps must be below total_steps {total_steps}, got {warmup_steps}")
        super().__init__(optimizer)

    def _rate(self, steps):
        if steps < self.warmup_steps:
            return self.base_lr * (steps + 1) / (self.warmup_steps + 1)
        done = min(1.0, (steps - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.min_lr + (self.base_lr - self.min_lr) * (1 + math.cos(math.pi * done)) / 2


def _like(data, values):
    """Copy of `values` in the dtype and memory order of `data`."""
    copy = np.empty_like(data)
    copy[...] = values
    return copy


def _finite(name, value):
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)


def _at_least_zero(name, value):
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    return _finite(name, value)
