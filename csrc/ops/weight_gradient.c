/* SPDX-License-Identifier: MIT */
/* conv2d backward_weight.
 *
 *   dw[k][c][r][s] = sum over n, p, q of  dy[n][k][p][q] * x[n][c][p*stride + r*dilation - pad][q*...]
 *
 * The images are cut into chunks and the chunks into blocks of rows, both fixed by the shape alone. In a
 * block each dw is one chain of multiply-adds over its pixels; blocks are added in order within a chunk
 * and chunks in order at the end: the same bits for any number of threads.
 *
 *   task = (chunk, group, some panels of NB output channels):
 *       for each block of rows, or of small images
 *           copy x rows, channels-last and zero-padded, or in strips of a tile's channels  (L2)
 *           for each panel
 *               pack dy to [pixel][NB], unless it is read where it lies                    (L1 or L2)
 *               for each tap row r, each tile of (s, c): kernels->tile_cols over the rows  (registers)
 *   sum over chunks, write to dw's layout                                              (all threads)
 *
 * Few output channels would leave lanes idle. There, lanes stand for the taps of a row too: what a pixel of x is
 * multiplied by, for all of them, lies side by side in dy. dy is then padded, in place of x's columns:
 *
 *   for each channel c, each tile of tap rows r:  sums[c][r][s, k] += x[h + r][w][c] * dy[h][w - s][k]
 *
 * The chains are the same, but for products with zeros. Of a 1x1 filter, x and dy change places instead: from there on
 * dy is the layer's input, whose channels are the lanes, and x the gradient of its output. */
#include <stdint.h>
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "../runtime/timers.h"
#include "integers.h"
#include "rows.h"
#include "winograd.h"

enum {
    BLOCK_PIXELS = 400,            /* of dy in a block: [400][32] floats are 50 KiB                     */
    LEAST_PIXELS = 64,             /* with fewer, loading and storing the sums costs too much           */
    BLOCK_FLOATS = 1 << 17,        /* of what a block keeps in the L2 cache, about: 512 KiB             */
    MOST_CHUNKS = 16,
    CHUNK_PIXELS = 384,            /* of dy in a chunk: with fewer, adding up its sums takes too long       */
    SHARED_CHUNKS = 4,             /* for threads to share x, rather than each to copy all of it            */
    NEAR_SUMS = 1 << 18,           /* of all chunks together, which stay in the L2 caches                   */
    FAR_SUMS = 1 << 20,            /* in the L3 cache                                                       */
    LONG_PIXEL = 512,              /* channels: a block has so few such pixels that a line of each stays in */
                                   /* the L1 cache, if they are spread over its sets                        */
    MANY_WEIGHTS = 1 << 18,        /* whose sums are 1 MiB                                                  */
    FEW_PANELS = 8,                /* a copy of x that is read so often, at most, costs more than it saves  */
    STRIP_CHANNELS = 192,          /* with fewer, the pixels of a block lie in few pages                    */
    STRIP_READS = 2048,            /* with fewer panels, times channels, strips cost more than they save    */
    HIDDEN_STEPS = 4,              /* multiply-adds of a widest vector in the latency of one            */
};

/* Likewise of dy, for so many sums of an output channel, times lanes * lanes: with narrow vectors tiles have fewer rows
 * too, so that dy is read more often, and in less time. */
static const double FEW_SUMS = 0.75;

/* Of the steps, so that copying does not outweigh those that are saved. */
static const double LEAST_GAIN = 0.8;

/* To fetch and copy a float of x takes as long as so many multiply-adds of vectors. */
static const double COPY_STEPS = 1;

/* Of the time of a task, what threads wait at the end for the last one, about. */
static const double WAITING = 0.05;

typedef struct plan {
    fc_conv2d conv;
    fc_tensor dy, x, dw;
    const fc_kernels *kernels;
    ptrdiff_t channels, outputs, vectors, panel_width, panels;
    int in_place;                      /* x is read where it lies, not copied */
    ptrdiff_t pitch, columns, x_row, x_image;   /* of the x rows that are read */
    ptrdiff_t strip, x_strip;          /* channels of a strip, or 0; floats from one to the next */
    int dense;                         /* s and c are one contiguous run */
    int dy_in_place;                   /* likewise, in blocks behind which spilt_pixels more follow */
    ptrdiff_t spilt_pixels;            /* into which the lanes behind the last output read on */
    int by_taps;                       /* lanes are [S-1-s][k]; x is read as planes, or copied to planes of x_rows */
    ptrdiff_t x_rows, x_plane;
    ptrdiff_t dy_columns;              /* by taps: of a row of dy, zeros on both sides included */
    ptrdiff_t chunks, chunk_images;
    ptrdiff_t block_rows, block_images;
    ptrdiff_t task_panels, task_parts; /* panels of a task, tasks of a (chunk, group) */
    size_t x_floats, dy_floats, scratch_floats, sum_floats;
    float *scratch, *sums;             /* sums: [chunk][group][panel][r][s][c][NB]; by_taps [chunk][group][c][r][NB] */
    fc_tasks tasks, writing;
} plan;

