"""A processor of 2008 without AVX, emulated: the baseline kernels are chosen and nothing else is run."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

PROGRAM = """
import numpy as np
import fastconv
from fastconv import functional, models, reference
print(*fastconv.available_isas())
rng = np.random.default_rng(0)
x, w = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((1, 8, 9, 9), (16, 8, 3, 3)))
y = functional.conv2d(x, w, padding=1, algorithm="direct")
print((y == reference.conv2d(x.astype(float), w.astype(float), padding=1)).all())
print((functional.conv2d_backward_input(y, w, x.shape, padding=1, algorithm="direct")
       == reference.conv2d_backward_input(y.astype(float), w.astype(float), x.shape, padding=1)).all())
wide = rng.standard_normal((1, 64, 14, 14)).astype(np.float32)
functional.conv2d(wide, rng.standard_normal((64, 64, 3, 3)).astype(np.float32), algorithm="winograd")
model = models.lenet5()
scores = model(np.ones((2, 1, 32, 32), np.float32))
model.backward(scores)
print(scores.shape)
"""


@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which("qemu-x86_64"),
                    reason="needs qemu-x86_64, an emulator of the processor")
def test_a_processor_without_avx_runs_the_baseline_kernels():
    package = str(Path(fastconv.__file__).parents[1])
    emulator = ["qemu-x86_64", "-cpu", "Nehalem", "-U", "FASTCONV_ISA", "-E", "FASTCONV_NUM_THREADS=2"]
    done = subprocess.run([*emulator, "-E", f"PYTHONPATH={package}", sys.executable, "-P", "-c", PROGRAM],
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:4] == ["baseline", "True", "True", "(2, 10)"]
