// SPDX-License-Identifier: Apache-2.0
// The three downsampling kernels for channels-last tensors; see channels_last.h. Where K is not 0 it is the
// kernel size and the stride is 2; neighbouring pixels are then summed together, as they share what they
// read.

namespace mmcarafe::MMCARAFE_VARIANT {

// Of the source rows that an output row of a stripe reads; half or less of a core's second cache.
#ifndef MMCARAFE_STRIPE_BYTES
#define MMCARAFE_STRIPE_BYTES (256 << 10)
#endif
constexpr int64_t kStripeBytes = MMCARAFE_STRIPE_BYTES;

// Lanes of one load: a vector, or of V = 0 a single channel.
template <typename A, int V>
using Lanes = std::conditional_t<V == 0, A, Vector<A>>;

template <typename A, int V, typename S>
MMCARAFE_INLINE Lanes<A, V> load_channels(const S* p) {
  if constexpr (V == 0)
    return static_cast<A>(*p);
  else
    return load_as<A>(p);
}

template <int V, typename S, typename T>
MMCARAFE_INLINE void store_channels(S* p, T v) {
  if constexpr (V == 0)
    *p = static_cast<S>(v);
  else
    store_as<S, Acc<S>>(p, v);
}

// Calls body(n, y, x, behind) for output rows begin .. end of all samples, in stripes of pixels x .. behind:
// the source pixels that the next row reads too stay in the processor's own cache.
template <typename Body>
MMCARAFE_INLINE void for_stripes(const Sizes& z, int64_t pixel_bytes, int64_t begin, int64_t end, Body body) {
  const int64_t pixels = kStripeBytes / (z.k * z.s * pixel_bytes) / kColumns * kColumns;
  const int64_t width = pixels < kColumns ? kColumns : pixels;
  for (int64_t first = begin, behind; first < end; first = behind) {
    behind = (first / z.H + 1) * z.H < end ? (first / z.H + 1) * z.H : end;
    for (int64_t x = 0; x < z.W; x += width)
      for (int64_t item = first; item < behind; ++item)
        body(item / z.H, item % z.H, x, x + width < z.W ? x + width : z.W);
  }
}

// Asks for n channels of the source pixels that row y + 1 reads at pixels x .. x + count and row y does not.
template <typename S>
MMCARAFE_INLINE void prefetch_below(const S* features, int64_t n, const Sizes& z, int64_t y, int64_t x,
                                    int64_t count) {
  const int64_t top = z.s * y + z.k / 2 + 1, bottom = top + z.s < z.s * z.H ? top + z.s : z.s * z.H;
  const int64_t right = z.s * (x + count < z.W ? x + count : z.W);
  for (int64_t row = top; row < bottom; ++row)
    for (int64_t i = z.s * x; i < right; ++i) prefetch(features + (row * z.s * z.W + i) * z.C, n);
}

// out[t]: channels from c on of output pixels (y, x + t).
template <typename S, int K, int X, int V>
MMCARAFE_INLINE void reassemble_last(S* out, const S* features, const S* masks, const Sizes& z, int64_t y,
                                     int64_t x, int64_t g, int64_t c) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  constexpr int M = V ? V : 1;
  const int64_t k = K ? K : z.k, s = K ? 2 : z.s, r = k / 2, sW = s * z.W;
  const S* weights[X];
  for (int t = 0; t < X; ++t)  // a pixel behind the last is summed and not stored
    weights[t] = masks + ((y * z.W + (x + t < z.W ? x + t : z.W - 1)) * z.G + g) * k * k;
  Lanes<A, V> sum[X][M] = {};
  for (int64_t dy = 0; dy < k; ++dy) {
    const int64_t row = s * y + dy - r;
    if (row < 0 || row >= s * z.H) continue;
#pragma GCC unroll 16
    for (int64_t p = 0; p < s * (X - 1) + k; ++p) {
      const int64_t from = s * x + p - r;
      if (from < 0 || from >= sW) continue;
      Lanes<A, V> v[M];
#pragma GCC unroll 8
      for (int n = 0; n < M; ++n) v[n] = load_channels<A, V>(features + (row * sW + from) * z.C + c + n * L);
#pragma GCC unroll 8
      for (int t = 0; t < X; ++t) {
        if (p - s * t < 0 || p - s * t >= k) continue;
        const A m = static_cast<A>(weights[t][dy * k + p - s * t]);
#pragma GCC unroll 8
        for (int n = 0; n < M; ++n) sum[t][n] += v[n] * m;
      }
    }
  }
  for (int t = 0; t < X && x + t < z.W; ++t)
    for (int n = 0; n < M; ++n) store_channels<V>(out + (y * z.W + x + t) * z.C + c + n * L, sum[t][n]);
}

template <typename S, int K, int X>
void downsample_last(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
                     int64_t end) {
  const int64_t plane = z.H * z.W, Cg = z.C / z.G;
  for_stripes(z, z.C * sizeof(S), begin, end, [&](int64_t n, int64_t y, int64_t left, int64_t right) {
    const S* features = static_cast<const S*>(first) + n * z.s * z.s * plane * z.C;
    const S* masks = static_cast<const S*>(second) + n * plane * z.G * z.k * z.k;
    S* out = static_cast<S*>(result) + n * plane * z.C;
    for (int64_t g = 0; g < z.G; ++g)
      for_channels<Acc<S>>(g * Cg, (g + 1) * Cg, [&](int64_t c, auto vectors) {
        for (int64_t x = left; x < right; x += X) {
          prefetch_below(features + c, vectors.value * kLanes<Acc<S>>, z, y, x, X);
          reassemble_last<S, K, X, vectors.value>(out, features, masks, z, y, x, g, c);
        }
      });
  });
}