/* dy[n][k0 .. k0+used-1][p][all q] to out[q][NB], the lanes behind `used` zero. */
static void pack_gradient(const plan *plan, ptrdiff_t n, ptrdiff_t k0, ptrdiff_t used, ptrdiff_t p, float *out)
{
    if (used < plan->panel_width)
        memset(out, 0, (size_t)(plan->dy.size[3] * plan->panel_width) * sizeof(float));
    fc_copy_row(plan->kernels, &plan->dy, n, k0, used, p, 0, plan->dy.size[3], out, plan->panel_width);
}

/* `left` cache lines, `step` floats apart, that are to be in the L2 cache before they are copied or read. */
typedef struct lines {
    const float *at;
    ptrdiff_t step, left;
} lines;

/* What is on its way while sums are computed: the lines of each pixel of the panel after this one, three if it does not
 * begin with one, then dy and x of the block after this one. */
enum { PANEL_LINES = 3, NEXT_DY = PANEL_LINES, NEXT_X, AHEAD };

/* Has a tile of so many steps fetch what comes next. */
static void fetch_ahead(lines ahead[AHEAD], ptrdiff_t steps, fc_tile *t)
{
    for (int i = 0; i < AHEAD; i++)
        if (ahead[i].left > 0) {
            t->next = ahead[i].at;
            t->next_step = ahead[i].step;
            ahead[i].at += steps * ahead[i].step;
            ahead[i].left -= steps;
            return;
        }
}

/* Rows p0 .. p1-1 of dy in some images from n on, and the rows of x that they meet. */
typedef struct block {
    ptrdiff_t n, images, group, p0, p1, h0;
    int first;                         /* of its chunk: the sums start from 0 */
    float *x, *dy;
    int dy_in_place;
    ptrdiff_t dy_pixel, dy_row, dy_image;   /* of the dy that is read */
    ptrdiff_t *x_run, *dy_run;         /* [images * rows] */
} block;

/* Whether runs of `pixels` follow each other in x and in dy, `x_step` and `dy_step` floats a pixel: they are one. */
static int follow_each_other(const block *b, size_t runs, ptrdiff_t pixels, ptrdiff_t x_step, ptrdiff_t dy_step)
{
    for (size_t i = 1; i < runs; i++)
        if (b->x_run[i] - b->x_run[i - 1] != pixels * x_step || b->dy_run[i] - b->dy_run[i - 1] != pixels * dy_step)
            return 0;
    return runs > 1;
}

/* Adds a block to the sums of one panel. */
static void add_block(const plan *plan, const block *b, ptrdiff_t panel, lines ahead[AHEAD], float *sums)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t filter_rows = plan->dw.size[2], filter_columns = plan->dw.size[3], q_count = plan->dy.size[3];
    const ptrdiff_t stride = plan->conv.stride[0], dilation = plan->conv.dilation[0], pad = plan->conv.pad[0][0];
    const ptrdiff_t k0 = panel * plan->panel_width, used = min(plan->panel_width, plan->outputs - k0);

    fc_clock(FC_COPY);
    const float *dy = b->dy;
    if (b->dy_in_place)
        dy = plan->dy.data + b->n * b->dy_image + b->p0 * b->dy_row + b->group * plan->outputs + k0;
    else
        for (ptrdiff_t n = 0; n < b->images; n++)
            for (ptrdiff_t p = b->p0; p < b->p1; p++)
                pack_gradient(plan, b->n + n, b->group * plan->outputs + k0, used, p,
                              b->dy + n * b->dy_image + (p - b->p0) * b->dy_row);

    fc_clock(FC_MULTIPLY);
    const ptrdiff_t run = plan->dense ? filter_columns * plan->channels : plan->channels;
    const ptrdiff_t parts = plan->dense ? 1 : filter_columns;
    const ptrdiff_t vectors = ceil_div(used, (ptrdiff_t)kernels->lanes), most = (ptrdiff_t)kernels->max_rows[vectors];
    const ptrdiff_t tile = plan->strip ? plan->strip : ceil_div(run, ceil_div(run, most));
    const ptrdiff_t x_tile = plan->strip ? plan->x_strip : tile;
    for (ptrdiff_t r = 0; r < filter_rows; r++) {
        size_t runs = 0, depth = (size_t)q_count;
        for (ptrdiff_t n = 0; n < b->images; n++)
            for (ptrdiff_t p = b->p0; p < b->p1; p++) {
                const ptrdiff_t h = p * stride + r * dilation - pad;
                if (h >= 0 && h < plan->x.size[2]) {
                    b->x_run[runs] = n * plan->x_image + (h - b->h0) * plan->x_row;
                    b->dy_run[runs++] = n * b->dy_image + (p - b->p0) * b->dy_row;
                }
            }
        if (follow_each_other(b, runs, q_count, plan->conv.stride[1] * plan->pitch, b->dy_pixel)) {
            depth *= runs;
            runs = 1;
        }
        for (ptrdiff_t s = 0; s < parts; s++, sums += run * plan->panel_width)
            for (ptrdiff_t m = 0; m < run && (runs || b->first); m += tile) {
                fc_tile t = {
                    .a = b->x + s * plan->conv.dilation[1] * plan->pitch + m / tile * x_tile,
                    .a_row = 1,
                    .a_step = plan->conv.stride[1] * plan->pitch,
                    .b = dy,
                    .b_step = b->dy_pixel,
                    .a_run = b->x_run,
                    .b_run = b->dy_run,
                    .runs = runs,
                    .depth = depth,
                    .y = sums + m * plan->panel_width,
                    .y_row = plan->panel_width,
                    .last_lanes = kernels->lanes,
                    .accumulate = !b->first,
                };
                fetch_ahead(ahead, (ptrdiff_t)(runs * depth), &t);
                kernels->tile_cols[vectors][min(tile, run - m)](&t);
            }
    }
}

