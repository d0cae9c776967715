/* SPDX-License-Identifier: MIT */
/* Which table of kernels the process uses. */
#ifndef FC_DISPATCH_H
#define FC_DISPATCH_H

#include "../kernels/kernels.h"

const fc_kernels *fc_kernels_active(void);       /* best available, or what FASTCONV_ISA or the user chose */
const fc_kernels *fc_kernels_available(size_t i); /* i-th usable one, best first; NULL past the last       */
int fc_kernels_select(const char *isa);          /* 0, or -1 when this machine cannot run it               */

#endif
