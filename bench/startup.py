"""import: what `import fastconv` adds to `import numpy`, and the size of the wheel."""

import subprocess
import sys

from .report import Measurement, Table

RUNS = 20
PROGRAM = """
from time import perf_counter
start = perf_counter(); import numpy
middle = perf_counter(); import fastconv
print(middle - start, perf_counter() - middle)
"""


def _rows():
    runs = [subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
            for _ in range(RUNS)]
    times = zip(*(map(float, run.stdout.split()) for run in runs), strict=True)
    numpy, fastconv = map(min, times)
    yield Measurement(f"import, best of {RUNS} processes",
                      {"numpy": numpy, "fastconv after numpy": fastconv}, {})


def tables():
    yield Table("import", "ms", _rows())
