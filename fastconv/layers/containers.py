"""Layers made of layers: one after the other, around a shortcut, side by side."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from .. import functional as F
from .activation import ReLU
from .base import Layer, join
from .linear import Conv2d, MappedConv2d
from .norm import BatchNorm2d
from .pool import MaxPool2d


def _named(layers):
    """name -> layer of (layer, ...), named "0", "1", ..., or of ({name: layer},)."""
    if len(layers) == 1 and isinstance(layers[0], Mapping):
        return layers[0]
    return {str(index): layer for index, layer in enumerate(layers)}


class Container(Layer):
    """Children under their names, as attributes: ``model.conv1``; they may be replaced by assignment.

    flat: this container's own name is left out of the names of what is below it. So torch's names do not
    depend on how many containers it takes here to say what is computed from what.
    dotted: of a class, that names of children may have dots.
    """

    dotted = False
    _needs_input_grad = True

    def __init__(self, named, flat=False):
        owner = type(self).__name__
        self.flat = flat
        if len({id(layer) for layer in named.values()}) != len(named):
            raise ValueError(f"{owner} got a layer twice; a layer keeps what its one backward needs")
        for name, layer in named.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"layer {name!r} of {owner} must be a Layer, got {layer!r}")
            if not name or ("." in name and not self.dotted) or hasattr(self, name):
                raise ValueError(f"layer name {name!r} of {owner} is empty, has a dot or is taken")
            setattr(self, name, layer)
        names = [name for name, layer in self.named_modules() if not layer.flat]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"flat containers in {owner} bring names together: {', '.join(twice)}")

    def __len__(self):
        return len(list(self.children()))

    def __iter__(self):
        return self.children()

    def __getitem__(self, index):
        return list(self.children())[index]

    @property
    def needs_input_grad(self):
        return self._needs_input_grad

    @needs_input_grad.setter
    def needs_input_grad(self, value):
        self._needs_input_grad = value
        for layer in self._input_layers():
            layer.needs_input_grad = value

    def _input_layers(self):
        """The layers whose input gradient nobody asks for where nobody asks for that of the container."""
        return self.children()

    def trace(self, input_shape):
        for name, layer in self.named_children():
            yield from _prefixed(name, layer, input_shape)

    def multiply_adds(self, input_shape):
        return sum(layer.multiply_adds(shape) for _, layer, shape in self.trace(input_shape))


def _prefixed(name, layer, input_shape):
    """The rows of the child's trace, under its name."""
    for below, part, shape in layer.trace(input_shape):
        yield below if layer.flat else join(name, below), part, shape


def _backward(layers, grad_output, addend=None):
    """Gradient of the x that goes through `layers` in turn, plus addend; None where nobody asks for it."""
    grad = grad_output
    for layer in reversed(layers):
        if grad is None:
            return None
        if addend is not None and layer is layers[0] and layer.backward_adds:
            return layer.backward(grad, addend=addend)
        grad = layer.backward(grad)
    return grad if grad is None or addend is None else F.add(grad, addend)


class Sequential(Container):
    """Layers one after the other: Sequential(layer, ...), named "0", "1", ..., or Sequential({name: layer}).

    flat, here and in the other containers: names below do not have this container's own name in front.
    ``model.needs_input_grad = False`` on a whole network spares its first layer with parameters the gradient
    of the data.

    A ReLU is left to the layer before it where that layer `fuses` it: one pass over memory less, each way,
    and the same bits. The forward and backward of such a ReLU are not called. Between a Conv2d and a
    MaxPool2d its gradient is taken on the smaller, pooled map.
    """

    def __init__(self, *layers, flat=False):
        super().__init__(_named(layers), flat)

    def _input_layers(self):
        for layer in self.children():
            yield layer
            if layer.parameters():
                return

    def _steps(self, **fused):
        """(layer, keywords of its forward) of the layers that are called; the last has `fused` besides."""
        steps = []
        for layer in self.children():
            if type(layer) is ReLU and steps and not steps[-1][1] and "activation" in steps[-1][0].fuses:
                steps[-1][1]["activation"] = "relu"
            else:
                steps.append((layer, {}))
        if fused:
            steps[-1][1].update(fused)
        return steps

    def _called(self):
        """The layers that are called, in order."""
        return [layer for layer, _ in self._steps()]

    @property
    def fuses(self):
        steps = self._steps()
        return steps[-1][0].fuses if steps and not steps[-1][1] else ()

    def forward(self, x, **fused):
        steps = self._steps(**fused)
        for (layer, options), (behind, options_behind) in pairwise(steps):
            if type(layer) is Conv2d and options.get("activation") and type(behind) is MaxPool2d:
                options["masked"] = options_behind["behind_relu"] = True
        for layer, options in steps:
            x = layer.forward(x, **options)
        self._saved = "residual" in fused
        return x

    @property
    def backward_adds(self):
        return len(self) > 0 and self[0].backward_adds

    def backward(self, grad_output, *, addend=None):
        layers = self._called()
        if not self._saved:
            return _backward(layers, grad_output, addend)
        grad_output, grad_residual = layers.pop().backward(grad_output)
        return _backward(layers, grad_output, addend), grad_residual

    def _fold_norms(self):
        if type(self).forward is not Sequential.forward:
            return
        before = None
        for name, layer in list(self.named_children()):
            if (type(layer) is BatchNorm2d and layer.running_mean is not None
                    and type(before) in (Conv2d, MappedConv2d)):
                before._fold(*layer._scale_and_shift())
                delattr(self, name)
            else:
                before = layer

    def plan(self, planner, x, out=None, **fused):
        steps = self._steps(**fused)
        for layer, options in steps:
            x = planner.add(layer, x, out if layer is steps[-1][0] else None, **options)
        return x

    def trace(self, input_shape):
        for name, layer in self.named_children():
            yield from _prefixed(name, layer, input_shape)
            input_shape = layer.output_shape(input_shape)


