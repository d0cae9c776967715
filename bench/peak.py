"""What this machine can do at most: fused multiply-adds and bytes copied a second, by any number of threads.

Both are contenders like any other (a callable and the work it does), so they are measured between the
calls that are compared with them.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastconv import _core, num_threads

ROUNDS = 4_000_000  # of multiply-adds: about 15 ms, beside which starting the threads does not show


class Peak:
    """`name`, `flops` of one `call()`, and `copy(array)`: a callable that copies it, read and write.

    The peak is that of multiply-adds on registers, on the instruction set in use.
    """

    def __init__(self, threads):
        self.threads = threads
        self._team = ThreadPoolExecutor(threads)
        self.name = f"FMA loop, {threads} threads"
        self.flops = 2 * self.call()

    def call(self):
        with num_threads(self.threads):
            return _core.multiply_adds(ROUNDS)

    def copy(self, array):
        """A callable that copies `array` into an existing one, and the bytes it reads and writes."""
        source = np.ascontiguousarray(array).reshape(-1)
        target = np.empty_like(source)
        parts = list(zip(np.array_split(target, self.threads), np.array_split(source, self.threads),
                         strict=True))
        return lambda: list(self._team.map(lambda part: np.copyto(*part), parts)), 2 * source.nbytes
