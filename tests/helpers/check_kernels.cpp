// SPDX-License-Identifier: Apache-2.0
// Every op of one variant of the CPU kernels against loops over its terms, without torch: for processors that
// only an emulator has, and for the compiler's sanitizers. Built and run by tools/misc/check_kernels.sh.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using namespace mmcarafe;

struct Map {  // [N, C, H, W]
  int64_t N, C, H, W;
  int64_t size() const { return N * C * H * W; }
  int64_t at(Layout layout, int64_t n, int64_t c, int64_t y, int64_t x) const {
    return layout == Layout::contiguous ? ((n * C + c) * H + y) * W + x : ((n * H + y) * W + x) * C + c;
  }
};

// Calls term(out, features, masks), three offsets, for each product that the operator sums.
template <typename Term>
void for_terms(const Sizes& z, bool down, Layout layout, const Map& out, const Map& features,
               const Map& masks, Term term) {
  const int64_t r = z.k / 2, up = down ? 1 : z.s, stride = down ? z.s : 1;
  for (int64_t n = 0; n < z.N; ++n)
    for (int64_t c = 0; c < z.C; ++c)
      for (int64_t y = 0; y < out.H; ++y)
        for (int64_t x = 0; x < out.W; ++x)
          for (int64_t t = 0; t < z.k * z.k; ++t) {
            const int64_t from_y = y / up * stride + t / z.k - r, from_x = x / up * stride + t % z.k - r;
            if (from_y < 0 || from_y >= features.H || from_x < 0 || from_x >= features.W) continue;
            term(out.at(layout, n, c, y, x), features.at(layout, n, c, from_y, from_x),
                 masks.at(layout, n, c / (z.C / z.G) * z.k * z.k + t, y, x));
          }
}

// Largest difference to the loops, in units of what the dtype can hold.
template <typename S>
double difference(Op op, Type type, Layout layout, const Sizes& z, double epsilon) {
  const bool down = op >= Op::downsample;
  const Map small{z.N, z.C, z.H, z.W}, large{z.N, z.C, z.s * z.H, z.s * z.W};
  const Map &out = down ? small : large, &features = down ? large : small;
  const Map masks{z.N, z.G * z.k * z.k, out.H, out.W};
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const auto numbers = [&](const Map& map) {
    std::vector<S> values;
    for (int64_t i = 0; i < map.size(); ++i) values.push_back(static_cast<S>(normal(random)));
    return values;
  };
  const std::vector<S> o = numbers(out), f = numbers(features), m = numbers(masks);
  const bool forward = op == Op::forward || op == Op::downsample;
  const bool to_features = op == Op::grad_features || op == Op::downsample_grad_features;
  const int64_t count = (forward ? out : to_features ? features : masks).size();
  std::vector<double> expected(count), scale(count, 1e-3);
  for_terms(z, down, layout, out, features, masks, [&](int64_t i, int64_t j, int64_t t) {
    const double product =
        forward ? double(f[j]) * double(m[t]) : double(o[i]) * (to_features ? double(m[t]) : double(f[j]));
    const int64_t to = forward ? i : to_features ? j : t;
    expected[to] += product;
    scale[to] += std::abs(product);
  });
  std::vector<S> result(count, static_cast<S>(NAN));
  const Range range = VARIANT::find(op, type, layout, z);
  const int64_t items = item_count(op, type, layout, z), middle = items / 3;
  range(z, (forward ? f : o).data(), (forward || to_features ? m : f).data(), result.data(), 0, middle);
  range(z, (forward ? f : o).data(), (forward || to_features ? m : f).data(), result.data(), middle, items);
  double worst = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double error = std::abs(double(result[i]) - expected[i]) / scale[i] / epsilon;
    worst = std::isnan(worst) || error <= worst ? worst : error;  // NaN is of what was not written
  }
  return worst;
}

int main() {
  const std::vector<Sizes> sizes = {
      {2, 5, 3, 4, 3, 1, 2},   {1, 70, 3, 19, 5, 1, 2}, {1, 6, 5, 33, 5, 3, 2}, {2, 4, 2, 3, 7, 2, 3},
      {1, 130, 4, 6, 5, 1, 2}, {1, 3, 9, 5, 1, 1, 1},   {1, 8, 2, 70, 7, 1, 2}, {1, 2, 1, 1, 9, 1, 4},
  };
  int failed = 0, calls = 0;
  for (const Sizes& z : sizes)
    for (int op = 0; op <= static_cast<int>(Op::downsample_grad_masks); ++op)
      for (const Layout layout : {Layout::contiguous, Layout::channels_last}) {
        const Op o = static_cast<Op>(op);
        const double errors[] = {difference<float>(o, Type::f32, layout, z, 1.2e-7),
                                 difference<double>(o, Type::f64, layout, z, 2.3e-16),
                                 difference<c10::BFloat16>(o, Type::bf16, layout, z, 7.9e-3),
                                 difference<c10::Half>(o, Type::f16, layout, z, 9.8e-4)};
        for (const double error : errors) {
          ++calls;
          if (error < 8) continue;
          ++failed;
          std::printf("op %d layout %d [%ld, %ld, %ld, %ld] k %ld G %ld s %ld: %g times epsilon\n", op,
                      static_cast<int>(layout), long(z.N), long(z.C), long(z.H), long(z.W), long(z.k),
                      long(z.G), long(z.s), error);
        }
      }
  std::printf("%d of %d calls agree\n", calls - failed, calls);
  return failed != 0;
}
