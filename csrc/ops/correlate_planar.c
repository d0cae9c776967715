/* SPDX-License-Identifier: MIT */
/* Direct correlation for few output channels: lanes stand for neighbouring pixels, rows for output channels.
 *
 *   task = (image, group, block of rows, unit of columns):
 *       copy its input to planes [c][h][w], zero-padded, unless it is one that lies so              (L2)
 *       for each phase, some rows, tile of outputs, tile of pixels: kernels->tile_listed     (registers)
 *
 * With K outputs of FC_LANES lanes the other way (correlate_block.c) wastes all but K of them. The chain of
 * multiply-adds of an output is the same, r, s, c, so the choice does not change a bit. */
#include "../runtime/memory.h"
#include "../runtime/timers.h"
#include "correlate_plan.h"
#include "integers.h"
#include "rows.h"

enum {
    TASKS_A_THREAD = 4,
    STAGE_FLOATS = 2 << 10,      /* of rows that are staged at a time: 8 KiB of the L1 cache */
};

typedef struct planar {
    const fc_correlation *p;
    const fc_correlation_plan *plan;
    ptrdiff_t tile_outputs, output_tiles, vectors;
    ptrdiff_t unit_columns, units, block_rows, row_blocks;
    ptrdiff_t in_columns, plane;            /* of the copy */
    ptrdiff_t joined_rows;                  /* that fill tiles as one */
    int in_place;                           /* x is read where it lies, as far as vectors end in it */
    int staged;                             /* results are not rows of y: */
    ptrdiff_t most_rows;                    /* that are staged, or computed, at a time */
    ptrdiff_t stage_row, stage_plane;       /* floats of a row, of an output */
    ptrdiff_t *steps;                       /* [phase][r][s][c]: where in the planes each step's pixels begin */
    size_t most_steps;
    float *weights;                         /* [phase][group][output tile][r][s][c][tile_outputs] */
    size_t tile_floats, phase_floats;
    float *scratch;
    size_t copy_floats, scratch_floats;
} planar;

static void list_steps(const planar *plan, const fc_taps *rows, const fc_taps *columns, ptrdiff_t *step)
{
    for (ptrdiff_t r = 0; r < rows->count; r++)
        for (ptrdiff_t s = 0; s < columns->count; s++)
            for (ptrdiff_t c = 0; c < plan->plan->channels; c++)
                *step++ = c * plan->plane + rows->offset[r] * plan->in_columns + columns->offset[s] -
                          plan->plan->column_min;
}

static void pack_weights(const planar *plan, const fc_taps *rows, const fc_taps *columns, float *out)
{
    const fc_tensor *w = &plan->p->w;
    for (ptrdiff_t group = 0; group < plan->p->groups; group++)
        for (ptrdiff_t k0 = 0; k0 < plan->plan->outputs; k0 += plan->tile_outputs, out += plan->tile_floats) {
            const ptrdiff_t outputs = min(plan->tile_outputs, plan->plan->outputs - k0);
            float *to = out;
            for (ptrdiff_t r = 0; r < rows->count; r++)
                for (ptrdiff_t s = 0; s < columns->count; s++)
                    for (ptrdiff_t c = 0; c < plan->plan->channels; c++, to += plan->tile_outputs)
                        for (ptrdiff_t k = 0; k < outputs; k++)
                            to[k] = w->data[group * plan->p->w_group + (k0 + k) * w->stride[0] + c * w->stride[1] +
                                            rows->index[r] * w->stride[2] + columns->index[s] * w->stride[3]];
        }
}

typedef struct block {
    ptrdiff_t n, group, u0, u1, v0, h0;
    const float *x;                          /* planes from image row h0 and column v0 + column_min */
    float *stage;
} block;

