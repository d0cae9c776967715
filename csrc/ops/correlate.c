/* SPDX-License-Identifier: MIT */
/* Direct correlation, blocked for the caches, in one of two ways:
 *
 *   by block    weights packed to panels [k/NB][part][r][s][c][NB], NB = vectors * lanes output channels
 *                                                                                  (all threads, or each its own)
 *               a task is a block of output rows (or part of a long row); for each part of the channels,
 *               copy its input rows, channels-last and zero-padded, to a buffer of this thread  (L2)
 *               for each panel, for each row, for each tile of pixels: kernels->tile_rows,      (L1, registers)
 *               or brief_rows
 *   by panel    input copied to channels-last and zero-padded                                       (all threads)
 *               a task is one panel over all pixels, or over a share of them where panels do not occupy the
 *               threads evenly; for each part of the channels,
 *               pack its weights to a buffer of this thread                                     (L2)
 *               for each row, for each tile of pixels: kernels->tile_rows                       (L1, registers)
 *
 * By panel reads each weight once a share, which pays when weights outweigh the pixels (single images, late layers).
 * 1x1 correlations take all pixels as one row; of those with a stride, the pixels that count are copied side by side.
 * Rows of taps that fall outside the image are skipped. Each output adds up its parts, each a chain of
 * multiply-adds in the order r, s, c. The parts are fixed by the shape, so neither way nor any block size changes
 * a bit. */
#include "correlate.h"

#include <math.h>
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "correlate_plan.h"
#include "integers.h"
#include "rows.h"

typedef fc_correlation_plan plan;
typedef fc_phase phase;

enum {
    BLOCKS_A_THREAD = 8,           /* of processors that are never quite as fast as each other */
    /* Steps of a tile's sum in one part, about: its weights, [PART_STEPS][16 to 64], fit the L2 cache,
     * and loading and storing the accumulators is lost among them. */
    PART_STEPS = 1152,
    MOST_PART = 512,
    LEAST_PART = 64,
    CROWDED_ROWS = 6,              /* of the 8 ways of the smallest L1 caches */
    LONG_ROW = 24,                 /* pixels that fill tiles as well as gathered ones do */
    MOST_PACKERS = 4,              /* threads that pack weights faster than they read those that others have packed */
};

/* Unevenness that is not worth the cost of smaller tasks. */
static const double EVEN = 1.05;

/* Nanoseconds of one thread for a float from the L3 cache. */
static const double L3_FLOAT_NS = 0.2;

static void body(void *context, int thread, int threads)
{
    plan *plan = context;
    const ptrdiff_t preparations = fc_correlation_preparations(plan), tasks = fc_correlation_tasks(plan);
    if (plan->own_packed)
        for (ptrdiff_t i = 0; i < preparations; i++)
            fc_correlation_prepare(plan, i, thread);
    else {
        for (fc_hand hand = fc_hand_of(&plan->preparations, preparations, thread, threads); fc_take(&hand);)
            fc_correlation_prepare(plan, hand.task, thread);
        fc_team_barrier(threads);
    }
    for (fc_hand hand = fc_hand_of(&plan->tasks, tasks, thread, threads); fc_take(&hand);)
        fc_correlation_run(plan, hand.task, thread);
}

/* Whether each output needs one pixel of the input: a 1x1 filter without padding in front. */
static int is_pointwise(const fc_correlation *p)
{
    const fc_taps *rows = p->taps[0], *columns = p->taps[1];
    return p->y_step[0] == 1 && p->y_step[1] == 1 && rows->count == 1 && columns->count == 1 && !rows->offset[0] &&
           !columns->offset[0];
}

