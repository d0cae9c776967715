"""Inference plans: a network as a list of calls on arrays that share one block of memory.

Layer.compile makes them. Each layer says what it does by its method plan(planner, x, out=None): it adds the
steps that compute y of the Value x, into the Value `out` if one is given, and returns the Value that holds y.
Arrays exist only once all steps, and so the lifetimes of all Values, are known.

Steps whose arrays are large run by turns of some images, so that what one step writes is still in the cache
for the next: activations between them have the size of a turn.
"""

import math
from dataclasses import dataclass, replace
from itertools import groupby
from operator import index

import numpy as np

from . import _core
from . import functional as F

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

# What a step reads and writes in a turn may take so many level 2 caches: level 3 is faster than memory too,
# and turns of few images read the weights often.
TURN_CACHES = 6
CALL_BYTES = 1 << 20  # that could be moved while a call starts and its threads wait for each other


class Storage:
    """The memory of an activation, from the first to the last step that needs it.

    images, image_bytes: how many lie there, one behind the other, and the bytes of each. home: the storage in
    whose place it lies, itself unless it is computed in place.
    """

    def __init__(self, images, image_bytes):
        self.images, self.image_bytes = images, image_bytes
        self.first = self.last = None
        self.offset = 0
        self.home = self

    @property
    def bytes(self):
        return -(-self.images * self.image_bytes // ALIGNMENT) * ALIGNMENT

    def need(self, step):
        self.first = step if self.first is None else self.first
        self.last = step


@dataclass(frozen=True)
class Value:
    """An array of the plan: a view of a storage. strides in bytes; None: those of the network's input.

    axes: of the network's input, in this order, where they are not in its own. by_image: axis 0 is that of
    the images.
    """

    storage: Storage
    shape: tuple
    strides: tuple | None
    offset: int = 0
    axes: tuple | None = None
    by_image: bool = True

    def transpose(self, axes):
        """The axes in another order, as of ndarray.transpose."""
        shape = tuple(self.shape[axis] for axis in axes)
        by_image = self.by_image and axes[0] == 0
        if self.strides is None:
            axes = tuple(axes if self.axes is None else (self.axes[axis] for axis in axes))
            return replace(self, shape=shape, axes=axes, by_image=by_image)
        strides = tuple(self.strides[axis] for axis in axes)
        return replace(self, shape=shape, strides=strides, by_image=by_image)

    def channels(self, begin, end):
        """The channels from `begin` up to `end`."""
        return replace(self, shape=(self.shape[0], end - begin, *self.shape[2:]),
                       offset=self.offset + begin * self.strides[1])

    def rows(self):
        """(N, D) with an image's elements in the order of its axes; None where they do not lie so."""
        if self.strides is None:
            return None
        expected = 4
        for size, stride in zip(self.shape[:0:-1], self.strides[:0:-1], strict=True):
            if size > 1 and stride != expected:
                return None
            expected *= size
        return replace(self, shape=(self.shape[0], expected // 4), strides=(self.strides[0], 4))

    def images(self, shape):
        """A contiguous (N, D) seen as contiguous images."""
        return replace(self, shape=shape, strides=_strides(shape, range(len(shape))))


def _strides(shape, order):
    """Bytes between the elements of a dense array whose axes lie in this order, the slowest first."""
    strides, step = [0] * len(shape), 4
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


_CONV2D = _core.conv2d  # itself: a profile puts another in its place


def _copy(x, out):
    np.copyto(out, x)


@dataclass(frozen=True)
class Step:
    """The call function(*arguments), for the layer of this name; over and whole as of Planner.step."""

    function: object
    arguments: tuple
    over: Value | None
    whole: bool
    name: str

    @property
    def values(self):
        return [argument for argument in self.arguments if isinstance(argument, Value)]


class Planner:
    """What the layers add their steps to. x: the Value of the network's input.

    names: {id(layer): name} of the network's layers.
    """

    def __init__(self, input_shape, names):
        self.x = Value(Storage(input_shape[0], 0), input_shape, None)
        self.core_cache_bytes = _core.process_info()["cache_bytes"][1] or 1 << 20  # of level 2
        self.steps = []
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
        return Value(Storage(shape[0], strides[0]), shape, strides)

    def step(self, function, *arguments, over=None, whole=False):
        """Adds the call function(*arguments), in which Values stand for their arrays.

        The last argument is the Value that is written; it is returned. over: the Value of which the function
        can write its result over; it will where nothing needs that any more. whole: it may treat the images
        (axis 0) together; else some of them give the same bits as all.
        """
        step = Step(function, arguments, over, whole, self._name)
        for value in step.values:
            value.storage.need(len(self.steps))
        self.steps.append(step)
        return arguments[-1]

    def copy(self, x, out):
        return self.step(_core.copy if len(x.shape) == 4 else _copy, x, out)

    def finish(self, y, cache_bytes):
        """(y, stretches): the Value of the result, whose storage nothing else uses and which is no part of
        another, and the steps as [(first, end, images of a turn)]; cache_bytes as choose_turns takes them.
        """
        used = {value for value in self._values() if value.storage is y.storage}
        if used != {y} or y.storage is self.x.storage:
            y = self.copy(y, self.place(None, y.shape))
        y.storage.last = len(self.steps)
        stretches = self._stretches(y, cache_bytes)
        for first, end, images in stretches:
            for value in self._values(first, end):
                storage = value.storage
                if first <= storage.first and storage.last < end and storage is not self.x.storage:
                    storage.images = images
        self._write_in_place(y)
        self._keep_through_turns(stretches)
        return y, stretches

    def _values(self, first=0, end=None):
        """The Values among the arguments of some steps."""
        return [value for step in self.steps[first:end] for value in step.values]

    def _stretches(self, y, cache_bytes):
        """The steps cut where choose_turns changes the number of turns."""
        images, costs = self.x.shape[0], []
        crossing = [0] * len(self.steps)
        for storage in {one.storage for one in self._values()} - {y.storage}:
            for number in range(storage.first + 1, storage.last + 1):
                crossing[number] += storage.image_bytes
        for step, left in zip(self.steps, crossing, strict=True):
            by_image = not step.whole and all(one.by_image and one.shape[0] == images for one in step.values)
            floats = {(one.storage, one.offset): math.prod(one.shape[1:]) for one in step.values}
            weights = sum(getattr(argument, "nbytes", 0) for argument in step.arguments)
            costs.append((4 * sum(floats.values()) if by_image else None, weights, left))
        stretches, first = [], 0
        for turns, group in groupby(choose_turns(costs, images, cache_bytes)):
            end = first + len(list(group))
            stretches.append((first, end, -(-images // turns)))
            first = end
        return stretches

    def _write_in_place(self, y):
        for number, step in enumerate(self.steps):
            x, out = step.over, step.arguments[-1]
            if x is None or x.storage in (self.x.storage, y.storage):
                continue
            home = x.storage.home
            if (out.storage not in (home, y.storage) and out.storage.first == number == home.last
                    and (out.storage.images, out.storage.image_bytes, out.strides, out.offset)
                    == (home.images, home.image_bytes, x.strides, x.offset)):
                out.storage.home = home
                home.last = out.storage.last

    def _keep_through_turns(self, stretches):
        """What holds more than the images of a turn is needed in all turns of a stretch."""
        for first, end, images in stretches:
            for value in self._values(first, end):
                home = value.storage.home
                if home.images > images:
                    home.first, home.last = min(home.first, first), max(home.last, end - 1)

    def storages(self, y):
        """All that need a place: not those of x and y, nor those computed in place of others."""
        found = {id(value.storage.home): value.storage.home for value in self._values()}
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


def choose_turns(costs, images, cache_bytes):
    """The number of turns of each step, a power of 2 up to `images`, with which the fewest bytes move.

    costs: for each step the bytes of an image's activations, None where it takes all images at once; of its
    weights; of an image's activations that the steps before leave to it or to later ones. The first move as
    far as a turn's exceed cache_bytes, the second each turn, the third where the number of turns changes.
    """
    options = [1 << power for power in range((images - 1).bit_length() + 1)]
    ways = [(0, ())] * len(options)  # (bytes moved, turns of each step), the best that ends with each option
    for activations, weights, crossing in costs:
        best, best_turns = min(ways, key=lambda way: way[0])
        changed = best + crossing * images, best_turns
        for place, turns in enumerate(options):
            before, steps = min(ways[place], changed, key=lambda way: way[0])
            if activations is not None:
                missed = max(0, activations - cache_bytes * turns / images)
                moved = before + missed * images + (weights + CALL_BYTES) * turns
            else:
                moved = before + weights if turns == 1 else math.inf
            ways[place] = moved, (*steps, turns)
    return min(ways, key=lambda way: way[0])[1]


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
        caches = planner.core_cache_bytes * _core.get_num_threads()
        self._y, self._stretches = planner.finish(planner.add(model, planner.x), TURN_CACHES * caches)
        storages = planner.storages(self._y)
        offsets, self.memory_bytes = arrange([(one.bytes, one.first, one.last) for one in storages])
        for storage, offset in zip(storages, offsets, strict=True):
            storage.offset = offset
        self.input_shape, self.output_shape = input_shape, self._y.shape
        self._steps = [(step.function, step.arguments) for step in planner.steps]
        self._step_names = [step.name for step in planner.steps]
        self._idle = [self._bind()]

    def _turns(self):
        """(step, first image, end) of each call."""
        images = self.input_shape[0]
        for first, end, of_turn in self._stretches:
            for image in range(0, images, of_turn):
                for step in range(first, end):
                    yield step, image, min(images, image + of_turn)

    def _is_in_arena(self, step):
        """Whether all arrays of the step are: it meets neither x nor the result."""
        ends = self._x.storage, self._y.storage
        return not any(isinstance(value, Value) and value.storage in ends for value in self._steps[step][1])

    def _bind(self):
        """(calls, the same ready, places of x, places of the result) on arrays of one arena.

        calls: [(function, arguments)]. Ready ones have their arguments checked: what Python does between two
        kernels takes long, for these have driven it out of the caches.
        """
        arena, images = _core.Block(self.memory_bytes), self.input_shape[0]
        calls, ready, places = [], [], {self._x.storage: [], self._y.storage: []}
        for step, image, end in self._turns():
            function, arguments = self._steps[step]
            bound = list(arguments)
            turn = None if end - image == images else slice(image, end)
            for place, value in enumerate(arguments):
                if not isinstance(value, Value):
                    continue
                if value.storage in places:
                    places[value.storage].append((bound, place, value.axes, turn))
                    bound[place] = None
                    continue
                home = value.storage.home
                offset, shape = home.offset + value.offset, value.shape
                if turn is not None:
                    shape = (end - image, *shape[1:])
                    offset += image * value.strides[0] if home.images == images else 0
                bound[place] = np.ndarray(shape, np.float32, arena, offset, value.strides)
            calls.append((function, bound))
            call = _core.Conv2dCall(*bound) if function is _CONV2D and self._is_in_arena(step) else None
            ready.append((call, ()) if call is not None and call.repeatable else calls[-1])
        return calls, ready, places[self._x.storage], places[self._y.storage]

    def _run(self, calls, ready):
        """The ready calls. What each is, calls has; of which step, _turns has."""
        for function, arguments in ready:
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
        calls, ready, x_places, y_places = bound
        try:
            for arguments, place, axes, turn in x_places:
                of_turn = x if turn is None else x[turn]
                arguments[place] = of_turn if axes is None else of_turn.transpose(axes)
            for arguments, place, _, turn in y_places:
                arguments[place] = out if turn is None else out[turn]
            self._run(calls, ready)
        finally:
            for arguments, place, *_ in (*x_places, *y_places):
                arguments[place] = None
            self._idle.append(bound)
        return out
