/* SPDX-License-Identifier: MIT */
/* conv2d backward_weight by Winograd's algorithm:
 *
 *   dw = A^T [ sum over tiles of (G dy G^T) . (B^T x B) ] A       dy: m x m pixels, x: n x n, dw: r x r
 *
 * A block of tiles is transformed to V[36][tile][c] and D[36][tile][k]; for each of the 36, or 16 where n is 4,
 * kernels->brief_cols adds V^T D to the sums S[36][c][k]. Each phase of a stride has a V, one after the other, and an S.
 * The blocks, and the chunks of blocks that have sums of their own, depend on the shape alone: the same bits for any
 * number of threads.
 *
 *   few weights, or a chunk   a task is a chunk of tiles: its V, D and sums are the thread's own, in its L2 cache where
 *   for each thread           weights are few; chunks are added up
 *   many weights and fewer    for each chunk, all threads transform a block, then share its products among them: a
 *   chunks                    thread has much the same part of the sums each time, but half of V and D or more from
 *                             others, which takes longer to read than to make where they do not share an L3 cache */
#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "../runtime/timers.h"
#include "correlate_plan.h"
#include "integers.h"
#include "rows.h"
#include "winograd.h"

enum {
    SMALL_BLOCK = 56,              /* tiles of a block: V and D of 64 channels are 1.2 MiB  */
    LARGE_BLOCK = 128,             /* with fewer, loading and storing S takes too long       */
    FEW_SUMS = 1 << 18,            /* floats of S that the L2 cache holds besides            */
    ALL_FEW_SUMS = 1 << 21,        /* of all chunks                                          */
    ALL_SUMS = 1 << 23,            /* where S is larger, whose chunks have at least          */
    CHUNK_TILES = 288,             /* tiles: with fewer, adding up chunks takes too long     */
    MOST_CHUNKS = 16,
    OUTPUT_CHANNELS = 16,
};

typedef struct plan {
    fc_winograd_phase dy;              /* its pixels are not dealt out */
    fc_tensor dw;                      /* of one group, as dy */
    fc_winograd_phase phases[FC_WINOGRAD_PHASES];
    ptrdiff_t phase_count, stride, r;
    const fc_kernels *kernels;
    const fc_winograd *winograd;
    fc_tiling tiling;
    ptrdiff_t m, planes;               /* outputs of a tile along an axis, points of one */
    ptrdiff_t tiles, outputs, vectors, width, panels;
    ptrdiff_t channels;                /* of folded pixels where they are */
    ptrdiff_t block, chunks, chunk_tiles;
    ptrdiff_t v_tile, v_plane, d_tile, d_plane, sum_row, sum_plane, phase_sums, chunk_sums;
    size_t v_floats, d_floats, copy_floats, stage_floats, scratch_floats;
    float *v, *d, *sums, *scratch;     /* v, d: of all threads, or NULL: each has its own */
    fc_tasks chunks_of_tiles, planes_of_sums, channels_of_outputs;
} plan;

/* V of a phase, or D where it is NULL, of tiles first .. end - 1; `points` is where the first of them goes. */
static void transform(const plan *plan, const fc_winograd_phase *phase, ptrdiff_t first, ptrdiff_t end, float *points,
                      float *copy)
{
    fc_clock(FC_TRANSFORM);
    for (ptrdiff_t t = first; t < end;) {
        const fc_tile_run run = fc_tile_run_at(&plan->tiling, t, end);
        if (phase)
            fc_transform_run(plan->kernels, plan->winograd->data, phase, &run, 0, plan->channels,
                             points + (t - first) * plan->v_tile, plan->v_tile, plan->v_plane, copy);
        else
            fc_transform_run(plan->kernels, plan->winograd->gradient, &plan->dy, &run, 0, plan->outputs,
                             points + (t - first) * plan->d_tile, plan->d_tile, plan->d_plane, copy);
        t += run.tiles;
    }
}

/* sums[c][k] (+)= V^T D of one plane and one panel, over the tiles first .. end - 1 that have the plane; `v` and `d`
 * are where the first is. begin: the tile with which the sums begin. */
