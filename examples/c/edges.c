/* SPDX-License-Identifier: MIT */
/* A Python extension module in C: edges.sobel(image, out) writes the length of the gradient of a grey image,
 * (H, W) float32, by Sobel's filters; image and out are anything with a buffer. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <string.h>

#include <fastconv.h>

static const fastconv_api *fc;

static const float SOBEL[2][9] = {
    {-1, 0, 1, -2, 0, 2, -1, 0, 1},
    {-1, -2, -1, 0, 0, 0, 1, 2, 1},
};

static int is_image(const Py_buffer *view)
{
    return view->ndim == 2 && view->format && strcmp(view->format, "f") == 0;
}

/* Returns 0, or -1 with a Python exception. Python's lock is free during the convolution. */
static int filter(const Py_buffer *image, const Py_buffer *out)
{
    const ptrdiff_t height = image->shape[0], width = image->shape[1], pixels = height * width;
    float *gradient = PyMem_Malloc((size_t)(2 * pixels) * sizeof(float));
    if (!gradient) {
        PyErr_NoMemory();
        return -1;
    }
    fastconv_conv2d conv = fastconv_conv2d_defaults();
    for (int side = 0; side < 2; side++)
        conv.padding[0][side] = conv.padding[1][side] = 1;
    const fastconv_tensor x = fastconv_nchw((const float *)image->buf, 1, 1, height, width);
    const fastconv_tensor weight = fastconv_nchw(SOBEL[0], 2, 1, 3, 3);
    const fastconv_tensor y = fastconv_nchw(gradient, 1, 2, height, width);
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = fc->conv2d_forward(&conv, &x, &weight, NULL, NULL, &y);
    if (status == FASTCONV_OK)
        for (ptrdiff_t i = 0; i < pixels; i++)
            ((float *)out->buf)[i] = sqrtf(gradient[i] * gradient[i] + gradient[pixels + i] * gradient[pixels + i]);
    Py_END_ALLOW_THREADS
    PyMem_Free(gradient);
    if (status == FASTCONV_OK)
        return 0;
    PyErr_SetString(status == FASTCONV_NO_MEMORY ? PyExc_MemoryError : PyExc_ValueError, fc->last_error());
    return -1;
}

static PyObject *sobel(PyObject *module, PyObject *arguments)
{
    PyObject *given[2];
    Py_buffer image, out;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "OO:sobel", &given[0], &given[1]) ||
        PyObject_GetBuffer(given[0], &image, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    if (PyObject_GetBuffer(given[1], &out, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&image);
        return NULL;
    }
    int status = -1;
    if (!is_image(&image) || !is_image(&out) || memcmp(image.shape, out.shape, 2 * sizeof(Py_ssize_t)) != 0)
        PyErr_SetString(PyExc_ValueError, "image and out must be float32 arrays (H, W) of one shape");
    else
        status = filter(&image, &out);
    PyBuffer_Release(&image);
    PyBuffer_Release(&out);
    if (status < 0)
        return NULL;
    Py_INCREF(Py_None);
    return Py_None;
}

static PyMethodDef functions[] = {
    {"sobel", sobel, METH_VARARGS, "sobel(image, out): the length of the gradient, float32 (H, W)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "edges",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit_edges(void)
{
    fc = fastconv_import();
    PyObject *module = fc ? PyModule_Create(&definition) : NULL;
#ifdef Py_GIL_DISABLED
    if (module) /* fc is the only state, and never changes again */
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}
