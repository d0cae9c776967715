/* SPDX-License-Identifier: MIT */
/* Direct correlation, blocked for the caches.
 *
 *   pack     weights to panels [k/NB][r][s][c][NB], NB = vectors * lanes output channels     (all threads)
 *   for each block of output rows (or of part of a long row), taken by the threads in turn:
 *       copy its input rows, channels-last and zero-padded, to a buffer of this thread       (L2)
 *       for each panel, for each group of tap rows that fits the L2 cache:
 *           for each row, for each tile of pixels: kernels->tile_rows                         (L1, registers)
 *
 * Rows of taps that fall outside the image are skipped. Each output is one chain of multiply-adds in the
 * order r, s, c: blocks and tiles do not change a bit. */
#include "correlate.h"

#include <stdlib.h>
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "rows.h"

enum {
    BLOCK_FLOATS = 48 << 10,   /* of input copied at a time: 192 KiB of L2 */
    PANEL_FLOATS = 96 << 10,   /* of a panel multiplied at a time: 384 KiB */
};

/* One phase of the output: a dense correlation of its own. */
typedef struct phase {
    const fc_taps *rows, *columns;
    ptrdiff_t first[2], count[2];      /* output positions first + u * y_step, u < count */
    ptrdiff_t runs_a_row, depth;       /* how a row of taps splits into contiguous runs  */
    ptrdiff_t *a_run, *b_run;          /* [rows->count * runs_a_row]                     */
    float *panels;
    size_t panel_floats;               /* one panel: taps * channels * NB                */
} phase;

typedef struct plan {
    fc_correlation p;
    const fc_kernels *kernels;
    ptrdiff_t channels, outputs;       /* of one group */
    ptrdiff_t vectors, panel_width, panels;
    phase *phases;
    size_t phase_count;
    int in_place;                      /* input needs neither copy nor padding */
    ptrdiff_t pitch;                   /* floats from input pixel to input pixel */
    ptrdiff_t column_min, column_max;  /* offsets over all phases */
    ptrdiff_t row_min, row_max;
    ptrdiff_t units, unit_columns;     /* widest phase: its columns, cut into units */
    ptrdiff_t block_rows, row_blocks;
    ptrdiff_t image_blocks, block_images;
    size_t scratch_floats;             /* per thread */
    size_t stage_floats;               /* of it: output of one panel, for layouts that are not channels-last */
    int staged;
    float *scratch;
    fc_counter next_panel, next_block;
} plan;

static ptrdiff_t min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

/* ---- weights ---------------------------------------------------------------------------------------- */

static void pack_panel(const plan *plan, ptrdiff_t group, const phase *ph, ptrdiff_t panel, float *out)
{
    const fc_tensor *w = &plan->p.w;
    const ptrdiff_t width = plan->panel_width, channels = plan->channels;
    const ptrdiff_t used = min(width, plan->outputs - panel * width);
    const float *base = w->data + group * plan->p.w_group + panel * width * w->stride[0];
    if (used < width)
        memset(out, 0, ph->panel_floats * sizeof(float));
    for (ptrdiff_t r = 0; r < ph->rows->count; r++)
        for (ptrdiff_t s = 0; s < ph->columns->count; s++, out += channels * width) {
            const float *from = base + ph->rows->index[r] * w->stride[2] + ph->columns->index[s] * w->stride[3];
            if (w->stride[0] == 1)
                for (ptrdiff_t c = 0; c < channels; c++)
                    memcpy(out + c * width, from + c * w->stride[1], (size_t)used * sizeof(float));
            else if (w->stride[1] == 1)
                plan->kernels->transpose((size_t)used, (size_t)channels, from, w->stride[0], out, width);
            else
                for (ptrdiff_t c = 0; c < channels; c++)
                    for (ptrdiff_t k = 0; k < used; k++)
                        out[c * width + k] = from[k * w->stride[0] + c * w->stride[1]];
        }
}

/* ---- one block -------------------------------------------------------------------------------------- */

