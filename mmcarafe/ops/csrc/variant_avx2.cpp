// SPDX-License-Identifier: Apache-2.0
// Compiled for avx2 whatever the build machine has; called only where the processor has it.
#include "kernels.h"

#include <new>
#include <type_traits>
#include <utility>

#ifdef MMCARAFE_X86
// after the system's headers: their inline functions must stay runnable everywhere
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define MMCARAFE_VARIANT avx2
#define MMCARAFE_VECTOR_BYTES 32
#include "vector.h"
#include "contiguous_forward.h"
#include "contiguous_backward.h"
#include "channels_last.h"
#include "phases.h"
#include "downsample_contiguous.h"
#include "downsample_last.h"
#include "select.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
