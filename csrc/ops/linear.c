/* SPDX-License-Identifier: MIT */
/* Linear layers of small batches; others go the way of a 1x1 convolution, to the same bits.
 *
 *   forward           y[n][k] = bias[k] + sum over d of  x[n][d] * w[k][d]
 *   backward_weight   dw[k][d] = sum over n of  dy[n][k] * x[n][d]
 *
 * The bound is the memory that w and dw lie in. Forward, where k is w's fastest axis, each thread takes some outputs
 * and reads its part of w once, in rows. Backward, it writes rows of dw. Sums are chains of multiply-adds in the order
 * of n; in that of d, in the parts of correlate.c. */
#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "../runtime/timers.h"
#include "correlate_plan.h"
#include "integers.h"
#include "ops.h"

enum {
    MOST_IMAGES = 32,                    /* forward: beyond it packed weights pay                       */
    MOST_TERMS = 128,                    /* backward_weight                                             */
    TASK_ROWS = 4 * FC_OUTER_ROWS,
    BLOCK_OUTPUTS = 1024,
    BLOCK_TERMS = 16,                    /* rows of w read side by side: as many as hardware fetches ahead */
};

/* Nanoseconds of one thread: a float of w or dw, and a product added to a result. */
static const double FLOAT_NS = 0.4, TERM_NS = 0.02;

/* ---- forward ------------------------------------------------------------------------------------------ */

typedef struct forward {
    const fc_kernels *kernels;
    const fc_tensor *x, *w, *y;
    const float *bias;
    ptrdiff_t block;                     /* outputs of a task                                           */
    ptrdiff_t part;                      /* inputs                                                      */
    float *sums;                         /* [threads][images][block], of a part                         */
} forward;

/* Inputs d0 .. d1-1 as one chain. */
static void add_part(const forward *f, ptrdiff_t k0, ptrdiff_t outputs, ptrdiff_t d0, ptrdiff_t d1, float *sums,
                     ptrdiff_t sums_row)
{
    ptrdiff_t d = d0;
    do {
        const ptrdiff_t terms = min(BLOCK_TERMS, d1 - d);
        const fc_outer product = {
            .terms = (size_t)terms,
            .n = (size_t)outputs,
            .a = f->x->data + d,
            .a_step = 1,
            .a_row = f->x->stride[3],
            .b = f->w->data + k0 + d * f->w->stride[1],
            .b_step = f->w->stride[1],
            .y = sums,
            .y_row = sums_row,
            .go_on = d > d0,
        };
        f->kernels->product_rows((size_t)f->x->size[3], &product);
        d += terms;
    } while (d < d1);
}

static void run_forward(void *context, size_t i, int thread)
{
    const forward *f = context;
    fc_clock(FC_MULTIPLY);
    const ptrdiff_t k0 = (ptrdiff_t)i * f->block, outputs = min(f->block, f->w->size[0] - k0);
    const ptrdiff_t images = f->x->size[3], inputs = f->w->size[1], y_row = f->y->stride[3];
    float *sums = f->sums + thread * images * f->block, *y = f->y->data + k0;
    add_part(f, k0, outputs, 0, min(f->part, inputs), y, y_row);
    for (ptrdiff_t d = f->part; d < inputs; d += f->part) {
        add_part(f, k0, outputs, d, min(d + f->part, inputs), sums, outputs);
        for (ptrdiff_t n = 0; n < images; n++)
            f->kernels->add_span((size_t)outputs, sums + n * outputs, y + n * y_row);
    }
    if (f->bias)
        for (ptrdiff_t n = 0; n < images; n++)
            f->kernels->add_span((size_t)outputs, f->bias + k0, y + n * y_row);
}

int fc_linear_forward(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *w, const fc_conv2d_extras *extras,
                      const fc_tensor *y)
{
    const ptrdiff_t images = x->size[3], outputs = w->size[0], inputs = w->size[1];
    if (images > MOST_IMAGES || w->stride[0] != 1)
        return fc_conv2d_forward(conv, x, w, extras, y);
    if (!images || !outputs)
        return 0;
    forward f = {
        .kernels = fc_kernels_active(), .x = x, .w = w, .y = y, .bias = extras->bias,
        .part = fc_correlation_part(inputs, 1),
    };
    const int threads = fc_team_size((double)outputs * (double)inputs * (FLOAT_NS + TERM_NS * (double)images));
    f.block = min(BLOCK_OUTPUTS, (ptrdiff_t)round_up(ceil_div(outputs, 2 * threads)));
    f.sums = fc_alloc((size_t)(threads * images * f.block) * sizeof(float));
    if (!f.sums)
        return -1;
    fc_parallel_for((size_t)ceil_div(outputs, f.block), threads, 1, run_forward, &f);
    fc_free(f.sums);
    return 0;
}

/* ---- backward_weight ---------------------------------------------------------------------------------- */

typedef struct outer {
    const fc_kernels *kernels;
    fc_outer whole;
    ptrdiff_t rows;
} outer;

static void run_task(void *context, size_t i, int thread)
{
    (void)thread;
    fc_clock(FC_MULTIPLY);
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
        .a_row = 1,
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
