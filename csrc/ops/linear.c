/* SPDX-License-Identifier: MIT */
/* Linear layers of small batches; others go the way of a 1x1 convolution, to the same bits.
 *
 *   forward           y[n][k] = bias[k] + sum over d of  x[n][d] * w[k][d]
 *   backward_weight   dw[k][d] = sum over n of  dy[n][k] * x[n][d]
 *
 * The bound is the memory that w and dw lie in. Forward, where k is w's fastest axis, each thread takes some parts of
 * the inputs and reads their rows of w front to back, as memory is fastest. Backward, it writes rows of dw. Sums are
 * chains of multiply-adds in the order of n; in that of d, in the parts of correlate.c. */
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "../runtime/timers.h"
#include "correlate_plan.h"
#include "integers.h"
#include "ops.h"
#include "spans.h"

enum {
    MOST_IMAGES = 32,                    /* forward: beyond it packed weights pay                       */
    MOST_TERMS = 128,                    /* backward_weight                                             */
    TASK_ROWS = 4 * FC_OUTER_ROWS,
    FEW_IMAGES = 4,                      /* for which w is all that matters:                            */
    FEW_ROWS = 8, MANY_ROWS = FC_OUTER_TERMS,    /* of w, read side by side, of                         */
    FEW_OUTPUTS = 4096, MANY_OUTPUTS = 1024,
    SPAN = 256,                          /* outputs that one thread adds up, or multiplies, at least    */
    TASKS_A_THREAD = 2,
};

/* Nanoseconds of one thread for a product added to a result, beside those for a float of w or dw. */
static const double TERM_NS = 0.02;

/* ---- forward ------------------------------------------------------------------------------------------ */

typedef struct forward {
    const fc_kernels *kernels;
    const fc_tensor *x, *w, *y;
    const fc_compressed *compressed;     /* or NULL, then w */
    const float *bias;
    int relu;
    ptrdiff_t images, outputs, inputs;
    ptrdiff_t block, blocks;             /* outputs of a task                                           */
    ptrdiff_t part, parts;               /* inputs of one                                               */
    int apart;                           /* the first part's sums are not y                             */
    ptrdiff_t pitch;                     /* of rows of sums                                             */
    float *sums;                         /* [parts, or one less][images][pitch]                         */
    fc_tasks products, additions;
} forward;

/* Sums of a part, of image n from output k0 on: the first part's are y, or like the others beside it. */
static float *sums_of(const forward *f, ptrdiff_t part, ptrdiff_t n, ptrdiff_t k0)
{
    const ptrdiff_t beside = part - !f->apart;
    return beside < 0 ? f->y->data + n * f->y->stride[3] + k0 : f->sums + (beside * f->images + n) * f->pitch + k0;
}

/* A part's product for at most so many outputs from k0 on, but for its terms. */
static fc_outer product_of(const forward *f, ptrdiff_t part, ptrdiff_t k0, ptrdiff_t most)
{
    return (fc_outer){
        .n = (size_t)min(most, f->outputs - k0),
        .a_step = 1,
        .a_row = f->x->stride[3],
        .y = sums_of(f, part, 0, k0),
        .y_row = part || f->apart ? f->pitch : f->y->stride[3],
    };
}

/* One part and block of outputs: each result one chain. */
static void multiply_part(const forward *f, ptrdiff_t part, ptrdiff_t k0)
{
    const ptrdiff_t d0 = part * f->part, d1 = min(f->inputs, d0 + f->part);
    fc_outer product = product_of(f, part, k0, f->block);
    product.b_step = f->w->stride[1];
    ptrdiff_t d = d0;
    do {
        product.terms = (size_t)min(f->images > FEW_IMAGES ? MANY_ROWS : FEW_ROWS, d1 - d);
        product.a = f->x->data + d;
        product.b = f->w->data + k0 + d * f->w->stride[1];
        f->kernels->product_rows((size_t)f->images, &product);
        product.go_on = 1;
        d += (ptrdiff_t)product.terms;
    } while (d < d1);
}

/* The same by compressed rows, as many at once as follow each other, or one that is plain. */
static void multiply_tile(const forward *f, ptrdiff_t part, ptrdiff_t panel)
{
    const fc_compressed *w = f->compressed;
    const ptrdiff_t tile = part * w->panels + panel;
    const ptrdiff_t d0 = part * w->part, rows = min(w->part, w->inputs - d0);
    const uint32_t *plain = w->plain + tile * w->words;
    fc_outer product = product_of(f, part, panel * FC_ROW_FLOATS, FC_ROW_FLOATS);
    product.b = w->data + w->tile[tile];
    product.exponent = w->exponent;
    for (ptrdiff_t d = 0; d < rows; d += (ptrdiff_t)product.terms) {
        const uint32_t ahead = plain[d / FC_ROW_TERMS] >> d % FC_ROW_TERMS;
        const ptrdiff_t left = min(rows - d, FC_ROW_TERMS - d % FC_ROW_TERMS);
        const int is_plain = ahead & 1;
        product.terms = (size_t)(is_plain ? 1 : ahead ? min(left, __builtin_ctz(ahead)) : left);
        product.a = f->x->data + d0 + d;
        (is_plain ? f->kernels->product_rows : f->kernels->product_compressed)((size_t)f->images, &product);
        product.b += product.terms * (is_plain ? FC_ROW_FLOATS : FC_ROW_WORDS);
        product.go_on = 1;
    }
}