/* Rows of dy of an image, between pixels of zeros. Those stay from block to block of a task. */
static void copy_padded(const plan *plan, const block *b, ptrdiff_t n, float *out)
{
    const fc_tensor *dy = &plan->dy;
    const ptrdiff_t first = plan->conv.pad[1][0] - (plan->dw.size[3] - 1), rows = b->p1 - b->p0;
    if (!b->first && first <= 0 && dy->stride[1] == 1 && dy->stride[3] == plan->outputs) {
        plan->kernels->copy_spans((size_t)rows, (size_t)(min(dy->size[3], plan->dy_columns + first) * plan->outputs),
                                  dy->data + n * dy->stride[0] + b->p0 * dy->stride[2] + b->group * plan->outputs,
                                  dy->stride[2], out - first * plan->outputs, b->dy_row);
        return;
    }
    for (ptrdiff_t p = 0; p < rows; p++)
        fc_copy_row(plan->kernels, dy, n, b->group * plan->outputs, plan->outputs, b->p0 + p, first,
                    plan->dy_columns, out + p * b->dy_row, plan->outputs);
}

/* Vectors of a tile by taps: of all of them, where it has all rows of the filter; else two, for few rows load nearly as
 * much as they multiply. */
static ptrdiff_t vectors_by_taps(const fc_kernels *kernels, ptrdiff_t filter_rows, ptrdiff_t vectors)
{
    while (vectors > 2 && (ptrdiff_t)kernels->max_rows[vectors] < filter_rows)
        vectors--;
    return vectors;
}

/* The same by taps: a row of dy is as wide as one of x, and S - 1 pixels more. */
static void add_block_by_taps(const plan *plan, const block *b, lines ahead[AHEAD], float *sums)
{
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t filter_rows = plan->dw.size[2], stride = plan->conv.stride[0];
    const ptrdiff_t lanes = (ptrdiff_t)kernels->lanes, all_vectors = plan->panel_width / lanes;
    const ptrdiff_t vectors = vectors_by_taps(kernels, filter_rows, all_vectors);
    const ptrdiff_t tiles = ceil_div(filter_rows, (ptrdiff_t)kernels->max_rows[vectors]);
    const ptrdiff_t tile = ceil_div(filter_rows, tiles);

    fc_clock(FC_COPY);
    size_t runs = 0;
    for (ptrdiff_t n = 0; n < b->images; n++) {
        for (ptrdiff_t p = b->p0; p < b->p1; p++, runs++) {
            b->x_run[runs] = n * plan->x_image + (p - b->p0) * stride * plan->x_row;
            b->dy_run[runs] = n * b->dy_image + (p - b->p0) * b->dy_row;
        }
        copy_padded(plan, b, b->n + n, b->dy + n * b->dy_image);
    }

    fc_clock(FC_MULTIPLY);
    const ptrdiff_t all_tiles = ceil_div(all_vectors, vectors) * tiles;
    for (ptrdiff_t i = 0; i < plan->channels * all_tiles; i++) {
        const ptrdiff_t c = i / all_tiles, v = i % all_tiles / tiles * vectors, r = i % tiles * tile;
        fc_tile t = {
            .a = b->x + c * plan->x_plane + r * plan->conv.dilation[0] * plan->x_row,
            .a_row = plan->conv.dilation[0] * plan->x_row,
            .a_step = 1,
            .b = b->dy + v * lanes,
            .b_step = plan->outputs,
            .a_run = b->x_run,
            .b_run = b->dy_run,
            .runs = runs,
            .depth = (size_t)plan->columns,
            .y = sums + (c * filter_rows + r) * plan->panel_width + v * lanes,
            .y_row = plan->panel_width,
            .last_lanes = kernels->lanes,
            .accumulate = !b->first,
        };
        fetch_ahead(ahead, (ptrdiff_t)runs * plan->columns, &t);
        kernels->tile_rows[min(vectors, all_vectors - v)][min(tile, filter_rows - r)](&t);
    }
}

/* The rows of x that a block meets: the first, and the one behind the last. */
static ptrdiff_t first_input_row(const plan *plan, const block *b)
{
    return max(0, b->p0 * plan->conv.stride[0] - plan->conv.pad[0][0]);
}

static ptrdiff_t end_input_row(const plan *plan, const block *b)
{
    const ptrdiff_t reach = (plan->dw.size[2] - 1) * plan->conv.dilation[0] - plan->conv.pad[0][0] + 1;
    return min(plan->x.size[2], (b->p1 - 1) * plan->conv.stride[0] + reach);
}

