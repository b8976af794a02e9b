// SPDX-License-Identifier: Apache-2.0
// The three downsampling kernels for contiguous tensors; see contiguous_forward.h. Lanes lie along the width
// of the output. A source map is held as its s*s phases, the maps of every s-th row and column: a tap of a
// kernel is one phase, shifted, and its lanes are adjacent.

namespace mmcarafe::MMCARAFE_VARIANT {

// Of an odd k, k*k is a multiple of this plus 1.
constexpr int kTaps = 8;
constexpr int kPhaseChannels = 8;

inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// How far the taps reach, in pixels of a phase.
inline int64_t phase_reach(const Sizes& z) { return (z.k / 2 + z.s - 1) / z.s; }

// Which phase a tap lies in, and how it is shifted.
struct Shift {
  Shift(int64_t tap, const Sizes& z) {
    const int64_t dy = tap / z.k - z.k / 2, dx = tap % z.k - z.k / 2;
    row = floor_div(dy, z.s);
    column = floor_div(dx, z.s);
    phase = (dy - row * z.s) * z.s + dx - column * z.s;
  }
  int64_t row, column, phase;
};

// The phases of the source rows around output row y of some maps, with zeros around them, kept from one y to
// the next.
template <typename A, typename S>
class PhaseRows {
 public:
  PhaseRows(int64_t maps, const Sizes& z)
      : z_(z),
        reach_(phase_reach(z)),
        width_((z.W + kLanes<A> - 1) / kLanes<A> * kLanes<A> + 2 * reach_),
        rows_(maps * stride()) {}

  // Makes what the kernels of output row y cover readable.
  void move_to(const S* first_map, int64_t maps, int64_t y) {
    const int64_t ss = z_.s * z_.s, plane = z_.H * z_.W;
    const bool next = first_map == map_ && y == y_ + 1;
    for (int64_t row = next ? y + reach_ : y - reach_; row <= y + reach_; ++row)
      for (int64_t c = 0; c < maps; ++c) {
        A* to = rows_ + c * stride() + slot(row);
        if (row < 0 || row >= z_.H)
          __builtin_memset(to, 0, ss * width_ * sizeof(A));
        else
          split_subpixels(to, width_, width_, first_map + c * ss * plane + row * ss * z_.W, -reach_, z_);
      }
    map_ = first_map;
    y_ = y;
  }

  // What a tap of the kernels of output row y covers in the first map, from x = 0 on.
  const A* tap(int64_t t) {
    const Shift shift(t, z_);
    return rows_ + slot(y_ + shift.row) + shift.phase * width_ + reach_ + shift.column;
  }
  // From a map to the next.
  int64_t stride() const { return (2 * reach_ + 1) * z_.s * z_.s * width_; }

 private:
  int64_t slot(int64_t row) const {
    const int64_t slots = 2 * reach_ + 1;
    return (row + slots) % slots * z_.s * z_.s * width_;
  }

  const Sizes& z_;
  const int64_t reach_, width_;
  Buffer<A> rows_;
  const S* map_ = nullptr;
  int64_t y_ = 0;
};

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
  PhaseRows<A, S> source(Cg < kChannels ? Cg : kChannels, z);
  Buffer<const A*> taps(kk);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, chunk = item / z.H % chunks, ng = item / z.H / chunks;
    const int64_t c_begin = chunk * kChannels, count = Cg - c_begin < kChannels ? Cg - c_begin : kChannels;
    const int64_t channel = ng * Cg + c_begin;
    source.move_to(features + channel * ss * plane, count, y);
    for (int64_t t = 0; t < kk; ++t) taps[t] = source.tap(t);
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
  PhaseRows<A, S> source(Cg, z);
  Buffer<const A*> taps(kk);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, ng = item / z.H;
    source.move_to(features + ng * Cg * ss * plane, Cg, y);
    for (int64_t t = 0; t < kk; ++t) taps[t] = source.tap(t);
    for (int64_t c = 0; c < Cg; c += chunk) {
      const int64_t count = Cg - c < chunk ? Cg - c : chunk, stride = source.stride();
      for (int64_t i = 0; i < count; ++i)
        copy_padded(g + i * width, width, grad + (ng * Cg + c + i) * plane + y * z.W, 0, z.W);
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
  const int64_t kk = z.k * z.k, ss = z.s * z.s, plane = z.H * z.W, Cg = z.C / z.G, reach = phase_reach(z);
  const int64_t blocks = (z.W + L - 1) / L, width = blocks * L + 2 * reach, rows = 2 * reach + 1;
  const int64_t chunks = channel_chunks(z);
  Buffer<A> packed(blocks * kk * L), g(CB * rows * width);
  // taps, those of a phase next to each other, and where each reads
  Buffer<int64_t> order(kk), starts(ss + 1), offsets(kk);
  for (int64_t phase = 0, i = 0; phase < ss; ++phase, starts[phase] = i)
    for (int64_t t = 0; t < kk; ++t) {
      const Shift shift(t, z);
      if (shift.phase != phase) continue;
      order[i] = t;
      offsets[i++] = (reach - shift.row) * width + reach - shift.column;
    }
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, chunk = item / z.H % chunks, ng = item / z.H / chunks;
    const int64_t c_end = (chunk + 1) * kChannels < Cg ? (chunk + 1) * kChannels : Cg;
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t i = 0; i < kk; ++i) {
        const Shift shift(order[i], z);
        const int64_t row = y - shift.row;
        const bool inside = row >= 0 && row < z.H;
        copy_padded(packed + (block * kk + i) * L, L,
                    masks + (ng * kk + order[i]) * plane + (inside ? row : 0) * z.W, block * L - shift.column,
                    inside ? z.W : 0);
      }
    for (int64_t c = chunk * kChannels; c < c_end; c += CB) {
      const int64_t count = c_end - c < CB ? c_end - c : CB;
      for (int64_t i = 0; i < count; ++i)
        for (int64_t p = 0; p < rows; ++p) {
          const int64_t row = y + p - reach;
          const bool inside = row >= 0 && row < z.H;
          copy_padded(g + (i * rows + p) * width, width,
                      grad + (ng * Cg + c + i) * plane + (inside ? row : 0) * z.W, -reach, inside ? z.W : 0);
        }
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t b = 0; b < ss; b += B) {
          Vector<A> sum[CB][B] = {};
#pragma GCC unroll 2
          for (int j = 0; j < B; ++j)
            for (int64_t i = starts[b + j]; i < starts[b + j + 1]; ++i) {
              const Vector<A> m = load(packed + (block * kk + i) * L);
              const A* v = g + offsets[i] + block * L;
#pragma GCC unroll 8
              for (int n = 0; n < CB; ++n) sum[n][j] += load(v + n * rows * width) * m;
            }
          for (int64_t i = 0; i < count; ++i)
            join_subpixels<S, A, B>(out + (ng * Cg + c + i) * ss * plane + y * ss * z.W + z.s * block * L,
                                    sum[i], b, z.W - block * L < L ? z.W - block * L : L, z);
        }
    }
  }
}

}  // namespace mmcarafe::MMCARAFE_VARIANT
