"""Threads: what is allowed, the same bits from many of them, fork, and the state of the processor."""

import ctypes
import multiprocessing
import os
import platform
import sys
import sysconfig
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from check import LAYOUTS, assert_same_bits, in_layout
from script import run_script

import fastconv
from fastconv import functional
from fastconv import threads as threads_module


def large_problem(rng):
    """Pays for a team of five with any instruction set."""
    x = rng.standard_normal((2, 16, 32, 32)).astype(np.float32)
    return x, rng.standard_normal((40, 16, 3, 3)).astype(np.float32)


# ---- how many ---------------------------------------------------------------------------------------


def test_num_threads_nests_and_restores():
    before = fastconv.get_num_threads()
    with fastconv.num_threads(5):
        assert fastconv.get_num_threads() == 5
        with fastconv.num_threads(2):
            assert fastconv.get_num_threads() == 2
        assert fastconv.get_num_threads() == 5
    assert fastconv.get_num_threads() == before


def test_num_threads_restores_after_an_exception():
    before = fastconv.get_num_threads()
    with pytest.raises(KeyError), fastconv.num_threads(3):
        raise KeyError
    assert fastconv.get_num_threads() == before


def test_num_threads_holds_for_its_own_python_thread():
    before = fastconv.get_num_threads()
    with fastconv.num_threads(before + 3), ThreadPoolExecutor(1) as pool:
        assert pool.submit(fastconv.get_num_threads).result() == before


def test_set_num_threads_holds_for_all_python_threads():
    before = fastconv.set_num_threads(7)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(fastconv.get_num_threads).result() == 7
    finally:
        assert fastconv.set_num_threads(before) == 7


def test_a_limit_equal_to_the_default_outlives_a_change_of_the_default():
    default = fastconv.get_num_threads()
    with fastconv.num_threads(default):
        with fastconv.num_threads(default + 1):
            pass
        fastconv.set_num_threads(default + 4)
        try:
            assert fastconv.get_num_threads() == default
        finally:
            fastconv.set_num_threads(default)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", None, 1025, 2**40])
def test_wrong_numbers_of_threads_are_refused(n):
    for function in (fastconv.set_num_threads, lambda n: fastconv.num_threads(n).__enter__()):
        with pytest.raises((ValueError, TypeError), match=f"n must be .*{n!r}"):
            function(n)


@pytest.mark.parametrize(("environment", "expected"), [
    (dict(FASTCONV_NUM_THREADS="3"), 3),
    (dict(OMP_NUM_THREADS="4"), 4),
    (dict(OMP_NUM_THREADS="4,2"), 4),
    (dict(FASTCONV_NUM_THREADS="3", OMP_NUM_THREADS="4"), 3),
    (dict(FASTCONV_NUM_THREADS="", OMP_NUM_THREADS=" 2 "), 2),
])
def test_environment_sets_the_default(environment, expected):
    script = "import fastconv as f; i = f.info(); print(f.get_num_threads(), i['default_num_threads_from'])"
    threads, source = run_script(script, **environment).split()
    assert int(threads) == expected
    assert environment[source].split(",")[0].strip() == str(expected)


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5", "99999", "²"])
def test_a_wrong_number_in_the_environment_is_named(value):
    script = """
        try:
            import fastconv
        except ValueError as error:
            print(error)
    """
    message = run_script(script, FASTCONV_NUM_THREADS=value)
    assert "FASTCONV_NUM_THREADS" in message
    assert value in message


def test_environment_chooses_the_instruction_set():
    script = "import fastconv; print(fastconv.isa())"
    for isa in fastconv.available_isas():
        assert run_script(script, FASTCONV_ISA=isa) == isa
    wrong = "try:\n  import fastconv\nexcept ValueError as error:\n  print(error)"
    assert "avx1024" in run_script(wrong, FASTCONV_ISA="avx1024")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_limits_the_default():
    script = """
        import os
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
        import fastconv
        print(fastconv.get_num_threads())
    """
    assert run_script(script) == "1"


