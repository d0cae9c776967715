/* SPDX-License-Identifier: MIT */
/* Winograd's algorithm for few channels of small images: lanes do not stand for them (see kernels/winograd_lanes.h), but
 * for images or tiles, in one of two ways.
 *
 *   by image    a task is as many images as a vector has lanes, whole: each tile is computed for all of them
 *   by tile     of fewer images, or where so many leave the L2 cache, a task is one, or some of its rows of tiles: tiles
 *               stand in lanes, as many at a time as a vector has
 *
 * Backward_input is the map of forward, transposed: the products of a tile of dy are spread over the pixels of dx that
 * it stems from, where tiles are added up row by row, either way in this order. Of 5 x 5 taps, dy has half as many tiles
 * as dx. */
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "../runtime/timers.h"
#include "correlate_plan.h"
#include "integers.h"
#include "rows.h"
#include "winograd.h"

/* Of 3 x 3 taps and more: there are no such kernels for 2 x 2. */
enum { PLANES = FC_WINOGRAD_MOST_PLANES, POINTS = FC_WINOGRAD_MOST_POINTS };

/* By tile, moving pixels to lanes and back takes so much longer, in products. */
static const double BY_TILE = 1.3;

/* x or y, or dy or dx: images, and as many of their pixels and of zeros around as all tiles have. */
typedef struct side {
    fc_tensor images;
    ptrdiff_t channels;
    ptrdiff_t before[2], size[2];      /* rows and columns of zeros before an image; all of them            */
    ptrdiff_t tile;                    /* pixels of a tile along an axis                                    */
    ptrdiff_t row;                     /* floats of a row of pixels                                         */
    ptrdiff_t floats;                  /* of all                                                            */
} side;

typedef struct plan {
    const fc_correlation *p;
    const fc_kernels *kernels;
    const fc_winograd *winograd;
    void (*compute)(const fc_winograd_lanes *);
    side in, out;
    ptrdiff_t m, lanes, tiles[2];
    int backward, by_tile;
    ptrdiff_t at_once, parts;          /* images of a task; by tile, parts of the rows of tiles of one */
    fc_winograd_lanes tile;            /* what all have in common */
    float *taps, *made;                /* where U is made; made: NULL where it is kept */
    float *scratch;
    size_t in_floats, out_floats, scratch_floats;
    ptrdiff_t panels, task_count;
    fc_tasks preparations, tasks;
} plan;

/* ---- by image ------------------------------------------------------------------------------------------------- */

/* A row of pixels of some images to lanes, or back, in spans of floats that lie side by side. */
static void move_row(const plan *plan, const side *s, int back, ptrdiff_t first, ptrdiff_t images, ptrdiff_t row,
                     float *lanes)
{
    const fc_tensor *x = &s->images;
    const ptrdiff_t channels = s->channels, columns = x->size[3], wide = plan->lanes;
    const int last = x->stride[1] == 1 || channels == 1, dense = last && x->stride[3] == channels;
    const int planar = !last && x->stride[3] == 1;
    const ptrdiff_t n = dense ? columns * channels : last ? channels : planar ? columns : 1;
    const ptrdiff_t step = planar ? channels * wide : wide;
    for (ptrdiff_t c = 0; c < (last ? 1 : channels); c++)
        for (ptrdiff_t w = 0; w < (dense || planar ? 1 : columns); w++) {
            float *rows[FC_MAX_LANES], *at = lanes + (w * channels + c) * wide;
            for (ptrdiff_t l = 0; l < wide; l++)       /* lanes of no image are those of the last one */
                rows[l] = x->data + (first + min(l, images - 1)) * x->stride[0] + row * x->stride[2] +
                          c * x->stride[1] + w * x->stride[3];
            if (back)
                plan->kernels->scatter_lanes((size_t)n, at, step, rows, (size_t)images);
            else
                plan->kernels->gather_lanes((size_t)n, (const float *const *)rows, at, step);
        }
}

static void move(const plan *plan, const side *s, int back, ptrdiff_t first, ptrdiff_t images, float *lanes)
{
    for (ptrdiff_t h = 0; h < s->images.size[2]; h++)
        move_row(plan, s, back, first, images, h,
                 lanes + ((s->before[0] + h) * s->row + s->before[1] * s->channels) * plan->lanes);
}

