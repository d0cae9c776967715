/* SPDX-License-Identifier: MIT */
/* Correlation by Winograd's algorithm, in one of two ways:
 *
 *   by block    weights' points [k/NB][part][36][c][NB]                                         (all threads)
 *               a task is a block of tiles: its points V[part][36][tile][c]                     (L2)
 *               for each of the 36, for each panel of NB output channels, for each part of the
 *               channels: M[36][tile][k] += V U by kernels->brief_rows                          (L1, registers)
 *               M to outputs
 *   by panel    V of a block of tiles, as many as the L3 cache holds                      (each thread for itself)
 *               a task is one panel over the block: for each part, the points of its weights    (L2),
 *               then as above for this panel; of few tiles, points are multiplied as they are
 *               made, or a few channels later                                             (registers or L1)
 *
 * The 36 planes are 16 of 2 x 2 taps. Parts are numbered phase by phase of a stride; by block, V is that of one phase,
 * and M adds them up.
 *
 * What another core has just written takes longer to read than to make: 16 times where the two do not share an L3
 * cache. So by panel shares nothing: multiplying hides that V comes from the L3 cache, and the weights' points stay in
 * the L2 cache. They are made once a block, which pays unless tiles are many and channels few, or threads many.
 * An output is its tile's alone and adds up the same parts either way, so no choice made here changes a bit. */
#include "winograd.h"

#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/timers.h"
#include "correlate_plan.h"
#include "integers.h"
#include "rows.h"

enum {
    FEW_TILES = 16,                /* whose products take less time than points on their way from the L3 cache, */
    FEW_TILES_OF_MANY = 64,        /* or from memory, where */
    MANY_POINTS = 3 << 19,         /* are those of a layer whose network fits no cache */
    LEAST_L3_FLOATS = 1 << 19,     /* of a thread: processors of many cores have more than one such cache */
};

/* Nanoseconds of one thread for a multiply-add of a vector, with its share of loading and storing M; for a float of U
 * or V that it makes, V leaving the L3 cache or not, or reads while it multiplies; besides, of a U that others read. */
static const double STEP_NS = 0.2, MAKE_U_NS = 0.23, MAKE_V_NS = 0.2, FAR_V_NS = 0.6, READ_U_NS = 0.01,
                    READ_V_NS = 0.003, SHARE_U_NS = 0.25;

typedef struct plan {
    fc_correlation p;
    const fc_kernels *kernels;
    const fc_winograd *winograd;
    ptrdiff_t r, m;
    fc_winograd_phase phases[FC_WINOGRAD_PHASES];
    ptrdiff_t phase_count;
    ptrdiff_t planes, used_planes;     /* of a tile; of all phases, without those that these lack */
    fc_tiling tiling;
    ptrdiff_t tiles;                   /* of all images */
    ptrdiff_t channels, outputs;       /* of one group, of folded pixels where they are */
    ptrdiff_t part, pitch;             /* most channels of a part; floats of a tile and part in V */
    ptrdiff_t phase_parts, parts;      /* of one phase, of all */
    ptrdiff_t vectors, panel_width, panels;
    ptrdiff_t piece, panel_floats;     /* of U: one plane of a part, all of a panel */
    ptrdiff_t part_taps;               /* floats of a part's taps of a panel, at most */
    int by_panel, few;                 /* few: U of a part is never there as a whole */
    ptrdiff_t block, blocks;           /* most tiles of a block */
    ptrdiff_t batch;                   /* panels that are multiplied before their outputs are made */
    ptrdiff_t v_plane, v_part, m_plane;
    size_t copy_floats, v_floats, m_floats, u_floats, pack_floats, stage_floats, scratch_floats;   /* of a thread */
    const float *filters;              /* U, or NULL: made by the tasks */
    float *packed;                     /* [k/NB][part] packed taps of which it is made, or NULL: those of w */
    float *made;                       /* where U is made for all tasks */
    float *scratch;
    fc_tasks preparations, tasks;
} plan;

static const fc_winograd_phase *phase_of(const plan *plan, ptrdiff_t part)
{
    return &plan->phases[part / plan->phase_parts];
}

static ptrdiff_t first_channel(const plan *plan, ptrdiff_t part) { return part % plan->phase_parts * plan->part; }

static ptrdiff_t part_channels(const plan *plan, ptrdiff_t part)
{
    return min(plan->part, plan->channels - first_channel(plan, part));
}

static ptrdiff_t panel_outputs(const plan *plan, ptrdiff_t panel)
{
    return min(plan->panel_width, plan->outputs - panel * plan->panel_width);
}

static ptrdiff_t panel_vectors(const plan *plan, ptrdiff_t panel)
{
    return ceil_div(panel_outputs(plan, panel), (ptrdiff_t)plan->kernels->lanes);
}