static void multiply(const plan *plan, ptrdiff_t plane, ptrdiff_t begin, ptrdiff_t first, ptrdiff_t end, const float *v,
                     const float *d, ptrdiff_t panel, float *sums)
{
    static const ptrdiff_t start[1] = {0};
    const fc_tile_range range = fc_tiles_of_plane(&plan->tiling, plane, first, end);
    const int begins = fc_tiles_of_plane(&plan->tiling, plane, begin, end).first >= first;
    if (range.first == range.end && !begins)
        return;
    const ptrdiff_t used = min(plan->width, plan->outputs - panel * plan->width);
    const ptrdiff_t vectors = ceil_div(used, (ptrdiff_t)plan->kernels->lanes);
    const ptrdiff_t most = (ptrdiff_t)plan->kernels->max_rows[vectors];
    const ptrdiff_t count = ceil_div(plan->channels, most);
    fc_tile t = {
        .a_row = 1,
        .a_step = plan->v_tile,
        .b = d + (range.first - first) * plan->d_tile + panel * plan->width,
        .b_step = plan->d_tile,
        .a_run = start,
        .b_run = start,
        .runs = 1,
        .depth = (size_t)(range.end - range.first),
        .y_row = plan->sum_row,
        .last_lanes = plan->kernels->lanes,
        .accumulate = !begins,
    };
    for (ptrdiff_t i = 0, c = 0, rows; i < count; i++, c += rows) {
        rows = share_of(plan->channels, i, count);
        t.a = v + (range.first - first) * plan->v_tile + c;
        t.y = sums + c * plan->sum_row + panel * plan->width;
        plan->kernels->brief_cols[vectors][rows](&t);
    }
}

static void run_chunk(const plan *plan, ptrdiff_t chunk, float *scratch)
{
    float *v = scratch, *d = v + plan->v_floats, *copy = d + plan->d_floats;
    float *sums = plan->sums + chunk * plan->chunk_sums;
    const ptrdiff_t begin = chunk * plan->chunk_tiles, stop = min(plan->tiles, begin + plan->chunk_tiles);
    for (ptrdiff_t first = begin; first < stop; first += plan->block) {
        const ptrdiff_t end = min(stop, first + plan->block);
        transform(plan, NULL, first, end, d, copy);
        for (ptrdiff_t i = 0; i < plan->phase_count; i++) {
            const fc_winograd_phase *phase = &plan->phases[i];
            transform(plan, phase, first, end, v, copy);
            fc_clock(FC_MULTIPLY);
            for (ptrdiff_t j = 0; j < fc_phase_planes(phase); j++) {
                const ptrdiff_t plane = fc_phase_plane(phase, j);
                for (ptrdiff_t panel = 0; panel < plan->panels; panel++)
                    multiply(plan, plane, begin, first, end, v + plane * plan->v_plane, d + plane * plan->d_plane,
                             panel, sums + i * plan->phase_sums + plane * plan->sum_plane);
            }
        }
    }
}

/* The product of a plane and a panel with which share `index` of `shares` begins, which have as many tiles each. */
static ptrdiff_t product_share(const plan *plan, const fc_winograd_phase *phase, ptrdiff_t first, ptrdiff_t end,
                               ptrdiff_t index, ptrdiff_t shares)
{
    const ptrdiff_t planes = fc_phase_planes(phase);
    ptrdiff_t tiles[FC_WINOGRAD_MOST_PLANES], all = 0;
    if (index == shares)
        return planes * plan->panels;
    for (ptrdiff_t i = 0; i < planes; i++) {
        const fc_tile_range range = fc_tiles_of_plane(&plan->tiling, fc_phase_plane(phase, i), first, end);
        tiles[i] = range.end - range.first;
        all += tiles[i];
    }
    ptrdiff_t left = all * plan->panels * index / shares, i = 0;
    while (left && left >= tiles[i] * plan->panels)
        left -= tiles[i++] * plan->panels;
    return i * plan->panels + (left ? left / tiles[i] : 0);
}

/* One chunk by all threads. */
static void share_chunk(const plan *plan, ptrdiff_t chunk, int thread, int threads, float *copy)
{
    const ptrdiff_t begin = chunk * plan->chunk_tiles, stop = min(plan->tiles, begin + plan->chunk_tiles);
    float *sums = plan->sums + chunk * plan->chunk_sums;
    for (ptrdiff_t first = begin; first < stop; first += plan->block) {
        const ptrdiff_t end = min(stop, first + plan->block);
        const ptrdiff_t own = thread * (end - first) / threads, own_end = (thread + 1) * (end - first) / threads;
        transform(plan, NULL, first + own, first + own_end, plan->d + own * plan->d_tile, copy);
        for (ptrdiff_t i = 0; i < plan->phase_count; i++) {
            const fc_winograd_phase *phase = &plan->phases[i];
            transform(plan, phase, first + own, first + own_end, plan->v + own * plan->v_tile, copy);
            fc_team_barrier(threads);
            fc_clock(FC_MULTIPLY);
            const ptrdiff_t stop_product = product_share(plan, phase, first, end, thread + 1, threads);
            for (ptrdiff_t j = product_share(plan, phase, first, end, thread, threads); j < stop_product; j++) {
                const ptrdiff_t plane = fc_phase_plane(phase, j / plan->panels);
                multiply(plan, plane, begin, first, end, plan->v + plane * plan->v_plane,
                         plan->d + plane * plan->d_plane, j % plan->panels,
                         sums + i * plan->phase_sums + plane * plan->sum_plane);
            }
            fc_team_barrier(threads);
        }
    }
}

