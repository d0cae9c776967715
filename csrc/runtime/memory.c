/* SPDX-License-Identifier: MIT */
#include "memory.h"

#include <stdint.h>

#include "system.h"

/* Before each block, inside its first 64 bytes. Sizes are rounded to an eighth of a power of two, so
 * that there are few classes and at most 1/8 is lost; classes are numbered upwards from 4 KiB. */
typedef struct block {
    struct block *next;
    size_t bytes;          /* of the whole mapping */
    size_t freed;          /* when: the count of frees before */
    unsigned size_class;
} block;

enum { HEADER_BYTES = 64, CLASSES = 8 * 48 };

/* A block of so many classes above the one asked for, of up to twice the size, serves as well. */
enum { NEAR_CLASSES = 8 };
static const size_t SMALLEST_BYTES = 4096;

/* Kept beyond one and a half times the most that was in use at once: calls of different shapes by turns, such as the
 * two passes of a training step, need blocks of more sizes than any one moment does, and mapping a block anew costs
 * more than most layers that fit in here. */
static const size_t SPARE_BYTES = 64 << 20;

static block *kept[CLASSES];
static fc_memory stats;
static size_t frees;

/* The class whose size is the least one >= bytes; its size goes to *rounded. */
static unsigned class_of(size_t bytes, size_t *rounded)
{
    size_t base = SMALLEST_BYTES;
    unsigned size_class = 0;
    for (; bytes > 2 * base; base *= 2)
        size_class += 8;
    size_t step = base / 8;
    size_t steps = bytes <= base ? 0 : (bytes - base + step - 1) / step;
    *rounded = base + steps * step;
    return size_class + (unsigned)steps;
}

static void unmap_list(block *list)
{
    while (list) {
        block *next = list->next;
        fc_pages_unmap(list, list->bytes);
        list = next;
    }
}

void *fc_alloc(size_t bytes)
{
    size_t rounded;
    if (bytes > PTRDIFF_MAX / 2)
        return NULL;
    unsigned size_class = class_of(bytes + HEADER_BYTES, &rounded);
    rounded = (rounded + 4095) & ~(size_t)4095;

    fc_lock();
    block *b = NULL;
    for (unsigned i = size_class; !b && i <= size_class + NEAR_CLASSES && i < CLASSES; i++)
        if ((b = kept[i])) {
            kept[i] = b->next;
            stats.kept_bytes -= b->bytes;
        }
    fc_unlock();
    if (!b) {
        b = fc_pages_map(rounded);
        if (!b) {                          /* what is kept may be what is missing */
            fc_memory_trim();
            b = fc_pages_map(rounded);
        }
        if (!b)
            return NULL;
        b->bytes = rounded;
        b->size_class = size_class;
    }
    fc_lock();
    stats.used_bytes += b->bytes;
    if (stats.used_bytes > stats.peak_bytes)
        stats.peak_bytes = stats.used_bytes;
    fc_unlock();
    return (char *)b + HEADER_BYTES;
}

/* Takes the block that was kept longest. There must be one. */
static block *take_oldest(void)
{
    block **oldest = NULL;
    for (unsigned i = 0; i < CLASSES; i++)
        for (block **b = &kept[i]; *b; b = &(*b)->next)
            if (!oldest || (*b)->freed < (*oldest)->freed)
                oldest = b;
    block *taken = *oldest;
    *oldest = taken->next;
    stats.kept_bytes -= taken->bytes;
    return taken;
}

void fc_free(void *data)
{
    if (!data)
        return;
    block *b = (block *)((char *)data - HEADER_BYTES);
    fc_lock();
    stats.used_bytes -= b->bytes;
    /* What was freed last is kept, in the place of what nothing has asked for since: else blocks of shapes long gone
     * would fill the room, and each call would map its own anew. */
    block *surplus = NULL;
    b->freed = frees++;
    b->next = kept[b->size_class];
    kept[b->size_class] = b;
    stats.kept_bytes += b->bytes;
    while (stats.kept_bytes > stats.peak_bytes / 2 * 3 + SPARE_BYTES) {
        block *old = take_oldest();
        old->next = surplus;
        surplus = old;
    }
    fc_unlock();
    unmap_list(surplus);
}

fc_memory fc_memory_stats(void)
{
    fc_lock();
    fc_memory now = stats;
    fc_unlock();
    return now;
}

void fc_memory_trim(void)
{
    fc_lock();
    block *lists[CLASSES];
    for (unsigned i = 0; i < CLASSES; i++) {
        lists[i] = kept[i];
        kept[i] = NULL;
    }
    stats.kept_bytes = 0;
    stats.peak_bytes = stats.used_bytes;
    fc_unlock();
    for (unsigned i = 0; i < CLASSES; i++)
        unmap_list(lists[i]);
}