/* ---- points ----------------------------------------------------------------------------------------------- */

/* Floats of a channel's taps of a panel. */
static ptrdiff_t channel_taps(const plan *plan, ptrdiff_t part)
{
    const fc_winograd_phase *phase = phase_of(plan, part);
    return phase->taps[0] * phase->taps[1] * plan->panel_width;
}

/* 1 where an axis has all taps in order, -1 in reverse order, 0 where it has others. */
static ptrdiff_t direction_of(const fc_taps *taps, ptrdiff_t all)
{
    const ptrdiff_t step = taps->count > 1 ? taps->index[1] - taps->index[0] : 1;
    if (taps->count != all || taps->index[0] != (step > 0 ? 0 : all - 1))
        return 0;
    return step;
}

/* pack_taps where those of an output and channel lie side by side, in order or in reverse: all at once, as a matrix of
 * outputs is transposed. Returns 0 where they do not. */
static int pack_all_taps(const plan *plan, const float *w, ptrdiff_t channels, ptrdiff_t outputs, float *taps)
{
    enum { CHANNELS_AHEAD = 4 };
    const fc_tensor *t = &plan->p.w;
    const ptrdiff_t all = t->size[2] * t->size[3], width = plan->panel_width;
    const ptrdiff_t direction = direction_of(plan->p.taps[0], t->size[2]);
    if (plan->p.x_step[0] > 1 || !direction || direction_of(plan->p.taps[1], t->size[3]) != direction ||
        t->stride[3] != 1 || t->stride[2] != t->size[3])
        return 0;
    if (direction > 0 && t->stride[1] == all) {
        plan->kernels->transpose((size_t)outputs, (size_t)(channels * all), w, t->stride[0], taps, width);
        return 1;
    }
    float *first = direction > 0 ? taps : taps + (all - 1) * width;
    for (ptrdiff_t c = 0; c < channels; c++, w += t->stride[1], first += all * width) {
        if (t->stride[0] == all)       /* the channels lie in as many pages, where the hardware does not fetch ahead */
            for (ptrdiff_t i = 0; i < outputs * all; i += FC_LINE_FLOATS)
                __builtin_prefetch(w + CHANNELS_AHEAD * t->stride[1] + i);
        plan->kernels->transpose((size_t)outputs, (size_t)all, w, t->stride[0], first, direction * width);
    }
    return 1;
}

/* One part of a panel's weights to taps[c][r][s][NB], zeros where the filter ends among folded pixels: read so, they
 * come from few pages and sets of the caches. */
static void pack_taps(const plan *plan, ptrdiff_t group, ptrdiff_t panel, ptrdiff_t part, float *taps)
{
    fc_clock(FC_COPY);
    const fc_correlation *p = &plan->p;
    const fc_winograd_phase *phase = phase_of(plan, part);
    const fc_taps *rows = p->taps[0], *columns = p->taps[1];
    const ptrdiff_t stride = p->x_step[0], pixels = phase->folds * phase->folds;
    const ptrdiff_t channels = part_channels(plan, part) / pixels, step = channel_taps(plan, part);
    const float *w = p->w.data + group * p->w_group + panel * plan->panel_width * p->w.stride[0] +
                     first_channel(plan, part) * p->w.stride[1];
    if (pack_all_taps(plan, w, channels, panel_outputs(plan, panel), taps))
        return;
    for (ptrdiff_t pixel = 0; pixel < pixels; pixel++) {
        float *to = taps + pixel * channels * step;
        for (ptrdiff_t r = 0; r < phase->taps[0]; r++)
            for (ptrdiff_t s = 0; s < phase->taps[1]; s++, to += plan->panel_width) {
                const ptrdiff_t row = phase->first[0] + pixel / phase->folds + r * stride;
                const ptrdiff_t column = phase->first[1] + pixel % phase->folds + s * stride;
                if (row < rows->count && column < columns->count)
                    fc_pack_tap(plan->kernels, &p->w,
                                w + rows->index[row] * p->w.stride[2] + columns->index[column] * p->w.stride[3],
                                channels, panel_outputs(plan, panel), to, step);
                else
                    for (ptrdiff_t c = 0; c < channels; c++)
                        memset(to + c * step, 0, (size_t)plan->panel_width * sizeof(float));
            }
    }
}

/* Where a part of a panel is among packed taps. */
static float *taps_of(const plan *plan, float *packed, ptrdiff_t group, ptrdiff_t panel, ptrdiff_t part)
{
    return packed + ((group * plan->panels + panel) * plan->parts + part) * plan->part_taps;
}

