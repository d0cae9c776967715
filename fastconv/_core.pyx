# cython: language_level=3, binding=True, embedsignature=True, freethreading_compatible=True
"""Checked calls of the C kernels: check, call with the GIL released, raise. Everything else is Python."""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDED, PyBUF_STRIDED_RO, PyBUF_WRITABLE
from cpython.buffer cimport PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_New
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint32_t, uint64_t, uintptr_t

from threading import get_ident

import numpy as np
from numpy import ndarray

cdef extern from "runtime/cpu.h":
    size_t fc_cpu_cache_bytes(int level) nogil
    const char *fc_cpu_name() nogil

cdef extern from "runtime/dispatch.h":
    ctypedef struct fc_kernels:
        const char *isa
        size_t lanes
        int fma
    const fc_kernels *fc_kernels_active() nogil
    const fc_kernels *fc_kernels_available(size_t i) nogil
    int fc_kernels_select(const char *isa) nogil

cdef extern from "runtime/threads.h":
    int fc_threads_allowed() nogil
    int fc_threads_limit(int threads) nogil
    void fc_threads_set_default(int threads) nogil
    int fc_threads_default() nogil
    const char *fc_threads_runtime() nogil

cdef extern from "runtime/timers.h":
    enum: FC_CLOCKS
    void fc_timers_switch(int on) nogil
    int fc_timers_take(long long *ns) nogil

cdef extern from "runtime/system.h":
    long long fc_now() nogil

cdef extern from "runtime/memory.h":
    void *fc_alloc(size_t size) nogil
    void fc_free(void *block) nogil
    ctypedef struct fc_memory:
        size_t used_bytes
        size_t kept_bytes
        size_t peak_bytes
    fc_memory fc_memory_stats() nogil
    void fc_memory_trim() nogil

cdef extern from "ops/ops.h":
    ctypedef struct fc_tensor:
        float *data
        ptrdiff_t size[4]
        ptrdiff_t stride[4]
    ctypedef struct fc_conv2d:
        ptrdiff_t stride[2]
        ptrdiff_t dilation[2]
        ptrdiff_t pad[2][2]
        ptrdiff_t groups
        int algorithm
    ctypedef struct fc_filters:
        float *data
    ctypedef struct fc_conv2d_extras:
        const float *bias
        const float *residual
        bint relu
        const fc_filters *filters
    int FC_DIRECT
    int FC_WINOGRAD
    bint fc_conv2d_supports(const fc_conv2d *, const fc_tensor *weight) nogil
    ctypedef enum fc_pass:
        FC_FORWARD
        FC_BACKWARD_INPUT
        FC_BACKWARD_WEIGHT
    ctypedef struct fc_conv2d_shape:
        ptrdiff_t groups
        ptrdiff_t outputs
        ptrdiff_t channels
        ptrdiff_t taps
        ptrdiff_t stride
        ptrdiff_t height
        ptrdiff_t width
        ptrdiff_t y_height
        ptrdiff_t y_width
        ptrdiff_t images
    int fc_conv2d_choice(fc_pass, const fc_conv2d_shape *, double *costs) nogil
    int fc_conv2d_prepare(const fc_conv2d *, const fc_tensor *x, const fc_tensor *weight, const fc_tensor *y,
                          fc_filters *) nogil
    int fc_conv2d_forward(const fc_conv2d *, const fc_tensor *x, const fc_tensor *weight, const fc_conv2d_extras *,
                          const fc_tensor *y) nogil
    int fc_conv2d_backward_input(const fc_conv2d *, const fc_tensor *dy, const fc_tensor *weight, const float *addend,
                                 const fc_tensor *dx) nogil
    int fc_conv2d_backward_weight(const fc_conv2d *, const fc_tensor *dy, const fc_tensor *x,
                                  const fc_tensor *dweight) nogil
    int fc_linear_forward(const fc_conv2d *, const fc_tensor *x, const fc_tensor *weight, const fc_conv2d_extras *,
                          const fc_tensor *y) nogil
    ctypedef struct fc_compressed:
        size_t floats
        float *data
    int fc_compress(const fc_tensor *weight, fc_compressed *) nogil
    void fc_compressed_free(fc_compressed *) nogil
    int fc_linear_compressed(const fc_compressed *, const fc_tensor *x, const fc_conv2d_extras *,
                             const fc_tensor *y) nogil
    int fc_linear_backward_weight(const fc_conv2d *, const fc_tensor *dy, const fc_tensor *x,
                                  const fc_tensor *dweight) nogil
    int fc_sum_channels(const fc_tensor *x, float *sum) nogil
    ctypedef struct fc_pool2d:
        ptrdiff_t kernel[2]
        ptrdiff_t stride[2]
        ptrdiff_t pad[2]
        ptrdiff_t dilation[2]
        bint count_include_pad
        bint adaptive
        bint behind_relu
    bint fc_pool2d_is_planar(const fc_pool2d *, const fc_tensor *x, const fc_tensor *y) nogil
    int fc_max_pool2d_forward(const fc_pool2d *, const fc_tensor *x, const fc_tensor *y, void *argmax, bint wide) nogil
    int fc_max_pool2d_backward(const fc_pool2d *, const fc_tensor *dy, const void *argmax, bint wide,
                               const fc_tensor *dx) nogil
    int fc_avg_pool2d_forward(const fc_pool2d *, const fc_tensor *x, const fc_tensor *y) nogil
    int fc_avg_pool2d_backward(const fc_pool2d *, const fc_tensor *dy, const fc_tensor *dx) nogil
    void fc_activation_forward(int kind, size_t n, const float *x, float *y) nogil
    void fc_activation_backward(int kind, size_t n, const float *dy, const float *y, float *dx) nogil
    void fc_softmax_forward(bint log, size_t rows, size_t n, const float *x, float *y) nogil
    ctypedef struct fc_batch_norm:
        const float *weight
        const float *bias
        float *mean
        float *invstd
        float *running_mean
        float *running_var
        double momentum
        double eps
        bint training
    int fc_batch_norm_forward(const fc_batch_norm *, const fc_tensor *x, const float *residual, bint relu,
                              const fc_tensor *y) nogil
    int fc_batch_norm_backward(const fc_batch_norm *, const fc_tensor *dy, const fc_tensor *x, int relu, const float *y,
                               const fc_tensor *dx, float *dresidual, float *dweight, float *dbias) nogil
    void fc_sum(size_t n, size_t terms, const float *const *x, bint relu, float *y) nogil
    void fc_copy(const fc_tensor *x, const fc_tensor *y) nogil
    void fc_concat(size_t arrays, const fc_tensor *x, const fc_tensor *y) nogil
    ctypedef struct fc_sgd:
        float lr
        float momentum
        float kept
        float weight_decay
        bint nesterov
        bint first
    ctypedef struct fc_adam:
        float step_size
        float root_correction
        float toward
        float beta2
        float square_share
        float eps
        float weight_decay
    void fc_sgd_step(const fc_sgd *, size_t n, const float *g, float *v, float *p) nogil
    void fc_adam_step(const fc_adam *, size_t n, const float *g, float *m, float *v, float *p) nogil
    int fc_square_sum(size_t n, const float *x, double *sum) nogil
    ctypedef struct fc_local_response:
        ptrdiff_t size
        double alpha
        double beta
        double k
    int fc_local_response_forward(const fc_local_response *, const fc_tensor *x, const fc_tensor *y) nogil
    int fc_local_response_backward(const fc_local_response *, const fc_tensor *dy, const fc_tensor *x,
                                   const fc_tensor *dx) nogil
    ctypedef struct fc_recurrent:
        bint lstm
        bint reverse
        fc_tensor weight
        fc_tensor h0
        fc_tensor c0
        fc_tensor gates
        fc_tensor output
        fc_tensor cells
        fc_tensor dy
        fc_tensor dgates
        fc_tensor dh
        fc_tensor dc
    int fc_recurrent_forward(const fc_recurrent *) nogil
    int fc_recurrent_backward(const fc_recurrent *) nogil
    double fc_multiply_adds(size_t rounds) nogil

cdef extern from "ops/calls.h":
    enum: FC_CALL_ARRAYS
    ctypedef struct fc_call:
        const char *op
        const fc_tensor *arrays[4]
        const fc_conv2d *conv
        const fc_pool2d *pool
        int bias, argmax, relu, training
        long long start
    ctypedef struct fc_kept_call:
        fc_call call
        fc_tensor arrays[4]
        fc_conv2d conv
        fc_pool2d pool
        const char *isa
        int allowed, threads
        unsigned long long thread
        long long end
        long long ns[FC_CLOCKS]
    ctypedef struct fc_calls:
        fc_calls *before
        size_t count
        fc_kept_call calls[1]           # FC_CALLS of them
    fc_calls *fc_calls_take() nogil

cdef extern from "fastconv.h":
    int FASTCONV_API_VERSION
    ctypedef struct fastconv_api
    const fastconv_api *fastconv_get_api(int version) nogil


# What fastconv_import() of fastconv.h looks for.
_C_API = PyCapsule_New(<void *>fastconv_get_api(FASTCONV_API_VERSION), b"fastconv._core._C_API", NULL)


# ---- the process ------------------------------------------------------------------------------------

def isa():
    """Name of the instruction set in use."""
    return fc_kernels_active().isa.decode()


def available_isas():
    """Names of the instruction sets this machine can run, best first."""
    names = []
    cdef size_t i = 0
    while fc_kernels_available(i) != NULL:
        names.append(fc_kernels_available(i).isa.decode())
        i += 1
    return tuple(names)


def set_isa(str name):
    """Uses the kernels of instruction set `name`; for tests and benchmarks.

    Raises ValueError when this machine or build does not have it."""
    if fc_kernels_select(name.encode()) != 0:
        raise ValueError(f"isa must be one of {', '.join(available_isas())}, got {name!r}")


