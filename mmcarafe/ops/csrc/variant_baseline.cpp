// SPDX-License-Identifier: Apache-2.0
// Whatever the compiler's default target has: SSE2 on x86-64, NEON on Arm.
#include "kernels.h"

#define MMCARAFE_VARIANT baseline
#define MMCARAFE_VECTOR_BYTES 16
#include "vector.h"
#include "kernels_impl.h"
#include "gradients_impl.h"
#include "channels_last_impl.h"
#include "select_impl.h"
