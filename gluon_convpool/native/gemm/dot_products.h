// Few columns of C: as many lanes of the micro-kernel would be empty. Here the lanes are steps of
// the reduction, which both sides have side by side, and each value of C is a vector that is summed
// up at the end.
#pragma once

#include "../runs.h"
#include "../simd.h"

namespace convpool::CONVPOOL_ISA {

// c[m * c_pitch + column] = sum over k < length of a[m * a_pitch + k] * b[column * length + k], for
// `rows` rows, up to Rows of them, and Columns columns. A, B and C do not overlap; nothing is
// aligned beyond T, and nothing behind the last value is read.
template <typename T, int Rows, int Columns>
inline void dot_products(const T* a, int64_t a_pitch, int64_t rows, const T* b, int64_t length,
                         T* c, int64_t c_pitch) {
  constexpr int kLanes = Simd<T>::kLanes;
  const T* row[Rows];
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) row[m] = a + min_of(m, rows - 1) * a_pitch;
  Vec<T> sum[Rows][Columns] = {};
  const auto add = [&](int64_t k, auto load_at) {
    Vec<T> b_here[Columns];
#pragma GCC unroll 4
    for (int j = 0; j < Columns; ++j) b_here[j] = load_at(b + j * length + k);
#pragma GCC unroll 16
    for (int m = 0; m < Rows; ++m) {
      const Vec<T> a_here = load_at(row[m] + k);
#pragma GCC unroll 4
      for (int j = 0; j < Columns; ++j) sum[m][j] += a_here * b_here[j];
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= length; k += kLanes) add(k, [](const T* from) { return load<T>(from); });
  const int64_t rest = length - k;
  if (rest > 0) add(k, [rest](const T* from) { return load_part<T>(from, rest); });
  for (int64_t m = 0; m < rows; ++m)
    for (int j = 0; j < Columns; ++j) {
      T total = 0;
      for (int lane = 0; lane < kLanes; ++lane) total += sum[m][j][lane];
      c[m * c_pitch + j] = total;
    }
}

}  // namespace convpool::CONVPOOL_ISA
