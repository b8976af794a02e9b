// SPDX-License-Identifier: Apache-2.0
// CPU kernels of the ops that mmcarafe/ops/carafe.py defines.
#include <Python.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "kernels.h"
#include "torch_abi.h"

namespace mmcarafe {
namespace {

struct Variant {
  const char* name;
  Range (*find)(Op, Type, Layout, const Sizes&);
  bool available;
};

const std::vector<Variant>& variants() {  // best first
  static const std::vector<Variant> all = {
#ifdef MMCARAFE_X86
      {"avx512", avx512::find,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
      {"avx2", avx2::find, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#endif
      {"baseline", baseline::find, true},
  };
  return all;
}

const Variant*& chosen() {
  static const Variant* variant = [] {
    for (const Variant& v : variants())
      if (v.available) return &v;
    return &variants().back();
  }();
  return variant;
}

// Protects memory; messages for users are made in Python. torch makes a ValueError of it.
void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(std::string("mmcarafe: ") + message);
}

Type type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Type::f32;
    case ScalarType::Double:
      return Type::f64;
    case ScalarType::BFloat16:
      return Type::bf16;
    case ScalarType::Half:
      return Type::f16;
    default:
      throw std::invalid_argument("mmcarafe: expected float16, bfloat16, float32 or float64");
  }
}

// Work is done in the layout of the first tensor, and the output has it.
void run(Op op, const Sizes& z, const Tensor& first, const Tensor& second, Tensor& out) {
  const MemoryFormat format = format_of(first);
  const Layout layout = format == MemoryFormat::ChannelsLast ? Layout::channels_last : Layout::contiguous;
  const Type type = type_of(first);
  const int64_t items = item_count(op, type, layout, z);
  if (out.numel() == 0 || items == 0) return;
  const Tensor a = in_format(first, format), b = in_format(second, format);
  const Range range = chosen()->find(op, type, layout, z);
  const int64_t work = z.C * z.k * z.k * z.s * z.s * z.H * z.W * z.N / items;  // multiply-adds of an item
  const void *from = a.const_data_ptr(), *with = b.const_data_ptr();
  void* to = out.mutable_data_ptr();
  parallel_for(0, items, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, work)),
               [&](int64_t begin, int64_t end) { range(z, from, with, to, begin, end); });
}

// Of wrong arguments: a product that wrapped around could fit a small tensor, and its factors would leave it.
int64_t product(int64_t a, int64_t b) {
  int64_t c;
  require(!__builtin_mul_overflow(a, b, &c), "a size does not fit 64 bits");
  return c;
}

void check(const Tensor& small, const Tensor& large, const Tensor& masks, int64_t k, int64_t G, int64_t s,
           bool downsample = false) {
  require(k > 0 && k % 2 == 1 && G > 0 && s > 0 && small.dim() == 4 && large.dim() == 4 && masks.dim() == 4 &&
              small.size(1) % G == 0,
          "arguments do not fit each other");
  require(small.scalar_type() == masks.scalar_type() && large.scalar_type() == masks.scalar_type(),
          "tensors of one dtype expected");
  const Tensor& target = downsample ? small : large;
  require(masks.size(0) == small.size(0) && masks.size(1) == product(G, product(k, k)) &&
              large.size(2) == product(s, small.size(2)) && large.size(3) == product(s, small.size(3)) &&
              large.size(0) == small.size(0) && large.size(1) == small.size(1) &&
              masks.size(2) == target.size(2) && masks.size(3) == target.size(3),
          "sizes do not fit each other");
}

// Before the sizes of an output are taken from a map.
void check(const Tensor& map, int64_t s) {
  require(map.dim() == 4 && s > 0, "arguments do not fit each other");
}

Sizes sizes_of(const Tensor& small, int64_t k, int64_t G, int64_t s) {
  return {small.size(0), small.size(1), small.size(2), small.size(3), k, G, s};
}

// A fresh output of 69 MB costs as much in page faults as in arithmetic; huge pages take one fault in 512. A
// virtual machine whose host has taken free memory back waits for it, though, and longest for huge pages. So
// they are asked for one by one and touched at once; in a large output, whose pages go back to the host
// before the next call, a thread that has waited too long leaves the rest to the system.
void take_huge_pages(Tensor& t) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  using clock = std::chrono::steady_clock;
  constexpr std::uintptr_t page = 2 << 20;
  // its 512 small pages take 0.8 ms
  constexpr std::chrono::milliseconds slow(1);
  const std::uintptr_t bytes = t.numel() * t.element_size();
  const clock::duration patience =
      bytes <= (128 << 20) ? clock::duration::max() : std::chrono::milliseconds(5);
  const auto data = reinterpret_cast<std::uintptr_t>(t.mutable_data_ptr());
  const std::uintptr_t begin = (data + page - 1) / page * page, end = (data + bytes) / page * page;
  if (begin >= end) return;
  parallel_for(0, (end - begin) / page, 4, [&](int64_t first, int64_t last) {
    clock::duration waited{};
    for (int64_t i = first; i < last && waited < patience; ++i) {
      char* at = reinterpret_cast<char*>(begin + i * page);
      // a hint: where it is refused the pages are small
      madvise(at, page, MADV_HUGEPAGE);
      const auto start = clock::now();
      *const_cast<volatile char*>(at) = 0;
      const auto took = clock::now() - start;
      if (took > slow) waited += took;
    }
  });
