/* SPDX-License-Identifier: MIT */
#include "cpu.h"

#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

int fc_cpu_supports(const char *isa)
{
    if (!strcmp(isa, "baseline"))
        return 1;
#if defined(__x86_64__)
    /* The builtin also reads XCR0: a system that does not save ymm or zmm reports the bit as absent. */
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(isa, "avx2"))
        return avx2;
    if (!strcmp(isa, "avx512"))
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#endif
    return 0;
}

size_t fc_cpu_cache_bytes(int level)
{
    long bytes = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
#else
    (void)level; /* musl and macOS do not say */
#endif
    return bytes > 0 ? (size_t)bytes : 0;
}

const char *fc_cpu_name(void)
{
#if defined(__x86_64__)
    static _Thread_local char name[49];
    unsigned words[12] = {0};
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
    memcpy(name, words, 48);
    return name;
#else
    return "";
#endif
}

#if defined(__x86_64__)
enum { FTZ = 0x8000, DAZ = 0x0040 };

unsigned long long fc_cpu_flush_denormals(void)
{
    unsigned state = _mm_getcsr();
    _mm_setcsr(state | FTZ | DAZ);
    return state;
}

void fc_cpu_restore(unsigned long long state)
{
    /* The sticky exception flags of our own arithmetic are dropped with the rest. */
    _mm_setcsr((unsigned)state);
}
#elif defined(__aarch64__)
unsigned long long fc_cpu_flush_denormals(void)
{
    unsigned long long state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    __asm__ volatile("msr fpcr, %0" ::"r"(state | 1ull << 24));
    return state;
}

void fc_cpu_restore(unsigned long long state)
{
    __asm__ volatile("msr fpcr, %0" ::"r"(state));
}
#else
unsigned long long fc_cpu_flush_denormals(void) { return 0; }
void fc_cpu_restore(unsigned long long state) { (void)state; }
#endif
