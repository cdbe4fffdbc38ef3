// The inner loops of depthwise convolution, over one plane.
//
// A tile of output rows by one or two vectors stays in registers while the taps pass: a vector of a
// strip's row, loaded once, serves all rows of the tile that read it. The last tile of a row or
// column reaches back over the one before and computes some outputs twice, which costs less than
// masks.
//
// Nothing is aligned beyond T. Strips may be read up to a vector behind their last value, and rows
// of the output that are shorter than a vector are read and written as a whole vector.
#pragma once

#include "../gemm/epilogue.h"
#include "../simd.h"

namespace convpool::CONVPOOL_ISA {

// Some rows of an output plane, or of its gradient, and what they are computed from. The taps are
// columns ("pieces") of `Kernel` taps each; tap i of piece p reads for output (r, c) the strip at
// channel * channel_pitch + shift[p] + (r * Stride + i) * row_pitch + c.
template <typename T>
struct DepthwiseRows {
  const T* strip;
  int64_t row_pitch, channel_pitch;
  int64_t channels, pieces;
  const int64_t* shift;
  const T* weight;  // [channel][piece][tap]
  T bias;
  T* out;
  int64_t out_pitch, rows, columns;
  Epilogue<T> epilogue = {};  // its sum starts where `out` does
  bool past_caches = false;   // all vectors of the output are aligned, and stored so
};

template <typename T>
class DepthwiseTiles {
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kRows = 4;  // two vectors of each and the taps of a piece fit 16 registers
  using V = Vec<T>;
  using Mask = decltype(V{} == V{});
  using Rows = DepthwiseRows<T>;

 public:
  struct Functions {
    void (*compute_rows)(const Rows& job);
    // sums[piece][tap] += the gradient times what the tap reads, of one channel.
    void (*add_rows)(const Rows& job, V* sums);
  };

