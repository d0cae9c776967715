/* SPDX-License-Identifier: MIT */
/* One vector of FC_LANES floats, whatever the instruction set.
 *
 * Built on the compiler's own vector type: + - * / and comparisons are native operators and a * b + c
 * contracts to one FMA where the instruction set has it. An operation is added here only when two
 * kernels need it, or one needs intrinsics: they appear here only, where the vector type has no words for them.
 */
#ifndef FC_SIMD_H
#define FC_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if FC_LANES == 16 || FC_LANES == 8
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef float   vf __attribute__((vector_size(FC_LANES * sizeof(float))));
typedef int32_t vi __attribute__((vector_size(FC_LANES * sizeof(int32_t))));
typedef uint8_t vb __attribute__((vector_size(FC_LANES)));

#define FC_INLINE static inline __attribute__((always_inline, unused))

/* Before a loop of at most N turns, a number known once all is inlined: no loop is left, so that arrays of vectors
 * become registers. */
#define FC_PRAGMA(TEXT) _Pragma(#TEXT)
#if defined(__clang__)
#define FC_UNROLL(N) FC_PRAGMA(clang loop unroll(full))
#else
#define FC_UNROLL(N) FC_PRAGMA(GCC unroll N)
#endif

FC_INLINE vf   vload(const float *p)           { vf v; memcpy(&v, p, sizeof v); return v; }
FC_INLINE void vstore(float *p, vf v)          { memcpy(p, &v, sizeof v); }
/* To a place aligned to a vector, past the caches: memory is not read first to be overwritten. */
FC_INLINE void vstream(float *p, vf v)
{
#if FC_LANES == 16
    _mm512_stream_ps(p, (__m512)v);
#elif FC_LANES == 8
    _mm256_stream_ps(p, (__m256)v);
#else
    vstore(p, v);
#endif
}

/* Behind what was streamed, so that other threads see it before what follows. */
FC_INLINE void vstream_end(void)
{
#if FC_LANES == 16 || FC_LANES == 8
    _mm_sfence();
#endif
}

FC_INLINE vf   vset1(float s)                  { return s - (vf){0}; }
FC_INLINE vf   vpick(vi take_a, vf a, vf b)    { return (vf)(((vi)a & take_a) | ((vi)b & ~take_a)); }
FC_INLINE vi   vpick_int(vi take_a, vi a, vi b) { return (a & take_a) | (b & ~take_a); }

/* x where it is above zero or NaN, else 0. */
FC_INLINE vf   vrelu(vf x)                     { return (vf)((vi)x & ~(x <= 0.0f)); }

/* The lanes LANE(0, ...), LANE(1, ...), ... of a and, from FC_LANES on, of b. */
#if FC_LANES == 16
#define FC_EACH_LANE(LANE, ...)                                                                         \
    LANE(0, __VA_ARGS__), LANE(1, __VA_ARGS__), LANE(2, __VA_ARGS__), LANE(3, __VA_ARGS__),             \
    LANE(4, __VA_ARGS__), LANE(5, __VA_ARGS__), LANE(6, __VA_ARGS__), LANE(7, __VA_ARGS__),             \
    LANE(8, __VA_ARGS__), LANE(9, __VA_ARGS__), LANE(10, __VA_ARGS__), LANE(11, __VA_ARGS__),           \
    LANE(12, __VA_ARGS__), LANE(13, __VA_ARGS__), LANE(14, __VA_ARGS__), LANE(15, __VA_ARGS__)
#elif FC_LANES == 8
#define FC_EACH_LANE(LANE, ...)                                                                         \
    LANE(0, __VA_ARGS__), LANE(1, __VA_ARGS__), LANE(2, __VA_ARGS__), LANE(3, __VA_ARGS__),             \
    LANE(4, __VA_ARGS__), LANE(5, __VA_ARGS__), LANE(6, __VA_ARGS__), LANE(7, __VA_ARGS__)
#else
#define FC_EACH_LANE(LANE, ...)                                                                         \
    LANE(0, __VA_ARGS__), LANE(1, __VA_ARGS__), LANE(2, __VA_ARGS__), LANE(3, __VA_ARGS__)
#endif
#if defined(__clang__)
#define FC_SHUFFLE(A, B, LANE, ...) __builtin_shufflevector(A, B, FC_EACH_LANE(LANE, __VA_ARGS__))
#else
#define FC_SHUFFLE(A, B, LANE, ...) __builtin_shuffle(A, B, (vi){FC_EACH_LANE(LANE, __VA_ARGS__)})
#endif