/* Makes one long row of all pixels where a 1x1 correlation does not care which row they are in. */
static void flatten(fc_correlation *p)
{
    if (!is_pointwise(p) || p->x_step[0] != 1 || p->x_step[1] != 1)
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

/* Makes one long row also of the pixels that a strided 1x1 correlation of channels-last images does not skip, where
 * rows of them are short and would leave tiles unfilled. */
static void gather(fc_correlation *p, fc_strided *strided)
{
    const fc_tensor *y = &p->y;
    const int skips = p->x_step[0] > 1 || p->x_step[1] > 1;
    if (!skips || !is_pointwise(p) || y->size[3] >= LONG_ROW || (p->x.stride[1] != 1 && p->x.size[1] != 1) ||
        (y->size[2] - 1) * p->x_step[0] >= p->x.size[2] || (y->size[3] - 1) * p->x_step[1] >= p->x.size[3] ||
        y->stride[2] != y->size[3] * y->stride[3] || (y->size[0] > 1 && y->stride[0] != y->size[2] * y->stride[2]))
        return;
    *strided = (fc_strided){p->x, {p->x_step[0], p->x_step[1]}, y->size[2], y->size[3]};
    const ptrdiff_t pixels = y->size[0] * y->size[2] * y->size[3];
    p->x_step[0] = p->x_step[1] = 1;
    p->x.size[0] = p->x.size[2] = p->y.size[0] = p->y.size[2] = 1;
    p->x.size[3] = p->y.size[3] = pixels;
}

/* Cycles of one step of a tile: its multiply-adds, two a cycle, or their latency, or its loads, or its vectors
 * of weights, which come from the L2 cache at some 16 bytes a cycle. */
static double step_cycles(const fc_kernels *kernels, ptrdiff_t rows, ptrdiff_t vectors)
{
    const double fma = 0.5 * (double)(rows * vectors), load = 0.5 * (double)(rows + vectors);
    const double stream = (double)(vectors * (ptrdiff_t)kernels->lanes) * sizeof(float) / 16;
    return fmax(fmax(fma, load), fmax(stream, 4));
}

/* Vectors of a panel: the number with which rows of `columns` pixels take the fewest cycles. */
static ptrdiff_t choose_vectors(const plan *plan, ptrdiff_t outputs, ptrdiff_t columns)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t all = ceil_div(outputs, (ptrdiff_t)kernels->lanes);
    ptrdiff_t best = 1;
    double best_cost = 0;
    for (ptrdiff_t v = 1; v <= min(all, FC_MAX_VECTORS); v++) {
        const ptrdiff_t tiles = ceil_div(columns, plan->most_rows[v]);
        const ptrdiff_t rows = ceil_div(columns, tiles), last = columns - (tiles - 1) * rows;
        double cost = 0;
        for (ptrdiff_t done = 0; done < all; done += v) {
            const ptrdiff_t now = min(v, all - done);
            cost += (double)(tiles - 1) * step_cycles(kernels, rows, now);
            if (last > 0)
                cost += step_cycles(kernels, last, now);
        }
        if (v == 1 || cost <= best_cost) {
            best = v;
            best_cost = cost;
        }
    }
    return best;
}

/* Tap offsets over all phases: their extremes, and the most of one phase. */
static void find_reach(const fc_correlation *p, int axis, ptrdiff_t *low, ptrdiff_t *high, ptrdiff_t *most)
{
    *low = PTRDIFF_MAX;
    *high = PTRDIFF_MIN;
    *most = 0;
    for (ptrdiff_t i = 0; i < p->phases[axis]; i++) {
        const fc_taps *taps = &p->taps[axis][i];
        *most = max(*most, taps->count);
        if (taps->count) {
            *low = min(*low, taps->offset[0]);
            *high = max(*high, taps->offset[taps->count - 1]);
        }
    }
    if (*high < *low)
        *low = *high = 0;
}

static ptrdiff_t input_columns(const plan *plan, ptrdiff_t columns)
{
    return (columns - 1) * plan->p.x_step[1] + plan->column_max - plan->column_min + 1;
}

/* Cuts columns into so many units of whole tiles, of which none is empty. */
static void cut_columns(plan *plan, ptrdiff_t units)
{
    const ptrdiff_t most = plan->most_rows[plan->vectors], tiles = ceil_div(plan->columns, most);
    plan->units = min(units, tiles);
    plan->unit_columns = plan->units > 1 ? ceil_div(tiles, plan->units) * most : plan->columns;
}

