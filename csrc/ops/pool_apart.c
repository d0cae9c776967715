/* SPDX-License-Identifier: MIT */
/* Max pooling, forward and backward, over windows that lie side by side (kernels/pool_apart.h).
 *
 *   task = (image, block of rows of windows) */
#include "pool_apart.h"

#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/threads.h"
#include "integers.h"
#include "spans.h"

enum {
    TASK_FLOATS = 16 << 10,            /* of the image, about */
    LEAST_LANES = 8,                   /* with which lanes are permuted fast */
};

typedef struct plan {
    const fc_kernels *kernels;
    fc_tensor image, pooled;
    uint8_t *argmax;
    ptrdiff_t height, width;           /* of a window */
    ptrdiff_t block_rows, row_blocks;  /* rows of windows of a task */
    int backward;
    float cut;
} plan;

static int lies_dense(const fc_tensor *t) { return t->stride[1] == 1 && t->stride[3] == t->size[1]; }

static int lie_side_by_side(const fc_pool2d *pool, const fc_tensor *image, const fc_tensor *pooled)
{
    for (int d = 0; d < 2; d++)
        if (pool->adaptive || pool->stride[d] != pool->kernel[d] || pool->pad[d] || pool->dilation[d] != 1 ||
            pooled->size[2 + d] * pool->kernel[d] > image->size[2 + d])
            return 0;
    return pool->kernel[1] <= FC_APART_WIDTH && pool->kernel[0] * pool->kernel[1] <= 256 && lies_dense(image) &&
           lies_dense(pooled) && pooled->stride[2] == pooled->size[3] * pooled->size[1];
}

int fc_pools_apart(const fc_pool2d *pool, const fc_tensor *image, const fc_tensor *pooled, int backward)
{
    const ptrdiff_t lanes = (ptrdiff_t)fc_kernels_active()->lanes, channels = image->size[1];
    const int many = 2 * channels > lanes, permuted = lanes >= LEAST_LANES && pool->kernel[1] * channels <= lanes;
    return channels && (backward || many || permuted) && lie_side_by_side(pool, image, pooled);
}

static void run_task(void *context, size_t task, int thread)
{
    (void)thread;
    const plan *plan = context;
    const fc_tensor *image = &plan->image, *pooled = &plan->pooled;
    const ptrdiff_t n = (ptrdiff_t)task / plan->row_blocks, p = (ptrdiff_t)task % plan->row_blocks * plan->block_rows;
    const ptrdiff_t rows = min(plan->block_rows, pooled->size[2] - p), row = pooled->size[3] * pooled->size[1];
    const fc_apart a = {
        .channels = (size_t)pooled->size[1],
        .rows = (size_t)rows,
        .windows = (size_t)pooled->size[3],
        .height = (size_t)plan->height,
        .width = (size_t)plan->width,
        .row = image->stride[2],
        .cut = plan->cut,
    };
    const ptrdiff_t h0 = p * plan->height;
    float *pixels = image->data + n * image->stride[0] + h0 * image->stride[2];
    float *results = pooled->data + n * pooled->stride[0] + p * pooled->stride[2];
    uint8_t *argmax = plan->argmax ? plan->argmax + (n * pooled->size[2] + p) * row : NULL;
    if (!plan->backward) {
        plan->kernels->max_pool_apart(&a, pixels, results, argmax);
        return;
    }
    plan->kernels->max_pool_apart_backward(&a, results, argmax, pixels);
    const ptrdiff_t spread = row * plan->width, behind = image->size[3] * image->size[1] - spread;
    for (ptrdiff_t h = 0; behind && h < rows * plan->height; h++)
        memset(pixels + h * image->stride[2] + spread, 0, (size_t)behind * sizeof(float));
    if (p + rows == pooled->size[2])
        for (ptrdiff_t h = rows * plan->height; h < image->size[2] - h0; h++)
            memset(pixels + h * image->stride[2], 0, (size_t)(image->size[3] * image->size[1]) * sizeof(float));
}

void fc_max_pool_apart(const fc_pool2d *pool, const fc_tensor *image, const fc_tensor *pooled, void *argmax,
                       int backward)
{
    plan plan = {.kernels = fc_kernels_active(), .image = *image, .pooled = *pooled, .argmax = argmax,
                 .height = pool->kernel[0], .width = pool->kernel[1], .backward = backward,
                 .cut = fc_pool_cut(pool)};
    const ptrdiff_t rows = pooled->size[2], row_floats = plan.height * image->size[3] * image->size[1];
    plan.block_rows = max(1, TASK_FLOATS / max(1, row_floats));
    plan.row_blocks = max(1, ceil_div(rows, plan.block_rows));
    const double floats = (double)image->size[0] * (double)rows * (double)row_floats;
    fc_parallel_for((size_t)(image->size[0] * plan.row_blocks), fc_team_size(floats * FC_FLOAT_NS), 0, run_task, &plan);
}
