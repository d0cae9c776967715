# cython: language_level=3
"""fastconv for Cython: cimport fastconv, then fastconv.import_fastconv() once, at the top of the module.

Functions, structures and their meaning are those of fastconv.h (fastconv.get_include() is its include path, which the
extension needs); a name here lacks the prefix fastconv_ and FASTCONV_. Pointers are raw, nothing runs Python, and
functions return a status below 0 where an argument is wrong: check() makes it a ValueError or MemoryError.
"""

cdef extern from *:
    """
    #include <fastconv.h>
    static const fastconv_api *fastconv_table;
    """


cdef extern from "fastconv.h" nogil:
    enum:
        OK "FASTCONV_OK"
        BAD_POINTER "FASTCONV_BAD_POINTER"
        BAD_SHAPE "FASTCONV_BAD_SHAPE"
        BAD_OPTION "FASTCONV_BAD_OPTION"
        BAD_LAYOUT "FASTCONV_BAD_LAYOUT"
        OVERLAP "FASTCONV_OVERLAP"
        NO_MEMORY "FASTCONV_NO_MEMORY"

    enum:
        AUTO "FASTCONV_AUTO"
        DIRECT "FASTCONV_DIRECT"
        WINOGRAD "FASTCONV_WINOGRAD"

    enum:
        IDENTITY "FASTCONV_IDENTITY"
        RELU "FASTCONV_RELU"
        SIGMOID "FASTCONV_SIGMOID"
        TANH "FASTCONV_TANH"

    enum:
        API_VERSION "FASTCONV_API_VERSION"

    ctypedef struct Tensor "fastconv_tensor":
        size_t struct_size
        float *data
        ptrdiff_t size[4]
        ptrdiff_t stride[4]

    ctypedef struct Conv2d "fastconv_conv2d":
        size_t struct_size
        ptrdiff_t stride[2]
        ptrdiff_t dilation[2]
        ptrdiff_t padding[2][2]
        ptrdiff_t groups
        int algorithm
        int activation

    ctypedef struct Pool2d "fastconv_pool2d":
        size_t struct_size
        ptrdiff_t kernel[2]
        ptrdiff_t stride[2]
        ptrdiff_t padding[2]
        ptrdiff_t dilation[2]
        int ceil_mode
        int count_include_pad

    ctypedef struct BatchNorm "fastconv_batch_norm":
        size_t struct_size
        const float *weight
        const float *bias
        float *running_mean
        float *running_var
        double momentum
        double eps
        int training
        int activation

    ctypedef struct Api "fastconv_api":
        size_t struct_size
        int version

    Tensor strided "fastconv_strided"(const float *data, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w,
                                      ptrdiff_t n_stride, ptrdiff_t c_stride, ptrdiff_t h_stride, ptrdiff_t w_stride)
    Tensor nchw "fastconv_nchw"(const float *data, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w)
    Tensor channels_last "fastconv_channels_last"(const float *data, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w)
    Conv2d conv2d_defaults "fastconv_conv2d_defaults"()
    Pool2d pool2d_defaults "fastconv_pool2d_defaults"(ptrdiff_t kernel)
    BatchNorm batch_norm_defaults "fastconv_batch_norm_defaults"()

    const char *library_version "fastconv_table->library_version"()
    const char *isa "fastconv_table->isa"()
    const char *status_text "fastconv_table->status_text"(int status)
    const char *last_error "fastconv_table->last_error"()
    int num_threads "fastconv_table->num_threads"()
    int set_num_threads "fastconv_table->set_num_threads"(int threads)
    int limit_threads "fastconv_table->limit_threads"(int threads)

    int conv2d_output_size "fastconv_table->conv2d_output_size"(
        const Conv2d *conv, const Tensor *x, const Tensor *weight, ptrdiff_t *size)
    int conv2d_forward "fastconv_table->conv2d_forward"(
        const Conv2d *conv, const Tensor *x, const Tensor *weight, const float *bias, const Tensor *residual,
        const Tensor *y)
    int conv2d_backward_input "fastconv_table->conv2d_backward_input"(
        const Conv2d *conv, const Tensor *dy, const Tensor *weight, const Tensor *dx)
    int conv2d_backward_weight "fastconv_table->conv2d_backward_weight"(
        const Conv2d *conv, const Tensor *dy, const Tensor *x, const Tensor *dweight)
    int backward_bias "fastconv_table->backward_bias"(const Tensor *dy, float *dbias)

    int pool2d_output_size "fastconv_table->pool2d_output_size"(const Pool2d *pool, const Tensor *x, ptrdiff_t *size)
    int max_pool2d_forward "fastconv_table->max_pool2d_forward"(
        const Pool2d *pool, const Tensor *x, const Tensor *y, void *argmax)
    int max_pool2d_backward "fastconv_table->max_pool2d_backward"(
        const Pool2d *pool, const Tensor *dy, const void *argmax, const Tensor *dx)
    int avg_pool2d_forward "fastconv_table->avg_pool2d_forward"(const Pool2d *pool, const Tensor *x, const Tensor *y)
    int avg_pool2d_backward "fastconv_table->avg_pool2d_backward"(
        const Pool2d *pool, const Tensor *dy, const Tensor *dx)
    int adaptive_avg_pool2d_forward "fastconv_table->adaptive_avg_pool2d_forward"(const Tensor *x, const Tensor *y)
    int adaptive_avg_pool2d_backward "fastconv_table->adaptive_avg_pool2d_backward"(const Tensor *dy, const Tensor *dx)

    int activation_forward "fastconv_table->activation_forward"(int activation, size_t n, const float *x, float *y)
    int activation_backward "fastconv_table->activation_backward"(
        int activation, size_t n, const float *dy, const float *y, float *dx)

    int batch_norm_forward "fastconv_table->batch_norm_forward"(
        const BatchNorm *norm, const Tensor *x, const Tensor *residual, const Tensor *y, float *mean, float *invstd)
    int batch_norm_backward "fastconv_table->batch_norm_backward"(
        const BatchNorm *norm, const Tensor *dy, const Tensor *x, const float *mean, const float *invstd,
        const Tensor *y, const Tensor *dx, const Tensor *dresidual, float *dweight, float *dbias)

    int linear_forward "fastconv_table->linear_forward"(
        const Tensor *x, const Tensor *weight, const float *bias, const Tensor *y)
    int linear_backward_input "fastconv_table->linear_backward_input"(
        const Tensor *dy, const Tensor *weight, const Tensor *dx)
    int linear_backward_weight "fastconv_table->linear_backward_weight"(
        const Tensor *dy, const Tensor *x, const Tensor *dweight)


cdef extern from "fastconv.h":
    const Api *_import "fastconv_import"() except NULL
    const Api *_table "fastconv_table"


cdef inline int import_fastconv() except -1:
    """Finds the functions, which must not be called before. Raises ImportError."""
    global _table
    _table = _import()
    return 0


cdef inline int check(int status) except -1:
    """Raises MemoryError or ValueError where a function has returned an error."""
    if status == NO_MEMORY:
        raise MemoryError(last_error().decode())
    if status < 0:
        raise ValueError(last_error().decode())
    return 0
