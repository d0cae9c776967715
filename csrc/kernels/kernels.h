/* SPDX-License-Identifier: MIT */
/* The table of kernels: one per instruction set, all of the same shape.
 *
 * Kernels are the arithmetic of one thread on valid memory: no allocation, no threads, no errors, no
 * environment. Everything above them reaches them through this table, so that portable code never
 * asks which instruction set it runs on.
 */
#ifndef FC_KERNELS_H
#define FC_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { FC_MAX_VECTORS = 4, FC_MAX_ROWS = 14, FC_MAX_LANES = 16 };

/* A register tile of sums of products (see tile.h for the formula).
 * Strides are in floats. */
typedef struct fc_tile {
    const float *a;             /* scalars, broadcast                                        */
    ptrdiff_t a_row;            /* from one tile row to the next      (1 by columns)         */
    ptrdiff_t a_step;           /* from one step of the sum to the next (1 by rows)          */
    const float *b;             /* vectors                                                   */
    ptrdiff_t b_step;           /* from one step of the sum to the next                      */
    const ptrdiff_t *a_run;     /* [runs] offset of each run in a                            */
    const ptrdiff_t *b_run;     /* [runs] offset of each run in b                            */
    size_t runs, depth;         /* the sum has runs * depth steps, in this order             */
    const float *next;          /* to fetch meanwhile, or NULL: what a later tile reads, to the L1 cache (by rows)
                                   or the L2 cache (tile_cols; brief_cols do not read it)    */
    ptrdiff_t next_step;        /* from what one step fetches to the next                    */
    ptrdiff_t next_skip;        /* tile_rows: besides, after each share of the steps; 0 with `later` */
    const float *later;         /* tile_rows: fetched instead, or NULL, once fc_next_shares of the steps are done */
    ptrdiff_t later_step;
    float *y;                   /* result                                                    */
    ptrdiff_t y_row;            /* from one tile row to the next                             */
    int far;                    /* brief_rows: y and the residual are far away, and fetched at once; tile_rows always
                                   fetch them, a row after each share of the steps           */
    size_t last_lanes;          /* lanes of the last vector that are stored: 1 .. lanes      */
    int accumulate;             /* add what is found in y                                    */
    const float *row_bias;      /* added to every lane when not NULL, one value a row        */
    const float *lane_bias;     /* added to every row when not NULL, one value a lane        */
    const float *residual;      /* added when not NULL, as y lies in memory                  */
    int relu;                   /* at last, negative values become 0                         */
} fc_tile;

typedef void (*fc_tile_fn)(const fc_tile *);

enum { FC_LINE_FLOATS = 16 };          /* of a cache line */

/* The steps of a tile of tile_rows are cut into about equal shares, one for each row. */
static inline size_t fc_share_steps(size_t steps, ptrdiff_t rows) { return steps / (size_t)rows + 1; }

/* So many shares fetch `next`: a line in each step, they fetch as much as the tile reads of a. */
_Static_assert(FC_MAX_ROWS < FC_LINE_FLOATS, "some shares are left for `later`");
static inline ptrdiff_t fc_next_shares(ptrdiff_t rows)
{
    return rows > 1 ? (rows * rows + FC_LINE_FLOATS - 1) / FC_LINE_FLOATS : 0;
}

/* Rows so many floats apart, or a multiple, are in few sets of the L1 cache: they drive each other out. */
enum { FC_CROWDED = 512 };

/* Rows of a product of matrices (see outer.h). Steps: from one term to the next, in floats. */
enum { FC_OUTER_ROWS = 6, FC_OUTER_TERMS = 16 };

typedef struct fc_outer {
    size_t terms, n;                           /* n: results of a row                        */
    const float *a, *b;
    ptrdiff_t a_step, a_row, b_step;           /* a_row is 1 in outer_rows, a_step in product_rows */
    float *y;
    ptrdiff_t y_row;
    int go_on;                                 /* product_rows: from the sums in y           */
    int32_t exponent;                          /* product_compressed: that of code 0          */
} fc_outer;

/* Compressed rows of b (see compressed.h): floats of one, the words that hold them; rows of a call. */
enum { FC_ROW_FLOATS = 128, FC_ROW_LANES = 16, FC_ROW_WORDS = 112, FC_ROW_TERMS = 32 };

/* One step of an optimiser (see optim.h). kept = 1 - dampening; first: v takes g as it is. */
typedef struct fc_sgd {
    float lr, momentum, kept, weight_decay;
    int nesterov, first;
} fc_sgd;

