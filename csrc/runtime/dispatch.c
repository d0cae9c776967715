/* SPDX-License-Identifier: MIT */
#include "dispatch.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

extern const fc_kernels fc_kernels_baseline;
#if defined(FC_HAVE_AVX2)
extern const fc_kernels fc_kernels_avx2;
#endif
#if defined(FC_HAVE_AVX512)
extern const fc_kernels fc_kernels_avx512;
#endif

/* Best first. */
static const fc_kernels *const tables[] = {
#if defined(FC_HAVE_AVX512)
    &fc_kernels_avx512,
#endif
#if defined(FC_HAVE_AVX2)
    &fc_kernels_avx2,
#endif
    &fc_kernels_baseline,
};

static _Atomic(const fc_kernels *) active;

const fc_kernels *fc_kernels_available(size_t i)
{
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        if (fc_cpu_supports(tables[t]->isa) && i-- == 0)
            return tables[t];
    return NULL;
}

int fc_kernels_select(const char *isa)
{
    for (size_t i = 0; fc_kernels_available(i); i++)
        if (!strcmp(fc_kernels_available(i)->isa, isa)) {
            atomic_store(&active, fc_kernels_available(i));
            return 0;
        }
    return -1;
}

const fc_kernels *fc_kernels_active(void)
{
    const fc_kernels *table = atomic_load_explicit(&active, memory_order_acquire);
    if (table)
        return table;
    /* What another thread selects meanwhile is kept: it is left in `table`. */
    const fc_kernels *best = fc_kernels_available(0);
    return atomic_compare_exchange_strong(&active, &table, best) ? best : table;
}
