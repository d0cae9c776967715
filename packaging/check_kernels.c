/* SPDX-License-Identifier: MIT */
/* Runs the kernels on every instruction set, with one and with three threads, and compares with plain loops.
 *
 * Linked with all of csrc/ it is a program without Python, for systems for which there is none at hand. Integers must
 * come out exactly where the sum is the plain one. Lines end in a hash of all results' bits, which
 * other systems must have too. Exit status 1 where anything is wrong. */
#include <fastconv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../csrc/ops/calls.h"
#include "../csrc/runtime/dispatch.h"
#include "../csrc/runtime/memory.h"
#include "../csrc/runtime/threads.h"
#include "../csrc/runtime/timers.h"

enum { MOST = 1 << 18, THREADS = 3 };

static const fastconv_api *fc;
static int failures;
static unsigned long long hash;

static unsigned state;

static float next_integer(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)((int)(state >> 24) % 9 - 4);
}

static const float *fill(float *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        a[i] = next_integer();
    return a;
}

/* The norm of the error must be at most `bound` of the norm of what is expected. */
static void check(const char *what, int status, const float *result, const double *expected, size_t n, double bound)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &result[i], sizeof bits);
        hash = (hash ^ bits) * 1099511628211u;
        error += (result[i] - expected[i]) * (result[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    if (status == FASTCONV_OK && norm > 0 && sqrt(error) <= bound * sqrt(norm))
        return;
    printf("  %s: %s, error %g of %g\n", what, status < 0 ? fc->last_error() : "wrong", sqrt(error), sqrt(norm));
    failures++;
}

/* Layouts are NCHW or channels-last. */
static fastconv_tensor tensor(const float *data, const ptrdiff_t size[4], int last)
{
    return (last ? fastconv_channels_last : fastconv_nchw)(data, size[0], size[1], size[2], size[3]);
}

static ptrdiff_t at(const fastconv_tensor *t, ptrdiff_t n, ptrdiff_t c, ptrdiff_t h, ptrdiff_t w)
{
    return n * t->stride[0] + c * t->stride[1] + h * t->stride[2] + w * t->stride[3];
}

static size_t count(const fastconv_tensor *t)
{
    return (size_t)(t->size[0] * t->size[1] * t->size[2] * t->size[3]);
}

static float a[MOST], b[MOST], c[MOST], ra[MOST], rb[MOST], rc[MOST];
static double ea[MOST], eb[MOST], ec[MOST];

static void check_conv2d(ptrdiff_t channels, ptrdiff_t outputs, ptrdiff_t size, ptrdiff_t filter, ptrdiff_t stride,
                         ptrdiff_t dilation, ptrdiff_t groups, int algorithm, int last)
{
    const ptrdiff_t pad = filter / 2;
    fastconv_conv2d conv = fastconv_conv2d_defaults();
    for (int i = 0; i < 2; i++) {
        conv.stride[i] = stride;
        conv.dilation[i] = dilation;
        conv.padding[i][0] = conv.padding[i][1] = pad;
    }
    conv.groups = groups;
    conv.algorithm = algorithm;
    ptrdiff_t x_size[4] = {2, channels, size, size + 1}, w_size[4] = {outputs, channels / groups, filter, filter};
    fastconv_tensor x = tensor(a, x_size, last), w = tensor(b, w_size, 0);
    ptrdiff_t y_size[4] = {2, outputs};
    fc->conv2d_output_size(&conv, &x, &w, &y_size[2]);
    fastconv_tensor dy = tensor(c, y_size, last);
    fill(a, count(&x)), fill(b, count(&w)), fill(c, count(&dy));
    memset(ea, 0, sizeof ea), memset(eb, 0, sizeof eb), memset(ec, 0, sizeof ec);
    const ptrdiff_t per = outputs / groups, inputs = channels / groups;
    for (ptrdiff_t n = 0; n < 2; n++)
        for (ptrdiff_t k = 0; k < outputs; k++)
            for (ptrdiff_t p = 0; p < y_size[2]; p++)
                for (ptrdiff_t q = 0; q < y_size[3]; q++)
                    for (ptrdiff_t i = 0; i < inputs; i++)
                        for (ptrdiff_t r = 0; r < filter; r++)
                            for (ptrdiff_t s = 0; s < filter; s++) {
                                const ptrdiff_t h = p * stride + r * dilation - pad;
                                const ptrdiff_t v = q * stride + s * dilation - pad;
                                if (h < 0 || h >= x_size[2] || v < 0 || v >= x_size[3])
                                    continue;
                                const ptrdiff_t from = at(&x, n, k / per * inputs + i, h, v), to = at(&dy, n, k, p, q);
                                const ptrdiff_t tap = at(&w, k, i, r, s);
                                ec[to] += (double)a[from] * b[tap];
                                ea[from] += (double)c[to] * b[tap];
                                eb[tap] += (double)c[to] * a[from];
                            }
    fastconv_tensor y = tensor(rc, y_size, last), dx = tensor(ra, x_size, last), dw = tensor(rb, w_size, 0);
    const double bound = algorithm == FASTCONV_WINOGRAD ? 2e-6 : 0;
    check("conv2d_forward", fc->conv2d_forward(&conv, &x, &w, NULL, NULL, &y), rc, ec, count(&y), bound);
    check("conv2d_backward_input", fc->conv2d_backward_input(&conv, &dy, &w, &dx), ra, ea, count(&x), bound);
    check("conv2d_backward_weight", fc->conv2d_backward_weight(&conv, &dy, &x, &dw), rb, eb, count(&w), bound);
}

/* Windows of 2 x 2 side by side. */
static void check_pool2d(ptrdiff_t channels, ptrdiff_t size, int last)
{
    static unsigned char argmax[MOST];
    const fastconv_pool2d pool = fastconv_pool2d_defaults(2);
    const ptrdiff_t x_size[4] = {2, channels, size, size}, y_size[4] = {2, channels, size / 2, size / 2};
    const fastconv_tensor x = tensor(a, x_size, last), dy = tensor(c, y_size, last);
    fill(a, count(&x)), fill(c, count(&dy));
    for (int average = 0; average < 2; average++) {
        memset(ea, 0, sizeof ea);
        for (ptrdiff_t n = 0; n < 2; n++)
            for (ptrdiff_t i = 0; i < channels; i++)
                for (ptrdiff_t p = 0; p < size / 2; p++)
                    for (ptrdiff_t q = 0; q < size / 2; q++) {
                        ptrdiff_t best = at(&x, n, i, 2 * p, 2 * q);
                        double sum = 0;
                        for (int t = 0; t < 4; t++) {
                            const ptrdiff_t from = at(&x, n, i, 2 * p + t / 2, 2 * q + t % 2);
                            sum += a[from];
                            ea[from] = c[at(&dy, n, i, p, q)] / 4;
                            best = a[from] > a[best] ? from : best;
                        }
                        ec[at(&dy, n, i, p, q)] = average ? sum / 4 : a[best];
                        for (int t = 0; t < 4 && !average; t++) {
                            const ptrdiff_t from = at(&x, n, i, 2 * p + t / 2, 2 * q + t % 2);
                            ea[from] = from == best ? c[at(&dy, n, i, p, q)] : 0;
                        }
                    }
        const fastconv_tensor y = tensor(rc, y_size, last), dx = tensor(ra, x_size, last);
        check(average ? "avg_pool2d_forward" : "max_pool2d_forward",
              average ? fc->avg_pool2d_forward(&pool, &x, &y) : fc->max_pool2d_forward(&pool, &x, &y, argmax),
              rc, ec, count(&y), 0);
        check(average ? "avg_pool2d_backward" : "max_pool2d_backward",
              average ? fc->avg_pool2d_backward(&pool, &dy, &dx) : fc->max_pool2d_backward(&pool, &dy, argmax, &dx),
              ra, ea, count(&x), 0);
    }
}

static void check_batch_norm(ptrdiff_t channels, ptrdiff_t size, int last)
{
    enum { CHANNELS = 64 };
    static float weight[CHANNELS], bias[CHANNELS], mean[CHANNELS], invstd[CHANNELS], dweight[CHANNELS], dbias[CHANNELS];
    const ptrdiff_t x_size[4] = {2, channels, size, size};
    const fastconv_tensor x = tensor(a, x_size, last), dy = tensor(c, x_size, last);
    const fastconv_tensor y = tensor(rc, x_size, last), dx = tensor(ra, x_size, last);
    fastconv_batch_norm norm = fastconv_batch_norm_defaults();
    norm.weight = fill(weight, CHANNELS);
    norm.bias = fill(bias, CHANNELS);
    norm.training = 1;
    fill(a, count(&x)), fill(c, count(&x));
    const double pixels = (double)(2 * size * size);
    for (ptrdiff_t i = 0; i < channels; i++) {
        double sum = 0, squares = 0, sum_dy = 0, sum_dy_x = 0;
        for (int pass = 0; pass < 3; pass++)
            for (ptrdiff_t n = 0; n < 2; n++)
                for (ptrdiff_t h = 0; h < size; h++)
                    for (ptrdiff_t w = 0; w < size; w++) {
                        const ptrdiff_t here = at(&x, n, i, h, w);
                        const double centred = a[here] - sum / pixels;
                        const double scale = 1 / sqrt(squares / pixels + norm.eps);
                        if (pass == 0) {
                            sum += a[here];
                        } else if (pass == 1) {
                            squares += centred * centred;
                            sum_dy += c[here];
                            sum_dy_x += c[here] * centred;
                        } else {
                            ec[here] = centred * scale * weight[i] + bias[i];
                            ea[here] = weight[i] * scale *
                                       (c[here] - sum_dy / pixels - centred * scale * scale * sum_dy_x / pixels);
                        }
                    }
    }
    check("batch_norm_forward", fc->batch_norm_forward(&norm, &x, NULL, &y, mean, invstd), rc, ec, count(&x), 1e-6);
    check("batch_norm_backward",
          fc->batch_norm_backward(&norm, &dy, &x, mean, invstd, NULL, &dx, NULL, dweight, dbias), ra, ea, count(&x),
          1e-6);
}

static void check_linear(ptrdiff_t images, ptrdiff_t inputs, ptrdiff_t outputs)
{
    const fastconv_tensor x = fastconv_nchw(a, images, inputs, 1, 1), w = fastconv_nchw(b, outputs, inputs, 1, 1);
    const fastconv_tensor dy = fastconv_nchw(c, images, outputs, 1, 1), y = fastconv_nchw(rc, images, outputs, 1, 1);
    const fastconv_tensor dx = fastconv_nchw(ra, images, inputs, 1, 1), dw = fastconv_nchw(rb, outputs, inputs, 1, 1);
    fill(a, count(&x)), fill(b, count(&w)), fill(c, count(&dy));
    memset(ea, 0, sizeof ea), memset(eb, 0, sizeof eb), memset(ec, 0, sizeof ec);
    for (ptrdiff_t n = 0; n < images; n++)
        for (ptrdiff_t k = 0; k < outputs; k++)
            for (ptrdiff_t d = 0; d < inputs; d++) {
                ec[n * outputs + k] += (double)a[n * inputs + d] * b[k * inputs + d];
                ea[n * inputs + d] += (double)c[n * outputs + k] * b[k * inputs + d];
                eb[k * inputs + d] += (double)c[n * outputs + k] * a[n * inputs + d];
            }
    check("linear_forward", fc->linear_forward(&x, &w, NULL, &y), rc, ec, count(&y), 0);
    check("linear_backward_input", fc->linear_backward_input(&dy, &w, &dx), ra, ea, count(&x), 0);
    check("linear_backward_weight", fc->linear_backward_weight(&dy, &x, &dw), rb, eb, count(&w), 0);
}

static void check_all(void)
{
    state = 1;
    hash = 14695981039346656037u;
    for (int last = 0; last < 2; last++) {
        check_conv2d(3, 16, 31, 7, 2, 1, 1, FASTCONV_DIRECT, last);
        check_conv2d(64, 32, 28, 3, 1, 1, 1, FASTCONV_DIRECT, last);
        check_conv2d(24, 36, 15, 3, 1, 2, 3, FASTCONV_DIRECT, last);
        check_conv2d(16, 16, 20, 3, 2, 1, 16, FASTCONV_DIRECT, last);
        check_conv2d(67, 70, 29, 1, 1, 1, 1, FASTCONV_DIRECT, last);
        check_conv2d(64, 32, 28, 3, 1, 1, 1, FASTCONV_WINOGRAD, last);
        check_conv2d(16, 24, 23, 5, 1, 1, 1, FASTCONV_WINOGRAD, last);
        check_conv2d(32, 24, 27, 3, 2, 1, 1, FASTCONV_WINOGRAD, last);
        check_pool2d(61, 40, last);
        check_batch_norm(61, 40, last);
    }
    check_linear(1, 400, 600);
    check_linear(100, 311, 207);
}

/* The most threads of a call, as the profiler sees those since the last time. */
static int threads_taken(void)
{
    int most = 0;
    for (fc_calls *taken = fc_calls_take(), *before; taken; taken = before) {
        for (size_t i = 0; i < taken->count; i++)
            most = taken->calls[i].threads > most ? taken->calls[i].threads : most;
        before = taken->before;
        fc_free(taken);
    }
    return most;
}

int main(void)
{
    fc = fastconv_get_api(FASTCONV_API_VERSION);
    printf("%s\n", fc_threads_runtime());
    fc_timers_switch(1);
    unsigned long long expected = 0;
    for (size_t i = 0; fc_kernels_available(i); i++) {
        const fc_kernels *kernels = fc_kernels_available(i);
        fc_kernels_select(kernels->isa);
        for (int threads = 1; threads <= THREADS; threads += THREADS - 1) {
            fc->set_num_threads(threads);
            check_all();
            printf("%s, team of %d: %016llx\n", fc->isa(), threads_taken(), hash);
            if (i + (size_t)threads == 1 || (!kernels->fma && threads == 1))
                expected = hash;
            if (hash != expected) {
                printf("  other bits than the line before\n");
                failures++;
            }
        }
    }
    fc_memory_trim();
    const fc_memory memory = fc_memory_stats();
    if (memory.used_bytes || memory.kept_bytes) {
        printf("%zu bytes were not given back\n", memory.used_bytes + memory.kept_bytes);
        failures++;
    }
    return failures > 0;
}