@pytest.mark.parametrize(("files", "process", "expected"), [
    ({"cpu.max": "150000 100000"}, "0::/", 1),
    ({"cpu.max": "400000 100000"}, "0::/", 4),
    ({"cpu.max": "50000 100000"}, "0::/", 1),
    ({"cpu.max": "max 100000"}, "0::/", None),
    ({"a.slice/b/cpu.max": "300000 100000"}, "0::/a.slice/b", 3),
    ({"a.slice/b/cpu.max": "max 100000", "a.slice/cpu.max": "200000 100000"}, "0::/a.slice/b", 2),
    ({"a.slice/cpu.max": "200000 100000"}, "0::/other", None),
    ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/", 3),
    ({"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/job", 3),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/", None),
    ({}, "0::/", None),
])
def test_cgroup_quota(files, process, expected, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "self").write_text(f"1:name=systemd:/elsewhere\n{process}\n")
    assert threads_module._cgroup_quota(tmp_path, tmp_path / "self") == expected
    assert threads_module._cgroup_quota(tmp_path / "nowhere", tmp_path / "nothing") is None


@pytest.fixture
def cgroup():
    """A cgroup with a quota of one processor, of version 1 or 2, where this user may make one."""
    root = Path("/sys/fs/cgroup")
    folder = (root / "cpu" if (root / "cpu").is_dir() else root) / f"fastconv-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        if (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text("100000 100000")
        elif (folder / "cpu.cfs_quota_us").exists():
            (folder / "cpu.cfs_quota_us").write_text("100000")
        else:
            pytest.skip("cgroups here have no quota of processors")
        yield folder
    finally:
        folder.rmdir()


def test_the_quota_of_a_real_cgroup_limits_the_default(cgroup):
    script = f"""
        import os
        from pathlib import Path
        Path({str(cgroup)!r}, "cgroup.procs").write_text(str(os.getpid()))
        import fastconv
        print(fastconv.get_num_threads())
    """
    assert run_script(script) == "1"


def test_physical_cores_counts_siblings_once(tmp_path):
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings + "\n")
    assert threads_module._physical_cores(tmp_path) == 2
    assert threads_module._physical_cores(tmp_path / "nowhere") is None


@pytest.mark.skipif(not sys.platform.startswith("linux") or "none" in fastconv.info()["openmp"],
                    reason="counts threads in /proc, needs OpenMP")
def test_a_team_is_as_large_as_allowed_and_as_the_work_pays_for():
    script = """
        import os
        import numpy as np
        import fastconv
        def workers():
            return len(os.listdir("/proc/self/task"))
        before = workers()
        small = np.zeros((1, 1, 8, 8), np.float32), np.zeros((1, 1, 3, 3), np.float32)
        large = np.zeros((8, 16, 32, 32), np.float32), np.zeros((64, 16, 3, 3), np.float32)
        with fastconv.num_threads(3):
            fastconv.functional.conv2d(*small)
            after_small = workers()
            fastconv.functional.conv2d(*large)
        print(after_small - before, workers() - after_small)
    """
    assert run_script(script) == "0 2"


@pytest.mark.skipif("none" in fastconv.info()["openmp"], reason="needs OpenMP")
def test_threadpoolctl_limits_its_own_thread():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = fastconv.get_num_threads()
    with threadpoolctl.threadpool_limits(1, user_api="openmp"), ThreadPoolExecutor(1) as pool:
        assert fastconv.get_num_threads() == 1
        assert pool.submit(fastconv.get_num_threads).result() == before
        with fastconv.num_threads(3):
            assert fastconv.get_num_threads() == 3
    assert fastconv.get_num_threads() == before
    with threadpoolctl.threadpool_limits(before + 3, user_api="openmp"):
        assert fastconv.get_num_threads() == before


