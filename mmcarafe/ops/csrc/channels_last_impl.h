// SPDX-License-Identifier: Apache-2.0
// The three kernels for channels-last tensors: lanes lie along the channels, so that a source pixel's vectors are
// read once for all s*s sub-pixels. Masks are channels-last too: the k*k weights of an output pixel are adjacent.

namespace mmcarafe::MMCARAFE_VARIANT {

// Vectors of channels held in registers at a time.
constexpr int kVectors = 4;

// One of the taps that reach from a source pixel to another inside the map.
template <typename S>
struct Tap {
  const S* pixel;   // channels of the other pixel
  int64_t t;        // index of the tap in a kernel
};

// Calls body(first channel, std::integral_constant<int, V>) for blocks of V vectors, and V = 0 for single channels
// at the end.
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
MMCARAFE_INLINE void blend(S* const* out, const Tap<S>* taps, int64_t count, const S* const* weights, int64_t c) {
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
void forward_last(const Sizes& z, const void* first, const void* second, void* result, int64_t begin, int64_t end) {
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

// Gradient of the features: a source pixel collects from the sub-pixels of the pixels around it.
template <typename S>
void grad_features_last(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
                        int64_t end) {
  using A = Acc<S>;
  const S* grad = static_cast<const S*>(first);
  const S* masks = static_cast<const S*>(second);
  S* out = static_cast<S*>(result);
  const int64_t r = z.k / 2, kk = z.k * z.k, ss = z.s * z.s, Cg = z.C / z.G, sW = z.s * z.W;
  Buffer<Tap<S>> taps(kk * ss);
  Buffer<S> weights(kk * ss);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, n = item / z.H;
    for (int64_t x = 0; x < z.W; ++x) {
      for (int64_t g = 0; g < z.G; ++g) {
        int64_t count = 0;
        for (int64_t dy = -r; dy <= r; ++dy)
          for (int64_t dx = -r; dx <= r; ++dx) {
            if (y - dy < 0 || y - dy >= z.H || x - dx < 0 || x - dx >= z.W) continue;
            for (int64_t b = 0; b < ss; ++b) {
              const int64_t pixel =
                  (n * z.s * z.H + (y - dy) * z.s + b / z.s) * sW + (x - dx) * z.s + b % z.s;
              weights[count] = masks[(pixel * z.G + g) * kk + (dy + r) * z.k + dx + r];
              taps[count] = {grad + pixel * z.C, count};
              ++count;
            }
          }
        S* target = out + ((n * z.H + y) * z.W + x) * z.C;
        const S* all = weights;
        for_channels<A>(g * Cg, (g + 1) * Cg, [&](int64_t c, auto vectors) {
          blend<S, A, 1, vectors.value>(&target, taps, count, &all, c);
        });
      }
    }
  }
}

// Gradient of the masks: dot products over a group's channels of B sub-pixels with D neighbouring source pixels.
template <typename S, int B, int D>
MMCARAFE_INLINE void dots(S* const* out, const S* const* grads, const S* pixel, int64_t C, int64_t step) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  Vector<A> sum[B][D] = {};
  int64_t c = 0;
  for (; c + L <= C; c += L) {
    Vector<A> v[B];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) v[b] = load_as<A>(grads[b] + c);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const Vector<A> w = load_as<A>(pixel + d * step + c);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) sum[b][d] += v[b] * w;
    }
  }
  for (int b = 0; b < B; ++b)
    for (int d = 0; d < D; ++d) {
      A lanes[L], total = 0;
      store(lanes, sum[b][d]);
      for (int64_t width = L / 2; width > 0; width /= 2)
        for (int64_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
      total = lanes[0];
      for (int64_t i = c; i < C; ++i) total += static_cast<A>(grads[b][i]) * static_cast<A>(pixel[d * step + i]);
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
