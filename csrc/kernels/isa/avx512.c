/* SPDX-License-Identifier: MIT */
/* AVX-512: 32 zmm registers. 14x2, 9x3 and 6x4 tiles hold 24 to 28 accumulators, 2 to 4 vectors of b
 * and one broadcast of a. */
#define FC_ISA avx512
#define FC_LANES 16
#define FC_FMA 1
#define FC_REGISTERS 32
#define FC_MAX_ROWS_1 14
#define FC_MAX_ROWS_2 14
#define FC_MAX_ROWS_3 9
#define FC_MAX_ROWS_4 6
#include "../kernels.inc"
