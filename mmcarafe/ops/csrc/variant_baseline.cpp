// SPDX-License-Identifier: Apache-2.0
// Whatever the compiler's default target has: SSE2 on x86-64, NEON on Arm.
#include "kernels.h"

#define MMCARAFE_VARIANT baseline
#define MMCARAFE_VECTOR_BYTES 16
#include "vector.h"
#include "contiguous_forward.h"
#include "contiguous_backward.h"
#include "channels_last.h"
#include "phases.h"
#include "downsample_contiguous.h"
#include "downsample_last.h"
#include "select.h"
