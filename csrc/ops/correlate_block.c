/* SPDX-License-Identifier: MIT */
/* The work of one thread in a correlation: packing, copying and multiplying blocks. */
#include <string.h>

#include "../runtime/timers.h"
#include "correlate_plan.h"
#include "integers.h"
#include "rows.h"

typedef fc_correlation_plan plan;
typedef fc_phase phase;

enum {
    STRIDED_PIXELS = 64,           /* that one thread copies in a turn                                        */
    TILE_FLOATS = 6144,            /* weights, pixels and next pixels of a tile: 3/4 of the smallest L1 cache */
    LONG_SUM = 96,                 /* steps of a tile that pay for fetching weights; fewer are brief          */
};

/* ---- weights ---------------------------------------------------------------------------------------- */

static ptrdiff_t part_channels(const plan *plan, ptrdiff_t part)
{
    return min(plan->part, plan->channels - part * plan->part);
}

void fc_pack_tap(const fc_kernels *kernels, const fc_tensor *w, const float *tap, ptrdiff_t channels, ptrdiff_t outputs,
                 float *out, ptrdiff_t width)
{
    if (w->stride[0] == 1)
        for (ptrdiff_t c = 0; c < channels; c++) {
            /* Each row lies in another page, where the hardware does not fetch ahead. */
            __builtin_prefetch(tap + (c + 16) * w->stride[1]);
            memcpy(out + c * width, tap + c * w->stride[1], (size_t)outputs * sizeof(float));
        }
    else if (w->stride[1] == 1)
        kernels->transpose((size_t)outputs, (size_t)channels, tap, w->stride[0], out, width);
    else
        for (ptrdiff_t c = 0; c < channels; c++)
            for (ptrdiff_t k = 0; k < outputs; k++)
                out[c * width + k] = tap[k * w->stride[0] + c * w->stride[1]];
}

/* One part of the channels of a panel to out[r][s][c][NB], lanes without an output zero; a last part of fewer
 * channels leaves the rest of each tap unused. */
static void pack_piece(const plan *plan, ptrdiff_t group, const phase *ph, ptrdiff_t panel, ptrdiff_t part, float *out)
{
    fc_clock(FC_COPY);
    const fc_tensor *w = &plan->p.w;
    const ptrdiff_t width = plan->panel_width, channels = part_channels(plan, part);
    const ptrdiff_t used = min(width, plan->outputs - panel * width);
    const float *base = w->data + group * plan->p.w_group + panel * width * w->stride[0] +
                        part * plan->part * w->stride[1];
    if (used < width)
        memset(out, 0, ph->piece_floats * sizeof(float));
    for (ptrdiff_t r = 0; r < ph->rows->count; r++)
        for (ptrdiff_t s = 0; s < ph->columns->count; s++, out += plan->part * width)
            fc_pack_tap(plan->kernels, w,
                        base + ph->rows->index[r] * w->stride[2] + ph->columns->index[s] * w->stride[3], channels, used,
                        out, width);
}

/* ---- input ------------------------------------------------------------------------------------------- */

/* Pixels first .. first + count - 1 of a strided correlation's long row, as far as there are so many. */
static void copy_strided(const plan *plan, ptrdiff_t c0, ptrdiff_t channels, ptrdiff_t first, ptrdiff_t count,
                         float *out)
{
    const fc_strided *strided = &plan->strided;
    const ptrdiff_t row = first / strided->columns, last = min(first + count, plan->p.x.size[3]);
    ptrdiff_t n = row / strided->rows, p = row % strided->rows, q = first % strided->columns;
    const fc_tensor *x = &strided->x;
    for (ptrdiff_t i = first; i < last; i++, out += plan->pitch) {
        memcpy(out, x->data + n * x->stride[0] + c0 * x->stride[1] + p * strided->step[0] * x->stride[2] +
                        q * strided->step[1] * x->stride[3], (size_t)channels * sizeof(float));
        if (++q == strided->columns) {
            q = 0;
            if (++p == strided->rows) {
                p = 0;
                n++;
            }
        }
    }
}

