/* SPDX-License-Identifier: MIT */
/* Direct correlation for few output channels of narrow images: lanes stand for the taps of a row and the outputs.
 *
 *   t[w][s][k] = sum over r, c of  x[u + r][w][c] * w[k][c][r][s]         what column w of x adds to row u of y
 *   y[u][v][k] = sum over s of  t[v + s][s][k]
 *
 * A row of y is a few pixels that overlap: in memory they follow each other, so t[w], its taps from the last to the
 * first, is added to it as one span. Each product is one of the correlation, whereas the other ways multiply the zeros
 * that x is padded with, or leave lanes idle: a gradient of 10 x 10 pixels for 14 x 14 of 6 channels and filters of
 * 5 x 5 takes 2/3 of the steps of the planar way. The shape alone decides, for sums are in another order.
 *
 *   task = (image, block of rows):
 *       copy its input channels-last, unless it lies so                                              (L2)
 *       for each row, panel, tile of columns: kernels->tile_rows, to t                        (registers)
 *       for each column, row: add t to the row                                                       (L1)
 *       bias, residual, relu; store */
#include <string.h>

#include "../runtime/memory.h"
#include "../runtime/timers.h"
#include "correlate_plan.h"
#include "integers.h"
#include "rows.h"

enum {
    USUAL_LANES = 16,
    MOST_LANES = 32,
    MOST_STEPS = 1152,             /* of the chain of a t */
    BLOCK_FLOATS = 6 << 10,        /* of t in a block, about: 24 KiB of the L1 cache */
};

/* Of the steps of the other ways, so that adding up does not outweigh those that are saved. */
static const double LEAST_GAIN = 0.75;

typedef struct by_taps {
    const fc_correlation *p;
    const fc_correlation_plan *plan;
    ptrdiff_t span, width, vectors, panels;     /* floats of a t: those that count, whole panels of them */
    ptrdiff_t block_rows, row_blocks;
    ptrdiff_t row_floats;                       /* of a row of y, with the pixels beside the image */
    float *weights;                             /* [panel][r][c][lanes of a panel] */
    float *scratch;
    size_t copy_floats, t_floats, scratch_floats;
} by_taps;

static ptrdiff_t panel_lanes(const by_taps *plan) { return plan->vectors * (ptrdiff_t)plan->plan->kernels->lanes; }

static void pack_weights(const by_taps *plan)
{
    const fc_tensor *w = &plan->p->w;
    const fc_taps *rows = plan->p->taps[0], *columns = plan->p->taps[1];
    float *out = plan->weights;
    for (ptrdiff_t first = 0; first < plan->width; first += panel_lanes(plan))
        for (ptrdiff_t r = 0; r < rows->count; r++)
            for (ptrdiff_t c = 0; c < plan->plan->channels; c++)
                for (ptrdiff_t lane = first; lane < first + panel_lanes(plan); lane++) {
                    const ptrdiff_t s = columns->count - 1 - lane / plan->plan->outputs, k = lane % plan->plan->outputs;
                    *out++ = s < 0 ? 0 : w->data[k * w->stride[0] + c * w->stride[1] + rows->index[r] * w->stride[2] +
                                                 columns->index[s] * w->stride[3]];
                }
}