def get_num_threads():
    """Threads that a call from this Python thread may use."""
    return fc_threads_allowed()


def limit_threads(int threads):
    """Limit of the calling thread; 0 goes back to the default. Returns the limit it replaces."""
    return fc_threads_limit(threads)


def set_default_threads(int threads):
    """Limit of all threads without one of their own. Returns the limit it replaces."""
    before = fc_threads_default()
    fc_threads_set_default(threads)
    return before


def process_info():
    """Facts of the processor and the build, as a dict."""
    return {
        "cpu": fc_cpu_name().decode("ascii", "replace").strip(),
        "cache_bytes": [fc_cpu_cache_bytes(1), fc_cpu_cache_bytes(2), fc_cpu_cache_bytes(3)],
        "openmp": fc_threads_runtime().decode(),
    }


PHASES = ("other", "copy", "transform", "multiply", "store", "wait")   # by the numbers of timers.h


def time_phases(bint on):
    """Has the kernels take the time of their phases, or (False) undoes one such call."""
    fc_timers_switch(1 if on else -1)


def clock_ns():
    """The time of the records of Timed."""
    return fc_now()


cdef object seen(object value):
    """(shape, strides, itemsize) of an array, tuples of arrays likewise, other values as they are: no array is kept."""
    if isinstance(value, ndarray):
        return value.shape, value.strides, value.itemsize
    if value is None or isinstance(value, (int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        if not value or isinstance(value[0], (int, tuple)):
            return tuple(value)
        return tuple([seen(one) for one in value])
    if hasattr(value, "shape"):
        return tuple(value.shape), None, getattr(value, "itemsize", 4)
    try:
        with memoryview(value) as memory:
            return memory.shape, memory.strides, memory.itemsize
    except TypeError:
        return None


cdef tuple phases_of(const long long *ns):
    """Nanoseconds of each of PHASES but the first."""
    return ns[1], ns[2], ns[3], ns[4], ns[5]


cdef tuple seen_in_c(const fc_tensor *t):
    """The same of an array of a call from C."""
    return shape_of(t), (4 * t.stride[0], 4 * t.stride[1], 4 * t.stride[2], 4 * t.stride[3]), 4


cdef tuple call_from_c(const fc_kept_call *kept):
    cdef const fc_call *call = &kept.call
    cdef const fc_conv2d *c = &kept.conv
    cdef const fc_pool2d *p = &kept.pool
    cdef int i
    cdef object arrays, conv = None, pool = None
    if call.conv != NULL:
        conv = ((c.stride[0], c.stride[1]), ((c.pad[0][0], c.pad[0][1]), (c.pad[1][0], c.pad[1][1])),
                (c.dilation[0], c.dilation[1]), c.groups, ALGORITHMS[c.algorithm])
    if call.pool != NULL:
        pool = ((p.kernel[0], p.kernel[1]), (p.stride[0], p.stride[1]), (p.pad[0], p.pad[1]),
                (p.dilation[0], p.dilation[1]), bool(p.count_include_pad), bool(p.adaptive))
    arrays = tuple([None if call.arrays[i] == NULL else seen_in_c(&kept.arrays[i]) for i in range(FC_CALL_ARRAYS)])
    return (call.op.decode(), "", kept.isa, kept.allowed, call.start, kept.end, kept.threads,
            phases_of(kept.ns), None,
            (arrays, conv, pool, bool(call.bias), call.argmax, bool(call.relu), bool(call.training)), kept.thread)


def calls_from_c():
    """The calls by way of fastconv.h since the last time: records as Timed makes them, but for the facts.

    In their place are the arguments of profiler.operations.facts behind the first.
    """
    cdef fc_calls *taken = fc_calls_take()
    cdef fc_calls *block = taken
    cdef size_t i
    cdef list found = []
    try:
        while block != NULL:
            for i in range(block.count, 0, -1):
                found.append(call_from_c(&block.calls[i - 1]))
            block = block.before
    finally:
        while taken != NULL:
            block = taken.before
            fc_free(taken)
            taken = block
    return found[::-1]


@cython.auto_pickle(False)
cdef class Timed:
    """A function of this module that records its calls, for the profiler: in place of the function, not part of it.

    records: lists that each record is appended to. here: of the calling thread, its `layer` is part of the record.
    bind(kernel, arguments, keywords): all arguments by their places. counters: None, or what read() and
    since(reading) count.
    """
    cdef readonly str name
    cdef readonly object kernel
    cdef object here, bind
    cdef list records
    cdef dict known
    cdef public object counters

    def __init__(self, str name, kernel, here, list records, bind):
        self.name, self.kernel, self.here, self.records, self.bind = name, kernel, here, records, bind
        self.known = {}

    def __call__(self, *arguments, **keywords):
        cdef long long start, end
        cdef long long ns[FC_CLOCKS]
        cdef int threads
        cdef object counters, before, counts, result
        if not self.records:
            return self.kernel(*arguments, **keywords)
        if keywords:
            arguments = self.bind(self.kernel, arguments, keywords)
        counters = self.counters
        before = None if counters is None else counters.read()
        fc_timers_take(ns)  # what calls that no profile saw have left
        start = fc_now()
        try:
            result = self.kernel(*arguments)
            end = fc_now()
        finally:
            threads = fc_timers_take(ns)
        counts = None if counters is None else counters.since(before)
        self.append(self.here.layer, start, end, threads, ns, counts, self.facts(arguments, result))
        return result

    cdef tuple facts(self, arguments, result):
        """One tuple for all calls that are alike: millions of small ones would keep the garbage collector busy."""
        cdef list found = []
        cdef object value
        for value in arguments:
            found.append(seen(value))
        found.append(seen(result))
        cdef tuple known = tuple(found)
        return self.known.setdefault(known, known)

    cdef int append(self, layer, long long start, long long end, int threads, const long long *ns, counts,
                    tuple facts) except -1:
        cdef object one
        cdef tuple record = (self.name, layer, fc_kernels_active().isa, fc_threads_allowed(), start, end,
                             threads, phases_of(ns), counts, facts, get_ident())
        for one in self.records:
            (<list>one).append(record)
        return 0


cdef struct Lap:
    long long start, end
    int threads
    long long ns[FC_CLOCKS]


@cython.auto_pickle(False)
cdef class TimedCalls:
    """The calls of a plan, recorded: between two kernels nothing but the clock is read, for there every line of
    Python, which the kernels have driven out of the caches, takes microseconds.

    timed: the Timed of each call, None of what is no kernel. layers: of each call. fixed: whether its arrays lie the
    same way whenever the plan runs.
    """
    cdef list timed, fixed, known
    cdef object layers, here

    def __init__(self, list timed, layers, list fixed, here):
        self.timed, self.layers, self.fixed, self.here = timed, layers, fixed, here
        self.known = [None] * len(timed)

    def __call__(self, list calls):
        """Runs the calls [(function, arguments)]."""
        cdef Py_ssize_t i, first = 0, done = 0, count = len(self.timed)
        cdef long long ns[FC_CLOCKS]
        cdef Timed timed
        cdef object counters, before, function, arguments
        cdef list results = [None] * count
        cdef list counts = [None] * count
        cdef Lap *laps = <Lap *>fc_alloc(count * sizeof(Lap))
        if laps == NULL:
            raise MemoryError("no memory for a profile")
        fc_timers_take(ns)
        try:
            for i in range(count):
                function, arguments = calls[i]
                timed = self.timed[i]
                if timed is None:  # what it calls may be recorded
                    self.append(calls, laps, results, counts, first, i)
                    first = done = i + 1
                    self.here.layer = self.layers[i]
                    function(*arguments)
                    fc_timers_take(ns)
                    continue
                counters = timed.counters
                before = None if counters is None else counters.read()
                laps[i].start = fc_now()
                results[i] = function(*arguments)
                laps[i].end = fc_now()
                laps[i].threads = fc_timers_take(laps[i].ns)
                if counters is not None:
                    counts[i] = counters.since(before)
                done = i + 1
        finally:
            self.append(calls, laps, results, counts, first, done)
            fc_free(laps)

    cdef int append(self, list calls, const Lap *laps, list results, list counts, Py_ssize_t first,
                    Py_ssize_t end) except -1:
        cdef Py_ssize_t i
        cdef Timed timed
        cdef tuple known
        for i in range(first, end):
            timed = self.timed[i]
            known = self.known[i]
            if known is None:
                known = timed.facts(calls[i][1], results[i])
                if self.fixed[i]:
                    self.known[i] = known
            timed.append(self.layers[i], laps[i].start, laps[i].end, laps[i].threads, laps[i].ns, counts[i], known)
        return 0


def multiply_adds(size_t rounds):
    """Keeps the allowed threads busy with multiply-adds on registers; returns how many were done."""
    cdef double count
    with nogil:
        count = fc_multiply_adds(rounds)
    return count


def memory_stats():
    """Bytes in use, kept for reuse, and the most in use at once since the last trim()."""
    cdef fc_memory now = fc_memory_stats()
    return {"used_bytes": now.used_bytes, "kept_bytes": now.kept_bytes, "peak_bytes": now.peak_bytes}


def trim():
    """Returns the memory kept for reuse to the operating system."""
    fc_memory_trim()


# ---- arrays -----------------------------------------------------------------------------------------

# Below this NumPy's own allocator is quicker than the pool.
cdef enum:
    POOL_BYTES = 65536


cdef class Block:
    """A block of the pool, exposed through the buffer protocol; arrays on it keep it alive."""
    cdef void *data
    cdef Py_ssize_t length[1]
    cdef Py_ssize_t step[1]

    def __cinit__(self, size_t size):
        self.data = fc_alloc(size)
        if self.data == NULL:
            raise MemoryError(f"no memory for an array of {size} bytes")
        self.length[0] = size
        self.step[0] = 1

    def __getbuffer__(self, Py_buffer *view, int flags):
        view.buf = self.data
        view.obj = self
        view.len = self.length[0]
        view.itemsize = 1
        view.readonly = 0
        view.ndim = 1
        view.format = b"B"
        view.shape = self.length
        view.strides = self.step
        view.suboffsets = NULL
        view.internal = NULL

    def __dealloc__(self):
        fc_free(self.data)


cdef object new_array(tuple shape, bint channels_last=False, object dtype=np.float32):
    """An uninitialised array; channels_last: N, H, W, C in memory, seen as N, C, H, W."""
    cdef tuple stored = shape
    if channels_last:
        stored = (shape[0], shape[2], shape[3], shape[1])
    cdef object count = np.dtype(dtype).itemsize
    for extent in stored:
        count *= extent
    if count > (<object>1 << 62):
        raise MemoryError(f"no memory for an array of shape {shape}")
    if count < POOL_BYTES:
        array = np.empty(stored, dtype)
    else:
        array = np.ndarray(stored, dtype, Block(count))
    return array.transpose(0, 3, 1, 2) if channels_last else array


def empty(tuple shape, bint channels_last):
    """An uninitialised float32 array (N, C, H, W), from the pool where that pays."""
    return new_array(shape, channels_last)


cdef class View:
    """The buffer of an argument, held for one call. `array` is the argument, or, where it has no buffer, a NumPy array
    on its memory; `given` is the argument."""
    cdef Py_buffer buffer
    cdef object array
    cdef object given

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)


# Devices of DLPack whose memory is that of the CPU: kDLCPU, kDLCUDAHost, kDLROCMHost.
HOST_MEMORY = (1, 3, 11)


cdef object without_buffer(str name, object given, bint writable):
    """A NumPy array on the memory of an object without a buffer, or None. __array__ may copy: it is read alone."""
    if isinstance(given, (np.ndarray, type)):
        return None
    try:
        if hasattr(given, "__dlpack__"):
            device = given.__dlpack_device__()
            if device[0] in HOST_MEMORY:
                return np.from_dlpack(given)
        elif hasattr(given, "__array_interface__") or (hasattr(given, "__array__") and not writable):
            return np.asarray(given)
        else:
            return None
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a {'writable ' if writable else ''}float32 array, got "
                        f"{type(given).__name__} of {getattr(given, 'dtype', 'unknown dtype')} ({error})") from None
    raise TypeError(f"{name} must be a float32 array in the memory of the CPU, got {type(given).__name__} on "
                    f"DLPack's device {tuple([int(number) for number in device])}")


