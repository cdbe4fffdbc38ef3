// The micro-kernel: C[MR x NR] (+)= A[MR x K] * B[K x NR], C in registers.
//
// Each side comes packed or in place.
// * A packed: for each k, mr consecutive values. A strided: the same, but from k to k + 1 it is
//   k_step values, such as some of the columns of a matrix. A in place: row m starts at
//   a + row_offset[m], and the reduction walks `runs` pieces of `run_length` consecutive values,
//   `run_stride` apart. Weights in OIHW order are one such run; an image read along its rows is one
//   run per row.
// * B packed: for each k, nv consecutive vectors. B in place: row k starts at b + k_offset[k], such
//   as the same columns of an image seen by one tap after the other.
// A, B and C do not overlap. Nothing needs alignment beyond that of T. No memory is owned here.
#pragma once

#include <utility>

#include "../runs.h"
#include "../simd.h"
#include "block_sizes.h"
#include "epilogue.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
struct SideA {
  const T* a;
  const int64_t* row_offset;  // mr entries; null: packed or strided
  int64_t k_step = 0;         // 0: packed
  // In place: how far behind each value the one lies that the next product is to find in cache, in
  // values; 0: nowhere.
  int64_t ahead = 0;
};

template <typename T>
struct SideB {
  const T* b;
  const int64_t* k_offset;  // an entry for each k; null: packed
  // How far behind each value lies what is to be brought to the cache, in values; 0: nothing is.
  // Where B is packed, A has to be in place.
  int64_t ahead = 0;
  // In place: where each vector begins, relative to the first; null: they are neighbours.
  const int64_t* vector_offset = nullptr;
};

struct Reduction {
  int64_t runs, run_length, run_stride;  // runs and their stride only where A is in place
};

// Where the lanes of a vector of C go, relative to the row: `count` neighbours.
struct PieceOfC {
  int64_t offset, count;
};

// Where a tile of C goes: row m starts at c + m * row_stride, its columns are contiguous.
template <typename T>
struct TileOfC {
  T* c;
  int64_t row_stride;
  const T* bias;    // one value per row, added when the tile is first written; may be null
  bool accumulate;  // true: add to what C holds
  const Epilogue<T>* epilogue = nullptr;  // what is done to values that are complete; may be null
  const T* sum = nullptr;                 // the tile of the epilogue's sum, rows as far apart
  // Complete vectors are stored past the caches: every row is aligned to one, and nothing is added
  // to what C holds.
  bool past_caches = false;
  // Where the vectors of a row go, which are no neighbours then; null: they are.
  const PieceOfC* pieces = nullptr;

  CONVPOOL_INLINE void put(T* place, Vec<T> value) const {
    if (past_caches)
      store_past_caches<T>(place, value);
    else
      store<T>(place, value);
  }
};

enum class AccessA { kPacked, kStrided, kInPlace };

template <typename T, int MR, int NV>
class MicroKernel {
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kLine = 64 / static_cast<int>(sizeof(T));  // values of a cache line
  using V = Vec<T>;

 public:
  template <AccessA kA, bool PackedB>
  static void run(const SideA<T>& side_a, const SideB<T>& side_b, const Reduction& reduction,
                  const TileOfC<T>& tile) {
    // Rows of C lie pages apart, where the processor does not fetch ahead by itself. A tile that
    // starts inside of a cache line ends in one more. The lines behind it are those of the next
    // panel of B, which comes so late that they can be had from memory until then.
    if (!tile.past_caches)
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) {
        __builtin_prefetch(tile.c + m * tile.row_stride, 1);
        __builtin_prefetch(tile.c + m * tile.row_stride + NV * kLanes - 1, 1);
        __builtin_prefetch(tile.c + m * tile.row_stride + 2 * NV * kLanes - 1, 1, 2);
      }
    // Others that have packed panels find them in cache.
    constexpr bool kFetchesB = !PackedB || kA == AccessA::kInPlace;
    V acc[MR][NV] = {};
    const T* a = side_a.a;
    const T* b = side_b.b;
    const int64_t* k_offset = side_b.k_offset;
    const T* b_vector[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v)
      b_vector[v] = b + (!PackedB && side_b.vector_offset ? side_b.vector_offset[v] : v * kLanes);
    const int64_t k_step = kA == AccessA::kStrided ? side_a.k_step : MR;
    const T* row[MR];
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m)
      row[m] = kA == AccessA::kInPlace ? a + side_a.row_offset[m] : nullptr;
    // `ahead`: is what lies behind the values of B brought to the cache?
    const auto steps = [&](int64_t begin, int64_t end, auto ahead) CONVPOOL_LAMBDA_INLINE {
    // Where two threads share a core, what counts is the number of instructions.
#pragma GCC unroll 4
      for (int64_t k = begin; k < end; ++k) {
        V bv[NV];
        if constexpr (PackedB) {
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) {
            if constexpr (decltype(ahead)::value)
              if (v * kLanes % kLine == 0) __builtin_prefetch(b + v * kLanes + side_b.ahead, 0, 2);
            bv[v] = load<T>(b + v * kLanes);
          }
        } else {
          const int64_t row_of_b = *k_offset++;
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) {
            if constexpr (decltype(ahead)::value)
              __builtin_prefetch(b_vector[v] + row_of_b + side_b.ahead);
            bv[v] = load<T>(b_vector[v] + row_of_b);
          }
        }