static void run_images(const plan *plan, ptrdiff_t first, ptrdiff_t images, fc_winograd_lanes *t, float *in, float *out)
{
    fc_clock(FC_COPY);
    move(plan, &plan->in, 0, first, images, in);
    if (plan->backward)
        memset(out, 0, plan->out_floats * sizeof(float));
    fc_clock(FC_MULTIPLY);
    for (ptrdiff_t i = 0; i < plan->tiles[0]; i++)
        for (ptrdiff_t j = 0; j < plan->tiles[1]; j++) {
            t->x = in + plan->m * (i * t->x_row + j * t->x_pixel);
            t->y = out + plan->m * (i * t->y_row + j * t->y_pixel);
            plan->compute(t);
        }
    fc_clock(FC_STORE);
    move(plan, &plan->out, 1, first, images, out);
}

/* ---- by tile -------------------------------------------------------------------------------------------------- */

/* Where a tile begins on a side. */
static ptrdiff_t place(const plan *plan, const side *s, ptrdiff_t tile)
{
    return plan->m * (tile / plan->tiles[1] * s->row + tile % plan->tiles[1] * s->channels);
}

/* Of dx, rows of pixels from the last to the first: so each pixel is added to in the order of the tiles. */
static void run_tiles(const plan *plan, ptrdiff_t first, ptrdiff_t tiles, const float *x, float *y,
                      fc_winograd_lanes *t, float *in, float *out)
{
    const side *from = &plan->in, *to = &plan->out;
    const ptrdiff_t wide = plan->lanes, in_row = from->tile * from->channels, out_row = to->tile * to->channels;
    const float *pixels[FC_MAX_LANES];
    float *rows[FC_MAX_LANES];
    for (ptrdiff_t l = 0; l < wide; l++) {             /* lanes of no tile are those of the last one */
        const ptrdiff_t tile = first + min(l, tiles - 1);
        pixels[l] = x + place(plan, from, tile);
        rows[l] = y + place(plan, to, tile) + (to->tile - 1) * to->row;
    }
    for (ptrdiff_t i = 0; i < from->tile; i++) {
        plan->kernels->gather_lanes((size_t)in_row, pixels, in + i * in_row * wide, wide);
        for (ptrdiff_t l = 0; l < wide; l++)
            pixels[l] += from->row;
    }
    if (plan->backward)
        memset(out, 0, (size_t)(to->tile * out_row * wide) * sizeof(float));
    t->x = in;
    t->y = out;
    plan->compute(t);
    for (ptrdiff_t i = to->tile - 1; i >= 0; i--) {
        (plan->backward ? plan->kernels->add_lanes : plan->kernels->scatter_lanes)(
            (size_t)out_row, out + i * out_row * wide, wide, rows, (size_t)tiles);
        for (ptrdiff_t l = 0; l < wide; l++)
            rows[l] -= to->row;
    }
}

/* The rows of pixels of rows of tiles from `first` on, and up to `end`, as far as they are the image's. */
static ptrdiff_t rows_from(const plan *plan, const side *s, ptrdiff_t first)
{
    return max(s->before[0], plan->m * first);
}

static ptrdiff_t rows_to(const plan *plan, const side *s, ptrdiff_t end)
{
    return min(s->before[0] + s->images.size[2], plan->m * (end - 1) + s->tile);
}

/* Rows of tiles first .. end - 1 of an image. */
static void run_rows(const plan *plan, ptrdiff_t n, ptrdiff_t first, ptrdiff_t end, fc_winograd_lanes *t, float *in,
                     float *out)
{
    const side *from = &plan->in, *to = &plan->out;
    const fc_tensor *y = &to->images;
    float *x_pixels = in, *y_pixels = out;             /* of the whole image, channels-last */
    const ptrdiff_t across = plan->tiles[1], all = end * across;
    fc_clock(FC_COPY);
    for (ptrdiff_t i = rows_from(plan, from, first); i < rows_to(plan, from, end); i++)
        fc_copy_row(plan->kernels, &from->images, n, 0, from->channels, i - from->before[0], 0, from->images.size[3],
                    x_pixels + i * from->row + from->before[1] * from->channels, from->channels);
    if (plan->backward)
        memset(y_pixels, 0, (size_t)to->floats * sizeof(float));
    fc_clock(FC_MULTIPLY);
    for (ptrdiff_t tile = first * across; tile < all; tile += plan->lanes)
        run_tiles(plan, tile, min(plan->lanes, all - tile), x_pixels, y_pixels, t, in + round_up(from->floats),
                  out + round_up(to->floats));
    fc_clock(FC_STORE);
    for (ptrdiff_t i = rows_from(plan, to, first); i < rows_to(plan, to, end); i++)
        fc_store_row(plan->kernels, y_pixels + i * to->row + to->before[1] * to->channels, to->channels, y->size[3],
                     to->channels, y->data + n * y->stride[0] + (i - to->before[0]) * y->stride[2], y->stride[1],
                     y->stride[3]);
}