typedef struct fc_adam {
    float step_size, root_correction;          /* lr / (1 - beta1^t), sqrt(1 - beta2^t)      */
    float toward, beta2, square_share;         /* 1 - beta1, beta2, 1 - beta2                */
    float eps, weight_decay;
} fc_adam;

enum { FC_WINOGRAD_LEAST_TAPS = 2, FC_WINOGRAD_MOST_TAPS = 5, FC_WINOGRAD_MOST_POINTS = 6 };
enum { FC_WINOGRAD_MOST_PLANES = FC_WINOGRAD_MOST_POINTS * FC_WINOGRAD_MOST_POINTS };

/* Points of a tile along an axis, for r taps (see winograd.h). */
static inline ptrdiff_t fc_winograd_points(ptrdiff_t r) { return r == 2 ? 4 : 6; }

/* A row of tiles to be transformed (see winograd.h). Strides are in floats. */
typedef struct fc_winograd_input {
    size_t tiles, channels;
    const float *x;                 /* the first pixel that is there of the tiles' first row     */
    ptrdiff_t row, pixel;           /* strides                                                   */
    ptrdiff_t height, width;        /* pixels of a tile, as many as its points                   */
    int lacks_first[2];             /* down and across: a tile is without point 0 and its pixel  */
    ptrdiff_t row_step, step;       /* from tile to tile, down and across                        */
    ptrdiff_t first_row, last_row;  /* of a tile: which are read, the others are zeros           */
    ptrdiff_t left, inside;         /* columns of zeros before pixel 0; pixels, then zeros again */
    ptrdiff_t ahead;                /* from x to that of the run of tiles that comes next, or 0  */
    float *points;                  /* [plane][tile][channel], whole vectors of channels; where  */
    ptrdiff_t tile, plane;          /* plane 0 would be, of tiles without it too                 */
} fc_winograd_input;

/* A row of tiles of products to be transformed to outputs. */
typedef struct fc_winograd_output {
    size_t tiles, channels;
    const float *points;        /* [plane][tile][channel], whole vectors of channels         */
    ptrdiff_t tile, plane;
    float *y;
    ptrdiff_t y_row, y_pixel, y_tile;
    ptrdiff_t height, width;    /* outputs of a tile; where one is missing, its point, 0 for */
                                /* y or infinity for dw, is not read                         */
    ptrdiff_t rows, columns;    /* what is stored of the row of tiles                        */
    ptrdiff_t ahead;            /* from y to that of the run of tiles that comes next, or 0 */
    const float *bias;          /* added when not NULL, one value a channel                  */
    const float *residual;      /* added when not NULL, as y lies in memory                  */
    int relu;                   /* at last, negative values become 0                         */
} fc_winograd_output;

/* Products of a pair of rows of planes, by points of the weights that are made for them alone (see winograd.h). */
enum { FC_FEW_TILES = 4 };

typedef struct fc_plane_tiles {
    ptrdiff_t first, count;
} fc_plane_tiles;

typedef struct fc_winograd_few {
    fc_plane_tiles tiles[2][2]; /* that planes have, FC_FEW_TILES at most: [0][] of the row of the point 0, */
                                /* [1][] of the others; [][0] and [][1] likewise of columns                 */
    ptrdiff_t channels;
    int pair;                   /* 0: rows 0 and 5 of the planes; 1: 1 and 2; 2: 3 and 4         */
    const float *taps;          /* [channel][r][r][two vectors of outputs]                       */
    const float *points;        /* [plane][tile][channel]                                        */
    ptrdiff_t tile, plane;
    float *m;                   /* [plane][tile][two vectors of outputs]                         */
    ptrdiff_t m_tile, m_plane;
    int accumulate;             /* add what is found in m                                        */
    const float *next;          /* to fetch meanwhile to the L2 cache: a third of the taps       */
} fc_winograd_few;

/* As many tiles, one of each of other images or of one image, as a vector has lanes (see winograd_lanes.h). */
enum { FC_LANE_OUTPUTS = 8 };   /* whose products are made at once */

typedef struct fc_winograd_lanes {
    size_t inputs, outputs;     /* channels of x and y, or of dy and dx                      */
    const float *x;             /* [row][pixel][input][lane], from the tile's first pixel on */
    ptrdiff_t x_row, x_pixel;
    const float *u;             /* [panel][plane][input][u_width]: points of the weights     */
    ptrdiff_t u_width, u_plane, u_panel;
    float *y;                   /* [row][pixel][output][lane]; backward adds to it           */
    ptrdiff_t y_row, y_pixel;
    float *points, *products;   /* scratch: [plane][input][lane], [plane][FC_LANE_OUTPUTS][lane] */
    ptrdiff_t points_plane, products_plane;
    const float *bias;          /* forward: added when not NULL, one value an output         */
    int relu;                   /* forward: at last, negative values become 0                */
} fc_winograd_lanes;

