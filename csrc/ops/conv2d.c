/* SPDX-License-Identifier: MIT */
/* conv2d forward and backward_input, as correlations, and the choice of their algorithm. */
#include <math.h>

#include "../runtime/memory.h"
#include "correlate.h"
#include "integers.h"
#include "winograd.h"

/* ---- the choice --------------------------------------------------------------------------------------- */

/* Costs of a group and an image, in multiply-adds of a lane. Winograd's transforms take as long as this many for each
 * point of a tile, of one channel, the points of a weight as the products of half a tile. In the gradient of the
 * weights a plane has a sum, which all images share: it takes as long as so many products, the more where so many
 * floats of sums come from memory, and its steps wait for each other. There, the direct sum begins anew with each row
 * of pixels, which takes as long as so many of them. */
static const double DATA_COST = 11, OUTPUT_COST = 7, FILTER_COST = 0.5, SUM_COST = 22, FAR_SUM_COST = 50;
static const double NEAR_SUMS = 4 << 20, STEPS_COST = 2.5e6, ROW_COST = 3.5;

/* Winograd must be this much faster on paper: it rounds more and needs more memory. */
static const double LEAST_GAIN = 1.2;

/* In lanes of images or tiles, of a channel: the 36 pixels of x or dx; points of y or dy, and each of its pixels. */
static const double LANES_DATA_COST = 300, LANES_POINTS_COST = 100, LANES_PIXEL_COST = 14;

/* Where channels or outputs are fewer, they would leave lanes idle, and where neither are many, points of the weights stay
 * in the L1 or L2 cache, as does an image that is copied. With fewer products, transforms outweigh what they save. */
enum { FEW_CHANNELS = 16, MOST_CHANNELS = 64, MOST_LANES_FLOATS = 1 << 16, LEAST_LANES_PRODUCTS = 24 };
_Static_assert((int)MOST_CHANNELS <= (int)FC_WINOGRAD_PART, "points that are kept are one part");

/* Outputs that the direct sum computes at full speed in the time of these: lanes behind the last vector's are idle, and
 * of less than a vector of outputs lanes stand for pixels, half as well. */
static double outputs_at_full_speed(ptrdiff_t outputs)
{
    return outputs < FC_MAX_LANES ? 0.5 * (double)(FC_MAX_LANES + outputs)
                                  : (double)(ceil_div(outputs, FC_MAX_LANES) * FC_MAX_LANES);
}

static double tiles_of(ptrdiff_t height, ptrdiff_t width, ptrdiff_t m)
{
    return (double)ceil_div(height, m) * (double)ceil_div(width, m);
}

/* Of winograd.c and winograd_gradient.c. */
static double blocks_cost(fc_pass pass, const fc_conv2d_shape *shape)
{
    const ptrdiff_t taps = shape->taps, stride = shape->stride;
    const ptrdiff_t folds = pass == FC_BACKWARD_INPUT ? 1 : fc_winograd_folds(shape->channels, taps, stride);
    const ptrdiff_t phases_along = stride / folds;
    const ptrdiff_t r = fc_winograd_taps(taps, stride), m = fc_winograd_outputs(r);
    double rows = 0, columns = 0, points = 0;          /* of all tiles; of one, along an axis: over all phases */
    for (ptrdiff_t first = 0; first < phases_along; first++) {
        const int finite = folds == 1 && ceil_div(taps - first, stride) < r;
        rows += fc_tile_points(r, shape->height, finite);
        columns += fc_tile_points(r, shape->width, finite);
        points += (double)(fc_winograd_points(r) - finite);
    }
    const double all_outputs = (double)(ceil_div(shape->outputs, FC_MAX_LANES) * FC_MAX_LANES);
    const ptrdiff_t folded = folds * folds * shape->channels;
    const double sums = (double)folded * all_outputs * points * points;
    const double shared = sums * (sums > NEAR_SUMS ? FAR_SUM_COST : SUM_COST) + STEPS_COST;
    const double all_channels = (double)(ceil_div(folded, FC_MAX_LANES) * FC_MAX_LANES);
    const double planes = (double)(phases_along * phases_along * fc_winograd_points(r) * fc_winograd_points(r));
    return (double)folded * all_outputs * (rows * columns + FILTER_COST * planes) +
           tiles_of(shape->height, shape->width, m) * planes * (DATA_COST * all_channels + OUTPUT_COST * all_outputs) +
           (pass == FC_BACKWARD_WEIGHT ? shared / (double)max(1, shape->images) : 0);
}

