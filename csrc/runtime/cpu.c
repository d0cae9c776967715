/* SPDX-License-Identifier: MIT */
#include "cpu.h"

#include <stdatomic.h>
#include <string.h>
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

/* __builtin_cpu_supports would need a library of Clang's that the linker of Windows does not know. */
static int supports_avx(int avx512)
{
    unsigned eax, ebx, ecx, edx, saved, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE) || !(ecx & bit_FMA))
        return 0;
    /* Which registers the system saves: bits 1 and 2 are xmm and ymm, 5 to 7 those of AVX-512. */
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    const unsigned registers = avx512 ? 0xe6 : 0x06;
    const unsigned bits = bit_AVX2 | (avx512 ? bit_AVX512F | bit_AVX512VL | bit_AVX512DQ | bit_AVX512BW : 0);
    return (saved & registers) == registers && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bits) == bits;
}
#endif

int fc_cpu_supports(const char *isa)
{
    if (!strcmp(isa, "baseline"))
        return 1;
#if defined(__x86_64__)
    if (!strcmp(isa, "avx2"))
        return supports_avx(0);
    if (!strcmp(isa, "avx512"))
        return supports_avx(1);
#endif
    return 0;
}

/* Of one cache, which cores share: the C library's level 3 may be that of all of them together. AMD's and Intel's
 * processors answer under numbers of their own. */
static size_t ask_processor(int level)
{
#if defined(__x86_64__)
    enum { INSTRUCTIONS = 2, MOST_CACHES = 8 };
    static const unsigned leaves[] = {0x8000001d, 4};
    unsigned eax, ebx, ecx, edx;
    for (int l = 0; l < 2; l++)
        for (unsigned i = 0; i < MOST_CACHES; i++) {
            if (!__get_cpuid_count(leaves[l], i, &eax, &ebx, &ecx, &edx) || !(eax & 31))
                break;
            if ((int)(eax >> 5 & 7) == level && (eax & 31) != INSTRUCTIONS) {
                const size_t ways = (ebx >> 22) + 1, parts = (ebx >> 12 & 1023) + 1, line = (ebx & 4095) + 1;
                return ways * parts * line * ((size_t)ecx + 1);
            }
        }
#endif
    (void)level;
    return 0;
}

static size_t ask_system(int level)
{
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    const long bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : level == 2 ? _SC_LEVEL2_CACHE_SIZE
                                                                               : _SC_LEVEL3_CACHE_SIZE);
    return bytes > 0 ? (size_t)bytes : 0;
#else
    (void)level;
    return 0;
#endif
}

size_t fc_cpu_cache_bytes(int level)
{
    /* Bytes + 1, 0 before they are asked for: that may end up in the host of a virtual machine, a microsecond or more. */
    static atomic_size_t known[4];
    size_t one_more = atomic_load_explicit(&known[level], memory_order_relaxed);
    if (!one_more) {
        const size_t bytes = ask_processor(level);
        one_more = (bytes ? bytes : ask_system(level)) + 1;
        atomic_store_explicit(&known[level], one_more, memory_order_relaxed);
    }
    return one_more - 1;
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
