/* SPDX-License-Identifier: MIT */
/* Batch normalisation and sums over channels.
 *
 *   training    mean_c, var_c over images and pixels;  y = (x - mean) / sqrt(var + eps) * weight + bias,
 *               + residual, relu: while the values are in registers
 *   backward    dx = weight / sqrt(var + eps) * (dy - mean(dy) - (x - mean) / (var + eps) * mean(dy * (x - mean)))
 *               (Ioffe & Szegedy, arXiv 1502.03167, section 3); behind a relu dy is masked in both passes, by y,
 *               read or computed again, or, where the residual's gradient is wanted, which the masked dy is, in
 *               the first
 *
 * Arrays are cut into blocks that stay in the L2 cache, by shape alone. Each block's mean and sum of squared
 * deviations are taken in two passes over the cached block; blocks are merged in order, in double (Chan,
 * Golub & LeVeque 1983). So the array is read from memory once for its statistics, the digits of a small
 * variance about a large mean survive, and the bits do not depend on the threads.
 *
 *   channels-last   block = pixels x all channels
 *   NCHW            block = part of each of an image's planes; a plane is handled as 16 interleaved channels */
#include <math.h>
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "integers.h"
#include "ops.h"
#include "spans.h"

enum {
    BLOCK_FLOATS = 32 << 10,      /* 128 KiB of L2 */
    INTERLEAVED = 16,             /* channels that a plane is handled as */
    MERGE_CHANNELS = 64,          /* merged in a turn */
    SUMS_TOGETHER = 64,           /* four of the widest vectors */
};

/* Per channel: what the second pass over the array needs. */
typedef struct coefficients {
    float *mean, *scale, *bias;         /* forward; backward: mean, scale and */
    float *mean_dy, *slope;
} coefficients;

typedef struct plan plan;
struct plan {
    const fc_kernels *kernels;
    const fc_batch_norm *norm;          /* NULL: sums alone */
    int channels_last;
    ptrdiff_t images, channels, plane;  /* plane: pixels of an image */
    ptrdiff_t block, blocks;            /* pixels of a block; blocks of the array (of all images) */
    ptrdiff_t group, groups;            /* channels of a task */
    const float *x, *dy, *residual, *y;
    float *out, *dresidual;
    int relu, stream;
    int again;                          /* backward: y is computed again */
    ptrdiff_t dy_image, dy_channel, dy_pixel;  /* strides: dy may be some channels of a wider array */
    float *partial[3];                  /* [blocks][channels] */
    coefficients per;
    float *dweight, *dbias;
    void (*measure)(const plan *, ptrdiff_t block, ptrdiff_t c0, ptrdiff_t channels);
    void (*merge)(const plan *, ptrdiff_t c0, ptrdiff_t channels);
    void (*apply)(const plan *, ptrdiff_t block, ptrdiff_t c0, ptrdiff_t channels);
    fc_tasks measuring, merging, applying;
};

/* ---- blocks ----------------------------------------------------------------------------------------- */

static ptrdiff_t chunks_of_plane(const plan *p) { return ceil_div(p->plane, p->block); }

static ptrdiff_t block_pixels(const plan *p, ptrdiff_t block)
{
    if (p->channels_last)
        return min(p->block, p->images * p->plane - block * p->block);
    return min(p->block, p->plane - block % chunks_of_plane(p) * p->block);
}

/* First float of channel c in a block. */
static ptrdiff_t block_start(const plan *p, ptrdiff_t block, ptrdiff_t c)
{
    if (p->channels_last)
        return block * p->block * p->channels + c;
    const ptrdiff_t chunks = chunks_of_plane(p);
    return (block / chunks * p->channels + c) * p->plane + block % chunks * p->block;
}

static const float *gradient_start(const plan *p, ptrdiff_t block, ptrdiff_t c)
{
    if (p->channels_last)
        return p->dy + block * p->block * p->dy_pixel + c;
    const ptrdiff_t chunks = chunks_of_plane(p);
    return p->dy + block / chunks * p->dy_image + c * p->dy_channel + block % chunks * p->block;
}

/* Where an array that may be missing goes on. */
static const float *ahead(const float *array, ptrdiff_t floats) { return array ? array + floats : NULL; }
static float *ahead_out(float *array, ptrdiff_t floats) { return array ? array + floats : NULL; }

