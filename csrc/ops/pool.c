/* SPDX-License-Identifier: MIT */
/* Pooling, forward and backward: every target pixel gathers the source pixels that a table per axis names.
 *
 *   forward    targets are windows, sources the pixels they meet
 *   backward   targets are pixels, sources the windows that meet them: the same table, transposed
 *
 * Each target is written once, its terms in a fixed order: the same bits for any number of threads.
 *
 *   channels-last  lanes are the channels of a pixel; arrays of other layouts are copied to scratch first
 *   planar         lanes are the columns of a row (NCHW): rows are dealt out by the stride, so that what
 *                  neighbouring targets gather lies side by side
 *
 * Windows side by side, channels-last, have a faster way to their maxima and the gradient of these (pool_apart.c). */
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "integers.h"
#include "pool_apart.h"
#include "rows.h"

enum {
    BLOCK_FLOATS = 48 << 10,     /* of sources copied at a time: 192 KiB of L2 */
    TASK_FLOATS = 32 << 10,      /* of sources read in a task, about           */
    PLANAR_FLOATS = 64 << 10,    /* the same where rows are read one after the other */
    COPY_CHANNELS = 32,          /* of a block that is copied                  */
    LEAST_COLUMNS = 4,           /* lanes that must have work in a planar row  */
};

/* ---- one axis --------------------------------------------------------------------------------------- */

/* Target i gathers entries begin[i] .. begin[i+1]-1. */
typedef struct axis {
    ptrdiff_t targets, entries, most;      /* most: entries of one target */
    ptrdiff_t *begin, *source, *tap;
    ptrdiff_t *extent;                     /* [windows] pixels a window is averaged over */
    ptrdiff_t period;                      /* targets that far apart gather alike */
} axis;

/* Targets first, first + period, ..., whose sources lie `shift` apart. */
typedef struct run {
    ptrdiff_t first, count, shift;
} run;

static ptrdiff_t window_start(const fc_pool2d *pool, int d, ptrdiff_t p, ptrdiff_t size, ptrdiff_t windows)
{
    return pool->adaptive ? p * size / windows : p * pool->stride[d] - pool->pad[d];
}

static ptrdiff_t window_taps(const fc_pool2d *pool, int d, ptrdiff_t p, ptrdiff_t size, ptrdiff_t windows)
{
    return pool->adaptive ? ceil_div((p + 1) * size, windows) - p * size / windows : pool->kernel[d];
}

/* Calls once to count (a->source NULL), once to fill. */
static void list_windows(const fc_pool2d *pool, int d, ptrdiff_t size, ptrdiff_t windows, axis *a)
{
    const ptrdiff_t dilation = pool->adaptive ? 1 : pool->dilation[d];
    a->entries = 0;
    for (ptrdiff_t p = 0; p < windows; p++) {
        const ptrdiff_t start = window_start(pool, d, p, size, windows);
        const ptrdiff_t taps = window_taps(pool, d, p, size, windows);
        const ptrdiff_t before = start < 0 ? ceil_div(-start, dilation) : 0;
        const ptrdiff_t inside = start < size ? min(taps, ceil_div(size - start, dilation)) : 0;
        const ptrdiff_t count = max(0, inside - before);
        if (a->source) {
            a->begin[p] = a->entries;
            const int whole = pool->count_include_pad && !pool->adaptive;
            a->extent[p] = whole ? min(start + taps, size + pool->pad[d]) - start : count;
            for (ptrdiff_t r = before; r < before + count; r++) {
                a->source[a->entries + r - before] = start + r * dilation;
                a->tap[a->entries + r - before] = r;
            }
        }
        a->entries += count;
        a->most = max(a->most, count);
    }
    if (a->source)
        a->begin[windows] = a->entries;
}

