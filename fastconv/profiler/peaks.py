"""What this machine can do at most, measured here: multiply-adds, and bytes copied, a second."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .. import _core, num_threads

_ROUNDS = 1_000_000  # of multiply-adds: about 3 ms, beside which waking the team does not show
_COPIED_FLOATS = 1 << 24  # 64 MiB, more than the L2 caches hold
_REPEATS = 8


class Peaks(NamedTuple):
    """Of `threads` threads on one instruction set: flops and bytes a second.

    flops: of multiply-adds on registers, two operations each. bandwidth: bytes read plus bytes written by a
    copy of 64 MiB. Calls whose arrays lie in the caches move more than that.
    """

    threads: int
    isa: str
    flops: float
    bandwidth: float

    def roof(self, intensity):
        """Flops a second at most for so many operations a byte: Williams et al., CACM 52 (2009)."""
        return min(self.flops, intensity * self.bandwidth)


def measure(threads):
    """The Peaks of this many threads on the instruction set in use, measured once in a process."""
    return _measured(threads, _core.isa())


@lru_cache
def _measured(threads, isa):
    with num_threads(threads):
        _core.multiply_adds(_ROUNDS)
        rates = [_rate(lambda: 2 * _core.multiply_adds(_ROUNDS)) for _ in range(_REPEATS)]
    source, target = np.ones((2, _COPIED_FLOATS), np.float32)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))

    def copy():
        list(team.map(np.copyto, *zip(*parts, strict=True)))
        return 2 * source.nbytes

    with ThreadPoolExecutor(threads) as team:
        bandwidths = [_rate(copy) for _ in range(_REPEATS)]
    return Peaks(threads, isa, max(rates), max(bandwidths))


def _rate(work):
    start = time.perf_counter()
    amount = work()
    return amount / (time.perf_counter() - start)
