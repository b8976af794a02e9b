// SPDX-License-Identifier: Apache-2.0
// The three kernels, in terms of the vectors of the variant being compiled. Lanes lie along the width of the
// source map; masks are packed so that the lanes of one sub-pixel (i, j) of the s*s are next to each other.

namespace mmcarafe::MMCARAFE_VARIANT {

// Sub-pixels held in registers at a time; 32 vector registers allow more than 16.
constexpr int kSubpixels = MMCARAFE_VECTOR_BYTES == 64 ? 4 : 2;
constexpr int kBlockChannels = 4;

// to[b * stride + l] = from[row i, s * (first + l) + j] for sub-pixel b = i * s + j; 0 outside the row.
template <typename A, typename S>
MMCARAFE_INLINE void split_subpixels(A* to, int64_t stride, int64_t n, const S* from, int64_t first,
                                     const Sizes& z) {
  const int64_t left = first >= 0 ? 0 : -first < n ? -first : n;
  const int64_t right = first + n <= z.W ? n : z.W - first > left ? z.W - first : left;
  for (int64_t i = 0; i < z.s; ++i) {
    const S* row = from + i * z.s * z.W + z.s * first;
    if (z.s == 2) {
      constexpr int64_t L = kLanes<A>;
      int64_t l = left;
      for (; l + L <= right; l += L) {
        Vector<A> even, odd;
        deinterleave<A>(load_as<A>(row + 2 * l), load_as<A>(row + 2 * l + L), even, odd,
                        std::make_index_sequence<L>{});
        store(to + l, even);
        store(to + stride + l, odd);
      }
      for (; l < right; ++l) {
        to[l] = static_cast<A>(row[2 * l]);
        to[stride + l] = static_cast<A>(row[2 * l + 1]);
      }
    } else {
      for (int64_t j = 0; j < z.s; ++j)
        for (int64_t l = left; l < right; ++l) to[j * stride + l] = static_cast<A>(row[z.s * l + j]);
    }
    for (int64_t j = 0; j < z.s; ++j) {
      for (int64_t l = 0; l < left; ++l) to[j * stride + l] = A(0);
      for (int64_t l = right; l < n; ++l) to[j * stride + l] = A(0);
    }
    to += z.s * stride;
  }
}

// Writes n lanes of v.
template <typename S, typename A>
MMCARAFE_INLINE void store_lanes(S* out, Vector<A> v, int64_t n) {
  constexpr int64_t L = kLanes<A>;
  if (n >= L) {
    store_as<S, A>(out, v);
    return;
  }
  A lanes[L];
  store(lanes, v);
  for (int64_t l = 0; l < n; ++l) out[l] = static_cast<S>(lanes[l]);
}

// The inverse for n source pixels: out[i, s * l + j] = v[b], sub-pixels b0 .. b0 + B of one map.
template <typename S, typename A, int B>
MMCARAFE_INLINE void join_subpixels(S* out, const Vector<A> (&v)[B], int64_t b0, int64_t n, const Sizes& z) {
  constexpr int64_t L = kLanes<A>;
  const int64_t sW = z.s * z.W;
  if constexpr (B % 2 == 0) {
    if (z.s == 2) {
#pragma GCC unroll 4
      for (int b = 0; b < B; b += 2) {
        Vector<A> low, high;
        interleave<A>(v[b], v[b + 1], low, high, std::make_index_sequence<L>{});
        S* row = out + (b0 + b) / 2 * sW;
        store_lanes<S, A>(row, low, 2 * n);
        if (2 * n > L) store_lanes<S, A>(row + L, high, 2 * n - L);
      }
      return;
    }
  }
  for (int b = 0; b < B; ++b) {
    S* row = out + (b0 + b) / z.s * sW + (b0 + b) % z.s;
    if (z.s == 1) {
      store_lanes<S, A>(row, v[b], n);
      continue;
    }
    A lanes[L];
    store(lanes, v[b]);
    for (int64_t l = 0; l < n; ++l) row[z.s * l] = static_cast<S>(lanes[l]);
  }
}

// The k source rows around row y of some maps, converted and with zeros around them, kept from one y to the
// next.
template <typename A, typename S>
class SourceRows {
 public:
  SourceRows(int64_t maps, const Sizes& z)
      : z_(z), width_((z.W + kLanes<A> - 1) / kLanes<A> * kLanes<A> + z.k - 1), rows_(maps * z.k * width_) {}

  // Makes rows y - r .. y + r of the maps readable.
  void move_to(const S* first_map, int64_t maps, int64_t y) {
    const int64_t r = z_.k / 2;
    const bool next = first_map == map_ && y == y_ + 1;
    for (int64_t row = next ? y + r : y - r; row <= y + r; ++row) {
      const bool inside = row >= 0 && row < z_.H;
      for (int64_t c = 0; c < maps; ++c) {
        A* to = rows_ + c * stride() + slot(row);
        // a row that ends before it starts is all padding
        copy_padded(to, width_, first_map + (c * z_.H + (inside ? row : 0)) * z_.W, -r, inside ? z_.W : 0);
      }
    }
    map_ = first_map;
    y_ = y;
  }

