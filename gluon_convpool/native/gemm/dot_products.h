// Few columns of C: as many lanes of the micro-kernel would be empty. Here the lanes are steps of
// the reduction, which both sides have side by side, and each value of C is a vector that is summed
// up at the end.
#pragma once

#include "../runs.h"
#include "../simd.h"
#include "../transpose.h"

namespace convpool::CONVPOOL_ISA {

// c[m * c_pitch + column] = sum over k < length of a[m * a_pitch + k] * b[column * length + k], for
// `rows` rows, up to Rows of them, and Columns columns. A, B and C do not overlap; nothing is
// aligned beyond T, and nothing behind the last value is read.
template <typename T, int Rows, int Columns>
inline void dot_products(const T* a, int64_t a_pitch, int64_t rows, const T* b, int64_t length,
                         T* c, int64_t c_pitch) {
  constexpr int kLanes = Simd<T>::kLanes;
  // As many sums as lanes are added up together, as the columns of a square.
  constexpr int kSquares = (Rows * Columns + kLanes - 1) / kLanes;
  const T* row[Rows];
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) row[m] = a + min_of(m, rows - 1) * a_pitch;
  Vec<T> sum[kSquares * kLanes] = {};
  const auto add = [&](int64_t k, auto load_at) CONVPOOL_LAMBDA_INLINE {
    Vec<T> b_here[Columns];
#pragma GCC unroll 4
    for (int j = 0; j < Columns; ++j) b_here[j] = load_at(b + j * length + k);
#pragma GCC unroll 16
    for (int m = 0; m < Rows; ++m) {
      const Vec<T> a_here = load_at(row[m] + k);
#pragma GCC unroll 4
      for (int j = 0; j < Columns; ++j) sum[m * Columns + j] += a_here * b_here[j];
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= length; k += kLanes)
    add(k, [](const T* from) CONVPOOL_LAMBDA_INLINE { return load<T>(from); });
  const int64_t rest = length - k;
  if (rest > 0)
    add(k, [rest](const T* from) CONVPOOL_LAMBDA_INLINE { return load_part<T>(from, rest); });
  T total[kSquares * kLanes];
#pragma GCC unroll 16
  for (int square = 0; square < kSquares; ++square) {
    Vec<T>* sums = sum + square * kLanes;
    Transposer<T>::run(sums);
#pragma GCC unroll 8
    for (int half = kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 16
      for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    store<T>(total + square * kLanes, sums[0]);
  }
  for (int64_t m = 0; m < rows; ++m)
    for (int j = 0; j < Columns; ++j) c[m * c_pitch + j] = total[m * Columns + j];
}

}  // namespace convpool::CONVPOOL_ISA