// out[t]: gradient of channels from c on of source pixels (y, x + t); x is a multiple of X.
template <typename S, int K, int X, int V>
MMCARAFE_INLINE void spread_last(S* out, const S* grad, const S* masks, const Sizes& z, int64_t y, int64_t x,
                                 int64_t g, int64_t c) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  constexpr int M = V ? V : 1;
  const int64_t k = K ? K : z.k, s = K ? 2 : z.s, r = k / 2, sW = s * z.W;
  // the output pixels whose kernels reach them
  const int64_t top = -floor_div(r - y, s), bottom = floor_div(y + r, s);
  const int64_t left = K ? x / 2 - r / 2 : -floor_div(r - x, s);
  const int64_t columns = K ? r / 2 + (X - 1 + r) / 2 + 1 : floor_div(x + r, s) - left + 1;
  const int64_t nearest = K ? r + r / 2 * 2 : x - s * left + r;  // tap of the first of them on pixel x
  Lanes<A, V> sum[X][M] = {};
  for (int64_t i = top < 0 ? 0 : top; i <= bottom && i < z.H; ++i)
#pragma GCC unroll 16
    for (int64_t p = 0; p < columns; ++p) {
      const int64_t from = left + p;
      if (from < 0 || from >= z.W) continue;
      const int64_t pixel = i * z.W + from;
      const S* weights = masks + (pixel * z.G + g) * k * k + (y - s * i + r) * k;
      Lanes<A, V> v[M];
#pragma GCC unroll 8
      for (int n = 0; n < M; ++n) v[n] = load_channels<A, V>(grad + pixel * z.C + c + n * L);
#pragma GCC unroll 8
      for (int t = 0; t < X; ++t) {
        const int64_t dx = nearest + t - s * p;
        if (dx < 0 || dx >= k) continue;
        const A m = static_cast<A>(weights[dx]);
#pragma GCC unroll 8
        for (int n = 0; n < M; ++n) sum[t][n] += v[n] * m;
      }
    }
  for (int t = 0; t < X && x + t < sW; ++t)
    for (int n = 0; n < M; ++n) store_channels<V>(out + (y * sW + x + t) * z.C + c + n * L, sum[t][n]);
}

// Gradient of the features: source pixels collect from the output pixels around them.
template <typename S, int K, int X>
void downsample_grad_features_last(const Sizes& z, const void* first, const void* second, void* result,
                                   int64_t begin, int64_t end) {
  const int64_t plane = z.H * z.W, Cg = z.C / z.G;
  for_stripes(z, z.C * sizeof(S), begin, end, [&](int64_t n, int64_t item, int64_t left, int64_t right) {
    const S* grad = static_cast<const S*>(first) + n * plane * z.C;
    const S* masks = static_cast<const S*>(second) + n * plane * z.G * z.k * z.k;
    S* out = static_cast<S*>(result) + n * z.s * z.s * plane * z.C;
    for (int64_t g = 0; g < z.G; ++g)
      for_channels<Acc<S>>(g * Cg, (g + 1) * Cg, [&](int64_t c, auto vectors) {
        for (int64_t y = item * z.s; y < (item + 1) * z.s; ++y)
          for (int64_t x = z.s * left; x < z.s * right; x += X)
            spread_last<S, K, X, vectors.value>(out, grad, masks, z, y, x, g, c);
      });
  });
}

// Gradient of the masks: dot products over a group's channels with D neighbouring source pixels.
template <typename S, int D>
void downsample_grad_masks_last(const Sizes& z, const void* first, const void* second, void* result,
                                int64_t begin, int64_t end) {
  const int64_t r = z.k / 2, kk = z.k * z.k, Cg = z.C / z.G, sW = z.s * z.W, sH = z.s * z.H;
  for_stripes(z, z.C * sizeof(S), begin, end, [&](int64_t n, int64_t y, int64_t first_x, int64_t behind) {
    const S* features = static_cast<const S*>(second) + n * sH * sW * z.C;
    for (int64_t x = first_x; x < behind; ++x)
      for (int64_t g = 0; g < z.G; ++g) {
        const int64_t pixel = (n * z.H + y) * z.W + x;
        S* target = static_cast<S*>(result) + (pixel * z.G + g) * kk;
        const S* grad = static_cast<const S*>(first) + pixel * z.C + g * Cg;
        prefetch_below(features + g * Cg, Cg, z, y, x, 1);
        for (int64_t dy = 0; dy < z.k; ++dy) {
          const int64_t row = z.s * y + dy - r, left = z.s * x - r;
          const S* source = features + (row * sW + left) * z.C + g * Cg;
          const bool inside = row >= 0 && row < sH;
          const bool whole = inside && left >= 0 && left + z.k <= sW && z.k % D == 0;
          for (int64_t dx = 0; dx < z.k; dx += whole ? D : 1) {
            if (whole)
              dots<S, 1, D>(&target, &grad, source + dx * z.C, Cg, z.C);
            else if (inside && left + dx >= 0 && left + dx < sW)
              dots<S, 1, 1>(&target, &grad, source + dx * z.C, Cg, z.C);
            else
              *target = static_cast<S>(0);
            target += whole ? D : 1;
          }
        }
      }
  });
}

}  // namespace mmcarafe::MMCARAFE_VARIANT
