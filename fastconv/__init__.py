"""fastconv: convolutional networks on the CPU.

    import fastconv
    y = fastconv.functional.conv2d(x, weight, bias, padding=1)

Submodules are imported on first use: functional, layers, losses, optim, init, data, augment, models, train,
summary, reference. The adapters fastconv.torch, fastconv.sklearn and fastconv.jax are imported by name.
FASTCONV_ISA forces an instruction set, FASTCONV_NUM_THREADS the threads.
"""

import importlib
import os
import sys
from pathlib import Path

if sys.platform == "win32":
    # LLVM's OpenMP ends a process in which it meets a second copy of itself, such as torch's.
    os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")

from . import _core
from ._core import available_isas, isa, memory_stats, set_isa, trim
from .grad import is_grad_enabled, no_grad
from .threads import default_num_threads, get_num_threads, num_threads, set_num_threads

__version__ = "0.1.0"

_SUBMODULES = ("augment", "challenge", "checkpoint", "data", "functional", "init", "layers", "losses",
               "metrics", "models", "onnx", "optim", "plots", "reference", "summary", "train")

__all__ = [*_SUBMODULES, "algorithms", "available_isas", "explain", "get_include", "get_num_threads", "info",
           "is_grad_enabled", "isa", "memory_stats", "no_grad", "num_threads", "profile", "set_isa",
           "set_num_threads", "trim"]


def algorithms():
    """Names of the convolution algorithms, besides "auto"."""
    return importlib.import_module("fastconv.functional").ALGORITHMS


def explain(x_shape, weight_shape, stride=1, padding=0, dilation=1, groups=1):
    """What algorithm="auto" takes for a convolution and its gradients, and why: see choice.explain."""
    module = importlib.import_module("fastconv.choice")
    return module.explain(x_shape, weight_shape, stride, padding, dilation, groups)


def profile(title="", counters=False):
    """A context in which every call of a kernel is timed and compared with what the machine can do.

        with fastconv.profile() as p:
            model(images)
        print(p.table())

    See profiler.Profile. While none is open nothing is timed, and calls take the time they always do.
    """
    return importlib.import_module("fastconv.profiler").Profile(title, counters)


def get_include():
    """The folder of fastconv.h, for the compiler of C and Cython code that calls the kernels."""
    return str(Path(__file__).parent / "include")


def info():
    """Version, processor, caches, instruction sets, threads and OpenMP runtime, as a dict."""
    threads, reason = default_num_threads()
    return {"version": __version__, **_core.process_info(), "isa": isa(),
            "available_isas": available_isas(), "num_threads": get_num_threads(),
            "default_num_threads": threads, "default_num_threads_from": reason}


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(f"fastconv.{name}")
    raise AttributeError(f"module 'fastconv' has no attribute {name!r}")


if os.environ.get("FASTCONV_ISA"):
    set_isa(os.environ["FASTCONV_ISA"])
