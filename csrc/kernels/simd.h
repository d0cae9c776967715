/* SPDX-License-Identifier: MIT */
/* One vector of FC_LANES floats, whatever the instruction set.
 *
 * Built on the compiler's own vector type: + - * are native operators and a * b + c contracts to one
 * FMA where the instruction set has it. An operation is added here only when two kernels need it.
 */
#ifndef FC_SIMD_H
#define FC_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef float   vf __attribute__((vector_size(FC_LANES * sizeof(float))));
typedef int32_t vi __attribute__((vector_size(FC_LANES * sizeof(int32_t))));

#define FC_INLINE static inline __attribute__((always_inline, unused))

FC_INLINE vf   vload(const float *p)           { vf v; memcpy(&v, p, sizeof v); return v; }
FC_INLINE void vstore(float *p, vf v)          { memcpy(p, &v, sizeof v); }
FC_INLINE vf   vset1(float s)                  { return s - (vf){0}; }
FC_INLINE vf   vpick(vi take_a, vf a, vf b)    { return (vf)(((vi)a & take_a) | ((vi)b & ~take_a)); }

/* The first `count` lanes only; memory behind them is neither read nor written. */
FC_INLINE vf vload_part(const float *p, size_t count)
{
    vf v = {0};
    memcpy(&v, p, count * sizeof(float));
    return v;
}

FC_INLINE void vstore_part(float *p, vf v, size_t count)
{
    memcpy(p, &v, count * sizeof(float));
}

#endif
