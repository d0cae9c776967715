/* SPDX-License-Identifier: MIT */
/* Local response normalisation across channels.
 *
 *   y_c = x_c * d_c^-beta,  d_c = k + alpha / size * sum of x_j^2,      c - before <= j <= c + after
 *   dx_c = dy_c * d_c^-beta
 *        - 2 alpha beta / size * x_c * sum of dy_j x_j d_j^(-beta - 1),  c - after <= j <= c + before
 *
 * with before = floor(size / 2) and after = floor((size - 1) / 2), as in torch.
 *
 * A task is a block of pixels with all its channels. What windows are summed over is staged in scratch between zeros
 * for the channels before the first and behind the last:
 *
 *   NCHW            rows = channels, lanes = pixels of a plane
 *   channels-last   one row for each pixel, lanes = channels */
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "integers.h"
#include "ops.h"
#include "spans.h"

enum {
    BLOCK_FLOATS = 16 << 10,      /* of x in a task: with what is staged, it stays in the L2 cache */
    LEAST_PIXELS = 16,
};

/* Nanoseconds of one thread for the power of a float, beside those for reading it. */
static const double POWER_NS = 0.6;

typedef struct plan plan;
struct plan {
    const fc_kernels *kernels;
    fc_lrn lrn;
    ptrdiff_t before, after;            /* channels of a window, as far as they can exist */
    int channels_last;
    ptrdiff_t channels, pixels;         /* pixels: of a plane, or (channels-last) of all images */
    ptrdiff_t block, blocks;            /* pixels of a block; blocks that `pixels` are cut into */
    const float *x, *dy;
    float *out;
    float *scratch;
    ptrdiff_t staged, scratch_floats;   /* of one staged array; of a thread */
    void (*run)(const plan *, float *scratch, ptrdiff_t rows, ptrdiff_t lanes, ptrdiff_t at);
};

/* Rows of x lie a plane apart, staged rows lrn.step. */
static void run_forward(const plan *p, float *scratch, ptrdiff_t rows, ptrdiff_t lanes, ptrdiff_t at)
{
    const fc_kernels *kernels = p->kernels;
    const ptrdiff_t step = p->lrn.step;
    for (ptrdiff_t r = 0; r < rows; r++)
        kernels->square_span((size_t)lanes, p->x + at + r * p->pixels, scratch + (p->before + r) * step);
    for (ptrdiff_t r = 0; r < rows; r++)
        kernels->lrn_span((size_t)lanes, &p->lrn, scratch + r * step, p->x + at + r * p->pixels,
                          p->out + at + r * p->pixels);
}

static void run_backward(const plan *p, float *scratch, ptrdiff_t rows, ptrdiff_t lanes, ptrdiff_t at)
{
    const fc_kernels *kernels = p->kernels;
    const ptrdiff_t step = p->lrn.step;
    float *ratio = scratch + p->staged, *power = ratio + p->staged;
    for (ptrdiff_t r = 0; r < rows; r++)
        kernels->square_span((size_t)lanes, p->x + at + r * p->pixels, scratch + (p->before + r) * step);
    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t row = at + r * p->pixels;
        kernels->lrn_ratio_span((size_t)lanes, &p->lrn, scratch + r * step, p->dy + row, p->x + row, power + r * step,
                                ratio + (p->after + r) * step);
    }
    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t row = at + r * p->pixels;
        kernels->lrn_backward_span((size_t)lanes, &p->lrn, ratio + r * step, power + r * step, p->dy + row,
                                   p->x + row, p->out + row);
    }
}

static void run_block(void *context, size_t i, int thread)
{
    const plan *p = context;
    float *scratch = p->scratch + thread * p->scratch_floats;
    const ptrdiff_t first = (ptrdiff_t)i % p->blocks * p->block, pixels = min(p->block, p->pixels - first);
    if (p->channels_last)
        for (ptrdiff_t pixel = first; pixel < first + pixels; pixel++)
            p->run(p, scratch, 1, p->channels, pixel * p->channels);
    else
        p->run(p, scratch, p->channels, pixels, (ptrdiff_t)i / p->blocks * p->channels * p->pixels + first);
}

static int run(plan *p, const fc_local_response *norm, const fc_tensor *t, int arrays)
{
    const ptrdiff_t images = t->size[0], plane = t->size[2] * t->size[3];
    if (!images || !t->size[1] || !plane)
        return 0;
    p->kernels = fc_kernels_active();
    p->channels = t->size[1];
    p->channels_last = plane == 1 || (p->channels > 1 && t->stride[1] == 1);
    p->pixels = p->channels_last ? images * plane : plane;
    p->block = min(p->pixels, max(LEAST_PIXELS, BLOCK_FLOATS / p->channels));
    p->blocks = ceil_div(p->pixels, p->block);
    p->before = min(norm->size / 2, p->channels - 1);
    p->after = min((norm->size - 1) / 2, p->channels - 1);
    p->lrn = (fc_lrn){.terms = (size_t)(p->before + 1 + p->after), .step = p->channels_last ? 1 : p->block,
                      .scale = (float)(norm->alpha / (double)norm->size), .beta = (float)norm->beta,
                      .k = (float)norm->k};
    p->staged = (p->before + p->channels + p->after) * p->lrn.step;
    p->scratch_floats = 3 * p->staged;

    const ptrdiff_t floats = images * p->channels * plane;
    const int threads = fc_team_size((double)floats * (arrays * FC_FLOAT_NS + POWER_NS));
    const size_t bytes = (size_t)(threads * p->scratch_floats) * sizeof(float);
    p->scratch = fc_alloc(bytes);
    if (!p->scratch)
        return -1;
    memset(p->scratch, 0, bytes);
    fc_parallel_for((size_t)(p->channels_last ? p->blocks : images * p->blocks), threads, 1, run_block, p);
    fc_free(p->scratch);
    return 0;
}

int fc_local_response_forward(const fc_local_response *norm, const fc_tensor *x, const fc_tensor *y)
{
    plan p = {.x = x->data, .out = y->data, .run = run_forward};
    return run(&p, norm, x, 2);
}

int fc_local_response_backward(const fc_local_response *norm, const fc_tensor *dy, const fc_tensor *x,
                               const fc_tensor *dx)
{
    plan p = {.x = x->data, .dy = dy->data, .out = dx->data, .run = run_backward};
    return run(&p, norm, x, 3);
}
