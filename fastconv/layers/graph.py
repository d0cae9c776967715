"""Layers in any order without cycles, each under the names of what it reads: the networks of files."""

from collections import Counter
from itertools import accumulate

import numpy as np

from .. import functional as F
from .activation import ReLU
from .base import Layer
from .containers import Container, _add, _prefixed
from .linear import Conv2d, MappedConv2d
from .norm import BatchNorm2d


class _OfSeveral(Layer):
    """A node of a Graph of several arrays: forward takes these, backward gives a tuple of gradients."""

    def __call__(self, *arrays):
        return self.forward(*arrays)


class Add(_OfSeveral):
    """The sum of arrays of one shape: a node of a Graph. backward gives a tuple of gradients."""

    fuses = ("activation",)

    def forward(self, *arrays, activation=None):
        y = F.add(*arrays, activation=activation)
        return self._save(y, len(arrays), None if activation is None else y)

    def backward(self, grad_output):
        count, y = self._restore(grad_output)
        return (grad_output if y is None else F.relu_backward(grad_output, y),) * count

    def plan(self, planner, x, *others, out=None, activation=None):
        return planner.step(_add, activation, x, *others, planner.place(out, x.shape), over=x)

    def output_shape(self, input_shape, *others):
        for shape in others:
            if shape != input_shape:
                raise ValueError(f"arrays must have one shape to be added, got {input_shape} and {shape}")
        return input_shape


class Join(_OfSeveral):
    """Arrays side by side along axis 1: a node of a Graph. backward gives a tuple of gradients."""

    def forward(self, *arrays):
        shape = self.output_shape(*(array.shape for array in arrays))
        y = F.concat(arrays) if len(shape) == 4 else np.concatenate(arrays, axis=1)
        return self._save(y, [array.shape[1] for array in arrays])

    def backward(self, grad_output):
        (sizes,) = self._restore(grad_output)
        return tuple(np.split(grad_output, np.cumsum(sizes)[:-1], axis=1))

    def plan(self, planner, *inputs, out=None):
        """What does not lie in its place yet is copied there."""
        y = planner.place(out, self.output_shape(*(x.shape for x in inputs)))
        for x, part in zip(inputs, self.parts(y, [x.shape for x in inputs]), strict=True):
            if x != part:
                planner.copy(x, part)
        return y

    @staticmethod
    def parts(y, shapes):
        """The parts of the Value y in which inputs of these shapes belong."""
        ends = accumulate(shape[1] for shape in shapes)
        return [y.channels(end - shape[1], end) for end, shape in zip(ends, shapes, strict=True)]

    def output_shape(self, *shapes):
        first = shapes[0]
        if any(len(shape) < 2 or (shape[0], *shape[2:]) != (first[0], *first[2:]) for shape in shapes):
            raise ValueError("arrays must agree in all axes but the second to be joined, got shapes "
                             + ", ".join(map(str, shapes)))
        return (first[0], sum(shape[1] for shape in shapes), *first[2:])


class _Step:
    """A layer that is called, with what it does besides: `residual` is a name, as the inputs are."""

    def __init__(self, name, layer, inputs):
        self.name, self.layer, self.inputs = name, layer, inputs
        self.residual = self.activation = None

    def reads(self):
        return self.inputs if self.residual is None else (*self.inputs, self.residual)

    def options(self, values):
        """Keywords of forward and plan."""
        options = {} if self.residual is None else {"residual": values[self.residual]}
        return options if self.activation is None else {**options, "activation": self.activation}

    def takes_residual(self):
        """Whether the layer can add one, before what it does already."""
        return "residual" in self.layer.fuses and self.activation is None and self.residual is None


