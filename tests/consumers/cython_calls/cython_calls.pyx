# cython: language_level=3, freethreading_compatible=True
"""Every function of fastconv/__init__.pxd called once. Arrays are 4-D; results are the last arguments."""

cimport fastconv
from libc.stdint cimport uintptr_t

fastconv.import_fastconv()


cdef fastconv.Tensor of(const float[:, :, :, :] a):
    """Arrays are not empty here."""
    return fastconv.strided(&a[0, 0, 0, 0], a.shape[0], a.shape[1], a.shape[2], a.shape[3], a.strides[0] // 4,
                            a.strides[1] // 4, a.strides[2] // 4, a.strides[3] // 4)


def process():
    """(version of the library, instruction set, version of the interface, threads, what a wrong number says)."""
    cdef int before = fastconv.set_num_threads(3), limited, threads
    limited = fastconv.limit_threads(2)
    threads = fastconv.num_threads()
    fastconv.limit_threads(limited)
    fastconv.set_num_threads(before)
    cdef int status = fastconv.limit_threads(-1)
    return (fastconv.library_version().decode(), fastconv.isa().decode(), fastconv.API_VERSION, threads,
            fastconv.status_text(status).decode(), fastconv.last_error().decode())


cdef fastconv.Conv2d options(Py_ssize_t stride, Py_ssize_t padding, Py_ssize_t groups):
    cdef fastconv.Conv2d conv = fastconv.conv2d_defaults()
    cdef int axis
    for axis in range(2):
        conv.stride[axis] = stride
        conv.padding[axis][0] = conv.padding[axis][1] = padding
    conv.groups = groups
    conv.algorithm = fastconv.DIRECT
    conv.activation = fastconv.RELU
    return conv


def conv2d(x, weight, const float[::1] bias, residual, y, stride=1, padding=0, groups=1):
    """Relu of the convolution and residual; returns (P, Q)."""
    cdef fastconv.Conv2d conv = options(stride, padding, groups)
    cdef fastconv.Tensor tx = of(x), tw = of(weight), tr = of(residual), ty = of(y)
    cdef ptrdiff_t size[2]
    fastconv.check(fastconv.conv2d_output_size(&conv, &tx, &tw, size))
    cdef int status
    with nogil:
        status = fastconv.conv2d_forward(&conv, &tx, &tw, &bias[0], &tr, &ty)
    fastconv.check(status)
    return size[0], size[1]


def conv2d_backward(dy, x, weight, dx, dweight, float[::1] dbias, stride=1, padding=0, groups=1):
    cdef fastconv.Conv2d conv = options(stride, padding, groups)
    cdef fastconv.Tensor tdy = of(dy), tx = of(x), tw = of(weight), tdx = of(dx), tdw = of(dweight)
    fastconv.check(fastconv.conv2d_backward_input(&conv, &tdy, &tw, &tdx))
    fastconv.check(fastconv.conv2d_backward_weight(&conv, &tdy, &tx, &tdw))
    fastconv.check(fastconv.backward_bias(&tdy, &dbias[0]))


def max_pool2d(x, unsigned char[:, :, :, ::1] argmax, dy, y, dx, kernel):
    """Forward and backward; returns (P, Q)."""
    cdef fastconv.Pool2d pool = fastconv.pool2d_defaults(kernel)
    cdef fastconv.Tensor tx = of(x), tdy = of(dy), ty = of(y), tdx = of(dx)
    cdef ptrdiff_t size[2]
    fastconv.check(fastconv.pool2d_output_size(&pool, &tx, size))
    fastconv.check(fastconv.max_pool2d_forward(&pool, &tx, &ty, &argmax[0, 0, 0, 0]))
    fastconv.check(fastconv.max_pool2d_backward(&pool, &tdy, &argmax[0, 0, 0, 0], &tdx))
    return size[0], size[1]


def avg_pool2d(x, dy, y, dx, kernel):
    """kernel 0: adaptive."""
    cdef fastconv.Pool2d pool = fastconv.pool2d_defaults(kernel)
    cdef fastconv.Tensor tx = of(x), tdy = of(dy), ty = of(y), tdx = of(dx)
    if kernel:
        fastconv.check(fastconv.avg_pool2d_forward(&pool, &tx, &ty))
        fastconv.check(fastconv.avg_pool2d_backward(&pool, &tdy, &tdx))
    else:
        fastconv.check(fastconv.adaptive_avg_pool2d_forward(&tx, &ty))
        fastconv.check(fastconv.adaptive_avg_pool2d_backward(&tdy, &tdx))


def tanh(const float[::1] x, const float[::1] dy, float[::1] y, float[::1] dx):
    fastconv.check(fastconv.activation_forward(fastconv.TANH, x.shape[0], &x[0], &y[0]))
    fastconv.check(fastconv.activation_backward(fastconv.TANH, x.shape[0], &dy[0], &y[0], &dx[0]))


def batch_norm(x, const float[::1] weight, residual, dy, y, float[::1] mean, float[::1] invstd, dx, dresidual,
               float[::1] dweight, float[::1] dbias):
    """In training, with relu."""
    cdef fastconv.BatchNorm norm = fastconv.batch_norm_defaults()
    cdef fastconv.Tensor tx = of(x), tr = of(residual), tdy = of(dy), ty = of(y), tdx = of(dx), tdr = of(dresidual)
    norm.weight = &weight[0]
    norm.training = 1
    norm.activation = fastconv.RELU
    fastconv.check(fastconv.batch_norm_forward(&norm, &tx, &tr, &ty, &mean[0], &invstd[0]))
    fastconv.check(fastconv.batch_norm_backward(&norm, &tdy, &tx, &mean[0], &invstd[0], &ty, &tdx, &tdr, &dweight[0],
                                                &dbias[0]))


def linear(x, weight, const float[::1] bias, dy, y, dx, dweight):
    cdef fastconv.Tensor tx = of(x), tw = of(weight), tdy = of(dy), ty = of(y), tdx = of(dx), tdw = of(dweight)
    fastconv.check(fastconv.linear_forward(&tx, &tw, &bias[0], &ty))
    fastconv.check(fastconv.linear_backward_input(&tdy, &tw, &tdx))
    fastconv.check(fastconv.linear_backward_weight(&tdy, &tx, &tdw))


cdef tuple facts(fastconv.Tensor t):
    return <uintptr_t>t.data, tuple(t.size), tuple(t.stride)


def layouts(const float[:, :, :, ::1] x):
    """(address, size, stride) of the constructors."""
    return [facts(fastconv.nchw(&x[0, 0, 0, 0], 2, 3, 4, 5)), facts(fastconv.channels_last(&x[0, 0, 0, 0], 2, 3, 4, 5))]
