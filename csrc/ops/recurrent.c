/* SPDX-License-Identifier: MIT */
/* Recurrent layers: what depends on the step before. The product with the input is one linear call for all steps.
 *
 *   forward    z_t = gates_t + h_{t-1} weight^T;  h_t = tanh(z_t), or an LSTM's cell (kernels/lstm.h)
 *   backward   dh_t += dy_t;  dz_t of dh_t;  dh_{t-1} = dz_t weight
 *
 * No sequence depends on another, so a thread takes some sequences through all steps without waiting for the others,
 * and the weights are packed once for all steps, to panels [output/NB][depth][NB] that stay in the L2 cache. Each
 * sum is one chain of multiply-adds, whatever the threads, the block of sequences and the tile. */
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "correlate_plan.h"
#include "integers.h"
#include "ops.h"

enum {
    VECTORS = 3,                  /* of a panel: in tiles of 4 to 9 rows, loads keep up with multiply-adds */
    MOST_SEQUENCES = 64,          /* of a task */
};

/* Nanoseconds of one thread for the activation of a gate. */
static const double GATE_NS = 0.6;

typedef struct plan plan;
struct plan {
    const fc_kernels *kernels;
    const fc_recurrent *r;
    ptrdiff_t sequences, steps, hidden;
    ptrdiff_t outputs, depth;                   /* of the product with the weights */
    ptrdiff_t output_stride, depth_stride;      /* of the weights */
    ptrdiff_t width, panels;
    ptrdiff_t block, blocks;                    /* sequences of a task */
    float *packed;
    void (*run)(const plan *, ptrdiff_t first, ptrdiff_t sequences);
    fc_tasks packing, runs;
};

static float *at(const fc_tensor *t, ptrdiff_t n, ptrdiff_t step)
{
    return t->data + n * t->stride[0] + step * t->stride[1];
}

/* The i-th step of the recurrence. */
static ptrdiff_t step_of(const plan *p, ptrdiff_t i) { return p->r->reverse ? p->steps - 1 - i : i; }

/* ---- the product with the weights --------------------------------------------------------------------- */

/* Lanes behind the last output are zero: nothing is made of them, but they must not be slow to multiply. */
static void pack(const plan *p, ptrdiff_t panel)
{
    const ptrdiff_t first = panel * p->width, used = min(p->width, p->outputs - first);
    const float *from = p->r->weight.data + first * p->output_stride;
    float *to = p->packed + panel * p->width * p->depth;
    if (used < p->width)
        memset(to, 0, (size_t)(p->width * p->depth) * sizeof(float));
    if (p->output_stride == 1)
        for (ptrdiff_t d = 0; d < p->depth; d++)
            memcpy(to + d * p->width, from + d * p->depth_stride, (size_t)used * sizeof(float));
    else
        p->kernels->transpose((size_t)used, (size_t)p->depth, from, p->output_stride, to, p->width);
}

/* y = a weights, or with accumulate y += a weights, for some rows. */
static void multiply(const plan *p, ptrdiff_t rows, const float *a, ptrdiff_t a_row, float *y, ptrdiff_t y_row,
                     int accumulate)
{
    static const ptrdiff_t start = 0;
    const ptrdiff_t lanes = (ptrdiff_t)p->kernels->lanes;
    for (ptrdiff_t panel = 0; panel < p->panels; panel++) {
        const ptrdiff_t first = panel * p->width, left = min(p->width, p->outputs - first);
        const ptrdiff_t vectors = ceil_div(left, lanes);
        const ptrdiff_t tiles = ceil_div(rows, (ptrdiff_t)p->kernels->max_rows[vectors]);
        for (ptrdiff_t i = 0, r = 0, high; i < tiles; i++, r += high) {
            high = share_of(rows, i, tiles);
            const fc_tile tile = {
                .a = a + r * a_row, .a_row = a_row, .a_step = 1, .a_run = &start,
                .b = p->packed + panel * p->width * p->depth, .b_step = p->width, .b_run = &start,
                .runs = 1, .depth = (size_t)p->depth,
                .y = y + r * y_row + first, .y_row = y_row,
                .last_lanes = (size_t)(left - (vectors - 1) * lanes), .accumulate = accumulate,
            };
            p->kernels->tile_rows[vectors][high](&tile);
        }
    }
}

/* ---- some sequences through all steps ------------------------------------------------------------------- */

