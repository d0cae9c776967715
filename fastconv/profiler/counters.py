"""Hardware counters of this process through Linux perf events: cycles, instructions, cache misses.

Each thread of the process has a group of counters; a reading is the sum over the threads.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

# <linux/perf_event.h>: type and config of an event.
HARDWARE = {"cycles": (0, 0), "instructions": (0, 1), "cache_misses": (0, 3)}
SOFTWARE = {"task_clock_ns": (1, 1), "page_faults": (1, 2)}

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_ATTRIBUTE_BYTES = 112  # PERF_ATTR_SIZE_VER5, which every kernel since 4.1 takes
_GROUP = 1 << 3  # PERF_FORMAT_GROUP
_NOT_KERNEL = 1 << 5 | 1 << 6  # exclude_kernel, exclude_hv: what the lowest rights allow


class Unavailable(OSError):
    """The machine has no such counters, or does not let this process read them."""


class Counters:
    """Counts the events of all threads there are now, by `read` and `since`; close() gives them back.

    events: {name: (type, config)}. Raises Unavailable, which says why.
    """

    def __init__(self, events=None):
        self.events = dict(events or HARDWARE)
        self._bytes = 8 * (1 + len(self.events))
        self._leaders, self._all = [], []
        try:
            for thread in _threads():
                self._open(thread)
        except OSError:
            self.close()
            raise

    def _open(self, thread):
        leader = -1
        for name, (kind, config) in self.events.items():
            descriptor = _open_event(kind, config, thread, leader, name)
            self._all.append(descriptor)
            if leader < 0:
                leader = descriptor
                self._leaders.append(descriptor)

    def read(self):
        """The counts so far, in the order of the events."""
        sums = [0] * len(self.events)
        for leader in self._leaders:
            counts = struct.unpack(f"{1 + len(sums)}Q", os.read(leader, self._bytes))[1:]
            sums = [total + count for total, count in zip(sums, counts, strict=True)]
        return sums

    def since(self, before):
        """{event: count} since the reading `before`."""
        return {name: now - then for name, now, then in zip(self.events, self.read(), before, strict=True)}

    def close(self):
        while self._all:
            os.close(self._all.pop())
        self._leaders = []


def _threads():
    if sys.platform != "linux" or platform.machine() not in _SYSCALL:
        raise Unavailable(f"hardware counters need Linux on {' or '.join(_SYSCALL)}")
    return [int(path.name) for path in Path("/proc/self/task").iterdir()]


def _open_event(kind, config, thread, leader, name):
    """The descriptor of a counter of one thread."""
    attribute = struct.pack("IIQQQQQ", kind, _ATTRIBUTE_BYTES, config, 0, 0, _GROUP, _NOT_KERNEL)
    buffer = ctypes.create_string_buffer(attribute.ljust(_ATTRIBUTE_BYTES, b"\0"), _ATTRIBUTE_BYTES)
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.syscall(ctypes.c_long(_SYSCALL[platform.machine()]), buffer, ctypes.c_int(thread),
                                 ctypes.c_int(-1), ctypes.c_int(leader), ctypes.c_ulong(0))
    if descriptor < 0:
        number = ctypes.get_errno()
        raise Unavailable(number, f"no hardware counter of {name} here: {os.strerror(number)} "
                                  f"(perf_event_paranoid is {_paranoia()})")
    return descriptor


def _paranoia():
    try:
        return Path("/proc/sys/kernel/perf_event_paranoid").read_text().strip()
    except OSError:
        return "unknown"
