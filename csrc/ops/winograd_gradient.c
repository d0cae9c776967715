/* SPDX-License-Identifier: MIT */
/* conv2d backward_weight by Winograd's algorithm:
 *
 *   dw = A^T [ sum over tiles of (G dy G^T) . (B^T x B) ] A       dy: m x m pixels, x: 6 x 6, dw: r x r
 *
 * A block of tiles is transformed to V[36][tile][c] and D[36][tile][k]; for each of the 36, kernels->tile_cols adds
 * V^T D to the sums S[36][c][k]. The blocks, and the chunks of blocks that have sums of their own, depend on the shape
 * alone: the same bits for any number of threads.
 *
 *   few weights, or a chunk   a task is a chunk of tiles: its V, D and sums are the thread's own, in its L2 cache where
 *   for each thread           weights are few; chunks are added up
 *   many weights and fewer    for each chunk, all threads transform a block, then share its 36 products among them: a
 *   chunks                    thread always has the same part of the sums, but half of V and D or more from others,
 *                             which takes longer to read than to make where they do not share an L3 cache */
#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "../runtime/timers.h"
#include "correlate_plan.h"
#include "integers.h"
#include "rows.h"
#include "winograd.h"

enum {
    PLANES = FC_WINOGRAD_PLANES,
    SMALL_BLOCK = 56,              /* tiles of a block: V and D of 64 channels are 1.2 MiB  */
    LARGE_BLOCK = 128,             /* with fewer, loading and storing S takes too long       */
    FEW_SUMS = 1 << 18,            /* floats of S that the L2 cache holds besides            */
    ALL_FEW_SUMS = 1 << 21,        /* of all chunks                                          */
    ALL_SUMS = 1 << 23,            /* where S is larger, whose chunks have at least          */
    CHUNK_TILES = 384,             /* tiles: with fewer, adding up chunks takes too long     */
    MOST_CHUNKS = 16,
    OUTPUT_CHANNELS = 16,
};

typedef struct plan {
    fc_tensor dy, dw;                  /* of one group, dw of one phase */
    fc_winograd_phase phase;
    ptrdiff_t r;
    const fc_kernels *kernels;
    const fc_winograd *winograd;
    fc_tiling tiling;
    ptrdiff_t m, tiles, channels, outputs, vectors, width, panels;
    ptrdiff_t block, chunks, chunk_tiles;
    ptrdiff_t v_tile, v_plane, d_tile, d_plane, sum_row, sum_plane, chunk_sums;
    size_t v_floats, d_floats, copy_floats, stage_floats, scratch_floats;
    float *v, *d, *sums, *scratch;     /* v, d: of all threads, or NULL: each has its own */
    fc_tasks chunks_of_tiles, planes_of_sums, channels_of_outputs;
} plan;