/* Blocks whose input fills `fit` floats of the L2 cache. */
static void plan_blocks(plan *plan, ptrdiff_t fit_floats, int threads)
{
    const fc_correlation *p = &plan->p;
    const ptrdiff_t images = p->x.size[0], rows = plan->rows, columns = plan->columns;
    const ptrdiff_t column_floats = p->x_step[1] * plan->pitch;

    /* A long row is cut so that R rows of it fit the buffer; then rows, then images are added while they fit. */
    const ptrdiff_t span = plan->row_max - plan->row_min + 1;
    const ptrdiff_t most = plan->most_rows[plan->vectors];
    const ptrdiff_t unit = max(most, fit_floats / (column_floats * span) / most * most);
    cut_columns(plan, ceil_div(columns, min(unit, columns)));

    const ptrdiff_t row_floats = plan->unit_columns * column_floats;
    const ptrdiff_t fit = max(1, (fit_floats / row_floats - span) / p->x_step[0] + 1);
    plan->block_rows = min(rows, fit);
    plan->block_images = plan->block_rows < rows ? 1 : max(1, min(images, fit / (rows + span)));
    while (threads > 1 && p->groups * plan->units * ceil_div(rows, plan->block_rows) *
                              ceil_div(images, plan->block_images) < BLOCKS_A_THREAD * threads) {
        if (plan->block_images > 1)
            plan->block_images = ceil_div(plan->block_images, 2);
        else if (plan->block_rows > 1)
            plan->block_rows = ceil_div(plan->block_rows, 2);
        else if (plan->unit_columns > most)
            cut_columns(plan, 2 * plan->units);
        else
            break;
    }
    /* Of one row, as many units for each thread: one more than others have is a twentieth of the time. */
    if (plan->units > 1 && p->groups * rows * images == 1)
        cut_columns(plan, ceil_div(plan->units, threads) * threads);
    plan->row_blocks = ceil_div(rows, plan->block_rows);
    plan->image_blocks = ceil_div(images, plan->block_images);
    plan->in_columns = input_columns(plan, plan->unit_columns);
    if (!plan->in_place) {
        const ptrdiff_t in_rows = (plan->block_rows - 1) * p->x_step[0] + span;
        plan->copy_floats = round_up(plan->block_images * in_rows * plan->in_columns * plan->pitch) + 16;
    }
}

/* A share of the pixels, and how many such there are. */
typedef struct share {
    ptrdiff_t images, rows, columns, count;
} share;

/* Cuts the pixels into so many shares or fewer: images, then their rows, or a single row into whole tiles. */
static share share_out(const plan *plan, ptrdiff_t shares)
{
    const ptrdiff_t images = plan->p.x.size[0], rows = plan->rows, columns = plan->columns;
    const ptrdiff_t most = plan->most_rows[plan->vectors], of_image = ceil_div(shares, images);
    share s = {.images = ceil_div(images, min(shares, images)), .rows = rows, .columns = columns};
    if (rows > 1)
        s.rows = ceil_div(rows, min(of_image, rows));
    else
        s.columns = min(columns, ceil_div(ceil_div(columns, of_image), most) * most);
    s.count = ceil_div(images, s.images) * ceil_div(rows, s.rows) * ceil_div(columns, s.columns);
    return s;
}

/* Panels, each over so many shares of the pixels. */
static void plan_panels(plan *plan, ptrdiff_t shares)
{
    const share s = share_out(plan, shares);
    plan->by_panel = 1;
    plan->block_images = s.images;
    plan->block_rows = s.rows;
    plan->image_blocks = ceil_div(plan->p.x.size[0], s.images);
    plan->row_blocks = ceil_div(plan->rows, s.rows);
    cut_columns(plan, ceil_div(plan->columns, s.columns));
    plan->in_columns = input_columns(plan, plan->columns);
    plan->copy_floats = 0;
}

static double weight_floats(const plan *plan)
{
    return (double)plan->p.groups * (double)plan->outputs * (double)plan->channels *
           (double)(plan->p.w.size[2] * plan->p.w.size[3]);
}

/* Whether tasks should be panels, and over how many shares of the pixels, else 0: compares how long the slowest thread
 * computes and waits for the L3 cache. */