/* Whether the pixels of all images follow each other, so that those of some rows are an array of their own. */
static int is_dense(const fc_tensor *t)
{
    return t->stride[1] == 1 && t->stride[2] == t->size[3] * t->stride[3] &&
           (t->size[0] == 1 || t->stride[0] == t->size[2] * t->stride[2]);
}

/* The pixels of x that a block meets, to [strip][pixel][channel]: a tile reads one strip from end to end, not some
 * channels of each pixel, which lie in as many pages. */
static void cut_to_strips(const plan *plan, const block *b, float *copy)
{
    const fc_tensor *x = &plan->x;
    const ptrdiff_t c_step = x->stride[1], w_step = x->stride[3], rows = b->p1 - b->p0;
    const int one_run = is_dense(x) && (b->images == 1 || rows == x->size[2]);
    const ptrdiff_t pixels = (one_run ? b->images * rows : 1) * x->size[3];
    for (ptrdiff_t n = 0; n < (one_run ? 1 : b->images); n++)
        for (ptrdiff_t h = 0; h < (one_run ? 1 : rows); h++) {
            const float *from = x->data + (b->n + n) * x->stride[0] + b->group * plan->channels * c_step +
                                (b->p0 + h) * x->stride[2];
            float *to = copy + n * plan->x_image + h * plan->x_row;
            if (c_step == 1 && w_step >= FC_MAX_LANES)
                plan->kernels->copy_strips((size_t)pixels, (size_t)plan->channels, (size_t)plan->strip, from, w_step,
                                           to, plan->x_strip);
            else
                for (ptrdiff_t c = 0; c < plan->channels; c += plan->strip, to += plan->x_strip)
                    fc_copy_matrix(plan->kernels, pixels, min(plan->strip, plan->channels - c), from + c * c_step,
                                   w_step, c_step, to, plan->strip, 1);
        }
}

/* The rows of x that a block meets: copied, or where they lie if no column is padded. */
static void find_rows(const plan *plan, block *b, float *copy)
{
    const ptrdiff_t c0 = b->group * plan->channels;
    b->h0 = first_input_row(plan, b);
    b->x = copy;
    fc_clock(FC_COPY);
    if (plan->in_place)
        b->x = plan->x.data + b->n * plan->x.stride[0] + c0 * plan->x.stride[1] + b->h0 * plan->x.stride[2];
    else if (plan->strip)
        cut_to_strips(plan, b, copy);
    else
        for (ptrdiff_t n = 0; n < b->images; n++)
            for (ptrdiff_t h = b->h0; h < end_input_row(plan, b); h++)
                fc_copy_row(plan->kernels, &plan->x, b->n + n, c0, plan->channels, h, -plan->conv.pad[1][0],
                            plan->columns, copy + n * plan->x_image + (h - b->h0) * plan->x_row, plan->pitch);
}

/* The same by taps: planes, with rows of zeros where the filter reaches over the image. */
static void find_planes(const plan *plan, block *b, float *copy)
{
    const ptrdiff_t from = b->p0 * plan->conv.stride[0] - plan->conv.pad[0][0];
    b->x = copy;
    fc_clock(FC_COPY);
    if (plan->in_place) {
        b->x = plan->x.data + b->n * plan->x_image + b->group * plan->channels * plan->x_plane + from * plan->x_row;
        return;
    }
    for (ptrdiff_t n = 0; n < b->images; n++)
        for (ptrdiff_t i = 0; i < plan->x_rows; i++) {
            float *row = copy + n * plan->x_image + i * plan->x_row;
            if (from + i >= 0 && from + i < plan->x.size[2])
                fc_copy_row_planar(plan->kernels, &plan->x, b->n + n, b->group * plan->channels, plan->channels,
                                   from + i, 0, plan->columns, row, plan->x_plane);
            else
                for (ptrdiff_t c = 0; c < plan->channels; c++)
                    memset(row + c * plan->x_plane, 0, (size_t)plan->columns * sizeof(float));
        }
}

/* Decides where dy is read, and how it lies there. */
static void find_gradient(const plan *plan, block *b)
{
    const fc_tensor *dy = &plan->dy;
    const ptrdiff_t row = plan->by_taps ? plan->dy_columns * plan->outputs : dy->size[3] * plan->panel_width;
    const ptrdiff_t behind = ((dy->size[0] - b->n) * dy->size[2] - b->p0 - b->images * (b->p1 - b->p0)) * dy->size[3];
    b->dy_in_place = plan->dy_in_place && behind >= plan->spilt_pixels;
    b->dy_pixel = b->dy_in_place ? dy->stride[3] : plan->panel_width;
    b->dy_row = b->dy_in_place ? dy->stride[2] : row;
    b->dy_image = b->dy_in_place ? dy->stride[0] : plan->block_rows * b->dy_row;
}

/* The block behind b, of images before n_end. Returns whether there is one. */
static int next_block(const plan *plan, const block *b, ptrdiff_t n_end, block *next)
{
    *next = *b;
    next->first = 0;
    next->p0 = b->p1 % plan->dy.size[2];
    next->n += next->p0 ? 0 : b->images;
    next->images = min(plan->block_images, n_end - next->n);
    next->p1 = min(plan->dy.size[2], next->p0 + plan->block_rows);
    return next->n < n_end;
}