class Graph(Container):
    """Graph({name: (layer, input, ...)}): each layer reads what the layers `input` give, or "x", the input.

    A layer stands behind those that it reads; the last gives the output, and every other must be read. Only
    Add and Join read several. Names may have dots. As in Sequential and Residual, layers that can add a
    residual or apply a ReLU in their own pass do so, where nothing else reads what lies between; a plan
    also computes what is joined in its place. Raises ValueError for names and inputs that do not fit.
    """

    dotted = True

    def __init__(self, nodes):
        super().__init__({name: layer for name, (layer, *_) in nodes.items()})
        self._inputs = {name: tuple(inputs) for name, (_, *inputs) in nodes.items()}
        known = {"x"}
        for name, inputs in self._inputs.items():
            several = isinstance(getattr(self, name), _OfSeveral)
            if name == "x" or not inputs or (len(inputs) > 1 and not several):
                raise ValueError(f"layer {name!r} of Graph has the inputs {inputs}")
            if unknown := [one for one in inputs if one not in known]:
                raise ValueError(f"layer {name!r} of Graph reads {unknown[0]!r}, which stands not before it")
            known.add(name)
        if not nodes:
            raise ValueError("a Graph needs at least one layer")
        read = Counter(self._readers())
        if unread := [name for name in self._inputs if not read[name]]:
            raise ValueError(f"nothing reads {', '.join(map(repr, unread))} of Graph")

    def _readers(self):
        """The names that are read, once for each time; that of the output once more."""
        for inputs in self._inputs.values():
            yield from inputs
        yield next(reversed(self._inputs))

    @property
    def nodes(self):
        """{name: (layer, input, ...)}, as given."""
        return {name: (getattr(self, name), *inputs) for name, inputs in self._inputs.items()}

    def _input_layers(self):
        return (layer for layer, *inputs in self.nodes.values() if inputs == ["x"])

    def _steps(self):
        """The layers that are called, in order."""
        read = Counter(self._readers())
        steps = {}  # name of what it gives -> _Step
        for name, (layer, *inputs) in self.nodes.items():
            own = [one for one in inputs if one in steps and read[one] == 1]
            if type(layer) is ReLU and own and steps[own[0]].activation is None and (
                    "activation" in steps[own[0]].layer.fuses):
                step = steps.pop(own[0])
                step.activation = "relu"
            elif type(layer) is Add and len(inputs) == 2 and inputs[0] != inputs[1] and (
                    able := [one for one in steps if one in own and steps[one].takes_residual()]):
                step = steps.pop(able[-1])
                (step.residual,) = set(inputs) - {able[-1]}
            else:
                step = _Step(name, layer, tuple(inputs))
            step.name = name
            steps[name] = step
        return list(steps.values())

    def forward(self, x):
        steps = self._steps()
        last = {name: step for step in steps for name in step.reads()}
        values = {"x": x}
        for step in steps:
            y = step.layer.forward(*(values[name] for name in step.inputs), **step.options(values))
            for name in step.reads():
                if last[name] is step:
                    values.pop(name, None)
            values[step.name] = y
        return self._save(y)

    def backward(self, grad_output):
        self._restore(grad_output)
        steps = self._steps()
        grads = {steps[-1].name: grad_output}
        for step in reversed(steps):
            grad = grads.pop(step.name, None)
            if grad is None:
                continue
            grad = step.layer.backward(grad)
            for name, one in zip(step.reads(), grad if isinstance(grad, tuple) else (grad,), strict=True):
                if one is not None:
                    grads[name] = F.add(grads[name], one) if name in grads else one
        return grads.get("x") if self.needs_input_grad else None

    def _fold_norms(self):
        read = Counter(self._readers())
        inputs, renamed = {}, {"x": "x"}
        for name, (layer, *names) in self.nodes.items():
            before = getattr(self, renamed[names[0]], None)
            if (type(layer) is BatchNorm2d and layer.running_mean is not None
                    and type(before) in (Conv2d, MappedConv2d) and read[names[0]] == 1):
                before._fold(*layer._scale_and_shift())
                delattr(self, name)
                renamed[name] = renamed[names[0]]
            else:
                inputs[name] = tuple(renamed[one] for one in names)
                renamed[name] = name
        self._inputs = inputs

    def plan(self, planner, x, out=None):
        steps = self._steps()
        shapes = self._shapes(x.shape)
        places = {steps[-1].name: out}
        for step in reversed(steps):  # outer joins before those inside
            if type(step.layer) is Join:
                y = planner.place(places.get(step.name), shapes[step.name])
                places[step.name] = y
                parts = step.layer.parts(y, [shapes[name] for name in step.inputs])
                for name, part in zip(step.inputs, parts, strict=True):
                    if name != "x":
                        places.setdefault(name, part)
        values = {"x": x}
        for step in steps:
            given = [values[name] for name in step.inputs]
            values[step.name] = planner.add(step.layer, *given, out=places.get(step.name),
                                             **step.options(values))
        return values[steps[-1].name]

    def _shapes(self, input_shape):
        """name -> shape of what each layer gives."""
        shapes = {"x": tuple(input_shape)}
        for name, (layer, *inputs) in self.nodes.items():
            shapes[name] = layer.output_shape(*(shapes[one] for one in inputs))
        return shapes

    def output_shape(self, input_shape):
        """Shape of y for x of `input_shape`; raises what the layers raise."""
        return self._shapes(input_shape)[next(reversed(self._inputs))]

    def trace(self, input_shape):
        shapes = self._shapes(input_shape)
        for name, (layer, *inputs) in self.nodes.items():
            # Layers that read several keep the shape that they make of them.
            yield from _prefixed(name, layer, shapes[inputs[0] if len(inputs) == 1 else name])