cdef View acquire(str name, object array, bint writable):
    """The buffer of a float32 array of any shape; strides that floats cannot express are copied."""
    cdef View held = View.__new__(View)
    cdef int flags = PyBUF_FORMAT | (PyBUF_STRIDED if writable else PyBUF_STRIDED_RO)
    cdef int i
    try:
        PyObject_GetBuffer(array, &held.buffer, flags)
    except (TypeError, BufferError, ValueError) as error:
        # A buffer that must not be written says that the memory must not.
        memory = None if writable and PyObject_CheckBuffer(array) else without_buffer(name, array, writable)
        if memory is None:
            raise TypeError(f"{name} must be a {'writable ' if writable else ''}float32 array, "
                            f"got {type(array).__name__} ({error})") from None
        return acquire_for(array, name, memory, writable)
    if held.buffer.strides == NULL and held.buffer.ndim:
        return acquire_for(array, name, np.asarray(array), writable)      # as ctypes does, whatever it is asked for
    held.array = held.given = array
    cdef const char *form = held.buffer.format
    if form != NULL and (form[0] == c'<' or form[0] == c'=' or form[0] == c'@' or form[0] == c'^'):
        form += 1
    if form == NULL or form[0] != c'f' or form[1] != 0:
        raise TypeError(f"{name} must be float32, got {getattr(array, 'dtype', type(array).__name__)}")
    cdef bint aligned = <uintptr_t>held.buffer.buf % 4 == 0
    for i in range(held.buffer.ndim):
        aligned = aligned and held.buffer.strides[i] % 4 == 0
    if aligned:
        return held
    if writable:
        raise ValueError(f"{name} must be aligned to 4 bytes")
    return acquire(name, np.array(array, np.float32, copy=True), False)


cdef View acquire_for(object given, str name, object array, bint writable):
    """The buffer of the NumPy array on the memory of `given`."""
    cdef View held = acquire(name, array, writable)
    held.given = given
    return held


cdef tuple extents(View held):
    return tuple([extent for extent in held.buffer.shape[:held.buffer.ndim]])


cdef void describe(View held, fc_tensor *t) noexcept:
    """Fills `t` with the at most four axes of `held`, which keeps it valid."""
    cdef int i
    t.data = <float *>held.buffer.buf
    for i in range(4):
        t.size[i] = held.buffer.shape[i] if i < held.buffer.ndim else 1
        t.stride[i] = held.buffer.strides[i] // 4 if i < held.buffer.ndim else 0


cdef View view(str name, object array, int ndim, fc_tensor *t, bint writable=False):
    """Describes float32 `array` of `ndim` <= 4 axes in `t`; the result keeps it valid."""
    cdef View held = acquire(name, array, writable)
    if held.buffer.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {extents(held)}")
    describe(held, t)
    return held


cdef bint is_channels_last(const fc_tensor *t):
    """Whether the channels of one pixel lie side by side; axes of size 1 say nothing."""
    return t.size[1] > 1 and t.stride[1] == 1 and (t.size[3] == 1 or t.stride[3] != 1)


cdef bint says_nothing(const fc_tensor *t):
    """Whether images are contiguous and channels-last at once."""
    return t.size[1] == 1 or (t.size[2] == 1 and t.size[3] == 1)


cdef bint has_filters_last(const fc_tensor *w):
    """Whether weights lie in the order of layers.Conv2d: filters side by side, and more than one number each."""
    return w.stride[0] == 1 and w.size[1] * w.size[2] * w.size[3] > 1


cdef tuple shape_of(const fc_tensor *t):
    return (t.size[0], t.size[1], t.size[2], t.size[3])


cdef View acquire_out(object out, tuple shape):
    """The buffer of `out`, a writable float32 array of this shape that repeats no element."""
    cdef View held = acquire("out", out, True)
    cdef int axis
    if extents(held) != shape:
        raise ValueError(f"out must have shape {shape}, got {extents(held)}")
    for axis in range(held.buffer.ndim):
        if held.buffer.strides[axis] == 0 and held.buffer.shape[axis] > 1 and 0 not in shape:
            raise ValueError(f"out must not repeat elements, got strides {held.array.strides}")
    return held


def array_of(str name, given):
    """The NumPy array on the memory of a float32 array of any kind; of a NumPy array, itself."""
    return np.asarray(acquire(name, given, False).array)


def array_of_out(out, tuple shape):
    """The same of `out`, which must be writable, of this shape, and repeat no element."""
    return np.asarray(acquire_out(out, shape).array)


cdef View output(object out, tuple shape, bint channels_last, fc_tensor *t):
    """The array of the result, described in `t`: `out` when given, else a new one."""
    cdef View held
    if out is None:
        held = acquire("out", new_array(shape, channels_last), True)
    else:
        held = acquire_out(out, shape)
    describe(held, t)
    return held


cdef void bounds(View held, uintptr_t *low, uintptr_t *high) noexcept:
    """Addresses of the first byte and behind the last one."""
    cdef int i
    low[0] = high[0] = <uintptr_t>held.buffer.buf
    for i in range(held.buffer.ndim):
        if held.buffer.shape[i] == 0:
            return
        if held.buffer.strides[i] < 0:
            low[0] += (held.buffer.shape[i] - 1) * held.buffer.strides[i]
        else:
            high[0] += (held.buffer.shape[i] - 1) * held.buffer.strides[i]
    high[0] += 4


cdef bint overlap(View a, View b) noexcept:
    """Whether the address ranges meet."""
    cdef uintptr_t a_low, a_high, b_low, b_high
    bounds(a, &a_low, &a_high)
    bounds(b, &b_low, &b_high)
    return a_low < b_high and b_low < a_high


cdef bint in_place_or_apart(View out, View array) noexcept:
    """Whether element by element results may go to `out`, which has the strides of `array`."""
    return out.buffer.buf == array.buffer.buf or not overlap(out, array)


cdef int no_overlap(View out, str name, View array) except -1:
    """Refuses an output that shares memory with an argument; None is no argument."""
    if array is not None and overlap(out, array) and np.shares_memory(out.array, array.array):
        raise ValueError(f"out must not overlap {name}")
    return 0


cdef bint is_native(const fc_tensor *t):
    """Whether a 4-D array is dense, NCHW or channels-last."""
    cdef ptrdiff_t n = t.size[0], c = t.size[1], h = t.size[2], w = t.size[3]
    if n == 0 or c == 0 or h == 0 or w == 0:
        return True
    if ((w == 1 or t.stride[3] == 1) and (h == 1 or t.stride[2] == w) and (c == 1 or t.stride[1] == h * w)
            and (n == 1 or t.stride[0] == c * h * w)):
        return True
    return ((c == 1 or t.stride[1] == 1) and (w == 1 or t.stride[3] == c) and (h == 1 or t.stride[2] == w * c)
            and (n == 1 or t.stride[0] == c * h * w))


cdef bint same_layout(const fc_tensor *a, const fc_tensor *b):
    """Whether two arrays of one shape have the same strides; axes of size 1 do not matter."""
    cdef int i
    for i in range(4):
        if a.size[i] > 1 and a.stride[i] != b.stride[i]:
            return False
    return True


cdef View native(str name, object array, fc_tensor *t):
    """A 4-D array, copied to contiguous memory unless it is dense in one of the two layouts."""
    cdef View held = view(name, array, 4, t)
    if is_native(t):
        return held
    return view(name, np.ascontiguousarray(held.array), 4, t)


