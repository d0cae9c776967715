/* SPDX-License-Identifier: MIT */
#include "memory.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>

/* Before each block, inside its first 64 bytes. Sizes are rounded to an eighth of a power of two, so
 * that there are few classes and at most 1/8 is lost; classes are numbered upwards from 4 KiB. */
typedef struct block {
    struct block *next;
    size_t bytes;          /* of the whole mapping */
    size_t freed;          /* when: the count of frees before */
    unsigned size_class;
} block;

enum { HEADER_BYTES = 64, CLASSES = 8 * 48, HUGE_BYTES = 2 << 20 };

/* A block of so many classes above the one asked for, of up to twice the size, serves as well. */
enum { NEAR_CLASSES = 8 };
static const size_t SMALLEST_BYTES = 4096;

/* Kept beyond one and a half times the most that was in use at once: calls of different shapes by turns, such as the
 * two passes of a training step, need blocks of more sizes than any one moment does, and mapping a block anew costs
 * more than most layers that fit in here. */
static const size_t SPARE_BYTES = 64 << 20;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
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

/* Mappings of 2 MiB and more are aligned to it and ask for huge pages: fewer faults, fewer TLB misses. */
static block *map_block(size_t bytes)
{
    size_t slack = bytes >= HUGE_BYTES ? HUGE_BYTES : 0;
    char *start = mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    if (slack) {
        char *aligned = (char *)(((uintptr_t)start + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
        if (aligned > start)
            munmap(start, (size_t)(aligned - start));
        size_t behind = (size_t)(start + slack - aligned);
        if (behind)
            munmap(aligned + bytes, behind);
        start = aligned;
#if defined(MADV_HUGEPAGE)
        madvise(start, bytes, MADV_HUGEPAGE);
#endif
    }
    return (block *)start;
}

static void unmap_list(block *list)
{
    while (list) {
        block *next = list->next;
        munmap(list, list->bytes);
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

    pthread_mutex_lock(&lock);
    block *b = NULL;
    for (unsigned i = size_class; !b && i <= size_class + NEAR_CLASSES && i < CLASSES; i++)
        if ((b = kept[i])) {
            kept[i] = b->next;
            stats.kept_bytes -= b->bytes;
        }
    pthread_mutex_unlock(&lock);
    if (!b) {
        b = map_block(rounded);
        if (!b) {                          /* what is kept may be what is missing */
            fc_memory_trim();
            b = map_block(rounded);
        }
        if (!b)
            return NULL;
        b->bytes = rounded;
        b->size_class = size_class;
    }
    pthread_mutex_lock(&lock);
    stats.used_bytes += b->bytes;
    if (stats.used_bytes > stats.peak_bytes)
        stats.peak_bytes = stats.used_bytes;
    pthread_mutex_unlock(&lock);
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
    pthread_mutex_lock(&lock);
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
    pthread_mutex_unlock(&lock);
    unmap_list(surplus);
}

fc_memory fc_memory_stats(void)
{
    pthread_mutex_lock(&lock);
    fc_memory now = stats;
    pthread_mutex_unlock(&lock);
    return now;
}

void fc_memory_trim(void)
{
    pthread_mutex_lock(&lock);
    block *lists[CLASSES];
    for (unsigned i = 0; i < CLASSES; i++) {
        lists[i] = kept[i];
        kept[i] = NULL;
    }
    stats.kept_bytes = 0;
    stats.peak_bytes = stats.used_bytes;
    pthread_mutex_unlock(&lock);
    for (unsigned i = 0; i < CLASSES; i++)
        unmap_list(lists[i]);
}
