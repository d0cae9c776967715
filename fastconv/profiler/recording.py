"""What is recorded while a profile is open, and how: kernels are swapped for ones that look at the clock.

The functions of _core are found by their names there at every call, by functional and by layers, and
Plan._run calls those of a plan; the forward and backward of every Layer class say which layer is at work. All
of them are exchanged when the first profile opens and put back when the last one closes, so that nothing is
left to run, not even a test, while there is none.
"""

import inspect
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property, wraps

from .. import _core, plan
from ..layers import Layer
from . import operations
from .counters import Counters, Unavailable

PHASES = _core.PHASES[1:]  # those with a name of their own


@dataclass(frozen=True)
class Record:
    """A call of a kernel.

    op: its name; layer: the name of the layer it was called for, in its network. shapes: of the arguments
    and the result; layout: of the first argument, "NHWC" for channels-last. start, seconds: from the opening
    of the profile. thread: of Python; threads: that computed. phases: {name: seconds}, summed over the
    threads. flops, bytes: see profiler.operations. counters: {name: count}, where they were asked for.
    """

    op: str
    layer: str
    shapes: str
    layout: str
    algorithm: str
    threads: int
    isa: str
    start: float
    seconds: float
    thread: int
    flops: int
    bytes: int
    phases: dict = field(default_factory=dict)
    counters: dict = field(default_factory=dict)
    convolution: operations.Convolution | None = field(default=None, repr=False)


class Recording:
    """The calls between __enter__ and __exit__; `records` has them as Records.

    counters: also count cycles, instructions and cache misses in each call, where the machine lets one.
    """

    def __init__(self, counters=False):
        self._wants_counters = counters
        self._counters = None
        self._calls = []
        self._networks = {}  # id(layer) -> (layer, {id(layer): name}) of those that were called from outside
        self._began = None
        self.counters_note = None

    def __enter__(self):
        if self._began is not None:
            raise RuntimeError("a profile can be opened once")
        if self._wants_counters:
            try:
                self._counters = Counters()
            except Unavailable as error:
                self.counters_note = error.strerror or str(error)
        self._began = time.perf_counter_ns()
        _open(self)
        return self

    def __exit__(self, *_):
        _close(self)
        if self._counters:
            self._counters.close()
            self._counters = None
        self._networks = {}

    @property
    def records(self):
        """The calls so far, in the order in which they ended."""
        calls = self._calls
        if len(self._made) < len(calls):
            self._made.extend(self._record(*call) for call in calls[len(self._made):])
        return list(self._made)

    @cached_property
    def _made(self):
        return []

    def _record(self, op, layer, isa, allowed, thread, start, end, phases, counts, arguments, result):
        work = operations.work(op, arguments, result)
        threads, _, *named = phases
        named = {name: 1e-9 * spent for name, spent in zip(PHASES, named, strict=True) if spent}
        return Record(op, layer, work.shapes, work.layout, work.algorithm, threads or 1, isa,
                      1e-9 * (start - self._began), 1e-9 * (end - start), thread, work.flops, work.bytes,
                      named, counts, work.convolution)

    def _names(self, layer):
        """The names of all layers of the network that `layer` is."""
        known = self._networks.get(id(layer))
        if known is None:
            names = {id(part): name for name, part in layer.named_modules()}
            names[id(layer)] = type(layer).__name__
            known = self._networks[id(layer)] = layer, names  # which keeps the ids from being used again
        return known[1]


# ---- the swap -----------------------------------------------------------------------------------------


class _Here(threading.local):
    """Of a thread: the layer at work, the names of its network, whether a kernel is at work."""

    layer = ""
    names = None
    busy = False


_here = _Here()
_lock = threading.Lock()
_open_ones = ()  # the recordings; replaced, never changed
_originals = []  # (owner, name, what was there)


def _open(recording):
    global _open_ones
    with _lock:
        if not _open_ones:
            _swap()
            _core.time_phases(True)
        _open_ones = (*_open_ones, recording)


def _close(recording):
    global _open_ones
    with _lock:
        _open_ones = tuple(one for one in _open_ones if one is not recording)
        if not _open_ones:
            _core.time_phases(False)
            while _originals:
                setattr(*_originals.pop())


def _put(owner, name, replacement):
    _originals.append((owner, name, vars(owner)[name]))
    setattr(owner, name, replacement)


def _swap():
    timed = {}
    for op in operations.names():
        kernel = getattr(_core, op)
        timed[kernel] = _timed(op, kernel)
        _put(_core, op, timed[kernel])
    for layer in _subclasses(Layer):
        for name in vars(layer).keys() & {"forward", "backward"}:
            _put(layer, name, _named(vars(layer)[name]))
    _put(plan.Plan, "_run", _run_of(timed))
    _put(plan.Planner, "step", _step_of(plan.Planner.step, timed))


def _subclasses(base):
    for one in base.__subclasses__():
        yield one
        yield from _subclasses(one)


def _timed(op, kernel):
    """The kernel, recorded. What one kernel calls of others is its own."""
    clock, here, seen, thread = time.perf_counter_ns, _here, operations.seen, threading.get_ident
    isa, allowed, take_phases = _core.isa, _core.get_num_threads, _core.take_phases

    @wraps(kernel)
    def call(*arguments, **keywords):
        if here.busy or not _open_ones:
            return kernel(*arguments, **keywords)
        if keywords:
            arguments = inspect.signature(kernel).bind(*arguments, **keywords).args
        recordings = _open_ones
        counters = next((one._counters for one in recordings if one._counters), None)
        before = counters.read() if counters else None
        here.busy = True
        start = clock()
        try:
            result = kernel(*arguments)
            end = clock()
        finally:
            here.busy = False
            phases = take_phases()
        counts = counters.since(before) if counters else {}
        record = (op, here.layer, isa(), allowed(), thread(), start, end, phases, counts,
                  tuple(map(seen, arguments)), seen(result))
        for recording in recordings:
            recording._calls.append(record)
        return result

    return call


def _named(method):
    """forward or backward of a Layer, during which kernels are called for this layer."""
    here = _here

    @wraps(method)
    def call(layer, *arguments, **keywords):
        outer = here.layer, here.names
        if here.names is None and _open_ones:
            here.names = _open_ones[0]._names(layer)
        here.layer = (here.names or {}).get(id(layer), here.layer)
        try:
            return method(layer, *arguments, **keywords)
        finally:
            here.layer, here.names = outer

    return call


def _run_of(timed):
    """Plan._run with the kernels of `timed`."""
    here = _here

    def run(self, calls):
        outer = here.layer, here.names
        here.names = {}  # layers without a plan of their own are named by their step
        try:
            for (function, arguments), here.layer in zip(calls, self._step_names, strict=True):
                timed.get(function, function)(*arguments)
        finally:
            here.layer, here.names = outer

    return run


def _step_of(step, timed):
    """Planner.step that keeps the kernel itself: plans outlive profiles."""
    kernels = {call: kernel for kernel, call in timed.items()}

    @wraps(step)
    def call(self, function, *arguments, **keywords):
        return step(self, kernels.get(function, function), *arguments, **keywords)

    return call
