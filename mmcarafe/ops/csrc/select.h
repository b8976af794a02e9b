// SPDX-License-Identifier: Apache-2.0
// From a call to its kernel.

namespace mmcarafe::MMCARAFE_VARIANT {

// One kernel for each combination of storage type, kernel size and scale that is worth its own code.
template <typename S, int K>
Range select(Op op, Layout layout, int64_t s) {
  constexpr int D = K ? K : 1, B = kSubpixels;
  // 7 taps of 4 sub-pixels and their operands are more than 32 registers
  constexpr int G = K == 7 && B == 4 ? 2 : B;
  const int64_t ss = s * s;
  const bool last = layout == Layout::channels_last;
  switch (op) {
    case Op::forward:
      if (last) return ss % B == 0 ? forward_last<S, B> : forward_last<S, 1>;
      return ss % B == 0 ? forward<S, K, B> : forward<S, K, 1>;
    case Op::grad_masks:
      if (last) return ss % G == 0 ? grad_masks_last<S, G, D> : grad_masks_last<S, 1, D>;
      return ss % G == 0 ? grad_masks<S, D, G> : grad_masks<S, D, 1>;
    default:
      return last ? grad_features_last < S, K, K ? kColumns : 1 > : grad_features < S, K, K ? kRows : 1 > ;
  }
}

// K is 0 unless the stride is 2.
template <typename S, int K>
Range select_downsample(Op op, Layout layout, int64_t s) {
  constexpr int X = K ? kColumns : 1;
  const bool last = layout == Layout::channels_last;
  switch (op) {
    case Op::downsample:
      return last ? downsample_last<S, K, X> : downsample<S>;
    case Op::downsample_grad_masks:
      return last ? downsample_grad_masks_last < S, K ? K : 1 > : downsample_grad_masks<S>;
    default:
      if (last) return downsample_grad_features_last<S, K, X>;
      return s == 2 ? downsample_grad_features<S, 2> : downsample_grad_features<S, 1>;
  }
}

template <typename S, Type type>
Range select(Op op, Layout layout, const Sizes& z) {
  if (op >= Op::downsample) {
    // kernels unrolled for a size are worth their code in float32, and at the usual stride
    if constexpr (std::is_same_v<S, float>)
      if (z.s == 2 && z.k == 5) return select_downsample<S, 5>(op, layout, z.s);
    return select_downsample<S, 0>(op, layout, z.s);
  }
  if constexpr (unrolled(type)) switch (z.k) {
      case 3:
        return select<S, 3>(op, layout, z.s);
      case 5:
        return select<S, 5>(op, layout, z.s);
      case 7:
        return select<S, 7>(op, layout, z.s);
    }
  return select<S, 0>(op, layout, z.s);
}

Range find(Op op, Type type, Layout layout, const Sizes& z) {
  switch (type) {
    case Type::f32:
      return select<float, Type::f32>(op, layout, z);
    case Type::f64:
      return select<double, Type::f64>(op, layout, z);
    case Type::bf16:
      return select<c10::BFloat16, Type::bf16>(op, layout, z);
    default:
      return select<c10::Half, Type::f16>(op, layout, z);
  }
}

}  // namespace mmcarafe::MMCARAFE_VARIANT
