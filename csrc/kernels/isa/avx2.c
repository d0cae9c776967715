/* SPDX-License-Identifier: MIT */
/* AVX2 + FMA: 16 ymm registers. 12x1, 6x2 and 4x3 tiles hold 12 accumulators, 1 to 3 vectors of b and one
 * broadcast of a; of 4 vectors only 2 rows fit beside the 4 of b. */
#define FC_ISA avx2
#define FC_LANES 8
#define FC_FMA 1
#define FC_REGISTERS 16
#define FC_MAX_ROWS_1 12
#define FC_MAX_ROWS_2 6
#define FC_MAX_ROWS_3 4
#define FC_MAX_ROWS_4 2
#include "../kernels.inc"