/* Of winograd_lanes.c; INFINITY where it is not to be taken. */
static double lanes_cost(fc_pass pass, const fc_conv2d_shape *shape)
{
    const double channels = (double)shape->channels, outputs = (double)shape->outputs;
    const ptrdiff_t m = fc_winograd_outputs(shape->taps);
    const double height = (double)shape->y_height, width = (double)shape->y_width;
    const double pixels = (height + FC_WINOGRAD_MOST_POINTS) * (width + FC_WINOGRAD_MOST_POINTS);
    if (pass == FC_BACKWARD_WEIGHT || shape->groups > 1 || shape->stride > 1 || shape->taps == 2 ||
        min(shape->channels, shape->outputs) > FEW_CHANNELS || max(shape->channels, shape->outputs) > MOST_CHANNELS ||
        channels * outputs < LEAST_LANES_PRODUCTS || pixels * (channels + outputs) > MOST_LANES_FLOATS)
        return INFINITY;
    const double of_y = pass == FC_FORWARD ? outputs : channels, of_x = pass == FC_FORWARD ? channels : outputs;
    return tiles_of(shape->y_height, shape->y_width, m) *
           (FC_WINOGRAD_MOST_PLANES * channels * outputs + LANES_DATA_COST * of_x +
            (LANES_POINTS_COST + LANES_PIXEL_COST * (double)(m * m)) * of_y);
}

/* Sizes of images that are yet to be made may be any: they are multiplied as floating-point numbers. */
int fc_conv2d_choice(fc_pass pass, const fc_conv2d_shape *shape, double costs[FC_ALGORITHMS])
{
    const double outputs =
        pass == FC_BACKWARD_WEIGHT ? (double)shape->outputs : outputs_at_full_speed(shape->outputs);
    costs[FC_AUTO] = 0;
    const double columns = (double)shape->width + (pass == FC_BACKWARD_WEIGHT ? ROW_COST : 0);
    costs[FC_DIRECT] = outputs * (double)shape->channels * (double)(shape->taps * shape->taps) *
                       (double)shape->height * columns;
    const double in_blocks = blocks_cost(pass, shape), in_lanes = lanes_cost(pass, shape);
    costs[FC_WINOGRAD] = in_lanes < in_blocks ? in_lanes : in_blocks;
    return LEAST_GAIN * costs[FC_WINOGRAD] < costs[FC_DIRECT] ? FC_WINOGRAD : FC_DIRECT;
}

static fc_conv2d_shape shape_of(fc_pass pass, const fc_correlation *p)
{
    const fc_tensor *y = pass == FC_FORWARD ? &p->y : &p->x;
    return (fc_conv2d_shape){
        .groups = p->groups,
        .outputs = p->w.size[0],
        .channels = p->w.size[1],
        .taps = p->w.size[2],
        .stride = p->x_step[0] * p->y_step[0],
        .height = ceil_div(p->y.size[2], p->y_step[0]),
        .width = ceil_div(p->y.size[3], p->y_step[1]),
        .y_height = y->size[2],
        .y_width = y->size[3],
        .images = p->y.size[0],
    };
}

static int algorithm_of(fc_pass pass, int wanted, const fc_correlation *p)
{
    double costs[FC_ALGORITHMS];
    if (wanted != FC_AUTO)
        return wanted;
    if (!fc_winograd_supports(p))
        return FC_DIRECT;
    const fc_conv2d_shape shape = shape_of(pass, p);
    return fc_conv2d_choice(pass, &shape, costs);
}

int fc_backward_weight_algorithm(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *dweight)
{
    double costs[FC_ALGORITHMS];
    fc_conv2d winograd = *conv;
    winograd.algorithm = FC_WINOGRAD;
    if (conv->algorithm != FC_AUTO)
        return conv->algorithm;
    if (!fc_conv2d_supports(&winograd, dweight))
        return FC_DIRECT;
    const fc_conv2d_shape shape = {
        .groups = conv->groups,
        .outputs = dweight->size[0] / conv->groups,
        .channels = dweight->size[1],
        .taps = dweight->size[2],
        .stride = conv->stride[0],
        .height = dy->size[2],
        .width = dy->size[3],
        .y_height = dy->size[2],
        .y_width = dy->size[3],
        .images = dy->size[0],
    };
    return fc_conv2d_choice(FC_BACKWARD_WEIGHT, &shape, costs);
}

static int correlate(fc_pass pass, int wanted, const fc_correlation *p, const fc_filters *filters)
{
    const int algorithm = algorithm_of(pass, wanted, p);
    if (filters && (filters->algorithm != algorithm || !filters->data))
        filters = NULL;
    if (algorithm == FC_DIRECT)
        return fc_correlate(p, filters);
    const fc_conv2d_shape shape = shape_of(pass, p);
    if (lanes_cost(pass, &shape) < blocks_cost(pass, &shape))
        return fc_correlate_in_lanes(pass, p, filters);
    return fc_correlate_winograd(p, filters);
}

int fc_conv2d_supports(const fc_conv2d *conv, const fc_tensor *weight)
{
    return conv->algorithm != FC_WINOGRAD ||
           (fc_winograd_has(weight->size[2], weight->size[3], conv->stride[0], conv->stride[1]) &&
            conv->dilation[0] == 1 && conv->dilation[1] == 1 && weight->size[0] && weight->size[1]);
}

/* ---- forward ------------------------------------------------------------------------------------------ */