 private:
  template <int Kernel, int Stride, int TileRows, int Vectors>
  static CONVPOOL_INLINE void tile(const Rows& job, int64_t row, int64_t first, int64_t second) {
    V sum[TileRows][Vectors];
#pragma GCC unroll 4
    for (int r = 0; r < TileRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sum[r][v] = broadcast<T>(job.bias);
    const T* weight = job.weight;
    const T* channel = job.strip + row * Stride * job.row_pitch + first;
    for (int64_t c = 0; c < job.channels; ++c, channel += job.channel_pitch)
      for (int64_t p = 0; p < job.pieces; ++p, weight += Kernel) {
        const T* from = channel + job.shift[p];
        V tap[Kernel];
#pragma GCC unroll 8
        for (int i = 0; i < Kernel; ++i) tap[i] = broadcast<T>(weight[i]);
#pragma GCC unroll 16
        for (int q = 0; q < (TileRows - 1) * Stride + Kernel; ++q, from += job.row_pitch)
#pragma GCC unroll 2
          for (int v = 0; v < Vectors; ++v) {
            const V x = in_register(load<T>(v == 0 ? from : from + (second - first)));
#pragma GCC unroll 4
            for (int r = 0; r < TileRows; ++r)
              if (q - r * Stride >= 0 && q - r * Stride < Kernel)
                sum[r][v] += tap[q - r * Stride] * x;
          }
      }
    if (job.epilogue.active) finish<TileRows, Vectors>(job, row, first, second, sum);
    T* to = job.out + row * job.out_pitch;
#pragma GCC unroll 4
    for (int r = 0; r < TileRows; ++r, to += job.out_pitch) {
      put(job, to + first, sum[r][0]);
      if (Vectors == 2) put(job, to + second, sum[r][Vectors - 1]);
    }
  }

  static CONVPOOL_INLINE void put(const Rows& job, T* to, V value) {
    if (job.past_caches)
      store_past_caches<T>(to, value);
    else
      store<T>(to, value);
  }

  template <int TileRows, int Vectors>
  static CONVPOOL_INLINE void finish(const Rows& job, int64_t row, int64_t first, int64_t second,
                                     V (&sum)[TileRows][Vectors]) {
#pragma GCC unroll 4
    for (int r = 0; r < TileRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) {
        if (job.epilogue.sum)
          sum[r][v] +=
              load<T>(job.epilogue.sum + (row + r) * job.out_pitch + (v == 0 ? first : second));
        sum[r][v] = job.epilogue.apply(sum[r][v]);
      }
  }

  template <int Kernel, int Stride, int TileRows>
  static CONVPOOL_INLINE void row_of_tiles(const Rows& job, int64_t row) {
    const int64_t last = max_of(0, job.columns - kLanes);
    int64_t column = 0;
    for (; column + kLanes < job.columns; column += 2 * kLanes)
      tile<Kernel, Stride, TileRows, 2>(job, row, column, min_of(column + kLanes, last));
    if (column < job.columns) tile<Kernel, Stride, TileRows, 1>(job, row, min_of(column, last), 0);
  }

  template <int Kernel, int Stride>
  static void compute_rows(const Rows& job) {
    if (job.rows < kRows) {
      for (int64_t row = 0; row < job.rows; ++row) row_of_tiles<Kernel, Stride, 1>(job, row);
      return;
    }
    for (int64_t row = 0; row < job.rows; row += kRows)
      row_of_tiles<Kernel, Stride, kRows>(job, min_of(row, job.rows - kRows));
  }

  // The sums stay in registers while the outputs pass. Both sides are masked: zero times a NaN that
  // no window covers would be NaN.
  template <int Kernel, int Stride, int Pieces, int TileRows>
  static CONVPOOL_INLINE void tap_tile(const Rows& job, const int64_t* shift, int64_t row,
                                       int64_t column, const Mask* mask, V (&sum)[Pieces][Kernel]) {
    V dy[TileRows];
    const T* gradient = job.out + row * job.out_pitch + column;
#pragma GCC unroll 4
    for (int r = 0; r < TileRows; ++r) dy[r] = masked(load<T>(gradient + r * job.out_pitch), mask);
    const T* strip = job.strip + row * Stride * job.row_pitch + column;
#pragma GCC unroll 8
    for (int p = 0; p < Pieces; ++p) {
      const T* from = strip + shift[p];
#pragma GCC unroll 16
      for (int q = 0; q < (TileRows - 1) * Stride + Kernel; ++q, from += job.row_pitch) {
        const V x = in_register(masked(load<T>(from), mask));
#pragma GCC unroll 4
        for (int r = 0; r < TileRows; ++r)
          if (q - r * Stride >= 0 && q - r * Stride < Kernel) sum[p][q - r * Stride] += dy[r] * x;
      }
    }
  }

  static CONVPOOL_INLINE V masked(V value, const Mask* mask) {
    return mask ? (V)((Mask)value & *mask) : value;
  }

  template <int Kernel, int Stride, int Pieces, int TileRows>
  static CONVPOOL_INLINE void row_of_tap_tiles(const Rows& job, const int64_t* shift, int64_t row,
                                               const Mask* mask, V (&sum)[Pieces][Kernel]) {
    const int64_t whole = job.columns / kLanes * kLanes;
    for (int64_t column = 0; column < whole; column += kLanes)
      tap_tile<Kernel, Stride, Pieces, TileRows>(job, shift, row, column, nullptr, sum);
    if (whole < job.columns)
      tap_tile<Kernel, Stride, Pieces, TileRows>(job, shift, row, max_of(0, job.columns - kLanes),
                                                 mask, sum);
  }

  // Adds over all rows for each tap of some pieces.
  template <int Kernel, int Stride, int Pieces>
  static CONVPOOL_INLINE void add_pieces(const Rows& job, int64_t piece, V* sums) {
    V sum[Pieces][Kernel] = {};
    const int64_t* shift = job.shift + piece;
    const int64_t whole = job.columns / kLanes * kLanes, last = max_of(0, job.columns - kLanes);
    Mask mask;
    for (int k = 0; k < kLanes; ++k) mask[k] = last + k >= whole && last + k < job.columns ? -1 : 0;
    int64_t row = 0;
    for (; row + kRows <= job.rows; row += kRows)
      row_of_tap_tiles<Kernel, Stride, Pieces, kRows>(job, shift, row, &mask, sum);
    for (; row + 2 <= job.rows; row += 2)
      row_of_tap_tiles<Kernel, Stride, Pieces, 2>(job, shift, row, &mask, sum);
    if (row < job.rows) row_of_tap_tiles<Kernel, Stride, Pieces, 1>(job, shift, row, &mask, sum);
#pragma GCC unroll 8
    for (int p = 0; p < Pieces; ++p)
#pragma GCC unroll 8
      for (int i = 0; i < Kernel; ++i) sums[(piece + p) * Kernel + i] += sum[p][i];
  }

  template <int Kernel, int Stride>
  static void add_rows(const Rows& job, V* sums) {
    // As many taps as registers hold.
    constexpr int kPieces = Kernel == 1 ? 5 : Kernel <= 3 ? 3 : Kernel <= 5 ? 2 : 1;
    int64_t piece = 0;
    for (; piece + kPieces <= job.pieces; piece += kPieces)
      add_pieces<Kernel, Stride, kPieces>(job, piece, sums);
    for (; piece < job.pieces; ++piece) add_pieces<Kernel, Stride, 1>(job, piece, sums);
  }

  template <int Kernel, int Stride>
  static constexpr Functions kFunctions{compute_rows<Kernel, Stride>, add_rows<Kernel, Stride>};

 public:
  // For so many taps in a piece and this stride; null where there are none.
  static const Functions* functions(int64_t kernel, int64_t stride) {
    static constexpr const Functions* kTable[2][8] = {
        {nullptr, &kFunctions<1, 1>, &kFunctions<2, 1>, &kFunctions<3, 1>, &kFunctions<4, 1>,
         &kFunctions<5, 1>, nullptr, &kFunctions<7, 1>},
        {nullptr, nullptr, nullptr, &kFunctions<3, 2>, nullptr, &kFunctions<5, 2>, nullptr,
         &kFunctions<7, 2>}};
    return kernel < 8 ? kTable[stride - 1][kernel] : nullptr;
  }
};

}  // namespace convpool::CONVPOOL_ISA
