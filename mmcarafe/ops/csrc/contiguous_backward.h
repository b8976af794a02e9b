// SPDX-License-Identifier: Apache-2.0
// The two gradients; see contiguous_forward.h.

namespace mmcarafe::MMCARAFE_VARIANT {

// Channels whose part of a block of source pixels stays in the first-level cache.
constexpr int64_t kCachedChannels = 32;

// Sums of products over count channels, of B sub-pixels with D neighbours to the right; to is [D][B][L],
// added to what is there where more is set.
template <typename A, int D, int B>
MMCARAFE_INLINE void correlate(A* to, int64_t step, bool more, const A* g, int64_t subpixel,
                               int64_t g_channel, const A* row, int64_t row_channel, int64_t count) {
  constexpr int64_t L = kLanes<A>;
  Vector<A> sum[D][B] = {};
  if (more)
    for (int d = 0; d < D; ++d)
      for (int b = 0; b < B; ++b) sum[d][b] = load(to + d * step + b * L);
  for (int64_t c = 0; c < count; ++c, g += g_channel, row += row_channel) {
    Vector<A> v[B];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) v[b] = load(g + b * subpixel);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const Vector<A> w = load(row + d);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) sum[d][b] += v[b] * w;
    }
  }
  for (int d = 0; d < D; ++d)
    for (int b = 0; b < B; ++b) store(to + d * step + b * L, sum[d][b]);
}

// Gradient of the masks, one source row (n, g, y) an item: D taps of one kernel row and B sub-pixels are
// summed over the channels at a time.
template <typename S, int D, int B>
void grad_masks(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
                int64_t end) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  const S* grad = static_cast<const S*>(first);
  const S* features = static_cast<const S*>(second);
  S* out = static_cast<S*>(result);
  const int64_t kk = z.k * z.k, ss = z.s * z.s, plane = z.H * z.W, Cg = z.C / z.G, blocks = (z.W + L - 1) / L;
  const int64_t width = blocks * L, chunk = Cg < kCachedChannels ? Cg : kCachedChannels;
  Buffer<A> g(chunk * ss * width);       // [channel][sub-pixel][x]
  Buffer<A> sums(blocks * kk * ss * L);  // [block][tap][sub-pixel][lane]
  SourceRows<A, S> source(Cg, z);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, ng = item / z.H;
    source.move_to(features + ng * Cg * plane, Cg, y);
    for (int64_t c = 0; c < Cg; c += chunk) {
      const int64_t count = Cg - c < chunk ? Cg - c : chunk;
      for (int64_t i = 0; i < count; ++i)
        split_subpixels(g + i * ss * width, width, width,
                        grad + (ng * Cg + c + i) * ss * plane + y * ss * z.W, 0, z);
      for (int64_t block = 0; block < blocks; ++block) {
        // while this block is summed, fetch a part of what the next channels need
        for (int64_t i = c + chunk + block; i < Cg && i < c + 2 * chunk; i += blocks)
          prefetch(grad + (ng * Cg + i) * ss * plane + y * ss * z.W, ss * z.W);
        for (int64_t t = 0; t < kk; t += D)
          for (int64_t b = 0; b < ss; b += B) {
            A* total = sums + ((block * kk + t) * ss + b) * L;
            correlate<A, D, B>(total, ss * L, c > 0, g + b * width + block * L, width, ss * width,
                               source.row(t / z.k) + c * source.stride() + block * L + t % z.k,
                               source.stride(), count);
          }
      }
    }
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t t = 0; t < kk; ++t)
        for (int64_t b = 0; b < ss; b += B) {
          Vector<A> sum[B];
          for (int i = 0; i < B; ++i) sum[i] = load(sums + ((block * kk + t) * ss + b + i) * L);
          join_subpixels<S, A, B>(out + (ng * kk + t) * ss * plane + y * ss * z.W + z.s * block * L, sum, b,
                                  z.W - block * L < L ? z.W - block * L : L, z);
        }
  }
}