/* Output rows u .. u + count - 1 of one phase, which meet the same taps: `columns` pixels of each from b->v0. */
static void multiply_rows(const planar *plan, const block *b, size_t phase, ptrdiff_t u, ptrdiff_t count,
                          ptrdiff_t columns)
{
    const fc_correlation *p = plan->p;
    const fc_tensor *y = &p->y;
    const ptrdiff_t at[2] = {(ptrdiff_t)phase / p->phases[1], (ptrdiff_t)phase % p->phases[1]};
    const fc_taps *rows = &p->taps[0][at[0]], *across = &p->taps[1][at[1]];
    const ptrdiff_t lanes = (ptrdiff_t)plan->plan->kernels->lanes, span = plan->vectors * lanes;
    const ptrdiff_t steps_a_row = across->count * plan->plan->channels;
    const ptrdiff_t y_row = y->stride[2] * p->y_step[0], y_pixel = y->stride[3] * p->y_step[1];
    const ptrdiff_t to_row = plan->staged ? plan->stage_row : y_row;
    ptrdiff_t first, last;
    fc_valid_taps(rows, u * p->x_step[0], p->x.size[2], &first, &last);

    for (ptrdiff_t tile = 0; tile < plan->output_tiles; tile++) {
        const ptrdiff_t k = b->group * plan->plan->outputs + tile * plan->tile_outputs;
        const ptrdiff_t outputs = min(plan->tile_outputs, plan->plan->outputs - tile * plan->tile_outputs);
        float *out = y->data + b->n * y->stride[0] + k * y->stride[1] + at[0] * y->stride[2] + u * y_row +
                     at[1] * y->stride[3] + b->v0 * y_pixel;
        const float *residual = p->residual ? p->residual + (out - y->data) : NULL;
        if (residual && plan->staged) {
            const fc_tensor added = {
                .data = (float *)residual,
                .size = {1, outputs, count, columns},
                .stride = {0, y->stride[1], y_row, y_pixel},
            };
            for (ptrdiff_t i = 0; i < count; i++)
                fc_copy_row_planar(plan->plan->kernels, &added, 0, 0, outputs, i, 0, columns, b->stage + i * to_row,
                                   plan->stage_plane);
            residual = b->stage;
        }
        fc_tile t = {
            .a = plan->weights + phase * plan->phase_floats +
                 (size_t)(b->group * plan->output_tiles + tile) * plan->tile_floats +
                 first * steps_a_row * plan->tile_outputs,
            .a_step = plan->tile_outputs,
            .b_run = plan->steps + phase * plan->most_steps + first * steps_a_row,
            .runs = (size_t)((last - first) * steps_a_row),
            .y_row = plan->staged ? plan->stage_plane : y->stride[1],
            .row_bias = p->bias ? p->bias + k : NULL,
            .relu = p->relu,
        };
        for (ptrdiff_t i = 0; i < count; i += plan->joined_rows) {
            const ptrdiff_t pixels = (min(plan->joined_rows, count - i) - 1) * plan->in_columns + columns;
            t.b = b->x + ((u + i) * p->x_step[0] - b->h0) * plan->in_columns;
            t.y = (plan->staged ? b->stage : out) + i * to_row;
            t.residual = residual ? residual + i * to_row : NULL;
            for (ptrdiff_t left = pixels; left > 0; left -= span, t.b += span, t.y += span) {
                const ptrdiff_t used = min(span, left), vectors = ceil_div(used, lanes);
                t.last_lanes = (size_t)(plan->staged ? lanes : used - (vectors - 1) * lanes);
                plan->plan->kernels->tile_listed[vectors][outputs](&t);
                t.residual += residual ? span : 0;
            }
        }
        if (plan->staged) {
            fc_clock(FC_STORE);
            const int whole = columns == to_row && y_row == columns * y_pixel;
            for (ptrdiff_t i = 0; i < (whole ? 1 : count); i++)
                fc_store_row(plan->plan->kernels, b->stage + i * to_row, plan->stage_plane, outputs,
                             whole ? columns * count : columns, out + i * y_row, y_pixel, y->stride[1]);
            fc_clock(FC_MULTIPLY);
        }
    }
}

/* How many rows from u on meet the same taps as u, of at most so many. */
static ptrdiff_t meet_same_taps(const fc_correlation *p, size_t phase, ptrdiff_t u, ptrdiff_t most)
{
    const fc_taps *rows = &p->taps[0][(ptrdiff_t)phase / p->phases[1]];
    ptrdiff_t first, last, first_then, last_then, count = most;
    fc_valid_taps(rows, u * p->x_step[0], p->x.size[2], &first, &last);
    for (; count > 1; count--) {
        fc_valid_taps(rows, (u + count - 1) * p->x_step[0], p->x.size[2], &first_then, &last_then);
        if (first == first_then && last == last_then)
            break;
    }
    return count;
}