static void spread(float value, float *lanes)
{
    for (int l = 0; l < INTERLEAVED; l++)
        lanes[l] = value;
}

/* ---- measure: the partial results of one block ------------------------------------------------------- */

static void merge_moments(double *count, double *mean, double *m2, double n, double other_mean, double other_m2)
{
    const double both = *count + n, apart = other_mean - *mean;
    *mean += apart * (n / both);
    *m2 += other_m2 + apart * apart * (*count * (n / both));
    *count = both;
}

static void plane_moments(const fc_kernels *kernels, const float *x, ptrdiff_t pixels, float *mean, float *delta,
                          float *m2)
{
    float m[INTERLEAVED], d[INTERLEAVED], s[INTERLEAVED];
    const ptrdiff_t each = pixels / INTERLEAVED, rest = pixels % INTERLEAVED;
    double count = 0, all_mean = 0, all_m2 = 0;
    if (each) {
        kernels->moments(INTERLEAVED, (size_t)each, x, INTERLEAVED, m, d, s);
        for (int l = 0; l < INTERLEAVED; l++)
            all_mean += ((double)m[l] + d[l]) / INTERLEAVED;
        for (int l = 0; l < INTERLEAVED; l++) {
            const double apart = ((double)m[l] + d[l]) - all_mean;
            all_m2 += s[l] + apart * apart * (double)each;
        }
        count = (double)(each * INTERLEAVED);
    }
    for (ptrdiff_t i = pixels - rest; i < pixels; i++)
        merge_moments(&count, &all_mean, &all_m2, 1, x[i], 0);
    *mean = (float)all_mean;
    *delta = (float)(all_mean - *mean);
    *m2 = (float)all_m2;
}

static void measure_moments(const plan *p, ptrdiff_t block, ptrdiff_t c0, ptrdiff_t channels)
{
    const ptrdiff_t pixels = block_pixels(p, block), at = block * p->channels;
    if (p->channels_last)
        p->kernels->moments((size_t)channels, (size_t)pixels, p->x + block_start(p, block, c0), p->channels,
                            p->partial[0] + at + c0, p->partial[1] + at + c0, p->partial[2] + at + c0);
    else
        for (ptrdiff_t c = c0; c < c0 + channels; c++)
            plane_moments(p->kernels, p->x + block_start(p, block, c), pixels, p->partial[0] + at + c,
                          p->partial[1] + at + c, p->partial[2] + at + c);
}

/* Of the plane of channel c that begins `at` floats into x, y and masked. */
static void plane_gradient_sums(const plan *p, const float *dy, ptrdiff_t at, ptrdiff_t pixels, ptrdiff_t c,
                                float *sum_dy, float *sum_dy_x)
{
    float m[INTERLEAVED], s[INTERLEAVED], b[INTERLEAVED], g[INTERLEAVED] = {0}, k[INTERLEAVED] = {0};
    double plain = 0, product = 0;
    spread(p->x ? p->per.mean[c] : 0, m);
    spread(p->again ? p->per.scale[c] : 0, s);
    spread(p->again ? p->per.bias[c] : 0, b);
    for (ptrdiff_t done = 0; done < pixels;) {
        const ptrdiff_t rows = max(1, (pixels - done) / INTERLEAVED), lanes = min(INTERLEAVED, pixels - done);
        p->kernels->gradient_sums((size_t)lanes, (size_t)rows, dy + done, INTERLEAVED, ahead(p->x, at + done),
                                  INTERLEAVED, m, ahead(p->y, at + done), s, p->again ? b : NULL, 0,
                                  ahead_out(p->dresidual, at + done), g, k);
        done += rows * lanes;
        for (ptrdiff_t l = 0; l < lanes; l++) {
            plain += g[l];
            product += k[l];
        }
    }
    *sum_dy = (float)plain;
    *sum_dy_x = (float)product;
}

