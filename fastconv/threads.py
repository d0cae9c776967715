"""How many threads a call may use.

The default is the least of FASTCONV_NUM_THREADS, else OMP_NUM_THREADS, else the processors this process
may run on, its cgroup's quota (rounded down) and the physical cores. A call takes fewer when its work
does not pay for them, or where OpenMP's own limit has been lowered, by threadpoolctl or torch.
"""

import operator
import os
from contextlib import contextmanager
from pathlib import Path

from . import _core

# OpenMP ends the process when it cannot create the threads it is asked for.
MOST_THREADS = 1024


def _checked(n, name="n"):
    try:
        threads = operator.index(n)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {n!r}") from None
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"{name} must be an integer from 1 to {MOST_THREADS}, got {n!r}")
    return threads


def _from_environment():
    for name in ("FASTCONV_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text:
            if not text.isdecimal():
                raise ValueError(f"{name} must be an integer from 1 to {MOST_THREADS}, got {text!r}")
            return _checked(int(text), name), name
    return None


def _affinity():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_folders(root, process):
    """Where quotas that bind this process may stand: its cgroup and those around it, versions 1 and 2."""
    yield root
    yield root / "cpu"
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            own = (root / "cpu" if controllers else root) / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _quota(folder):
    """Whole processors that one cgroup allows, or None without a quota."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit():  # "max" or -1: no limit
        return None
    return max(1, int(quota) // int(period))


def _cgroup_quota(root=Path("/sys/fs/cgroup"), process=Path("/proc/self/cgroup")):
    """Whole processors that the strictest cgroup quota allows, or None without a quota."""
    quotas = [quota for quota in map(_quota, _cgroup_folders(root, process)) if quota]
    return min(quotas, default=None)


def _physical_cores(root=Path("/sys/devices/system/cpu")):
    """Distinct cores among the processors, or None where the system does not say."""
    siblings = set()
    for path in root.glob("cpu[0-9]*/topology/thread_siblings_list"):
        try:
            siblings.add(path.read_text().strip())
        except OSError:
            return None
    return len(siblings) or None


def default_num_threads():
    """(threads, reason): the default limit and what set it."""
    chosen = _from_environment()
    if chosen:
        return chosen
    limits = [(_affinity(), "processors of this process"), (_cgroup_quota(), "cgroup quota"),
              (_physical_cores(), "physical cores")]
    return min((limit for limit in limits if limit[0]), key=lambda limit: limit[0])


def get_num_threads():
    """Threads that a call from this Python thread may use."""
    return _core.get_num_threads()


def set_num_threads(n):
    """Sets the default limit of the process, 1 to 1024; returns the limit it replaces."""
    return _core.set_default_threads(_checked(n))


@contextmanager
def num_threads(n):
    """Limits the calls made from this Python thread inside the ``with`` block to n threads."""
    before = _core.limit_threads(_checked(n))
    try:
        yield
    finally:
        _core.limit_threads(before)


_core.set_default_threads(default_num_threads()[0])
