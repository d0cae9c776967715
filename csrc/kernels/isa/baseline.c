/* SPDX-License-Identifier: MIT */
/* What the ABI guarantees: SSE2 on x86-64 (16 xmm registers, and the product needs one of its own),
 * NEON with FMA on aarch64 (32 registers). */
#define FC_ISA baseline
#define FC_LANES 4
#if defined(__aarch64__)
#define FC_FMA 1
#define FC_REGISTERS 32
#define FC_MAX_ROWS_1 14
#define FC_MAX_ROWS_2 12
#define FC_MAX_ROWS_3 8
#define FC_MAX_ROWS_4 6
#else
#define FC_FMA 0
#define FC_REGISTERS 16
#define FC_MAX_ROWS_1 10
#define FC_MAX_ROWS_2 5
#define FC_MAX_ROWS_3 3
#define FC_MAX_ROWS_4 2
#endif
#include "../kernels.inc"
