// SPDX-License-Identifier: Apache-2.0
// The phases of a map that is downsampled: the s*s maps of every s-th row and column. Each has the size of
// the output, and a tap of a kernel is one phase, shifted.

namespace mmcarafe::MMCARAFE_VARIANT {

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

// One vector of a row, zero outside of it; where all of it lies inside, without a loop.
template <typename A, typename S>
MMCARAFE_INLINE void copy_vector(A* to, const S* row, int64_t first, int64_t size) {
  if (first >= 0 && first + kLanes<A> <= size)
    store(to, load_as<A>(row + first));
  else
    copy_padded(to, kLanes<A>, row, first, size);
}

// Rows y - reach .. y + reach of the s*s phases of some maps, with zeros around them, kept from one y to the
// next. Phases have z.H rows of z.W.
template <typename A, typename S>
class PhaseRows {
 public:
  PhaseRows(int64_t maps, int64_t s, const Sizes& z)
      : H_(z.H),
        W_(z.W),
        s_(s),
        reach_(phase_reach(z)),
        frame_((reach_ + kLanes<A> - 1) / kLanes<A> * kLanes<A>),
        width_(frame_ + (z.W + kLanes<A> - 1) / kLanes<A> * kLanes<A> + reach_),
        rows_(maps * stride()) {}

  // Makes the rows around y readable.
  void move_to(const S* first_map, int64_t maps, int64_t y) {
    const int64_t rows = s_ * s_ * W_;  // of the map that make one of each of its phases
    const bool next = first_map == map_ && y == y_ + 1;
    for (int64_t row = next ? y + reach_ : y - reach_; row <= y + reach_; ++row)
      for (int64_t c = 0; c < maps; ++c) {
        A* to = rows_ + c * stride() + slot(row);
        const S* from = first_map + (c * H_ + row) * rows;
        if (row < 0 || row >= H_) {
          __builtin_memset(to, 0, s_ * s_ * width_ * sizeof(A));
        } else {
          if (c + 1 < maps) prefetch(from + H_ * rows, rows);
          split(to + frame_, from);
        }
      }
    map_ = first_map;
    y_ = y;
  }

  // Row y + row of a phase of the first map, from x = column on.
  const A* at(int64_t row, int64_t column, int64_t phase) {
    return rows_ + slot(y_ + row) + phase * width_ + frame_ + column;
  }
  // From a map to the next.
  int64_t stride() const { return (2 * reach_ + 1) * s_ * s_ * width_; }

 private:
  // The frame is left as it is, zero.
  void split(A* to, const S* from) {
    constexpr int64_t L = kLanes<A>;
    for (int64_t i = 0; i < s_; ++i, from += s_ * W_, to += s_ * width_) {
      if (s_ == 2 && W_ >= L) {
        for (int64_t x = 0; x < W_; x += L) {
          const int64_t l = x + L <= W_ ? x : W_ - L;  // the last vector may overlap the one before
          Vector<A> even, odd;
          deinterleave<A>(load_as<A>(from + 2 * l), load_as<A>(from + 2 * l + L), even, odd,
                          std::make_index_sequence<L>{});
          store(to + l, even);
          store(to + width_ + l, odd);
        }
      } else if (s_ == 1 && W_ >= L) {
        for (int64_t x = 0; x < W_; x += L) {
          const int64_t l = x + L <= W_ ? x : W_ - L;
          store(to + l, load_as<A>(from + l));
        }
      } else {
        for (int64_t j = 0; j < s_; ++j)
          for (int64_t l = 0; l < W_; ++l) to[j * width_ + l] = static_cast<A>(from[s_ * l + j]);
      }
    }
  }
  int64_t slot(int64_t row) const {
    const int64_t slots = 2 * reach_ + 1;
    return (row + slots) % slots * s_ * s_ * width_;
  }

  const int64_t H_, W_, s_, reach_, frame_, width_;
  Buffer<A> rows_;
  const S* map_ = nullptr;
  int64_t y_ = 0;
};

}  // namespace mmcarafe::MMCARAFE_VARIANT