/* The taps of a phase of dw of some channels, from their sums. */
static void write_channels(const plan *plan, const fc_winograd_phase *phase, ptrdiff_t c, const float *sums,
                           float *stage)
{
    const fc_tensor *dw = &plan->dw;
    const ptrdiff_t channels = min(OUTPUT_CHANNELS, plan->channels - c), folds = phase->folds;
    const ptrdiff_t rows = phase->taps[0], columns = phase->taps[1];
    const int staged = plan->stage_floats > 0;
    const ptrdiff_t column = staged ? channels * plan->sum_row : plan->stride * dw->stride[3];
    const ptrdiff_t row = staged ? columns * column : plan->stride * dw->stride[2];
    const fc_winograd_output out = {
        .tiles = (size_t)channels,
        .channels = (size_t)plan->outputs,
        .points = sums + c * plan->sum_row,
        .tile = plan->sum_row,
        .plane = plan->sum_plane,
        .y = staged ? stage
                    : dw->data + c * dw->stride[1] + phase->first[0] * dw->stride[2] + phase->first[1] * dw->stride[3],
        .y_row = row,
        .y_pixel = column,
        .y_tile = staged ? plan->sum_row : dw->stride[1],
        .height = rows,
        .width = columns,
        .rows = rows,
        .columns = channels * columns,
    };
    plan->winograd->weight(&out);
    if (!staged)
        return;
    for (ptrdiff_t i = 0, run; i < channels; i += run) {
        const ptrdiff_t pixel = (c + i) / dw->size[1], channel = (c + i) % dw->size[1];
        run = min(channels - i, dw->size[1] - channel);
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t s = 0; s < columns; s++) {
                const ptrdiff_t tap_row = phase->first[0] + pixel / folds + r * plan->stride;
                const ptrdiff_t tap_column = phase->first[1] + pixel % folds + s * plan->stride;
                if (tap_row >= dw->size[2] || tap_column >= dw->size[3])
                    continue;
                fc_store_row(plan->kernels, stage + r * row + s * column + i * plan->sum_row, plan->sum_row, run,
                             plan->outputs,
                             dw->data + channel * dw->stride[1] + tap_row * dw->stride[2] + tap_column * dw->stride[3],
                             dw->stride[0], dw->stride[1]);
            }
    }
}

static void body(void *context, int thread, int threads)
{
    plan *plan = context;
    float *scratch = plan->scratch + (size_t)thread * plan->scratch_floats;
    if (plan->v)
        for (ptrdiff_t chunk = 0; chunk < plan->chunks; chunk++)
            share_chunk(plan, chunk, thread, threads, scratch);
    else {
        for (fc_hand hand = fc_hand_of(&plan->chunks_of_tiles, plan->chunks, thread, threads); fc_take(&hand);)
            run_chunk(plan, hand.task, scratch);
        fc_team_barrier(threads);
    }
    fc_clock(FC_STORE);
    if (plan->chunks > 1) {
        const ptrdiff_t planes = plan->planes, all = plan->phase_count * planes;
        for (fc_hand hand = fc_hand_of(&plan->planes_of_sums, all, thread, threads); fc_take(&hand);) {
            if (!fc_phase_has(&plan->phases[hand.task / planes], hand.task % planes))
                continue;
            float *sums = plan->sums + hand.task * plan->sum_plane;
            for (ptrdiff_t chunk = 1; chunk < plan->chunks; chunk++)
                fc_add_span(plan->kernels, (size_t)plan->sum_plane, sums + chunk * plan->chunk_sums, sums);
        }
        fc_team_barrier(threads);
        fc_clock(FC_STORE);
    }
    const ptrdiff_t parts = ceil_div(plan->channels, OUTPUT_CHANNELS);
    for (fc_hand hand = fc_hand_of(&plan->channels_of_outputs, parts, thread, threads); fc_take(&hand);)
        for (ptrdiff_t i = 0; i < plan->phase_count; i++)
            write_channels(plan, &plan->phases[i], hand.task * OUTPUT_CHANNELS, plan->sums + i * plan->phase_sums,
                           scratch + plan->scratch_floats - plan->stage_floats);
}

