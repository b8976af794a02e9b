// SPDX-License-Identifier: Apache-2.0
// The three kernels for channels-last tensors: lanes lie along the channels, so that a source pixel's vectors
// are read once for all s*s sub-pixels. Masks are channels-last too: the k*k weights of an output pixel are
// adjacent.

namespace mmcarafe::MMCARAFE_VARIANT {

// Vectors of channels held in registers at a time.
constexpr int kVectors = 4;
// Source pixels that grad_features sums at a time, where the kernel size is known to the compiler.
constexpr int kColumns = MMCARAFE_VECTOR_BYTES == 64 ? 4 : 2;

// One of the taps that reach from a source pixel to another inside the map.
template <typename S>
struct Tap {
  const S* pixel;  // channels of the other pixel
  int64_t t;       // index of the tap in a kernel
};

// Calls body(first channel, std::integral_constant<int, V>) for blocks of V vectors, and V = 0 for single
// channels at the end.
template <typename A, typename Body>
MMCARAFE_INLINE void for_channels(int64_t begin, int64_t end, Body body) {
  constexpr int64_t L = kLanes<A>;
  int64_t c = begin;
  for (; c + kVectors * L <= end; c += kVectors * L) body(c, std::integral_constant<int, kVectors>{});
  for (; c + L <= end; c += L) body(c, std::integral_constant<int, 1>{});
  for (; c < end; ++c) body(c, std::integral_constant<int, 0>{});
}

// out[b][c] = sum over taps of weights[b][t] * pixel[c], B sub-pixels.
template <typename S, typename A, int B, int V>
MMCARAFE_INLINE void blend(S* const* out, const Tap<S>* taps, int64_t count, const S* const* weights,
                           int64_t c) {
  if constexpr (V == 0) {
    for (int b = 0; b < B; ++b) {
      A sum = 0;
      for (int64_t i = 0; i < count; ++i)
        sum += static_cast<A>(weights[b][taps[i].t]) * static_cast<A>(taps[i].pixel[c]);
      out[b][c] = static_cast<S>(sum);
    }
  } else {
    constexpr int64_t L = kLanes<A>;
    Vector<A> sum[B][V] = {};
    for (int64_t i = 0; i < count; ++i) {
      Vector<A> x[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) x[v] = load_as<A>(taps[i].pixel + c + v * L);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) {
        const A m = static_cast<A>(weights[b][taps[i].t]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[b][v] += x[v] * m;
      }
    }
    for (int b = 0; b < B; ++b)
      for (int v = 0; v < V; ++v) store_as<S, A>(out[b] + c + v * L, sum[b][v]);
  }
}

template <typename S, int B>
void forward_last(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
                  int64_t end) {
  using A = Acc<S>;
  const S* features = static_cast<const S*>(first);
  const S* masks = static_cast<const S*>(second);
  S* out = static_cast<S*>(result);
  const int64_t r = z.k / 2, kk = z.k * z.k, ss = z.s * z.s, Cg = z.C / z.G, sW = z.s * z.W;
  Buffer<Tap<S>> taps(kk);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, n = item / z.H;
    for (int64_t x = 0; x < z.W; ++x) {
      int64_t count = 0;
      for (int64_t dy = -r; dy <= r; ++dy)
        for (int64_t dx = -r; dx <= r; ++dx)
          if (y + dy >= 0 && y + dy < z.H && x + dx >= 0 && x + dx < z.W)
            taps[count++] = {features + ((n * z.H + y + dy) * z.W + x + dx) * z.C, (dy + r) * z.k + dx + r};
      for (int64_t b = 0; b < ss; b += B) {
        for (int64_t g = 0; g < z.G; ++g) {
          S* targets[B];
          const S* weights[B];
          for (int i = 0; i < B; ++i) {
            const int64_t pixel = (n * z.s * z.H + y * z.s + (b + i) / z.s) * sW + x * z.s + (b + i) % z.s;
            targets[i] = out + pixel * z.C;
            weights[i] = masks + (pixel * z.G + g) * kk;
          }
          for_channels<A>(g * Cg, (g + 1) * Cg, [&](int64_t c, auto vectors) {
            blend<S, A, B, vectors.value>(targets, taps, count, weights, c);
          });
        }
      }
    }
  }
}

// Gradient of one channel of source pixel (y, x), where less than a vector of channels is left.
template <typename S>
S collect_one(const S* grad, const S* masks, const Sizes& z, int64_t y, int64_t x, int64_t g) {
  const int64_t r = z.k / 2, sW = z.s * z.W;
  Acc<S> sum = 0;
  for (int64_t dy = 0; dy < z.k; ++dy)
    for (int64_t dx = 0; dx < z.k; ++dx) {
      const int64_t from_y = y + r - dy, from_x = x + r - dx;
      if (from_y < 0 || from_y >= z.H || from_x < 0 || from_x >= z.W) continue;
      for (int64_t b = 0; b < z.s * z.s; ++b) {
        const int64_t pixel = (from_y * z.s + b / z.s) * sW + from_x * z.s + b % z.s;
        sum += static_cast<Acc<S>>(masks[((pixel * z.G + g) * z.k + dy) * z.k + dx]) *
               static_cast<Acc<S>>(grad[pixel * z.C]);
      }
    }
  return static_cast<S>(sum);
}

// sum[t][v]: gradient of source pixels (y, x + t), from the sub-pixels of the rows and columns that reach
// them.
template <typename S, int K, int X, int V>
MMCARAFE_INLINE void collect_last(S* out, const S* grad, const S* masks, const Sizes& z, int64_t y, int64_t x,
                                  int64_t g, int64_t c) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  const int64_t k = K ? K : z.k, r = k / 2, kk = k * k, sW = z.s * z.W;
  Vector<A> sum[X][V] = {};
  for (int64_t dy = y + r < z.H ? 0 : y + r - z.H + 1; dy < k && dy <= y + r; ++dy)
    for (int64_t i = 0; i < z.s; ++i)
