// Winograd's transforms on vectors: each lane is a channel of its own.
//
// A transform multiplies a small tile by a constant matrix from the left, and by another one from
// the right. Zeros and ones in the matrices cost nothing, and rows (or columns) that belong to
// points of opposite sign share the sums of their even and odd parts.
#pragma once

#include "../simd.h"
#include "winograd_matrices.h"

namespace convpool::CONVPOOL_ISA {

template <int M, int R>
struct InputMatrix {
  static constexpr int kRows = M + R - 1, kColumns = M + R - 1;
  static constexpr double at(int i, int j) { return WinogradMatrices<M, R>::kBt[i][j]; }
};
template <int M, int R>
struct TapMatrix {
  static constexpr int kRows = M + R - 1, kColumns = R;
  static constexpr double at(int i, int j) { return WinogradMatrices<M, R>::kG[i][j]; }
};
template <int M, int R>
struct OutputMatrix {
  static constexpr int kRows = M, kColumns = M + R - 1;
  static constexpr double at(int i, int j) { return WinogradMatrices<M, R>::kAt[i][j]; }
};
template <typename Matrix>
struct Transposed {
  static constexpr int kRows = Matrix::kColumns, kColumns = Matrix::kRows;
  static constexpr double at(int i, int j) { return Matrix::at(j, i); }
};

// out = Matrix * in, for vectors of T.
template <typename T, typename Matrix>
class MatrixProduct {
  using V = Vec<T>;
  static constexpr int kRows = Matrix::kRows, kColumns = Matrix::kColumns;

  // Is row i + 1 the row i with the signs of its odd (or of its even) columns changed?
  static constexpr bool rows_pair(int i) {
    if (i + 1 >= kRows) return false;
    bool odd = true, even = true, any = false;
    for (int j = 0; j < kColumns; ++j) {
      const double a = Matrix::at(i, j), b = Matrix::at(i + 1, j), sign = j % 2 ? -1 : 1;
      odd = odd && b == sign * a;
      even = even && b == -sign * a;
      any = any || (j % 2 && a != 0);
    }
    return any && (odd || even);
  }
  static constexpr bool columns_pair(int j) {
    if (j + 1 >= kColumns) return false;
    bool opposite = false;
    for (int i = 0; i < kRows; ++i) {
      const double a = Matrix::at(i, j), b = Matrix::at(i, j + 1);
      if (a != b && a != -b) return false;
      opposite = opposite || (a != b);
    }
    return opposite;
  }
  static constexpr bool first_of_column_pair(int j) {
    if (j < 0 || !columns_pair(j)) return false;
    return !first_of_column_pair(j - 1);
  }
  static constexpr bool has_row_pairs() {
    for (int i = 0; i < kRows; ++i)
      if (rows_pair(i)) return true;
    return false;
  }

  // sum + the columns From, From + Step, ... of a row.
  template <int Row, int From, int Step, bool Empty>
  static CONVPOOL_INLINE V dot(const V* in, V sum) {
    if constexpr (From >= kColumns) {
      return sum;
    } else {
      constexpr double kValue = Matrix::at(Row, From);
      if constexpr (kValue == 0)
        return dot<Row, From + Step, Step, Empty>(in, sum);
      else
        return dot<Row, From + Step, Step, false>(
            in, plus<kValue == 1, kValue == -1, Empty>(sum, in[From], T(kValue)));
    }
  }
  template <bool One, bool MinusOne, bool Empty>
  static CONVPOOL_INLINE V plus(V sum, V value, T factor) {
    if constexpr (One)
      return Empty ? value : sum + value;
    else if constexpr (MinusOne)
      return Empty ? -value : sum - value;
    else
      return Empty ? value * factor : sum + value * factor;
  }

  template <int Row>
  static CONVPOOL_INLINE void by_rows(const V* in, V* out) {
    if constexpr (Row < kRows) {
      if constexpr (rows_pair(Row)) {
        const V even = dot<Row, 0, 2, true>(in, V{}), odd = dot<Row, 1, 2, true>(in, V{});
        constexpr bool kOddChanges = sign_changes_in_odd(Row);
        out[Row] = even + odd;
        out[Row + 1] = kOddChanges ? even - odd : odd - even;
        by_rows<Row + 2>(in, out);
      } else {
        out[Row] = dot<Row, 0, 1, true>(in, V{});
        by_rows<Row + 1>(in, out);
      }
    }
  }
  static constexpr bool sign_changes_in_odd(int i) {
    for (int j = 1; j < kColumns; j += 2)
      if (Matrix::at(i, j) != -Matrix::at(i + 1, j)) return false;
    return true;
  }

  // With columns j and j + 1 of a pair replaced by their sum and difference.
  template <int Row, int J, bool Empty>
  static CONVPOOL_INLINE V paired_dot(const V* in, V sum) {
    if constexpr (J >= kColumns) {
      return sum;
    } else if constexpr (first_of_column_pair(J)) {
      constexpr double kValue = Matrix::at(Row, J);
      constexpr int kFrom = kValue == Matrix::at(Row, J + 1) ? J : J + 1;
      if constexpr (kValue == 0)
        return paired_dot<Row, J + 2, Empty>(in, sum);
      else
        return paired_dot<Row, J + 2, false>(
            in, plus<kValue == 1, kValue == -1, Empty>(sum, in[kFrom], T(kValue)));
    } else {
      constexpr double kValue = Matrix::at(Row, J);
      if constexpr (kValue == 0)
        return paired_dot<Row, J + 1, Empty>(in, sum);
      else
        return paired_dot<Row, J + 1, false>(
            in, plus<kValue == 1, kValue == -1, Empty>(sum, in[J], T(kValue)));
    }
  }
  template <int J>
  static CONVPOOL_INLINE void pair_columns(const V* in, V* to) {
    if constexpr (J < kColumns) {
      if constexpr (first_of_column_pair(J)) {
        to[J] = in[J] + in[J + 1];
        to[J + 1] = in[J] - in[J + 1];
        pair_columns<J + 2>(in, to);
      } else {
        to[J] = in[J];
        pair_columns<J + 1>(in, to);
      }
    }
  }
  template <int Row>
  static CONVPOOL_INLINE void by_columns(const V* in, V* out) {
    if constexpr (Row < kRows) {
      out[Row] = paired_dot<Row, 0, true>(in, V{});
      by_columns<Row + 1>(in, out);
    }
  }