#pragma GCC unroll 16
        for (int m = 0; m < MR; ++m) {
          const V am = broadcast<T>(kA == AccessA::kInPlace ? row[m][k] : a[m]);
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) acc[m][v] += am * bv[v];
        }
        if (kA != AccessA::kInPlace) a += k_step;
        if (PackedB) b += NV * kLanes;
      }
    };
    const auto run_all = [&](auto ahead) CONVPOOL_LAMBDA_INLINE {
      for (int64_t run = 0; run < reduction.runs; ++run) {
        int64_t k = run * reduction.run_stride;
        const int64_t end = k + reduction.run_length;
        // Rows in place are short pieces of memory far apart, which the processor fetches too late.
        if (kA == AccessA::kInPlace && side_a.ahead)
          for (; k + kLine <= end; k += kLine) {
#pragma GCC unroll 16
            for (int m = 0; m < MR; ++m) __builtin_prefetch(row[m] + k + side_a.ahead, 0, 2);
            steps(k, k + kLine, ahead);
          }
        steps(k, end, ahead);
      }
    };
    if (kFetchesB && side_b.ahead)
      run_all(std::bool_constant<kFetchesB>{});
    else
      run_all(std::false_type{});
    // C is touched after the loop, so that the loop starts without waiting for it.
    if (tile.pieces)
      finish<true, true>(acc, tile, tile.accumulate);
    else if (tile.epilogue)
      finish<false, true>(acc, tile, tile.accumulate);
    else if (tile.accumulate)
      finish<false, false>(acc, tile, true);
    else
      finish<false, false>(acc, tile, false);
  }

 private:
  template <bool Pieces, bool WithEpilogue>
  static CONVPOOL_INLINE void finish(const V (&acc)[MR][NV], const TileOfC<T>& tile,
                                     bool accumulate) {
    T* c = tile.c;
    const T* sum = WithEpilogue && tile.epilogue ? tile.sum : nullptr;
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m, c += tile.row_stride) {
      const V first = broadcast<T>(tile.bias && !accumulate ? tile.bias[m] : T(0));
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const PieceOfC piece = Pieces ? tile.pieces[v] : PieceOfC{v * kLanes, kLanes};
        V value = acc[m][v];
        value += accumulate ? load_part<T>(c + piece.offset, piece.count) : first;
        if (sum) value += load_part<T>(sum + piece.offset, piece.count);
        if (WithEpilogue && tile.epilogue) value = tile.epilogue->apply(value);
        if (Pieces)
          store_part<T>(c + piece.offset, value, piece.count);
        else
          tile.put(c + piece.offset, value);
      }
      if (sum) sum += tile.row_stride;
    }
  }
};

// Runs the micro-kernel of that many rows and vectors, up to MR x NV; both count from one.
template <typename T>
class MicroKernels {
  static constexpr int kMr = Blocks<T>::kMr, kNv = Blocks<T>::kNv;
  using Function = void (*)(const SideA<T>&, const SideB<T>&, const Reduction&, const TileOfC<T>&);

  template <AccessA kA, bool PackedB, int... I>
  static CONVPOOL_INLINE Function choose(int64_t index, std::integer_sequence<int, I...>) {
    static constexpr Function kTable[] = {
        MicroKernel<T, I / kNv + 1, I % kNv + 1>::template run<kA, PackedB>...};
    return kTable[index];
  }

 public:
  static CONVPOOL_INLINE void run(int64_t rows, int64_t vectors, const SideA<T>& a,
                                  const SideB<T>& b, const Reduction& reduction,
                                  const TileOfC<T>& tile) {
    constexpr std::make_integer_sequence<int, kMr * kNv> kSizes{};
    const int64_t index = (rows - 1) * kNv + vectors - 1;
    Function function;
    if (a.row_offset)
      function = b.k_offset ? choose<AccessA::kInPlace, false>(index, kSizes)
                            : choose<AccessA::kInPlace, true>(index, kSizes);
    else if (a.k_step)
      function = b.k_offset ? choose<AccessA::kStrided, false>(index, kSizes)
                            : choose<AccessA::kStrided, true>(index, kSizes);
    else
      function = b.k_offset ? choose<AccessA::kPacked, false>(index, kSizes)
                            : choose<AccessA::kPacked, true>(index, kSizes);
    function(a, b, reduction, tile);
  }
};

}  // namespace convpool::CONVPOOL_ISA
