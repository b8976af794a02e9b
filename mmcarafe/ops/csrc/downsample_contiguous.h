// SPDX-License-Identifier: Apache-2.0
// The three downsampling kernels for contiguous tensors; see contiguous_forward.h. Lanes lie along the width
// of the output. Source rows are held as their phases, in which the lanes of a tap are adjacent.

namespace mmcarafe::MMCARAFE_VARIANT {

// Of an odd k, k*k is a multiple of this plus 1.
constexpr int kTaps = 8;
constexpr int kPhaseChannels = 8;

// Output row y of C channels, a block of lanes at x: all k*k terms.
template <typename S, typename A, int C>
MMCARAFE_INLINE void reassemble_phases(S* out, const A* const* taps, int64_t at, int64_t stride,
                                       const A* masks, int64_t kk, int64_t plane, int64_t n) {
  Vector<A> sum[C] = {};
  for (int64_t t = 0; t < kk; ++t) {
    const Vector<A> m = load(masks + t * kLanes<A>);
    const A* x = taps[t] + at;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[c] += load(x + c * stride) * m;
  }
  for (int c = 0; c < C; ++c) store_lanes<S, A>(out + c * plane, sum[c], n);
}

template <typename S>
void downsample(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
                int64_t end) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  constexpr int CB = kPhaseChannels;
  const S* features = static_cast<const S*>(first);
  const S* masks = static_cast<const S*>(second);
  const int64_t kk = z.k * z.k, ss = z.s * z.s, plane = z.H * z.W, Cg = z.C / z.G;
  const int64_t blocks = (z.W + L - 1) / L, chunks = channel_chunks(z);
  Buffer<A> packed(blocks * kk * L);
  PhaseRows<A, S> source(Cg < kChannels ? Cg : kChannels, z.s, z);
  Buffer<const A*> taps(kk);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, chunk = item / z.H % chunks, ng = item / z.H / chunks;
    const int64_t c_begin = chunk * kChannels, count = Cg - c_begin < kChannels ? Cg - c_begin : kChannels;
    const int64_t channel = ng * Cg + c_begin;
    source.move_to(features + channel * ss * plane, count, y);
    for (int64_t t = 0; t < kk; ++t) {
      const Shift shift(t, z);
      taps[t] = source.at(shift.row, shift.column, shift.phase);
    }
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t t = 0; t < kk; ++t)
        copy_padded(packed + (block * kk + t) * L, L, masks + (ng * kk + t) * plane + y * z.W, block * L,
                    z.W);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t x = block * L, stride = source.stride();
      const A* m = packed + block * kk * L;
      S* out = static_cast<S*>(result) + channel * plane + y * z.W + x;
      int64_t c = 0;
      for (; c + CB <= count; c += CB)
        reassemble_phases<S, A, CB>(out + c * plane, taps, c * stride + x, stride, m, kk, plane, z.W - x);
      for (; c < count; ++c)
        reassemble_phases<S, A, 1>(out + c * plane, taps, c * stride + x, stride, m, kk, plane, z.W - x);
    }
  }
}

// Sums of products over count channels of the gradient with D taps; to is [D][L], added to what is there
// where more is set.
template <typename A, int D>
MMCARAFE_INLINE void correlate_phases(A* to, bool more, const A* g, int64_t g_channel, const A* const* taps,
                                      int64_t at, int64_t stride, int64_t count) {
  constexpr int64_t L = kLanes<A>;
  Vector<A> sum[D] = {};
  if (more)
    for (int d = 0; d < D; ++d) sum[d] = load(to + d * L);
  for (int64_t c = 0; c < count; ++c) {
    const Vector<A> v = load(g + c * g_channel);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) sum[d] += v * load(taps[d] + at + c * stride);
  }
  for (int d = 0; d < D; ++d) store(to + d * L, sum[d]);
}