static ptrdiff_t choose_shares(const plan *plan, double steps, int threads, ptrdiff_t l2_floats)
{
    const fc_correlation *p = &plan->p;
    const double weights = weight_floats(plan);
    const ptrdiff_t blocks = p->groups * plan->image_blocks * plan->row_blocks * plan->units;
    const double input = (double)p->x.size[0] * (double)p->x.size[1] * (double)p->x.size[2] * (double)p->x.size[3];
    const double compute = steps * FC_STEP_NS / threads;
    const double packing = plan->prepared ? 0 : 2;
    const double pixels = (double)p->x.size[0] * (double)plan->rows * (double)plan->columns;
    /* Prepared weights stay in the L2 cache if they fit; of others, those of many threads are in others' caches. */
    const double of_block = plan->prepared && weights <= (double)l2_floats / 2 ? L3_FLOAT_NS / 4 : L3_FLOAT_NS;
    double best_ns = compute * (double)ceil_div(blocks, threads) * threads / (double)blocks +
                     (weights * packing + input) * L3_FLOAT_NS / threads +
                     weights * (double)(blocks / p->groups) * of_block / threads;
    ptrdiff_t best = 0;
    for (ptrdiff_t shares = 1; shares <= threads; shares++) {
        const share s = share_out(plan, shares);
        if (s.count != shares)
            continue;
        const double largest = (double)s.images * (double)s.rows * (double)s.columns * (double)s.count / pixels;
        const double unevenness = largest * fc_unevenness(plan->outputs, plan->panel_width, p->groups * shares,
                                                          threads);
        /* Multiply-adds hide most of it, as long as results do not drive the input out. */
        const double reread = input <= (double)(shares * l2_floats) / 2 ? L3_FLOAT_NS / 20
                              : input <= (double)(4 * l2_floats)        ? L3_FLOAT_NS / 4
                                                                        : L3_FLOAT_NS;
        const double ns = compute * unevenness + (weights * (double)shares + 2 * input) * L3_FLOAT_NS / threads +
                          input * (double)plan->panels * reread / threads;
        if (ns < best_ns) {
            best = shares;
            best_ns = ns;
        }
        if (best && unevenness < EVEN)
            break;
    }
    return best;
}

double fc_unevenness(ptrdiff_t outputs, ptrdiff_t width, ptrdiff_t rounds, int threads)
{
    const ptrdiff_t panels = ceil_div(outputs, width), most = ceil_div(panels * rounds, threads);
    const double slowest = (double)(most / panels * outputs + min(most % panels * width, outputs));
    return slowest * threads / ((double)outputs * (double)rounds);
}

ptrdiff_t fc_correlation_part(ptrdiff_t channels, ptrdiff_t taps)
{
    const ptrdiff_t most = max(LEAST_PART, min(MOST_PART, PART_STEPS / max(1, taps)));
    return max(1, ceil_div(channels, max(1, ceil_div(channels, most))));
}

/* The phases' tables of runs. */
static void list_runs(plan *plan, size_t runs, ptrdiff_t *place)
{
    const fc_correlation *p = &plan->p;
    size_t packed = 0;
    const ptrdiff_t x_row = plan->in_place ? p->x.stride[2] : plan->in_columns * plan->pitch;
    const int equal_parts = plan->channels == plan->parts * plan->part;
    for (size_t i = 0; i < plan->phase_count; i++) {
        phase *ph = &plan->phases[i];
        const ptrdiff_t at[2] = {(ptrdiff_t)i / p->phases[1], (ptrdiff_t)i % p->phases[1]};
        ph->rows = &p->taps[0][at[0]];
        ph->columns = &p->taps[1][at[1]];
        for (int axis = 0; axis < 2; axis++) {
            ph->first[axis] = at[axis];
            ph->count[axis] = max(0, ceil_div(p->y.size[2 + axis] - at[axis], p->y_step[axis]));
        }
        const fc_taps *across = ph->columns;
        const int dense = plan->pitch == plan->part && equal_parts && fc_is_run(across);
        ph->runs_a_row = dense ? 1 : across->count;
        ph->taps_a_run = dense ? across->count : 1;
        ph->piece_floats = (size_t)(ph->rows->count * across->count * plan->part * plan->panel_width);
        ph->panel_floats = (size_t)plan->parts * ph->piece_floats;
        ph->a_run = place;
        ph->b_run = place + runs;
        place += 2 * runs;
        for (ptrdiff_t r = 0; r < ph->rows->count; r++)
            for (ptrdiff_t s = 0; s < ph->runs_a_row; s++) {
                const ptrdiff_t j = r * ph->runs_a_row + s;
                ph->a_run[j] = ph->rows->offset[r] * x_row + (across->offset[s] - plan->column_min) * plan->pitch;
                ph->b_run[j] = j * ph->taps_a_run * plan->part * plan->panel_width;
            }
        ph->packed_at = packed;
        packed += round_up((ptrdiff_t)ph->panel_floats * plan->panels * p->groups);
    }
}