typedef struct block {
    ptrdiff_t group, n0, images, u0, rows, v0, columns;   /* u, v: in units of the phases' positions */
    const float *x;                                       /* input of the block                      */
    ptrdiff_t x_image, x_row;                             /* its strides                             */
    ptrdiff_t h0;                                         /* image row of x                          */
} block;

/* Spreads `pixels` over the fewest tiles that fit, sizes as equal as can be. */
static ptrdiff_t tile_rows_for(const plan *plan, ptrdiff_t pixels)
{
    ptrdiff_t most = (ptrdiff_t)plan->kernels->max_rows[plan->vectors];
    return ceil_div(pixels, ceil_div(pixels, most));
}

static void multiply_row(const plan *plan, const phase *ph, const float *x, const float *panel, ptrdiff_t run0,
                         ptrdiff_t runs, ptrdiff_t columns, int accumulate, const float *bias, float *y,
                         ptrdiff_t y_pixel, ptrdiff_t used)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t lanes = (ptrdiff_t)kernels->lanes;
    const ptrdiff_t vectors = ceil_div(used, lanes);
    const ptrdiff_t rows = tile_rows_for(plan, columns);
    fc_tile t = {
        .a_row = plan->p.x_step[1] * plan->pitch,
        .a_step = 1,
        .b = panel,
        .b_step = plan->panel_width,
        .a_run = ph->a_run + run0,
        .b_run = ph->b_run + run0,
        .runs = (size_t)runs,
        .depth = (size_t)ph->depth,
        .y_row = y_pixel,
        .last_lanes = (size_t)(used - (vectors - 1) * lanes),
        .accumulate = accumulate,
        .lane_bias = bias,
    };
    for (ptrdiff_t v = 0; v < columns; v += rows) {
        t.a = x + v * t.a_row;
        t.y = y + v * y_pixel;
        kernels->tile_rows[vectors][min(rows, columns - v)](&t);
    }
}

/* The valid taps of output row u: those whose input row exists. */
static void valid_rows(const plan *plan, const phase *ph, ptrdiff_t u, ptrdiff_t *first, ptrdiff_t *last)
{
    const ptrdiff_t h = u * plan->p.x_step[0];
    *first = 0;
    *last = ph->rows->count;
    while (*first < *last && h + ph->rows->offset[*first] < 0)
        ++*first;
    while (*last > *first && h + ph->rows->offset[*last - 1] >= plan->p.x.size[2])
        --*last;
}

static void multiply_phase(const plan *plan, const phase *ph, const block *b, float *stage, const float *bias)
{
    const fc_tensor *y = &plan->p.y;
    const ptrdiff_t u_end = min(b->u0 + b->rows, ph->count[0]);
    const ptrdiff_t columns = min(b->columns, ph->count[1] - b->v0);
    if (columns <= 0)
        return;
    const ptrdiff_t y_pixel = plan->staged ? plan->panel_width : y->stride[3] * plan->p.y_step[1];
    const ptrdiff_t row_floats = ph->runs_a_row * ph->depth * plan->panel_width;
    const ptrdiff_t tap_rows = row_floats ? max(1, PANEL_FLOATS / row_floats) : 1;
    const float *panels = ph->panels + (size_t)(b->group * plan->panels) * ph->panel_floats;

    for (ptrdiff_t panel = 0; panel < plan->panels; panel++) {
        const ptrdiff_t k0 = panel * plan->panel_width, used = min(plan->panel_width, plan->outputs - k0);
        const ptrdiff_t k_all = b->group * plan->outputs + k0;
        for (ptrdiff_t r0 = 0; r0 < max(1, ph->rows->count); r0 += tap_rows) {
            const int final_taps = r0 + tap_rows >= ph->rows->count;
            float *staged = stage;
            for (ptrdiff_t n = b->n0; n < b->n0 + b->images; n++)
                for (ptrdiff_t u = b->u0; u < u_end; u++, staged += columns * plan->panel_width) {
                    ptrdiff_t first, last;
                    valid_rows(plan, ph, u, &first, &last);
                    const ptrdiff_t from = max(first, r0), to = min(last, r0 + tap_rows);
                    const ptrdiff_t runs = max(0, to - from) * ph->runs_a_row;
                    float *out = y->data + n * y->stride[0] + k_all * y->stride[1] +
                                 (ph->first[0] + u * plan->p.y_step[0]) * y->stride[2] +
                                 (ph->first[1] + b->v0 * plan->p.y_step[1]) * y->stride[3];
                    const float *x = b->x + (n - b->n0) * b->x_image + (u * plan->p.x_step[0] - b->h0) * b->x_row;
                    float *to_y = plan->staged ? staged : out;
                    if (runs || r0 == 0 || final_taps)
                        multiply_row(plan, ph, x, panels + (size_t)panel * ph->panel_floats, from * ph->runs_a_row,
                                     runs, columns, r0 > 0, final_taps && bias ? bias + k_all : NULL, to_y,
                                     y_pixel, used);
                    if (plan->staged && final_taps)
                        fc_store_row(plan->kernels, staged, plan->panel_width, columns, used, out, y->stride[1],
                                     y->stride[3] * plan->p.y_step[1]);
                }
        }
    }
}