/* V and D of tiles first .. end - 1; `v` and `d` are where the first of them goes. */
static void transform(const plan *plan, ptrdiff_t first, ptrdiff_t end, float *v, float *d, float *copy)
{
    static const ptrdiff_t corner[2] = {0, 0};
    const fc_winograd_phase *phase = &plan->phase;
    for (ptrdiff_t t = first; t < end;) {
        const fc_tile_run run = fc_tile_run_at(&plan->tiling, t, end);
        fc_transform_run(plan->kernels, plan->winograd->data, fc_tile_pixels(phase->taps[0], run.height),
                         fc_tile_pixels(phase->taps[1], run.width), &phase->x, &run, phase->origin, 0, plan->channels,
                         v + (t - first) * plan->v_tile, plan->v_tile, plan->v_plane, copy);
        fc_transform_run(plan->kernels, plan->winograd->gradient, run.height, run.width, &plan->dy, &run, corner, 0,
                         plan->outputs, d + (t - first) * plan->d_tile, plan->d_tile, plan->d_plane, copy);
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
    if ((range.first == range.end && !begins) || !fc_phase_has(&plan->phase, plan->r, plane))
        return;
    const ptrdiff_t used = min(plan->width, plan->outputs - panel * plan->width);
    const ptrdiff_t vectors = ceil_div(used, (ptrdiff_t)plan->kernels->lanes);
    const ptrdiff_t most = (ptrdiff_t)plan->kernels->max_rows[vectors];
    const ptrdiff_t rows = ceil_div(plan->channels, ceil_div(plan->channels, most));
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
    for (ptrdiff_t c = 0; c < plan->channels; c += rows) {
        t.a = v + (range.first - first) * plan->v_tile + c;
        t.y = sums + c * plan->sum_row + panel * plan->width;
        plan->kernels->tile_cols[vectors][min(rows, plan->channels - c)](&t);
    }
}

static void run_chunk(const plan *plan, ptrdiff_t chunk, float *scratch)
{
    float *v = scratch, *d = v + plan->v_floats, *copy = d + plan->d_floats;
    float *sums = plan->sums + chunk * plan->chunk_sums;
    const ptrdiff_t begin = chunk * plan->chunk_tiles, stop = min(plan->tiles, begin + plan->chunk_tiles);
    for (ptrdiff_t first = begin; first < stop; first += plan->block) {
        const ptrdiff_t end = min(stop, first + plan->block);
        fc_clock(FC_TRANSFORM);
        transform(plan, first, end, v, d, copy);
        fc_clock(FC_MULTIPLY);
        for (ptrdiff_t plane = 0; plane < PLANES; plane++)
            for (ptrdiff_t panel = 0; panel < plan->panels; panel++)
                multiply(plan, plane, begin, first, end, v + plane * plan->v_plane, d + plane * plan->d_plane, panel,
                         sums + plane * plan->sum_plane);
    }
}

/* One chunk by all threads. */
static void share_chunk(const plan *plan, ptrdiff_t chunk, int thread, int threads, float *copy)
{
    const ptrdiff_t products = PLANES * plan->panels;
    const ptrdiff_t begin = chunk * plan->chunk_tiles, stop = min(plan->tiles, begin + plan->chunk_tiles);
    float *sums = plan->sums + chunk * plan->chunk_sums;
    for (ptrdiff_t first = begin; first < stop; first += plan->block) {
        const ptrdiff_t end = min(stop, first + plan->block);
        const ptrdiff_t own = thread * (end - first) / threads, own_end = (thread + 1) * (end - first) / threads;
        fc_clock(FC_TRANSFORM);
        transform(plan, first + own, first + own_end, plan->v + own * plan->v_tile, plan->d + own * plan->d_tile, copy);
        fc_team_barrier(threads);
        fc_clock(FC_MULTIPLY);
        for (ptrdiff_t i = thread * products / threads; i < (thread + 1) * products / threads; i++) {
            const ptrdiff_t plane = i / plan->panels;
            multiply(plan, plane, begin, first, end, plan->v + plane * plan->v_plane, plan->d + plane * plan->d_plane,
                     i % plan->panels, sums + plane * plan->sum_plane);
        }
        fc_team_barrier(threads);
    }
}

/* dw of some channels, from their sums. */
static void write_channels(const plan *plan, ptrdiff_t c, float *stage)
{
    const fc_tensor *dw = &plan->dw;
    const ptrdiff_t channels = min(OUTPUT_CHANNELS, plan->channels - c), rows = dw->size[2], columns = dw->size[3];
    const int staged = dw->stride[0] != 1 && plan->outputs > 1;
    float *to = dw->data + c * dw->stride[1];
    const ptrdiff_t column = staged ? channels * plan->sum_row : dw->stride[3];
    const ptrdiff_t row = staged ? columns * column : dw->stride[2];
    const fc_winograd_output out = {
        .tiles = (size_t)channels,
        .channels = (size_t)plan->outputs,
        .points = plan->sums + c * plan->sum_row,
        .tile = plan->sum_row,
        .plane = plan->sum_plane,
        .y = staged ? stage : to,
        .y_row = row,
        .y_pixel = column,
        .y_tile = staged ? plan->sum_row : dw->stride[1],
        .height = rows,
        .width = columns,
        .rows = rows,
        .columns = channels * columns,
    };
    plan->winograd->weight(&out);
    if (staged)
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t s = 0; s < columns; s++)
                fc_store_row(plan->kernels, stage + r * row + s * column, plan->sum_row, channels, plan->outputs,
                             to + r * dw->stride[2] + s * dw->stride[3], dw->stride[0], dw->stride[1]);
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
        for (fc_hand hand = fc_hand_of(&plan->planes_of_sums, PLANES, thread, threads); fc_take(&hand);)
            for (ptrdiff_t chunk = 1; chunk < plan->chunks && fc_phase_has(&plan->phase, plan->r, hand.task); chunk++)
                plan->kernels->add_span((size_t)plan->sum_plane,
                                        plan->sums + chunk * plan->chunk_sums + hand.task * plan->sum_plane,
                                        plan->sums + hand.task * plan->sum_plane);
        fc_team_barrier(threads);
        fc_clock(FC_STORE);
    }
    const ptrdiff_t parts = ceil_div(plan->channels, OUTPUT_CHANNELS);
    for (fc_hand hand = fc_hand_of(&plan->channels_of_outputs, parts, thread, threads); fc_take(&hand);)
        write_channels(plan, hand.task * OUTPUT_CHANNELS, scratch + plan->scratch_floats - plan->stage_floats);
}

