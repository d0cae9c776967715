/* SPDX-License-Identifier: MIT */
/* How one correlation is carried out: made by correlate.c, followed by correlate_block.c. */
#ifndef FC_CORRELATE_PLAN_H
#define FC_CORRELATE_PLAN_H

#include "../kernels/kernels.h"
#include "../runtime/cpu.h"
#include "../runtime/threads.h"
#include "correlate.h"

/* Nanoseconds of one thread for a multiply-add in a vector unit. */
static const double FC_STEP_NS = 0.15;

/* Of packed weights, 1 PiB: weights may repeat their elements, so that memory does not bound their number. */
static const double FC_MOST_FLOATS = 0x1p48;

static inline ptrdiff_t fc_l2_floats(void)
{
    const size_t bytes = fc_cpu_cache_bytes(2);
    return (ptrdiff_t)((bytes ? bytes : 512 << 10) / sizeof(float));
}

static inline ptrdiff_t fc_l3_floats(void)
{
    const size_t bytes = fc_cpu_cache_bytes(3);
    return (ptrdiff_t)((bytes ? bytes : 8 << 20) / sizeof(float));
}

/* Of tasks that are panels of `width` outputs, all of them in each of `rounds`, in a row: what the slowest of the
 * threads computes, over what it would if they shared evenly. */
double fc_unevenness(ptrdiff_t outputs, ptrdiff_t width, ptrdiff_t rounds, int threads);

/* One phase of the output: a dense correlation of its own. */
typedef struct fc_phase {
    const fc_taps *rows, *columns;
    ptrdiff_t first[2], count[2];      /* output positions first + u * y_step, u < count */
    ptrdiff_t runs_a_row, taps_a_run;  /* how a row of taps splits into contiguous runs  */
    ptrdiff_t *a_run, *b_run;          /* [rows->count * runs_a_row]                     */
    size_t packed_at;                  /* where its packed weights begin among those of all phases */
    size_t piece_floats, panel_floats; /* of a panel: one part of the channels, all of them */
} fc_phase;

/* Images of which a 1x1 correlation skips pixels: the others, [n][rows][columns], are copied side by side. */
typedef struct fc_strided {
    fc_tensor x;                       /* without data: the correlation is no such one */
    ptrdiff_t step[2], rows, columns;
} fc_strided;

typedef struct fc_correlation_plan {
    fc_correlation p;
    fc_strided strided;                /* then p.x is the one long row of its pixels */
    const fc_kernels *kernels;
    ptrdiff_t channels, outputs;       /* of one group */
    ptrdiff_t part, parts;             /* channels of a part, which is summed before the next one */
    ptrdiff_t vectors, panel_width, panels;
    ptrdiff_t most_rows[FC_MAX_VECTORS + 1];   /* [vectors] of a tile */
    fc_phase *phases;
    size_t phase_count;
    int prepared;                      /* weights are packed, as by block */
    int by_panel;                      /* a task is a panel over a block of pixels, else the block over all panels */
    int in_place;                      /* input needs neither copy nor padding */
    int staged;                        /* output is not channels-last: a panel's pixels go through scratch */
    ptrdiff_t pitch;                   /* floats from input pixel to input pixel */
    ptrdiff_t row_min, row_max;        /* tap offsets over all phases */
    ptrdiff_t column_min, column_max;
    ptrdiff_t most_taps[2];            /* of one phase */
    ptrdiff_t rows, columns;           /* of the largest phase */
    ptrdiff_t units, unit_columns;     /* its columns, cut into units; the most of one */
    ptrdiff_t block_rows, row_blocks;
    ptrdiff_t block_images, image_blocks;
    ptrdiff_t in_columns;              /* input columns that a unit meets; by panel, all units */
    size_t stage_panel, stage_phase;   /* floats of scratch for the staged output of one panel, one phase */
    size_t stage_floats, copy_floats, pack_floats, scratch_floats;   /* scratch of a thread: their sum */
    float *packed;                     /* weights that are packed beforehand (by block, or prepared) */
    size_t own_packed;                 /* by block: floats of them, if each thread packs its own; 0: they share them */
    float *input;                      /* by_panel: [part][n][group][h][in_columns][pitch], padded */
    ptrdiff_t input_part;              /* floats of one part of it */
    float *scratch;
    fc_tasks preparations, tasks;
} fc_correlation_plan;

/* Channels of a part, by the shape of the problem alone. */
ptrdiff_t fc_correlation_part(ptrdiff_t channels, ptrdiff_t taps);

/* One tap of weights w[k][c], to out[c][k] of `width` floats a channel. */
void fc_pack_tap(const fc_kernels *kernels, const fc_tensor *w, const float *tap, ptrdiff_t channels, ptrdiff_t outputs,
                 float *out, ptrdiff_t width);

/* For few output channels (correlate_planar.c): reads what is known of the shape before blocks are planned. */
int fc_planar_is_better(const fc_correlation_plan *plan);
int fc_correlate_planar(const fc_correlation_plan *plan);

/* For few output channels, channels-last (correlate_together.c): as many columns as fill a vector. */
int fc_together_is_better(const fc_correlation_plan *plan);
int fc_correlate_together(const fc_correlation_plan *plan);

/* For few output channels of narrow images (correlate_taps.c), by the shape of the problem alone. */
int fc_taps_are_better(const fc_correlation_plan *plan);
int fc_correlate_taps(const fc_correlation_plan *plan);

/* Before the barrier: packs one panel, for all threads or for this one alone, or copies one row of the input. */
ptrdiff_t fc_correlation_preparations(const fc_correlation_plan *plan);
void fc_correlation_prepare(const fc_correlation_plan *plan, ptrdiff_t index, int thread);

/* After it. */
ptrdiff_t fc_correlation_tasks(const fc_correlation_plan *plan);
void fc_correlation_run(const fc_correlation_plan *plan, ptrdiff_t task, int thread);

#endif
