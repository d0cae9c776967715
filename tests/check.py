"""The one helper that compares an operation with its specification.

    check_op("max_pool2d", [x], dict(kernel_size=3, stride=2))
    check_op("avg_pool2d", [x], dict(kernel_size=3), terms=9)
    check_op("tanh", [x], bound=lambda y: 4 * U * abs(y))
"""

import inspect
import itertools
import math
import platform
import threading
from contextlib import contextmanager

import numpy as np
from guard import guard_pages

import fastconv
from fastconv import functional, reference

U = 2.0**-24  # half a unit in the last place of float32, relative
LAYOUTS = ("contiguous", "channels-last")
# Threads and the side on which guard pages touch the arrays.
RUNS = ((1, "end"), (1, "start"), (2, "end"), (5, "start"))
# The x86-64 baseline rounds products before it adds them; every other instruction set fuses the two.
WITHOUT_FMA = {"baseline"} if platform.machine() in ("x86_64", "AMD64") else set()
POISON = np.array(0x7FC0DEAD, np.uint32).view(np.float32)  # a NaN that no arithmetic makes
# Arguments whose first axis counts images.
PER_IMAGE = {"x", "y", "grad_output", "argmax", "mask", "h0", "c0"}


_turn = threading.Condition()
_users, _isa_before = 0, None


@contextmanager
def using_isa(name):
    """The instruction set is one for the process: threads join in with the same one, or wait."""
    global _users, _isa_before
    with _turn:
        _turn.wait_for(lambda: not _users or fastconv.isa() == name)
        if not _users:
            _isa_before = fastconv.isa()
            fastconv.set_isa(name)
        _users += 1
    try:
        yield
    finally:
        with _turn:
            _users -= 1
            if not _users:
                fastconv.set_isa(_isa_before)
                _turn.notify_all()


