// What is done to an output after its sum of products and its bias, while it is still in registers:
// another array is added, and an activation applied. Only forward passes have one. Nothing here
// calls a function, for no vector stays in a register around a call.
//
//   v += sum;  v = v < 0 ? negative_slope * v : v;  v = min(max(v, lowest), highest)
//
// NaN stays NaN. ReLU is lowest = 0, ReLU6 that and highest = 6, leaky ReLU a negative slope.
#pragma once

#include "../simd.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
struct Epilogue {
  const T* sum = nullptr;  // laid out like the output, which it does not overlap; may be null
  T negative_slope = 1, lowest = -__builtin_inf(), highest = __builtin_inf();
  bool active = false;  // false: nothing is to be done

  CONVPOOL_INLINE Vec<T> apply(Vec<T> v) const {
    v = v < T(0) ? v * negative_slope : v;
    v = v < lowest ? broadcast<T>(lowest) : v;
    v = v > highest ? broadcast<T>(highest) : v;
    return v;
  }

  CONVPOOL_INLINE T apply(T v) const {
    v = v < 0 ? v * negative_slope : v;
    v = v < lowest ? lowest : v;
    v = v > highest ? highest : v;
    return v;
  }

  // What stands in `sum` where the output `place` stands in `out`; null where there is none.
  CONVPOOL_INLINE const T* sum_at(const T* place, const T* out) const {
    return sum ? sum + (place - out) : nullptr;
  }
};

}  // namespace convpool::CONVPOOL_ISA
