/* SPDX-License-Identifier: MIT */
/* Linear layers.
 *
 *   forward           y[n][k] = bias[k] + sum over d of  x[n][d] * w[k][d]
 *   backward_weight   dw[k][d] = sum over n of  dy[n][k] * x[n][d]
 *
 * Their batches are mostly small, and the bound is the memory that w and dw lie in: w is read, dw written, once for
 * a block of images, in whole rows where k is its fastest axis. Forward, threads take blocks of images and outputs,
 * and w in other orders is transposed piece by piece. Backward, they take rows of dw; large batches go the way of a
 * 1x1 convolution. Each result is one chain of multiply-adds in the order of d, or of the images. */
#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "integers.h"
#include "ops.h"

enum {
    MOST_TERMS = 128,
    TASK_ROWS = 4 * FC_OUTER_ROWS,
    BLOCK_IMAGES = 16 * FC_OUTER_ROWS,   /* that w is read for once: their sums stay in the L2 cache */
    BLOCK_OUTPUTS = 1024,
    BLOCK_TERMS = 16,                    /* rows of w read side by side: as many as the hardware fetches ahead */
};

/* Nanoseconds of one thread: a float of w or dw, and a product added to a result. */
static const double FLOAT_NS = 0.4, TERM_NS = 0.02;

/* ---- forward ------------------------------------------------------------------------------------------ */

typedef struct forward {
    const fc_kernels *kernels;
    const fc_tensor *x, *w, *y;
    const float *bias;
    ptrdiff_t block, blocks;             /* of outputs */
    float *pieces;                       /* [threads][BLOCK_TERMS][block]; NULL: w is read where it lies */
} forward;

/* w[k0 .. k0+outputs-1][d0 .. d0+terms-1], outputs the fastest axis. */
static void transpose_piece(const forward *f, ptrdiff_t k0, ptrdiff_t outputs, ptrdiff_t d0, ptrdiff_t terms, float *piece)
{
    const fc_tensor *w = f->w;
    const float *from = w->data + k0 * w->stride[0] + d0 * w->stride[1];
    if (w->stride[1] == 1) {
        f->kernels->transpose((size_t)outputs, (size_t)terms, from, w->stride[0], piece, outputs);
        return;
    }
    for (ptrdiff_t d = 0; d < terms; d++)
        for (ptrdiff_t k = 0; k < outputs; k++)
            piece[d * outputs + k] = from[k * w->stride[0] + d * w->stride[1]];
}

static void run_forward(void *context, size_t i, int thread)
{
    const forward *f = context;
    const ptrdiff_t k0 = (ptrdiff_t)i % f->blocks * f->block, outputs = min(f->block, f->w->size[0] - k0);
    const ptrdiff_t n0 = (ptrdiff_t)i / f->blocks * BLOCK_IMAGES, images = min(BLOCK_IMAGES, f->x->size[3] - n0);
    const ptrdiff_t all = f->w->size[1];
    fc_outer part = {
        .n = (size_t)outputs,
        .a_step = 1,
        .a_row = f->x->stride[3],
        .y = f->y->data + n0 * f->y->stride[3] + k0,
        .y_row = f->y->stride[3],
    };
    ptrdiff_t d = 0;
    do {
        const ptrdiff_t terms = min(BLOCK_TERMS, all - d);
        part.terms = (size_t)terms;
        part.a = f->x->data + n0 * f->x->stride[3] + d;
        part.b = f->w->data + k0 + d * f->w->stride[1];
        part.b_step = f->w->stride[1];
        if (f->pieces) {
            float *piece = f->pieces + thread * BLOCK_TERMS * f->block;
            transpose_piece(f, k0, outputs, d, terms, piece);
            part.b = piece;
            part.b_step = outputs;
        }
        part.go_on = d > 0;
        part.bias = f->bias && d + terms == all ? f->bias + k0 : NULL;
        f->kernels->product_rows((size_t)images, &part);
        d += terms;
    } while (d < all);
}

int fc_linear_forward(const fc_tensor *x, const fc_tensor *w, const float *bias, const fc_tensor *y)
{
    forward f = {.kernels = fc_kernels_active(), .x = x, .w = w, .y = y, .bias = bias};
    const ptrdiff_t images = x->size[3], outputs = w->size[0];
    if (!images || !outputs)
        return 0;
    const double weights = (double)outputs * (double)w->size[1];
    const int threads = fc_team_size(weights * (FLOAT_NS + TERM_NS * (double)images));
    f.block = min(BLOCK_OUTPUTS, (ptrdiff_t)round_up(ceil_div(outputs, 2 * threads)));
    f.blocks = ceil_div(outputs, f.block);
    if (w->stride[0] != 1 && outputs > 1) {
        f.pieces = fc_alloc((size_t)(threads * BLOCK_TERMS * f.block) * sizeof(float));
        if (!f.pieces)
            return -1;
    }
    fc_parallel_for((size_t)(f.blocks * ceil_div(images, BLOCK_IMAGES)), threads, 1, run_forward, &f);
    fc_free(f.pieces);
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