/* The kernels for one size of filter. */
typedef struct fc_winograd {
    void (*data)(const fc_winograd_input *in);         /* of x, for outputs                                */
    void (*gradient)(const fc_winograd_input *in);     /* of dy, for dw                                    */
    void (*filter)(const ptrdiff_t taps[2], size_t channels, size_t vectors, ptrdiff_t width, const float *w, float *u,
                   ptrdiff_t plane);
    void (*output)(const fc_winograd_output *out);     /* y                                                */
    void (*weight)(const fc_winograd_output *out);     /* dw, tiles standing for channels                  */
    void (*few)(const fc_winograd_few *few);           /* NULL of 2 x 2 taps                               */
    ptrdiff_t least_few;                               /* so many tiles are faster by it                   */
    void (*lanes_forward)(const fc_winograd_lanes *tile);          /* NULL of 2 x 2 taps                   */
    void (*lanes_transposed)(const fc_winograd_lanes *tile);       /* likewise                             */
} fc_winograd;

/* Pixels that each gather `terms` source pixels, channels-last (see pool.h). Strides and offsets are in
 * elements: floats of x, positions of argmax. */
typedef struct fc_gather {
    size_t channels, pixels, terms;
    const float *x;
    ptrdiff_t x_step, y_step, argmax_step;     /* from one result pixel to the next          */
    const ptrdiff_t *offset;                   /* [terms] of a source in x                   */
    const ptrdiff_t *argmax_offset;            /* [terms] of a source in argmax, backward    */
    const int32_t *position;                   /* [terms] of a source in its window          */
    const float *scale;                        /* [terms] factor of a source                 */
    float cut;                                 /* max_pool: see pool.h; NaN: nothing is cut  */
} fc_gather;

/* Rows of windows that lie side by side, channels-last (see pool_apart.h): of results, or of dy and argmax, without
 * gaps; `row` floats from one row of pixels to the next. */
enum { FC_APART_WIDTH = 4 };

typedef struct fc_apart {
    size_t channels, rows, windows;            /* windows of a row                           */
    size_t height, width;                      /* of a window: width <= FC_APART_WIDTH       */
    ptrdiff_t row;
    float cut;                                 /* forward: as of fc_gather                   */
} fc_apart;

/* Local response normalisation: windows of `terms` values, `step` floats apart (see lrn.h). */
typedef struct fc_lrn {
    size_t terms;
    ptrdiff_t step;
    float scale, beta, k;
} fc_lrn;

enum { FC_CHAINS = 12 };        /* independent sums of multiply_add_chains (see peak.h) */

enum { FC_MOST_INTERLEAVED = 8 };        /* rows that are transposed by permutations (see copy.h) */

enum { FC_RELU, FC_SIGMOID, FC_TANH, FC_ACTIVATIONS };