@pytest.mark.parametrize("threads", [7, 16, 37])
def test_large_teams_do_every_task_once(threads, rng):
    """More threads than a list of tasks has shares; channels-last, whose blocks are all in one list."""
    x = rng.standard_normal((8, 40, 40, 96), dtype=np.float32).transpose(0, 3, 1, 2)
    ones, out = np.ones(96, np.float32), np.full_like(x, np.nan)
    expected = functional.batch_norm(x, None, None, ones, ones, training=True)
    with fastconv.num_threads(threads):
        results = functional.batch_norm(x, None, None, ones, ones, training=True, out=out)
    for result, same in zip(results, expected, strict=True):
        assert_same_bits(result, same, threads)


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize(("x_shape", "w_shape", "stride", "padding"), [
    ((1, 256, 14, 14), (128, 256, 3, 3), 1, 1),
    ((3, 256, 7, 7), (112, 256, 3, 3), 1, 1),
    ((3, 192, 15, 15), (96, 192, 3, 3), 2, 1),
    ((1, 192, 31, 31), (48, 192, 3, 3), 2, 1),
    ((1, 512, 28, 28), (64, 512, 1, 1), 1, 0),
    ((5, 512, 14, 14), (80, 512, 1, 1), 2, 0),
    ((1, 512, 1, 300), (64, 512, 1, 3), 1, (0, 1)),
    ((2, 128, 20, 20), (48, 128, 5, 5), 1, 2),
    ((2, 384, 14, 14), (96, 192, 3, 3), 1, 1),
])
def test_few_filters_are_shared_out_over_pixels(x_shape, w_shape, stride, padding, algorithm, rng):
    """Fewer panels of filters than threads, or one left over: their pixels are shared out."""
    x = rng.standard_normal(x_shape, dtype=np.float32)
    w = rng.standard_normal(w_shape, dtype=np.float32)
    bias = rng.standard_normal(w_shape[0], dtype=np.float32)
    groups = x_shape[1] // w_shape[1]
    options = {"stride": stride, "padding": padding, "groups": groups, "algorithm": algorithm}
    filters = functional.prepare_conv2d(w, x_shape, **options)
    with fastconv.num_threads(1):
        y = functional.conv2d(x, w, bias, **options)
        dx = functional.conv2d_backward_input(y, w, x_shape, **options)
    for layout in LAYOUTS:
        images, grad = in_layout(x, layout), in_layout(y, layout)
        for threads in (2, 3, 7, 16):
            with fastconv.num_threads(threads):
                assert_same_bits(functional.conv2d(images, w, bias, **options), y, threads)
                assert_same_bits(functional.conv2d(images, w, bias, filters=filters, **options), y, threads)
                assert_same_bits(functional.conv2d_backward_input(grad, w, x_shape, **options), dx, threads)


# ---- at once ----------------------------------------------------------------------------------------