static void run_task(void *context, size_t task, int thread)
{
    const planar *plan = context;
    const fc_correlation *p = plan->p;
    const ptrdiff_t unit = (ptrdiff_t)task % plan->units;
    const ptrdiff_t row_block = (ptrdiff_t)task / plan->units % plan->row_blocks;
    const ptrdiff_t rest = (ptrdiff_t)task / plan->units / plan->row_blocks;
    float *copy = plan->scratch + (size_t)thread * plan->scratch_floats;
    block b = {
        .n = rest / p->groups,
        .group = rest % p->groups,
        .u0 = row_block * plan->block_rows,
        .v0 = unit * plan->unit_columns,
        .x = copy,
        .stage = copy + plan->copy_floats,
    };
    fc_clock(FC_COPY);
    b.u1 = min(plan->plan->rows, b.u0 + plan->block_rows);
    b.h0 = max(0, b.u0 * p->x_step[0] + plan->plan->row_min);
    const ptrdiff_t h_end = min(p->x.size[2], (b.u1 - 1) * p->x_step[0] + plan->plan->row_max + 1);
    /* The last vector of a block may end up to a vector behind it: in the next image. */
    if (plan->in_place && b.n + 1 < p->x.size[0])
        b.x = p->x.data + b.n * p->x.stride[0] + b.h0 * p->x.stride[2];
    else
        for (ptrdiff_t h = b.h0; h < h_end; h++)
            fc_copy_row_planar(plan->plan->kernels, &p->x, b.n, b.group * plan->plan->channels, plan->plan->channels,
                               h, b.v0 + plan->plan->column_min, plan->in_columns,
                               copy + (h - b.h0) * plan->in_columns, plan->plane);
    fc_clock(FC_MULTIPLY);
    for (size_t phase = 0; phase < plan->plan->phase_count; phase++) {
        const ptrdiff_t i = (ptrdiff_t)phase / p->phases[1], j = (ptrdiff_t)phase % p->phases[1];
        const ptrdiff_t rows = ceil_div(p->y.size[2] - i, p->y_step[0]);
        const ptrdiff_t columns = min(plan->unit_columns, ceil_div(p->y.size[3] - j, p->y_step[1]) - b.v0);
        for (ptrdiff_t u = b.u0, end = min(b.u1, rows); u < end && columns > 0;) {
            const ptrdiff_t count = meet_same_taps(p, phase, u, min(plan->most_rows, end - u));
            multiply_rows(plan, &b, phase, u, count, columns);
            u += count;
        }
    }
}

int fc_planar_is_better(const fc_correlation_plan *plan)
{
    const fc_correlation *p = &plan->p;
    const ptrdiff_t lanes = (ptrdiff_t)plan->kernels->lanes;
    const ptrdiff_t block_steps = plan->columns * ceil_div(plan->outputs, lanes);
    const ptrdiff_t planar_steps = plan->outputs * ceil_div(plan->columns, lanes);
    /* Each way transposes arrays of the other's layout. By block, a tile of one vector loads as much as it multiplies:
     * that is slow, and tiles of two are fast, where vectors are multiplied two at a time. */
    const int planes = p->x.stride[3] == 1 && p->y.stride[3] == 1 && p->y_step[1] == 1;
    const int widest = lanes == FC_MAX_LANES, fit = plan->outputs <= (ptrdiff_t)plan->kernels->max_rows[2];
    const double allowed = planes ? 1 : widest ? 0.8 : 0.9;
    return p->x_step[1] == 1 && plan->channels && plan->parts == 1 && p->w.size[2] * p->w.size[3] > 1 &&
           (planes || widest || fit) && (double)planar_steps <= allowed * (double)block_steps;
}