/* Hide from the compiler how a value came about: it is kept in a register, not computed again. */
#define FC_OPAQUE(INTEGER) __asm__("" : "+r"(INTEGER))
/* a * b + c, rounded once where the instruction set can: where a condition or a constant is near, compilers fuse a
 * product and a sum now, and now not. */
FC_INLINE vf vfma(vf a, vf b, vf c)
{
#if FC_LANES == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FC_LANES == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* a * b rounded, to be added to another product: of two, compilers would fuse now one, now the other with the sum. */
FC_INLINE vf vproduct(vf a, vf b)              { return a * b + 0.0f; }

FC_INLINE vf vsqrt(vf v)
{
#if FC_LANES == 16
    return (vf)_mm512_sqrt_ps((__m512)v);
#elif FC_LANES == 8
    return (vf)_mm256_sqrt_ps((__m256)v);
#else
    for (int i = 0; i < FC_LANES; i++)
        v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

/* b where it is larger or NaN, else a. x86's maximum gives its second operand where they are equal or one is NaN. */
#if FC_LANES == 16
FC_INLINE vf   vmaximum(vf a, vf b)            { return vpick(b != b, b, (vf)_mm512_max_ps((__m512)b, (__m512)a)); }
#elif FC_LANES == 8
FC_INLINE vf   vmaximum(vf a, vf b)            { return vpick(b != b, b, (vf)_mm256_max_ps((__m256)b, (__m256)a)); }
#else
FC_INLINE vf   vmaximum(vf a, vf b)            { return vpick((b > a) | (b != b), b, a); }
#endif

/* Where `value` is larger than the best or NaN it becomes the best, and *where is `here`. */
FC_INLINE void vkeep_larger(vf value, int32_t here, vf *best, vi *where)
{
#if FC_LANES == 16
    const __mmask16 take = _mm512_cmp_ps_mask((__m512)value, (__m512)*best, _CMP_GT_OQ) |
                           _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
    *best = (vf)_mm512_mask_mov_ps((__m512)*best, take, (__m512)value);
    *where = (vi)_mm512_mask_set1_epi32((__m512i)*where, take, here);
#else
    const vi take = (value > *best) | (value != value);
    *best = vpick(take, value, *best);
    *where = vpick_int(take, here - (vi){0}, *where);
#endif
}

/* FC_LANES bytes, widened to or narrowed from the integers of a vector. GCC converts them one by one. */
#if FC_LANES == 16
FC_INLINE vi   vload_bytes(const uint8_t *p)
{
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}

FC_INLINE void vstore_bytes(uint8_t *p, vi v)  { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)v)); }
#elif FC_LANES == 8
FC_INLINE vi   vload_bytes(const uint8_t *p)
{
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

FC_INLINE void vstore_bytes(uint8_t *p, vi v)
{
    const __m128i low = _mm256_castsi256_si128((__m256i)v), high = _mm256_extracti128_si256((__m256i)v, 1);
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(_mm_packus_epi32(low, high), low));
}
#else
FC_INLINE vi   vload_bytes(const uint8_t *p)   { vb v; memcpy(&v, p, sizeof v); return __builtin_convertvector(v, vi); }
FC_INLINE void vstore_bytes(uint8_t *p, vi v)  { vb b = __builtin_convertvector(v, vb); memcpy(p, &b, sizeof b); }
#endif

/* Lanes from[0], from[1], ... of low and, from FC_LANES on, of high; each below 2 * FC_LANES. */
FC_INLINE vf vlanes_of(vf low, vf high, vi from)
{
#if FC_LANES == 16
    return (vf)_mm512_permutex2var_ps((__m512)low, (__m512i)from, (__m512)high);
#elif FC_LANES == 8
    const __m256 of_low = _mm256_permutevar8x32_ps((__m256)low, (__m256i)from);
    const __m256 of_high = _mm256_permutevar8x32_ps((__m256)high, (__m256i)from);
    return vpick(from < FC_LANES, (vf)of_low, (vf)of_high);
#else
    vf v;
    for (int i = 0; i < FC_LANES; i++)
        v[i] = from[i] < FC_LANES ? low[from[i]] : high[from[i] - FC_LANES];
    return v;
#endif
}