/* Pixels to windows: counts, then places the entries of each pixel by ascending window. */
static void transpose_axis(axis *a, ptrdiff_t windows, ptrdiff_t size, ptrdiff_t *begin, ptrdiff_t *source,
                           ptrdiff_t *tap)
{
    memset(begin, 0, (size_t)(size + 1) * sizeof *begin);
    for (ptrdiff_t e = 0; e < a->entries; e++)
        begin[a->source[e] + 1]++;
    a->most = 0;
    for (ptrdiff_t h = 0; h < size; h++) {
        a->most = max(a->most, begin[h + 1]);
        begin[h + 1] += begin[h];
    }
    for (ptrdiff_t p = 0; p < windows; p++)
        for (ptrdiff_t e = a->begin[p]; e < a->begin[p + 1]; e++) {
            const ptrdiff_t at = begin[a->source[e]]++;
            source[at] = p;
            tap[at] = a->tap[e];
        }
    memmove(begin + 1, begin, (size_t)size * sizeof *begin);
    begin[0] = 0;
    a->begin = begin;
    a->source = source;
    a->tap = tap;
}

static int gather_alike(const axis *a, int backward, ptrdiff_t i, ptrdiff_t j, ptrdiff_t *shift)
{
    const ptrdiff_t count = a->begin[i + 1] - a->begin[i];
    if (a->begin[j + 1] - a->begin[j] != count)
        return 0;
    *shift = count ? a->source[a->begin[j]] - a->source[a->begin[i]] : 0;
    for (ptrdiff_t e = 0; e < count; e++) {
        const ptrdiff_t from = a->begin[i] + e, to = a->begin[j] + e;
        if (a->source[to] - a->source[from] != *shift || a->tap[to] != a->tap[from])
            return 0;
        if (backward && a->extent[a->source[to]] != a->extent[a->source[from]])
            return 0;
    }
    return backward || a->extent[i] == a->extent[j];
}

/* step: the shift that runs must have; 0: any. */
static size_t find_runs(const axis *a, int backward, ptrdiff_t step, run *runs)
{
    size_t count = 0;
    for (ptrdiff_t phase = 0; phase < min(a->period, a->targets); phase++)
        for (ptrdiff_t i = phase; i < a->targets; i += a->period) {
            run *last = count ? &runs[count - 1] : NULL;
            ptrdiff_t shift;
            if (i > phase && gather_alike(a, backward, i - a->period, i, &shift) &&
                (last->count == 1 ? !step || shift == step : last->shift == shift)) {
                last->shift = shift;
                last->count++;
            } else {
                runs[count++] = (run){.first = i, .count = 1};
            }
        }
    return count;
}

/* ---- the pooling ------------------------------------------------------------------------------------ */

typedef enum { MAXIMUM, MAXIMUM_BACKWARD, AVERAGE, AVERAGE_BACKWARD } operation;

typedef struct plan {
    operation op;
    const fc_kernels *kernels;
    fc_tensor x, y;                    /* sources, targets */
    void *argmax;
    int wide;
    float cut;
    ptrdiff_t argmax_size[2];          /* P, Q */
    axis rows, columns;
    run *runs, *row_runs;              /* of columns; of rows, where planar */
    size_t run_count, row_run_count;
    int planar;
    ptrdiff_t deal, x_part, y_part;    /* planar: parts that a source row is dealt into; columns of a part */
    ptrdiff_t taps;                    /* of a window's row */
    ptrdiff_t block_channels, channel_blocks, block_rows, row_blocks;
    int copied, staged;
    size_t copy_floats, stage_floats, thread_bytes;
    char *scratch;
} plan;

static int is_backward(operation op) { return op == MAXIMUM_BACKWARD || op == AVERAGE_BACKWARD; }

/* Source rows that targets i0 .. i1-1 read: *first and how many. */
static ptrdiff_t source_span(const axis *a, ptrdiff_t i0, ptrdiff_t i1, ptrdiff_t *first)
{
    ptrdiff_t low = PTRDIFF_MAX, high = -1;
    for (ptrdiff_t e = a->begin[i0]; e < a->begin[i1]; e++) {
        low = min(low, a->source[e]);
        high = max(high, a->source[e]);
    }
    *first = high < 0 ? 0 : low;
    return high < 0 ? 0 : high - low + 1;
}

static ptrdiff_t longest_span(const axis *a, ptrdiff_t block)
{
    ptrdiff_t longest = 0, first;
    for (ptrdiff_t i = 0; i < a->targets; i += block)
        longest = max(longest, source_span(a, i, min(a->targets, i + block), &first));
    return longest;
}

/* What a task computes, and the scratch of its thread. */
typedef struct block {
    ptrdiff_t n, c0, channels, i0, i1;
    float *copy, *stage;
    ptrdiff_t *offset, *argmax_offset;
    int32_t *position;
    float *scale;
} block;