cdef bint is_part(fc_tensor *t, const fc_tensor *model) noexcept:
    """Whether `t` lies as a dense model does, or as some of its channels: pixels further apart where the model is
    channels-last, else images. If so, strides of axes of size 1 are set to what they would be."""
    cdef ptrdiff_t n = t.size[0], c = t.size[1], h = t.size[2], w = t.size[3]
    cdef ptrdiff_t stride[4]
    cdef int i
    if model.stride[1] == 1 or h * w == 1:
        stride[1] = 1
        stride[3] = t.stride[3] if w > 1 else t.stride[2] if h > 1 else t.stride[0] if n > 1 else c
        stride[2] = w * stride[3]
        stride[0] = h * stride[2]
    else:
        stride[3] = 1
        stride[2] = w
        stride[1] = h * w
        stride[0] = t.stride[0] if n > 1 else c * h * w
    for i in range(4):
        if t.size[i] > 1 and t.stride[i] != stride[i]:
            return False
    for i in range(4):
        t.stride[i] = stride[i]
    return True


cdef int copy_like(object copy, View held) except -1:
    """The values of `held` into a new array of its shape."""
    cdef fc_tensor source, target
    cdef View room = acquire("out", copy, True)
    if held.buffer.ndim == 4:
        describe(held, &source)
        describe(room, &target)
        if is_native(&target) and is_part(&source, &target):
            with nogil:
                fc_concat(1, &source, &target)
            return 0
    np.copyto(copy, held.array)
    return 0


cdef View like(str name, object array, const fc_tensor *model, fc_tensor *t, bint part=False):
    """A 4-D array of the model's shape, copied to the model's layout unless it has it; part: see is_part."""
    cdef View held = view(name, array, 4, t)
    if shape_of(t) != shape_of(model):
        raise ValueError(f"{name} must have shape {shape_of(model)}, got {shape_of(t)}")
    if same_layout(t, model) and not part or part and is_part(t, model):
        return held
    copy = new_array(shape_of(model), is_channels_last(model))
    copy_like(copy, held)
    held = view(name, copy, 4, t)
    if part:
        is_part(t, model)
    return held


cdef View vector(str name, object array, Py_ssize_t size, float **data, bint writable=False):
    """A contiguous array of shape (size,); None gives NULL."""
    cdef fc_tensor t
    data[0] = NULL
    if array is None:
        return None
    cdef View held = view(name, array, 1, &t, writable)
    if t.size[0] != size:
        raise ValueError(f"{name} must have shape ({size},), got ({t.size[0]},)")
    if size > 1 and t.stride[0] != 1:
        if writable:
            raise ValueError(f"{name} must be contiguous, got strides {held.array.strides}")
        held = view(name, np.ascontiguousarray(held.array), 1, &t)
    data[0] = t.data
    return held


cdef int raise_for_status(int status, str op) except -1:
    """All that the C functions report is a lack of memory."""
    if status:
        raise MemoryError(f"no memory for the workspace of {op}")
    return 0


cdef class Samples:
    """Some values of float32 arrays of at most 4 axes, which are held, and whether they are what they were.

    All of vectors; of weights (K, C, R, S) one at least of each filter, each input channel and each tap.
    """
    cdef list held
    cdef uint64_t seen

    def __init__(self, arrays):
        self.held = [acquire("arrays", array, False) for array in arrays]
        self.seen = self.digest()

    def agree(self):
        """Whether no sample has changed."""
        return self.digest() == self.seen

    cdef uint64_t digest(self):
        """FNV-1a of the samples, a value at a time."""
        cdef uint64_t state = <uint64_t>0xcbf29ce484222325
        cdef View held
        cdef fc_tensor t
        cdef ptrdiff_t count, n, k, c, r, s
        for held in self.held:
            describe(held, &t)
            if t.size[0] * t.size[1] * t.size[2] * t.size[3] == 0:
                continue
            count = max(t.size[0], t.size[1], t.size[2] * t.size[3])
            k = c = r = s = 0
            for n in range(count):
                state ^= (<const uint32_t *>(t.data + k * t.stride[0] + c * t.stride[1] + r * t.stride[2]
                                             + s * t.stride[3]))[0]
                state *= <uint64_t>0x100000001b3
                k = k + 1 if k + 1 < t.size[0] else 0
                c = c + 1 if c + 1 < t.size[1] else 0
                s += 1
                if s == t.size[3]:
                    s, r = 0, r + 1 if r + 1 < t.size[2] else 0
        return state


# ---- conv2d -----------------------------------------------------------------------------------------

ALGORITHMS = ("auto", "direct", "winograd")      # by the numbers that ops.h gives them


cdef int geometry(fc_conv2d *conv, tuple x_shape, tuple w_shape, tuple stride, tuple padding, tuple dilation,
                  object groups, str algorithm, ptrdiff_t *size) except -1:
    """Fills `conv` and the output's height and width `size`; every number is checked."""
    cdef int axis
    cdef fc_tensor weight
    cdef object reach, padded
    if not 0 < groups < 1 << 31:
        raise ValueError(f"groups must be positive, got {groups}")
    if w_shape[0] % groups or x_shape[1] % groups:
        raise ValueError(f"groups must divide the {x_shape[1]} input and {w_shape[0]} output channels, got {groups}")
    if w_shape[1] * groups != x_shape[1]:
        raise ValueError(f"weight must have {x_shape[1] // groups} input channels "
                         f"({x_shape[1]} channels / {groups} groups), got shape {w_shape}")
    conv.groups = groups
    for axis in range(2):
        if not 0 < stride[axis] < 1 << 31:
            raise ValueError(f"stride must be positive, got {stride}")
        if not 0 < dilation[axis] < 1 << 31:
            raise ValueError(f"dilation must be positive, got {dilation}")
        if not (0 <= padding[axis][0] < 1 << 31 and 0 <= padding[axis][1] < 1 << 31):
            raise ValueError(f"padding must not be negative, got {padding}")
        if w_shape[2 + axis] < 1:
            raise ValueError(f"weight must have taps, got shape {w_shape}")
        reach = dilation[axis] * (w_shape[2 + axis] - 1) + 1
        padded = x_shape[2 + axis] + padding[axis][0] + padding[axis][1]
        if padded < reach:
            raise ValueError(f"weight of shape {w_shape} with dilation {dilation} is larger than the input of shape "
                             f"{x_shape} with padding {padding}")
        conv.stride[axis] = stride[axis]
        conv.dilation[axis] = dilation[axis]
        conv.pad[axis][0] = padding[axis][0]
        conv.pad[axis][1] = padding[axis][1]
        size[axis] = (padded - reach) // stride[axis] + 1
    conv.algorithm = ALGORITHMS.index(algorithm)
    for axis in range(4):
        weight.size[axis] = w_shape[axis]
    if not fc_conv2d_supports(conv, &weight):
        raise ValueError(f'algorithm="{algorithm}" needs square filters of more than s and at most 5 s taps at a '
                         f"stride s of 1 to 4, and dilation 1, got weight of shape {w_shape}, stride {stride}, "
                         f"dilation {dilation}")
    return 0