def _check_equal(body, shortcut):
    if body != shortcut:
        raise ValueError(f"body gives shape {body}, shortcut {shortcut}; they must be equal")


class Residual(Container):
    """body(x) + shortcut(x), or body(x) + x: He et al., arXiv 1512.03385, equations 1 and 2.

    Where the body `fuses` a residual, as one that ends in BatchNorm2d does, that layer adds the shortcut. Its
    first layer adds the shortcut's gradient where its `backward_adds`, as Conv2d's does.
    Raises ValueError where the two have different shapes.
    """

    fuses = ("activation",)

    def __init__(self, body, shortcut=None, *, flat=False):
        super().__init__({"body": body} if shortcut is None else {"body": body, "shortcut": shortcut}, flat)
        self.shortcut = shortcut

    def forward(self, x, *, activation=None):
        skip = x if self.shortcut is None else self.shortcut.forward(x)
        if "residual" in self.body.fuses:
            try:
                y = self.body.forward(x, residual=skip, activation=activation)
            except ValueError:
                _check_equal(self.body.output_shape(x.shape), skip.shape)
                raise
            return self._save(y, True, None)
        y = self.body.forward(x)
        _check_equal(y.shape, skip.shape)
        y = F.add(y, skip, activation=activation)
        return self._save(y, False, None if activation is None else y)

    def backward(self, grad_output):
        fused, y = self._restore(grad_output)
        layers = [self.body]
        if fused:
            if type(self.body).backward is Sequential.backward:
                layers = self.body._called()
            grad, grad_skip = layers.pop().backward(grad_output)
        else:
            grad = grad_skip = grad_output if y is None else F.relu_backward(grad_output, y)
        if self.shortcut is not None:
            grad_skip = self.shortcut.backward(grad_skip)
        grad = _backward(layers, grad, grad_skip)
        return grad if self.needs_input_grad else None

    def plan(self, planner, x, out=None, *, activation=None):
        skip = x if self.shortcut is None else planner.add(self.shortcut, x)
        if "residual" in self.body.fuses:
            return planner.add(self.body, x, out, residual=skip, activation=activation)
        y = planner.add(self.body, x)
        return planner.step(_add, activation, y, skip, planner.place(out, y.shape), over=y)


def _add(activation, *arrays):
    """The step of a sum: into the last array, of those before."""
    F.add(*arrays[:-1], activation=activation, out=arrays[-1])


class Concat(Container):
    """The outputs of branches of x, joined along the channels: Szegedy et al., arXiv 1409.4842, section 4.

    Concat(branch, ...), named "0", "1", ..., or Concat({name: branch}): at most 64, which give (N, C, H, W).
    In backward a branch whose `backward_adds` adds the gradients of those before it to its own.
    Raises ValueError where the outputs differ in more than the channels.
    """

    def __init__(self, *branches, flat=False):
        super().__init__(_named(branches), flat)
        if not len(self):
            raise ValueError("branches must not be empty")

    def forward(self, x):
        outputs = [branch.forward(x) for branch in self.children()]
        if len({(len(y), *y.shape[2:]) for y in outputs}) > 1:
            shapes = ", ".join(str(y.shape) for y in outputs)
            raise ValueError(f"branches must agree in all but the channels, got shapes {shapes}")
        return self._save(F.concat(outputs), [y.shape[1] for y in outputs])

    def backward(self, grad_output):
        (channels,) = self._restore(grad_output)
        ends = np.cumsum(channels)
        total = None
        for branch, count, end in zip(self.children(), channels, ends, strict=True):
            total = _backward([branch], grad_output[:, end - count:end], total)
        return total if self.needs_input_grad else None

    def plan(self, planner, x, out=None):
        y = planner.place(out, self.output_shape(x.shape))
        begin = 0
        for branch in self.children():
            end = begin + branch.output_shape(x.shape)[1]
            part = y.channels(begin, end)
            result = planner.add(branch, x, part)
            if result != part:
                planner.copy(result, part)
            begin = end
        return y