def memory_order(name, ndim, layout):
    """Axes as they lie in memory, slowest first. Weights are kept with the output channel fastest."""
    if layout == "contiguous":
        return tuple(range(ndim))
    if name in ("weight", "weight_ih", "weight_hh"):
        return {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[ndim]
    return (0, 2, 3, 1) if ndim == 4 else tuple(range(ndim))


def in_layout(array, layout, name="x"):
    """A copy of `array` in one of LAYOUTS."""
    if array is None:
        return None
    order = memory_order(name, array.ndim, layout)
    return np.array(array.transpose(order), order="C").transpose(np.argsort(order))


def bits(array):
    """The array as integers; all NaNs are one."""
    if array.dtype != np.float32:
        return array
    return np.where(np.isnan(array), np.float32(np.nan), array).view(np.uint32)


def assert_same_bits(actual, expected, where):
    assert actual.shape == expected.shape, f"{where}: shape {actual.shape} is not {expected.shape}"
    different = np.argwhere(bits(actual) != bits(expected))
    if len(different):
        at = tuple(int(i) for i in different[0])
        raise AssertionError(f"{where}: {len(different)} of {actual.size} values differ, first at {at}: "
                             f"{actual[at]!r} is not {expected[at]!r}")


def assert_within(actual, expected, limit, where):
    """|actual - expected| <= limit, element by element; limit None: the same value."""
    assert actual.shape == expected.shape, f"{where}: shape {actual.shape} is not {expected.shape}"
    if actual.dtype == np.float32:
        unwritten = np.argwhere(actual.view(np.uint32) == POISON.view(np.uint32))
        assert not len(unwritten), f"{where}: {len(unwritten)} values not written, first {unwritten[0]}"
    if limit is None:
        np.testing.assert_array_equal(actual, expected.astype(actual.dtype), where)
        return
    with np.errstate(invalid="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        error = np.where(same, 0.0, abs(actual - expected))
        wrong = np.argwhere(~(same | (error <= limit)))
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        raise AssertionError(f"{where}: {len(wrong)} of {actual.size} values off, first at {at}: "
                             f"{actual[at]!r} instead of {expected[at]!r}, "
                             f"error {error[at]:.3g}, allowed {limit[at]:.3g}")


def assert_norm_within(actual, expected, relative, where):
    """The L2 norm of the error is at most `relative` of that of `expected`."""
    assert_within(actual, expected, np.full(expected.shape, np.inf), where)
    error, size = np.linalg.norm(actual - expected), np.linalg.norm(expected)
    assert error <= relative * size, f"{where}: error {error / size:.3g} of the norm, allowed {relative:.3g}"


def _is_float(array):
    return array is not None and array.dtype.kind == "f"


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def _reference(op, arguments, options, updates, change=lambda array: array):
    """The reference's results and updated arguments; `change` is applied to the float arguments first."""
    exact = {name: change(array.astype(np.float64)) if _is_float(array) else array
             for name, array in arguments.items()}
    options = {name: value for name, value in options.items() if name != "algorithm"}
    results = as_tuple(getattr(reference, op)(**exact, **options))
    return (*results, *(exact[name] for name in updates))


def _limits(op, arguments, options, updates, expected, terms, bound):
    """Allowed error of each result; None: exact."""
    if bound is not None:
        bounds = bound if isinstance(bound, tuple) else (bound,)
        return [b and b(y) for b, y in itertools.zip_longest(bounds, expected)]
    if not terms:
        return [None] * len(expected)
    sums = _reference(op, arguments, options, updates, np.abs)
    floats = filter(_is_float, arguments.values())
    if all((array == np.rint(array)).all() for array in (*floats, *expected)):
        # Integers whose sums stay below 2^24 are exact in float32, whatever the order.
        assert all(s.size == 0 or s.max() < 2**24 for s in sums), "integers too large to be exact"
        return [None] * len(expected)
    return [(2 * math.sqrt(terms) + 4) * U * s for s in sums]


def _run(op, arguments, options, updates, expected, layout, at, where):
    """One call on guarded copies, into poisoned guarded outputs."""
    function = getattr(functional, op)
    outputs = [name for name in ("out", "argmax")
               if name in inspect.signature(function).parameters and name not in arguments]
    out_name = "weight" if op.endswith("_weight") else "out"
    with guard_pages(where) as place:
        given = {name: None if array is None else
                 place(array, name, memory_order(name, array.ndim, layout), at)
                 for name, array in arguments.items()}
        room = {}
        for name, values in zip(outputs, expected, strict=False):
            poison = (np.full(values.shape, POISON) if values.dtype.kind == "f"
                      else np.full(values.shape, 255, values.dtype))
            room[name] = place(poison, name, memory_order(out_name, values.ndim, layout), at)
        results = as_tuple(function(**given, **options, **room))
    for name, result in zip(outputs, results, strict=False):
        assert result is room[name], f"{where} returned another array than {name}="
    for name, array in arguments.items():
        if array is not None and name not in updates:
            assert_same_bits(given[name], array, f"{where}: argument {name}")
    return (*results, *(given[name] for name in updates))


def _check_allocated(op, arguments, options, layout, first):
    """Without out=: the same bits, in the memory layout of the input."""
    given = {name: in_layout(array, layout, name) for name, array in arguments.items()}
    results = as_tuple(getattr(functional, op)(**given, **options))
    for result, same in zip(results, first, strict=False):
        assert_same_bits(result, same, f"{op}, {layout}, without out=")
    leading = next(iter(given.values()))
    ambiguous = leading.size == 0 or (leading.ndim == 4 and 1 in (leading.shape[1], leading[0, 0].size))
    if not ambiguous and results[0].ndim == 4:
        order = memory_order("weight" if op.endswith("_weight") else "y", 4, layout)
        assert results[0].transpose(order).flags.c_contiguous, f"{op} changes the layout {layout}"


def _check_batches(op, arguments, options, layout, first):
    """One image alone, and eight, give the bits of the same images in this batch."""
    images = len(next(iter(arguments.values())))
    for picked in ([0], np.arange(8) % images) if images else ():
        given = {name: in_layout(array[picked] if name in PER_IMAGE else array, layout, name)
                 for name, array in arguments.items()}
        changed = dict(options)
        if "input_shape" in options:
            changed["input_shape"] = (len(picked), *options["input_shape"][1:])
        results = as_tuple(getattr(functional, op)(**given, **changed))
        for result, whole in zip(results, first, strict=False):
            assert_same_bits(result, whole[picked], f"{op}, {layout}, batch of {len(picked)}")


def check_op(op, arrays, options=None, *, terms=0, bound=None, relative=None, per_image=True, updates=()):
    """Compares functional.<op> with reference.<op>: instruction sets x layouts x threads x guard pages.

    Within a layout all instruction sets with FMA and all numbers of threads must give the same bits; so must
    the call without out=, which must keep the layout, and one image of the batch and eight of them.

    arrays    the leading array arguments, in order; None for one that is left out
    options   the other arguments by name; algorithm= pins one, the reference does not get it
    terms     products in one sum: errors stay within (2 sqrt(terms) + 4) u S, S the reference on absolute
              values, and integers are exact. 0: nothing is rounded, every result is exact
    bound     for other operations: from the expected result to its allowed error; a tuple for several results
    relative  for transforms, which spread the rounding of one output over others: allowed L2 norm of the
              error, as a share of that of the expected result
    per_image whether an image's result depends on that image alone
    updates   names of arguments that the operation changes, compared as further results
    """
    options = options or {}
    names = inspect.signature(getattr(functional, op)).parameters
    arguments = dict(zip(names, arrays, strict=False))
    expected = _reference(op, arguments, options, updates)
    if relative is None:
        limits, within = _limits(op, arguments, options, updates, expected, terms, bound), assert_within
    else:
        limits, within = [relative] * len(expected), assert_norm_within
    first = {}  # (layout, fused or not) -> the results that the others must repeat
    for isa, layout, (threads, at) in itertools.product(fastconv.available_isas(), LAYOUTS, RUNS):
        where = f"{op} with {isa}, {layout}, {threads} threads, guard at the {at}"
        with using_isa(isa), fastconv.num_threads(threads):
            results = _run(op, arguments, options, updates, expected, layout, at, where)
        group = layout, isa not in WITHOUT_FMA
        if group not in first:
            first[group] = results
            for result, exact, limit in zip(results, expected, limits, strict=True):
                within(result, exact, limit, where)
        for result, same in zip(results, first[group], strict=True):
            assert_same_bits(result, same, where)
    isa = fastconv.available_isas()[0]
    with using_isa(isa):
        for layout in LAYOUTS:
            best = first[layout, isa not in WITHOUT_FMA]
            if not updates:
                _check_allocated(op, arguments, options, layout, best)
            if per_image:
                _check_batches(op, arguments, options, layout, best)