static block block_of(const plan *plan, size_t task, int thread)
{
    const ptrdiff_t row_block = (ptrdiff_t)task % plan->row_blocks;
    const ptrdiff_t channel_block = (ptrdiff_t)task / plan->row_blocks % plan->channel_blocks;
    const size_t most = (size_t)(plan->rows.most * plan->columns.most);
    block b = {
        .n = (ptrdiff_t)task / plan->row_blocks / plan->channel_blocks,
        .c0 = channel_block * plan->block_channels,
        .i0 = row_block * plan->block_rows,
        .copy = (float *)(plan->scratch + (size_t)thread * plan->thread_bytes),
    };
    b.channels = min(plan->block_channels, plan->x.size[1] - b.c0);
    b.i1 = min(plan->rows.targets, b.i0 + plan->block_rows);
    b.stage = b.copy + plan->copy_floats;
    b.offset = (ptrdiff_t *)(b.stage + plan->stage_floats);
    b.argmax_offset = b.offset + most;
    b.position = (int32_t *)(b.argmax_offset + most);
    b.scale = (float *)(b.position + most);
    return b;
}

/* How sources are reached: floats from row to row and column to column, from row h0 on. */
typedef struct source {
    ptrdiff_t h0, row, pixel;
} source;

static ptrdiff_t column_offset(const plan *plan, const source *from, ptrdiff_t w)
{
    return plan->deal > 1 ? w % plan->deal * plan->x_part + w / plan->deal : w * from->pixel;
}

/* Lists what target (i, j) gathers; argmax_pixel: positions from pixel to pixel of argmax. */
static fc_gather list_terms(const plan *plan, const block *b, const source *from, ptrdiff_t i, ptrdiff_t j,
                            ptrdiff_t argmax_pixel)
{
    const axis *rows = &plan->rows, *columns = &plan->columns;
    fc_gather g = {.offset = b->offset, .argmax_offset = b->argmax_offset, .position = b->position, .scale = b->scale,
                   .cut = plan->cut};
    for (ptrdiff_t e = rows->begin[i]; e < rows->begin[i + 1]; e++)
        for (ptrdiff_t f = columns->begin[j]; f < columns->begin[j + 1]; f++) {
            const ptrdiff_t h = rows->source[e], w = columns->source[f];
            b->offset[g.terms] = (h - from->h0) * from->row + column_offset(plan, from, w);
            b->argmax_offset[g.terms] = (h * plan->argmax_size[1] + w) * argmax_pixel;
            b->position[g.terms] = (int32_t)(rows->tap[e] * plan->taps + columns->tap[f]);
            if (plan->op == AVERAGE)
                b->scale[g.terms] = 1.0f / (float)(rows->extent[i] * columns->extent[j]);
            else if (plan->op == AVERAGE_BACKWARD)
                b->scale[g.terms] = 1.0f / (float)(rows->extent[h] * columns->extent[w]);
            g.terms++;
        }
    return g;
}

/* argmax_at: the position of the result's first pixel (forward) or of the first source (backward). */
static void gather(const plan *plan, const fc_gather *g, float *y, ptrdiff_t argmax_at)
{
    char *argmax = plan->argmax;
    if (argmax)
        argmax += argmax_at * (plan->wide ? 4 : 1);
    switch (plan->op) {
    case MAXIMUM:
        plan->kernels->max_pool(g, y, argmax, plan->wide);
        break;
    case MAXIMUM_BACKWARD:
        plan->kernels->max_pool_backward(g, y, argmax, plan->wide);
        break;
    default:
        plan->kernels->weighted_sum(g, y);
    }
}