/* The part of dy that is packed for a panel of a block. */
static void fetch_panel(const plan *plan, const block *b, ptrdiff_t panel, lines ahead[AHEAD])
{
    const fc_tensor *dy = &plan->dy;
    const float *from = dy->data + b->n * dy->stride[0] + b->p0 * dy->stride[2] + b->group * plan->outputs +
                        panel * plan->panel_width;
    const ptrdiff_t before = (ptrdiff_t)((uintptr_t)from / sizeof(float) % FC_LINE_FLOATS);
    for (int line = 0; line < PANEL_LINES && FC_LINE_FLOATS * line < before + plan->panel_width; line++)
        ahead[line] = (lines){from - before + FC_LINE_FLOATS * line, dy->stride[3],
                              b->images * (b->p1 - b->p0) * dy->size[3]};
}

/* What a block meets of x, and of dy unless it is packed for each panel. */
static void fetch_block(const plan *plan, const block *b, lines ahead[AHEAD])
{
    const fc_tensor *x = &plan->x, *dy = &plan->dy;
    if ((plan->dy_in_place || plan->by_taps) && is_dense(dy))
        ahead[NEXT_DY] = (lines){dy->data + b->n * dy->stride[0] + b->p0 * dy->stride[2], FC_LINE_FLOATS,
                                 b->images * (b->p1 - b->p0) * dy->stride[2] / FC_LINE_FLOATS};
    if (is_dense(x)) {
        const ptrdiff_t h0 = first_input_row(plan, b), rows = end_input_row(plan, b) - h0;
        ahead[NEXT_X] = (lines){x->data + b->n * x->stride[0] + h0 * x->stride[2], FC_LINE_FLOATS,
                                b->images * rows * x->stride[2] / FC_LINE_FLOATS};
    }
}

static void run_task(const plan *plan, ptrdiff_t task, float *scratch)
{
    const ptrdiff_t part = task % plan->task_parts;
    const ptrdiff_t group = task / plan->task_parts % plan->conv.groups;
    const ptrdiff_t chunk = task / plan->task_parts / plan->conv.groups;
    const ptrdiff_t first_panel = part * plan->task_panels;
    const ptrdiff_t last_panel = min(plan->panels, first_panel + plan->task_panels);
    const ptrdiff_t n_end = min(plan->x.size[0], (chunk + 1) * plan->chunk_images);
    float *sums = plan->sums + (size_t)((chunk * plan->conv.groups + group) * plan->panels) * plan->sum_floats;
    block b = {.group = group, .first = 1, .dy = scratch + plan->x_floats};
    b.x_run = (ptrdiff_t *)(b.dy + plan->dy_floats);
    b.dy_run = b.x_run + plan->block_images * plan->block_rows;
    b.n = chunk * plan->chunk_images;
    b.images = min(plan->block_images, n_end - b.n);
    b.p1 = min(plan->dy.size[2], plan->block_rows);
    for (int more = b.n < n_end && b.p1 > 0; more;) {
        block next;
        lines ahead[AHEAD] = {{.at = NULL}};
        more = next_block(plan, &b, n_end, &next);
        find_gradient(plan, &b);
        if (more)
            fetch_block(plan, &next, ahead);
        if (plan->by_taps) {
            find_planes(plan, &b, scratch);
            add_block_by_taps(plan, &b, ahead, sums);
        } else {
            find_rows(plan, &b, scratch);
            for (ptrdiff_t panel = first_panel; panel < last_panel; panel++) {
                const int last = panel + 1 == last_panel;
                if (!plan->dy_in_place && is_dense(&plan->dy) && (more || !last))
                    fetch_panel(plan, last ? &next : &b, last ? first_panel : panel + 1, ahead);
                add_block(plan, &b, panel, ahead, sums + (size_t)panel * plan->sum_floats);
            }
        }
        b = next;
    }
    if (b.first)
        memset(sums + (size_t)first_panel * plan->sum_floats, 0,
               (size_t)(last_panel - first_panel) * plan->sum_floats * sizeof(float));
}