/* ---- a call --------------------------------------------------------------------------------------------------- */

/* y + residual, and ReLU, of rows of tiles first .. end - 1 of some images. */
static void add_residual(const plan *plan, ptrdiff_t n, ptrdiff_t images, ptrdiff_t first, ptrdiff_t end)
{
    const side *to = &plan->out;
    const fc_tensor *y = &to->images;
    const ptrdiff_t columns = y->size[3], channels = y->size[1], pixel = y->stride[3];
    for (ptrdiff_t image = n; image < n + images; image++)
        for (ptrdiff_t i = rows_from(plan, to, first); i < rows_to(plan, to, end); i++) {
            const ptrdiff_t at = image * y->stride[0] + (i - to->before[0]) * y->stride[2];
            float *row = y->data + at;
            plan->kernels->add_spans((size_t)columns, (size_t)channels, plan->p->residual + at, pixel, row, pixel);
            for (ptrdiff_t w = 0; w < columns && plan->p->relu; w++)
                plan->kernels->activation[FC_RELU]((size_t)channels, row + w * pixel, row + w * pixel);
        }
}

/* Points of the weights as [output][input] of the pass, of one panel of [k/NB][36][input][NB], as fc_winograd_prepare
 * makes them. */
static void make_filters(const plan *plan, ptrdiff_t panel)
{
    const fc_winograd_lanes *t = &plan->tile;
    const fc_tensor *w = &plan->p->w;
    const ptrdiff_t r = w->size[2], width = t->u_width, inputs = w->size[1], first = panel * width;
    const ptrdiff_t outputs = min(width, w->size[0] - first);
    float *taps = plan->taps + panel * inputs * r * r * width;
    for (ptrdiff_t i = 0; i < r * r; i++)
        fc_pack_tap(plan->kernels, w, w->data + first * w->stride[0] + i / r * w->stride[2] + i % r * w->stride[3],
                    inputs, outputs, taps + i * width, r * r * width);
    plan->winograd->filter(w->size + 2, (size_t)inputs, (size_t)ceil_div(outputs, plan->lanes), width, taps,
                           plan->made + panel * t->u_panel, t->u_plane);
}

static void body(void *context, int thread, int threads)
{
    plan *plan = context;
    float *in = plan->scratch + (size_t)thread * plan->scratch_floats, *out = in + plan->in_floats;
    fc_winograd_lanes t = plan->tile;
    t.points = out + plan->out_floats;
    t.products = t.points + PLANES * t.points_plane;
    fc_clock(FC_TRANSFORM);
    if (plan->made) {
        for (fc_hand hand = fc_hand_of(&plan->preparations, plan->panels, thread, threads); fc_take(&hand);)
            make_filters(plan, hand.task);
        fc_team_barrier(threads);
    }
    const ptrdiff_t all = plan->in.images.size[0], rows = plan->tiles[0], parts = plan->parts;
    memset(in, 0, plan->in_floats * sizeof(float));    /* pixels around the images stay so */
    for (fc_hand hand = fc_hand_of(&plan->tasks, plan->task_count, thread, threads); fc_take(&hand);) {
        const ptrdiff_t n = hand.task / parts * plan->at_once, images = min(plan->at_once, all - n);
        const ptrdiff_t part = hand.task % parts, first = part * rows / parts, end = (part + 1) * rows / parts;
        if (plan->by_tile)
            run_rows(plan, n, first, end, &t, in, out);
        else
            run_images(plan, n, images, &t, in, out);
        if (plan->p->residual)
            add_residual(plan, n, images, first, end);
    }
}

/* x or y of a correlation. */
static side side_of(const plan *plan, const fc_tensor *images)
{
    const int overlaps = plan->backward == (images == &plan->p->y);
    side s = {.images = *images, .channels = images->size[1], .tile = overlaps ? POINTS : plan->m};
    for (int axis = 0; axis < 2; axis++) {
        const fc_taps *taps = plan->p->taps[axis];
        const ptrdiff_t before = plan->backward ? taps->offset[taps->count - 1] : -taps->offset[0];
        s.before[axis] = overlaps ? before : 0;
        s.size[axis] = plan->m * (plan->tiles[axis] - 1) + s.tile;
    }
    s.row = s.size[1] * s.channels;
    s.floats = s.size[0] * s.row;
    return s;
}

/* Decides by_tile and parts: the way of which the slowest thread makes fewer products. Pixels of dx that tiles share are
 * added up by one thread. */
