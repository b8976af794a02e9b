// SPDX-License-Identifier: Apache-2.0
// Vectors of the variant being compiled, as compiler vector types. Included once by each variant_*.cpp.
#include <new>
#include <type_traits>
#include <utility>

namespace mmcarafe::MMCARAFE_VARIANT {

// Sums are formed in this type: half precision accumulates in float.
template <typename S>
using Acc = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <typename A>
struct VectorOf {
  typedef A type __attribute__((vector_size(MMCARAFE_VECTOR_BYTES)));
};
template <typename A>
using Vector = typename VectorOf<A>::type;
template <typename A>
constexpr int64_t kLanes = MMCARAFE_VECTOR_BYTES / sizeof(A);

#define MMCARAFE_INLINE inline __attribute__((always_inline))

template <typename A>
MMCARAFE_INLINE Vector<A> load(const A* p) {
  Vector<A> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <typename A>
MMCARAFE_INLINE void store(A* p, Vector<A> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// Asks for the cache lines of n values that will soon be read, or written to.
template <typename S>
MMCARAFE_INLINE void prefetch(const S* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / sizeof(S)) __builtin_prefetch(p + i, 0, 2);
}

template <typename S>
MMCARAFE_INLINE void prefetch_for_writing(S* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / sizeof(S)) __builtin_prefetch(p + i, 1);
}

// a0 b0 a1 b1 ...: the first half of the result goes to low, the second to high.
template <typename A, std::size_t... I>
MMCARAFE_INLINE void interleave(Vector<A> a, Vector<A> b, Vector<A>& low, Vector<A>& high,
                                std::index_sequence<I...>) {
  constexpr int L = kLanes<A>;
#if defined(__clang__) || __GNUC__ >= 12
  low = __builtin_shufflevector(a, b, (I / 2 + I % 2 * L)...);
  high = __builtin_shufflevector(a, b, (L / 2 + I / 2 + I % 2 * L)...);
#else
  for (int l = 0; l < L; ++l) {
    low[l] = l % 2 ? b[l / 2] : a[l / 2];
    high[l] = l % 2 ? b[L / 2 + l / 2] : a[L / 2 + l / 2];
  }
#endif
}

// The inverse: a and b next to each other are even[0] odd[0] even[1] odd[1] ...
template <typename A, std::size_t... I>
MMCARAFE_INLINE void deinterleave(Vector<A> a, Vector<A> b, Vector<A>& even, Vector<A>& odd,
                                  std::index_sequence<I...>) {
#if defined(__clang__) || __GNUC__ >= 12
  even = __builtin_shufflevector(a, b, (2 * I)...);
  odd = __builtin_shufflevector(a, b, (2 * I + 1)...);
#else
  constexpr int L = kLanes<A>;
  for (int l = 0; l < L; ++l) {
    even[l] = 2 * l < L ? a[2 * l] : b[2 * l - L];
    odd[l] = 2 * l < L ? a[2 * l + 1] : b[2 * l + 1 - L];
  }
#endif
}

// to[i] = sum over the lanes of v[i], by adding neighbouring lanes of two vectors at a time; uses v up.
template <typename A, int N>
MMCARAFE_INLINE void sum_lanes(A* to, Vector<A> (&v)[N]) {
  constexpr int L = kLanes<A>;
#pragma GCC unroll 32
  for (int first = 0; first < N; first += L) {
    const int count = N - first < L ? N - first : L;
    int n = count;
#pragma GCC unroll 4
    for (int lanes = L; lanes > 1; lanes /= 2) {
#pragma GCC unroll 8
      for (int i = 0; 2 * i < n; ++i) {
        Vector<A> even, odd;
        deinterleave<A>(v[first + 2 * i], v[first + (2 * i + 1 < n ? 2 * i + 1 : 2 * i)], even, odd,
                        std::make_index_sequence<L>{});
        v[first + i] = even + odd;
      }
      n = (n + 1) / 2;
    }
    A lanes[L];
    store(lanes, v[first]);
    for (int i = 0; i < count; ++i) to[first + i] = lanes[i];
  }
}

// Copies n values, converting between the storage and the accumulation type.
template <typename To, typename From>
MMCARAFE_INLINE void copy(To* to, const From* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
}

// One vector from or to the storage type.
template <typename A, typename S>
MMCARAFE_INLINE Vector<A> load_as(const S* p) {
  if constexpr (std::is_same_v<A, S>) {
    return load(p);
  } else {
    A lanes[kLanes<A>];
    copy(lanes, p, kLanes<A>);
    return load(lanes);
  }
}

template <typename S, typename A>
MMCARAFE_INLINE void store_as(S* p, Vector<A> v) {
  if constexpr (std::is_same_v<A, S>) {
    store(p, v);
  } else {
    A lanes[kLanes<A>];
    store(lanes, v);
    copy(p, lanes, kLanes<A>);
  }
}

// to[i] = from[first + i] where that lies within [0, size), else 0
template <typename To, typename From>
MMCARAFE_INLINE void copy_padded(To* to, int64_t n, const From* from, int64_t first, int64_t size) {
  const int64_t left = first < 0 ? (-first < n ? -first : n) : 0;
  const int64_t right = first + n > size ? (size - first > left ? size - first : left) : n;
  for (int64_t i = 0; i < left; ++i) to[i] = To(0);
  copy(to + left, from + first + left, right - left);
  for (int64_t i = right; i < n; ++i) to[i] = To(0);
}

// Scratch memory of one range of work items.
template <typename A>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<A*>(::operator new(size * sizeof(A), std::align_val_t(64)))) {
    __builtin_memset(data_, 0, size * sizeof(A));
  }
  ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  operator A*() { return data_; }

 private:
  A* data_;
};

}  // namespace mmcarafe::MMCARAFE_VARIANT