/* t of rows u0 .. u1 - 1, from x whose row h0 is its first. */
static void multiply(const by_taps *plan, const float *x, ptrdiff_t x_row, ptrdiff_t x_pixel, ptrdiff_t h0,
                     ptrdiff_t u0, ptrdiff_t u1, float *t)
{
    const fc_correlation *p = plan->p;
    const fc_kernels *kernels = plan->plan->kernels;
    const fc_taps *rows = p->taps[0];
    const ptrdiff_t channels = plan->plan->channels, columns = p->x.size[3], panel = panel_lanes(plan);
    const ptrdiff_t tiles = ceil_div(columns, (ptrdiff_t)kernels->max_rows[plan->vectors]);
    const ptrdiff_t piece = rows->count * channels * panel;
    ptrdiff_t a_run[MOST_STEPS], b_run[MOST_STEPS], first, last;
    for (ptrdiff_t u = u0; u < u1; u++, t += columns * plan->width) {
        fc_valid_taps(rows, u, p->x.size[2], &first, &last);
        for (ptrdiff_t r = first; r < last; r++) {
            a_run[r - first] = (u + rows->offset[r] - h0) * x_row;
            b_run[r - first] = r * channels * panel;
        }
        for (ptrdiff_t i = 0; i < plan->panels; i++)
            for (ptrdiff_t j = 0, w = 0, tile; j < tiles; j++, w += tile) {
                tile = share_of(columns, j, tiles);
                const fc_tile one = {
                    .a = x + w * x_pixel,
                    .a_row = x_pixel,
                    .a_step = 1,
                    .b = plan->weights + i * piece,
                    .b_step = panel,
                    .a_run = a_run,
                    .b_run = b_run,
                    .runs = (size_t)(last - first),
                    .depth = (size_t)channels,
                    .y = t + w * plan->width + i * panel,
                    .y_row = plan->width,
                    .last_lanes = kernels->lanes,
                };
                kernels->tile_rows[plan->vectors][tile](&one);
            }
    }
}

/* Row u of y, from sums that are side by side. */
static void store_row(const by_taps *plan, ptrdiff_t n, ptrdiff_t u, float *row)
{
    const fc_correlation *p = plan->p;
    const fc_kernels *kernels = plan->plan->kernels;
    const fc_tensor *y = &p->y;
    const ptrdiff_t outputs = plan->plan->outputs, columns = y->size[3];
    float *to = y->data + n * y->stride[0] + u * y->stride[2];
    if (p->bias)
        for (ptrdiff_t v = 0; v < columns; v++)
            for (ptrdiff_t k = 0; k < outputs; k++)
                row[v * outputs + k] += p->bias[k];
    if (p->residual)
        for (ptrdiff_t v = 0; v < columns; v++)
            for (ptrdiff_t k = 0; k < outputs; k++)
                row[v * outputs + k] += p->residual[to - y->data + v * y->stride[3] + k * y->stride[1]];
    if (p->relu)
        kernels->activation[FC_RELU]((size_t)(columns * outputs), row, row);
    if (y->stride[1] == 1 && y->stride[3] == outputs)
        memcpy(to, row, (size_t)(columns * outputs) * sizeof(float));
    else
        fc_store_row(kernels, row, outputs, columns, outputs, to, y->stride[1], y->stride[3]);
}

static void run_task(void *context, size_t task, int thread)
{
    const by_taps *plan = context;
    const fc_correlation *p = plan->p;
    const fc_kernels *kernels = plan->plan->kernels;
    const fc_tensor *x = &p->x;
    const ptrdiff_t outputs = plan->plan->outputs, channels = plan->plan->channels, in_columns = x->size[3];
    const ptrdiff_t n = (ptrdiff_t)task / plan->row_blocks, u0 = (ptrdiff_t)task % plan->row_blocks * plan->block_rows;
    const ptrdiff_t u1 = min(p->y.size[2], u0 + plan->block_rows);
    const ptrdiff_t h0 = max(0, u0 + plan->plan->row_min), h1 = min(x->size[2], u1 + plan->plan->row_max);
    float *copy = plan->scratch + (size_t)thread * plan->scratch_floats, *t = copy + plan->copy_floats;
    float *rows = t + plan->t_floats;

    const float *from = x->data + n * x->stride[0] + h0 * x->stride[2];
    ptrdiff_t x_row = x->stride[2], x_pixel = x->stride[3];
    if (plan->copy_floats) {
        fc_clock(FC_COPY);
        x_row = in_columns * channels;
        x_pixel = channels;
        for (ptrdiff_t h = h0; h < h1; h++)
            fc_copy_row(kernels, x, n, 0, channels, h, 0, in_columns, copy + (h - h0) * x_row, x_pixel);
        from = copy;
    }
    fc_clock(FC_MULTIPLY);
    multiply(plan, from, x_row, x_pixel, h0, u0, u1, t);

    fc_clock(FC_STORE);
    memset(rows, 0, (size_t)((u1 - u0) * plan->row_floats) * sizeof(float));
    const ptrdiff_t before = max(0, plan->plan->column_max), skipped = before - plan->plan->column_max;
    /* Row by row, for what was just stored cannot be loaded again at once where it lies otherwise in its vector. */
    for (ptrdiff_t w = 0; w < in_columns; w++)
        kernels->add_spans((size_t)(u1 - u0), (size_t)plan->span, t + w * plan->width, in_columns * plan->width,
                           rows + (w + skipped) * outputs, plan->row_floats);
    for (ptrdiff_t u = u0; u < u1; u++)
        store_row(plan, n, u, rows + (u - u0) * plan->row_floats + before * outputs);
}

