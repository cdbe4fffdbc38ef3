// What is done to an output after its sum of products and its bias, while it is still in registers:
// another array is added, and an activation applied. Only forward passes have one.
//
//   v += sum;  v = v < 0 ? negative_slope * v : v;  v = min(max(v, lowest), highest)
//   v = 1 / (1 + exp(-v)), for sigmoid
//
// NaN stays NaN. ReLU is lowest = 0, ReLU6 that and highest = 6, leaky ReLU a negative slope.
#pragma once

#include "../simd.h"

namespace convpool::CONVPOOL_ISA {

inline float exponential(float v) { return __builtin_expf(v); }
inline double exponential(double v) { return __builtin_exp(v); }

template <typename T>
struct Epilogue {
  const T* sum = nullptr;  // laid out like the output, which it does not overlap; may be null
  T negative_slope = 1, lowest = -__builtin_inf(), highest = __builtin_inf();
  bool active = false;  // false: nothing is to be done
  bool sigmoid = false;

  CONVPOOL_INLINE Vec<T> apply(Vec<T> v) const {
    v = v < T(0) ? v * negative_slope : v;
    v = v < lowest ? broadcast<T>(lowest) : v;
    v = v > highest ? broadcast<T>(highest) : v;
    if (!sigmoid) return v;
    alignas(64) T values[Simd<T>::kLanes];
    store<T>(values, v);
    apply_sigmoid(values, Simd<T>::kLanes);
    return load<T>(values);
  }

  CONVPOOL_INLINE T apply(T v) const {
    v = v < 0 ? v * negative_slope : v;
    v = v < lowest ? lowest : v;
    v = v > highest ? highest : v;
    if (sigmoid) apply_sigmoid(&v, 1);
    return v;
  }

  // What stands in `sum` where the output `place` stands in `out`; null where there is none.
  CONVPOOL_INLINE const T* sum_at(const T* place, const T* out) const {
    return sum ? sum + (place - out) : nullptr;
  }

 private:
  // One value at a time, and apart from the loops that are unrolled: few layers end in it.
  __attribute__((noinline)) static void apply_sigmoid(T* values, int count) {
    for (int i = 0; i < count; ++i) values[i] = T(1) / (T(1) + exponential(-values[i]));
  }
};

}  // namespace convpool::CONVPOOL_ISA