static void run_block(const plan *plan, size_t index, float *scratch)
{
    const fc_correlation *p = &plan->p;
    ptrdiff_t rest = (ptrdiff_t)index;
    const ptrdiff_t unit = rest % plan->units;
    rest /= plan->units;
    const ptrdiff_t row_block = rest % plan->row_blocks;
    rest /= plan->row_blocks;
    const ptrdiff_t image_block = rest % plan->image_blocks;
    block b = {
        .group = rest / plan->image_blocks,
        .n0 = image_block * plan->block_images,
        .images = min(plan->block_images, p->x.size[0] - image_block * plan->block_images),
        .u0 = row_block * plan->block_rows,
        .rows = plan->block_rows,
        .v0 = unit * plan->unit_columns,
        .columns = plan->unit_columns,
    };
    const ptrdiff_t h_first = b.u0 * p->x_step[0] + plan->row_min;
    const ptrdiff_t h_last = (b.u0 + b.rows - 1) * p->x_step[0] + plan->row_max;
    const ptrdiff_t w_first = b.v0 * p->x_step[1] + plan->column_min;
    float *stage = scratch;

    b.h0 = max(0, h_first);
    const ptrdiff_t rows = max(0, min(p->x.size[2] - 1, h_last) - b.h0 + 1);
    if (plan->in_place) {
        b.x_row = p->x.stride[2];
        b.x_image = p->x.stride[0];
        b.x = p->x.data + b.n0 * b.x_image + b.group * plan->channels * p->x.stride[1] + b.h0 * b.x_row +
              w_first * p->x.stride[3];
    } else {
        float *copy = scratch + plan->stage_floats;
        const ptrdiff_t columns = (b.columns - 1) * p->x_step[1] + plan->column_max - plan->column_min + 1;
        b.x_row = columns * plan->pitch;
        b.x_image = rows * b.x_row;
        b.x = copy;
        for (ptrdiff_t n = 0; n < b.images; n++)
            for (ptrdiff_t h = 0; h < rows; h++)
                fc_copy_row(plan->kernels, &p->x, b.n0 + n, b.group * plan->channels, plan->channels, b.h0 + h,
                            w_first, columns, copy + n * b.x_image + h * b.x_row, plan->pitch);
    }
    /* Run offsets count from row offset 0 and the leftmost column. */
    for (size_t i = 0; i < plan->phase_count; i++)
        multiply_phase(plan, &plan->phases[i], &b, stage, p->bias);
}

static void body(void *context, int thread, int threads)
{
    plan *plan = context;
    const size_t panels = (size_t)(plan->p.groups * plan->panels);
    for (size_t i; (i = fc_take(&plan->next_panel)) < panels * plan->phase_count;) {
        const phase *ph = &plan->phases[i / panels];
        const ptrdiff_t at = (ptrdiff_t)(i % panels);
        pack_panel(plan, at / plan->panels, ph, at % plan->panels, ph->panels + (size_t)at * ph->panel_floats);
    }
    if (threads > 1)
        fc_team_barrier();
    float *scratch = plan->scratch + (size_t)thread * plan->scratch_floats;
    const size_t blocks = (size_t)(plan->p.groups * plan->image_blocks * plan->row_blocks * plan->units);
    for (size_t i; (i = fc_take(&plan->next_block)) < blocks;)
        run_block(plan, i, scratch);
}