/* ---- preparation -------------------------------------------------------------------------------------- */

ptrdiff_t fc_correlation_preparations(const plan *plan)
{
    if (!plan->by_panel)
        return plan->prepared ? 0 : plan->p.groups * plan->panels * (ptrdiff_t)plan->phase_count;
    if (plan->strided.x.data)
        return plan->p.groups * ceil_div(plan->p.x.size[3], STRIDED_PIXELS);
    return plan->in_place ? 0 : plan->p.x.size[0] * plan->p.groups * plan->p.x.size[2];
}

static float *packed_by(const plan *plan, int thread) { return plan->packed + (size_t)thread * plan->own_packed; }

void fc_correlation_prepare(const plan *plan, ptrdiff_t index, int thread)
{
    const fc_correlation *p = &plan->p;
    fc_clock(FC_COPY);
    if (plan->by_panel && plan->strided.x.data) {
        const ptrdiff_t pieces = ceil_div(p->x.size[3], STRIDED_PIXELS);
        const ptrdiff_t group = index / pieces, first = index % pieces * STRIDED_PIXELS;
        for (ptrdiff_t part = 0; part < plan->parts; part++)
            copy_strided(plan, group * plan->channels + part * plan->part, part_channels(plan, part), first,
                         STRIDED_PIXELS, plan->input + part * plan->input_part +
                         (group * plan->in_columns + first) * plan->pitch);
        return;
    }
    if (plan->by_panel) {
        const ptrdiff_t h = index % p->x.size[2], group = index / p->x.size[2] % p->groups;
        const ptrdiff_t n = index / p->x.size[2] / p->groups, row = plan->in_columns * plan->pitch;
        for (ptrdiff_t part = 0; part < plan->parts; part++)
            fc_copy_row(plan->kernels, &p->x, n, group * plan->channels + part * plan->part, part_channels(plan, part),
                        h, plan->column_min, plan->in_columns,
                        plan->input + part * plan->input_part + index * row, plan->pitch);
        return;
    }
    const ptrdiff_t panels = p->groups * plan->panels, at = index % panels;
    const phase *ph = &plan->phases[index / panels];
    for (ptrdiff_t part = 0; part < plan->parts; part++)
        pack_piece(plan, at / plan->panels, ph, at % plan->panels, part,
                   packed_by(plan, thread) + ph->packed_at + (size_t)at * ph->panel_floats +
                       (size_t)part * ph->piece_floats);
}

/* ---- one task ----------------------------------------------------------------------------------------- */

typedef struct block {
    ptrdiff_t group, n0, images, u0, rows, v0, columns;   /* u, v: in units of the phases' positions */
    ptrdiff_t part;                                       /* of the channels                         */
    const float *x;                                       /* input of the block, at image row h0     */
    ptrdiff_t x_image, x_row, h0;
    ptrdiff_t first_panel, last_panel;
    const float *packed;                                  /* weights, beforehand                     */
    float *pack;
} block;

/* What is on its way to the caches meanwhile. */
typedef struct fetch {
    ptrdiff_t pixels;              /* floats a step, of those of the tile after each; 0: none */
    ptrdiff_t channels;            /* of these pixels, where others lie between; 0: all       */
    const float *weights;          /* from here on, `floats` a tile; NULL: none               */
    ptrdiff_t floats;
} fetch;

