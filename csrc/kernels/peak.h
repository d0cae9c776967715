/* SPDX-License-Identifier: MIT */
/* The most that one core can compute: chains of multiply-adds on registers, which no load or store delays.
 *
 * FC_CHAINS sums are more than latency times units of current processors (4 x 2), and with the two operands they fit
 * the 16 registers of AVX2. */
#ifndef FC_PEAK_H
#define FC_PEAK_H

#include "kernels.h"
#include "simd.h"

/* sum[i] = sum[i] * a + b, `rounds` times for FC_CHAINS vectors; start: [FC_CHAINS], anything; adds up to *result. */
static void multiply_add_chains(size_t rounds, const float *start, float *result)
{
    const vf a = vset1(start[0]), b = vset1(start[1]);
    vf sum[FC_CHAINS], total = {0};
    float lanes[FC_LANES];
    FC_UNROLL(16)
    for (int chain = 0; chain < FC_CHAINS; chain++)
        sum[chain] = vset1(start[chain]);
    for (size_t i = 0; i < rounds; i++)
        FC_UNROLL(16)
        for (int chain = 0; chain < FC_CHAINS; chain++)
            sum[chain] = sum[chain] * a + b;
    FC_UNROLL(16)
    for (int chain = 0; chain < FC_CHAINS; chain++)
        total += sum[chain];
    vstore(lanes, total);
    *result = lanes[0];
}

#endif
