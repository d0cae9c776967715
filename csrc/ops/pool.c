/* SPDX-License-Identifier: MIT */
/* Pooling, forward and backward: every target pixel gathers the source pixels that a table per axis names.
 *
 *   forward    targets are windows, sources the pixels they meet
 *   backward   targets are pixels, sources the windows that meet them: the same table, transposed
 *
 * Each target is written once, its terms in a fixed order: the same bits for any number of threads.
 * Channels-last arrays are read and written in place; of other layouts, blocks of channels and rows are
 * copied to channels-last scratch first. */
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "rows.h"

enum {
    BLOCK_FLOATS = 48 << 10,     /* of sources copied at a time: 192 KiB of L2 */
    TASK_FLOATS = 32 << 10,      /* of sources read in a task, about           */
    COPY_CHANNELS = 32,          /* of a block that is copied                  */
};

static ptrdiff_t min(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }
static ptrdiff_t max(ptrdiff_t a, ptrdiff_t b) { return a > b ? a : b; }
static ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

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

static size_t find_runs(const axis *a, int backward, run *runs)
{
    size_t count = 0;
    for (ptrdiff_t phase = 0; phase < min(a->period, a->targets); phase++)
        for (ptrdiff_t i = phase; i < a->targets; i += a->period) {
            run *last = count ? &runs[count - 1] : NULL;
            ptrdiff_t shift;
            if (i > phase && gather_alike(a, backward, i - a->period, i, &shift) &&
                (last->count == 1 || last->shift == shift)) {
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
    ptrdiff_t argmax_size[2];          /* P, Q */
    axis rows, columns;
    run *runs;
    size_t run_count;
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

static void run_task(void *context, size_t task, int thread)
{
    const plan *plan = context;
    const fc_tensor *x = &plan->x, *y = &plan->y;
    const ptrdiff_t row_block = (ptrdiff_t)task % plan->row_blocks;
    const ptrdiff_t c0 = (ptrdiff_t)task / plan->row_blocks % plan->channel_blocks * plan->block_channels;
    const ptrdiff_t n = (ptrdiff_t)task / plan->row_blocks / plan->channel_blocks;
    const ptrdiff_t channels = min(plan->block_channels, x->size[1] - c0);
    const ptrdiff_t i0 = row_block * plan->block_rows, i1 = min(plan->rows.targets, i0 + plan->block_rows);
    const axis *rows = &plan->rows, *columns = &plan->columns;

    float *copy = (float *)(plan->scratch + (size_t)thread * plan->thread_bytes), *stage = copy + plan->copy_floats;
    const size_t most = (size_t)(rows->most * columns->most);
    ptrdiff_t *offset = (ptrdiff_t *)(stage + plan->stage_floats), *argmax_offset = offset + most;
    int32_t *position = (int32_t *)(argmax_offset + most);
    float *scale = (float *)(position + most);

    ptrdiff_t x_row = x->stride[2], x_pixel = x->stride[3], h0 = 0;
    const float *from = x->data + n * x->stride[0] + c0 * x->stride[1];
    if (plan->copied) {
        const ptrdiff_t count = source_span(rows, i0, i1, &h0);
        x_pixel = channels;
        x_row = x->size[3] * channels;
        for (ptrdiff_t h = 0; h < count; h++)
            fc_copy_row(plan->kernels, x, n, c0, channels, h0 + h, 0, x->size[3], copy + h * x_row, channels);
        from = copy;
    }
    /* The element of argmax at (n, 0, 0, c0). */
    const ptrdiff_t all = x->size[1];
    char *argmax = plan->argmax;
    if (argmax)
        argmax += (n * plan->argmax_size[0] * plan->argmax_size[1] * all + c0) * (plan->wide ? 4 : 1);

    for (ptrdiff_t i = i0; i < i1; i++) {
        float *to = y->data + n * y->stride[0] + c0 * y->stride[1] + i * y->stride[2];
        const ptrdiff_t y_pixel = plan->staged ? channels : y->stride[3];
        for (size_t k = 0; k < plan->run_count; k++) {
            const run *run = &plan->runs[k];
            fc_gather g = {
                .channels = (size_t)channels,
                .pixels = (size_t)run->count,
                .x = from,
                .x_step = run->shift * x_pixel,
                .y_step = columns->period * y_pixel,
                .argmax_step = (is_backward(plan->op) ? run->shift : columns->period) * all,
                .offset = offset,
                .argmax_offset = argmax_offset,
                .position = position,
                .scale = scale,
            };
            for (ptrdiff_t e = rows->begin[i]; e < rows->begin[i + 1]; e++)
                for (ptrdiff_t f = columns->begin[run->first]; f < columns->begin[run->first + 1]; f++) {
                    const ptrdiff_t h = rows->source[e], w = columns->source[f];
                    offset[g.terms] = (h - h0) * x_row + w * x_pixel;
                    argmax_offset[g.terms] = (h * plan->argmax_size[1] + w) * all;
                    position[g.terms] = (int32_t)(rows->tap[e] * plan->taps + columns->tap[f]);
                    if (plan->op == AVERAGE)
                        scale[g.terms] = 1.0f / (float)(rows->extent[i] * columns->extent[run->first]);
                    else if (plan->op == AVERAGE_BACKWARD)
                        scale[g.terms] = 1.0f / (float)(rows->extent[h] * columns->extent[w]);
                    g.terms++;
                }
            float *result = (plan->staged ? stage : to) + run->first * y_pixel;
            char *positions = argmax;
            switch (plan->op) {
            case MAXIMUM:
                if (positions)
                    positions += (i * plan->argmax_size[1] + run->first) * all * (plan->wide ? 4 : 1);
                plan->kernels->max_pool(&g, result, positions, plan->wide);
                break;
            case MAXIMUM_BACKWARD:
                plan->kernels->max_pool_backward(&g, result, positions, plan->wide);
                break;
            default:
                plan->kernels->weighted_sum(&g, result);
            }
        }
        if (plan->staged)
            fc_store_row(plan->kernels, stage, channels, y->size[3], channels, to, y->stride[1], y->stride[3]);
    }
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
    plan plan = {.op = op, .kernels = fc_kernels_active(), .x = *source, .y = *target, .argmax = argmax, .wide = wide};
    const int backward = is_backward(op);
    const fc_tensor *image = backward ? target : source, *pooled = backward ? source : target;
    for (int i = 0; i < 4; i++)
        if (!target->size[i])
            return 0;
    plan.argmax_size[0] = pooled->size[2];
    plan.argmax_size[1] = pooled->size[3];
    plan.taps = pool->kernel[1];

    axis *axes[2] = {&plan.rows, &plan.columns};
    size_t words[2];
    for (int d = 0; d < 2; d++) {
        list_windows(pool, d, image->size[2 + d], pooled->size[2 + d], axes[d]);
        words[d] = axis_words(axes[d], pooled->size[2 + d], image->size[2 + d]);
    }
    ptrdiff_t *tables = fc_alloc((words[0] + words[1]) * sizeof(ptrdiff_t) + (size_t)target->size[3] * sizeof(run));
    if (!tables)
        return -1;
    for (int d = 0; d < 2; d++)
        build_axis(pool, d, image->size[2 + d], pooled->size[2 + d], backward, axes[d], tables + (d ? words[0] : 0));
    plan.runs = (run *)(tables + words[0] + words[1]);
    plan.run_count = find_runs(&plan.columns, backward, plan.runs);

    const ptrdiff_t channels = source->size[1], rows = plan.rows.targets;
    plan.copied = source->stride[1] != 1 && channels > 1;
    plan.staged = target->stride[1] != 1 && channels > 1;
    plan.block_channels = plan.copied || plan.staged ? min(channels, COPY_CHANNELS) : channels;
    plan.channel_blocks = ceil_div(channels, plan.block_channels);
    const ptrdiff_t row_floats = max(1, source->size[3] * plan.block_channels);
    const ptrdiff_t most = plan.copied ? BLOCK_FLOATS : TASK_FLOATS;
    plan.block_rows = rows;
    while (plan.block_rows > 1 && longest_span(&plan.rows, plan.block_rows) * row_floats > most)
        plan.block_rows = ceil_div(plan.block_rows, 2);
    plan.row_blocks = ceil_div(rows, plan.block_rows);

    if (plan.copied)
        plan.copy_floats = (size_t)(longest_span(&plan.rows, plan.block_rows) * row_floats + 15) & ~(size_t)15;
    if (plan.staged)
        plan.stage_floats = (size_t)(target->size[3] * plan.block_channels + 15) & ~(size_t)15;
    const size_t terms = (size_t)max(1, plan.rows.most * plan.columns.most);
    plan.thread_bytes = (plan.copy_floats + plan.stage_floats) * sizeof(float) +
                        terms * (2 * sizeof(ptrdiff_t) + sizeof(int32_t) + sizeof(float));
    plan.thread_bytes = (plan.thread_bytes + 63) & ~(size_t)63;

    const double elements = (double)target->size[0] * (double)channels * (double)rows * (double)target->size[3];
    const double traffic = (double)source->size[0] * (double)channels * (double)source->size[2] * (double)source->size[3];
    const int threads = fc_team_size(elements * (double)terms * 0.05 + (traffic + elements) * 0.2);
    plan.scratch = fc_alloc((size_t)threads * plan.thread_bytes);
    const int enough = plan.scratch != NULL;
    if (enough)
        fc_parallel_for((size_t)(target->size[0] * plan.channel_blocks * plan.row_blocks), threads,
                        op == AVERAGE || op == AVERAGE_BACKWARD, run_task, &plan);
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
