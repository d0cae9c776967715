"""Inference plans: a network as a list of calls on arrays that share one block of memory.

Layer.compile makes them. Each layer says what it does by its method plan(planner, x, out=None): it adds the
steps that compute y of the Value x, into the Value `out` if one is given, and returns the Value that holds y.
Arrays exist only once all steps, and so the lifetimes of all Values, are known.
"""

from dataclasses import dataclass
from operator import index

import numpy as np

from . import _core
from . import functional as F

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


class Storage:
    """The memory of an activation, from the first to the last step that needs it.

    home: the storage in whose place it lies, itself unless it is computed in place.
    """

    def __init__(self, size):
        self.bytes = -(-size // ALIGNMENT) * ALIGNMENT
        self.first = self.last = None
        self.offset = 0
        self.home = self

    def need(self, step):
        self.first = step if self.first is None else self.first
        self.last = step


@dataclass(frozen=True)
class Value:
    """An array of the plan: a view of a storage. strides in bytes; None: those of the network's input.

    axes: of the network's input, in this order, where they are not in its own.
    """

    storage: Storage
    shape: tuple
    strides: tuple | None
    offset: int = 0
    axes: tuple | None = None

    def transpose(self, axes):
        """The axes in another order, as of ndarray.transpose."""
        shape = tuple(self.shape[axis] for axis in axes)
        if self.strides is None:
            return Value(self.storage, shape, None, 0,
                         tuple(axes if self.axes is None else (self.axes[axis] for axis in axes)))
        return Value(self.storage, shape, tuple(self.strides[axis] for axis in axes), self.offset)

    def channels(self, begin, end):
        """The channels from `begin` up to `end`."""
        return Value(self.storage, (self.shape[0], end - begin, *self.shape[2:]), self.strides,
                     self.offset + begin * self.strides[1])

    def rows(self):
        """(N, D) with an image's elements in the order of its axes; None where they do not lie so."""
        if self.strides is None:
            return None
        expected = 4
        for size, stride in zip(self.shape[:0:-1], self.strides[:0:-1], strict=True):
            if size > 1 and stride != expected:
                return None
            expected *= size
        return Value(self.storage, (self.shape[0], expected // 4), (self.strides[0], 4), self.offset)

    def images(self, shape):
        """A contiguous (N, D) seen as contiguous images."""
        return Value(self.storage, shape, _strides(shape, range(len(shape))), self.offset)


def _strides(shape, order):
    """Bytes between the elements of a dense array whose axes lie in this order, the slowest first."""
    strides, step = [0] * len(shape), 4
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def _copy(x, out):
    np.copyto(out, x)


class Planner:
    """What the layers add their steps to. x: the Value of the network's input.

    names: {id(layer): name} of the network's layers; step_names: of the layer of each step.
    """

    def __init__(self, input_shape, names):
        self.x = Value(Storage(0), input_shape, None)
        self.steps = []  # (function, arguments, over)
        self.step_names = []
        self._names, self._name = names, ""

    def add(self, layer, *arguments, **options):
        """layer.plan(self, *arguments, **options), whose steps have the layer's name."""
        outer, self._name = self._name, self._names.get(id(layer), self._name)
        y = layer.plan(self, *arguments, **options)
        self._name = outer
        return y

    def place(self, out, shape):
        """`out`, or where it is None a new Value: images channels-last, other arrays contiguous."""
        if out is not None:
            return out
        strides = _strides(shape, (0, 2, 3, 1) if len(shape) == 4 else range(len(shape)))
        return Value(Storage(shape[0] * strides[0]), shape, strides)

    def step(self, function, *arguments, over=None):
        """Adds the call function(*arguments), in which Values stand for their arrays.

        The last argument is the Value that is written; it is returned. over: the Value of which the function
        can write its result over; it will where nothing needs that any more.
        """
        for value in arguments:
            if isinstance(value, Value):
                value.storage.need(len(self.steps))
        self.steps.append((function, arguments, over))
        self.step_names.append(self._name)
        return arguments[-1]

    def copy(self, x, out):
        return self.step(_copy, x, out)

    def finish(self, y):
        """The Value of the result, whose storage nothing else uses and which is no part of another."""
        used = {value for _, arguments, _ in self.steps for value in arguments
                if isinstance(value, Value) and value.storage is y.storage}
        if used != {y} or y.storage is self.x.storage:
            y = self.copy(y, self.place(None, y.shape))
        y.storage.last = len(self.steps)
        self._write_in_place(y)
        return y

    def _write_in_place(self, y):
        for number, (_, arguments, x) in enumerate(self.steps):
            if x is None or x.storage in (self.x.storage, y.storage):
                continue
            home, out = x.storage.home, arguments[-1]
            if (out.storage not in (home, y.storage) and out.storage.first == number == home.last
                    and (out.storage.bytes, out.strides, out.offset) == (home.bytes, x.strides, x.offset)):
                out.storage.home = home
                home.last = out.storage.last

    def storages(self, y):
        """All that need a place: not those of x and y, nor those computed in place of others."""
        found = {id(value.storage.home): value.storage.home for _, arguments, _ in self.steps
                 for value in arguments if isinstance(value, Value)}
        return [one for one in found.values() if one not in (self.x.storage, y.storage)]


def arrange(spans):
    """([offset], total) for blocks (size, first, last): no two needed at one time lie over each other.

    The largest first, each into the smallest gap that it fits between the blocks needed while it is (best
    fit), or behind them.
    """
    offsets = [0] * len(spans)
    placed = []
    for number in sorted(range(len(spans)), key=lambda number: -spans[number][0]):
        size, first, last = spans[number]
        beside = sorted((offsets[other], offsets[other] + spans[other][0]) for other in placed
                        if spans[other][1] <= last and first <= spans[other][2])
        best, least, end = None, None, 0
        for low, high in beside:
            if size <= low - end and (best is None or low - end < least):
                best, least = end, low - end
            end = max(end, high)
        offsets[number] = end if best is None else best
        placed.append(number)
    return offsets, max((offset + span[0] for offset, span in zip(offsets, spans, strict=True)), default=0)


class Plan:
    """plan(x, out=None) runs a network in evaluation; see Layer.compile.

    input_shape, output_shape; memory_bytes: of all activations together, without x and the result.
    Calls from several threads at once compute side by side, each in memory_bytes of its own, which are kept
    for later calls.
    """

    def __init__(self, model, input_shape):
        try:
            input_shape = tuple(map(index, input_shape))
        except TypeError:
            raise TypeError(f"input_shape must be a shape, got {input_shape!r}") from None
        if not input_shape or min(input_shape) < 1:
            raise ValueError(f"input_shape must be positive ints, got {input_shape}")
        model.output_shape(input_shape)  # raises what forward would raise
        planner = Planner(input_shape, {id(layer): name for name, layer in model.named_modules()})
        self._x = planner.x
        self._y = planner.finish(planner.add(model, planner.x))
        storages = planner.storages(self._y)
        offsets, self.memory_bytes = arrange([(one.bytes, one.first, one.last) for one in storages])
        for storage, offset in zip(storages, offsets, strict=True):
            storage.offset = offset
        self._steps = [(function, arguments) for function, arguments, _ in planner.steps]
        self._step_names = planner.step_names
        self.input_shape, self.output_shape = input_shape, self._y.shape
        self._idle = [self._bind()]

    def _bind(self):
        """([(function, arguments)], places of x, places of the result): the steps on arrays of one arena."""
        arena = _core.Block(self.memory_bytes)
        calls, places = [], {self._x.storage: [], self._y.storage: []}
        for function, arguments in self._steps:
            bound = list(arguments)
            for place, value in enumerate(arguments):
                if not isinstance(value, Value):
                    continue
                if value.storage in places:
                    places[value.storage].append((bound, place, value.axes))
                    bound[place] = None
                else:
                    offset = value.storage.home.offset + value.offset
                    bound[place] = np.ndarray(value.shape, np.float32, arena, offset, value.strides)
            calls.append((function, bound))
        return calls, places[self._x.storage], places[self._y.storage]

    def _run(self, calls):
        """The calls of all steps, each of the layer that _step_names has for it."""
        for function, arguments in calls:
            function(*arguments)

    def __call__(self, x, out=None):
        """The network's output for x, a new array or `out`; a new one of images is channels-last.

        x: float32 of input_shape, any strides. Raises ValueError where x or out has another shape or they
        overlap, TypeError for another dtype.
        """
        x = F._array("x", x, self.input_shape)
        if out is None:
            block = _core.Block(self._y.storage.bytes)
            out = np.ndarray(self.output_shape, np.float32, block, 0, self._y.strides)
        else:
            out = _core.array_of_out(out, self.output_shape)
            if np.shares_memory(x, out):
                raise ValueError("out must not overlap x")
        try:
            bound = self._idle.pop()
        except IndexError:
            bound = self._bind()
        calls, x_places, y_places = bound
        try:
            for arguments, place, axes in x_places:
                arguments[place] = x if axes is None else x.transpose(axes)
            for arguments, place, _ in y_places:
                arguments[place] = out
            self._run(calls)
        finally:
            for arguments, place, _ in (*x_places, *y_places):
                arguments[place] = None
            self._idle.append(bound)
        return out