#endif
}

Tensor empty_like(const Tensor& t, const std::vector<int64_t>& sizes) {
  Tensor out = empty(t, sizes, format_of(t));
  take_huge_pages(out);
  return out;
}

Tensor carafe(const Tensor& features, const Tensor& masks, int64_t k, int64_t G, int64_t s) {
  check(features, s);
  Tensor out = empty_like(features, {features.size(0), features.size(1), product(s, features.size(2)),
                                     product(s, features.size(3))});
  check(features, out, masks, k, G, s);
  run(Op::forward, sizes_of(features, k, G, s), features, masks, out);
  return out;
}

Tensor carafe_grad_features(const Tensor& grad, const Tensor& masks, int64_t k, int64_t G, int64_t s) {
  check(grad, s);
  Tensor out = empty_like(grad, {grad.size(0), grad.size(1), grad.size(2) / s, grad.size(3) / s});
  check(out, grad, masks, k, G, s);
  run(Op::grad_features, sizes_of(out, k, G, s), grad, masks, out);
  return out;
}

Tensor carafe_grad_masks(const Tensor& grad, const Tensor& features, int64_t k, int64_t G, int64_t s) {
  check(grad, s);
  Tensor out = empty_like(grad, {grad.size(0), product(G, product(k, k)), grad.size(2), grad.size(3)});
  check(features, grad, out, k, G, s);
  if (features.size(1) == 0) fill_with_zeros(out);
  run(Op::grad_masks, sizes_of(features, k, G, s), grad, features, out);
  return out;
}

Tensor carafe_downsample(const Tensor& features, const Tensor& masks, int64_t k, int64_t G, int64_t s) {
  check(features, s);
  Tensor out =
      empty_like(features, {features.size(0), features.size(1), features.size(2) / s, features.size(3) / s});
  check(out, features, masks, k, G, s, true);
  run(Op::downsample, sizes_of(out, k, G, s), features, masks, out);
  return out;
}

Tensor carafe_downsample_grad_features(const Tensor& grad, const Tensor& masks, int64_t k, int64_t G,
                                       int64_t s) {
  check(grad, s);
  Tensor out =
      empty_like(grad, {grad.size(0), grad.size(1), product(s, grad.size(2)), product(s, grad.size(3))});
  check(grad, out, masks, k, G, s, true);
  run(Op::downsample_grad_features, sizes_of(grad, k, G, s), grad, masks, out);
  return out;
}

Tensor carafe_downsample_grad_masks(const Tensor& grad, const Tensor& features, int64_t k, int64_t G,
                                    int64_t s) {
  check(grad, s);
  Tensor out = empty_like(grad, {grad.size(0), product(G, product(k, k)), grad.size(2), grad.size(3)});
  check(grad, features, out, k, G, s, true);
  if (features.size(1) == 0) fill_with_zeros(out);
  run(Op::downsample_grad_masks, sizes_of(grad, k, G, s), grad, features, out);
  return out;
}

std::vector<std::string> available_variants() {
  std::vector<std::string> names;
  for (const Variant& v : variants())
    if (v.available) names.emplace_back(v.name);
  return names;
}

std::string use_variant(const std::string& name) {
  const std::string previous = chosen()->name;
  for (const Variant& v : variants())
    if (v.available && name == v.name) {
      chosen() = &v;
      return previous;
    }
  throw std::invalid_argument("mmcarafe: this processor does not have the variant '" + name + "'");
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mmcarafe, m) {
  m.def("_available_variants() -> str[]");
  m.def("_use_variant(str name) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(mmcarafe, CompositeExplicitAutograd, m) {
  m.impl("_available_variants", TORCH_BOX(&available_variants));
  m.impl("_use_variant", TORCH_BOX(&use_variant));
}

STABLE_TORCH_LIBRARY_IMPL(mmcarafe, CPU, m) {
  m.impl("carafe", TORCH_BOX(&carafe));
  m.impl("carafe_grad_features", TORCH_BOX(&carafe_grad_features));
  m.impl("carafe_grad_masks", TORCH_BOX(&carafe_grad_masks));
  m.impl("carafe_downsample", TORCH_BOX(&carafe_downsample));
  m.impl("carafe_downsample_grad_features", TORCH_BOX(&carafe_downsample_grad_features));
  m.impl("carafe_downsample_grad_masks", TORCH_BOX(&carafe_downsample_grad_masks));
}

}  // namespace mmcarafe

// Makes the file importable; loading it is what registers the kernels.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