/* The packed taps of one part of a panel: those that are kept, or others in `pack`. */
static const float *find_taps(const plan *plan, ptrdiff_t group, ptrdiff_t panel, ptrdiff_t part, float *pack)
{
    if (plan->packed)
        return taps_of(plan, plan->packed, group, panel, part);
    pack_taps(plan, group, panel, part, pack);
    return pack;
}

/* The plane of U for a plane of products: a single tap along an axis has the same value at all points, which is made
 * for the first alone. */
static ptrdiff_t u_plane(const fc_winograd_phase *phase, ptrdiff_t plane)
{
    const ptrdiff_t row = plane / phase->all_points, column = plane % phase->all_points;
    return (phase->taps[0] > 1 ? row * phase->all_points : 0) + (phase->taps[1] > 1 ? column : 0);
}

/* Where U of a part of a panel is among that of all. */
static ptrdiff_t filters_at(const plan *plan, ptrdiff_t group, ptrdiff_t panel, ptrdiff_t part)
{
    return (group * plan->panels + panel) * plan->panel_floats + part * plan->planes * plan->piece;
}

/* U[36][c][NB] of one part of a panel. */
static void make_filters(const plan *plan, ptrdiff_t group, ptrdiff_t panel, ptrdiff_t part, float *pack, float *u)
{
    const float *taps = find_taps(plan, group, panel, part, pack);
    fc_clock(FC_TRANSFORM);
    plan->winograd->filter(phase_of(plan, part)->taps, (size_t)part_channels(plan, part),
                           (size_t)panel_vectors(plan, panel), plan->panel_width, taps, u, plan->piece);
}

/* V of tiles first .. end - 1 of one group, `parts` of them from `part` on; `v` is where the first of all goes. */
static void make_points(const plan *plan, ptrdiff_t group, ptrdiff_t first, ptrdiff_t end, ptrdiff_t part,
                        ptrdiff_t parts, float *v, float *scratch)
{
    fc_clock(FC_TRANSFORM);
    for (ptrdiff_t t = first; t < end;) {
        const fc_tile_run run = fc_tile_run_at(&plan->tiling, t, end);
        for (ptrdiff_t i = part; i < part + parts; i++) {
            const fc_winograd_phase *phase = phase_of(plan, i);
            fc_transform_run(plan->kernels, plan->winograd->data, phase, &run,
                             group * plan->p.w.size[1] + first_channel(plan, i), part_channels(plan, i),
                             v + (i - part) * plan->v_part + (t - first) * plan->pitch, plan->pitch, plan->v_plane,
                             scratch);
        }
        t += run.tiles;
    }
}

/* Outputs of tiles first .. end - 1 and of the batch of panels from `panel` on. */
static void make_outputs(const plan *plan, ptrdiff_t group, ptrdiff_t panel, ptrdiff_t first, ptrdiff_t end,
                         const float *m, float *stage)
{
    fc_clock(FC_STORE);
    const fc_correlation *p = &plan->p;
    const fc_tensor *y = &p->y;
    const ptrdiff_t k0 = panel * plan->panel_width, tile = plan->batch * plan->panel_width;
    const ptrdiff_t used = min(tile, plan->outputs - k0), k = group * plan->outputs + k0;
    const int staged = plan->stage_floats > 0;
    for (ptrdiff_t t = first; t < end;) {
        const fc_tile_run run = fc_tile_run_at(&plan->tiling, t, end);
        const ptrdiff_t columns = min(run.tiles * run.width, y->size[3] - run.column);
        float *to = y->data + run.n * y->stride[0] + k * y->stride[1] + run.row * y->stride[2] +
                    run.column * y->stride[3];
        const fc_winograd_output out = {
            .tiles = (size_t)run.tiles,
            .channels = (size_t)used,
            .points = m + (t - first) * tile,
            .tile = tile,
            .plane = plan->m_plane,
            .y = staged ? stage : to,
            .y_row = staged ? columns * tile : y->stride[2],
            .y_pixel = staged ? tile : y->stride[3],
            .y_tile = run.width * (staged ? tile : y->stride[3]),
            .height = run.height,
            .width = run.width,
            .rows = min(run.height, y->size[2] - run.row),
            .columns = columns,
            .ahead = staged ? 0
                            : (run.next[0] - run.n) * y->stride[0] + (run.next[1] - run.row) * y->stride[2] +
                                  (run.next[2] - run.column) * y->stride[3],
            .bias = p->bias ? p->bias + k : NULL,
            .residual = p->residual ? p->residual + (to - y->data) : NULL,
            .relu = p->relu,
        };
        plan->winograd->output(&out);
        if (staged)
            for (ptrdiff_t i = 0; i < out.rows; i++)
                fc_store_row(plan->kernels, stage + i * columns * tile, tile, columns, used, to + i * y->stride[2],
                             y->stride[1], y->stride[3]);
        t += run.tiles;
    }
}

