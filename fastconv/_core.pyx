# cython: language_level=3, binding=True, embedsignature=True, freethreading_compatible=True
"""Checked calls of the C kernels: check, call with the GIL released, raise. Everything else is Python."""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDED, PyBUF_STRIDED_RO, PyBUF_WRITABLE
from cpython.buffer cimport PyBuffer_Release, PyObject_GetBuffer
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uintptr_t

import numpy as np

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
    void fc_threads_limit(int threads) nogil
    void fc_threads_set_default(int threads) nogil
    int fc_threads_default() nogil
    const char *fc_threads_runtime() nogil

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
    int fc_conv2d_forward(const fc_conv2d *, const fc_tensor *x, const fc_tensor *weight, const float *bias,
                          const fc_tensor *y) nogil
    int fc_conv2d_backward_input(const fc_conv2d *, const fc_tensor *dy, const fc_tensor *weight,
                                 const fc_tensor *dx) nogil
    int fc_conv2d_backward_weight(const fc_conv2d *, const fc_tensor *dy, const fc_tensor *x,
                                  const fc_tensor *dweight) nogil


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
    before = fc_threads_allowed() if fc_threads_allowed() != fc_threads_default() else 0
    fc_threads_limit(threads)
    return before


def set_default_threads(int threads):
    fc_threads_set_default(threads)


def process_info():
    """Facts of the processor and the build, as a dict."""
    return {
        "cpu": fc_cpu_name().decode("ascii", "replace").strip(),
        "cache_bytes": [fc_cpu_cache_bytes(1), fc_cpu_cache_bytes(2), fc_cpu_cache_bytes(3)],
        "openmp": fc_threads_runtime().decode(),
    }


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


cdef class View:
    """The buffer of an argument, held for one call."""
    cdef Py_buffer buffer
    cdef object owner

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)


cdef View view(str name, object array, int ndim, fc_tensor *t, bint writable=False):
    """Describes float32 `array` of `ndim` <= 4 axes in `t`; the result keeps it valid.

    Strides that floats cannot express (unaligned fields) are copied. Sizes of 1 get the stride 0."""
    cdef View held = View.__new__(View)
    cdef int flags = PyBUF_FORMAT | (PyBUF_STRIDED if writable else PyBUF_STRIDED_RO)
    cdef int i
    try:
        PyObject_GetBuffer(array, &held.buffer, flags)
    except (TypeError, BufferError, ValueError) as error:
        raise TypeError(f"{name} must be a {'writable ' if writable else ''}float32 array, "
                        f"got {type(array).__name__} ({error})") from None
    cdef const char *form = held.buffer.format
    if form != NULL and (form[0] == c'<' or form[0] == c'=' or form[0] == c'@' or form[0] == c'^'):
        form += 1
    if form == NULL or form[0] != c'f' or form[1] != 0:
        raise TypeError(f"{name} must be float32, got {getattr(array, 'dtype', type(array).__name__)}")
    if held.buffer.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} axes, got shape {tuple(array.shape)}")
    cdef bint aligned = <uintptr_t>held.buffer.buf % 4 == 0
    for i in range(ndim):
        aligned = aligned and held.buffer.strides[i] % 4 == 0
    if not aligned:
        if writable:
            raise ValueError(f"{name} must be aligned to 4 bytes")
        return view(name, np.array(array, np.float32, copy=True), ndim, t)
    t.data = <float *>held.buffer.buf
    for i in range(4):
        t.size[i] = held.buffer.shape[i] if i < ndim else 1
        t.stride[i] = held.buffer.strides[i] // 4 if i < ndim else 0
    return held


cdef bint is_channels_last(const fc_tensor *t):
    """Whether the channels of one pixel lie side by side; axes of size 1 say nothing."""
    return t.size[1] > 1 and t.stride[1] == 1 and (t.size[3] == 1 or t.stride[3] != 1)


cdef bint says_nothing(const fc_tensor *t):
    return t.size[1] == 1 or (t.size[2] == 1 and t.size[3] == 1)


cdef tuple shape_of(const fc_tensor *t):
    return (t.size[0], t.size[1], t.size[2], t.size[3])


cdef View output(object out, tuple shape, bint channels_last, fc_tensor *t, list result):
    """The output array: `out` when given, else a new one; it goes to result[0]."""
    cdef View held
    if out is None:
        out = new_array(shape, channels_last)
        held = view("out", out, len(shape), t, True)
    else:
        held = view("out", out, len(shape), t, True)
        if tuple(out.shape) != shape:
            raise ValueError(f"out must have shape {shape}, got {tuple(out.shape)}")
    result.append(out)
    return held