/* What is known before blocks are planned, all but the panels. Returns 0 where there is nothing to compute. */
static int describe(const fc_correlation *problem, plan *plan)
{
    *plan = (fc_correlation_plan){.p = *problem, .kernels = fc_kernels_active()};
    fc_correlation *p = &plan->p;
    flatten(p);
    gather(p, &plan->strided);
    plan->channels = p->w.size[1];
    plan->outputs = p->w.size[0];
    if (!p->y.size[0] || !p->y.size[2] || !p->y.size[3] || !plan->outputs)
        return 0;
    plan->phase_count = (size_t)(p->phases[0] * p->phases[1]);
    plan->rows = ceil_div(p->y.size[2], p->y_step[0]);
    plan->columns = ceil_div(p->y.size[3], p->y_step[1]);
    find_reach(p, 0, &plan->row_min, &plan->row_max, &plan->most_taps[0]);
    find_reach(p, 1, &plan->column_min, &plan->column_max, &plan->most_taps[1]);

    plan->part = fc_correlation_part(plan->channels, p->w.size[2] * p->w.size[3]);
    plan->parts = max(1, ceil_div(plan->channels, plan->part));
    plan->pitch = fc_pixel_pitch(plan->part);
    plan->in_place = !plan->strided.x.data && (p->x.stride[1] == 1 || plan->channels == 1) && p->x.stride[3] &&
                     plan->column_min >= 0 && (plan->columns - 1) * p->x_step[1] + plan->column_max < p->x.size[3];
    if (plan->in_place)
        plan->pitch = p->x.stride[3];
    plan->staged = p->y.stride[1] != 1 && plan->outputs > 1;
    /* Crowded pixels share a few sets of the L1 cache, 4 KiB apart one: only few at once are read where they lie, or
     * written, unless rows are so short that this would leave tiles unfilled. */
    const int crowded = (plan->in_place && p->x.stride[3] * p->x_step[1] % FC_CROWDED == 0) ||
                        (!plan->staged && plan->columns >= LONG_ROW && p->y.stride[3] * p->y_step[1] % 1024 == 0);
    for (int v = 1; v <= FC_MAX_VECTORS; v++) {
        const ptrdiff_t most = (ptrdiff_t)plan->kernels->max_rows[v];
        plan->most_rows[v] = crowded ? min(most, CROWDED_ROWS) : most;
    }
    return 1;
}

/* Returns -1 where the packed weights are too large for any memory. */
static int cut_panels(plan *plan, ptrdiff_t vectors)
{
    plan->vectors = vectors;
    plan->panel_width = vectors * (ptrdiff_t)plan->kernels->lanes;
    plan->panels = ceil_div(plan->outputs, plan->panel_width);
    const double outputs = (double)plan->p.groups * (double)plan->panels * (double)plan->panel_width;
    const double steps = (double)plan->parts * (double)plan->part * (double)(plan->p.w.size[2] * plan->p.w.size[3]);
    return outputs * steps > FC_MOST_FLOATS ? -1 : 0;
}

/* Floats of the packed weights of all phases. */
static size_t packed_floats(const plan *plan)
{
    const fc_correlation *p = &plan->p;
    size_t floats = 0;
    for (size_t i = 0; i < plan->phase_count; i++) {
        const ptrdiff_t taps = p->taps[0][(ptrdiff_t)i / p->phases[1]].count *
                               p->taps[1][(ptrdiff_t)i % p->phases[1]].count;
        floats += round_up(taps * plan->parts * plan->part * plan->panel_width * plan->panels * p->groups);
    }
    return floats;
}

typedef int way(const plan *plan);

/* How few outputs are computed, by the first of these ways that is better; NULL: by block or by panel. */
static way *choose_way(const plan *plan)
{
    return fc_taps_are_better(plan)       ? fc_correlate_taps
           : fc_together_is_better(plan)  ? fc_correlate_together
           : fc_planar_is_better(plan)    ? fc_correlate_planar
                                          : NULL;
}