/* Adds up the chunks of one (group, panel) and writes it to dw. */
static void write_panel(const plan *plan, ptrdiff_t index)
{
    fc_clock(FC_STORE);
    const size_t panels = (size_t)(plan->conv.groups * plan->panels);
    float *sums = plan->sums + (size_t)index * plan->sum_floats;
    for (ptrdiff_t chunk = 1; chunk < plan->chunks; chunk++)
        fc_add_span(plan->kernels, plan->sum_floats, sums + (size_t)chunk * panels * plan->sum_floats, sums);
    const ptrdiff_t group = index / plan->panels, panel = index % plan->panels;
    const ptrdiff_t k_first = panel * plan->panel_width, used = min(plan->panel_width, plan->outputs - k_first);
    const fc_tensor *dw = &plan->dw;
    if (plan->by_taps) {
        const ptrdiff_t last = dw->size[3] - 1;
        for (ptrdiff_t c = 0; c < plan->channels; c++)
            for (ptrdiff_t r = 0; r < dw->size[2]; r++, sums += plan->panel_width)
                for (ptrdiff_t s = 0; s <= last; s++)
                    for (ptrdiff_t k = 0; k < plan->outputs; k++)
                        dw->data[(group * plan->outputs + k) * dw->stride[0] + c * dw->stride[1] + r * dw->stride[2] +
                                 s * dw->stride[3]] = sums[(last - s) * plan->outputs + k];
        return;
    }
    for (ptrdiff_t r = 0; r < dw->size[2]; r++)
        for (ptrdiff_t s = 0; s < dw->size[3]; s++, sums += plan->channels * plan->panel_width) {
            float *to = dw->data + (group * plan->outputs + k_first) * dw->stride[0] + r * dw->stride[2] +
                        s * dw->stride[3];
            if (dw->stride[0] == 1)
                for (ptrdiff_t c = 0; c < plan->channels; c++)
                    memcpy(to + c * dw->stride[1], sums + c * plan->panel_width, (size_t)used * sizeof(float));
            else
                fc_store_row(plan->kernels, sums, plan->panel_width, plan->channels, used, to, dw->stride[0],
                             dw->stride[1]);
        }
}

static void body(void *context, int thread, int threads)
{
    plan *plan = context;
    float *scratch = plan->scratch + (size_t)thread * plan->scratch_floats;
    const ptrdiff_t panels = plan->conv.groups * plan->panels;
    const ptrdiff_t tasks = plan->chunks * plan->conv.groups * plan->task_parts;
    for (fc_hand hand = fc_hand_of(&plan->tasks, tasks, thread, threads); fc_take(&hand);)
        run_task(plan, hand.task, scratch);
    fc_team_barrier(threads);
    for (fc_hand hand = fc_hand_of(&plan->writing, panels, thread, threads); fc_take(&hand);)
        write_panel(plan, hand.task);
}

/* Of a 1x1 filter with a stride, leaves out the pixels that it skips: they need not be copied, and the others do not
 * crowd a few sets of the caches. Returns whether each pixel of x then meets the one of dy at its place alone. */
static int skip_pixels(plan *plan)
{
    ptrdiff_t *stride = plan->conv.stride, *count = plan->dy.size + 2;
    for (int axis = 0; axis < 2; axis++)
        if (plan->dw.size[2 + axis] != 1 || plan->conv.pad[axis][0] ||
            (count[axis] - 1) * stride[axis] >= plan->x.size[2 + axis])
            return 0;
    for (int axis = 0; axis < 2; axis++) {
        plan->x.size[2 + axis] = count[axis];
        plan->x.stride[2 + axis] *= stride[axis];
        stride[axis] = 1;
    }
    return 1;
}

/* Where pixels meet one by one, x and dy change places if the outputs would leave more lanes idle than the channels do:
 * dw's two axes change with them. Returns whether they do. */
static int exchange_sides(plan *plan)
{
    const ptrdiff_t lanes = FC_MAX_LANES, channels = plan->dw.size[1], outputs = plan->dw.size[0];
    const double steps = (double)channels * (double)(ceil_div(outputs, lanes) * lanes);
    const double exchanged = (double)outputs * (double)(ceil_div(channels, lanes) * lanes);
    if (plan->conv.groups > 1 || exchanged >= LEAST_GAIN * steps)
        return 0;
    const fc_tensor x = plan->x;
    plan->x = plan->dy;
    plan->dy = x;
    plan->dw = (fc_tensor){.data = plan->dw.data,
                           .size = {channels, outputs, 1, 1},
                           .stride = {plan->dw.stride[1], plan->dw.stride[0], 1, 1}};
    return 1;
}

/* Whether lanes that stand for taps too take fewer steps: as many as sums of a tile a channel and pixel, at least those
 * that hide the latency of a multiply-add, twice as many of vectors that are multiplied two at a time. */
static int by_taps_is_better(const plan *plan)
{
    const ptrdiff_t rows = plan->dw.size[2], columns = plan->dw.size[3], lanes = (ptrdiff_t)plan->kernels->lanes;
    const ptrdiff_t hidden = lanes == FC_MAX_LANES ? HIDDEN_STEPS : 2 * HIDDEN_STEPS;
    const ptrdiff_t vectors = ceil_div(columns * plan->outputs, lanes);
    const ptrdiff_t steps = plan->x.size[3] * max(rows * vectors, hidden);
    const ptrdiff_t of_row = max(columns * plan->channels * plan->vectors, hidden);
    const double other_steps = (double)(plan->dy.size[3] * rows * of_row * plan->panels) / (double)plan->channels;
    return plan->conv.stride[1] == 1 && plan->conv.dilation[1] == 1 && vectors <= FC_MAX_VECTORS &&
           (double)steps < LEAST_GAIN * other_steps;
}

/* Panels of a task: they share the copy of x, which takes the longer the more pixels a stride skips, but with too few
 * tasks some thread has more to do than others. */
