/* SPDX-License-Identifier: MIT */
/* What POSIX and Windows have different words for. */
#ifndef FC_SYSTEM_H
#define FC_SYSTEM_H

#include <stddef.h>

void *fc_pages_map(size_t bytes);                /* fresh pages, NULL when there is no memory      */
void fc_pages_unmap(void *pages, size_t bytes);

/* One lock, the memory pool's. */
void fc_lock(void);
void fc_unlock(void);

long long fc_now(void);                          /* nanoseconds since some moment                  */
unsigned long long fc_thread(void);              /* the calling thread, by the number Python has for it */

#endif