static void run_task(void *context, size_t task, int thread)
{
    const plan *plan = context;
    const fc_tensor *x = &plan->x, *y = &plan->y;
    const block b = block_of(plan, task, thread);
    const axis *columns = &plan->columns;
    const int backward = is_backward(plan->op);

    source from = {.row = x->stride[2], .pixel = x->stride[3]};
    const float *sources = x->data + b.n * x->stride[0] + b.c0 * x->stride[1];
    if (plan->copied) {
        const ptrdiff_t count = source_span(&plan->rows, b.i0, b.i1, &from.h0);
        from.pixel = b.channels;
        from.row = x->size[3] * b.channels;
        for (ptrdiff_t h = 0; h < count; h++)
            fc_copy_row(plan->kernels, x, b.n, b.c0, b.channels, from.h0 + h, 0, x->size[3], b.copy + h * from.row,
                        b.channels);
        sources = b.copy;
    }
    const ptrdiff_t all = x->size[1], y_pixel = plan->staged ? b.channels : y->stride[3];
    const ptrdiff_t argmax_first = b.n * plan->argmax_size[0] * plan->argmax_size[1] * all + b.c0;
    for (ptrdiff_t i = b.i0; i < b.i1; i++) {
        float *to = y->data + b.n * y->stride[0] + b.c0 * y->stride[1] + i * y->stride[2];
        for (size_t k = 0; k < plan->run_count; k++) {
            const run *run = &plan->runs[k];
            fc_gather g = list_terms(plan, &b, &from, i, run->first, all);
            g.channels = (size_t)b.channels;
            g.pixels = (size_t)run->count;
            g.x = sources;
            g.x_step = run->shift * from.pixel;
            g.y_step = columns->period * y_pixel;
            g.argmax_step = (backward ? run->shift : columns->period) * all;
            gather(plan, &g, (plan->staged ? b.stage : to) + run->first * y_pixel,
                   argmax_first + (backward ? 0 : (i * plan->argmax_size[1] + run->first) * all));
        }
        if (plan->staged)
            fc_store_row(plan->kernels, b.stage, b.channels, y->size[3], b.channels, to, y->stride[1], y->stride[3]);
    }
}

/* The targets of a run of rows that a block computes: the first, and how many. */
static ptrdiff_t rows_of_block(const plan *plan, const block *b, const run *rows, ptrdiff_t *first)
{
    const ptrdiff_t period = plan->rows.period;
    *first = rows->first + max(0, ceil_div(b->i0 - rows->first, period)) * period;
    return max(0, ceil_div(min(b->i1, rows->first + (rows->count - 1) * period + 1) - *first, period));
}

/* All rows that gather alike at once: "pixels" are rows, "channels" the columns of a run. */
static void run_planar_task(void *context, size_t task, int thread)
{
    const plan *plan = context;
    const fc_kernels *kernels = plan->kernels;
    const fc_tensor *x = &plan->x, *y = &plan->y;
    const block b = block_of(plan, task, thread);
    const ptrdiff_t row_period = plan->rows.period, period = plan->columns.period;
    const int backward = is_backward(plan->op);

    source from = {.row = x->stride[2], .pixel = 1};
    const ptrdiff_t count = source_span(&plan->rows, b.i0, b.i1, &from.h0);
    const float *sources = x->data + b.n * x->stride[0] + b.c0 * x->stride[1] + from.h0 * from.row;
    ptrdiff_t x_plane = x->stride[1];
    if (plan->deal > 1) {
        const ptrdiff_t row = plan->deal * plan->x_part;
        for (ptrdiff_t c = 0; c < b.channels; c++)
            for (ptrdiff_t h = 0; h < count; h++)
                kernels->deal((size_t)x->size[3], (size_t)plan->deal, sources + c * x_plane + h * from.row,
                              b.copy + (c * count + h) * row, plan->x_part);
        sources = b.copy;
        from.row = row;
        x_plane = count * row;
    }
    float *results = y->data + b.n * y->stride[0] + b.c0 * y->stride[1] + b.i0 * y->stride[2], *to = results;
    ptrdiff_t y_row = y->stride[2], y_plane = y->stride[1];
    if (period > 1) {
        to = b.stage;
        y_row = period * plan->y_part;
        y_plane = (b.i1 - b.i0) * y_row;
    }
    const ptrdiff_t argmax_row = plan->argmax_size[1], argmax_plane = plan->argmax_size[0] * argmax_row;
    for (size_t l = 0; l < plan->row_run_count; l++) {
        const run *rows = &plan->row_runs[l];
        ptrdiff_t first;
        const ptrdiff_t targets = rows_of_block(plan, &b, rows, &first);
        for (size_t k = 0; k < plan->run_count && targets; k++) {
            const run *run = &plan->runs[k];
            fc_gather g = list_terms(plan, &b, &from, first, run->first, 1);
            g.channels = (size_t)run->count;
            g.pixels = (size_t)targets;
            g.x_step = rows->shift * from.row;
            g.y_step = row_period * y_row;
            g.argmax_step = (backward ? rows->shift : row_period) * argmax_row;
            const ptrdiff_t at = run->first % period * plan->y_part + run->first / period;
            for (ptrdiff_t c = 0; c < b.channels; c++) {
                g.x = sources + c * x_plane;
                gather(plan, &g, to + c * y_plane + (first - b.i0) * y_row + at,
                       (b.n * x->size[1] + b.c0 + c) * argmax_plane +
                           (backward ? 0 : first * argmax_row + run->first));
            }
        }
    }
    if (period > 1)
        for (ptrdiff_t c = 0; c < b.channels; c++)
            for (ptrdiff_t i = 0; i < b.i1 - b.i0; i++)
                kernels->collect((size_t)y->size[3], (size_t)period, b.stage + c * y_plane + i * y_row, plan->y_part,
                                 results + c * y->stride[1] + i * y->stride[2]);
}

