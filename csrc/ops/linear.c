/* SPDX-License-Identifier: MIT */
/* linear backward_weight:  dw[k][d] = sum over n of  dy[n][k] * x[n][d].
 *
 * A batch of few images is a sum of few outer products, and the bound is the writing of dw: its rows are written
 * where they belong, taken by the threads in turn. Other batches go the way of a 1x1 convolution. Either way a
 * result is one chain of multiply-adds in the order of the images, as long as the batch is one block of those. */
#include "../runtime/dispatch.h"
#include "../runtime/threads.h"
#include "integers.h"
#include "ops.h"

enum {
    MOST_TERMS = 128,
    TASK_ROWS = 4 * FC_OUTER_ROWS,
};

/* Nanoseconds of one thread: a float of the result written, and a term added to it. */
static const double FLOAT_NS = 0.4, TERM_NS = 0.02;

typedef struct outer {
    const fc_kernels *kernels;
    fc_outer whole;
    ptrdiff_t rows;
} outer;

static void run_task(void *context, size_t i, int thread)
{
    (void)thread;
    const outer *o = context;
    const ptrdiff_t first = (ptrdiff_t)i * TASK_ROWS, end = min(first + TASK_ROWS, o->rows);
    for (ptrdiff_t m = first; m < end; m += FC_OUTER_ROWS) {
        fc_outer part = o->whole;
        part.a += m;
        part.y += m * part.y_row;
        o->kernels->outer_rows((size_t)min(FC_OUTER_ROWS, end - m), &part);
    }
}

int fc_linear_backward_weight(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *x, const fc_tensor *dw)
{
    const int by_k = dw->stride[0] == 1, in_rows = dy->stride[1] == 1 && x->stride[1] == 1;
    if (dy->size[3] > MOST_TERMS || !in_rows || !(by_k || dw->stride[1] == 1))
        return fc_conv2d_backward_weight(conv, dy, x, dw);

    const fc_tensor *a = by_k ? x : dy, *b = by_k ? dy : x;
    const fc_outer whole = {
        .terms = (size_t)dy->size[3],
        .n = (size_t)b->size[1],
        .a = a->data,
        .b = b->data,
        .a_step = a->stride[3],
        .b_step = b->stride[3],
        .y = dw->data,
        .y_row = dw->stride[by_k],
    };
    outer o = {.kernels = fc_kernels_active(), .whole = whole, .rows = a->size[1]};
    const double results = (double)o.rows * (double)whole.n;
    const int threads = fc_team_size(results * (FLOAT_NS + TERM_NS * (double)whole.terms));
    fc_parallel_for((size_t)ceil_div(o.rows, TASK_ROWS), threads, 1, run_task, &o);
    return 0;
}
