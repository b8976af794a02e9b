// SPDX-License-Identifier: Apache-2.0
// The two gradients; see kernels_impl.h.

namespace mmcarafe::MMCARAFE_VARIANT {

// Gradient of the masks, one source row (n, g, y) an item: D taps of one kernel row and B sub-pixels are summed
// over the channels at a time.
template <typename S, int D, int B>
void grad_masks(const Sizes& z, const void* first, const void* second, void* result, int64_t begin, int64_t end) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  const S* grad = static_cast<const S*>(first);
  const S* features = static_cast<const S*>(second);
  S* out = static_cast<S*>(result);
  const int64_t kk = z.k * z.k, ss = z.s * z.s, plane = z.H * z.W, Cg = z.C / z.G;
  Buffer<A> g(Cg * ss * L);
  SourceRows<A, S> source(Cg, z);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, ng = item / z.H;
    source.move_to(features + ng * Cg * plane, Cg, y);
    for (int64_t x = 0; x < z.W; x += L) {
      const int64_t n = z.W - x < L ? z.W - x : L;
      for (int64_t c = 0; c < Cg; ++c)
        split_subpixels(g + c * ss * L, L, L, grad + (ng * Cg + c) * ss * plane + y * ss * z.W, x, z);
      for (int64_t dy = 0; dy < z.k; ++dy) {
        for (int64_t dx = 0; dx < z.k; dx += D) {
          const A* from = source.row(dy) + x + dx;
          for (int64_t b = 0; b < ss; b += B) {
            Vector<A> sum[D][B] = {};
            for (int64_t c = 0; c < Cg; ++c) {
              const A* row = from + c * source.stride();
              Vector<A> v[B];
#pragma GCC unroll 8
              for (int i = 0; i < B; ++i) v[i] = load(g + (c * ss + b + i) * L);
#pragma GCC unroll 8
              for (int d = 0; d < D; ++d) {
                const Vector<A> w = load(row + d);
#pragma GCC unroll 8
                for (int i = 0; i < B; ++i) sum[d][i] += v[i] * w;
              }
            }
            for (int d = 0; d < D; ++d)
              join_subpixels<S, A, B>(
                  out + (ng * kk + dy * z.k + dx + d) * ss * plane + y * ss * z.W + z.s * x, sum[d], b, n, z);
          }
        }
      }
    }
  }
}

// sum[c][t]: gradient of source row y + t, from the output gradients of source rows y - r .. y + T - 1 + r.
// g holds [C][T + k - 1][s*s][L + k - 1], packed [T + k - 1][T][k][s*s][L].
template <typename A, int K, int T, int C>
MMCARAFE_INLINE void collect(Vector<A> (&sum)[C][T], const A* g, const A* packed, const Sizes& z) {
  constexpr int64_t L = kLanes<A>;
  const int64_t k = K ? K : z.k, ss = z.s * z.s, width = L + k - 1, sources = T + k - 1;
  for (int c = 0; c < C; ++c)
    for (int t = 0; t < T; ++t) sum[c][t] = Vector<A>{};
#pragma GCC unroll 16
  for (int64_t p = 0; p < sources; ++p) {
    for (int64_t dx = 0; dx < k; ++dx) {
      for (int64_t b = 0; b < ss; ++b) {
        Vector<A> v[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c)
          v[c] = load(g + ((c * sources + p) * ss + b) * width + k - 1 - dx);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          if (p - t < 0 || p - t >= k) continue;  // source row y + p - r lies outside the kernel of row y + t
          const Vector<A> m = load(packed + (((p * T + t) * k + dx) * ss + b) * L);
#pragma GCC unroll 8
          for (int c = 0; c < C; ++c) sum[c][t] += v[c] * m;
        }
      }
    }
  }
}

template <typename S, int K, int T>
void grad_features(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
                   int64_t end) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  constexpr int CB = kBlockChannels;
  const S* grad = static_cast<const S*>(first);
  const S* masks = static_cast<const S*>(second);
  S* out = static_cast<S*>(result);
  const int64_t k = z.k, r = k / 2, kk = k * k, ss = z.s * z.s, plane = z.H * z.W, Cg = z.C / z.G;
  const int64_t width = L + k - 1, sources = T + k - 1, chunks = channel_chunks(z);
  const int64_t tiles = (z.H + T - 1) / T;
  Buffer<A> packed(sources * T * k * ss * L), g(CB * sources * ss * width);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t chunk = item % chunks, y = item / chunks % tiles * T, ng = item / chunks / tiles;
    const int64_t c_end = (chunk + 1) * kChannels < Cg ? (chunk + 1) * kChannels : Cg;
    for (int64_t x = 0; x < z.W; x += L) {
      for (int64_t p = 0; p < sources; ++p) {
        const int64_t source = y + p - r;
        for (int64_t t = 0; t < T; ++t) {
          // out[source] took this row's features with tap dy = y + t - source + r
          const int64_t dy = t - p + 2 * r;
          if (dy < 0 || dy >= k) continue;
          for (int64_t dx = 0; dx < k; ++dx) {
            A* to = packed + ((p * T + t) * k + dx) * ss * L;
            if (source < 0 || source >= z.H)
              __builtin_memset(to, 0, ss * L * sizeof(A));
            else
              split_subpixels(to, L, L, masks + (ng * kk + dy * k + dx) * ss * plane + source * ss * z.W,
                              x + r - dx, z);
          }
        }
      }
      for (int64_t c = chunk * kChannels; c < c_end; c += CB) {
        const int64_t count = c_end - c < CB ? c_end - c : CB;
        for (int64_t i = 0; i < count; ++i)
          for (int64_t p = 0; p < sources; ++p) {
            const int64_t source = y + p - r;
            A* to = g + (i * sources + p) * ss * width;
            if (source < 0 || source >= z.H)
              __builtin_memset(to, 0, ss * width * sizeof(A));
            else
              split_subpixels(to, width, width,
                              grad + (ng * Cg + c + i) * ss * plane + source * ss * z.W, x - r, z);
          }
        Vector<A> sum[CB][T];
        collect<A, K, T, CB>(sum, g, packed, z);
        for (int64_t i = 0; i < count; ++i)
          for (int64_t t = 0; t < T && y + t < z.H; ++t) {
            store_lanes<S, A>(out + (ng * Cg + c + i) * plane + (y + t) * z.W + x, sum[i][t], z.W - x);
          }
      }
    }
  }
}

}  // namespace mmcarafe::MMCARAFE_VARIANT