/* One row of pixels: runs of taps of one panel into y. */
static void multiply_row(const plan *plan, fc_tile *t, ptrdiff_t columns, ptrdiff_t used, fetch *fetch)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t lanes = (ptrdiff_t)kernels->lanes, vectors = ceil_div(used, lanes);
    const ptrdiff_t count = ceil_div(columns, plan->most_rows[vectors]), rows = share_of(columns, 0, count);
    const ptrdiff_t steps = (ptrdiff_t)(t->runs * t->depth);
    const float **weights = fetch->pixels ? &t->later : &t->next;
    const ptrdiff_t floats = fetch->weights && steps ? fetch->floats : 0;
    t->last_lanes = (size_t)(used - (vectors - 1) * lanes);
    t->next_step = fetch->pixels;
    if (floats) {
        *weights = fetch->weights;
        *(fetch->pixels ? &t->later_step : &t->next_step) =
            ceil_div(floats * rows, steps * (fetch->pixels ? rows - fc_next_shares(rows) : rows));
    }
    const int brief = steps < LONG_SUM && !t->later;
    const fc_tile_fn *const tiles = brief ? kernels->brief_rows[vectors] : kernels->tile_rows[vectors];
    for (ptrdiff_t i = 0; i < count; i++) {
        const ptrdiff_t now = share_of(columns, i, count);
        if (fetch->channels) {
            const ptrdiff_t share = (ptrdiff_t)fc_share_steps((size_t)steps, now);
            t->next_step = ceil_div(fetch->channels, share);
            t->next_skip = t->a_row - share * t->next_step;
        }
        if (fetch->pixels)
            t->next = t->a + now * t->a_row;
        tiles[now](t);
        t->a += now * t->a_row;
        t->y += now * t->y_row;
        if (t->residual)
            t->residual += now * t->y_row;
        if (floats)
            *weights += floats;
    }
    if (floats)
        fetch->weights = *weights;
}

/* Weights come from the L3 cache or from memory: those that follow, `next` if not NULL, are fetched. Pixels that are
 * read where they lie come from as far for the first panel of a block: it fetches those of the next tile, and no
 * weights. Others find them in the L2 cache, and fetch them if both tiles fit the L1 cache, or if no weights follow. */
static fetch what_to_fetch(const plan *plan, const phase *ph, const block *b, ptrdiff_t panel, const float *next)
{
    const ptrdiff_t rows = plan->most_rows[plan->vectors], columns = min(b->columns, ph->count[1] - b->v0);
    const ptrdiff_t tiles = b->images * min(b->rows, ph->count[0] - b->u0) * ceil_div(columns, rows);
    const ptrdiff_t steps = max(1, ph->rows->count * ph->columns->count * part_channels(plan, b->part));
    const int fits = steps * (plan->panel_width + 2 * rows) <= TILE_FLOATS;
    const int in_order = plan->in_place && plan->pitch > 0, first = !plan->by_panel && panel == b->first_panel;
    fetch fetch = {0};
    if (in_order && (first || fits || !next)) {
        const ptrdiff_t channels = part_channels(plan, b->part), pixel = plan->p.x_step[1] * plan->pitch;
        fetch.pixels = fits ? FC_LINE_FLOATS : ceil_div(min(rows, columns) * pixel, steps);
        fetch.channels = !fits && steps == channels && steps >= LONG_SUM && channels < pixel ? channels : 0;
    }
    if (next && !(first && plan->in_place) && steps >= LONG_SUM) {
        fetch.weights = next;
        fetch.floats = ceil_div((ptrdiff_t)ph->piece_floats, tiles);
    }
    return fetch;
}