// Gradient of the masks, one output row (n, g, y) an item.
template <typename S>
void downsample_grad_masks(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
                           int64_t end) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  const S* grad = static_cast<const S*>(first);
  const S* features = static_cast<const S*>(second);
  S* out = static_cast<S*>(result);
  const int64_t kk = z.k * z.k, ss = z.s * z.s, plane = z.H * z.W, Cg = z.C / z.G, blocks = (z.W + L - 1) / L;
  const int64_t width = blocks * L, chunk = Cg < kCachedChannels ? Cg : kCachedChannels;
  Buffer<A> g(chunk * width);       // [channel][x]
  Buffer<A> sums(blocks * kk * L);  // [block][tap][lane]
  PhaseRows<A, S> source(Cg, z.s, z);
  Buffer<const A*> taps(kk);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, ng = item / z.H;
    source.move_to(features + ng * Cg * ss * plane, Cg, y);
    for (int64_t t = 0; t < kk; ++t) {
      const Shift shift(t, z);
      taps[t] = source.at(shift.row, shift.column, shift.phase);
    }
    for (int64_t c = 0; c < Cg; c += chunk) {
      const int64_t count = Cg - c < chunk ? Cg - c : chunk, stride = source.stride();
      for (int64_t i = 0; i < count; ++i)
        for (int64_t x = 0; x < width; x += L)
          copy_vector(g + i * width + x, grad + (ng * Cg + c + i) * plane + y * z.W, x, z.W);
      for (int64_t block = 0; block < blocks; ++block) {
        const A* v = g + block * L;
        A* to = sums + block * kk * L;
        const int64_t at = c * stride + block * L;
        int64_t t = 0;
        for (; t + kTaps <= kk; t += kTaps)
          correlate_phases<A, kTaps>(to + t * L, c > 0, v, width, taps + t, at, stride, count);
        for (; t < kk; ++t) correlate_phases<A, 1>(to + t * L, c > 0, v, width, taps + t, at, stride, count);
      }
    }
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t t = 0; t < kk; ++t)
        store_lanes<S, A>(out + (ng * kk + t) * plane + y * z.W + block * L,
                          load(sums + (block * kk + t) * L), z.W - block * L);
  }
}

// Gradient of the features: the phases of source row y collect from the output pixels whose kernels reach
// them, B phases at a time.
template <typename S, int B>
void downsample_grad_features(const Sizes& z, const void* first, const void* second, void* result,
                              int64_t begin, int64_t end) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  constexpr int CB = kBlockChannels;
  const S* grad = static_cast<const S*>(first);
  const S* masks = static_cast<const S*>(second);
  S* out = static_cast<S*>(result);
  const int64_t kk = z.k * z.k, ss = z.s * z.s, plane = z.H * z.W, Cg = z.C / z.G;
  const int64_t blocks = (z.W + L - 1) / L, chunks = channel_chunks(z);
  Buffer<A> packed(blocks * kk * L);
  PhaseRows<A, S> source((Cg < kChannels ? Cg + CB - 1 : kChannels), 1, z);
  // taps, those of a phase next to each other, and what each reads
  Buffer<int64_t> order(kk), starts(ss + 1);
  Buffer<const A*> taps(kk);
  for (int64_t phase = 0, i = 0; phase < ss; ++phase, starts[phase] = i)
    for (int64_t t = 0; t < kk; ++t)
      if (Shift(t, z).phase == phase) order[i++] = t;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, chunk = item / z.H % chunks, ng = item / z.H / chunks;
    const int64_t c_begin = chunk * kChannels, count = Cg - c_begin < kChannels ? Cg - c_begin : kChannels;
    const int64_t channel = ng * Cg + c_begin;
    source.move_to(grad + channel * plane, count, y);
    for (int64_t i = 0; i < kk; ++i) {
      const Shift shift(order[i], z);
      const int64_t row = y - shift.row;
      const bool inside = row >= 0 && row < z.H;
      const S* from = masks + (ng * kk + order[i]) * plane + (inside ? row : 0) * z.W;
      taps[i] = source.at(-shift.row, -shift.column, 0);
      for (int64_t block = 0; block < blocks; ++block)
        copy_vector(packed + (block * kk + i) * L, from, block * L - shift.column, inside ? z.W : 0);
    }
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t x = block * L, n = z.W - x < L ? z.W - x : L, stride = source.stride();
      for (int64_t c = 0; c < count; c += CB)
        for (int64_t b = 0; b < ss; b += B) {
          Vector<A> sum[CB][B] = {};
#pragma GCC unroll 2
          for (int j = 0; j < B; ++j)
            for (int64_t i = starts[b + j]; i < starts[b + j + 1]; ++i) {
              const Vector<A> m = load(packed + (block * kk + i) * L);
              const A* v = taps[i] + c * stride + x;
#pragma GCC unroll 8
              for (int l = 0; l < CB; ++l) sum[l][j] += load(v + l * stride) * m;
            }
          for (int64_t i = 0; i < CB && c + i < count; ++i)
            join_subpixels<S, A, B>(out + (channel + c + i) * ss * plane + y * ss * z.W + z.s * x, sum[i], b,
                                    n, z);
        }
    }
  }
}

}  // namespace mmcarafe::MMCARAFE_VARIANT
