/* SPDX-License-Identifier: MIT */
/* Direct correlation for few output channels of channels-last images: neighbouring columns of y are taken together, as
 * if they were outputs of one column, so that they fill a vector.
 *
 *   y[u][v*G + j][k], j < G  =  y'[u][v][j*K + k]      a correlation with G*K outputs and x_step * G,
 *   w'[j*K + k][c][r][s + j] =  w[k][c][r][s]          over windows of S + G - 1 columns, 0 where one has no tap
 *
 * The chain of an output is the same but for products with zeros. */
#include <string.h>

#include "../runtime/memory.h"
#include "correlate_plan.h"
#include "integers.h"

/* Of the steps by block. */
static const double LEAST_GAIN = 0.8;

/* What the planar way takes for a vector of pixels, in steps of a sum: a step; to bring an output among the others, by
 * wide vectors of few of them or by transposing; to copy pixels of several channels to planes, and for each channel. */
static const double PLANAR_STEP = 1.15, INTERLEAVED_OUTPUT = 2, TRANSPOSED_OUTPUT = 16, COPY = 50, COPIED_CHANNEL = 11;

static double planar_steps(const fc_correlation_plan *plan)
{
    const fc_correlation *p = &plan->p;
    const ptrdiff_t lanes = (ptrdiff_t)plan->kernels->lanes, outputs = plan->outputs;
    const double sum = PLANAR_STEP * (double)(p->taps[0]->count * p->taps[1]->count * plan->channels);
    const int interleaved = lanes == FC_MAX_LANES && outputs <= FC_MOST_INTERLEAVED;
    const double copy = p->x.stride[3] == 1 ? 0 : COPY + COPIED_CHANNEL * (double)plan->channels;
    return (double)ceil_div(plan->columns, lanes) *
           ((double)outputs * (sum + (interleaved ? INTERLEAVED_OUTPUT : TRANSPOSED_OUTPUT)) + copy);
}

/* Columns that are taken together; 1: none. */
static ptrdiff_t choose_together(const fc_correlation_plan *plan)
{
    const fc_correlation *p = &plan->p;
    const fc_taps *columns = p->taps[1];
    const ptrdiff_t taps = columns->count, lanes = (ptrdiff_t)plan->kernels->lanes, together = lanes / plan->outputs;
    if (together < 2 || taps < 2 || !fc_is_run(columns) || p->groups > 1 || p->x_step[1] != 1 || p->y_step[0] != 1 ||
        p->y_step[1] != 1 || plan->columns % together || p->y.stride[1] != 1 || p->y.stride[3] != plan->outputs ||
        plan->parts > 1 ||
        fc_correlation_part(plan->channels, p->taps[0]->count * (taps + together - 1)) < plan->channels)
        return 1;                       /* two parts would add up in another order */
    const double depth = (double)(p->taps[0]->count * plan->channels);
    const double steps = depth * (double)(plan->columns / together * (taps + together - 1));
    const double of_blocks = depth * (double)(plan->columns * taps);
    return steps < LEAST_GAIN * of_blocks && steps < planar_steps(plan) ? together : 1;
}

int fc_together_is_better(const fc_correlation_plan *plan) { return choose_together(plan) > 1; }

int fc_correlate_together(const fc_correlation_plan *plan)
{
    const ptrdiff_t together = choose_together(plan), outputs = plan->outputs, wide = together * outputs;
    const fc_taps *columns = plan->p.taps[1];
    fc_correlation p = plan->p;
    fc_tensor *w = &p.w;
    const fc_tensor narrow = *w;
    const ptrdiff_t width = columns->count + together - 1, floats = narrow.size[2] * width * plan->channels * wide;
    ptrdiff_t *offset = fc_alloc((size_t)(floats + wide) * sizeof(float) + 2 * (size_t)width * sizeof(ptrdiff_t));
    if (!offset)
        return -1;
    ptrdiff_t *index = offset + width;
    float *weights = (float *)(index + width), *bias = weights + floats;
    *w = (fc_tensor){.data = weights, .size = {wide, plan->channels, narrow.size[2], width},
                     .stride = {1, wide, width * plan->channels * wide, plan->channels * wide}};
    memset(weights, 0, (size_t)floats * sizeof(float));
    for (ptrdiff_t r = 0; r < narrow.size[2]; r++)
        for (ptrdiff_t s = 0; s < columns->count; s++)
            for (ptrdiff_t c = 0; c < plan->channels; c++)
                for (ptrdiff_t k = 0; k < wide; k++)
                    weights[r * w->stride[2] + (s + k / outputs) * w->stride[3] + c * wide + k] =
                        narrow.data[k % outputs * narrow.stride[0] + c * narrow.stride[1] + r * narrow.stride[2] +
                                    columns->index[s] * narrow.stride[3]];
    for (ptrdiff_t k = 0; p.bias && k < wide; k++)
        bias[k] = p.bias[k % outputs];
    for (ptrdiff_t s = 0; s < width; s++) {
        offset[s] = columns->offset[0] + s;
        index[s] = s;
    }
    const fc_taps across = {.count = width, .offset = offset, .index = index};
    p.taps[1] = &across;
    p.bias = p.bias ? bias : NULL;
    p.x_step[1] = together;
    p.y.size[1] = wide;
    p.y.size[3] /= together;
    p.y.stride[3] *= together;
    const int status = fc_correlate(&p, NULL);
    fc_free(offset);
    return status;
}
