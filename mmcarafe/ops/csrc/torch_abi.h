// SPDX-License-Identifier: Apache-2.0
// What the kernels need of torch. From torch 2.10 on by its stable ABI, so that one build runs with every
// torch since (setup.py defines TORCH_TARGET_VERSION); with older ones by ATen, for the torch that it was
// built with.
#pragma once

#ifdef TORCH_TARGET_VERSION
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#else
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>
#endif

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace mmcarafe {

#ifdef TORCH_TARGET_VERSION

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::parallel_for;
using torch::stable::Tensor;

inline Tensor in_format(const Tensor& t, MemoryFormat format) { return torch::stable::contiguous(t, format); }

// With the dtype and device of another tensor.
inline Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, MemoryFormat format) {
  try {
    return torch::stable::empty(sizes, like.scalar_type(), like.layout(), like.device(), false, format);
  } catch (const std::runtime_error&) {  // says which call failed, not why
    std::string shape;
    for (const int64_t size : sizes) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
    throw std::runtime_error("mmcarafe: torch could not make a tensor of shape [" + shape +
                             "]; is there memory for it?");
  }
}

inline void fill_with_zeros(Tensor& t) { torch::stable::zero_(t); }

#else

using at::MemoryFormat;
using at::parallel_for;
using at::ScalarType;
using at::Tensor;

inline Tensor in_format(const Tensor& t, MemoryFormat format) { return t.contiguous(format); }

inline Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, MemoryFormat format) {
  return at::empty(sizes, like.options().memory_format(format));
}

inline void fill_with_zeros(Tensor& t) { t.zero_(); }

#define STABLE_TORCH_LIBRARY_FRAGMENT TORCH_LIBRARY_FRAGMENT
#define STABLE_TORCH_LIBRARY_IMPL TORCH_LIBRARY_IMPL
#define TORCH_BOX(function) (function)

#endif

// The layout of a contiguous or channels-last tensor; contiguous for any other, and where it could be both.
inline MemoryFormat format_of(const Tensor& t) {
  if (t.dim() != 4 || t.is_contiguous()) return MemoryFormat::Contiguous;
  int64_t stride = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (t.size(d) == 1) continue;
    if (t.stride(d) != stride) return MemoryFormat::Contiguous;
    stride *= t.size(d);
  }
  return MemoryFormat::ChannelsLast;
}

}  // namespace mmcarafe