/* ---- products --------------------------------------------------------------------------------------------- */

/* U of one plane of a part of a panel, which is kept or made for all tasks. */
static const float *filters_of(const plan *plan, ptrdiff_t group, ptrdiff_t panel, ptrdiff_t part, ptrdiff_t plane)
{
    return plan->filters + filters_at(plan, group, panel, part) + u_plane(phase_of(plan, part), plane) * plan->piece;
}

/* One plane, one part, one panel: m[tile][k] (+)= v[tile][c] u[c][k], of the tiles first .. end - 1 that have the
 * plane; `v` and `m` are where the first is. A phase without the plane adds 0. ahead: weights that are fetched with the
 * last tiles, ahead_step floats with each channel, or NULL. */
static void multiply(const plan *plan, ptrdiff_t plane, ptrdiff_t first, ptrdiff_t end, ptrdiff_t part,
                     ptrdiff_t vectors, const float *v, const float *u, float *m, const float *ahead,
                     ptrdiff_t ahead_step)
{
    static const ptrdiff_t start[1] = {0};
    const fc_tile_range range = fc_tiles_of_plane(&plan->tiling, plane, first, end);
    const ptrdiff_t tiles = range.end - range.first;
    const ptrdiff_t m_tile = plan->batch * plan->panel_width;
    if (!tiles)
        return;
    m += (range.first - first) * m_tile;
    if (!fc_phase_has(phase_of(plan, part), plane)) {
        for (ptrdiff_t i = 0; i < tiles && !part; i++)
            memset(m + i * m_tile, 0, (size_t)plan->panel_width * sizeof(float));
        return;
    }
    const ptrdiff_t count = ceil_div(tiles, (ptrdiff_t)plan->kernels->max_rows[vectors]);
    fc_tile t = {
        .a = v + (range.first - first) * plan->pitch,
        .a_row = plan->pitch,
        .a_step = 1,
        .b = u,
        .b_step = plan->panel_width,
        .a_run = start,
        .b_run = start,
        .runs = 1,
        .depth = (size_t)part_channels(plan, part),
        .y = m,
        .y_row = m_tile,
        .far = 0,                      /* M is in the L2 cache, or what is read beside it is far more */
        .last_lanes = plan->kernels->lanes,
        .accumulate = part > 0,
    };
    for (ptrdiff_t i = 0; i < count; i++) {
        const ptrdiff_t rows = share_of(tiles, i, count);
        t.next = t.a + rows * t.a_row;
        t.next_step = rows;
        if (ahead && i == count - 1) {
            t.next = ahead;
            t.next_step = ahead_step;
        }
        plan->kernels->brief_rows[vectors][rows](&t);
        t.a += rows * t.a_row;
        t.y += rows * t.y_row;
    }
}

/* The plane that is multiplied after this one. */
static ptrdiff_t plane_after(const fc_winograd_phase *phase, ptrdiff_t plane)
{
    return plane + 1 + !fc_phase_has(phase, plane + 1);
}

/* By block, what is multiplied by after filters_of the same: it comes from the L3 cache. NULL behind the last plane. */
static const float *filters_after(const plan *plan, ptrdiff_t group, ptrdiff_t panel, ptrdiff_t part, ptrdiff_t plane)
{
    const ptrdiff_t begin = part / plan->phase_parts * plan->phase_parts, first = panel / plan->batch * plan->batch;
    if (part + 1 < begin + plan->phase_parts)
        return filters_of(plan, group, panel, part + 1, plane);
    if (panel + 1 < min(plan->panels, first + plan->batch))
        return filters_of(plan, group, panel + 1, begin, plane);
    const ptrdiff_t after = plane_after(phase_of(plan, part), plane);
    return after < plan->planes ? filters_of(plan, group, first, begin, after) : NULL;
}

static void run_block(const plan *plan, ptrdiff_t group, ptrdiff_t first, ptrdiff_t end, float *scratch)
{
    float *v = scratch + plan->copy_floats, *m = v + plan->v_floats, *stage = m + plan->m_floats;
    for (ptrdiff_t begin = 0; begin < plan->parts; begin += plan->phase_parts) {
        make_points(plan, group, first, end, begin, plan->phase_parts, v, scratch);
        for (ptrdiff_t panel = 0; panel < plan->panels; panel += plan->batch) {
            const ptrdiff_t panel_end = min(plan->panels, panel + plan->batch);
            fc_clock(FC_MULTIPLY);
            for (ptrdiff_t plane = 0; plane < plan->planes; plane++)
                for (ptrdiff_t q = panel; q < panel_end; q++)
                    for (ptrdiff_t part = begin; part < begin + plan->phase_parts; part++)
                        multiply(plan, plane, first, end, part, panel_vectors(plan, q),
                                 v + (part - begin) * plan->v_part + plane * plan->v_plane,
                                 filters_of(plan, group, q, part, plane),
                                 m + plane * plan->m_plane + (q - panel) * plan->panel_width,
                                 filters_after(plan, group, q, part, plane), plan->panel_width);
            if (begin + plan->phase_parts == plan->parts)
                make_outputs(plan, group, panel, first, end, m, stage);
        }
    }
}