static int run_phase(plan *plan)
{
    const ptrdiff_t lanes = (ptrdiff_t)plan->kernels->lanes;
    plan->vectors = min(2, ceil_div(plan->outputs, lanes));
    plan->width = plan->vectors * lanes;
    plan->panels = ceil_div(plan->outputs, plan->width);

    /* Shape alone decides these: they fix the order of the sums. */
    const ptrdiff_t weights = PLANES * plan->channels * (ptrdiff_t)round_up(plan->outputs);
    const int few = weights <= FEW_SUMS;
    const ptrdiff_t tiles = few ? SMALL_BLOCK : LARGE_BLOCK, least = few ? SMALL_BLOCK : CHUNK_TILES;
    const ptrdiff_t enough = few ? ceil_div(plan->tiles, least) : plan->tiles / least;
    const ptrdiff_t most = min(enough, (few ? ALL_FEW_SUMS : ALL_SUMS) / weights);
    plan->chunk_tiles = ceil_div(plan->tiles, power_of_two(min(MOST_CHUNKS, most)));
    plan->chunks = ceil_div(plan->tiles, plan->chunk_tiles);
    plan->block = ceil_div(plan->chunk_tiles, ceil_div(plan->chunk_tiles, tiles));

    /* Tiles of a block lie an odd number of cache lines apart: one channel is read for all of them in turn. */
    plan->v_tile = fc_winograd_plane(plan->channels);
    plan->d_tile = fc_winograd_plane(plan->panels * plan->width);
    plan->v_plane = fc_winograd_plane(plan->block * plan->v_tile);
    plan->d_plane = fc_winograd_plane(plan->block * plan->d_tile);
    plan->sum_row = plan->panels * plan->width;
    plan->sum_plane = fc_winograd_plane(plan->channels * plan->sum_row);
    plan->chunk_sums = PLANES * plan->sum_plane;
    plan->v_floats = (size_t)(PLANES * plan->v_plane);
    plan->d_floats = (size_t)(PLANES * plan->d_plane);
    const size_t copies[2] = {fc_transform_floats(&plan->phase.x, plan->m, plan->channels),
                              fc_transform_floats(&plan->dy, plan->m, plan->outputs)};
    plan->copy_floats = copies[copies[1] > copies[0]];
    if (plan->dw.stride[0] != 1 && plan->outputs > 1)
        plan->stage_floats = round_up(plan->dw.size[2] * plan->dw.size[3] * OUTPUT_CHANNELS * plan->sum_row);

    const double steps = (double)plan->tiles * (double)(PLANES * plan->panels * plan->vectors) * (double)plan->channels;
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
    for (ptrdiff_t group = 0; group < conv->groups; group++) {
        fc_tensor of_group = *x;
        of_group.size[1] = channels;
        of_group.data += group * channels * x->stride[1];
        fc_winograd_phase phases[FC_WINOGRAD_PHASES];
        const ptrdiff_t count = fc_winograd_phases_of(&of_group, stride, dw->size + 2, origin, dy->size + 2, phases);
        for (ptrdiff_t i = 0; i < count; i++) {
            const fc_winograd_phase *phase = &phases[i];
            plan plan = {.dy = *dy, .dw = *dw, .phase = *phase, .kernels = fc_kernels_active()};
            plan.channels = channels;
            plan.outputs = plan.dy.size[1] = plan.dw.size[0] = outputs;
            plan.dy.data += group * outputs * dy->stride[1];
            plan.dw.data += group * outputs * dw->stride[0];
            for (int axis = 0; axis < 2; axis++) {
                plan.dw.data += phase->first[axis] * dw->stride[2 + axis];
                plan.dw.size[2 + axis] = phase->taps[axis];
                plan.dw.stride[2 + axis] *= stride;
            }
            plan.r = fc_winograd_taps(dw->size[2], stride);
            plan.winograd = fc_winograd_of(plan.kernels, plan.r);
            plan.m = fc_winograd_outputs(plan.r);
            plan.tiling = fc_tile_images(plan.m, x->size[0], dy->size[2], dy->size[3]);
            plan.tiles = plan.tiling.start[FC_TILE_KINDS];
            if (run_phase(&plan))
                return -1;
        }
    }
    return 0;
}