def conv2d_choices(tuple x_shape, tuple w_shape, tuple stride, tuple padding, tuple dilation, object groups):
    """[(pass, the algorithm that auto takes, {algorithm: cost of an image})]; see choice.explain."""
    cdef fc_conv2d conv
    cdef fc_tensor weight
    cdef ptrdiff_t size[2]
    cdef double costs[3]
    cdef int axis, chosen
    cdef fc_conv2d_shape shape
    geometry(&conv, x_shape, w_shape, stride, padding, dilation, groups, "auto", size)
    for axis in range(4):
        weight.size[axis] = w_shape[axis]
    conv.algorithm = FC_WINOGRAD
    cdef bint both = fc_conv2d_supports(&conv, &weight)
    cdef object outputs = w_shape[0] // groups, channels = w_shape[1]
    cdef object products = groups * outputs * channels * w_shape[2] * w_shape[3] * size[0] * size[1]
    choices = []
    for name, of_pass, k, c, height, width in (
            ("forward", FC_FORWARD, outputs, channels, size[0], size[1]),
            ("backward_input", FC_BACKWARD_INPUT, channels, outputs, -(-x_shape[2] // stride[0]),
             -(-x_shape[3] // stride[1])),
            ("backward_weight", FC_BACKWARD_WEIGHT, outputs, channels, size[0], size[1])):
        if both:
            shape = fc_conv2d_shape(groups, k, c, w_shape[2], stride[0], height, width, size[0], size[1], x_shape[0])
            chosen = fc_conv2d_choice(of_pass, &shape, costs)
            choices.append((name, ALGORITHMS[chosen], {ALGORITHMS[i]: groups * costs[i]
                                                       for i in (FC_DIRECT, FC_WINOGRAD)}))
        else:
            choices.append((name, ALGORITHMS[FC_DIRECT], {ALGORITHMS[FC_DIRECT]: float(products)}))
    return choices


cdef class Filters:
    """A weight as an algorithm multiplies by it, for many calls; see functional.prepare_conv2d."""
    cdef fc_filters made
    cdef const fc_kernels *kernels
    cdef fc_tensor weight
    cdef ptrdiff_t groups

    def __dealloc__(self):
        fc_free(self.made.data)

    cdef bint fits(self, const fc_conv2d *conv, const fc_tensor *weight) noexcept:
        """Whether they were made of a weight of this shape for the kernels in use."""
        cdef int axis
        for axis in range(4):
            if self.weight.size[axis] != weight.size[axis]:
                return False
        return self.groups == conv.groups and self.kernels == fc_kernels_active()


cdef void channels_last_images(ptrdiff_t images, ptrdiff_t channels, ptrdiff_t height, ptrdiff_t width,
                               fc_tensor *t) noexcept:
    """Images as they would lie in memory, of sizes whose products are no concern."""
    t.data = NULL
    t.size[0], t.size[1] = min(images, 1 << 10), channels
    t.size[2], t.size[3] = min(height, 1 << 20), min(width, 1 << 20)
    t.stride[0], t.stride[1], t.stride[2], t.stride[3] = 0, 1, 0, channels
    if channels < 1 << 20:
        t.stride[2] = t.size[3] * channels
        t.stride[0] = t.size[2] * t.stride[2]


def prepare_conv2d(weight, tuple input_shape, tuple stride, tuple padding, tuple dilation, object groups,
                   str algorithm):
    cdef fc_tensor tx, tw, ty
    cdef fc_conv2d conv
    cdef ptrdiff_t size[2]
    cdef int status
    cdef View hw = view("weight", weight, 4, &tw)
    geometry(&conv, input_shape, shape_of(&tw), stride, padding, dilation, groups, algorithm, size)
    channels_last_images(input_shape[0], input_shape[1], input_shape[2], input_shape[3], &tx)
    channels_last_images(input_shape[0], tw.size[0], size[0], size[1], &ty)
    cdef Filters filters = Filters.__new__(Filters)
    filters.kernels, filters.weight, filters.groups = fc_kernels_active(), tw, conv.groups
    with nogil:
        status = fc_conv2d_prepare(&conv, &tx, &tw, &ty, &filters.made)
    raise_for_status(status, "prepare_conv2d")
    return None if filters.made.data == NULL else filters


cdef View term(str name, object array, View out, const fc_tensor *y, const float **data):
    """What is added to `out`, which is `y`, as it is stored: `data`, or NULL where that takes a pass of its own."""
    cdef fc_tensor t
    cdef View held = like(name, array, y, &t)
    no_overlap(out, name, held)
    data[0] = t.data if (y.stride[1] == 1 or y.size[1] <= 1) and same_layout(&t, y) else NULL
    return held


cdef class Conv2dCall:
    """conv2d of these arguments, checked once; each call computes `out` from what the arrays hold by then.

    repeatable: so it does; else the first call does alone, for a residual in another layout is copied at once.
    Raises ValueError, TypeError as functional.conv2d does.
    """
    cdef readonly bint repeatable
    cdef fc_conv2d conv
    cdef fc_tensor x, weight, y
    cdef fc_conv2d_extras extras
    cdef Filters filters
    cdef View out, residual       # residual: where it is added in a pass of its own
    cdef bint relu
    cdef tuple held

    def __init__(self, x, weight, bias, tuple stride, tuple padding, tuple dilation, object groups, str algorithm,
                 residual, bint relu, Filters filters, out):
        cdef float *bias_data
        cdef View hr = None
        cdef ptrdiff_t size[2]
        cdef View hx = view("x", x, 4, &self.x)
        cdef View hw = view("weight", weight, 4, &self.weight)
        geometry(&self.conv, shape_of(&self.x), shape_of(&self.weight), stride, padding, dilation, groups, algorithm,
                 size)
        cdef View hb = vector("bias", bias, self.weight.size[0], &bias_data)
        cdef bint last = is_channels_last(&self.x) or (says_nothing(&self.x) and has_filters_last(&self.weight))
        cdef View hy = output(out, (self.x.size[0], self.weight.size[0], size[0], size[1]), last, &self.y)
        no_overlap(hy, "x", hx)
        no_overlap(hy, "weight", hw)
        no_overlap(hy, "bias", hb)
        self.extras.bias, self.extras.residual, self.extras.relu = bias_data, NULL, relu
        self.repeatable = True
        if residual is not None:
            hr = term("residual", residual, hy, &self.y, &self.extras.residual)
            self.repeatable = hr.given is residual
            if self.extras.residual == NULL:
                self.extras.relu = False
                self.residual = hr
        self.filters, self.relu, self.out = filters, relu, hy
        self.held = hx, hw, hb, hr

    def __call__(self):
        cdef int status
        self.extras.filters = NULL
        if self.filters is not None and self.filters.fits(&self.conv, &self.weight):
            self.extras.filters = &self.filters.made
        with nogil:
            status = fc_conv2d_forward(&self.conv, &self.x, &self.weight, &self.extras, &self.y)
        raise_for_status(status, "conv2d")
        if self.residual is not None:
            sum_of((self.out.array, self.residual.array), self.relu, self.out.array)
        return self.out.given


def conv2d(x, weight, bias, tuple stride, tuple padding, tuple dilation, object groups, str algorithm, residual,
           bint relu, Filters filters, out):
    return Conv2dCall(x, weight, bias, stride, padding, dilation, groups, algorithm, residual, relu, filters, out)()


cdef int same_gradient_shape(const fc_tensor *dy, Py_ssize_t n, Py_ssize_t k, const ptrdiff_t *size) except -1:
    if shape_of(dy) != (n, k, size[0], size[1]):
        raise ValueError(f"grad_output must have shape {(n, k, size[0], size[1])}, got {shape_of(dy)}")
    return 0


def conv2d_backward_input(grad_output, weight, tuple input_shape, tuple stride, tuple padding, tuple dilation,
                          object groups, str algorithm, addend, out):
    cdef fc_tensor tdy, tw, tdx
    cdef fc_conv2d conv
    cdef ptrdiff_t size[2]
    cdef const float *added = NULL
    cdef int status
    cdef View ha = None
    cdef View hdy = view("grad_output", grad_output, 4, &tdy)
    cdef View hw = view("weight", weight, 4, &tw)
    geometry(&conv, input_shape, shape_of(&tw), stride, padding, dilation, groups, algorithm, size)
    same_gradient_shape(&tdy, input_shape[0], tw.size[0], size)
    cdef View hdx = output(out, input_shape, is_channels_last(&tdy), &tdx)
    no_overlap(hdx, "grad_output", hdy)
    no_overlap(hdx, "weight", hw)
    if addend is not None:
        ha = term("addend", addend, hdx, &tdx, &added)
    with nogil:
        status = fc_conv2d_backward_input(&conv, &tdy, &tw, added, &tdx)
    raise_for_status(status, "conv2d_backward_input")
    if ha is not None and added == NULL:
        sum_of((hdx.array, ha.array), False, hdx.array)
    return hdx.given


def conv2d_backward_weight(grad_output, x, tuple weight_shape, tuple stride, tuple padding, tuple dilation,
                           object groups, str algorithm, out):
    cdef fc_tensor tdy, tx, tdw
    cdef fc_conv2d conv
    cdef ptrdiff_t size[2]
    cdef int status
    cdef View hdy = view("grad_output", grad_output, 4, &tdy)
    cdef View hx = view("x", x, 4, &tx)
    geometry(&conv, shape_of(&tx), weight_shape, stride, padding, dilation, groups, algorithm, size)
    same_gradient_shape(&tdy, tx.size[0], weight_shape[0], size)
    if out is None:
        if is_channels_last(&tdy):
            k, c, r, s = weight_shape
            out = new_array((r, s, c, k)).transpose(3, 2, 0, 1)
        else:
            out = new_array(weight_shape)
    cdef View hdw = output(out, weight_shape, False, &tdw)
    no_overlap(hdw, "grad_output", hdy)
    no_overlap(hdw, "x", hx)
    with nogil:
        status = fc_conv2d_backward_weight(&conv, &tdy, &tx, &tdw)
    raise_for_status(status, "conv2d_backward_weight")
    return hdw.given


cdef object channel_sums(View held, const fc_tensor *t, str op, object out):
    """Sums over all axes but the second of `held`, which `t` describes."""
    cdef float *data
    cdef int status
    if out is None:
        out = np.empty(t.size[1], np.float32)
    cdef View hout = vector("out", out, t.size[1], &data, True)
    no_overlap(hout, "grad_output", held)
    with nogil:
        status = fc_sum_channels(t, data)
    raise_for_status(status, op)
    return out


def sum_channels(grad_output, out):
    """Sum over images and pixels of a 4-D array, (N, K, P, Q) -> (K,)."""
    cdef fc_tensor t
    cdef View held = native("grad_output", grad_output, &t)
    return channel_sums(held, &t, "conv2d_backward_bias", out)


# ---- linear: 1x1 convolutions over one row of N pixels ------------------------------------------------

cdef fc_conv2d POINTWISE
POINTWISE.stride[0] = POINTWISE.stride[1] = 1
POINTWISE.dilation[0] = POINTWISE.dilation[1] = 1
POINTWISE.pad[0][0] = POINTWISE.pad[0][1] = POINTWISE.pad[1][0] = POINTWISE.pad[1][1] = 0
POINTWISE.groups = 1


cdef void as_row(fc_tensor *t) noexcept:
    """(N, D) seen as one image of D channels and one row of N pixels."""
    t.size[3] = t.size[0]
    t.stride[3] = t.stride[0]
    t.size[0] = 1
    t.stride[0] = 0


@cython.final
cdef class CompressedWeight:
    """A weight (K, D) of linear in fewer bytes; see functional.compress_weight."""
    cdef fc_compressed made
    cdef readonly tuple shape
    cdef readonly size_t nbytes

    def __dealloc__(self):
        fc_compressed_free(&self.made)

    @property
    def itemsize(self):
        """Bytes of one weight, on average."""
        return self.nbytes / (self.shape[0] * self.shape[1])


def compress_weight(weight):
    cdef fc_tensor t
    cdef int status
    cdef View held = view("weight", weight, 2, &t)
    cdef CompressedWeight compressed = CompressedWeight.__new__(CompressedWeight)
    with nogil:
        status = fc_compress(&t, &compressed.made)
    raise_for_status(status, "compress_weight")
    compressed.shape, compressed.nbytes = (t.size[0], t.size[1]), 4 * compressed.made.floats
    return None if compressed.made.data == NULL else compressed


def linear(x, weight, bias, bint relu, out):
    cdef fc_tensor tx, tw, ty
    cdef fc_conv2d_extras extras
    cdef float *bias_data
    cdef int status
    cdef View hw = None
    cdef CompressedWeight compressed = None
    cdef View hx = in_rows("x", x, 2, &tx)
    if isinstance(weight, CompressedWeight):
        compressed = weight
        tw.size[0], tw.size[1] = compressed.shape
    else:
        hw = view("weight", weight, 2, &tw)
    if tw.size[1] != tx.size[1]:
        raise ValueError(f"weight must have {tx.size[1]} columns, as x of shape ({tx.size[0]}, {tx.size[1]}), "
                         f"got shape ({tw.size[0]}, {tw.size[1]})")
    cdef View hb = vector("bias", bias, tw.size[0], &bias_data)
    cdef View hy = output(out, (tx.size[0], tw.size[0]), False, &ty)
    no_overlap(hy, "x", hx)
    if hw is not None:
        no_overlap(hy, "weight", hw)
    no_overlap(hy, "bias", hb)
    if tw.size[0] > 1 and ty.stride[1] != 1:
        hy = output(None, (tx.size[0], tw.size[0]), False, &ty)
    as_row(&tx)
    as_row(&ty)
    extras.bias, extras.residual, extras.relu, extras.filters = bias_data, NULL, relu, NULL
    with nogil:
        if compressed is None:
            status = fc_linear_forward(&POINTWISE, &tx, &tw, &extras, &ty)
        else:
            status = fc_linear_compressed(&compressed.made, &tx, &extras, &ty)
    raise_for_status(status, "linear")
    return delivered(hy, out)


def linear_backward_input(grad_output, weight, out):
    cdef fc_tensor tdy, tw, tdx
    cdef int status
    cdef View hdy = view("grad_output", grad_output, 2, &tdy)
    cdef View hw = view("weight", weight, 2, &tw)
    if tw.size[0] != tdy.size[1]:
        raise ValueError(f"weight must have {tdy.size[1]} rows, as grad_output of shape ({tdy.size[0]}, "
                         f"{tdy.size[1]}), got shape ({tw.size[0]}, {tw.size[1]})")
    cdef View hdx = output(out, (tdy.size[0], tw.size[1]), False, &tdx)
    no_overlap(hdx, "grad_output", hdy)
    no_overlap(hdx, "weight", hw)
    as_row(&tdy)
    as_row(&tdx)
    with nogil:
        status = fc_conv2d_backward_input(&POINTWISE, &tdy, &tw, NULL, &tdx)
    raise_for_status(status, "linear_backward_input")
    return hdx.given


def linear_backward_weight(grad_output, x, out):
    cdef fc_tensor tdy, tx, tdw
    cdef int status
    cdef View hdy = view("grad_output", grad_output, 2, &tdy)
    cdef View hx = view("x", x, 2, &tx)
    if tdy.size[0] != tx.size[0]:
        raise ValueError(f"grad_output must have {tx.size[0]} rows, as x, got shape ({tdy.size[0]}, {tdy.size[1]})")
    if out is None:
        out = new_array((tx.size[1], tdy.size[1])).T
    cdef View hdw = output(out, (tdy.size[1], tx.size[1]), False, &tdw)
    no_overlap(hdw, "grad_output", hdy)
    no_overlap(hdw, "x", hx)
    as_row(&tdy)
    as_row(&tx)
    with nogil:
        status = fc_linear_backward_weight(&POINTWISE, &tdy, &tx, &tdw)
    raise_for_status(status, "linear_backward_weight")
    return hdw.given


def sum_rows(grad_output, out):
    """Sum over the first axis, (N, K) -> (K,)."""
    cdef fc_tensor t
    cdef View held = view("grad_output", grad_output, 2, &t)
    if (t.size[1] > 1 and t.stride[1] != 1) or (t.size[0] > 1 and t.stride[0] != t.size[1]):
        held = view("grad_output", np.ascontiguousarray(held.array), 2, &t)
    return channel_sums(held, &t, "linear_backward_bias", out)


# ---- pooling ----------------------------------------------------------------------------------------

cdef int pool_geometry(fc_pool2d *pool, tuple kernel, tuple stride, tuple padding, tuple dilation,
                       bint count_include_pad=False, bint adaptive=False) except -1:
    cdef int axis
    for axis in range(2):
        pool.kernel[axis] = kernel[axis]
        pool.stride[axis] = stride[axis]
        pool.pad[axis] = padding[axis]
        pool.dilation[axis] = dilation[axis]
    pool.count_include_pad = count_include_pad
    pool.adaptive = adaptive
    pool.behind_relu = False
    return 0


cdef int is_wide(tuple kernel) except -1:
    """Whether positions in a window are int32 and not uint8."""
    if kernel[0] * kernel[1] > 1 << 31:
        raise ValueError(f"kernel_size must be at most 2**31 pixels for positions in int32, got {kernel}")
    return kernel[0] * kernel[1] > 256


cdef object argmax_array(tuple shape, bint wide, bint planar):
    return new_array(shape, not planar, np.int32 if wide else np.uint8)


cdef object native_argmax(object argmax, tuple shape, bint wide, bint planar):
    """argmax in the memory order of the kernels."""
    cdef object memory = without_buffer("argmax", argmax, False)
    if memory is not None:
        argmax = memory
    elif PyObject_CheckBuffer(argmax):
        argmax = np.asarray(argmax)
    if not isinstance(argmax, np.ndarray) or argmax.dtype != (np.int32 if wide else np.uint8):
        raise TypeError(f"argmax must be an array of {'int32' if wide else 'uint8'}, "
                        f"got {getattr(argmax, 'dtype', type(argmax).__name__)}")
    if argmax.shape != shape:
        raise ValueError(f"argmax must have shape {shape}, got {argmax.shape}")
    if (argmax if planar else argmax.transpose(0, 2, 3, 1)).flags.c_contiguous:
        return argmax
    copy = argmax_array(shape, wide, planar)
    copy[...] = argmax
    return copy


def max_pool2d(x, tuple kernel, tuple stride, tuple padding, tuple dilation, tuple size, bint with_argmax, out,
               bint behind_relu=False):
    """(y, argmax or None); `size` is the output's height and width, checked by the caller."""
    cdef fc_tensor tx, ty
    cdef fc_pool2d pool
    cdef int status
    cdef bint wide = with_argmax and is_wide(kernel)
    cdef Py_buffer positions
    cdef void *data = NULL
    cdef View hx = view("x", x, 4, &tx)
    pool_geometry(&pool, kernel, stride, padding, dilation)
    pool.behind_relu = behind_relu
    cdef tuple shape = (tx.size[0], tx.size[1], size[0], size[1])
    cdef View hy = output(out, shape, is_channels_last(&tx), &ty)
    no_overlap(hy, "x", hx)
    argmax = argmax_array(shape, wide, fc_pool2d_is_planar(&pool, &tx, &ty)) if with_argmax else None
    if with_argmax:
        PyObject_GetBuffer(argmax, &positions, PyBUF_STRIDED)
        data = positions.buf
    with nogil:
        status = fc_max_pool2d_forward(&pool, &tx, &ty, data, wide)
    if with_argmax:
        PyBuffer_Release(&positions)
    raise_for_status(status, "max_pool2d")
    return hy.given, argmax


def max_pool2d_backward(grad_output, argmax, tuple input_shape, tuple kernel, tuple stride, tuple padding,
                        tuple dilation, out):
    cdef fc_tensor tdy, tdx
    cdef fc_pool2d pool
    cdef int status
    cdef bint wide = is_wide(kernel)
    cdef Py_buffer positions
    cdef View hdy = view("grad_output", grad_output, 4, &tdy)
    pool_geometry(&pool, kernel, stride, padding, dilation)
    cdef View hdx = output(out, input_shape, is_channels_last(&tdy), &tdx)
    no_overlap(hdx, "grad_output", hdy)
    argmax = native_argmax(argmax, shape_of(&tdy), wide, fc_pool2d_is_planar(&pool, &tdx, &tdy))
    PyObject_GetBuffer(argmax, &positions, PyBUF_STRIDED_RO)
    with nogil:
        status = fc_max_pool2d_backward(&pool, &tdy, positions.buf, wide, &tdx)
    PyBuffer_Release(&positions)
    raise_for_status(status, "max_pool2d_backward")
    return hdx.given


def avg_pool2d(x, tuple kernel, tuple stride, tuple padding, tuple size, bint count_include_pad, bint adaptive, out):
    cdef fc_tensor tx, ty
    cdef fc_pool2d pool
    cdef int status
    cdef View hx = view("x", x, 4, &tx)
    pool_geometry(&pool, kernel, stride, padding, (1, 1), count_include_pad, adaptive)
    cdef View hy = output(out, (tx.size[0], tx.size[1], size[0], size[1]), is_channels_last(&tx), &ty)
    no_overlap(hy, "x", hx)
    with nogil:
        status = fc_avg_pool2d_forward(&pool, &tx, &ty)
    raise_for_status(status, "avg_pool2d")
    return hy.given


def avg_pool2d_backward(grad_output, tuple input_shape, tuple kernel, tuple stride, tuple padding,
                        bint count_include_pad, bint adaptive, out):
    cdef fc_tensor tdy, tdx
    cdef fc_pool2d pool
    cdef int status
    cdef View hdy = view("grad_output", grad_output, 4, &tdy)
    pool_geometry(&pool, kernel, stride, padding, (1, 1), count_include_pad, adaptive)
    cdef View hdx = output(out, input_shape, is_channels_last(&tdy), &tdx)
    no_overlap(hdx, "grad_output", hdy)
    with nogil:
        status = fc_avg_pool2d_backward(&pool, &tdy, &tdx)
    raise_for_status(status, "avg_pool2d_backward")
    return hdx.given


# ---- activations ------------------------------------------------------------------------------------

RELU, SIGMOID, TANH = range(3)


cdef Py_ssize_t count_of(View held) noexcept:
    cdef Py_ssize_t count = 1
    cdef int i
    for i in range(held.buffer.ndim):
        count *= held.buffer.shape[i]
    return count


cdef bint is_dense(View held) noexcept:
    """Whether the elements fill a span of memory, in any order of the axes."""
    cdef Py_ssize_t expected = 4
    cdef int i, axis, left = 0
    cdef unsigned long long seen = 0
    if held.buffer.ndim > 64:
        return False
    for i in range(held.buffer.ndim):
        if held.buffer.shape[i] == 0:
            return True
        left += held.buffer.shape[i] > 1
    while left:
        axis = -1
        for i in range(held.buffer.ndim):
            if held.buffer.shape[i] > 1 and not seen >> i & 1 and held.buffer.strides[i] == expected:
                axis = i
        if axis < 0:
            return False
        seen |= 1ULL << axis
        expected *= held.buffer.shape[axis]
        left -= 1
    return True


cdef bint same_order(View a, View b) noexcept:
    """Whether two arrays of one shape have the same strides; axes of size 1 do not matter."""
    cdef int i
    for i in range(a.buffer.ndim):
        if a.buffer.shape[i] > 1 and a.buffer.strides[i] != b.buffer.strides[i]:
            return False
    return True


cdef bint same_shape(View a, View b) noexcept:
    cdef int i
    if a.buffer.ndim != b.buffer.ndim:
        return False
    for i in range(a.buffer.ndim):
        if a.buffer.shape[i] != b.buffer.shape[i]:
            return False
    return True


cdef object new_like(View held):
    """A new array of the shape and memory order of a dense one."""
    if count_of(held) * 4 < POOL_BYTES:
        return np.empty_like(held.array, subok=False) if isinstance(held.array, np.ndarray) else np.empty(
            extents(held), np.float32)
    order = sorted(range(held.buffer.ndim), key=lambda i: (-held.buffer.strides[i], i))
    stored = new_array(tuple(held.buffer.shape[i] for i in order))
    return stored.transpose([order.index(i) for i in range(held.buffer.ndim)])


cdef View dense(str name, object array):
    """The array, copied to contiguous memory where it is not dense."""
    cdef View held = acquire(name, array, False)
    return held if is_dense(held) else acquire(name, np.ascontiguousarray(held.array), False)


cdef View matching(str name, object array, str model_name, View model):
    """An array of the model's shape, copied to its memory order unless it has it."""
    cdef View held = acquire(name, array, False)
    if not same_shape(held, model):
        raise ValueError(f"{name} must have the shape {extents(model)} of {model_name}, got {extents(held)}")
    if same_order(held, model):
        return held
    copy = new_like(model)
    copy_like(copy, held)
    return acquire(name, copy, False)


cdef View result_like(View model, object out):
    """Where the result goes: `out` itself when it lies as the model does, else a new array to copy from."""
    cdef View held
    if out is not None:
        held = acquire_out(out, extents(model))
        if same_order(held, model) and in_place_or_apart(held, model):
            return held
    return acquire("out", new_like(model), True)


cdef object delivered(View result, object out):
    if out is None or result.given is out:
        return result.given
    np.copyto(np.asarray(acquire("out", out, True).array), result.array)
    return out


def activation(int kind, x, out):
    cdef View hx = dense("x", x)
    cdef View hy = result_like(hx, out)
    cdef size_t n = count_of(hx)
    with nogil:
        fc_activation_forward(kind, n, <float *>hx.buffer.buf, <float *>hy.buffer.buf)
    return delivered(hy, out)


def activation_backward(int kind, grad_output, y, out):
    cdef View hy = dense("y", y)
    cdef View hdy = matching("grad_output", grad_output, "y", hy)
    cdef View hdx = result_like(hdy, out)
    if not in_place_or_apart(hdx, hy):
        hdx = acquire("out", new_like(hdy), True)
    cdef size_t n = count_of(hy)
    with nogil:
        fc_activation_backward(kind, n, <float *>hdy.buffer.buf, <float *>hy.buffer.buf, <float *>hdx.buffer.buf)
    return delivered(hdx, out)


# ---- sums and joins -----------------------------------------------------------------------------------

cdef enum:
    MOST_ARRAYS = 64


def add(tuple arrays, bint relu, out):
    """Sum of at most MOST_ARRAYS arrays of one shape, from left to right."""
    return sum_of(arrays, relu, out)


cdef object sum_of(tuple arrays, bint relu, object out):
    cdef const float *place[MOST_ARRAYS]
    cdef size_t terms = len(arrays), n, i
    if not 0 < terms <= MOST_ARRAYS:
        raise ValueError(f"arrays must be from 1 to {MOST_ARRAYS}, got {terms}")
    cdef View first = dense("arrays[0]", arrays[0])
    cdef View hy = result_like(first, out)
    cdef View held
    cdef list all_held = [first]
    for i in range(1, terms):
        held = matching(f"arrays[{i}]", arrays[i], "arrays[0]", first)
        if not in_place_or_apart(hy, held):
            hy = acquire("out", new_like(first), True)
        all_held.append(held)
    for i in range(terms):
        place[i] = <const float *>(<View>all_held[i]).buffer.buf
    n = count_of(first)
    with nogil:
        fc_sum(n, terms, place, relu, <float *>hy.buffer.buf)
    return delivered(hy, out)


def copy(x, out):
    """4-D x to `out`, in whatever layout that is."""
    cdef fc_tensor tx, ty
    cdef View hx = view("x", x, 4, &tx)
    cdef View hy = output(out, shape_of(&tx), False, &ty)
    no_overlap(hy, "x", hx)
    with nogil:
        fc_copy(&tx, &ty)
    return hy.given


def concat(tuple arrays, out):
    """At most MOST_ARRAYS 4-D arrays side by side along the channels; channels-last if any of them is."""
    cdef fc_tensor t[MOST_ARRAYS]
    cdef fc_tensor ty, model
    cdef size_t count = len(arrays), i
    cdef Py_ssize_t channels = 0
    cdef View hy
    cdef bint last = False
    if not 0 < count <= MOST_ARRAYS:
        raise ValueError(f"arrays must be from 1 to {MOST_ARRAYS}, got {count}")
    cdef list held = [view(f"arrays[{i}]", arrays[i], 4, &t[i]) for i in range(count)]
    for i in range(count):
        if (t[i].size[0], t[i].size[2], t[i].size[3]) != (t[0].size[0], t[0].size[2], t[0].size[3]):
            raise ValueError(f"arrays must agree in all but the channels, "
                             f"got shapes {', '.join([str(extents(one)) for one in held])}")
        channels += t[i].size[1]
        last = last or is_channels_last(&t[i])
    cdef tuple shape = (t[0].size[0], channels, t[0].size[2], t[0].size[3])
    hy = output(out, shape, last, &ty)
    if not is_native(&ty) or any([overlap(hy, one) for one in held]):
        hy = output(None, shape, last, &ty)
    for i in range(count):
        model = ty
        model.size[1] = t[i].size[1]
        held[i] = like(f"arrays[{i}]", arrays[i], &model, &t[i], True)
    with nogil:
        fc_concat(count, t, &ty)
    return delivered(hy, out)


# ---- steps of optimisers: float32 arrays of one shape, which fill their memory in the same order --------

cdef View state_of(str name, object array, View model):
    """A writable array of the shape and memory order of the parameter `model`."""
    cdef View held = acquire(name, array, True)
    if not same_shape(held, model) or not same_order(held, model):
        raise ValueError(f"{name} must have the shape {extents(model)} and memory order of its parameter, "
                         f"got {extents(held)}")
    return held


def sgd_step(data, grad, velocity, bint first, float lr, float momentum, float kept, float weight_decay,
             bint nesterov):
    cdef View hp = acquire("data", data, True)
    cdef View hg = matching("grad", grad, "data", hp)
    cdef View hv = None if velocity is None else state_of("momentum_buffer", velocity, hp)
    cdef fc_sgd sgd = fc_sgd(lr, momentum, kept, weight_decay, nesterov, first)
    cdef float *v = NULL if hv is None else <float *>hv.buffer.buf
    cdef size_t n = count_of(hp)
    with nogil:
        fc_sgd_step(&sgd, n, <float *>hg.buffer.buf, v, <float *>hp.buffer.buf)


def adam_step(data, grad, mean, square, float step_size, float root_correction, double beta1, double beta2, float eps,
              float weight_decay):
    cdef View hp = acquire("data", data, True)
    cdef View hg = matching("grad", grad, "data", hp)
    cdef View hm = state_of("exp_avg", mean, hp)
    cdef View hv = state_of("exp_avg_sq", square, hp)
    cdef fc_adam adam = fc_adam(step_size, root_correction, 1 - beta1, beta2, 1 - beta2, eps, weight_decay)
    cdef size_t n = count_of(hp)
    with nogil:
        fc_adam_step(&adam, n, <float *>hg.buffer.buf, <float *>hm.buffer.buf, <float *>hv.buffer.buf,
                     <float *>hp.buffer.buf)


def fills_its_memory(array):
    """Whether the elements of a float32 array lie without gaps, in any order of the axes."""
    return is_dense(acquire("array", array, False))


def square_sum(str name, x):
    """Sum of the squares of a float32 array, a float."""
    cdef View held = dense(name, x)
    cdef double sum = 0
    cdef int status
    cdef size_t n = count_of(held)
    with nogil:
        status = fc_square_sum(n, <float *>held.buffer.buf, &sum)
    raise_for_status(status, "square_sum")
    return sum


def softmax(x, bint log, out):
    """Over the last axis of a C-contiguous array."""
    cdef View hx = acquire("x", x, False)
    cdef View hy = acquire("out", out, True)
    cdef size_t n = hx.buffer.shape[hx.buffer.ndim - 1]
    cdef size_t rows = count_of(hx) // n if n else 0
    with nogil:
        fc_softmax_forward(log, rows, n, <float *>hx.buffer.buf, <float *>hy.buffer.buf)
    return out


# ---- batch normalisation ----------------------------------------------------------------------------

def batch_norm(x, weight, bias, running_mean, running_var, bint training, double momentum, double eps, residual,
               bint relu, out):
    """(y, mean, invstd)."""
    cdef fc_tensor tx, ty, tr
    cdef const float *residual_data = NULL
    cdef fc_batch_norm norm
    cdef int status
    cdef View hx = native("x", x, &tx)
    cdef Py_ssize_t channels = tx.size[1]
    cdef Py_ssize_t count = tx.size[0] * tx.size[2] * tx.size[3]
    cdef View hw = vector("weight", weight, channels, <float **>&norm.weight)
    cdef View hb = vector("bias", bias, channels, <float **>&norm.bias)
    cdef View hm = vector("running_mean", running_mean, channels, &norm.running_mean, training)
    cdef View hv = vector("running_var", running_var, channels, &norm.running_var, training)
    if training and count < 2:
        raise ValueError(f"x must have more than one value per channel in training, got shape {shape_of(&tx)}")
    if not training and (running_mean is None or running_var is None):
        raise ValueError("running_mean and running_var must be given when training is False")
    norm.momentum = momentum
    norm.eps = eps
    norm.training = training
    if training:
        mean = np.empty(channels, np.float32)
        invstd = np.empty(channels, np.float32)
    else:
        mean = np.ascontiguousarray(hm.array)
        invstd = (1 / np.sqrt(np.asarray(hv.array, np.float64) + eps)).astype(np.float32)
    cdef View hmean = vector("mean", mean, channels, &norm.mean)
    cdef View hinvstd = vector("invstd", invstd, channels, &norm.invstd)
    cdef View hr = hx
    if residual is not None:
        hr = like("residual", residual, &tx, &tr)
        residual_data = tr.data
    cdef View hy = result_beside(hx, hr, &tx, out, &ty)
    with nogil:
        status = fc_batch_norm_forward(&norm, &tx, residual_data, relu, &ty)
    raise_for_status(status, "batch_norm")
    return delivered(hy, out), mean, invstd


cdef View result_beside(View a, View b, const fc_tensor *model, object out, fc_tensor *t):
    """Where the result of a and b goes, all in the model's layout: `out` itself when it has that layout and
    overlaps neither a nor b but in place, else a new array to copy from."""
    cdef View held
    if out is not None:
        held = output(out, shape_of(model), False, t)
        if same_layout(t, model) and in_place_or_apart(held, a) and in_place_or_apart(held, b):
            return held
    return output(None, shape_of(model), is_channels_last(model), t)


def batch_norm_backward(grad_output, x, mean, invstd, weight, bias, bint training, bint relu, y, bint with_residual,
                        out):
    """(grad_input, grad_weight, grad_bias) and, with_residual, grad_output where y let it through.

    relu: y is the result behind one, or None: it is computed again.
    """
    cdef fc_tensor tdy, tx, tdx, ty, tdr
    cdef const float *y_data = NULL
    cdef float *dresidual = NULL
    cdef View hy = None, hdr = None
    cdef fc_batch_norm norm
    cdef float *dweight_data
    cdef float *dbias_data
    cdef int status
    cdef View hx = native("x", x, &tx)
    cdef View hdy = like("grad_output", grad_output, &tx, &tdy, True)
    cdef Py_ssize_t channels = tx.size[1]
    if y is not None:
        hy = like("y", y, &tx, &ty)
        y_data = ty.data
        if with_residual:
            hdr = output(None, shape_of(&tx), is_channels_last(&tx), &tdr)
            dresidual = tdr.data
    cdef View hw = vector("weight", weight, channels, <float **>&norm.weight)
    cdef View hm = vector("mean", mean, channels, &norm.mean)
    cdef View hi = vector("invstd", invstd, channels, &norm.invstd)
    if hm is None or hi is None:
        raise TypeError("mean and invstd must be float32 arrays, got None")
    cdef View hb = vector("bias", bias, channels, <float **>&norm.bias)
    norm.running_mean = norm.running_var = NULL
    norm.training = training
    dweight = np.empty(channels, np.float32)
    dbias = np.empty(channels, np.float32)
    cdef View hdw = vector("dweight", dweight, channels, &dweight_data, True)
    cdef View hdb = vector("dbias", dbias, channels, &dbias_data, True)
    cdef View hdx = result_beside(hx, hdy, &tx, out, &tdx)
    if (y is not None and not in_place_or_apart(hdx, hy)) or not (same_layout(&tdy, &tx) or not overlap(hdx, hdy)):
        hdx = output(None, shape_of(&tx), is_channels_last(&tx), &tdx)
    with nogil:
        status = fc_batch_norm_backward(&norm, &tdy, &tx, relu, y_data, &tdx, dresidual, dweight_data, dbias_data)
    raise_for_status(status, "batch_norm_backward")
    results = delivered(hdx, out), dweight, dbias
    if not with_residual:
        return results
    return *results, array_of("grad_output", grad_output) if y is None else hdr.array


# ---- local response normalisation ---------------------------------------------------------------------

def local_response_norm(x, ptrdiff_t size, double alpha, double beta, double k, out):
    cdef fc_tensor tx, ty
    cdef fc_local_response norm = fc_local_response(size, alpha, beta, k)
    cdef int status
    cdef View hx = native("x", x, &tx)
    cdef View hy = result_beside(hx, hx, &tx, out, &ty)
    with nogil:
        status = fc_local_response_forward(&norm, &tx, &ty)
    raise_for_status(status, "local_response_norm")
    return delivered(hy, out)


def local_response_norm_backward(grad_output, x, ptrdiff_t size, double alpha, double beta, double k, out):
    cdef fc_tensor tdy, tx, tdx
    cdef fc_local_response norm = fc_local_response(size, alpha, beta, k)
    cdef int status
    cdef View hx = native("x", x, &tx)
    cdef View hdy = like("grad_output", grad_output, &tx, &tdy)
    cdef View hdx = result_beside(hx, hdy, &tx, out, &tdx)
    with nogil:
        status = fc_local_response_backward(&norm, &tdy, &tx, &tdx)
    raise_for_status(status, "local_response_norm_backward")
    return delivered(hdx, out)


# ---- recurrent layers: shapes and dtypes are checked by the caller --------------------------------------

cdef View in_rows(str name, object array, int ndim, fc_tensor *t, bint writable=False):
    """An array whose last axis is contiguous, copied unless it is."""
    cdef View held = view(name, array, ndim, t, writable)
    if t.size[ndim - 1] == 1 or t.stride[ndim - 1] == 1:
        return held
    return view(name, np.ascontiguousarray(held.array), ndim, t)


cdef View either_order(str name, object array, fc_tensor *t):
    """A matrix with a contiguous axis, copied unless it has one."""
    cdef View held = view(name, array, 2, t)
    if t.stride[0] == 1 or t.stride[1] == 1:
        return held
    return view(name, np.ascontiguousarray(held.array), 2, t)


def recurrent(gates, states, weight, bint reverse, out):
    """[output] of an RNN whose states are (h0,), [output, cells] of an LSTM with (h0, c0); gates are changed."""
    cdef fc_recurrent r
    cdef int status
    cdef View hc = None, hcells = None
    r.lstm = len(states) == 2
    r.reverse = reverse
    cdef View hw = either_order("weight_hh", weight, &r.weight)
    cdef View hgates = in_rows("gates", gates, 3, &r.gates, True)
    cdef View hh = in_rows("h0", states[0], 2, &r.h0)
    cdef tuple shape = (r.gates.size[0], r.gates.size[1], r.weight.size[1])
    if r.lstm:
        hc = in_rows("c0", states[1], 2, &r.c0)
        hcells = in_rows("cells", new_array(shape), 3, &r.cells, True)
    cdef View hy = output(out, shape, False, &r.output)
    if (shape[2] > 1 and r.output.stride[2] != 1) or overlap(hy, hh) or (r.lstm and overlap(hy, hc)):
        hy = output(None, shape, False, &r.output)
    with nogil:
        status = fc_recurrent_forward(&r)
    raise_for_status(status, "a recurrent layer")
    return [delivered(hy, out), hcells.array] if r.lstm else [delivered(hy, out)]


def recurrent_backward(grad_output, gates, states, weight, outputs, grad_states, bint reverse):
    """Gradient of the gates; grad_states hold the gradients of the last states and receive those of the first."""
    cdef fc_recurrent r
    cdef int status
    cdef View hgates = None, hc = None, hcells = None, hdc = None
    r.lstm = len(states) == 2
    r.reverse = reverse
    cdef View hw = either_order("weight_hh", weight, &r.weight)
    cdef View hdy = in_rows("grad_output", grad_output, 3, &r.dy)
    cdef View hy = in_rows("output", outputs[0], 3, &r.output)
    cdef View hdh = in_rows("grad_h", grad_states[0], 2, &r.dh, True)
    if r.lstm:
        hgates = in_rows("gates", gates, 3, &r.gates)
        hc = in_rows("c0", states[1], 2, &r.c0)
        hcells = in_rows("cells", outputs[1], 3, &r.cells)
        hdc = in_rows("grad_c", grad_states[1], 2, &r.dc, True)
    grad_gates = new_array((r.dy.size[0], r.dy.size[1], r.weight.size[0]))
    cdef View hdgates = in_rows("grad_gates", grad_gates, 3, &r.dgates, True)
    with nogil:
        status = fc_recurrent_backward(&r)
    raise_for_status(status, "a recurrent layer")
    return grad_gates
