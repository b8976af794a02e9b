// SPDX-License-Identifier: Apache-2.0
// What the instruction-set variants share with the code that chooses between them.
#pragma once

#if __has_include(<torch/headeronly/util/BFloat16.h>)
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#else  // torch before 2.9
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#endif

#include <cstdint>

#ifdef __x86_64__
#define MMCARAFE_X86
#endif

namespace mmcarafe {

// Sizes of one call; features are [N, C, H, W], masks [N, G*k*k, s*H, s*W]. When downsampling, features are
// [N, C, s*H, s*W] and masks [N, G*k*k, H, W]. All tensors of a call are contiguous in one layout.
struct Sizes {
  int64_t N, C, H, W, k, G, s;
};

enum class Op {
  forward,
  grad_features,
  grad_masks,
  downsample,
  downsample_grad_features,
  downsample_grad_masks
};
enum class Type { f32, f64, bf16, f16 };
enum class Layout { contiguous, channels_last };

// Handles work items [begin, end) of an op on its two inputs and its output. Items write disjoint parts
// of the output and sum in an order of their own, so results do not depend on the number of threads.
using Range = void (*)(const Sizes&, const void* first, const void* second, void* out, int64_t begin,
                       int64_t end);

// Channels (forward, grad_features) that share one packing of the masks.
constexpr int64_t kChannels = 64;
// Source rows that grad_features sums at a time, where the kernel size is known to the compiler.
constexpr int64_t kRows = 4;

inline int64_t channel_chunks(const Sizes& z) { return (z.C / z.G + kChannels - 1) / kChannels; }
// Whether the usual kernel sizes have code of their own: not in float64, which is for checking derivatives.
constexpr bool unrolled(Type type) { return type != Type::f64; }
inline int64_t tile_rows(Type type, const Sizes& z) {
  return unrolled(type) && (z.k == 3 || z.k == 5 || z.k == 7) ? kRows : 1;
}

inline int64_t item_count(Op op, Type type, Layout layout, const Sizes& z) {
  const int64_t rows = tile_rows(type, z);
  if (layout == Layout::channels_last) return z.N * z.H;
  switch (op) {
    case Op::forward:
    case Op::downsample:
    case Op::downsample_grad_features:
      return z.N * z.G * z.H * channel_chunks(z);
    case Op::grad_features:
      return z.N * z.G * ((z.H + rows - 1) / rows) * channel_chunks(z);
    default:
      return z.N * z.G * z.H;
  }
}

namespace baseline {
Range find(Op, Type, Layout, const Sizes&);
}
#ifdef MMCARAFE_X86
namespace avx2 {
Range find(Op, Type, Layout, const Sizes&);
}
namespace avx512 {
Range find(Op, Type, Layout, const Sizes&);
}
#endif

}  // namespace mmcarafe
