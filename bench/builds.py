"""python -m bench.builds PYTHON ...: what a call with nothing to compute costs in several installations.

For builds that no process loads together, as that for one version of Python and that for all (abi3): the
interpreters, each of an environment with fastconv installed, take turns.
"""

import subprocess
import sys

ROUNDS = 10
PROGRAM = """
from itertools import repeat
from time import perf_counter
import numpy as np
from fastconv import _core, functional
x, weight = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 1, 1), np.float32)
y = np.empty_like(x)
for call in (lambda: functional.relu(x, out=y), lambda: functional.relu(x),
             lambda: functional.conv2d(x, weight, out=y), lambda: functional.conv2d(x, weight)):
    best = float("inf")
    for _ in range(100):
        start = perf_counter()
        for _ in repeat(None, 1000):
            call()
        best = min(best, perf_counter() - start)
    print(best * 1e3, end=" ")
print(_core.__file__.rpartition("/")[2])
"""


def main(pythons):
    best, names = {}, {}
    for _ in range(ROUNDS):
        for python in pythons:
            # -P: the installed package, not that of the current folder.
            done = subprocess.run([python, "-P", "-c", PROGRAM], capture_output=True, text=True, check=True)
            *times, names[python] = done.stdout.split()
            before = best.get(python, times)
            best[python] = [min(pair, key=float) for pair in zip(times, before, strict=True)]
    print("us a call, best of all: relu out=, relu, conv2d out=, conv2d (1x1x8x8)")
    for python in pythons:
        print("  ".join(f"{float(time):6.3f}" for time in best[python]), names[python], python)


if __name__ == "__main__":
    main(sys.argv[1:])