int fc_pool2d_is_planar(const fc_pool2d *pool, const fc_tensor *x, const fc_tensor *y)
{
    const ptrdiff_t pooled = min(x->size[3], y->size[3]);
    return !pool->adaptive && x->stride[3] == 1 && y->stride[3] == 1 && pooled >= LEAST_COLUMNS;
}

static size_t axis_words(const axis *a, ptrdiff_t windows, ptrdiff_t size)
{
    return (size_t)(2 * windows + 1 + 2 * a->entries + (size + 1) + 2 * a->entries);
}

static void build_axis(const fc_pool2d *pool, int d, ptrdiff_t size, ptrdiff_t windows, int backward, axis *a,
                       ptrdiff_t *place)
{
    a->begin = place;
    a->extent = a->begin + windows + 1;
    a->source = a->extent + windows;
    a->tap = a->source + a->entries;
    ptrdiff_t *transposed = a->tap + a->entries;
    list_windows(pool, d, size, windows, a);
    if (backward)
        transpose_axis(a, windows, size, transposed, transposed + size + 1, transposed + size + 1 + a->entries);
    a->targets = backward ? size : windows;
    a->period = backward && !pool->adaptive ? pool->stride[d] : 1;
}

static int pool_run(const fc_pool2d *pool, operation op, const fc_tensor *source, const fc_tensor *target,
                    void *argmax, int wide)
{
    plan plan = {.op = op, .kernels = fc_kernels_active(), .x = *source, .y = *target, .argmax = argmax, .wide = wide,
                 .cut = fc_pool_cut(pool)};
    const int backward = is_backward(op);
    const fc_tensor *image = backward ? target : source, *pooled = backward ? source : target;
    for (int i = 0; i < 4; i++)
        if (!target->size[i])
            return 0;
    plan.planar = fc_pool2d_is_planar(pool, image, pooled);
    const int of_maxima = op == MAXIMUM || op == MAXIMUM_BACKWARD;
    if (of_maxima && !plan.planar && fc_pools_apart(pool, image, pooled, backward)) {
        fc_max_pool_apart(pool, image, pooled, argmax, backward);
        return 0;
    }
    plan.argmax_size[0] = pooled->size[2];
    plan.argmax_size[1] = pooled->size[3];
    plan.taps = pool->kernel[1];

    axis *axes[2] = {&plan.rows, &plan.columns};
    size_t words[2];
    for (int d = 0; d < 2; d++) {
        list_windows(pool, d, image->size[2 + d], pooled->size[2 + d], axes[d]);
        words[d] = axis_words(axes[d], pooled->size[2 + d], image->size[2 + d]);
    }
    ptrdiff_t *tables = fc_alloc((words[0] + words[1]) * sizeof(ptrdiff_t) +
                                (size_t)(target->size[2] + target->size[3]) * sizeof(run));
    if (!tables)
        return -1;
    for (int d = 0; d < 2; d++)
        build_axis(pool, d, image->size[2 + d], pooled->size[2 + d], backward, axes[d], tables + (d ? words[0] : 0));
    plan.runs = (run *)(tables + words[0] + words[1]);
    const ptrdiff_t channels = source->size[1], rows = plan.rows.targets;
    plan.block_channels = channels;
    if (plan.planar) {
        plan.row_runs = plan.runs + target->size[3];
        plan.deal = backward ? 1 : pool->stride[1];
        plan.x_part = ceil_div(source->size[3], plan.deal);
        plan.y_part = ceil_div(target->size[3], plan.columns.period);
        plan.run_count = find_runs(&plan.columns, backward, plan.deal, plan.runs);
        plan.row_run_count = find_runs(&plan.rows, backward, 0, plan.row_runs);
        plan.block_channels = max(1, min(channels, PLANAR_FLOATS / max(1, source->size[2] * source->size[3])));
    } else {
        plan.run_count = find_runs(&plan.columns, backward, 0, plan.runs);
        plan.copied = source->stride[1] != 1 && channels > 1;
        plan.staged = target->stride[1] != 1 && channels > 1;
        if (plan.copied || plan.staged)
            plan.block_channels = min(channels, COPY_CHANNELS);
    }
    plan.channel_blocks = ceil_div(channels, plan.block_channels);
    const ptrdiff_t row_floats = max(1, source->size[3] * plan.block_channels);
    const ptrdiff_t most = plan.copied ? BLOCK_FLOATS : plan.planar ? PLANAR_FLOATS : TASK_FLOATS;
    plan.block_rows = rows;
    while (plan.block_rows > 1 && longest_span(&plan.rows, plan.block_rows) * row_floats > most)
        plan.block_rows = ceil_div(plan.block_rows, 2);
    plan.row_blocks = ceil_div(rows, plan.block_rows);

    if (plan.copied)
        plan.copy_floats = round_up(longest_span(&plan.rows, plan.block_rows) * row_floats);
    if (plan.staged)
        plan.stage_floats = round_up(target->size[3] * plan.block_channels);
    if (plan.deal > 1)
        plan.copy_floats = round_up(longest_span(&plan.rows, plan.block_rows) * plan.block_channels * plan.deal *
                                    plan.x_part);
    if (plan.planar && plan.columns.period > 1)
        plan.stage_floats = round_up(plan.block_rows * plan.block_channels * plan.columns.period * plan.y_part);
    const size_t terms = (size_t)max(1, plan.rows.most * plan.columns.most);
    plan.thread_bytes = (plan.copy_floats + plan.stage_floats) * sizeof(float) +
                        terms * (2 * sizeof(ptrdiff_t) + sizeof(int32_t) + sizeof(float));
    plan.thread_bytes = (plan.thread_bytes + 63) & ~(size_t)63;

    const double elements = (double)target->size[0] * (double)channels * (double)rows * (double)target->size[3];
    const double traffic = (double)source->size[0] * (double)channels * (double)source->size[2] *
                           (double)source->size[3];
    const int threads = fc_team_size(elements * (double)terms * 0.05 + (traffic + elements) * 0.2);
    plan.scratch = fc_alloc((size_t)threads * plan.thread_bytes);
    const int enough = plan.scratch != NULL;
    if (enough)
        fc_parallel_for((size_t)(target->size[0] * plan.channel_blocks * plan.row_blocks), threads,
                        op == AVERAGE || op == AVERAGE_BACKWARD, plan.planar ? run_planar_task : run_task, &plan);
    fc_free(plan.scratch);
    fc_free(tables);
    return enough ? 0 : -1;
}

int fc_max_pool2d_forward(const fc_pool2d *pool, const fc_tensor *x, const fc_tensor *y, void *argmax, int wide)
{
    return pool_run(pool, MAXIMUM, x, y, argmax, wide);
}

int fc_max_pool2d_backward(const fc_pool2d *pool, const fc_tensor *dy, const void *argmax, int wide,
                           const fc_tensor *dx)
{
    return pool_run(pool, MAXIMUM_BACKWARD, dy, dx, (void *)argmax, wide);
}

int fc_avg_pool2d_forward(const fc_pool2d *pool, const fc_tensor *x, const fc_tensor *y)
{
    return pool_run(pool, AVERAGE, x, y, NULL, 0);
}

int fc_avg_pool2d_backward(const fc_pool2d *pool, const fc_tensor *dy, const fc_tensor *dx)
{
    return pool_run(pool, AVERAGE_BACKWARD, dy, dx, NULL, 0);
}