/* The first `count` lanes only, fewer than all; memory behind them is neither read nor written. */
#if FC_LANES == 16
FC_INLINE __mmask16 vmask(size_t count)        { return (__mmask16)((1u << count) - 1); }

FC_INLINE vf   vload_part(const float *p, size_t count)          { return (vf)_mm512_maskz_loadu_ps(vmask(count), p); }
FC_INLINE void vstore_part(float *p, vf v, size_t count)         { _mm512_mask_storeu_ps(p, vmask(count), (__m512)v); }
#elif FC_LANES == 8
FC_INLINE __m256i vmask(size_t count)
{
    static const int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(lanes + 8 - count));
}

FC_INLINE vf   vload_part(const float *p, size_t count)          { return (vf)_mm256_maskload_ps(p, vmask(count)); }
/* In pieces: AMD's processors take some 20 cycles for a masked store. */
FC_INLINE void vstore_part(float *p, vf v, size_t count)
{
    __m128 piece = _mm256_castps256_ps128((__m256)v);
    if (count & 4) {
        _mm_storeu_ps(p, piece);
        piece = _mm256_extractf128_ps((__m256)v, 1);
        p += 4;
    }
    if (count & 2) {
        _mm_storel_pi((__m64 *)p, piece);
        piece = _mm_movehl_ps(piece, piece);
        p += 2;
    }
    if (count & 1)
        _mm_store_ss(p, piece);
}
#else
FC_INLINE vf vload_part(const float *p, size_t count)
{
    vf v = {0};
    for (size_t i = 0; i < count; i++)
        v[i] = p[i];
    return v;
}

FC_INLINE void vstore_part(float *p, vf v, size_t count)
{
    for (size_t i = 0; i < count; i++)
        p[i] = v[i];
}
#endif

/* All lanes or the first of them. */
FC_INLINE vf vload_lanes(const float *p, size_t lanes) { return lanes == FC_LANES ? vload(p) : vload_part(p, lanes); }

FC_INLINE void vstore_lanes(float *p, vf v, size_t lanes)
{
    if (lanes == FC_LANES)
        vstore(p, v);
    else
        vstore_part(p, v, lanes);
}

/* stream: past the caches, if all lanes are there and p is aligned to a vector. */
FC_INLINE void vwrite_lanes(float *p, vf v, size_t lanes, int stream)
{
    if (stream && lanes == FC_LANES)
        vstream(p, v);
    else
        vstore_lanes(p, v, lanes);
}

/* Once for each vector of N floats: CALL sees its first float i and its lanes. */
#define FC_OVER_LANES(N, CALL)                                  \
    do {                                                        \
        size_t i = 0;                                           \
        for (; i + FC_LANES <= (N); i += FC_LANES) {            \
            enum { lanes = FC_LANES };                          \
            CALL;                                               \
        }                                                       \
        if (i < (N)) {                                          \
            const size_t lanes = (N) - i;                       \
            CALL;                                               \
        }                                                       \
    } while (0)

#if FC_LANES == 16
FC_INLINE vi   vload_bytes_part(const uint8_t *p, size_t count)
{
    return (vi)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(vmask(count), p));
}

FC_INLINE void vstore_bytes_part(uint8_t *p, vi v, size_t count)
{
    _mm512_mask_cvtepi32_storeu_epi8(p, vmask(count), (__m512i)v);
}
#else
/* In pieces, as vstore_part. */
FC_INLINE vi vload_bytes_part(const uint8_t *p, size_t count)
{
    uint64_t bytes = count & 1 ? p[count - 1] : 0;
    if (count & 2) {
        uint16_t two;
        memcpy(&two, p + (count & 4), 2);
        bytes = bytes << 16 | two;
    }
    if (count & 4) {
        uint32_t four;
        memcpy(&four, p, 4);
        bytes = bytes << 32 | four;
    }
    return vload_bytes((const uint8_t *)&bytes);
}

FC_INLINE void vstore_bytes_part(uint8_t *p, vi v, size_t count)
{
    uint64_t bytes = 0;
    vstore_bytes((uint8_t *)&bytes, v);
    if (count & 4) {
        memcpy(p, &bytes, 4);
        bytes >>= 32;
        p += 4;
    }
    if (count & 2) {
        memcpy(p, &bytes, 2);
        bytes >>= 16;
        p += 2;
    }
    if (count & 1)
        *p = (uint8_t)bytes;
}
#endif

#endif
