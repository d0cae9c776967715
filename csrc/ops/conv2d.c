/* SPDX-License-Identifier: MIT */
/* conv2d forward and backward_input, as correlations. */
#include "../runtime/memory.h"
#include "correlate.h"
#include "integers.h"

static size_t tap_bytes(ptrdiff_t lists, const fc_tensor *weight)
{
    return (size_t)lists * sizeof(fc_taps) + 2 * (size_t)(weight->size[2] + weight->size[3]) * sizeof(ptrdiff_t);
}

int fc_conv2d_forward(const fc_conv2d *conv, const fc_tensor *x, const fc_tensor *weight, const float *bias,
                      const fc_tensor *y)
{
    fc_taps *taps = fc_alloc(tap_bytes(2, weight));
    if (!taps)
        return -1;
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
    fc_correlation forward = {
        .x = *x,
        .y = *y,
        .w = *weight,
        .groups = conv->groups,
        .bias = bias,
        .x_step = {conv->stride[0], conv->stride[1]},
        .y_step = {1, 1},
        .phases = {1, 1},
        .taps = {&taps[0], &taps[1]},
    };
    forward.w.size[0] /= conv->groups;
    forward.w_group = forward.w.size[0] * weight->stride[0];
    int status = fc_correlate(&forward);
    fc_free(taps);
    return status;
}

/* forward: y[p] += x[p*stride + r*dilation - pad] * w[r], so x[h] receives dy[p] * w[r] wherever
 * h = p*stride + r*dilation - pad. For h = phase + u*stride those are the r for which stride divides
 * phase + pad - r*dilation, and p = u + that quotient: a dense correlation over dy for each phase. */
int fc_conv2d_backward_input(const fc_conv2d *conv, const fc_tensor *dy, const fc_tensor *weight,
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
        .x_step = {1, 1},
        .y_step = {conv->stride[0], conv->stride[1]},
        .phases = {phases[0], phases[1]},
        .taps = {of_axis[0], of_axis[1]},
    };
    backward.w.size[0] = weight->size[1];
    backward.w.size[1] = weight->size[0] / conv->groups;
    backward.w.stride[0] = weight->stride[1];
    backward.w.stride[1] = weight->stride[0];
    int status = fc_correlate(&backward);
    fc_free(taps);
    return status;
}