/* One part, one panel of all planes, of a few tiles: m (+)= v G w G^T. ahead: fetched meanwhile, or NULL. */
static void multiply_few(const plan *plan, ptrdiff_t first, ptrdiff_t end, ptrdiff_t part, const float *taps,
                         const float *v, float *m, const float *ahead)
{
    fc_winograd_few few = {
        .channels = part_channels(plan, part),
        .taps = taps,
        .points = v,
        .tile = plan->pitch,
        .plane = plan->v_plane,
        .m = m,
        .m_tile = plan->batch * plan->panel_width,
        .m_plane = plan->m_plane,
        .accumulate = part > 0,
    };
    for (int i = 0; i < 4; i++) {
        const ptrdiff_t plane = i / 2 * plan->tiling.points + i % 2;
        const fc_tile_range range = fc_tiles_of_plane(&plan->tiling, plane, first, end);
        few.tiles[i / 2][i % 2] = (fc_plane_tiles){range.first - first, range.end - range.first};
    }
    for (few.pair = 0; few.pair < 3; few.pair++) {
        few.next = (ahead ? ahead : taps) + few.pair * few.channels * (channel_taps(plan, part) / 3);
        plan->winograd->few(&few);
    }
}

/* V of the block is in `scratch`. */
static void run_panel(const plan *plan, ptrdiff_t group, ptrdiff_t panel, ptrdiff_t first, ptrdiff_t end,
                      float *scratch)
{
    float *v = scratch + plan->copy_floats, *u = v + plan->v_floats;
    float *pack = u + plan->u_floats, *m = pack + plan->pack_floats;
    for (ptrdiff_t part = 0; part < plan->parts; part++) {
        /* Weights come from memory, which multiplying leaves idle: taps of the next part, or panel, are fetched, an
         * equal share with each plane, or points of the next plane. */
        const float *ahead = plan->packed ? taps_of(plan, plan->packed, group, panel, part + 1) : NULL;
        if (plan->few) {
            const float *taps = find_taps(plan, group, panel, part, pack);
            fc_clock(FC_MULTIPLY);
            multiply_few(plan, first, end, part, taps, v + part * plan->v_part, m, ahead);
            continue;
        }
        const fc_winograd_phase *phase = phase_of(plan, part);
        const ptrdiff_t share = ceil_div(channel_taps(plan, (part + 1) % plan->parts), fc_phase_planes(phase));
        const float *filters = plan->filters ? filters_of(plan, group, panel, part, 0) : u;
        if (!plan->filters)
            make_filters(plan, group, panel, part, pack, u);
        fc_clock(FC_MULTIPLY);
        for (ptrdiff_t plane = 0; plane < plan->planes; plane++) {
            multiply(plan, plane, first, end, part, panel_vectors(plan, panel),
                     v + part * plan->v_part + plane * plan->v_plane, filters + u_plane(phase, plane) * plan->piece,
                     m + plane * plan->m_plane,
                     plan->filters ? filters + u_plane(phase, plane_after(phase, plane)) * plan->piece : ahead,
                     plan->filters ? plan->panel_width : share);
            if (ahead && fc_phase_has(phase, plane))
                ahead += plan->part * share;
        }
    }
    make_outputs(plan, group, panel, first, end, m, m + plan->m_floats);
}

/* ---- a call ----------------------------------------------------------------------------------------------- */

static void prepare_filters(const plan *plan, ptrdiff_t index, float *pack, float *filters)
{
    const ptrdiff_t group = index / plan->panels, panel = index % plan->panels;
    for (ptrdiff_t part = 0; part < plan->parts; part++)
        make_filters(plan, group, panel, part, pack, filters + filters_at(plan, group, panel, part));
}