int fc_taps_are_better(const fc_correlation_plan *plan)
{
    const fc_correlation *p = &plan->p;
    const fc_taps *columns = p->taps[1];
    const ptrdiff_t taps = columns->count, span = taps * plan->outputs, steps = plan->channels * p->taps[0]->count;
    const ptrdiff_t own = p->x.size[3] * ceil_div(span, USUAL_LANES);
    const ptrdiff_t of_blocks = plan->columns * taps * ceil_div(plan->outputs, USUAL_LANES);
    const ptrdiff_t of_planes = plan->outputs * taps * ceil_div(plan->columns, USUAL_LANES);
    return p->groups == 1 && p->x_step[0] == 1 && p->x_step[1] == 1 && p->y_step[0] == 1 && p->y_step[1] == 1 &&
           taps > 1 && fc_is_run(columns) && span <= MOST_LANES && steps > 0 && steps <= MOST_STEPS && own > 0 &&
           (double)own <= LEAST_GAIN * (double)min(of_blocks, of_planes);
}

int fc_correlate_taps(const fc_correlation_plan *correlation)
{
    const fc_correlation *p = &correlation->p;
    const ptrdiff_t lanes = (ptrdiff_t)correlation->kernels->lanes, outputs = correlation->outputs;
    by_taps plan = {.p = p, .plan = correlation};
    plan.span = p->taps[1]->count * outputs;
    plan.vectors = min(2, ceil_div(plan.span, lanes));
    plan.panels = ceil_div(plan.span, panel_lanes(&plan));
    plan.width = plan.panels * panel_lanes(&plan);

    const ptrdiff_t in_columns = p->x.size[3], before = max(0, correlation->column_max);
    plan.block_rows = max(1, min(p->y.size[2], BLOCK_FLOATS / max(1, in_columns * plan.width)));
    plan.row_blocks = ceil_div(p->y.size[2], plan.block_rows);
    const ptrdiff_t in_rows = min(p->x.size[2], plan.block_rows + correlation->row_max - correlation->row_min);
    /* From the first pixel that a tap reaches, or that is in the image, to the last. */
    const ptrdiff_t pixels = before + max(p->y.size[3], in_columns - correlation->column_min);
    plan.row_floats = (ptrdiff_t)round_up(pixels * outputs);
    if (p->x.stride[1] != 1 && correlation->channels > 1)
        plan.copy_floats = round_up(in_rows * in_columns * correlation->channels);
    plan.t_floats = round_up(plan.block_rows * in_columns * plan.width);
    plan.scratch_floats = plan.copy_floats + plan.t_floats + round_up(plan.block_rows * plan.row_floats);

    const size_t tasks = (size_t)(p->y.size[0] * plan.row_blocks);
    const size_t weight_floats = (size_t)(correlation->most_taps[0] * correlation->channels * plan.width);
    const double steps = (double)p->y.size[0] * (double)p->y.size[2] * (double)in_columns * (double)weight_floats;
    const int threads = fc_team_size(steps / (double)lanes * FC_STEP_NS);
    plan.weights = fc_alloc((weight_floats + 16 + (size_t)threads * plan.scratch_floats) * sizeof(float));
    if (!plan.weights)
        return -1;
    plan.scratch = plan.weights + round_up((ptrdiff_t)weight_floats);
    pack_weights(&plan);
    fc_parallel_for(tasks, threads, 1, run_task, &plan);
    fc_free(plan.weights);
    return 0;
}