/* Adds up the parts of some outputs of an image and the bias, and cuts off what is below zero. */
static void finish(const forward *f, ptrdiff_t n, ptrdiff_t k0)
{
    const size_t outputs = (size_t)min(SPAN, f->outputs - k0);
    float *y = f->y->data + n * f->y->stride[3] + k0;
    if (f->apart)
        memcpy(y, sums_of(f, 0, n, k0), outputs * sizeof(float));
    for (ptrdiff_t part = 1; part < f->parts; part++)
        fc_add_span(f->kernels, outputs, sums_of(f, part, n, k0), y);
    if (f->bias)
        fc_add_span(f->kernels, outputs, f->bias + k0, y);
    if (f->relu)
        f->kernels->activation[FC_RELU](outputs, y, y);
}

static void forward_body(void *context, int thread, int threads)
{
    forward *f = context;
    fc_clock(FC_MULTIPLY);
    for (fc_hand hand = fc_hand_of(&f->products, f->parts * f->blocks, thread, threads); fc_take(&hand);)
        if (f->compressed)
            multiply_tile(f, hand.task / f->blocks, hand.task % f->blocks);
        else
            multiply_part(f, hand.task / f->blocks, hand.task % f->blocks * f->block);
    if (f->parts == 1 && !f->apart && !f->bias && !f->relu)
        return;
    fc_team_barrier(threads);
    fc_clock(FC_STORE);
    const ptrdiff_t spans = ceil_div(f->outputs, SPAN);
    for (fc_hand hand = fc_hand_of(&f->additions, f->images * spans, thread, threads); fc_take(&hand);)
        finish(f, hand.task / spans, hand.task % spans * SPAN);
}

static int run_forward(forward *f)
{
    const double weights = (double)f->outputs * (double)f->inputs;
    const int threads = fc_team_size(weights * (FC_FLOAT_NS + TERM_NS * (double)f->images));
    f->kernels = fc_kernels_active();
    f->part = fc_correlation_part(f->inputs, 1);
    f->parts = max(1, ceil_div(f->inputs, f->part));
    if (f->compressed)
        f->blocks = f->compressed->panels;
    else {
        const ptrdiff_t most = f->images > FEW_IMAGES ? MANY_OUTPUTS : FEW_OUTPUTS;
        const ptrdiff_t blocks = max(ceil_div(f->outputs, most), ceil_div(TASKS_A_THREAD * threads, f->parts));
        f->block = max(SPAN, (ptrdiff_t)round_up(ceil_div(f->outputs, blocks)));
        f->blocks = ceil_div(f->outputs, f->block);
    }
    f->apart = f->images > 1 && f->y->stride[3] % FC_CROWDED == 0;
    f->pitch = odd_lines(f->outputs);
    f->sums = fc_alloc((size_t)((f->parts - !f->apart) * f->images * f->pitch) * sizeof(float));
    if (!f->sums)
        return -1;
    fc_team_run(threads, 1, forward_body, f);
    fc_free(f->sums);
    return 0;
}

int fc_linear_forward(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *w, const fc_conv2d_extras *extras,
                      const fc_tensor *y)
{
    forward f = {
        .x = x, .w = w, .y = y, .bias = extras->bias, .relu = extras->relu,
        .images = x->size[3], .outputs = w->size[0], .inputs = w->size[1],
    };
    if (f.images > MOST_IMAGES || w->stride[0] != 1)
        return fc_conv2d_forward(conv, x, w, extras, y);
    return f.images && f.outputs ? run_forward(&f) : 0;
}

int fc_linear_compressed(const fc_compressed *w, const fc_tensor *x, const fc_conv2d_extras *extras,
                         const fc_tensor *y)
{
    forward f = {
        .x = x, .compressed = w, .y = y, .bias = extras->bias, .relu = extras->relu,
        .images = x->size[3], .outputs = w->outputs, .inputs = w->inputs,
    };
    return f.images ? run_forward(&f) : 0;
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
    const int threads = fc_team_size(results * (FC_FLOAT_NS + TERM_NS * (double)whole.terms));
    fc_parallel_for((size_t)ceil_div(o.rows, TASK_ROWS), threads, 1, run_task, &o);
    return 0;
}