static void measure_gradient(const plan *p, ptrdiff_t block, ptrdiff_t c0, ptrdiff_t channels)
{
    const ptrdiff_t pixels = block_pixels(p, block), at = block * p->channels, start = block_start(p, block, c0);
    if (p->channels_last)
        p->kernels->gradient_sums((size_t)channels, (size_t)pixels, gradient_start(p, block, c0), p->dy_pixel,
                                  ahead(p->x, start), p->channels, p->x ? p->per.mean + c0 : NULL, ahead(p->y, start),
                                  p->per.scale + c0, p->again ? p->per.bias + c0 : NULL, p->stream,
                                  ahead_out(p->dresidual, start), p->partial[0] + at + c0, p->partial[1] + at + c0);
    else
        for (ptrdiff_t c = c0; c < c0 + channels; c++)
            plane_gradient_sums(p, gradient_start(p, block, c), block_start(p, block, c), pixels, c,
                                p->partial[0] + at + c, p->partial[1] + at + c);
}

/* ---- merge: the blocks of some channels --------------------------------------------------------------- */

static void merge_forward(const plan *p, ptrdiff_t c0, ptrdiff_t channels)
{
    const fc_batch_norm *norm = p->norm;
    for (ptrdiff_t c = c0; c < c0 + channels; c++) {
        double count = 0, mean = 0, m2 = 0;
        for (ptrdiff_t b = 0; b < p->blocks; b++) {
            const ptrdiff_t at = b * p->channels + c;
            merge_moments(&count, &mean, &m2, (double)block_pixels(p, b), (double)p->partial[0][at] + p->partial[1][at],
                          p->partial[2][at]);
        }
        m2 = m2 > 0 || m2 != m2 ? m2 : 0;
        norm->mean[c] = (float)mean;
        norm->invstd[c] = (float)(1 / sqrt(m2 / count + norm->eps));
        if (norm->running_mean)
            norm->running_mean[c] += (float)(norm->momentum * (mean - norm->running_mean[c]));
        if (norm->running_var)
            norm->running_var[c] += (float)(norm->momentum * (m2 / (count - 1) - norm->running_var[c]));
        p->per.scale[c] = norm->weight ? norm->weight[c] * norm->invstd[c] : norm->invstd[c];
        p->per.bias[c] = norm->bias ? norm->bias[c] : 0;
    }
}

static void merge_backward(const plan *p, ptrdiff_t c0, ptrdiff_t channels)
{
    const fc_batch_norm *norm = p->norm;
    const double count = (double)(p->images * p->plane);
    for (ptrdiff_t c = c0; c < c0 + channels; c++) {
        double sum_dy = 0, sum_dy_x = 0;
        for (ptrdiff_t b = 0; b < p->blocks; b++) {
            sum_dy += p->partial[0][b * p->channels + c];
            if (p->x)
                sum_dy_x += p->partial[1][b * p->channels + c];
        }
        p->dbias[c] = (float)sum_dy;
        if (!norm)
            continue;
        const double invstd = norm->invstd[c];
        p->dweight[c] = (float)(sum_dy_x * invstd);
        p->per.mean_dy[c] = norm->training ? (float)(sum_dy / count) : 0;
        p->per.slope[c] = norm->training ? (float)(sum_dy_x * invstd * invstd / count) : 0;
    }
}

/* ---- apply: the result of one block ------------------------------------------------------------------- */

static void apply_forward(const plan *p, ptrdiff_t block, ptrdiff_t c0, ptrdiff_t channels)
{
    const ptrdiff_t pixels = block_pixels(p, block), start = block_start(p, block, c0);
    const coefficients *per = &p->per;
    if (p->channels_last) {
        p->kernels->normalize((size_t)channels, (size_t)pixels, p->x + start, p->channels, per->mean + c0,
                              per->scale + c0, per->bias + c0, ahead(p->residual, start), p->relu, p->stream,
                              p->out + start, p->channels);
        return;
    }
    const ptrdiff_t each = pixels / INTERLEAVED, done = each * INTERLEAVED;
    for (ptrdiff_t c = 0; c < channels; c++) {
        const float *x = p->x + start + c * p->plane, *residual = ahead(p->residual, start + c * p->plane);
        float *y = p->out + start + c * p->plane, m[INTERLEAVED], s[INTERLEAVED], b[INTERLEAVED];
        spread(per->mean[c0 + c], m);
        spread(per->scale[c0 + c], s);
        spread(per->bias[c0 + c], b);
        p->kernels->normalize(INTERLEAVED, (size_t)each, x, INTERLEAVED, m, s, b, residual, p->relu, 0, y,
                              INTERLEAVED);
        p->kernels->normalize((size_t)(pixels - done), 1, x + done, INTERLEAVED, m, s, b, ahead(residual, done),
                              p->relu, 0, y + done, INTERLEAVED);
    }
}