cdef int no_overlap(object out, str name, object array) except -1:
    if out is not None and np.may_share_memory(out, array):
        raise ValueError(f"out must not overlap {name}")
    return 0


# ---- conv2d -----------------------------------------------------------------------------------------

cdef int geometry(fc_conv2d *conv, tuple x_shape, tuple w_shape, tuple stride, tuple padding, tuple dilation,
                  Py_ssize_t groups, ptrdiff_t *size) except -1:
    """Fills `conv` and the output's height and width `size`; every number is checked."""
    cdef int axis
    cdef object reach, padded
    if groups < 1:
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
    return 0


def conv2d(x, weight, bias, tuple stride, tuple padding, tuple dilation, Py_ssize_t groups, out):
    cdef fc_tensor tx, tw, tb, ty
    cdef fc_conv2d conv
    cdef ptrdiff_t size[2]
    cdef int status
    cdef View hx = view("x", x, 4, &tx)
    cdef View hw = view("weight", weight, 4, &tw)
    cdef View hb = None
    geometry(&conv, shape_of(&tx), shape_of(&tw), stride, padding, dilation, groups, size)
    tb.data = NULL
    if bias is not None:
        hb = view("bias", bias, 1, &tb)
        if tb.size[0] != tw.size[0]:
            raise ValueError(f"bias must have shape ({tw.size[0]},), got ({tb.size[0]},)")
        if tb.size[0] > 1 and tb.stride[0] != 1:
            return conv2d(x, weight, np.ascontiguousarray(bias), stride, padding, dilation, groups, out)
    no_overlap(out, "x", x)
    cdef list result = []
    cdef bint last = is_channels_last(&tx) or (says_nothing(&tx) and tw.stride[0] == 1)
    cdef View hy = output(out, (tx.size[0], tw.size[0], size[0], size[1]), last, &ty, result)
    with nogil:
        status = fc_conv2d_forward(&conv, &tx, &tw, tb.data, &ty)
    if status:
        raise MemoryError("no memory for the workspace of conv2d")
    return result[0]


cdef int same_gradient_shape(const fc_tensor *dy, Py_ssize_t n, Py_ssize_t k, const ptrdiff_t *size) except -1:
    if shape_of(dy) != (n, k, size[0], size[1]):
        raise ValueError(f"grad_output must have shape {(n, k, size[0], size[1])}, got {shape_of(dy)}")
    return 0


def conv2d_backward_input(grad_output, weight, tuple input_shape, tuple stride, tuple padding, tuple dilation,
                          Py_ssize_t groups, out):
    cdef fc_tensor tdy, tw, tdx
    cdef fc_conv2d conv
    cdef ptrdiff_t size[2]
    cdef int status
    cdef View hdy = view("grad_output", grad_output, 4, &tdy)
    cdef View hw = view("weight", weight, 4, &tw)
    geometry(&conv, input_shape, shape_of(&tw), stride, padding, dilation, groups, size)
    same_gradient_shape(&tdy, input_shape[0], tw.size[0], size)
    no_overlap(out, "grad_output", grad_output)
    cdef list result = []
    cdef View hdx = output(out, input_shape, is_channels_last(&tdy), &tdx, result)
    with nogil:
        status = fc_conv2d_backward_input(&conv, &tdy, &tw, &tdx)
    if status:
        raise MemoryError("no memory for the workspace of conv2d_backward_input")
    return result[0]


def conv2d_backward_weight(grad_output, x, tuple weight_shape, tuple stride, tuple padding, tuple dilation,
                           Py_ssize_t groups, out):
    cdef fc_tensor tdy, tx, tdw
    cdef fc_conv2d conv
    cdef ptrdiff_t size[2]
    cdef int status
    cdef View hdy = view("grad_output", grad_output, 4, &tdy)
    cdef View hx = view("x", x, 4, &tx)
    geometry(&conv, shape_of(&tx), weight_shape, stride, padding, dilation, groups, size)
    same_gradient_shape(&tdy, tx.size[0], weight_shape[0], size)
    if out is None:
        if is_channels_last(&tdy):
            k, c, r, s = weight_shape
            out = new_array((r, s, c, k)).transpose(3, 2, 0, 1)
        else:
            out = new_array(weight_shape)
    cdef list result = []
    cdef View hdw = output(out, weight_shape, False, &tdw, result)
    with nogil:
        status = fc_conv2d_backward_weight(&conv, &tdy, &tx, &tdw)
    if status:
        raise MemoryError("no memory for the workspace of conv2d_backward_weight")
    return result[0]