/* ---- the plan --------------------------------------------------------------------------------------- */

/* Makes one long row of all pixels where a 1x1 correlation does not care which row they are in. */
static void flatten(fc_correlation *p)
{
    const fc_taps *rows = p->taps[0], *columns = p->taps[1];
    if (p->y_step[0] != 1 || p->y_step[1] != 1 || p->x_step[0] != 1 || p->x_step[1] != 1 || rows->count != 1 ||
        columns->count != 1 || rows->offset[0] || columns->offset[0])
        return;
    fc_tensor *both[2] = {&p->x, &p->y};
    for (int axis = 2; axis >= 0; axis -= 2) {         /* rows into columns, then images */
        for (int i = 0; i < 2; i++) {
            const fc_tensor *t = both[i];
            if (t->size[2] != p->y.size[2] || t->size[3] != p->y.size[3])
                return;
            if (t->size[axis] > 1 && t->stride[axis] != t->size[3] * t->stride[3] && t->size[3] > 1)
                return;
            if (t->size[axis] > 1 && t->size[3] == 1)
                return;
        }
        for (int i = 0; i < 2; i++) {
            both[i]->size[3] *= both[i]->size[axis];
            both[i]->size[axis] = 1;
        }
    }
}

/* Vectors of a panel: the number that wastes fewest lanes and accumulator slots for rows of `columns` pixels.
 * A step of a tile takes as long as its multiply-adds, two a cycle, or its loads, or the latency of one. */
static ptrdiff_t choose_vectors(const fc_kernels *kernels, ptrdiff_t outputs, ptrdiff_t columns)
{
    const ptrdiff_t all = ceil_div(outputs, (ptrdiff_t)kernels->lanes);
    ptrdiff_t best = 1;
    double best_cost = 0;
    for (ptrdiff_t v = 1; v <= min(all, FC_MAX_VECTORS); v++) {
        const ptrdiff_t tiles = ceil_div(columns, (ptrdiff_t)kernels->max_rows[v]);
        const ptrdiff_t rows = ceil_div(columns, tiles);
        double cost = 0;
        for (ptrdiff_t done = 0; done < all; done += v) {
            const ptrdiff_t now = min(v, all - done);
            const double fma = 0.5 * (double)(rows * now), load = 0.5 * (double)(rows + now);
            const double step = fma > load ? fma : load;
            cost += (double)tiles * ((step > 4 ? step : 4) + 0.02 * (double)now);
        }
        if (v == 1 || cost < best_cost) {
            best = v;
            best_cost = cost;
        }
    }
    return best;
}

