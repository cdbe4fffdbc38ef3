// A product of two matrices by the implicit GEMM, which has a convolution of that kind.
#pragma once

#include "implicit_gemm.h"

namespace convpool::CONVPOOL_ISA {

// One side of a product: element (i, j) at i * row_step + j * column_step.
template <typename T>
struct Matrix {
  const T* data;
  int64_t row_step, column_step;
};

// out[m][n] = sum over k of a[m][k] * b[k][n], for a of shape (rows, reduction) and dense out of
// shape (rows, columns); columns of b are neighbours, and its rows b_row_step values apart. It is
// the pointwise convolution of an image of one row. False where memory is out.
template <typename T>
inline bool multiply_matrices(int64_t rows, int64_t reduction, int64_t columns, const Matrix<T>& a,
                              const T* b, int64_t b_row_step, T* out) {
  int64_t zero = 0;
  const auto single_tap = [&](int64_t size) { return TapAxis{size, size, 1, 1, &zero, &zero}; };
  TapConvolution<T> problem{};
  problem.batch = problem.groups = 1;
  problem.channels = reduction;
  problem.outputs = rows;
  problem.h = problem.d = single_tap(1);
  problem.w = single_tap(columns);
  problem.in = b;
  problem.in_column_stride = 1;
  problem.in_channel_stride = problem.in_row_stride = b_row_step;
  problem.out = out;
  problem.out_channel_stride = problem.out_row_stride = columns;
  problem.out_column_stride = 1;
  problem.weight = a.data;
  problem.weight_output_stride = a.row_step;
  problem.weight_channel_stride = a.column_step;
  problem.weight_row_stride = problem.weight_column_stride = 1;
  return ImplicitGemm<T>::run(problem);
}

}  // namespace convpool::CONVPOOL_ISA
