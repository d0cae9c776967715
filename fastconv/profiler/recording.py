"""What is recorded while a profile is open, and how: kernels are swapped for ones that look at the clock.

The functions of _core are found by their names there at every call, by functional and by layers, and
Plan._run calls those of a plan; the forward and backward of every Layer class say which layer is at work. All
of them are exchanged when the first profile opens and put back when the last one closes, so that nothing is
left to run, not even a test, while there is none.
"""

import inspect
import threading
import weakref
from dataclasses import dataclass, field
from functools import wraps

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
        self._made, self._read = [], 0  # records of so many calls
        self._began = None
        self.counters_note = None

    def __enter__(self):
        if self._began is not None:
            raise RuntimeError("a profile can be opened once")
        if self._wants_counters:
            _core.multiply_adds(1)  # the threads of a team must be there to be counted
            try:
                self._counters = Counters()
            except Unavailable as error:
                self.counters_note = error.strerror or str(error)
        self._began = _core.clock_ns()
        _open(self)
        return self

    def __exit__(self, *_):
        _close(self)
        if self._counters:
            self._counters.close()
            self._counters = None

    @property
    def records(self):
        """The calls so far that began in the profile, in the order in which they ended."""
        with _lock:
            _collect()
            calls = self._calls[self._read:]
            if calls:
                self._read += len(calls)
                self._made += [self._record(*call) for call in calls if call[4] >= self._began]
                self._made.sort(key=lambda record: record.start + record.seconds)
            return list(self._made)

    def _record(self, op, layer, isa, allowed, start, end, threads, phases, counts, facts, thread):
        *arguments, result = facts
        work = operations.work(op, arguments, result)
        named = {name: 1e-9 * spent for name, spent in zip(PHASES, phases, strict=True) if spent}
        return Record(op, layer, work.shapes, work.layout, work.algorithm, threads or 1, isa.decode(),
                      1e-9 * (start - self._began), 1e-9 * (end - start), thread, work.flops, work.bytes,
                      named, counts or {}, work.convolution)


# ---- the swap -----------------------------------------------------------------------------------------


class _Here(threading.local):
    """Of a thread: the name of the layer at work, and the names of its network."""

    layer = ""
    names = None


_here = _Here()
_lock = threading.Lock()
_open_ones = []  # the recordings
_lists = []  # their lists of calls
_networks = {}  # id(layer) -> (layer, {id(layer): name}) of those that were called from outside
_originals = []  # (owner, name, what was there)


def _open(recording):
    with _lock:
        if not _open_ones:
            _swap()
            _core.time_phases(True)
        _collect()
        _open_ones.append(recording)
        _lists.append(recording._calls)
        _count()


def _close(recording):
    with _lock:
        try:
            _collect()
        finally:
            _lists.pop(_open_ones.index(recording))
            _open_ones.remove(recording)
            _count()
            if not _open_ones:
                _core.time_phases(False)
                while _originals:
                    setattr(*_originals.pop())
                _networks.clear()


def _collect():
    """Hands the calls from C to the recordings that are open; they are kept in C, for they know no Python."""
    for *record, (arrays, *options), thread in _core.calls_from_c():
        record = (*record, operations.facts(record[0], arrays, *options), thread)
        for calls in _lists:
            calls.append(record)


def _count():
    """Gives the kernels the counters of a recording that has some."""
    counters = next((one._counters for one in _open_ones if one._counters), None)
    for op in operations.names():
        getattr(_core, op).counters = counters


def _put(owner, name, replacement):
    _originals.append((owner, name, vars(owner)[name]))
    setattr(owner, name, replacement)


def _swap():
    timed = {}
    for op in operations.names():
        kernel = getattr(_core, op)
        timed[kernel] = _core.Timed(op, kernel, _here, _lists, _bound)
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


def _bound(kernel, arguments, keywords):
    """All arguments of a call by their places."""
    return inspect.signature(kernel).bind(*arguments, **keywords).args


def _names(layer):
    """{id(layer): name} of all layers of the network that `layer` is."""
    known = _networks.get(id(layer))
    if known is None:
        names = {id(part): name for name, part in layer.named_modules()}
        names[id(layer)] = type(layer).__name__
        known = _networks[id(layer)] = layer, names  # which keeps the ids from being used again
    return known[1]


def _named(method):
    """forward or backward of a Layer, during which kernels are called for this layer."""
    here = _here

    @wraps(method)
    def call(layer, *arguments, **keywords):
        outer = here.layer, here.names
        if here.names is None:
            here.names = _names(layer)
        here.layer = (here.names or {}).get(id(layer), here.layer)
        try:
            return method(layer, *arguments, **keywords)
        finally:
            here.layer, here.names = outer

    return call


def _run_of(timed):
    """Plan._run with the kernels of `timed`."""
    here = _here
    plans = weakref.WeakKeyDictionary()  # plan -> its calls

    def run(self, calls, ready):
        recorded = plans.get(self)
        if recorded is None:
            steps = [step for step, _, _ in self._turns()]
            recorded = plans[self] = _core.TimedCalls(
                [timed.get(self._steps[step][0]) for step in steps],
                [self._step_names[step] for step in steps], [self._is_in_arena(step) for step in steps], here)
        outer = here.layer, here.names
        here.names = {}  # layers without a plan of their own are named by their step
        try:
            recorded(calls)
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
