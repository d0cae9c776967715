/* SPDX-License-Identifier: MIT */
/* What the processor and the operating system offer. */
#ifndef FC_CPU_H
#define FC_CPU_H

#include <stddef.h>

int fc_cpu_supports(const char *isa);            /* instructions and the registers' state both usable */
size_t fc_cpu_cache_bytes(int level);            /* data cache of level 1, 2 or 3; 0 when unknown     */
const char *fc_cpu_name(void);                   /* brand string; "" when unknown                     */

/* Flush-to-zero in the calling thread: a denormal costs some processors a hundred cycles. */
unsigned long long fc_cpu_flush_denormals(void); /* returns the state that fc_cpu_restore puts back   */
void fc_cpu_restore(unsigned long long state);

#endif