// sum[c][t]: gradient of source row y + t, from the output gradients of source rows y - r .. y + T - 1 + r.
// g holds [C][T + k - 1][s*s][width], packed [T + k - 1][T][k][s*s][L].
template <typename A, int K, int T, int C>
MMCARAFE_INLINE void collect(Vector<A> (&sum)[C][T], const A* g, int64_t width, const A* packed,
                             const Sizes& z) {
  constexpr int64_t L = kLanes<A>;
  const int64_t k = K ? K : z.k, ss = z.s * z.s, sources = T + k - 1;
  for (int c = 0; c < C; ++c)
    for (int t = 0; t < T; ++t) sum[c][t] = Vector<A>{};
#pragma GCC unroll 16
  for (int64_t p = 0; p < sources; ++p) {
    for (int64_t dx = 0; dx < k; ++dx) {
      for (int64_t b = 0; b < ss; ++b) {
        Vector<A> v[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) v[c] = load(g + ((c * sources + p) * ss + b) * width + k - 1 - dx);
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

// The masks that source rows y .. y + T - 1 take part in, for each block of lanes as collect reads them.
template <typename A, typename S>
void pack_masks(A* packed, const S* masks, int64_t y, int64_t T, const Sizes& z) {
  constexpr int64_t L = kLanes<A>;
  const int64_t k = z.k, r = k / 2, ss = z.s * z.s, plane = z.H * z.W;
  for (int64_t x = 0; x < z.W; x += L)
    for (int64_t p = 0; p < T + k - 1; ++p)
      for (int64_t t = 0; t < T; ++t, packed += k * ss * L) {
        const int64_t source = y + p - r;
        // out[source] took row y + t with tap dy
        const int64_t dy = t - p + 2 * r;
        if (dy < 0 || dy >= k) continue;
        for (int64_t dx = 0; dx < k; ++dx) {
          A* to = packed + dx * ss * L;
          if (source < 0 || source >= z.H)
            __builtin_memset(to, 0, ss * L * sizeof(A));
          else
            split_subpixels(to, L, L, masks + (dy * k + dx) * ss * plane + source * ss * z.W, x + r - dx, z);
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
  const int64_t blocks = (z.W + L - 1) / L, width = blocks * L + k - 1, sources = T + k - 1;
  const int64_t chunks = channel_chunks(z), tiles = (z.H + T - 1) / T, block_masks = sources * T * k * ss * L;
  Buffer<A> packed(blocks * block_masks), g(CB * sources * ss * width);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t chunk = item % chunks, y = item / chunks % tiles * T, ng = item / chunks / tiles;
    const int64_t c_end = (chunk + 1) * kChannels < Cg ? (chunk + 1) * kChannels : Cg;
    pack_masks<A>(packed, masks + ng * kk * ss * plane, y, T, z);
    for (int64_t c = chunk * kChannels; c < c_end; c += CB) {
      const int64_t count = c_end - c < CB ? c_end - c : CB;
      for (int64_t i = 0; i < count; ++i)
        for (int64_t p = 0; p < sources; ++p) {
          const int64_t source = y + p - r;
          A* to = g + (i * sources + p) * ss * width;
          if (source < 0 || source >= z.H)
            __builtin_memset(to, 0, ss * width * sizeof(A));
          else
            split_subpixels(to, width, width, grad + (ng * Cg + c + i) * ss * plane + source * ss * z.W, -r,
                            z);
        }
      for (int64_t block = 0; block < blocks; ++block) {
        // while this block is summed, fetch a part of what the next channels need
        for (int64_t row = block; c + CB < c_end && row < CB * sources; row += blocks) {
          const int64_t source = y + row % sources - r;
          if (source >= 0 && source < z.H)
            prefetch(grad + (ng * Cg + c + CB + row / sources) * ss * plane + source * ss * z.W, ss * z.W);
        }
        Vector<A> sum[CB][T];
        collect<A, K, T, CB>(sum, g + block * L, width, packed + block * block_masks, z);
        for (int64_t i = 0; i < count; ++i)
          for (int64_t t = 0; t < T && y + t < z.H; ++t)
            store_lanes<S, A>(out + (ng * Cg + c + i) * plane + (y + t) * z.W + block * L, sum[i][t],
                              z.W - block * L);
      }
    }
  }
}

}  // namespace mmcarafe::MMCARAFE_VARIANT