/* dresidual, where there is one, holds what the measuring pass left of dy. */
static void apply_backward(const plan *p, ptrdiff_t block, ptrdiff_t c0, ptrdiff_t channels)
{
    const float *mask = p->dresidual ? NULL : p->y;
    const ptrdiff_t pixels = block_pixels(p, block), start = block_start(p, block, c0);
    const coefficients *per = &p->per;
    if (p->channels_last) {
        const float *dy = p->dresidual ? p->dresidual + start : gradient_start(p, block, c0);
        p->kernels->norm_backward((size_t)channels, (size_t)pixels, dy, p->dresidual ? p->channels : p->dy_pixel,
                                  p->x + start, p->channels, ahead(mask, start), per->mean + c0, per->mean_dy + c0,
                                  per->slope + c0, per->scale + c0, p->again ? per->bias + c0 : NULL, p->stream,
                                  p->out + start);
        return;
    }
    const ptrdiff_t each = pixels / INTERLEAVED, done = each * INTERLEAVED;
    for (ptrdiff_t c = 0; c < channels; c++) {
        const ptrdiff_t from = start + c * p->plane;
        const float *dy = p->dresidual ? p->dresidual + from : gradient_start(p, block, c0 + c), *x = p->x + from;
        const float *y = ahead(mask, from);
        float *dx = p->out + from;
        float m[INTERLEAVED], g[INTERLEAVED], k[INTERLEAVED], s[INTERLEAVED], lanes[INTERLEAVED];
        const float *b = p->again ? lanes : NULL;
        spread(per->bias[c0 + c], lanes);
        spread(per->mean[c0 + c], m);
        spread(per->mean_dy[c0 + c], g);
        spread(per->slope[c0 + c], k);
        spread(per->scale[c0 + c], s);
        p->kernels->norm_backward(INTERLEAVED, (size_t)each, dy, INTERLEAVED, x, INTERLEAVED, y, m, g, k, s, b, 0, dx);
        p->kernels->norm_backward((size_t)(pixels - done), 1, dy + done, INTERLEAVED, x + done, INTERLEAVED,
                                  ahead(y, done), m, g, k, s, b, 0, dx + done);
    }
}

/* ---- the three phases ---------------------------------------------------------------------------------- */

static void body(void *context, int thread, int threads)
{
    plan *p = context;
    const ptrdiff_t tasks = p->blocks * p->groups, merges = ceil_div(p->channels, MERGE_CHANNELS);
    if (p->measure) {
        for (fc_hand hand = fc_hand_of(&p->measuring, tasks, thread, threads); fc_take(&hand);) {
            const ptrdiff_t c0 = hand.task % p->groups * p->group;
            p->measure(p, hand.task / p->groups, c0, min(p->group, p->channels - c0));
        }
        fc_team_barrier(threads);
        for (fc_hand hand = fc_hand_of(&p->merging, merges, thread, threads); fc_take(&hand);) {
            const ptrdiff_t c0 = hand.task * MERGE_CHANNELS;
            p->merge(p, c0, min(MERGE_CHANNELS, p->channels - c0));
        }
        fc_team_barrier(threads);
    }
    if (p->apply) {
        fc_hand hand = fc_hand_of(&p->applying, tasks, thread, threads);
        hand.backwards = 1;                /* the blocks measured last are still in the cache */
        while (fc_take(&hand)) {
            const ptrdiff_t c0 = hand.task % p->groups * p->group;
            p->apply(p, hand.task / p->groups, c0, min(p->group, p->channels - c0));
        }
    }
}