def test_many_python_threads_get_the_same_bits(rng):
    x, w = large_problem(rng)
    expected = functional.conv2d(x, w, padding=1)
    start = threading.Barrier(6)

    def work(i):
        start.wait()
        with fastconv.num_threads(1 + i % 3):
            for _ in range(5):
                y = functional.conv2d(x, w, padding=1)
                dx = functional.conv2d_backward_input(y, w, x.shape, padding=1)
                dw = functional.conv2d_backward_weight(y, x, w.shape, padding=1)
        return y, dx, dw

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, range(6)))
    for y, dx, dw in results:
        assert_same_bits(y, expected, "conv2d")
        assert_same_bits(dx, results[0][1], "conv2d_backward_input")
        assert_same_bits(dw, results[0][2], "conv2d_backward_weight")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_after_a_parallel_call_computes_the_same_bits():
    script = """
        import os
        import numpy as np
        import fastconv
        x = np.random.default_rng(0).standard_normal((2, 16, 32, 32)).astype(np.float32)
        w = np.random.default_rng(1).standard_normal((40, 16, 3, 3)).astype(np.float32)
        def run():
            return fastconv.functional.conv2d(x, w, padding=1).tobytes()
        with fastconv.num_threads(3):
            expected = run()
            child = os.fork()
            if not child:
                os._exit(7 if run() == expected else 1)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(status, run() == expected)
    """
    assert run_script(script, timeout=20) == "7 True"


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pools_of_processes_compute_the_same_bits(method):
    script = f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        import numpy as np
        import fastconv
        from fastconv import functional
        x = np.random.default_rng(0).standard_normal((2, 16, 32, 32)).astype(np.float32)
        w = np.random.default_rng(1).standard_normal((40, 16, 3, 3)).astype(np.float32)
        with fastconv.num_threads(3):
            expected = functional.conv2d(x, w).tobytes()
        with ProcessPoolExecutor(2, multiprocessing.get_context({method!r})) as pool:
            results = list(pool.map(functional.conv2d, [x] * 4, [w] * 4))
        print(*(y.tobytes() == expected for y in results))
    """
    assert run_script(script) == "True True True True"


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs free threads")
def test_free_threads_stay_free():
    assert run_script("import sys, fastconv; print(sys._is_gil_enabled())") == "False"


# ---- the state of the processor ---------------------------------------------------------------------

libm = ctypes.CDLL("libm.so.6") if sys.platform.startswith("linux") else None
needs_fenv = pytest.mark.skipif(libm is None or platform.machine() != "x86_64", reason="reads glibc's fenv_t")
FE_UPWARD, FE_TONEAREST, FE_ALL_EXCEPT = 0x800, 0, 0x3D


def floating_point_environment():
    """x87 and SSE control and status words: rounding, masks, flush-to-zero and sticky exceptions.

    Without "inexact", which any division sets, the interpreter's own too."""
    words = (ctypes.c_uint32 * 8)()
    libm.fegetenv(words)
    return [word & ~0x20 if i in (1, 7) else word for i, word in enumerate(words)]


@needs_fenv
@pytest.mark.parametrize("rounding", [FE_TONEAREST, FE_UPWARD])
def test_the_floating_point_state_is_left_alone(rounding, rng):
    x, w = large_problem(rng)
    x[0, 0, 0, :3] = 1e-40, 3e38, np.inf  # underflow, overflow and invalid operations inside
    w[:, :, 0] = 3e38
    libm.feclearexcept(FE_ALL_EXCEPT)
    libm.fesetround(rounding)
    try:
        before = floating_point_environment()
        for threads in (1, 2):
            with fastconv.num_threads(threads):
                functional.conv2d(x, w)
        after = floating_point_environment()
    finally:
        libm.fesetround(FE_TONEAREST)
        libm.feclearexcept(FE_ALL_EXCEPT)
    assert after == before


@needs_fenv
def test_import_leaves_the_floating_point_state_alone():
    script = """
        import ctypes
        import numpy
        libm = ctypes.CDLL("libm.so.6")
        before, after = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()
        libm.feclearexcept(0x3D)
        libm.fegetenv(before)
        import fastconv.functional
        libm.fegetenv(after)
        print(hex(before[7] & ~0x3F) == hex(after[7] & ~0x3F), numpy.float32(1e-40) * numpy.float32(0.5) > 0)
    """
    assert run_script(script) == "True True"


def best_seconds(function, calls=15):
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def test_denormals_do_not_slow_a_convolution(rng):
    x, w = large_problem(rng)
    out = np.empty((2, 40, 30, 30), np.float32)
    with fastconv.num_threads(1):
        normal = best_seconds(lambda: functional.conv2d(x, w, out=out))
        denormal = best_seconds(lambda: functional.conv2d(x * np.float32(1e-39), w, out=out))
    # Processors that trap to microcode for a denormal take ten times as long and more.
    assert denormal < 3 * normal