  // Row y + dy - r of the first map, from x = -r on.
  const A* row(int64_t dy) { return rows_ + slot(y_ + dy - z_.k / 2); }
  // From a map to the next.
  int64_t stride() const { return z_.k * width_; }

 private:
  int64_t slot(int64_t row) const { return (row + z_.k) % z_.k * width_; }

  const Sizes& z_;
  const int64_t width_;
  Buffer<A> rows_;
  const S* map_ = nullptr;
  int64_t y_ = 0;
};

// sum[c][b] of a block of lanes at x: B sub-pixels of C channels, all k*k terms.
template <typename A, int K, int C, int B>
MMCARAFE_INLINE void reassemble(Vector<A> (&sum)[C][B], const A* const* rows, int64_t stride, const A* masks,
                                const Sizes& z) {
  constexpr int64_t L = kLanes<A>;
  const int64_t k = K ? K : z.k, step = z.s * z.s * L;
  for (int c = 0; c < C; ++c)
    for (int b = 0; b < B; ++b) sum[c][b] = Vector<A>{};
  for (int64_t dy = 0; dy < k; ++dy) {
    const A* row = rows[dy];
#pragma GCC unroll 8
    for (int64_t dx = 0; dx < k; ++dx) {
      Vector<A> x[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) x[c] = load(row + c * stride + dx);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) {
        const Vector<A> m = load(masks + b * L);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sum[c][b] += x[c] * m;
      }
      masks += step;
    }
  }
}

template <typename S, int K, int B>
void forward(const Sizes& z, const void* first, const void* second, void* result, int64_t begin,
             int64_t end) {
  using A = Acc<S>;
  constexpr int64_t L = kLanes<A>;
  constexpr int CB = kBlockChannels;
  const S* features = static_cast<const S*>(first);
  const S* masks = static_cast<const S*>(second);
  S* out = static_cast<S*>(result);
  const int64_t kk = z.k * z.k, ss = z.s * z.s, plane = z.H * z.W, Cg = z.C / z.G;
  const int64_t blocks = (z.W + L - 1) / L, chunks = channel_chunks(z);
  const int64_t largest = Cg < kChannels ? Cg : kChannels;
  Buffer<A> packed(blocks * kk * ss * L);
  SourceRows<A, S> source(largest, z);
  Buffer<const A*> rows(z.k);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t y = item % z.H, chunk = item / z.H % chunks, ng = item / z.H / chunks;
    const int64_t c_begin = chunk * kChannels, count = Cg - c_begin < kChannels ? Cg - c_begin : kChannels;
    const int64_t channel = ng * Cg + c_begin;
    source.move_to(features + channel * plane, count, y);
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t t = 0; t < kk; ++t)
        split_subpixels(packed + (block * kk + t) * ss * L, L, L,
                        masks + (ng * kk + t) * ss * plane + y * ss * z.W, block * L, z);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t x = block * L, n = z.W - x < L ? z.W - x : L;
      for (int64_t b = 0; b < ss; b += B) {
        const A* m = packed + (block * kk * ss + b) * L;
        S* target = out + channel * ss * plane + y * ss * z.W + z.s * x;
        int64_t c = 0;
        for (; c + CB <= count; c += CB) {
          for (int64_t dy = 0; dy < z.k; ++dy) rows[dy] = source.row(dy) + c * source.stride() + x;
          if (c + CB < count)  // while this block is summed, fetch what the next one writes
            for (int64_t i = CB; i < 2 * CB; ++i)
              for (int64_t j = 0; j < z.s; ++j)
                prefetch_for_writing(target + (c + i) * ss * plane + j * z.s * z.W, z.s * n);
          Vector<A> sum[CB][B];
          reassemble<A, K, CB, B>(sum, rows, source.stride(), m, z);
#pragma GCC unroll 8
          for (int i = 0; i < CB; ++i)
            join_subpixels<S, A, B>(target + (c + i) * ss * plane, sum[i], b, n, z);
        }
        for (; c < count; ++c) {
          for (int64_t dy = 0; dy < z.k; ++dy) rows[dy] = source.row(dy) + c * source.stride() + x;
          Vector<A> sum[1][B];
          reassemble<A, K, 1, B>(sum, rows, source.stride(), m, z);
          join_subpixels<S, A, B>(target + c * ss * plane, sum[0], b, n, z);
        }
      }
    }
  }
}

}  // namespace mmcarafe::MMCARAFE_VARIANT
