// The micro-kernel: C[MR x NR] (+)= A[MR x K] * B[K x NR], C in registers.
//
// B is one packed micro-panel: K rows of nv vectors, contiguous. A comes in one of two shapes:
// * packed: K columns of mr values, contiguous;
// * rows in place: row m starts at a + row_offset[m] and the reduction walks `runs` pieces of
//   `run_length` consecutive values, `run_stride` apart. Weights in OIHW order are one such run; an
//   image read along its rows is one run per row.
// A, B and C do not overlap. Nothing needs alignment beyond that of T. No memory is owned here.
#pragma once

#include <utility>

#include "../simd.h"
#include "block_sizes.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
struct RowsOfA {
  const T* a;
  const int64_t* row_offset;  // mr entries, in values
  int64_t runs, run_length, run_stride;
};

// Where a tile of C goes: row m starts at c + m * row_stride, its columns are contiguous.
template <typename T>
struct TileOfC {
  T* c;
  int64_t row_stride;
  const T* bias;    // one value per row, added when the tile is first written; may be null
  bool accumulate;  // true: add to what C holds
};

template <typename T, int MR, int NV>
struct MicroKernel {
  static constexpr int kLanes = Simd<T>::kLanes;
  using V = Vec<T>;

  // C is touched after the loop, so that the loop starts without waiting for it.
  static CONVPOOL_INLINE void finish(const V (&acc)[MR][NV], const TileOfC<T>& tile) {
    T* c = tile.c;
    const int64_t row_stride = tile.row_stride;
    if (tile.accumulate) {
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m, c += row_stride)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) store<T>(c + v * kLanes, acc[m][v] + load<T>(c + v * kLanes));
      return;
    }
    const T* bias = tile.bias;
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m, c += row_stride) {
      const V first = broadcast<T>(bias ? bias[m] : T(0));
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) store<T>(c + v * kLanes, acc[m][v] + first);
    }
  }

  static void packed(int64_t k_length, const T* a, const T* b, const TileOfC<T>& tile) {
    V acc[MR][NV] = {};
    for (int64_t k = 0; k < k_length; ++k) {
      V bv[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) bv[v] = load<T>(b + v * kLanes);
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) {
        const V am = broadcast<T>(a[m]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[m][v] += am * bv[v];
      }
      a += MR;
      b += NV * kLanes;
    }
    finish(acc, tile);
  }

  static void rows(const RowsOfA<T>& rows, const T* b, const TileOfC<T>& tile) {
    V acc[MR][NV] = {};
    const T* row[MR];
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m) row[m] = rows.a + rows.row_offset[m];
    for (int64_t run = 0; run < rows.runs; ++run) {
      const int64_t shift = run * rows.run_stride;
      for (int64_t k = shift; k < shift + rows.run_length; ++k) {
        V bv[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) bv[v] = load<T>(b + v * kLanes);
#pragma GCC unroll 16
        for (int m = 0; m < MR; ++m) {
          const V am = broadcast<T>(row[m][k]);
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) acc[m][v] += am * bv[v];
        }
        b += NV * kLanes;
      }
    }
    finish(acc, tile);
  }
};

// Every micro-kernel up to MR x NV, for the tails; rows and vectors count from one.
template <typename T>
struct MicroKernels {
  using Packed = void (*)(int64_t, const T*, const T*, const TileOfC<T>&);
  using Rows = void (*)(const RowsOfA<T>&, const T*, const TileOfC<T>&);

  static Packed packed(int64_t rows, int64_t vectors) {
    return table<Packed, PackedEntry>(Indices{})[(rows - 1) * kNv + vectors - 1];
  }
  static Rows rows(int64_t rows, int64_t vectors) {
    return table<Rows, RowsEntry>(Indices{})[(rows - 1) * kNv + vectors - 1];
  }

 private:
  static constexpr int kMr = Blocks<T>::kMr, kNv = Blocks<T>::kNv;
  using Indices = std::make_integer_sequence<int, kMr * kNv>;

  template <int MR, int NV>
  struct PackedEntry {
    static constexpr Packed kFunction = MicroKernel<T, MR, NV>::packed;
  };
  template <int MR, int NV>
  struct RowsEntry {
    static constexpr Rows kFunction = MicroKernel<T, MR, NV>::rows;
  };

  template <typename Function, template <int, int> class Entry, int... I>
  static CONVPOOL_INLINE const Function* table(std::integer_sequence<int, I...>) {
    static constexpr Function kTable[] = {Entry<I / kNv + 1, I % kNv + 1>::kFunction...};
    return kTable;
  }
};

}  // namespace convpool::CONVPOOL_ISA
