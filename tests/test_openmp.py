"""One OpenMP runtime in a process with other libraries, whichever is imported first; the same bits."""

import importlib.util
import itertools
import re
import shutil
import subprocess
import sys

import pytest
from script import run_script

import fastconv
from fastconv import _core

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux") or "none" in fastconv.info()["openmp"],
                                reason="reads /proc and ELF files, needs OpenMP")

WORK = """
    import hashlib
    import numpy as np
    def runtimes():
        with open("/proc/self/maps") as maps:
            return sorted({line.split()[-1] for line in maps if "gomp" in line})
    def fastconv_bits():
        import fastconv
        x = np.random.default_rng(0).standard_normal((4, 16, 32, 32)).astype(np.float32)
        w = np.random.default_rng(1).standard_normal((40, 16, 3, 3)).astype(np.float32)
        with fastconv.num_threads(2):
            return hashlib.sha256(fastconv.functional.conv2d(x, w, padding=1)).hexdigest()
    def torch_bits():
        import torch
        torch.set_num_threads(2)
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 16, 32, 32)).astype(np.float32))
        return hashlib.sha256((x * x + x).sum(1).numpy()).hexdigest()
    def sklearn_bits():
        from sklearn.ensemble import HistGradientBoostingClassifier
        x = np.random.default_rng(0).standard_normal((300, 8))
        model = HistGradientBoostingClassifier(max_iter=5).fit(x, x[:, 0] > 0)
        return hashlib.sha256(model.predict_proba(x)).hexdigest()
"""
TOGETHER = ("fastconv", "torch"), ("fastconv", "sklearn"), ("fastconv", "torch", "sklearn")
ORDERS = [order for names in TOGETHER for order in itertools.permutations(names)]


def compute(*names):
    """({name: bits}, runtimes mapped) of a process that imports and uses libraries in this order."""
    calls = "".join(f"\n    print({name!r}, {name}_bits())" for name in names)
    *lines, runtimes = run_script(f"{WORK}{calls}\n    print(*runtimes())").splitlines()
    return dict(line.split() for line in lines), runtimes.split()


@pytest.fixture(scope="module")
def alone():
    """{name: bits} of each library in a process of its own, filled on demand."""
    known = {}

    def bits(name):
        if name not in known:
            known[name] = compute(name)[0][name]
        return known[name]

    return bits


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_libraries_share_one_runtime_in_any_order(order, alone):
    for name in order:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    bits, runtimes = compute(*order)
    assert bits == {name: alone(name) for name in order}
    # scikit-learn's wheels carry a copy under a name of their own, which nobody else uses.
    shared = [path for path in runtimes if path.endswith("/libgomp.so.1") or "libgomp.so.1.0" in path]
    assert len(shared) == 1, runtimes
    assert len(runtimes) <= 2 if "sklearn" in order else runtimes == shared


def test_the_runtime_may_be_an_old_one():
    """Symbols of OpenMP 4.5 and older only: another library may have loaded an old runtime before."""
    if not shutil.which("readelf"):
        pytest.skip("readelf is not installed")
    done = subprocess.run(["readelf", "-V", "--wide", _core.__file__], check=True, capture_output=True,
                          text=True)
    needed = set(re.findall(r"\bG?OMP_[0-9.]+", done.stdout))
    assert needed
    assert needed <= {"GOMP_1.0", "GOMP_2.0", "GOMP_3.0", "GOMP_4.0", "GOMP_4.5",
                      "OMP_1.0", "OMP_2.0", "OMP_3.0", "OMP_4.0", "OMP_4.5"}


def test_threadpoolctl_names_the_runtime():
    pytest.importorskip("threadpoolctl")
    script = """
        import threadpoolctl
        import fastconv
        found = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "openmp"]
        print(*(library["prefix"] for library in found))
    """
    assert "libgomp" in run_script(script)