static int run_group(plan *plan)
{
    const ptrdiff_t lanes = (ptrdiff_t)plan->kernels->lanes;
    plan->vectors = min(2, ceil_div(plan->outputs, lanes));
    plan->width = plan->vectors * lanes;
    plan->panels = ceil_div(plan->outputs, plan->width);

    /* Shape alone decides these: they fix the order of the sums. */
    const ptrdiff_t used_planes = fc_planes_of_phases(plan->phases, plan->phase_count);
    const ptrdiff_t weights = used_planes * plan->channels * (ptrdiff_t)round_up(plan->outputs);
    const int few = weights <= FEW_SUMS;
    const ptrdiff_t tiles = few ? SMALL_BLOCK : LARGE_BLOCK, least = few ? SMALL_BLOCK : CHUNK_TILES;
    const ptrdiff_t enough = few ? ceil_div(plan->tiles, least) : plan->tiles / least;
    const ptrdiff_t most = min(enough, (few ? ALL_FEW_SUMS : ALL_SUMS) / weights);
    plan->chunk_tiles = ceil_div(plan->tiles, power_of_two(min(MOST_CHUNKS, most)));
    plan->chunks = ceil_div(plan->tiles, plan->chunk_tiles);
    plan->block = ceil_div(plan->chunk_tiles, ceil_div(plan->chunk_tiles, tiles));

    /* Tiles of a block lie an odd number of cache lines apart: one channel is read for all of them in turn. */
    plan->v_tile = odd_lines(plan->channels);
    plan->d_tile = odd_lines(plan->panels * plan->width);
    plan->v_plane = odd_lines(plan->block * plan->v_tile);
    plan->d_plane = odd_lines(plan->block * plan->d_tile);
    plan->sum_row = plan->panels * plan->width;
    plan->sum_plane = odd_lines(plan->channels * plan->sum_row);
    plan->phase_sums = plan->planes * plan->sum_plane;
    plan->chunk_sums = plan->phase_count * plan->phase_sums;
    plan->v_floats = (size_t)(plan->planes * plan->v_plane);
    plan->d_floats = (size_t)(plan->planes * plan->d_plane);
    const size_t copies[2] = {fc_transform_floats(&plan->phases[0], plan->m, plan->channels),
                              fc_transform_floats(&plan->dy, plan->m, plan->outputs)};
    plan->copy_floats = copies[copies[1] > copies[0]];
    if (plan->phases[0].folds > 1 || (plan->dw.stride[0] != 1 && plan->outputs > 1))
        plan->stage_floats = round_up(plan->r * plan->r * OUTPUT_CHANNELS * plan->sum_row);

    const double steps = (double)plan->tiles * (double)(used_planes * plan->panels * plan->vectors) *
                         (double)plan->channels;
    const int threads = fc_team_size(steps * FC_STEP_NS);
    const size_t points = plan->v_floats + plan->d_floats, sums = (size_t)(plan->chunks * plan->chunk_sums);
    const int share = !few && (plan->chunks < threads || (double)points * threads > FC_MOST_POINT_FLOATS);
    plan->scratch_floats = (share ? 0 : points) + plan->copy_floats + plan->stage_floats;
    plan->sums = fc_alloc((sums + (share ? points : 0) + plan->scratch_floats * (size_t)threads) * sizeof(float));
    if (!plan->sums)
        return -1;
    plan->v = share ? plan->sums + sums : NULL;
    plan->d = share ? plan->v + plan->v_floats : NULL;
    plan->scratch = plan->sums + sums + (share ? points : 0);
    fc_team_run(threads, 1, body, plan);
    fc_free(plan->sums);
    return 0;
}

int fc_winograd_backward_weight(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *x, const fc_tensor *dw)
{
    const ptrdiff_t channels = dw->size[1], outputs = dw->size[0] / conv->groups, stride = conv->stride[0];
    const ptrdiff_t origin[2] = {-conv->pad[0][0], -conv->pad[1][0]};
    const ptrdiff_t folds = fc_winograd_folds(channels, dw->size[2], stride);
    for (ptrdiff_t group = 0; group < conv->groups; group++) {
        plan plan = {.dw = *dw, .stride = stride, .outputs = outputs, .kernels = fc_kernels_active()};
        fc_tensor x_group = *x, dy_group = *dy;
        plan.channels = folds * folds * channels;
        x_group.size[1] = channels;
        dy_group.size[1] = plan.dw.size[0] = outputs;
        x_group.data += group * channels * x->stride[1];
        dy_group.data += group * outputs * dy->stride[1];
        plan.dw.data += group * outputs * dw->stride[0];
        plan.r = fc_winograd_taps(dw->size[2], stride);
        const ptrdiff_t points = fc_winograd_points(plan.r);
        plan.planes = points * points;
        plan.dy = (fc_winograd_phase){.x = dy_group, .folds = 1, .taps = {1, 1}, .all_points = points};
        plan.phase_count = fc_winograd_phases_of(&x_group, stride, folds, plan.r, dw->size + 2, origin, dy->size + 2,
                                                 plan.phases);
        plan.winograd = fc_winograd_of(plan.kernels, plan.r);
        plan.m = fc_winograd_outputs(plan.r);
        plan.tiling = fc_tile_images(plan.r, x->size[0], dy->size[2], dy->size[3]);
        plan.tiles = plan.tiling.start[FC_TILE_KINDS];
        if (run_group(&plan))
            return -1;
    }
    return 0;
}
