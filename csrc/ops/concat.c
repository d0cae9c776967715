/* SPDX-License-Identifier: MIT */
/* Arrays side by side along their channels: rows of floats copied by the threads in turn. */
#include <string.h>

#include "../runtime/threads.h"
#include "integers.h"
#include "ops.h"
#include "spans.h"

enum { TASK_FLOATS = 1 << 14 };

typedef struct concat {
    size_t arrays;
    const fc_tensor *x, *y;
    ptrdiff_t pixels, block;            /* channels-last: of all images; of a task */
} concat;

static void copy_pixels(void *context, size_t i, int thread)
{
    (void)thread;
    const concat *c = context;
    const ptrdiff_t first = (ptrdiff_t)i * c->block, end = min(first + c->block, c->pixels);
    float *y = c->y->data + first * c->y->size[1];
    for (ptrdiff_t pixel = first; pixel < end; pixel++)
        for (size_t a = 0; a < c->arrays; a++) {
            const fc_tensor *x = &c->x[a];
            memcpy(y, x->data + pixel * x->stride[3], (size_t)x->size[1] * sizeof(float));
            y += x->size[1];
        }
}

static void copy_planes(void *context, size_t i, int thread)
{
    (void)thread;
    const concat *c = context;
    const fc_tensor *x = &c->x[i % c->arrays];
    const ptrdiff_t image = (ptrdiff_t)(i / c->arrays), plane = x->size[2] * x->size[3];
    float *y = c->y->data + image * c->y->size[1] * plane;
    for (const fc_tensor *before = c->x; before < x; before++)
        y += before->size[1] * plane;
    memcpy(y, x->data + image * x->stride[0], (size_t)(x->size[1] * plane) * sizeof(float));
}

void fc_concat(size_t arrays, const fc_tensor *x, const fc_tensor *y)
{
    const ptrdiff_t plane = y->size[2] * y->size[3], channels = y->size[1];
    concat c = {.arrays = arrays, .x = x, .y = y, .pixels = y->size[0] * plane};
    if (!c.pixels || !channels)
        return;
    c.block = max(1, TASK_FLOATS / channels);
    const int threads = fc_team_size((double)(c.pixels * channels) * FC_FLOAT_NS);
    if (y->stride[1] == 1 || plane == 1)
        fc_parallel_for((size_t)ceil_div(c.pixels, c.block), threads, 0, copy_pixels, &c);
    else
        fc_parallel_for((size_t)y->size[0] * arrays, threads, 0, copy_planes, &c);
}
