/* SPDX-License-Identifier: MIT */
/* Compresses weights of linear layers to the rows that kernels/compressed.h multiplies by: counts exponents, chooses the
 * window of the codes, finds out which rows fit it and how long each tile becomes, writes the tiles. */
#include <stdatomic.h>
#include <string.h>

#include "../runtime/dispatch.h"
#include "../runtime/memory.h"
#include "../runtime/threads.h"
#include "correlate_plan.h"
#include "integers.h"
#include "ops.h"

enum {
    EXPONENTS = 256, CODES = 16, EXPONENT_SHIFT = 23,
    LEAST_LANES = 8,                           /* narrower vectors take longer than the words that are saved */
};

static const double WEIGHT_NS = 3;             /* of one thread, for a weight                              */
static const double LEAST_SAVING = 1.0 / 16;   /* of the bytes, below which a weight is better left as it is */

typedef struct compression {
    const fc_tensor *w;
    fc_compressed *made;
    size_t *tile;
    uint32_t *plain;
    atomic_size_t exponents[EXPONENTS];        /* how many weights have each */
} compression;

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static uint32_t exponent_of(uint32_t bits) { return bits >> EXPONENT_SHIFT & 255; }

/* The weights of a row of a tile; behind the last output what fits in, or zeros while that is not known. */
static void read_row(const compression *c, ptrdiff_t d, ptrdiff_t panel, uint32_t row[FC_ROW_FLOATS])
{
    const fc_tensor *w = c->w;
    const ptrdiff_t k0 = panel * FC_ROW_FLOATS, outputs = min(FC_ROW_FLOATS, c->made->outputs - k0);
    for (ptrdiff_t k = 0; k < FC_ROW_FLOATS; k++)
        row[k] = k < outputs ? bits_of(w->data[(k0 + k) * w->stride[0] + d * w->stride[1]])
                             : (uint32_t)c->made->exponent;
}

/* The exponent as a code, where it is one below CODES. */
static uint32_t code_of(const fc_compressed *made, uint32_t bits)
{
    return exponent_of(bits) - ((uint32_t)made->exponent >> EXPONENT_SHIFT);
}

typedef struct rows {
    ptrdiff_t first, end, panel;               /* inputs; outputs */
    uint32_t *plain;
} rows;

static rows rows_of(const compression *c, size_t tile)
{
    const fc_compressed *made = c->made;
    const ptrdiff_t first = (ptrdiff_t)tile / made->panels * made->part;
    return (rows){
        .first = first, .end = min(made->inputs, first + made->part), .panel = (ptrdiff_t)tile % made->panels,
        .plain = c->plain + (ptrdiff_t)tile * made->words,
    };
}

static void count_exponents(void *context, size_t part, int thread)
{
    (void)thread;
    compression *c = context;
    const fc_compressed *made = c->made;
    const ptrdiff_t d0 = (ptrdiff_t)part * made->part, d1 = min(made->inputs, d0 + made->part);
    uint32_t row[FC_ROW_FLOATS];
    size_t count[EXPONENTS] = {0};
    for (ptrdiff_t panel = 0; panel < made->panels; panel++)
        for (ptrdiff_t d = d0; d < d1; d++) {
            read_row(c, d, panel, row);
            for (int k = 0; k < FC_ROW_FLOATS; k++)
                count[exponent_of(row[k])]++;
        }
    for (int exponent = 0; exponent < EXPONENTS; exponent++)
        atomic_fetch_add(&c->exponents[exponent], count[exponent]);
}

/* The first of the exponents that most weights have. Zeros and denormals are not among them, nor infinity and NaN. */
static int choose_exponent(const compression *c)
{
    int best = 1;
    size_t most = 0;
    for (int first = 1; first + CODES < EXPONENTS; first++) {
        size_t inside = 0;
        for (int code = 0; code < CODES; code++)
            inside += c->exponents[first + code];
        if (inside > most) {
            most = inside;
            best = first;
        }
    }
    return best;
}

