"""One process for each library, so that the idle threads and allocators of one do not disturb another.

A worker waits on its pipe, where it uses no processor, except when it is its turn.
"""

import importlib
import multiprocessing
import os
import sys
import time
import traceback
from contextlib import suppress
from importlib.util import find_spec

from . import timing

# Library -> its contenders. fastconv goes first; a library is a module of `libraries` of the same name.
LIBRARIES = {
    "fastconv": ("fastconv NHWC", "fastconv NCHW"),
    "torch": ("torch NHWC", "torch NCHW", "torch compiled"),
    "onnxruntime": ("onnxrt",),
    "openvino": ("OpenVINO",),
    "tensorflow": ("TensorFlow",),
    "jax": ("JAX",),
    "numpy": ("NumPy im2col", "NumPy taps"),
}
TORCH = LIBRARIES["torch"]
PEERS = tuple(name for library, names in LIBRARIES.items() if library not in ("fastconv", "numpy")
              for name in names)
NUMPY = LIBRARIES["numpy"]

# Between the turns of two processes: spinning threads have gone to sleep, OpenBLAS's last, after 25 ms.
SETTLE_SECONDS = 0.03
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def installed():
    """The libraries that can be imported, without importing them."""
    needs_onnx = ("onnxruntime",)
    return [name for name in LIBRARIES if find_spec(name) and (name not in needs_onnx or find_spec("onnx"))]


def thread_counts():
    """1, 2, 4, ... and as many as this process has processors."""
    processors = len(os.sched_getaffinity(0))
    return (*(1 << bit for bit in range((processors - 1).bit_length())), processors)


def work(pipe, library, threads):
    """The worker's loop: one request (method, *arguments), one answer (value, error)."""
    worker = Worker(library, threads)
    while (request := pipe.recv()) is not None:
        method, *arguments = request
        try:
            pipe.send((getattr(worker, method)(*arguments), None))
        except Exception:  # a library that fails is left out; the others go on
            pipe.send((None, traceback.format_exc()))


class Worker:
    """What the process of a library does on request."""

    def __init__(self, library, threads):
        self._module = importlib.import_module(f".libraries.{library}", __package__)
        self._module.start(threads)
        self._calls = {}

    def build(self, contender, task, *arguments):
        """Prepares a task, "convolution", "inference" or "training", and calls it once; False: has none."""
        self._calls.pop(contender, None)
        prepare = getattr(self._module, task, None)
        call = prepare and prepare(contender, *arguments)
        if call:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # forgets the peak of memory: what preparing takes is nobody's business
            call()  # memory, threads and compiled code are there from the second call on
            self._calls[contender] = call
        return call is not None

    def turn(self, contender, left):
        return timing.turn(self._calls[contender], left)

    def result(self, contender):
        """The result of a call as an ndarray, (N, C, H, W) or (K, C, R, S) where it has four axes."""
        return self._module.to_numpy(self._calls[contender]())

    def export(self, network, batch, path):
        self._module.export(network, batch, path)

    def clear(self):
        self._calls.clear()

    def peak_memory(self):
        """Bytes that the process held at most. Not getrusage's: that remembers the parent's."""
        with open("/proc/self/status") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


class Team:
    """The workers of `libraries`, each with `threads` threads; a context manager that ends them."""

    def __init__(self, threads, libraries=None):
        self.threads = threads
        self.libraries = installed() if libraries is None else libraries
        self._pipes, self._processes, self._last = {}, [], None

    def __enter__(self):
        context = multiprocessing.get_context("spawn")
        before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(self.threads)))
        try:
            for library in self.libraries:
                self._pipes[library], there = context.Pipe()
                process = context.Process(target=work, args=(there, library, self.threads), daemon=True)
                process.start()
                there.close()
                self._processes.append(process)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        return self

    def __exit__(self, *_):
        for pipe in self._pipes.values():
            with suppress(OSError):  # it has died, and said so before
                pipe.send(None)
            pipe.close()
        for process in self._processes:
            process.join()

    def ask(self, library, *request):
        """The answer of a library's worker; raises RuntimeError with its traceback."""
        if library != self._last:
            time.sleep(SETTLE_SECONDS)
            self._last = library
        try:
            self._pipes[library].send(request)
            value, error = self._pipes[library].recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the process of {library} has ended") from error
        if error:
            raise RuntimeError(error)
        return value

    def build(self, task, *arguments, contenders=None):
        """{contender: its library} of all that can do the task, prepared; forgets the task before."""
        found = {}
        for library in self.libraries:
            try:
                self.ask(library, "clear")
                for contender in LIBRARIES[library]:
                    if ((contenders is None or contender in contenders)
                            and self.ask(library, "build", contender, task, *arguments)):
                        found[contender] = library
            except RuntimeError as error:
                what = getattr(arguments[0], "name", arguments[0])
                print(f"bench: {library} is left out of {task} of {what}: {error}", file=sys.stderr)
        return found

    def turns(self, found):
        """The contenders of `build` for timing.best_of_turns."""
        return {contender: lambda left, contender=contender, library=library:
                self.ask(library, "turn", contender, left) for contender, library in found.items()}

    def results(self, found):
        return {contender: self.ask(library, "result", contender) for contender, library in found.items()}
