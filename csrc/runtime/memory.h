/* SPDX-License-Identifier: MIT */
/* The pool that outputs and workspaces come from.
 *
 * Fresh pages cost more than most operations on them, so freed blocks are kept for the next call.
 * What is kept never exceeds one and a half times the most that was in use at once by more than 64 MiB, and
 * fc_memory_trim() returns it. */
#ifndef FC_MEMORY_H
#define FC_MEMORY_H

#include <stddef.h>

void *fc_alloc(size_t bytes);            /* 64-byte aligned; NULL when there is no memory. Any thread. */
void fc_free(void *block);               /* NULL is fine */

typedef struct fc_memory {
    size_t used_bytes, kept_bytes, peak_bytes;
} fc_memory;
fc_memory fc_memory_stats(void);
void fc_memory_trim(void);

#endif
