"""The convolutions of a profile by other means: other algorithms, naive NumPy, other libraries.

Each distinct problem is timed once: random arrays in the layout of the call, the best of many calls, those
that are compared taking turns. Libraries have a process of their own, so that no thread pool disturbs
another.
"""

import json
import subprocess
import sys
import time
from functools import partial

import numpy as np

from .. import _core, functional, num_threads, reference
from .workload import images

LIBRARIES = ("torch", "onnxruntime")
SECONDS = 0.1  # of calls of each contender
_TURN = 4  # calls in a row: the first finds the caches as another contender left them


def _problems(rows):
    """{(convolution, layout): rows}"""
    found = {}
    for row in rows:
        if row.convolution is not None:
            found.setdefault((row.convolution, row.layout), []).append(row)
    return found


def arrays(problem, layout, rng=None):
    """(x, weight, grad_output) of a problem, random."""
    rng = rng or np.random.default_rng(0)
    k, c, r, s = problem.weight_shape
    weight = rng.standard_normal((r, s, c, k), np.float32).transpose(3, 2, 0, 1)
    order = "NCHW" if layout == "NCHW" else "NHWC"
    return images(problem.x_shape, order), weight, images(problem.output_shape, order)


def _call(module, problem, x, weight, grad, **options):
    """The problem as a callable of functional, or of reference."""
    geometry = problem.stride, problem.padding, problem.dilation, problem.groups
    if problem.direction == "forward":
        return partial(module.conv2d, x, weight, None, *geometry, **options)
    if problem.direction == "backward_input":
        return partial(module.conv2d_backward_input, grad, weight, problem.x_shape, *geometry, **options)
    return partial(module.conv2d_backward_weight, grad, x, problem.weight_shape, *geometry, **options)


def best_of(calls, seconds=SECONDS):
    """{name: seconds of the fastest call} of callables that take turns of a few calls."""
    for call in calls.values():
        call()
    best, spent = dict.fromkeys(calls, float("inf")), dict.fromkeys(calls, 0.0)
    while any(one < seconds for one in spent.values()):
        for name, call in calls.items():
            for _ in range(_TURN):
                start = time.perf_counter()
                call()
                taken = time.perf_counter() - start
                best[name], spent[name] = min(best[name], taken), spent[name] + taken
                if spent[name] >= seconds:
                    break
    return best


def algorithms(rows, threads, prepared, seconds=SECONDS):
    """Fills `alternatives` of the rows: {algorithm: seconds} of each that supports the problem.

    prepared: forward takes its weights from prepare_conv2d, as plans do.
    """
    for (problem, layout), same in _problems(rows).items():
        geometry = problem.stride, problem.padding, problem.dilation, problem.groups
        costs = next(costs for name, _, costs in _core.conv2d_choices(
            problem.x_shape, problem.weight_shape, *geometry) if name == problem.direction)
        x, weight, grad = arrays(problem, layout)
        calls = {}
        for name in costs:
            options = {"algorithm": name}
            if prepared and problem.direction == "forward":
                options["filters"] = functional.prepare_conv2d(weight, problem.x_shape, *geometry,
                                                               algorithm=name)
            calls[name] = _call(functional, problem, x, weight, grad, **options)
        with num_threads(threads):
            best = best_of(calls, seconds)
        for row in same:
            row.alternatives = best


def naive(rows):
    """Fills `naive` of the rows: seconds of the reference, plain NumPy in float64, for one image, times N."""
    for (problem, layout), same in _problems(rows).items():
        one = problem._replace(x_shape=(1, *problem.x_shape[1:]))
        call = _call(reference, one, *arrays(one, layout))
        start = time.perf_counter()
        call()
        seconds = problem.x_shape[0] * (time.perf_counter() - start)
        for row in same:
            row.naive = seconds


def peers(rows, threads, seconds=SECONDS, libraries=LIBRARIES):
    """Fills `peers` of the rows: {library: seconds} of those that are installed and do the problem.

    Returns {library: its version, or why there is none}.
    """
    problems = _problems(rows)
    found = {}
    for library in libraries:
        answer = _ask(library, [(*problem, layout) for problem, layout in problems], threads, seconds)
        found[library] = answer["version"]
        for same, best in zip(problems.values(), answer["seconds"], strict=False):
            for row in same:
                if best is not None:
                    row.peers = {**row.peers, library: best}
    return found


def _ask(library, problems, threads, seconds):
    """What profiler.peer answers in a process of its own."""
    question = json.dumps({"problems": problems, "threads": threads, "seconds": seconds})
    done = subprocess.run([sys.executable, "-m", "fastconv.profiler.peer", library], input=question,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return {"version": f"failed: {last}", "seconds": []}
    return json.loads(done.stdout.splitlines()[-1])