static int run(plan *p, const fc_tensor *t, int arrays)
{
    p->kernels = fc_kernels_active();
    p->images = t->size[0];
    p->channels = t->size[1];
    p->plane = t->size[2] * t->size[3];
    p->channels_last = t->stride[1] == 1 || p->plane == 1;
    if (p->channels_last) {
        p->block = max(1, BLOCK_FLOATS / p->channels);
        p->blocks = ceil_div(p->images * p->plane, p->block);
        p->group = p->channels;
    } else {
        p->block = max(1, min(p->plane, BLOCK_FLOATS));
        p->blocks = p->images * chunks_of_plane(p);
        p->group = min(p->channels, ceil_div(BLOCK_FLOATS, p->block));
    }
    p->groups = ceil_div(p->channels, p->group);
    const size_t floats = (size_t)(p->images * p->plane * p->channels);
    p->stream = p->channels_last && p->channels % FC_MAX_LANES == 0 && fc_streams(p->out, floats) &&
                (!p->dresidual || fc_streams(p->dresidual, floats));

    const size_t partial = p->measure ? (size_t)(p->blocks * p->channels) : 0, channels = (size_t)p->channels;
    float *place = fc_alloc((3 * partial + 5 * channels + 1) * sizeof(float));
    if (!place)
        return -1;
    float *whole = place;
    for (int i = 0; i < 3; i++, place += partial)
        p->partial[i] = place;
    p->per.scale = place;
    p->per.bias = place + channels;
    p->per.mean_dy = place + 2 * channels;
    p->per.slope = place + 3 * channels;
    if (p->norm) {
        p->per.mean = p->norm->mean;
        if (p->measure != measure_moments)
            for (size_t c = 0; c < channels; c++) {
                p->per.scale[c] = p->norm->weight ? p->norm->weight[c] * p->norm->invstd[c] : p->norm->invstd[c];
                p->per.bias[c] = p->norm->bias ? p->norm->bias[c] : 0;
            }
    }
    fc_team_run(fc_team_size((double)(p->images * p->plane * p->channels) * arrays * FC_FLOAT_NS), 1, body, p);
    fc_free(whole);
    return 0;
}

/* So many pixels, channels-last, are summed up side by side, as if they were one: few sums wait for each other. */
static ptrdiff_t pixels_together(const fc_tensor *x)
{
    ptrdiff_t together = x->stride[1] == 1 ? max(1, SUMS_TOGETHER / x->size[1]) : 1;
    while (x->size[2] * x->size[3] % together)
        together--;
    return together;
}

int fc_sum_channels(const fc_tensor *x, float *sum)
{
    plan p = {.dy = x->data, .dbias = sum, .measure = measure_gradient, .merge = merge_backward};
    if (!x->size[1])
        return 0;
    const ptrdiff_t channels = x->size[1], together = pixels_together(x), pixels = x->size[2] * x->size[3] / together;
    const fc_tensor wide = {.size = {x->size[0], channels * together, 1, pixels}, .stride = {0, x->stride[1], 0, 0}};
    float sums[SUMS_TOGETHER];
    if (together > 1)
        p.dbias = sums;
    p.dy_channel = pixels;
    p.dy_image = wide.size[1] * pixels;
    p.dy_pixel = wide.size[1];
    const int status = run(&p, &wide, 1);
    for (ptrdiff_t c = 0; c < channels && together > 1 && !status; c++) {
        double all = 0;
        for (ptrdiff_t i = 0; i < together; i++)
            all += sums[i * channels + c];
        sum[c] = (float)all;
    }
    return status;
}

int fc_batch_norm_forward(const fc_batch_norm *norm, const fc_tensor *x, const float *residual, int relu,
                          const fc_tensor *y)
{
    plan p = {.norm = norm, .x = x->data, .residual = residual, .relu = relu, .out = y->data, .apply = apply_forward};
    if (norm->training) {
        p.measure = measure_moments;
        p.merge = merge_forward;
    }
    if (!x->size[0] || !x->size[1] || !x->size[2] || !x->size[3])
        return 0;
    return run(&p, x, norm->training ? 2 : 1);
}

int fc_batch_norm_backward(const fc_batch_norm *norm, const fc_tensor *dy, const fc_tensor *x, int relu,
                           const float *y, const fc_tensor *dx, float *dresidual, float *dweight, float *dbias)
{
    plan p = {.norm = norm, .x = x->data, .dy = dy->data, .y = y, .again = relu && !y, .out = dx->data,
              .dresidual = dresidual, .dweight = dweight, .dbias = dbias, .dy_image = dy->stride[0],
              .dy_channel = dy->stride[1], .dy_pixel = dy->stride[3], .measure = measure_gradient,
              .merge = merge_backward, .apply = apply_backward};
    if (!x->size[1])
        return 0;
    return run(&p, x, 3);
}