static ptrdiff_t choose_task_panels(const plan *plan, const ptrdiff_t *stride, int threads)
{
    const ptrdiff_t taps = plan->dw.size[2] * plan->dw.size[3];
    const double copy = COPY_STEPS * (double)(stride[0] * stride[1]) / (double)(taps * plan->vectors);
    ptrdiff_t best = plan->panels;
    double best_cost = 0;
    if (threads == 1)
        return best;
    for (ptrdiff_t panels = plan->panels; panels > 0; panels--) {
        const ptrdiff_t tasks = plan->chunks * plan->conv.groups * ceil_div(plan->panels, panels);
        const double cost = ((double)ceil_div(tasks, threads) + WAITING) * ((double)panels + copy);
        if (panels == plan->panels || cost < best_cost) {
            best = panels;
            best_cost = cost;
        }
    }
    return best;
}

/* Of a 1x1 filter with so many weights that their sums leave the L2 cache, channels are taken by parts: blocks have as
 * many more pixels as pixels are shorter, and the sums are loaded and stored as many times less often. */
static int takes_parts(const fc_conv2d *conv, const fc_tensor *dw)
{
    return conv->groups == 1 && dw->size[1] > LONG_PIXEL && dw->size[0] * dw->size[1] >= MANY_WEIGHTS;
}

static int add_up_by_parts(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *x, const fc_tensor *dw)
{
    const ptrdiff_t channels = dw->size[1], parts = ceil_div(channels, LONG_PIXEL);
    const ptrdiff_t part = (ptrdiff_t)round_up(ceil_div(channels, parts));
    for (ptrdiff_t c = 0; c < channels; c += part) {
        fc_tensor x_part = *x, dw_part = *dw;
        x_part.data += c * x->stride[1];
        dw_part.data += c * dw->stride[1];
        x_part.size[1] = dw_part.size[1] = min(part, channels - c);
        if (fc_conv2d_backward_weight(conv, dy, &x_part, &dw_part))
            return -1;
    }
    return 0;
}

/* As many chunks as have sums near enough, or, if that is few, as they still have in the L3 cache; 0 of few pixels. */
static ptrdiff_t most_chunks(ptrdiff_t weights, ptrdiff_t pixels)
{
    const ptrdiff_t near = max(min(MOST_CHUNKS, NEAR_SUMS / weights), min(SHARED_CHUNKS, FAR_SUMS / weights));
    return min(near, pixels / CHUNK_PIXELS);
}