/* One part of the channels of one panel, over all rows of the block. next: the weights that follow, or NULL. */
static void multiply_piece(const plan *plan, const phase *ph, const block *b, ptrdiff_t panel, const float *packed,
                           const float *next, float *stage)
{
    const fc_correlation *p = &plan->p;
    const fc_tensor *y = &p->y;
    const ptrdiff_t u_end = min(b->u0 + b->rows, ph->count[0]), columns = min(b->columns, ph->count[1] - b->v0);
    const ptrdiff_t k0 = panel * plan->panel_width, used = min(plan->panel_width, plan->outputs - k0);
    const ptrdiff_t k_all = b->group * plan->outputs + k0, y_pixel = y->stride[3] * p->y_step[1];
    const ptrdiff_t run_channels = part_channels(plan, b->part);
    const int last_part = b->part == plan->parts - 1;
    fetch fetch = what_to_fetch(plan, ph, b, panel, next);
    /* Rows that follow each other in y are stored as one. */
    const int whole = columns == y->size[3] && p->y_step[0] == 1 && y->stride[2] == columns * y_pixel;
    for (ptrdiff_t n = b->n0; n < b->n0 + b->images; n++) {
        for (ptrdiff_t u = b->u0; u < u_end; u++, stage += columns * plan->panel_width) {
            ptrdiff_t first, last;
            fc_valid_taps(ph->rows, u * p->x_step[0], p->x.size[2], &first, &last);
            float *out = y->data + n * y->stride[0] + k_all * y->stride[1] +
                         (ph->first[0] + u * p->y_step[0]) * y->stride[2] +
                         (ph->first[1] + b->v0 * p->y_step[1]) * y->stride[3];
            fc_tile t = {
                .a = b->x + (n - b->n0) * b->x_image + (u * p->x_step[0] - b->h0) * b->x_row,
                .a_row = p->x_step[1] * plan->pitch,
                .a_step = 1,
                .b = packed,
                .b_step = plan->panel_width,
                .a_run = ph->a_run + first * ph->runs_a_row,
                .b_run = ph->b_run + first * ph->runs_a_row,
                .runs = (size_t)((last - first) * ph->runs_a_row),
                .depth = (size_t)(ph->taps_a_run * run_channels),
                .y = plan->staged ? stage : out,
                .y_row = plan->staged ? plan->panel_width : y_pixel,
                .far = !plan->staged,
                .accumulate = b->part > 0,
                .lane_bias = last_part && p->bias ? p->bias + k_all : NULL,
                .residual = last_part && p->residual ? p->residual + (out - y->data) : NULL,
                .relu = last_part && p->relu,
            };
            multiply_row(plan, &t, columns, used, &fetch);
            if (plan->staged && last_part && !whole) {
                fc_clock(FC_STORE);
                fc_store_row(plan->kernels, stage, plan->panel_width, columns, used, out, y->stride[1], y_pixel);
                fc_clock(FC_MULTIPLY);
            }
        }
        if (plan->staged && last_part && whole && u_end > b->u0) {
            fc_clock(FC_STORE);
            fc_store_row(plan->kernels, stage - (u_end - b->u0) * columns * plan->panel_width, plan->panel_width,
                         (u_end - b->u0) * columns, used,
                         y->data + n * y->stride[0] + k_all * y->stride[1] + b->u0 * y->stride[2], y->stride[1],
                         y_pixel);
            fc_clock(FC_MULTIPLY);
        }
    }
}

static void multiply_phase(const plan *plan, const phase *ph, const block *b, float *stage)
{
    if (b->columns <= 0 || ph->count[1] <= b->v0 || ph->count[0] <= b->u0)
        return;
    for (ptrdiff_t panel = b->first_panel; panel < b->last_panel; panel++, stage += plan->stage_panel) {
        const float *packed = b->pack, *next = NULL;
        if (plan->by_panel && !plan->prepared)
            pack_piece(plan, b->group, ph, panel, b->part, b->pack);
        else {
            const float *panels = b->packed + ph->packed_at + (size_t)(b->group * plan->panels) * ph->panel_floats +
                                  (size_t)b->part * ph->piece_floats;
            packed = panels + (size_t)panel * ph->panel_floats;
            if (plan->by_panel)
                next = packed + ph->piece_floats;
            else        /* behind the last panel the next block begins */
                next = panels + (size_t)(panel + 1 < b->last_panel ? panel + 1 : b->first_panel) * ph->panel_floats;
        }
        fc_clock(FC_MULTIPLY);
        multiply_piece(plan, ph, b, panel, packed, next, stage);
    }
}

