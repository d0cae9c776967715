"""The memory pool: what it keeps, gives back and refuses."""

import gc

import numpy as np
import pytest
from script import run_script

import fastconv
from fastconv import functional

X = np.zeros((4, 16, 64, 64), np.float32)  # 1 MiB: outputs of this size come from the pool
W = np.zeros((16, 16, 1, 1), np.float32)


@pytest.fixture(autouse=True)
def empty_pool():
    gc.collect()
    fastconv.trim()


def used():
    return fastconv.memory_stats()["used_bytes"]


def test_an_output_counts_as_used_until_its_last_view_dies():
    before = used()
    y = functional.conv2d(X, W)
    assert X.nbytes <= used() - before <= 1.25 * X.nbytes
    view = y[1:, ::2].reshape(-1)[3:]
    del y
    assert used() - before >= X.nbytes or view.base.base is None  # reshape copied: nothing is held
    del view
    assert used() == before


def test_a_freed_block_serves_the_next_call():
    y = functional.conv2d(X, W)
    address = y.ctypes.data
    del y
    kept = fastconv.memory_stats()["kept_bytes"]
    assert kept >= X.nbytes
    y = functional.conv2d(X, W)
    assert y.ctypes.data == address
    assert fastconv.memory_stats()["kept_bytes"] <= kept - X.nbytes


def test_outputs_alive_at_once_do_not_share_memory():
    outputs = [functional.conv2d(X, W) for _ in range(4)]
    for i, a in enumerate(outputs):
        for b in outputs[:i]:
            assert not np.may_share_memory(a, b)


def test_outputs_are_aligned_to_cache_lines():
    for size in (33, 64, 300):
        y = functional.conv2d(np.zeros((1, 16, size, size), np.float32), W)
        assert y.ctypes.data % 64 == 0


def test_trim_returns_what_is_kept_and_nothing_else():
    y = functional.conv2d(X, W)
    before = used()
    del y
    y = functional.conv2d(X, W) + 1
    fastconv.trim()
    stats = fastconv.memory_stats()
    assert stats["kept_bytes"] == 0
    assert stats["peak_bytes"] == stats["used_bytes"] < before
    assert (y == 1).all()


def test_calls_of_different_shapes_by_turns_map_no_memory_anew():
    script = """
        import resource
        import numpy as np
        from fastconv import functional
        w = np.ones((16, 6, 5, 5), np.float32)
        images = [np.ones((count, 6, 14, 14), np.float32) for count in (128, 64, 96, 32)]
        images += [x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2) for x in images]
        def faults(rounds):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(rounds):
                for x in images:
                    functional.conv2d(x, w)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        faults(5)
        print(faults(20))
    """
    # A block that is mapped anew costs a fault for each of its pages.
    assert int(run_script(script)) < 20 * 8


def test_a_training_step_maps_no_memory_after_the_first():
    script = """
        import resource
        import numpy as np
        from fastconv import models
        network = models.googlenet(aux_logits=False)
        x = np.ones((8, 3, 224, 224), np.float32)
        def step():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            network.backward(np.ones_like(network.forward(x)))
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        print([step() for _ in range(4)][-1])
    """
    assert int(run_script(script)) < 500


def test_shapes_long_gone_make_room_for_the_present_one():
    script = """
        import resource
        import numpy as np
        from fastconv import functional
        def call(size):
            functional.relu(np.zeros(size * 200_000, np.float32))
        for size in range(1, 31):            # each of another size, together far more than is kept
            call(size)
        x = np.ones(9_000_000, np.float32)
        functional.relu(x)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            functional.relu(x)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    assert int(run_script(script)) < 10


def test_what_is_kept_stays_near_the_peak_over_many_shapes():
    before = used()
    for size in range(1, 120):
        x = np.zeros((1 + size % 3, 1 + size % 7, size, 1 + 2 * size), np.float32)
        w = np.zeros((1 + size % 40, x.shape[1], 1, 1), np.float32)
        y = functional.conv2d(x, w)
        functional.conv2d_backward_input(y, w, x.shape)
        functional.conv2d_backward_weight(y, x, w.shape)
        stats = fastconv.memory_stats()
        assert stats["kept_bytes"] <= 1.5 * stats["peak_bytes"] + (64 << 20)
    del y
    assert used() == before
    # The largest call alone needs about this much: nothing is kept for each of the shapes before it.
    largest = 3 * 40 * 119 * 239 * 4
    assert fastconv.memory_stats()["peak_bytes"] - before < 4 * largest


def test_resident_memory_does_not_grow_with_calls():
    script = """
        import resource
        import numpy as np
        from fastconv import functional
        def run(sizes):
            for size in sizes:
                x = np.ones((2, 8, size, size), np.float32)
                w = np.ones((16, 8, 3, 3), np.float32)
                y = functional.conv2d(x, w)
                functional.conv2d_backward_weight(y, x, w.shape)
        run(range(90, 100))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run(list(range(3, 100, 3)) * 3)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    assert float(run_script(script)) < 16  # MiB


def test_a_failed_call_leaves_nothing_behind():
    before = used()
    for _ in range(100):
        with pytest.raises(ValueError, match="out must have shape"):
            functional.conv2d(X, W, out=np.empty((1, 1, 1, 1), np.float32))
        with pytest.raises(ValueError, match="grad_output"):
            functional.conv2d_backward_weight(X, X, (5, 16, 1, 1))
    assert used() == before


# Limits a process to 768 MiB more than it has mapped. How much that is, is the interpreter's affair: the
# allocator of a free-threaded one reserves 1 GiB at the start.
LIMIT_MEMORY = """
        import resource
        with open("/proc/self/statm") as file:
            limit = int(file.read().split()[0]) * resource.getpagesize() + (768 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""


def test_without_memory_a_call_raises_memory_error_and_the_next_one_works():
    script = f"""
        import numpy as np
        from fastconv import functional, memory_stats
        x, w = np.ones((1, 1, 256, 256), np.float32), np.ones((4096, 1, 1, 1), np.float32)
        {LIMIT_MEMORY}
        before = memory_stats()["used_bytes"]
        try:
            functional.conv2d(x, w)          # an output of 1 GiB
        except MemoryError as error:
            print(error)
        print(memory_stats()["used_bytes"] == before, functional.conv2d(x, w[:2]).sum())
    """
    message, after = run_script(script, FASTCONV_NUM_THREADS="2").splitlines()
    assert "(1, 4096, 256, 256)" in message or "bytes" in message
    assert after == "True 131072.0"


def test_what_is_kept_is_given_up_when_memory_runs_out():
    script = f"""
        import numpy as np
        from fastconv import functional
        x, w = np.ones((1, 1, 256, 256), np.float32), np.ones((1600, 1, 1, 1), np.float32)
        {LIMIT_MEMORY}
        functional.conv2d(x, w)              # 400 MiB, kept; the next one, of 550 MiB, is of another size
        print(functional.conv2d(x, np.ones((2200, 1, 1, 1), np.float32)).shape)
    """
    assert run_script(script, FASTCONV_NUM_THREADS="2") == "(1, 2200, 256, 256)"