typedef struct fc_kernels {
    const char *isa;                                   /* "baseline", "avx2", "avx512": the name users see */
    size_t lanes;                                      /* floats in a vector                               */
    int fma;                                           /* a * b + c is rounded once                        */
    size_t max_rows[FC_MAX_VECTORS + 1];               /* [vectors] rows of the largest tile               */
    fc_tile_fn tile_rows[FC_MAX_VECTORS + 1][FC_MAX_ROWS + 1];  /* [vectors][rows], a_step == 1      */
    fc_tile_fn tile_cols[FC_MAX_VECTORS + 1][FC_MAX_ROWS + 1];  /* [vectors][rows], a_row == 1       */
    /* Likewise, faster where sums are brief: rows do not read `later`, columns not `next`. */
    fc_tile_fn brief_rows[FC_MAX_VECTORS + 1][FC_MAX_ROWS + 1];
    fc_tile_fn brief_cols[FC_MAX_VECTORS + 1][FC_MAX_ROWS + 1];
    /* Likewise of runs of one step each: a_run, b_step, depth and next are not read. */
    fc_tile_fn tile_listed[FC_MAX_VECTORS + 1][FC_MAX_ROWS + 1];
    fc_winograd winograd[FC_WINOGRAD_MOST_TAPS - FC_WINOGRAD_LEAST_TAPS + 1];     /* of 2 x 2 taps to 5 x 5 */
    void (*transpose)(size_t rows, size_t cols, const float *x, ptrdiff_t x_row, float *y, ptrdiff_t y_row);
    void (*deal)(size_t n, size_t parts, const float *x, float *y, ptrdiff_t part);
    void (*collect)(size_t n, size_t parts, const float *x, ptrdiff_t part, float *y);
    void (*copy_spans)(size_t spans, size_t n, const float *x, ptrdiff_t x_step, float *y, ptrdiff_t y_step);
    void (*copy_strips)(size_t spans, size_t n, size_t width, const float *x, ptrdiff_t x_step, float *y,
                        ptrdiff_t y_strip);
    void (*add_spans)(size_t spans, size_t n, const float *x, ptrdiff_t x_step, float *y, ptrdiff_t y_step);
    void (*gather_lanes)(size_t n, const float *const *rows, float *y, ptrdiff_t y_step);
    void (*scatter_lanes)(size_t n, const float *x, ptrdiff_t x_step, float *const *rows, size_t count);
    void (*add_lanes)(size_t n, const float *x, ptrdiff_t x_step, float *const *rows, size_t count);
    void (*activation[FC_ACTIVATIONS])(size_t n, const float *x, float *y);
    void (*activation_backward[FC_ACTIVATIONS])(size_t n, const float *dy, const float *y, float *dx);
    void (*softmax_row)(size_t n, const float *x, float *y);
    void (*log_softmax_row)(size_t n, const float *x, float *y);
    void (*max_pool)(const fc_gather *g, float *y, void *argmax, int wide);
    void (*max_pool_backward)(const fc_gather *g, float *dx, const void *argmax, int wide);
    void (*max_pool_apart)(const fc_apart *a, const float *x, float *y, uint8_t *argmax);
    void (*max_pool_apart_backward)(const fc_apart *a, const float *dy, const uint8_t *argmax, float *dx);
    void (*weighted_sum)(const fc_gather *g, float *y);
    void (*moments)(size_t channels, size_t pixels, const float *x, ptrdiff_t x_pixel, float *mean, float *delta,
                    float *m2);
    void (*normalize)(size_t channels, size_t pixels, const float *x, ptrdiff_t x_pixel, const float *mean,
                      const float *scale, const float *bias, const float *residual, int relu, int stream, float *y,
                      ptrdiff_t y_pixel);
    void (*gradient_sums)(size_t channels, size_t pixels, const float *dy, ptrdiff_t dy_pixel, const float *x,
                          ptrdiff_t x_pixel, const float *mean, const float *y, const float *scale, const float *bias,
                          int stream, float *masked, float *sum_dy, float *sum_dy_x);
    void (*norm_backward)(size_t channels, size_t pixels, const float *dy, ptrdiff_t dy_pixel, const float *x,
                          ptrdiff_t x_pixel, const float *y, const float *mean, const float *mean_dy,
                          const float *slope, const float *scale, const float *bias, int stream, float *dx);
    void (*sum_spans)(size_t n, size_t terms, const float *const *x, size_t at, int relu, int stream, float *y);
    void (*outer_rows)(size_t rows, const fc_outer *o);
    void (*product_rows)(size_t rows, const fc_outer *o);
    void (*product_compressed)(size_t rows, const fc_outer *o);
    double (*square_sum)(size_t n, const float *x);
    void (*sgd_span)(size_t n, const fc_sgd *sgd, const float *g, float *v, float *p);
    void (*adam_span)(size_t n, const fc_adam *adam, const float *g, float *m, float *v, float *p);
    void (*square_span)(size_t n, const float *x, float *s);
    void (*lrn_span)(size_t n, const fc_lrn *lrn, const float *s, const float *x, float *y);
    void (*lrn_ratio_span)(size_t n, const fc_lrn *lrn, const float *s, const float *dy, const float *x, float *power,
                           float *ratio);
    void (*lrn_backward_span)(size_t n, const fc_lrn *lrn, const float *ratio, const float *power, const float *dy,
                              const float *x, float *dx);
    void (*lstm_cell_span)(size_t n, float *gates, const float *c_before, float *c, float *h);
    void (*lstm_cell_backward_span)(size_t n, const float *gates, const float *c_before, const float *c,
                                    const float *dh, float *dc, float *dz);
    void (*multiply_add_chains)(size_t rounds, const float *start, float *result);
} fc_kernels;

static inline void fc_add_span(const fc_kernels *kernels, size_t n, const float *x, float *y)
{
    kernels->add_spans(1, n, x, 0, y, 0);
}

#endif
