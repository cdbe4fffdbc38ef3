// What a window does with its values: one small struct for each mode. Every function of a rule
// works on a value and on a vector of values alike.
#pragma once

#include <math.h>

#include "../convpool.h"
#include "../runs.h"

namespace convpool::CONVPOOL_ISA {

// How many values of an axis an average counts.
inline int64_t counted(const convpool_pooling& pool, int d, int64_t out) {
  const convpool_window& window = pool.window;
  if (pool.count_include_pad == CONVPOOL_COUNT_WINDOW) return window.kernel[d];
  const int64_t start = out * window.stride[d] - window.pad[d], size = window.in_size[d];
  const int64_t end = start + window.kernel[d];
  const int64_t count = pool.count_include_pad == CONVPOOL_COUNT_PADDING
                            ? min_of(end, size + window.pad[d]) - start
                            : min_of(end, size) - max_of(start, 0);
  return max_of(1, count);  // a window that lies outside sums to 0, whatever divides it
}

// Maxima that are NaN are found by other comparisons than numbers.
template <typename T>
inline bool has_nan(const T* values, int64_t count) {
  constexpr int kLanes = Simd<T>::kLanes;
  auto found = Vec<T>{} != Vec<T>{};
  for (int64_t k = 0; k < count; k += kLanes) {
    const Vec<T> value = load_part<T>(values + k, count - k);
    found |= value != value;
  }
  bool any = false;
  for (int lane = 0; lane < kLanes; ++lane) any = any || found[lane];
  return any;
}

// Keeps NaN, which comparisons alone would lose, and infinities.
template <typename T>
struct MaxRule {
  static constexpr bool kByTap = true;      // a value's share of the gradient depends on the value
  static constexpr bool kFirstOnly = true;  // one value of a window takes all of it
  static T identity() { return -static_cast<T>(INFINITY); }
  template <typename V>
  static CONVPOOL_INLINE V prepare(V x) {
    return x;
  }
  template <typename V>
  static CONVPOOL_INLINE V combine(V a, V b) {
    return ((b > a) | (b != b)) ? b : a;
  }
  template <typename V>
  static CONVPOOL_INLINE V finish(V y) {
    return y;
  }
  // The first maximum in row-major order takes the gradient. `inside` tells padding apart, which
  // may equal the maximum where that is -inf; `open` tells whether the window still looks.
  template <typename V, typename Mask>
  static CONVPOOL_INLINE V gradient(V x, V y, V dy, Mask inside, Mask* open) {
    const Mask here = *open & inside & ((x == y) | ((x != x) & (y != y)));
    *open &= ~here;
    return here ? dy : V{};
  }
  // The same where y is not NaN, and padding is.
  template <typename V, typename Mask>
  static CONVPOOL_INLINE V ordered_gradient(V x, V y, V dy, Mask* open) {
    const Mask here = *open & (x == y);
    *open &= ~here;
    return here ? dy : V{};
  }
};

// Sums, for sum and (divided later) average.
template <typename T>
struct SumRule {
  static constexpr bool kByTap = false;
  static constexpr bool kFirstOnly = false;
  static T identity() { return 0; }
  template <typename V>
  static CONVPOOL_INLINE V prepare(V x) {
    return x;
  }
  template <typename V>
  static CONVPOOL_INLINE V combine(V a, V b) {
    return a + b;
  }
  template <typename V>
  static CONVPOOL_INLINE V finish(V y) {
    return y;
  }
  template <typename V, typename Mask>
  static CONVPOOL_INLINE V gradient(V, V, V dy, Mask, Mask*) {
    return dy;
  }
};

// (sum of x^p)^(1/p) without absolute values, as MXNet's operator has it; p = 1 is the sum.
template <typename T, int P>
struct LpRule {
  static constexpr bool kByTap = true;
  static constexpr bool kFirstOnly = false;
  static T identity() { return 0; }
  template <typename V>
  static CONVPOOL_INLINE V prepare(V x) {
    return P == 2 ? x * x : x * x * x;
  }
  template <typename V>
  static CONVPOOL_INLINE V combine(V a, V b) {
    return a + b;
  }
  static CONVPOOL_INLINE T finish(T y) {
    if (P == 3) return static_cast<T>(cbrt(static_cast<double>(y)));
    return sizeof(T) == sizeof(float) ? static_cast<T>(__builtin_sqrtf(static_cast<float>(y)))
                                      : static_cast<T>(__builtin_sqrt(static_cast<double>(y)));
  }
  static CONVPOOL_INLINE Vec<T> finish(Vec<T> y) {
    for (int lane = 0; lane < Simd<T>::kLanes; ++lane) y[lane] = finish(T(y[lane]));
    return y;
  }
  // dy * (x / y)^(p - 1), and 0 where y is: the ratio first, because powers of y may underflow.
  template <typename V, typename Mask>
  static CONVPOOL_INLINE V gradient(V x, V y, V dy, Mask, Mask*) {
    const V ratio = x / y;
    const V value = P == 2 ? dy * ratio : dy * ratio * ratio;
    return y == V{} ? V{} : value;
  }
};

// body(rule) with the rule of a pooling.
template <typename T, typename Body>
inline auto with_pool_rule(const convpool_pooling& pool, const Body& body) {
  if (pool.mode == CONVPOOL_MAX) return body(MaxRule<T>{});
  if (pool.mode == CONVPOOL_LP && pool.p == 2) return body(LpRule<T, 2>{});
  if (pool.mode == CONVPOOL_LP && pool.p == 3) return body(LpRule<T, 3>{});
  return body(SumRule<T>{});
}

}  // namespace convpool::CONVPOOL_ISA