static void run_forward(const plan *p, ptrdiff_t first, ptrdiff_t sequences)
{
    const fc_recurrent *r = p->r;
    const fc_kernels *kernels = p->kernels;
    const size_t hidden = (size_t)p->hidden;
    for (ptrdiff_t i = 0; i < p->steps; i++) {
        const ptrdiff_t t = step_of(p, i), before = i ? step_of(p, i - 1) : 0;
        const fc_tensor *h = i ? &r->output : &r->h0, *c = i ? &r->cells : &r->c0;
        multiply(p, sequences, at(h, first, before), h->stride[0], at(&r->gates, first, t), r->gates.stride[0], 1);
        for (ptrdiff_t n = first; n < first + sequences; n++)
            if (r->lstm)
                kernels->lstm_cell_span(hidden, at(&r->gates, n, t), at(c, n, before), at(&r->cells, n, t),
                                        at(&r->output, n, t));
            else
                kernels->activation[FC_TANH](hidden, at(&r->gates, n, t), at(&r->output, n, t));
    }
}

static void run_backward(const plan *p, ptrdiff_t first, ptrdiff_t sequences)
{
    const fc_recurrent *r = p->r;
    const fc_kernels *kernels = p->kernels;
    const size_t hidden = (size_t)p->hidden;
    for (ptrdiff_t i = p->steps - 1; i >= 0; i--) {
        const ptrdiff_t t = step_of(p, i), before = i ? step_of(p, i - 1) : 0;
        const fc_tensor *c = i ? &r->cells : &r->c0;
        for (ptrdiff_t n = first; n < first + sequences; n++) {
            float *dh = at(&r->dh, n, 0), *dz = at(&r->dgates, n, t);
            fc_add_span(kernels, hidden, at(&r->dy, n, t), dh);
            if (r->lstm)
                kernels->lstm_cell_backward_span(hidden, at(&r->gates, n, t), at(c, n, before), at(&r->cells, n, t),
                                                 dh, at(&r->dc, n, 0), dz);
            else
                kernels->activation_backward[FC_TANH](hidden, dh, at(&r->output, n, t), dz);
        }
        multiply(p, sequences, at(&r->dgates, first, t), r->dgates.stride[0], at(&r->dh, first, 0), r->dh.stride[0], 0);
    }
}

static void body(void *context, int thread, int threads)
{
    plan *p = context;
    for (fc_hand hand = fc_hand_of(&p->packing, p->panels, thread, threads); fc_take(&hand);)
        pack(p, hand.task);
    fc_team_barrier(threads);
    for (fc_hand hand = fc_hand_of(&p->runs, p->blocks, thread, threads); fc_take(&hand);) {
        const ptrdiff_t first = hand.task * p->block;
        p->run(p, first, min(p->block, p->sequences - first));
    }
}

static int run(plan *p, const fc_tensor *steps)
{
    p->sequences = steps->size[0];
    p->steps = steps->size[1];
    p->hidden = steps->size[2];
    if (!p->sequences)
        return 0;
    p->kernels = fc_kernels_active();
    p->width = VECTORS * (ptrdiff_t)p->kernels->lanes;
    p->panels = ceil_div(p->outputs, p->width);
    const double products = (double)p->outputs * (double)p->depth / (double)p->kernels->lanes;
    const double cost = products * FC_STEP_NS + (double)p->r->weight.size[0] * GATE_NS;
    const int threads = fc_team_size(cost * (double)p->sequences * (double)p->steps);
    p->block = min(MOST_SEQUENCES, ceil_div(p->sequences, threads));
    p->blocks = ceil_div(p->sequences, p->block);
    p->packed = fc_alloc((size_t)(p->panels * p->width * p->depth) * sizeof(float));
    if (!p->packed)
        return -1;
    fc_team_run((int)min(threads, p->blocks), 1, body, p);
    fc_free(p->packed);
    return 0;
}

int fc_recurrent_forward(const fc_recurrent *r)
{
    const fc_tensor *w = &r->weight;
    plan p = {.r = r, .run = run_forward, .outputs = w->size[0], .depth = w->size[1], .output_stride = w->stride[0],
              .depth_stride = w->stride[1]};
    return run(&p, &r->output);
}

int fc_recurrent_backward(const fc_recurrent *r)
{
    const fc_tensor *w = &r->weight;
    plan p = {.r = r, .run = run_backward, .outputs = w->size[1], .depth = w->size[0], .output_stride = w->stride[1],
              .depth_stride = w->stride[0]};
    return run(&p, &r->dy);
}