int fc_conv2d_backward_weight(const fc_conv2d *problem, const fc_tensor *gradient, const fc_tensor *input,
                              const fc_tensor *weight_gradient)
{
    plan plan = {.conv = *problem, .dy = *gradient, .x = *input, .dw = *weight_gradient, .kernels = fc_kernels_active()};
    const fc_conv2d *conv = &plan.conv;
    const fc_tensor *x = &plan.x, *dy = &plan.dy, *dweight = &plan.dw;
    const ptrdiff_t lanes = (ptrdiff_t)plan.kernels->lanes, images = x->size[0];
    for (int axis = 0; axis < 4; axis++)
        if (!dweight->size[axis])
            return 0;
    const int one_by_one = skip_pixels(&plan);
    if (images && fc_backward_weight_algorithm(conv, dy, dweight) == FC_WINOGRAD)
        return fc_winograd_backward_weight(conv, dy, x, dweight);
    const int exchanged = one_by_one && exchange_sides(&plan);
    if (one_by_one && !exchanged && takes_parts(conv, dweight))
        return add_up_by_parts(conv, dy, x, dweight);
    plan.channels = dweight->size[1];
    plan.outputs = dweight->size[0] / conv->groups;
    plan.vectors = min(ceil_div(plan.outputs, lanes), 2);
    plan.panel_width = plan.vectors * lanes;
    plan.panels = ceil_div(plan.outputs, plan.panel_width);
    plan.columns = max(0, (dy->size[3] - 1) * conv->stride[1]) + (dweight->size[3] - 1) * conv->dilation[1] + 1;
    /* Pixels a multiple of 256 bytes apart share a few sets of the L1 cache, of 2 KiB hardly one. Between the two they
     * are not copied where a stride skips some, since more would be copied than are read, or few panels read them. */
    const ptrdiff_t crowded = conv->stride[1] > 1 || plan.panels <= FEW_PANELS ? FC_CROWDED : 64;
    plan.in_place = (x->stride[1] == 1 || plan.channels == 1) && x->stride[3] % crowded && !conv->pad[1][0] &&
                    plan.columns <= x->size[3];
    /* Strips are worth a copy even where x could be read in place. */
    if (one_by_one && !exchanged && plan.channels >= STRIP_CHANNELS && plan.panels * plan.channels > STRIP_READS) {
        const ptrdiff_t most = (ptrdiff_t)plan.kernels->max_rows[plan.vectors];
        plan.in_place = 0;
        plan.strip = ceil_div(plan.channels, ceil_div(plan.channels, most));
    }
    /* Of more taps a row, pixels without gaps are one run. */
    const int gaps = dweight->size[3] == 1 && plan.channels >= LONG_PIXEL;
    const ptrdiff_t copied = gaps ? odd_lines(plan.channels) : fc_pixel_pitch(plan.channels);
    plan.pitch = plan.in_place ? x->stride[3] : plan.strip ? plan.strip : copied;
    plan.x_row = plan.in_place ? x->stride[2] : plan.columns * plan.pitch;
    plan.by_taps = by_taps_is_better(&plan);
    if (plan.by_taps) {
        plan.panels = 1;
        plan.panel_width = ceil_div(plan.outputs * dweight->size[3], lanes) * lanes;
        plan.columns = plan.pitch = x->size[3];
        plan.dy_columns = plan.columns + dweight->size[3] - 1;
        plan.in_place = x->stride[3] == 1 && !conv->pad[0][0] && !conv->pad[0][1];
        plan.x_row = plan.in_place ? x->stride[2] : plan.columns;
    }
    plan.dense = plan.pitch == plan.channels && conv->dilation[1] == 1;
    const ptrdiff_t spilt = ceil_div(plan.outputs, lanes) * lanes - plan.outputs;
    plan.spilt_pixels = ceil_div(spilt, plan.outputs);
    /* What is read on must be pixels of dy: they lie side by side, without others' channels between them. */
    const int reads_on = plan.panels == 1 && is_dense(dy) && dy->stride[3] == dy->size[1];
    const double sums = (double)(plan.channels * dweight->size[2] * dweight->size[3]);
    const int is_panel = plan.panels == 1 && dy->stride[3] == plan.outputs;
    plan.dy_in_place = !plan.by_taps && dy->stride[1] == 1 && (exchanged || dy->stride[3] % FC_CROWDED) &&
                       (!spilt || reads_on) && (is_panel || sums <= FEW_SUMS * (double)(lanes * lanes));

    /* Shape alone decides these: they fix the order of the sums. */
    const ptrdiff_t weight_floats = dweight->size[0] * dweight->size[1] * dweight->size[2] * dweight->size[3];
    const ptrdiff_t chunks = min(images, most_chunks(weight_floats, images * dy->size[2] * dy->size[3]));
    plan.chunk_images = max(1, ceil_div(images, power_of_two(chunks)));
    plan.chunks = max(1, ceil_div(images, plan.chunk_images));
    /* A block of x stays in the L2 cache; exchanged, one of dy, which is read where it lies, beside the next. */
    const double pixel_floats = exchanged
                                    ? 2 * (double)plan.outputs
                                    : (double)plan.channels * (double)conv->stride[0] * (double)conv->stride[1];
    const ptrdiff_t block_pixels = max(LEAST_PIXELS, min(BLOCK_PIXELS, (ptrdiff_t)(BLOCK_FLOATS / pixel_floats)));
    plan.block_rows = max(1, min(dy->size[2], block_pixels / max(1, dy->size[3])));
    plan.block_images = 1;
    if (plan.block_rows == dy->size[2])
        plan.block_images = max(1, min(plan.chunk_images, block_pixels / max(1, dy->size[2] * dy->size[3])));

    plan.x_rows = (plan.block_rows - 1) * conv->stride[0] + (dweight->size[2] - 1) * conv->dilation[0] + 1;
    plan.x_plane = plan.in_place ? x->stride[1] : plan.x_rows * plan.x_row;
    plan.x_image = plan.in_place  ? x->stride[0]
                   : plan.by_taps ? plan.channels * plan.x_plane
                                  : min(plan.x_rows, x->size[2]) * plan.x_row;
    plan.x_strip = plan.block_images * plan.x_image;
    const ptrdiff_t strips = plan.strip ? ceil_div(plan.channels, plan.strip) : 1;
    if (!plan.in_place)
        plan.x_floats = round_up(strips * plan.x_strip) + 16;
    if (plan.by_taps)
        plan.dy_floats = round_up(plan.block_images * plan.block_rows * plan.dy_columns * plan.outputs + FC_MAX_LANES);
    else if (!plan.dy_in_place || spilt)
        plan.dy_floats = round_up(plan.block_images * plan.block_rows * dy->size[3] * plan.panel_width);
    const ptrdiff_t runs = plan.block_images * plan.block_rows, run_floats = sizeof(ptrdiff_t) / sizeof(float);
    plan.scratch_floats = plan.x_floats + plan.dy_floats + round_up(2 * runs * run_floats) + 16;
    const ptrdiff_t columns_apart = plan.by_taps ? 1 : dweight->size[3];
    plan.sum_floats = (size_t)(dweight->size[2] * columns_apart * plan.channels * plan.panel_width);
    const size_t partials = (size_t)(plan.chunks * conv->groups * plan.panels);
    const double steps = (double)weight_floats * (double)images * (double)dy->size[2] * (double)dy->size[3];
    const int threads = fc_team_size(steps * 0.02 * 16 / (double)lanes);
    plan.task_panels = choose_task_panels(&plan, problem->stride, threads);
    plan.task_parts = ceil_div(plan.panels, plan.task_panels);

    const size_t all_sums = round_up((ptrdiff_t)(partials * plan.sum_floats));
    plan.sums = fc_alloc((all_sums + (size_t)threads * plan.scratch_floats) * sizeof(float));
    if (!plan.sums)
        return -1;
    plan.scratch = plan.sums + all_sums;
    fc_team_run(threads, 1, body, &plan);
    fc_free(plan.sums);
    return 0;
}