/* Marks a tile's plain rows, and finds its length. */
static void mark_tile(void *context, size_t tile, int thread)
{
    (void)thread;
    const compression *c = context;
    const rows r = rows_of(c, tile);
    uint32_t row[FC_ROW_FLOATS];
    memset(r.plain, 0, (size_t)c->made->words * sizeof *r.plain);
    c->tile[tile] = 0;
    for (ptrdiff_t d = r.first; d < r.end; d++) {
        const ptrdiff_t at = d - r.first;
        read_row(c, d, r.panel, row);
        int fits = 1;
        for (int k = 0; k < FC_ROW_FLOATS; k++)
            fits &= code_of(c->made, row[k]) < CODES;
        r.plain[at / FC_ROW_TERMS] |= (uint32_t)!fits << at % FC_ROW_TERMS;
        c->tile[tile] += fits ? FC_ROW_WORDS : FC_ROW_FLOATS;
    }
}

/* Makes tiles' lengths their places; returns the floats of all. */
static size_t place_tiles(const compression *c, size_t tiles)
{
    size_t end = 0;
    for (size_t i = 0; i < tiles; i++) {
        const size_t length = c->tile[i];
        c->tile[i] = end;
        end += length;
    }
    return end;
}

/* As kernels/compressed.h takes it. */
static void compress_row(const fc_compressed *made, const uint32_t row[FC_ROW_FLOATS], uint32_t words[FC_ROW_WORDS])
{
    for (int k = 0; k < FC_ROW_FLOATS; k++) {
        const uint32_t sign = row[k] & 0x80000000, significand = row[k] & 0x7fffff;
        const uint32_t upper = sign | code_of(made, row[k]) << (EXPONENT_SHIFT + 4) | significand << 4;
        if (k < FC_ROW_WORDS)
            words[k] = upper;
        else
            for (int v = 0; v < FC_ROW_WORDS / FC_ROW_LANES; v++)
                words[v * FC_ROW_LANES + k % FC_ROW_LANES] |= upper >> (4 * v + 4) & 15;
    }
}

static void write_tile(void *context, size_t tile, int thread)
{
    (void)thread;
    const compression *c = context;
    const rows r = rows_of(c, tile);
    float *to = c->made->data + c->tile[tile];
    uint32_t row[FC_ROW_FLOATS], words[FC_ROW_WORDS];
    for (ptrdiff_t d = r.first; d < r.end; d++) {
        const ptrdiff_t at = d - r.first;
        read_row(c, d, r.panel, row);
        if (r.plain[at / FC_ROW_TERMS] >> at % FC_ROW_TERMS & 1) {
            memcpy(to, row, sizeof row);
            to += FC_ROW_FLOATS;
        } else {
            compress_row(c->made, row, words);
            memcpy(to, words, sizeof words);
            to += FC_ROW_WORDS;
        }
    }
}

int fc_compress(const fc_tensor *w, fc_compressed *made)
{
    *made = (fc_compressed){.outputs = w->size[0], .inputs = w->size[1], .part = fc_correlation_part(w->size[1], 1)};
    made->parts = ceil_div(made->inputs, made->part);
    made->panels = ceil_div(made->outputs, FC_ROW_FLOATS);
    made->words = ceil_div(made->part, FC_ROW_TERMS);
    compression c = {.w = w, .made = made};
    const size_t tiles = (size_t)(made->parts * made->panels);
    if (fc_kernels_active()->lanes < LEAST_LANES)
        return 0;
    const double weights = (double)made->outputs * (double)made->inputs;
    const int threads = fc_team_size(weights * WEIGHT_NS);
    c.tile = fc_alloc(tiles * (sizeof *c.tile + (size_t)made->words * sizeof *c.plain));
    if (!c.tile)
        return -1;
    c.plain = (uint32_t *)(c.tile + tiles);
    fc_parallel_for((size_t)made->parts, threads, 0, count_exponents, &c);
    made->exponent = choose_exponent(&c) << EXPONENT_SHIFT;
    fc_parallel_for(tiles, threads, 0, mark_tile, &c);
    made->floats = place_tiles(&c, tiles);
    made->tile = c.tile;
    made->plain = c.plain;
    if ((double)made->floats >= (1 - LEAST_SAVING) * weights) {
        fc_compressed_free(made);
        return 0;
    }
    made->data = fc_alloc(made->floats * sizeof(float));
    if (!made->data) {
        fc_compressed_free(made);
        return -1;
    }
    fc_parallel_for(tiles, threads, 0, write_tile, &c);
    return 0;
}

void fc_compressed_free(fc_compressed *made)
{
    fc_free(made->data);
    fc_free((void *)made->tile);
    made->data = NULL;
    made->tile = NULL;
}