static size_t tap_bytes(ptrdiff_t lists, const fc_tensor *weight)
{
    return (size_t)lists * sizeof(fc_taps) + 2 * (size_t)(weight->size[2] + weight->size[3]) * sizeof(ptrdiff_t);
}

/* The correlation that forward is. Returns its taps, to be freed, or NULL without memory. */
static fc_taps *forward_correlation(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *weight,
                                    const fc_tensor *y, fc_correlation *forward)
{
    fc_taps *taps = fc_alloc(tap_bytes(2, weight));
    if (!taps)
        return NULL;
    ptrdiff_t *place = (ptrdiff_t *)(taps + 2);
    for (int axis = 0; axis < 2; axis++) {
        const ptrdiff_t count = weight->size[2 + axis];
        taps[axis] = (fc_taps){.count = count, .offset = place, .index = place + count};
        for (ptrdiff_t r = 0; r < count; r++) {
            place[r] = r * conv->dilation[axis] - conv->pad[axis][0];
            place[count + r] = r;
        }
        place += 2 * count;
    }
    *forward = (fc_correlation){
        .x = *x,
        .y = *y,
        .w = *weight,
        .groups = conv->groups,
        .x_step = {conv->stride[0], conv->stride[1]},
        .y_step = {1, 1},
        .phases = {1, 1},
        .taps = {&taps[0], &taps[1]},
    };
    forward->w.size[0] /= conv->groups;
    forward->w_group = forward->w.size[0] * weight->stride[0];
    return taps;
}

int fc_conv2d_forward(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *weight,
                      const fc_conv2d_extras *extras, const fc_tensor *y)
{
    fc_correlation forward;
    fc_taps *taps = forward_correlation(conv, x, weight, y, &forward);
    if (!taps)
        return -1;
    forward.bias = extras->bias;
    forward.residual = extras->residual;
    forward.relu = extras->relu;
    const int status = correlate(FC_FORWARD, conv->algorithm, &forward, extras->filters);
    fc_free(taps);
    return status;
}

int fc_conv2d_prepare(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *weight, const fc_tensor *y,
                      fc_filters *filters)
{
    fc_correlation forward;
    fc_taps *taps = forward_correlation(conv, x, weight, y, &forward);
    if (!taps)
        return -1;
    const int is_winograd = algorithm_of(FC_FORWARD, conv->algorithm, &forward) == FC_WINOGRAD;
    const int status = (is_winograd ? fc_winograd_prepare : fc_correlate_prepare)(&forward, filters);
    fc_free(taps);
    return status;
}

/* ---- backward_input ----------------------------------------------------------------------------------- */

/* forward: y[p] += x[p*stride + r*dilation - pad] * w[r], so x[h] receives dy[p] * w[r] wherever
 * h = p*stride + r*dilation - pad. For h = phase + u*stride those are the r for which stride divides
 * phase + pad - r*dilation, and p = u + that quotient: a dense correlation over dy for each phase. */
int fc_conv2d_backward_input(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *weight, const float *addend,
                             const fc_tensor *dx)
{
    const ptrdiff_t phases[2] = {min(conv->stride[0], dx->size[2]), min(conv->stride[1], dx->size[3])};
    fc_taps *taps = fc_alloc(tap_bytes(phases[0] + phases[1], weight));
    if (!taps)
        return -1;
    fc_taps *of_axis[2] = {taps, taps + phases[0]};
    ptrdiff_t *place = (ptrdiff_t *)(taps + phases[0] + phases[1]);
    for (int axis = 0; axis < 2; axis++) {
        const ptrdiff_t count = weight->size[2 + axis], stride = conv->stride[axis];
        ptrdiff_t *offset = place, *index = place + count;
        for (ptrdiff_t phase = 0; phase < phases[axis]; phase++) {
            fc_taps *t = &of_axis[axis][phase];
            *t = (fc_taps){.count = 0, .offset = offset, .index = index};
            for (ptrdiff_t r = count - 1; r >= 0; r--) {          /* descending: ascending offsets */
                const ptrdiff_t reach = phase + conv->pad[axis][0] - r * conv->dilation[axis];
                if (reach % stride == 0) {
                    *offset++ = reach / stride;
                    *index++ = r;
                    t->count++;
                }
            }
        }
        place += 2 * count;
    }
    fc_correlation backward = {
        .x = *dy,
        .y = *dx,
        .w = *weight,
        .groups = conv->groups,
        .w_group = weight->size[0] / conv->groups * weight->stride[0],
        .residual = addend,
        .x_step = {1, 1},
        .y_step = {conv->stride[0], conv->stride[1]},
        .phases = {phases[0], phases[1]},
        .taps = {of_axis[0], of_axis[1]},
    };
    backward.w.size[0] = weight->size[1];
    backward.w.size[1] = weight->size[0] / conv->groups;
    backward.w.stride[0] = weight->stride[1];
    backward.w.stride[1] = weight->stride[0];
    const int status = correlate(FC_BACKWARD_INPUT, conv->algorithm, &backward, NULL);
    fc_free(taps);
    return status;
}