 public:
  static CONVPOOL_INLINE void run(const V* in, V* out) {
    if constexpr (has_row_pairs()) {
      by_rows<0>(in, out);
    } else {
      V paired[kColumns];
      pair_columns<0>(in, paired);
      by_columns<0>(paired, out);
    }
  }
};

// The matrix products along one axis of an array of vectors, `count` of them: product i reads
// vectors at in + i * in_pitch, in_step apart, and writes out + i * out_pitch, out_step apart. In
// place is allowed where no product writes what a later one reads.
template <typename T, typename Matrix>
CONVPOOL_INLINE void transform_axis(const T* in, int64_t in_pitch, int64_t in_step, T* out,
                                    int64_t out_pitch, int64_t out_step, int64_t count) {
  for (int64_t i = 0; i < count; ++i, in += in_pitch, out += out_pitch) {
    Vec<T> from[Matrix::kColumns], to[Matrix::kRows];
#pragma GCC unroll 16
    for (int j = 0; j < Matrix::kColumns; ++j) from[j] = load<T>(in + j * in_step);
    MatrixProduct<T, Matrix>::run(from, to);
#pragma GCC unroll 16
    for (int j = 0; j < Matrix::kRows; ++j) store<T>(out + j * out_step, to[j]);
  }
}

// The transforms of F(MH x MW, RH x RW). Tiles lie in a band: rows of vectors, kLanes channels side
// by side, columns dense, `pitch` values from row to row; tile i begins at column i * MW. Element
// (i, j) of a transformed tile lies in plane i * (MW + RW - 1) + j.
template <typename T, int MH, int RH, int MW, int RW>
struct WinogradTransforms {
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kTh = MH + RH - 1, kTw = MW + RW - 1;

  // The band has kTh rows and (tiles - 1) * MW + kTw columns, and is overwritten.
  static void input(T* band, int64_t pitch, int64_t tiles, T* v, int64_t plane_pitch,
                    int64_t tile_pitch) {
    if constexpr (RH > 1)
      transform_axis<T, InputMatrix<MH, RH>>(band, kLanes, pitch, band, kLanes, pitch,
                                             (tiles - 1) * MW + kTw);
    for (int row = 0; row < kTh; ++row)
      transform_axis<T, InputMatrix<MW, RW>>(band + row * pitch, MW * kLanes, kLanes,
                                             v + row * kTw * plane_pitch, tile_pitch, plane_pitch,
                                             tiles);
  }

  // The transpose of output(): the band has MH rows and tiles * MW columns, room for kTh rows, and
  // is overwritten.
  static void output_gradient(T* band, int64_t pitch, int64_t tiles, T* d, int64_t plane_pitch,
                              int64_t tile_pitch) {
    if constexpr (RH > 1)
      transform_axis<T, Transposed<OutputMatrix<MH, RH>>>(band, kLanes, pitch, band, kLanes, pitch,
                                                          tiles * MW);
    for (int row = 0; row < kTh; ++row)
      transform_axis<T, Transposed<OutputMatrix<MW, RW>>>(band + row * pitch, MW * kLanes, kLanes,
                                                          d + row * kTw * plane_pitch, tile_pitch,
                                                          plane_pitch, tiles);
  }

  // The transpose of weight().
  static void weight_gradient(const T* du, int64_t plane_pitch, T* taps) {
    T columns[kTh * RW * kLanes];
    transform_axis<T, Transposed<TapMatrix<MW, RW>>>(du, kTw * plane_pitch, plane_pitch, columns,
                                                     RW * kLanes, kLanes, kTh);
    transform_axis<T, Transposed<TapMatrix<MH, RH>>>(columns, kLanes, RW * kLanes, taps, kLanes,
                                                     RW * kLanes, RW);
  }

  // Taps of one channel and kLanes outputs: [RH][RW][lane].
  static void weight(const T* taps, T* u, int64_t plane_pitch) {
    T columns[kTh * RW * kLanes];
    transform_axis<T, TapMatrix<MH, RH>>(taps, kLanes, RW * kLanes, columns, kLanes, RW * kLanes,
                                         RW);
    transform_axis<T, TapMatrix<MW, RW>>(columns, RW * kLanes, kLanes, u, kTw * plane_pitch,
                                         plane_pitch, kTh);
  }

  // The band has MH rows and tiles * MW columns.
  static void output(const T* m, int64_t plane_pitch, int64_t tile_pitch, int64_t tiles, T* band,
                     int64_t pitch) {
    T rows[kTh * MW * kLanes];
    for (int64_t tile = 0; tile < tiles; ++tile, m += tile_pitch, band += MW * kLanes) {
      transform_axis<T, OutputMatrix<MW, RW>>(m, kTw * plane_pitch, plane_pitch, rows, MW * kLanes,
                                              kLanes, kTh);
      transform_axis<T, OutputMatrix<MH, RH>>(rows, kLanes, MW * kLanes, band, kLanes, pitch, MW);
    }
  }
};

}  // namespace convpool::CONVPOOL_ISA