static void plan_blocks(plan *plan, ptrdiff_t rows, ptrdiff_t columns, int threads)
{
    const fc_correlation *p = &plan->p;
    const ptrdiff_t images = p->x.size[0];
    const ptrdiff_t column_floats = p->x_step[1] * plan->pitch;

    /* A long row is cut so that R rows of it fit the buffer; then rows, then images are added while they fit. */
    const ptrdiff_t span = plan->row_max - plan->row_min + 1;
    const ptrdiff_t most = (ptrdiff_t)plan->kernels->max_rows[plan->vectors];
    ptrdiff_t unit = max(most, BLOCK_FLOATS / (column_floats * span) / most * most);
    plan->units = ceil_div(columns, min(unit, columns));
    plan->unit_columns = ceil_div(ceil_div(columns, plan->units), plan->units > 1 ? most : 1) *
                         (plan->units > 1 ? most : 1);
    plan->units = ceil_div(columns, plan->unit_columns);

    const ptrdiff_t row_floats = plan->unit_columns * column_floats;
    ptrdiff_t fit = max(1, (BLOCK_FLOATS / row_floats - span) / p->x_step[0] + 1);
    plan->block_rows = min(rows, fit);
    plan->block_images = max(1, min(images, fit / (rows + span)));
    if (plan->block_rows < rows)
        plan->block_images = 1;
    /* Threads need several blocks each. */
    while (threads > 1 && p->groups * plan->units * ceil_div(rows, plan->block_rows) *
                              ceil_div(images, plan->block_images) < 4 * threads) {
        if (plan->block_images > 1)
            plan->block_images = ceil_div(plan->block_images, 2);
        else if (plan->block_rows > 1)
            plan->block_rows = ceil_div(plan->block_rows, 2);
        else
            break;
    }
    plan->row_blocks = ceil_div(rows, plan->block_rows);
    plan->image_blocks = ceil_div(images, plan->block_images);

    const ptrdiff_t in_rows = (plan->block_rows - 1) * p->x_step[0] + span;
    const ptrdiff_t in_columns = (plan->unit_columns - 1) * p->x_step[1] + plan->column_max - plan->column_min + 1;
    const ptrdiff_t block_pixels = plan->block_images * plan->block_rows * plan->unit_columns;
    plan->stage_floats = plan->staged ? (size_t)(block_pixels * plan->panel_width + 15) & ~(size_t)15 : 0;
    plan->scratch_floats = plan->stage_floats;
    if (!plan->in_place)
        plan->scratch_floats += (size_t)(plan->block_images * in_rows * in_columns * plan->pitch);
    plan->scratch_floats = (plan->scratch_floats + 31) & ~(size_t)15;
}