int fc_correlate_planar(const fc_correlation_plan *correlation)
{
    const fc_correlation *p = &correlation->p;
    planar plan = {.p = p, .plan = correlation};
    const fc_kernels *kernels = correlation->kernels;
    const ptrdiff_t lanes = (ptrdiff_t)kernels->lanes, channels = correlation->channels;
    /* Of two vectors: of one, they load as much as they multiply. */
    plan.output_tiles = ceil_div(correlation->outputs, (ptrdiff_t)kernels->max_rows[2]);
    plan.tile_outputs = ceil_div(correlation->outputs, plan.output_tiles);
    plan.output_tiles = ceil_div(correlation->outputs, plan.tile_outputs);
    ptrdiff_t most_vectors = FC_MAX_VECTORS;
    while ((ptrdiff_t)kernels->max_rows[most_vectors] < plan.tile_outputs)
        most_vectors--;
    plan.vectors = min(most_vectors, ceil_div(correlation->columns, lanes));
    plan.staged = p->y.stride[3] != 1 || p->y_step[1] != 1;

    /* A block's planes fill a quarter of the L2 cache. A long row is cut so that several fit. */
    const ptrdiff_t fit = fc_l2_floats() / 4;
    const ptrdiff_t reach = correlation->column_max - correlation->column_min;
    const ptrdiff_t height = correlation->row_max - correlation->row_min + 1;
    const ptrdiff_t span = plan.vectors * lanes;
    plan.unit_columns = min(correlation->columns, max(span, (fit / (channels * 3 * height) - reach) / span * span));
    plan.units = ceil_div(correlation->columns, plan.unit_columns);
    plan.in_columns = plan.unit_columns + reach;
    /* Rows behind each other in the planes fill tiles as one, together with the columns between them. */
    plan.joined_rows = 1;
    if (plan.staged && p->x_step[0] == 1 && p->y_step[0] == 1 && most_vectors * lanes >= 2 * plan.in_columns) {
        plan.joined_rows = most_vectors * lanes / plan.in_columns;
        plan.vectors = most_vectors;
    }
    const ptrdiff_t image = p->x.size[2] * plan.in_columns;
    plan.in_place = channels == 1 && p->groups == 1 && plan.units == 1 && !correlation->column_min &&
                    p->x.stride[3] == 1 && p->x.size[3] == plan.in_columns && p->x.stride[2] == plan.in_columns &&
                    p->x.stride[0] == image && image >= lanes;
    plan.block_rows = (fit / (channels * plan.in_columns) - height) / p->x_step[0] + 1;
    plan.block_rows = max(1, min(correlation->rows, plan.block_rows));

    const double steps = (double)p->y.size[0] * (double)p->y.size[1] * (double)correlation->rows *
                         (double)ceil_div(correlation->columns, lanes) * (double)channels *
                         (double)(p->w.size[2] * p->w.size[3]);
    const int threads = fc_team_size(steps * FC_STEP_NS);
    const ptrdiff_t others = p->x.size[0] * p->groups * plan.units;
    while (threads > 1 && plan.block_rows > 1 &&
           others * ceil_div(correlation->rows, plan.block_rows) < TASKS_A_THREAD * threads)
        plan.block_rows = ceil_div(plan.block_rows, 2);
    plan.row_blocks = ceil_div(correlation->rows, plan.block_rows);

    /* The same pixel of many planes is read in turn. */
    const ptrdiff_t in_rows = min(p->x.size[2], (plan.block_rows - 1) * p->x_step[0] + height);
    plan.plane = odd_lines(in_rows * plan.in_columns);
    plan.copy_floats = round_up(channels * plan.plane) + (size_t)(FC_MAX_VECTORS * lanes);
    plan.most_rows = plan.block_rows;
    if (plan.staged) {
        /* Only whole vectors are stored: what is behind a row's end, the next one overwrites, unless it is still to be
         * added to that. */
        plan.stage_row = plan.joined_rows > 1 ? plan.in_columns : plan.unit_columns;
        const ptrdiff_t fit = STAGE_FLOATS / (plan.tile_outputs * plan.stage_row * plan.joined_rows);
        plan.most_rows = min(plan.block_rows, (p->residual ? 1 : max(1, fit)) * plan.joined_rows);
        plan.stage_plane = ceil_div((plan.most_rows - 1) * plan.stage_row + plan.unit_columns, lanes) * lanes + lanes;
    }
    plan.scratch_floats = plan.copy_floats + (plan.staged ? round_up(plan.tile_outputs * plan.stage_plane) : 0);

    plan.most_steps = (size_t)(correlation->most_taps[0] * correlation->most_taps[1] * channels);
    plan.tile_floats = plan.most_steps * (size_t)plan.tile_outputs;
    plan.phase_floats = (size_t)(p->groups * plan.output_tiles) * plan.tile_floats;
    const size_t weight_floats = round_up((ptrdiff_t)(correlation->phase_count * plan.phase_floats));
    const size_t step_bytes = (correlation->phase_count * plan.most_steps * sizeof(ptrdiff_t) + 63) & ~(size_t)63;
    char *workspace = fc_alloc(step_bytes + (weight_floats + (size_t)threads * plan.scratch_floats) * sizeof(float));
    if (!workspace)
        return -1;
    plan.steps = (ptrdiff_t *)workspace;
    plan.weights = (float *)(workspace + step_bytes);
    plan.scratch = plan.weights + weight_floats;
    for (size_t phase = 0; phase < correlation->phase_count; phase++) {
        const fc_taps *rows = &p->taps[0][(ptrdiff_t)phase / p->phases[1]];
        const fc_taps *columns = &p->taps[1][(ptrdiff_t)phase % p->phases[1]];
        list_steps(&plan, rows, columns, plan.steps + phase * plan.most_steps);
        pack_weights(&plan, rows, columns, plan.weights + phase * plan.phase_floats);
    }
    fc_parallel_for((size_t)(p->x.size[0] * p->groups * plan.row_blocks * plan.units), threads, 1, run_task, &plan);
    fc_free(workspace);
    return 0;
}