static void body(void *context, int thread, int threads)
{
    plan *plan = context;
    float *scratch = plan->scratch + (size_t)thread * plan->scratch_floats;
    if (plan->made) {
        const ptrdiff_t all = plan->p.groups * plan->panels;
        for (fc_hand hand = fc_hand_of(&plan->preparations, all, thread, threads); fc_take(&hand);)
            prepare_filters(plan, hand.task, scratch + plan->copy_floats, plan->made);
        fc_team_barrier(threads);
    }
    const ptrdiff_t of_block = plan->by_panel ? plan->panels : 1;
    const ptrdiff_t tasks = plan->p.groups * plan->blocks * of_block;
    ptrdiff_t transformed = -1;        /* by panel: the block, of all groups', of which V is there */
    for (fc_hand hand = fc_hand_of(&plan->tasks, tasks, thread, threads); fc_take(&hand);) {
        const ptrdiff_t at = hand.task / of_block, group = at / plan->blocks, block = at % plan->blocks;
        const ptrdiff_t first = fc_tile_share(&plan->tiling, block, plan->blocks);
        const ptrdiff_t end = fc_tile_share(&plan->tiling, block + 1, plan->blocks);
        if (!plan->by_panel) {
            run_block(plan, group, first, end, scratch);
            continue;
        }
        if (at != transformed)
            make_points(plan, group, first, end, 0, plan->parts, scratch + plan->copy_floats, scratch);
        transformed = at;
        run_panel(plan, group, hand.task % of_block, first, end, scratch);
    }
}

/* ---- a plan ----------------------------------------------------------------------------------------------- */

/* What depends on the weights and the instruction set alone. Returns -1 where no memory could hold their points:
 * weights may repeat their elements, so that memory does not bound their number. */
static int plan_panels(plan *plan, ptrdiff_t groups, ptrdiff_t outputs, ptrdiff_t channels)
{
    plan->kernels = fc_kernels_active();
    const ptrdiff_t lanes = (ptrdiff_t)plan->kernels->lanes;
    plan->channels = channels;
    plan->outputs = outputs;
    plan->part = fc_winograd_part(plan->r, channels);
    plan->phase_parts = ceil_div(channels, plan->part);
    plan->parts = plan->phase_count * plan->phase_parts;
    plan->pitch = (ptrdiff_t)round_up(plan->part);
    plan->vectors = min(2, ceil_div(outputs, lanes));
    plan->panel_width = plan->vectors * lanes;
    plan->panels = ceil_div(outputs, plan->panel_width);
    plan->piece = odd_lines(plan->part * plan->panel_width);
    const double panel_floats = (double)plan->parts * (double)(plan->planes * plan->piece);
    if ((double)groups * (double)plan->panels * panel_floats > FC_MOST_FLOATS)
        return -1;
    plan->panel_floats = (ptrdiff_t)panel_floats;
    return 0;
}

static ptrdiff_t folds_of(const fc_correlation *p)
{
    return fc_winograd_folds(p->w.size[1], p->w.size[2], p->x_step[0]);
}

/* r, of x in forward, where x_step is the stride, or of y in backward. */
static ptrdiff_t transformed_taps(const fc_correlation *p)
{
    return fc_winograd_taps(p->w.size[2], p->x_step[0] * p->y_step[0]);
}

/* Of a correlation of one phase of y. */
static int describe(const fc_correlation *problem, plan *plan)
{
    const ptrdiff_t taps[2] = {problem->taps[0]->count, problem->taps[1]->count};
    const ptrdiff_t origin[2] = {problem->taps[0]->offset[0], problem->taps[1]->offset[0]};
    plan->p = *problem;
    plan->r = transformed_taps(problem);
    plan->m = fc_winograd_outputs(plan->r);
    plan->planes = fc_winograd_points(plan->r) * fc_winograd_points(plan->r);
    const ptrdiff_t folds = folds_of(problem);
    plan->phase_count = fc_winograd_phases_of(&problem->x, problem->x_step[0], folds, plan->r, taps, origin,
                                              problem->y.size + 2, plan->phases);
    plan->used_planes = fc_planes_of_phases(plan->phases, plan->phase_count);
    if (plan_panels(plan, problem->groups, problem->w.size[0], problem->w.size[1] * folds * folds))
        return -1;
    plan->winograd = fc_winograd_of(plan->kernels, plan->r);
    plan->part_taps = plan->part * channel_taps(plan, 0);
    plan->pack_floats = round_up(plan->part_taps);
    return 0;
}

/* Sets the number of blocks, and the most tiles of one. */
static void cut_tiles(plan *plan, ptrdiff_t blocks)
{
    plan->blocks = blocks;
    plan->block = 0;
    for (ptrdiff_t i = 0; i < blocks; i++)
        plan->block = max(plan->block, fc_tile_share(&plan->tiling, i + 1, blocks) -
                                           fc_tile_share(&plan->tiling, i, blocks));
}

/* Chooses a way and blocks: what takes the slowest thread the least time. By block, a block's V and M stay in the L2
 * cache. By panel, blocks are few, so that U is made few times, or so many that their V and M stay in the L3 cache. */