#pragma GCC unroll 16
      for (int64_t p = 0; p < X + k - 1; ++p) {
        const int64_t from = x + p - r;
        if (from < 0 || from >= z.W) continue;
        for (int64_t j = 0; j < z.s; ++j) {
          const int64_t pixel = ((y + r - dy) * z.s + i) * sW + from * z.s + j;
          const S* weights = masks + (pixel * z.G + g) * kk + dy * k;
          Vector<A> v[V];
#pragma GCC unroll 8
          for (int n = 0; n < V; ++n) v[n] = load_as<A>(grad + pixel * z.C + c + n * L);
#pragma GCC unroll 8
          for (int t = 0; t < X; ++t) {
            if (t - p + 2 * r < 0 || t - p + 2 * r >= k) continue;  // column x + t lies outside its kernel
            const A m = static_cast<A>(weights[t - p + 2 * r]);
#pragma GCC unroll 8
            for (int n = 0; n < V; ++n) sum[t][n] += v[n] * m;
          }
        }
      }
  for (int t = 0; t < X && x + t < z.W; ++t)
    for (int n = 0; n < V; ++n) store_as<S, A>(out + t * z.C + c + n * L, sum[t][n]);
}

// Gradient of the features: X source pixels at a time collect from the sub-pixels of the pixels around them.
template <typename S, int K, int X>
void grad_features_last(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
                        int64_t end) {
  const int64_t plane = z.H * z.W, ss = z.s * z.s, Cg = z.C / z.G;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, n = item / z.H;
    const S* grad = static_cast<const S*>(first) + n * ss * plane * z.C;
    const S* masks = static_cast<const S*>(second) + n * ss * plane * z.G * z.k * z.k;
    for (int64_t x = 0; x < z.W; x += X) {
      S* out = static_cast<S*>(result) + ((n * z.H + y) * z.W + x) * z.C;
      for (int64_t g = 0; g < z.G; ++g)
        for_channels<Acc<S>>(g * Cg, (g + 1) * Cg, [&](int64_t c, auto vectors) {
          if constexpr (vectors.value == 0)
            for (int64_t t = 0; t < X && x + t < z.W; ++t)
              out[t * z.C + c] = collect_one(grad + c, masks, z, y, x + t, g);
          else
            collect_last<S, K, X, vectors.value>(out, grad, masks, z, y, x, g, c);
        });
    }
  }
}

// Gradient of the masks: dot products over a group's channels of B sub-pixels with D neighbouring source
// pixels.
template <typename S, int B, int D>
MMCARAFE_INLINE void dots(S* const* out, const S* const* grads, const S* pixel, int64_t C, int64_t step) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  Vector<A> sum[B * D] = {};
  int64_t c = 0;
  for (; c + L <= C; c += L) {
    Vector<A> v[B];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) v[b] = load_as<A>(grads[b] + c);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const Vector<A> w = load_as<A>(pixel + d * step + c);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) sum[b * D + d] += v[b] * w;
    }
  }
  A totals[B * D];
  sum_lanes(totals, sum);
  for (int b = 0; b < B; ++b)
    for (int d = 0; d < D; ++d) {
      A total = totals[b * D + d];
      for (int64_t i = c; i < C; ++i)
        total += static_cast<A>(grads[b][i]) * static_cast<A>(pixel[d * step + i]);
      out[b][d] = static_cast<S>(total);
    }
}

template <typename S, int B, int D>
void grad_masks_last(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
                     int64_t end) {
  const S* grad = static_cast<const S*>(first);
  const S* features = static_cast<const S*>(second);
  S* out = static_cast<S*>(result);
  const int64_t r = z.k / 2, kk = z.k * z.k, ss = z.s * z.s, Cg = z.C / z.G, sW = z.s * z.W;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, n = item / z.H;
    for (int64_t x = 0; x < z.W; ++x)
      for (int64_t b = 0; b < ss; b += B)
        for (int64_t g = 0; g < z.G; ++g) {
          S* targets[B];
          const S* grads[B];
          for (int i = 0; i < B; ++i) {
            const int64_t pixel = (n * z.s * z.H + y * z.s + (b + i) / z.s) * sW + x * z.s + (b + i) % z.s;
            targets[i] = out + (pixel * z.G + g) * kk;
            grads[i] = grad + pixel * z.C + g * Cg;
          }
          for (int64_t dy = -r; dy <= r; ++dy) {
            const bool row = y + dy >= 0 && y + dy < z.H;
            const int64_t at = ((n * z.H + y + dy) * z.W + x - r) * z.C + g * Cg;
            if (row && x >= r && x + r < z.W && z.k % D == 0) {
              for (int64_t dx = 0; dx < z.k; dx += D) {
                dots<S, B, D>(targets, grads, features + at + dx * z.C, Cg, z.C);
                for (int i = 0; i < B; ++i) targets[i] += D;
              }
              continue;
            }
            for (int64_t dx = 0; dx < z.k; ++dx) {
              if (row && x - r + dx >= 0 && x - r + dx < z.W)
                dots<S, B, 1>(targets, grads, features + at + dx * z.C, Cg, z.C);
              else
                for (int i = 0; i < B; ++i) *targets[i] = static_cast<S>(0);
              for (int i = 0; i < B; ++i) ++targets[i];
            }
          }
        }
  }
}

}  // namespace mmcarafe::MMCARAFE_VARIANT
