"""What this machine can do at most: fused multiply-adds and bytes copied a second, by any number of threads.

Both are contenders like any other (a callable and the work it does), so they are measured between the
calls that are compared with them.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

FMA_REPEATS = 4_000_000  # about 15 ms: starting the threads (tens of microseconds) does not show
CHAINS = 12  # independent sums: more than latency x units (4 x 2) of current x86, and they fit 16 registers

FMA_LOOP = f"""
#if defined(__AVX512F__)
enum {{ LANES = 16 }};
#elif defined(__AVX__)
enum {{ LANES = 8 }};
#else
enum {{ LANES = 4 }};
#endif
typedef float vector __attribute__((vector_size(LANES * sizeof(float))));

/* Runs `repeats` rounds of {CHAINS} multiply-adds; returns the floating-point operations of a round. */
int fma_loop(long repeats, float factor, float *result)
{{
    volatile float start = 0; /* read anew for every chain, or the compiler keeps one of twelve equal sums */
    vector zero = {{0}}, a = zero + factor, b = zero + 1.0f, total = zero, sum[{CHAINS}];
    for (int chain = 0; chain < {CHAINS}; chain++)
        sum[chain] = zero + start;
    for (long i = 0; i < repeats; i++)
#pragma GCC unroll {CHAINS}
        for (int chain = 0; chain < {CHAINS}; chain++)
            sum[chain] = sum[chain] * a + b;
    for (int chain = 0; chain < {CHAINS}; chain++)
        total += sum[chain];
    *result = total[0];
    return 2 * LANES * {CHAINS};
}}
"""


def _compile_fma_loop(folder):
    """The C function above, or None where there is no compiler that takes it."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if not compiler:
        return None
    source, library = Path(folder, "fma.c"), Path(folder, "fma.so")
    source.write_text(FMA_LOOP)
    command = [*compiler.split(), "-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC",
               str(source), "-o", str(library)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        print(f"bench: no FMA loop ({' '.join(command)}):\n{built.stderr}", file=sys.stderr)
        return None
    function = ctypes.CDLL(str(library)).fma_loop
    function.argtypes = ctypes.c_long, ctypes.c_float, ctypes.POINTER(ctypes.c_float)
    return function


class Peak:
    """`name`, `flops` of one `call()`, and `copy(array)`: a callable that copies it, read and write.

    The peak comes from a loop of multiply-adds on registers, compiled at start; without a compiler from a
    product of 2048 x 2048 matrices in NumPy.
    """

    def __init__(self, threads):
        self.threads = threads
        self._team = ThreadPoolExecutor(threads)
        with tempfile.TemporaryDirectory() as folder:
            loop = _compile_fma_loop(folder)
        if loop:
            self.name = f"FMA loop, {threads} threads"
            self.flops = threads * FMA_REPEATS * loop(1, 0.5, ctypes.c_float())
            self.call = lambda: self._everywhere(lambda _: loop(FMA_REPEATS, 0.5, ctypes.c_float()))
        else:
            side = 2048
            a, b, c = np.full((3, side, side), 0.5, np.float32)
            self.name = f"numpy.matmul of {side} x {side}, {threads} threads"
            self.flops = 2 * side**3
            self.call = lambda: np.matmul(a, b, out=c)

    def copy(self, array):
        """A callable that copies `array` into an existing one, and the bytes it reads and writes."""
        source = np.ascontiguousarray(array).reshape(-1)
        target = np.empty_like(source)
        parts = list(zip(np.array_split(source, self.threads), np.array_split(target, self.threads),
                         strict=True))
        return lambda: self._everywhere(lambda t: np.copyto(parts[t][1], parts[t][0])), 2 * source.nbytes

    def _everywhere(self, work):
        list(self._team.map(work, range(self.threads)))