static void choose_blocks(plan *plan, int threads)
{
    const ptrdiff_t l2 = fc_l2_floats() * 7 / 10, width = plan->panel_width, groups = plan->p.groups;
    const ptrdiff_t v_tile = plan->planes * plan->parts * plan->pitch;
    const ptrdiff_t most = (ptrdiff_t)plan->kernels->max_rows[plan->vectors];
    const ptrdiff_t share = ceil_div(plan->tiles, threads);
    const double u = (double)plan->used_planes * (double)plan->channels * (double)plan->outputs;
    const double products = u / (double)plan->kernels->lanes * STEP_NS;         /* of one tile */

    /* M adds up one phase after the other, of all panels; of one phase alone, it is that of as many as fit. */
    const ptrdiff_t v_phase = v_tile / plan->phase_count, together = plan->phase_count > 1 ? plan->panels : 1;
    const ptrdiff_t resident = min(share, max(most, (l2 - plan->piece) / (v_phase + plan->planes * width * together)));
    /* As many blocks for each thread. */
    const ptrdiff_t turns = ceil_div(ceil_div(plan->tiles, resident), threads);
    cut_tiles(plan, min(plan->tiles, turns * threads));
    const ptrdiff_t most_panels = (l2 / plan->block - v_phase) / (plan->planes * width);
    plan->batch = max(together, min(plan->panels, most_panels));
    const double turn = u * READ_U_NS + ((double)v_tile * MAKE_V_NS + products) *
                                            (double)ceil_div(plan->tiles, plan->blocks);
    double best = (plan->filters ? 0 : (MAKE_U_NS + SHARE_U_NS) * u / threads) + (double)turns * turn;
    best *= (double)groups;

    ptrdiff_t blocks = 0;
    const double near_floats = 0.5 * (double)max(fc_l3_floats() / threads, LEAST_L3_FLOATS);
    /* Fewer blocks than threads share panels out; more have each thread take several, of which V is nearer. */
    for (ptrdiff_t b = 1; b <= plan->tiles; b += b < threads ? 1 : threads) {
        const double tiles = (double)ceil_div(plan->tiles, b), v_block = (double)v_tile * tiles;
        const double unevenness = fc_unevenness(plan->outputs, width, groups * b, threads);
        const double rounds = unevenness * (double)(groups * b) / threads;  /* of the slowest thread, over all panels */
        const double points = v_block + (double)(plan->planes * width) * tiles;     /* V and M */
        const int far = points > near_floats;
        const double making = (double)ceil_div(groups * b, threads) * v_block * (far ? FAR_V_NS : MAKE_V_NS);
        const double cost = making + rounds * (v_block * (double)plan->panels * READ_V_NS +
                                               u * (plan->filters ? READ_U_NS : MAKE_U_NS) + products * tiles);
        if (points * threads <= FC_MOST_POINT_FLOATS && cost < best) {
            blocks = b;
            best = cost;
        }
        if (b >= threads && !far)
            break;
    }
    plan->by_panel = blocks > 0;
    if (plan->by_panel) {
        cut_tiles(plan, blocks);
        plan->batch = 1;
        /* All planes are multiplied: a phase of fewer taps would be without points at infinity. */
        plan->few = plan->winograd->few && !plan->filters && plan->used_planes == plan->planes &&
                    plan->vectors == 2 && plan->block <= FC_FEW_TILES && plan->block >= plan->winograd->least_few;
    }
}

int fc_winograd_supports(const fc_correlation *p)
{
    if (!fc_winograd_has(p->w.size[2], p->w.size[3], p->x_step[0] * p->y_step[0], p->x_step[1] * p->y_step[1]))
        return 0;
    for (int axis = 0; axis < 2; axis++)
        for (ptrdiff_t i = 0; i < p->phases[axis]; i++)
            if (!fc_is_run(&p->taps[axis][i]) || p->taps[axis][i].count > ceil_div(p->w.size[2], p->y_step[axis]))
                return 0;
    return p->w.size[0] > 0 && p->w.size[1] > 0;
}

static void prepare_body(void *context, int thread, int threads)
{
    const plan *plan = context;
    (void)thread, (void)threads;
    for (ptrdiff_t i = 0; i < plan->p.groups * plan->panels; i++)
        if (plan->made)
            prepare_filters(plan, i, plan->scratch, plan->made);
        else
            for (ptrdiff_t part = 0; part < plan->parts; part++)
                pack_taps(plan, i / plan->panels, i % plan->panels, part,
                          taps_of(plan, plan->packed, i / plan->panels, i % plan->panels, part));
}

/* Whether the points of the weights, up to ten times as many floats, are read faster than they are made again. */
static int keeps_points(const plan *plan)
{
    const fc_tensor *y = &plan->p.y;
    const double tiles = (double)y->size[0] * (double)ceil_div(y->size[2], plan->m) *
                         (double)ceil_div(y->size[3], plan->m);
    const double points = (double)(plan->used_planes * plan->p.groups) * (double)plan->channels *
                          (double)plan->outputs;
    return tiles > (points > MANY_POINTS ? FEW_TILES_OF_MANY : FEW_TILES);
}

