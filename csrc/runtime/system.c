/* SPDX-License-Identifier: MIT */
#include "system.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static SRWLOCK lock = SRWLOCK_INIT;
void fc_lock(void) { AcquireSRWLockExclusive(&lock); }
void fc_unlock(void) { ReleaseSRWLockExclusive(&lock); }

/* Large pages would take a right that users do not have. */
void *fc_pages_map(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

void fc_pages_unmap(void *pages, size_t bytes)
{
    (void)bytes;
    VirtualFree(pages, 0, MEM_RELEASE);
}

long long fc_now(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (long long)((double)ticks.QuadPart * (1e9 / (double)per_second.QuadPart));
}

unsigned long long fc_thread(void) { return GetCurrentThreadId(); }

#else
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
void fc_lock(void) { pthread_mutex_lock(&lock); }
void fc_unlock(void) { pthread_mutex_unlock(&lock); }

enum { HUGE_BYTES = 2 << 20 };

/* Mappings of 2 MiB and more are aligned to it and ask for huge pages: fewer faults, fewer TLB misses. */
void *fc_pages_map(size_t bytes)
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
    return start;
}

void fc_pages_unmap(void *pages, size_t bytes) { munmap(pages, bytes); }

long long fc_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

unsigned long long fc_thread(void) { return (unsigned long long)(uintptr_t)pthread_self(); }
#endif