int fc_correlate(const fc_correlation *problem, const fc_filters *filters)
{
    plan plan;
    if (!describe(problem, &plan))
        return 0;
    fc_correlation *p = &plan.p;
    way *const way = choose_way(&plan);
    if (way)
        return way(&plan);
    plan.prepared = filters != NULL;
    if (cut_panels(&plan, filters ? filters->vectors : choose_vectors(&plan, plan.outputs, plan.columns)))
        return -1;

    const ptrdiff_t l2_floats = fc_l2_floats();
    const double pixels = (double)p->y.size[0] * (double)plan.rows * (double)plan.columns;
    const double steps = pixels * weight_floats(&plan) / (double)plan.kernels->lanes;
    const int threads = fc_team_size(steps * FC_STEP_NS);
    plan_blocks(&plan, l2_floats * 5 / 16, threads);
    const ptrdiff_t shares = choose_shares(&plan, steps, threads, l2_floats);
    if (shares)
        plan_panels(&plan, shares);

    /* One allocation: phases, run tables, panels, input, bias, scratch. */
    const size_t runs = (size_t)max(1, plan.most_taps[0] * plan.most_taps[1]);
    const size_t phase_bytes = plan.phase_count * sizeof(phase);
    const size_t run_bytes = plan.phase_count * 2 * runs * sizeof(ptrdiff_t);
    const ptrdiff_t tap_floats = plan.part * plan.panel_width;
    size_t panel_floats = 0, input_floats = 0;
    if (plan.by_panel) {
        plan.input_part = p->x.size[0] * p->groups * p->x.size[2] * plan.in_columns * plan.pitch;
        if (!plan.in_place)
            input_floats = round_up(plan.parts * plan.input_part) + 16;
        plan.pack_floats = plan.prepared ? 0 : round_up(plan.most_taps[0] * plan.most_taps[1] * tap_floats);
    } else if (!plan.prepared) {
        panel_floats = packed_floats(&plan);
        if (threads <= MOST_PACKERS && panel_floats <= (size_t)l2_floats) {
            plan.own_packed = panel_floats;
            panel_floats *= (size_t)threads;
        }
    }
    if (plan.staged) {
        /* Parts are added up in the stage, so it holds every panel and phase when there are several. */
        const int all = plan.parts > 1 && !plan.by_panel;
        const size_t floats = round_up(plan.block_images * plan.block_rows * plan.unit_columns * plan.panel_width);
        plan.stage_panel = all ? floats : 0;
        plan.stage_phase = plan.parts > 1 ? floats * (size_t)(all ? plan.panels : 1) : 0;
        plan.stage_floats = plan.parts > 1 ? plan.phase_count * plan.stage_phase : floats;
    }
    plan.scratch_floats = plan.stage_floats + plan.copy_floats + plan.pack_floats + 16;
    /* A bias is read a vector at a time. */
    const size_t bias_floats = p->bias ? round_up(p->groups * plan.outputs + FC_MAX_VECTORS * FC_MAX_LANES) : 0;
    const size_t fixed = (phase_bytes + run_bytes + 63) & ~(size_t)63;
    char *workspace = fc_alloc(fixed + (panel_floats + input_floats + bias_floats +
                                        plan.scratch_floats * (size_t)threads) * sizeof(float));
    if (!workspace)
        return -1;
    float *floats = (float *)(workspace + fixed);
    plan.phases = (phase *)workspace;
    list_runs(&plan, runs, (ptrdiff_t *)(workspace + phase_bytes));
    plan.packed = filters ? filters->data : floats;
    plan.input = floats + panel_floats;
    plan.scratch = plan.input + input_floats + bias_floats;
    if (p->bias) {
        float *bias = plan.input + input_floats;
        memset(bias, 0, bias_floats * sizeof(float));
        memcpy(bias, p->bias, (size_t)(p->groups * plan.outputs) * sizeof(float));
        p->bias = bias;
    }
    fc_team_run(threads, 1, body, &plan);
    fc_free(workspace);
    return 0;
}

int fc_correlate_prepare(const fc_correlation *problem, fc_filters *filters)
{
    plan plan;
    *filters = (fc_filters){.algorithm = FC_DIRECT};
    if (!describe(problem, &plan) || choose_way(&plan))
        return 0;
    if (cut_panels(&plan, choose_vectors(&plan, plan.outputs, plan.columns)))
        return -1;
    plan_blocks(&plan, fc_l2_floats(), 1);
    const size_t runs = (size_t)max(1, plan.most_taps[0] * plan.most_taps[1]);
    const size_t phase_bytes = plan.phase_count * sizeof(phase);
    char *tables = fc_alloc(phase_bytes + plan.phase_count * 2 * runs * sizeof(ptrdiff_t));
    float *panels = fc_alloc(packed_floats(&plan) * sizeof(float));
    if (!tables || !panels) {
        fc_free(tables);
        fc_free(panels);
        return -1;
    }
    plan.phases = (phase *)tables;
    list_runs(&plan, runs, (ptrdiff_t *)(tables + phase_bytes));
    plan.packed = panels;
    for (ptrdiff_t i = 0; i < fc_correlation_preparations(&plan); i++)
        fc_correlation_prepare(&plan, i, 0);
    fc_free(tables);
    filters->vectors = plan.vectors;
    filters->data = panels;
    return 0;
}