/* Makes a part of the block's input accessible: where it lies, in the common copy, or in a copy of its own. */
static void find_input(const plan *plan, block *b, float *copy)
{
    const fc_correlation *p = &plan->p;
    const ptrdiff_t h_first = b->u0 * p->x_step[0] + plan->row_min;
    const ptrdiff_t h_last = (b->u0 + b->rows - 1) * p->x_step[0] + plan->row_max;
    const ptrdiff_t w_first = b->v0 * p->x_step[1] + plan->column_min;
    const ptrdiff_t c0 = b->group * plan->channels + b->part * plan->part;

    b->h0 = max(0, h_first);
    if (plan->in_place) {
        b->x_row = p->x.stride[2];
        b->x_image = p->x.stride[0];
        b->x = p->x.data + b->n0 * b->x_image + c0 * p->x.stride[1] + b->h0 * b->x_row + w_first * p->x.stride[3];
        return;
    }
    b->x_row = plan->in_columns * plan->pitch;
    if (plan->by_panel) {
        b->x_image = p->groups * p->x.size[2] * b->x_row;
        b->x = plan->input + b->part * plan->input_part + b->n0 * b->x_image +
               (b->group * p->x.size[2] + b->h0) * b->x_row + (w_first - plan->column_min) * plan->pitch;
        return;
    }
    fc_clock(FC_COPY);
    const ptrdiff_t rows = max(0, min(p->x.size[2] - 1, h_last) - b->h0 + 1);
    b->x_image = rows * b->x_row;
    b->x = copy;
    if (plan->strided.x.data) {
        copy_strided(plan, c0, part_channels(plan, b->part), w_first, plan->in_columns, copy);
        return;
    }
    for (ptrdiff_t n = 0; n < b->images; n++)
        for (ptrdiff_t h = 0; h < rows; h++)
            fc_copy_row(plan->kernels, &p->x, b->n0 + n, c0, part_channels(plan, b->part), b->h0 + h, w_first,
                        plan->in_columns, copy + n * b->x_image + h * b->x_row, plan->pitch);
}

ptrdiff_t fc_correlation_tasks(const plan *plan)
{
    return plan->p.groups * plan->image_blocks * plan->row_blocks * plan->units * (plan->by_panel ? plan->panels : 1);
}

/* The column with which a unit begins: units differ by a tile at most. */
static ptrdiff_t unit_start(const plan *plan, ptrdiff_t unit)
{
    const ptrdiff_t most = plan->most_rows[plan->vectors];
    return ceil_div(plan->columns, most) * unit / plan->units * most;
}

void fc_correlation_run(const plan *plan, ptrdiff_t task, int thread)
{
    const ptrdiff_t panels = plan->by_panel ? plan->panels : 1;
    float *scratch = plan->scratch + (size_t)thread * plan->scratch_floats;
    ptrdiff_t rest = task / panels;
    const ptrdiff_t unit = rest % plan->units, v0 = unit_start(plan, unit);
    rest /= plan->units;
    const ptrdiff_t row_block = rest % plan->row_blocks;
    rest /= plan->row_blocks;
    const ptrdiff_t image_block = rest % plan->image_blocks;
    rest /= plan->image_blocks;
    block b = {
        .group = rest,
        .n0 = image_block * plan->block_images,
        .images = min(plan->block_images, plan->p.x.size[0] - image_block * plan->block_images),
        .u0 = row_block * plan->block_rows,
        .rows = plan->block_rows,
        .v0 = v0,
        .columns = unit_start(plan, unit + 1) - v0,
        .first_panel = task % panels,
        .packed = packed_by(plan, thread),
        .pack = scratch + plan->stage_floats + plan->copy_floats,
    };
    b.last_panel = plan->by_panel ? b.first_panel + 1 : plan->panels;
    for (; b.part < plan->parts; b.part++) {
        find_input(plan, &b, scratch + plan->stage_floats);
        for (size_t i = 0; i < plan->phase_count; i++)
            multiply_phase(plan, &plan->phases[i], &b, scratch + i * plan->stage_phase);
    }
}