int fc_winograd_prepare(const fc_correlation *problem, fc_filters *filters)
{
    plan plan = {0};
    if (describe(problem, &plan))
        return -1;
    const int points = keeps_points(&plan);
    const ptrdiff_t all = problem->groups * plan.panels;
    float *data = fc_alloc((size_t)(all * (points ? plan.panel_floats : plan.parts * plan.part_taps)) *
                           sizeof(float));
    *(points ? &plan.made : &plan.packed) = data;
    plan.scratch = fc_alloc(plan.pack_floats * sizeof(float));
    if (data && plan.scratch)
        fc_team_run(1, 1, prepare_body, &plan);    /* denormals are flushed as in a call: the same bits */
    else {
        fc_free(data);
        data = NULL;
    }
    fc_free(plan.scratch);
    *filters = (fc_filters){
        .algorithm = FC_WINOGRAD,
        .points = points,
        .stride = problem->x_step[0],
        .data = data,
    };
    return data ? 0 : -1;
}

/* Of one phase of y. */
static int correlate(const fc_correlation *problem, const fc_filters *filters)
{
    plan plan = {0};
    if (describe(problem, &plan))
        return -1;
    const fc_correlation *p = &plan.p;
    if (filters && filters->stride != p->x_step[0])
        filters = NULL;
    if (filters && filters->points)
        plan.filters = filters->data;
    else if (filters)
        plan.packed = filters->data;
    plan.tiling = fc_tile_images(plan.r, p->y.size[0], p->y.size[2], p->y.size[3]);
    plan.tiles = plan.tiling.start[FC_TILE_KINDS];
    if (!plan.tiles)
        return 0;
    const double steps = (double)(plan.used_planes * plan.tiles * p->groups) * (double)plan.channels *
                         (double)(plan.panels * plan.vectors);
    const int threads = fc_team_size(steps * FC_STEP_NS);
    choose_blocks(&plan, threads);

    const ptrdiff_t batch_width = plan.batch * plan.panel_width;
    plan.v_plane = odd_lines(plan.block * plan.pitch);
    plan.v_part = plan.planes * plan.v_plane;
    plan.v_floats = (size_t)((plan.by_panel ? plan.parts : plan.phase_parts) * plan.v_part);
    plan.m_plane = odd_lines(plan.block * batch_width);
    plan.m_floats = (size_t)(plan.planes * plan.m_plane);
    plan.copy_floats = fc_transform_floats(&plan.phases[0], plan.m, plan.part);
    if (p->y.stride[1] != 1 && plan.outputs > 1)
        plan.stage_floats = round_up(plan.m * FC_MOST_RUN * plan.m * batch_width);
    size_t shared = 0;
    if (plan.by_panel)
        plan.u_floats = plan.filters || plan.few ? 0 : round_up(plan.planes * plan.piece);
    else
        shared = plan.filters ? 0 : round_up(p->groups * plan.panels * plan.panel_floats);
    if (filters)
        plan.pack_floats = 0;
    /* By block, weights are packed before V and M are in use. */
    const size_t shared_scratch = plan.u_floats + plan.v_floats + plan.m_floats + plan.stage_floats;
    const int packed_apart = plan.by_panel || plan.pack_floats > shared_scratch;
    plan.scratch_floats = plan.copy_floats + (packed_apart ? plan.pack_floats : 0) + shared_scratch;
    float *workspace = fc_alloc((shared + plan.scratch_floats * (size_t)threads) * sizeof(float));
    if (!workspace)
        return -1;
    plan.scratch = workspace + shared;
    if (!plan.by_panel && !plan.filters)
        plan.filters = plan.made = workspace;
    fc_team_run(threads, 1, body, &plan);
    fc_free(workspace);
    return 0;
}

int fc_correlate_winograd(const fc_correlation *problem, const fc_filters *filters)
{
    for (ptrdiff_t i = 0; i < problem->phases[0] * problem->phases[1]; i++) {
        const ptrdiff_t at[2] = {i / problem->phases[1], i % problem->phases[1]};
        fc_correlation phase = *problem;
        for (int axis = 0; axis < 2; axis++) {
            const ptrdiff_t first = at[axis] * problem->y.stride[2 + axis], step = problem->y_step[axis];
            phase.taps[axis] = &problem->taps[axis][at[axis]];
            phase.y.data += first;
            phase.y.size[2 + axis] = ceil_div(problem->y.size[2 + axis] - at[axis], step);
            phase.y.stride[2 + axis] *= step;
            if (phase.residual)
                phase.residual += first;
        }
        if (correlate(&phase, filters))
            return -1;
    }
    return 0;
}
