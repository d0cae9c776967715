/* SPDX-License-Identifier: MIT */
/* An array in another layout. */
#include "../runtime/dispatch.h"
#include "../runtime/threads.h"
#include "integers.h"
#include "ops.h"
#include "rows.h"
#include "spans.h"

enum { TASK_FLOATS = 1 << 13 };

typedef struct copy {
    const fc_kernels *kernels;
    fc_tensor x, y;                     /* with one row an image where rows of pixels follow each other */
    ptrdiff_t rows, pixels;             /* of a task */
    ptrdiff_t pixel_tasks;              /* of a row */
} copy;

static void copy_rows(void *context, size_t i, int thread)
{
    (void)thread;
    const copy *c = context;
    const fc_tensor *x = &c->x, *y = &c->y;
    const ptrdiff_t first = (ptrdiff_t)i % c->pixel_tasks * c->pixels, pixels = min(c->pixels, x->size[3] - first);
    const ptrdiff_t begin = (ptrdiff_t)i / c->pixel_tasks * c->rows, end = min(x->size[0] * x->size[2], begin + c->rows);
    for (ptrdiff_t row = begin; row < end; row++) {
        const ptrdiff_t n = row / x->size[2], h = row % x->size[2];
        const float *from = x->data + n * x->stride[0] + h * x->stride[2] + first * x->stride[3];
        float *to = y->data + n * y->stride[0] + h * y->stride[2] + first * y->stride[3];
        fc_copy_matrix(c->kernels, pixels, x->size[1], from, x->stride[3], x->stride[1], to, y->stride[3],
                       y->stride[1]);
    }
}

void fc_copy(const fc_tensor *x, const fc_tensor *y)
{
    copy c = {.kernels = fc_kernels_active(), .x = *x, .y = *y};
    if (!x->size[0] || !x->size[1] || !x->size[2] || !x->size[3])
        return;
    if (x->stride[2] == x->size[3] * x->stride[3] && y->stride[2] == y->size[3] * y->stride[3]) {
        c.x.size[3] = c.y.size[3] = x->size[2] * x->size[3];
        c.x.size[2] = c.y.size[2] = 1;
    }
    const ptrdiff_t rows = x->size[0] * c.x.size[2];
    c.pixels = min(c.x.size[3], (ptrdiff_t)round_up(max(1, TASK_FLOATS / x->size[1])));
    c.rows = max(1, TASK_FLOATS / (x->size[1] * c.pixels));
    c.pixel_tasks = ceil_div(c.x.size[3], c.pixels);
    const double floats = (double)rows * (double)c.x.size[3] * (double)x->size[1];
    fc_parallel_for((size_t)(ceil_div(rows, c.rows) * c.pixel_tasks), fc_team_size(floats * FC_FLOAT_NS), 0, copy_rows,
                    &c);
}