static void choose_way(plan *plan, int threads)
{
    const ptrdiff_t images = plan->in.images.size[0], rows = plan->tiles[0], lanes = plan->lanes;
    plan->parts = plan->backward ? 1 : max(1, min(rows, threads / max(1, images)));
    const double by_image = (double)ceil_div(ceil_div(images, lanes), threads) * (double)(rows * plan->tiles[1]);
    const double by_tile = (double)ceil_div(images * plan->parts, threads) *
                           (double)ceil_div(ceil_div(rows, plan->parts) * plan->tiles[1], lanes);
    plan->by_tile = BY_TILE * by_tile < by_image || (plan->in.floats + plan->out.floats) * lanes > fc_l2_floats();
    plan->at_once = plan->by_tile ? 1 : lanes;
    plan->parts = plan->by_tile ? plan->parts : 1;
    plan->task_count = plan->parts * ceil_div(images, plan->at_once);
}

int fc_correlate_in_lanes(fc_pass pass, const fc_correlation *p, const fc_filters *filters)
{
    plan plan = {.p = p, .backward = pass == FC_BACKWARD_INPUT, .kernels = fc_kernels_active()};
    const fc_tensor *dense = plan.backward ? &p->x : &p->y;        /* of which tiles do not overlap */
    const ptrdiff_t r = p->w.size[2], inputs = p->w.size[1], outputs = p->w.size[0], images = p->x.size[0];
    plan.winograd = fc_winograd_of(plan.kernels, r);
    plan.compute = plan.backward ? plan.winograd->lanes_transposed : plan.winograd->lanes_forward;
    plan.m = fc_winograd_outputs(r);
    plan.lanes = (ptrdiff_t)plan.kernels->lanes;
    for (int axis = 0; axis < 2; axis++)
        plan.tiles[axis] = ceil_div(dense->size[2 + axis], plan.m);
    plan.in = side_of(&plan, &p->x);
    plan.out = side_of(&plan, &p->y);
    const ptrdiff_t all_tiles = images * plan.tiles[0] * plan.tiles[1];
    const double steps = (double)ceil_div(all_tiles, plan.lanes) * (double)(PLANES * 2 * inputs * outputs);
    int threads = fc_team_size(steps * FC_STEP_NS);
    choose_way(&plan, threads);
    threads = (int)min(threads, max(1, plan.task_count));

    fc_winograd_lanes *t = &plan.tile;
    t->inputs = (size_t)inputs;
    t->outputs = (size_t)outputs;
    t->x_pixel = inputs * plan.lanes;
    t->x_row = (plan.by_tile ? plan.in.tile : plan.in.size[1]) * t->x_pixel;
    t->y_pixel = outputs * plan.lanes;
    t->y_row = (plan.by_tile ? plan.out.tile : plan.out.size[1]) * t->y_pixel;
    t->u_width = min(2, ceil_div(outputs, plan.lanes)) * plan.lanes;
    t->u_plane = odd_lines(inputs * t->u_width);
    t->u_panel = PLANES * t->u_plane;
    t->points_plane = odd_lines(inputs * plan.lanes);
    t->products_plane = odd_lines(FC_LANE_OUTPUTS * plan.lanes);
    t->bias = p->bias;
    t->relu = p->relu && !p->residual;

    /* Images in lanes, or one as it is and tiles of it in lanes. */
    plan.in_floats = plan.by_tile ? round_up(plan.in.floats) + round_up(plan.in.tile * t->x_row)
                                  : round_up(plan.in.floats * plan.lanes);
    plan.out_floats = plan.by_tile ? round_up(plan.out.floats) + round_up(plan.out.tile * t->y_row)
                                   : round_up(plan.out.floats * plan.lanes);
    plan.scratch_floats = plan.in_floats + plan.out_floats + (size_t)(PLANES * (t->points_plane + t->products_plane));
    const int kept = filters && filters->points && filters->stride == 1;       /* as one part of so few channels */
    plan.panels = ceil_div(outputs, t->u_width);
    const size_t u = kept ? 0 : (size_t)(plan.panels * t->u_panel);
    const size_t taps = kept ? 0 : round_up(plan.panels * inputs * r * r * t->u_width);
    float *workspace = fc_alloc((u + taps + plan.scratch_floats * (size_t)threads) * sizeof(float));
    if (!workspace)
        return -1;
    plan.made = kept ? NULL : workspace;
    plan.taps = workspace + u;
    plan.scratch = workspace + u + taps;
    t->u = kept ? filters->data : workspace;
    fc_team_run(threads, 1, body, &plan);
    fc_free(workspace);
    return 0;
}
