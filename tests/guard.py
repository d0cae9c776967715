"""Arrays between pages that nobody may touch.

An access outside such an array faults. The handler here notes the array and the distance, opens the
guard and lets the kernel go on, so that the fault becomes a failed assertion and not a dead interpreter.
Without glibc, whose signals these are, arrays are copies and nothing is guarded.
"""

import ctypes
import mmap
import platform
import signal
import threading
from contextlib import contextmanager
from functools import partial

import numpy as np

GUARDED = platform.libc_ver()[0] == "glibc"
GUARD_BYTES = 16 * mmap.PAGESIZE  # before and behind each array: far enough for any stride of a small test
if GUARDED:
    READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Sigaction(ctypes.Structure):
    """glibc's struct sigaction on 64-bit Linux."""

    _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_uint64 * 16), ("flags", ctypes.c_int),
                ("restorer", ctypes.c_void_p))


SA_SIGINFO, ADDRESS_OFFSET = 4, 16  # si_addr follows three ints and their padding

# First address of a guard -> (faults, name of its array, first address of the array, one past its last).
_guards = {}
_before = Sigaction()
_lock, _users = threading.Lock(), 0  # threads that have guard pages share the handler


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def _on_fault(number, signal_info, _context):
    address = ctypes.c_size_t.from_address(signal_info + ADDRESS_OFFSET).value
    for guard, (faults, name, first, end) in list(_guards.items()):
        if guard <= address < guard + GUARD_BYTES:
            distance = (f"{address - end} bytes behind the end" if address >= end
                        else f"{first - address} bytes before the start")
            faults.append(f"{distance} of {name}")
            libc.mprotect(guard, GUARD_BYTES, READ_WRITE)
            return
    # Not one of ours: the instruction faults again, into the handler that was there before.
    libc.sigaction(number, ctypes.byref(_before), None)


def _protect(guard):
    if libc.mprotect(guard, GUARD_BYTES, 0):
        raise OSError(ctypes.get_errno(), "mprotect failed")


def _copy(values, name, order=None, at="end", apart=False):
    """As _place, without guards."""
    order = tuple(order or range(values.ndim))
    array = np.empty([values.shape[axis] for axis in order], values.dtype).transpose(np.argsort(order))
    array[...] = values
    return array


def _place(faults, values, name, order=None, at="end", apart=False):
    """A copy of `values` whose memory ends (or starts, at="start") where a guard starts (or ends).

    order: the axes as they lie in memory, slowest first; default: contiguous.
    apart: so does that of each entry of the slowest axis."""
    order = tuple(order or range(values.ndim))
    shape = [values.shape[axis] for axis in order]
    pieces = shape[0] if apart else 1
    nbytes = values.nbytes // pieces
    room = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    offset, pitch = GUARD_BYTES + (room - nbytes if at == "end" else 0), room + GUARD_BYTES
    mapping = mmap.mmap(-1, GUARD_BYTES + pieces * pitch)
    base = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    strides = np.empty(shape, values.dtype).strides
    stored = np.ndarray(shape, values.dtype, mapping, offset, (pitch, *strides[1:]) if apart else strides)
    array = stored.transpose(np.argsort(order))
    array[...] = values
    for i in range(pieces + 1):
        first = base + offset + max(0, i - 1) * pitch
        _guards[base + i * pitch] = (faults, name, first, first + nbytes)
        _protect(base + i * pitch)
    return array


@contextmanager
def guard_pages(where):
    """Yields place(values, name, order, at); on leaving, fails if anything beside its arrays was touched."""
    global _users
    if not GUARDED:
        yield _copy
        return
    with _lock:
        if not _users:
            action = Sigaction(handler=ctypes.cast(_on_fault, ctypes.c_void_p).value, flags=SA_SIGINFO)
            if libc.sigaction(signal.SIGSEGV, ctypes.byref(action), ctypes.byref(_before)):
                raise OSError(ctypes.get_errno(), "sigaction failed")
        _users += 1
    faults = []
    try:
        yield partial(_place, faults)
        assert not faults, f"{where} touched memory {'; '.join(faults)}"
    finally:
        with _lock:
            _users -= 1
            if not _users:
                libc.sigaction(signal.SIGSEGV, ctypes.byref(_before), None)
        for guard, (owner, *_) in list(_guards.items()):
            if owner is faults:
                del _guards[guard]