int fc_correlate(const fc_correlation *problem)
{
    plan plan = {.p = *problem, .kernels = fc_kernels_active()};
    fc_correlation *p = &plan.p;
    flatten(p);
    plan.channels = p->w.size[1];
    plan.outputs = p->w.size[0];
    if (!p->y.size[0] || !p->y.size[2] || !p->y.size[3] || !plan.outputs)
        return 0;
    plan.phase_count = (size_t)(p->y_step[0] * p->y_step[1]);

    /* Extremes of the tap offsets over all phases. */
    int any = 0;
    ptrdiff_t taps_most[2] = {0, 0};
    for (int axis = 0; axis < 2; axis++) {
        ptrdiff_t low = PTRDIFF_MAX, high = PTRDIFF_MIN;
        for (ptrdiff_t i = 0; i < p->y_step[axis]; i++) {
            const fc_taps *taps = &p->taps[axis][i];
            taps_most[axis] = max(taps_most[axis], taps->count);
            if (taps->count) {
                low = min(low, taps->offset[0]);
                high = max(high, taps->offset[taps->count - 1]);
            }
        }
        any += high >= low;
        if (high < low)
            low = high = 0;
        if (axis == 0)
            plan.row_min = low, plan.row_max = high;
        else
            plan.column_min = low, plan.column_max = high;
    }
    (void)any;
    const ptrdiff_t rows = ceil_div(p->y.size[2], p->y_step[0]), columns = ceil_div(p->y.size[3], p->y_step[1]);

    plan.pitch = fc_pixel_pitch(plan.channels);
    plan.in_place = (p->x.stride[1] == 1 || plan.channels == 1) && plan.column_min >= 0 && p->x.stride[3] % 512 &&
                    (columns - 1) * p->x_step[1] + plan.column_max < p->x.size[3];
    if (plan.in_place)
        plan.pitch = p->x.stride[3];
    plan.staged = p->y.stride[1] != 1 && plan.outputs > 1;
    plan.vectors = choose_vectors(plan.kernels, plan.outputs, columns);
    plan.panel_width = plan.vectors * (ptrdiff_t)plan.kernels->lanes;
    plan.panels = ceil_div(plan.outputs, plan.panel_width);

    const double steps = (double)p->y.size[0] * (double)p->groups * (double)plan.outputs * (double)plan.channels *
                         (double)rows * (double)columns * (double)(p->w.size[2] * p->w.size[3]);
    int threads = fc_team_size(steps * 0.02 * 16 / (double)plan.kernels->lanes);
    plan_blocks(&plan, rows, columns, threads);

    /* One allocation: phases, run tables, panels, scratch. */
    const size_t runs = (size_t)max(1, taps_most[0] * taps_most[1]);
    const size_t phase_bytes = plan.phase_count * sizeof(phase);
    const size_t run_bytes = plan.phase_count * 2 * runs * sizeof(ptrdiff_t);
    size_t panel_floats = 0;
    for (size_t i = 0; i < plan.phase_count; i++) {
        const ptrdiff_t taps = p->taps[0][(ptrdiff_t)i / p->y_step[1]].count * p->taps[1][(ptrdiff_t)i % p->y_step[1]].count;
        panel_floats += (size_t)(taps * plan.channels * plan.panel_width * plan.panels * p->groups) + 16;
    }
    /* A bias is read a vector at a time. */
    const size_t bias_floats = p->bias ? (size_t)(p->groups * plan.outputs + FC_MAX_VECTORS * 16) : 0;
    const size_t fixed = (phase_bytes + run_bytes + 63) & ~(size_t)63;
    float *floats;
    char *workspace = fc_alloc(fixed + (panel_floats + bias_floats + 32 + plan.scratch_floats * (size_t)threads) *
                                           sizeof(float));
    if (!workspace)
        return -1;
    plan.phases = (phase *)workspace;
    ptrdiff_t *run = (ptrdiff_t *)(workspace + phase_bytes);
    floats = (float *)(workspace + fixed);

    for (size_t i = 0; i < plan.phase_count; i++) {
        phase *ph = &plan.phases[i];
        const ptrdiff_t at[2] = {(ptrdiff_t)i / p->y_step[1], (ptrdiff_t)i % p->y_step[1]};
        ph->rows = &p->taps[0][at[0]];
        ph->columns = &p->taps[1][at[1]];
        for (int axis = 0; axis < 2; axis++) {
            ph->first[axis] = at[axis];
            ph->count[axis] = max(0, ceil_div(p->y.size[2 + axis] - at[axis], p->y_step[axis]));
        }
        const fc_taps *across = ph->columns;
        const int dense = across->count && plan.pitch == plan.channels &&
                          across->offset[across->count - 1] - across->offset[0] == across->count - 1;
        ph->runs_a_row = dense ? 1 : across->count;
        ph->depth = dense ? across->count * plan.channels : plan.channels;
        ph->panel_floats = (size_t)(ph->rows->count * across->count * plan.channels * plan.panel_width);
        ph->a_run = run;
        ph->b_run = run + runs;
        run += 2 * runs;
        ph->panels = floats;
        floats += (ph->panel_floats * (size_t)(plan.panels * p->groups) + 15) & ~(size_t)15;
        for (ptrdiff_t r = 0; r < ph->rows->count; r++)
            for (ptrdiff_t s = 0; s < ph->runs_a_row; s++) {
                const ptrdiff_t j = r * ph->runs_a_row + s;
                /* The row part needs the block's row pitch: filled in below, once it is known. */
                ph->a_run[j] = (across->offset[s] - plan.column_min) * plan.pitch;
                ph->b_run[j] = j * ph->depth * plan.panel_width;
            }
    }
    if (p->bias) {
        memcpy(floats, p->bias, (size_t)(p->groups * plan.outputs) * sizeof(float));
        memset(floats + p->groups * plan.outputs, 0, FC_MAX_VECTORS * 16 * sizeof(float));
        p->bias = floats;
        floats += (bias_floats + 15) & ~(size_t)15;
    }
    const ptrdiff_t in_columns = (plan.unit_columns - 1) * p->x_step[1] + plan.column_max - plan.column_min + 1;
    const ptrdiff_t x_row = plan.in_place ? p->x.stride[2] : in_columns * plan.pitch;
    for (size_t i = 0; i < plan.phase_count; i++)
        for (ptrdiff_t r = 0; r < plan.phases[i].rows->count; r++)
            for (ptrdiff_t s = 0; s < plan.phases[i].runs_a_row; s++)
                plan.phases[i].a_run[r * plan.phases[i].runs_a_row + s] += plan.phases[i].rows->offset[r] * x_row;
    plan.scratch = floats;
    fc_team_run(threads, 1, body, &plan);
    fc_free(workspace);
    return 0;
}
