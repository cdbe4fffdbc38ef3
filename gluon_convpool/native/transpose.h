// Between channels apart and channels side by side: squares of vectors transposed in registers.
#pragma once

#include <utility>

#include "parallel.h"
#include "runs.h"
#include "simd.h"

namespace convpool::CONVPOOL_ISA {

// Processors shuffle within groups of 16 bytes faster than across them, so a square is transposed
// within its groups first, and then its groups among each other.
template <typename T>
class Transposer {
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kGroup = 16 / static_cast<int>(sizeof(T));
  using V = Vec<T>;

  template <typename Index, int... I, typename Source>
  static CONVPOOL_INLINE V pick(V a, V b, std::integer_sequence<int, I...>, Source) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, Source::lane(I)...);
#else
    typedef Index Mask __attribute__((vector_size(kVectorBytes)));
    return __builtin_shuffle(a, b, Mask{Source::lane(I)...});
#endif
  }
  template <typename Source>
  static CONVPOOL_INLINE V pick(V a, V b) {
    constexpr std::make_integer_sequence<int, kLanes> kAll{};
    if constexpr (sizeof(T) == 4)
      return pick<int32_t>(a, b, kAll, Source{});
    else
      return pick<int64_t>(a, b, kAll, Source{});
  }

  // Blocks of Size values of both vectors in turn, from the lower or upper half of each group.
  template <int Size, bool Upper>
  struct Interleaved {
    static constexpr int lane(int i) {
      const int block = i % kGroup / Size;
      return (block % 2 ? kLanes : 0) + i / kGroup * kGroup + block / 2 * Size + i % Size +
             (Upper ? kGroup / 2 : 0);
    }
  };
  // Groups whose number lacks (lower) or has (upper) the bit Distance, of both vectors in turn.
  template <int Distance, bool Upper>
  struct Exchanged {
    static constexpr int lane(int i) {
      const int group = i / kGroup;
      const bool second = group & Distance;
      const int from =
          Upper ? (second ? group : group + Distance) : (second ? group - Distance : group);
      return (second ? kLanes : 0) + from * kGroup + i % kGroup;
    }
  };

  template <int Size>
  static CONVPOOL_INLINE void interleave(V* v) {
    if constexpr (Size < kGroup) {
      // Row i and the row whose number differs in the bit that this step moves.
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (i & Size) continue;
        const V a = v[i], b = v[i + Size];
        v[i] = pick<Interleaved<Size, false>>(a, b);
        v[i + Size] = pick<Interleaved<Size, true>>(a, b);
      }
      interleave<2 * Size>(v);
    }
  }
  template <int Distance>
  static CONVPOOL_INLINE void exchange(V* v) {
    if constexpr (Distance * kGroup < kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (i & (Distance * kGroup)) continue;
        const V a = v[i], b = v[i + Distance * kGroup];
        v[i] = pick<Exchanged<Distance, false>>(a, b);
        v[i + Distance * kGroup] = pick<Exchanged<Distance, true>>(a, b);
      }
      exchange<2 * Distance>(v);
    }
  }

 public:
  // Lane j of v[i] becomes lane i of v[j]; v has as many vectors as a vector has lanes.
  static CONVPOOL_INLINE void run(V* v) {
    interleave<1>(v);
    exchange<1>(v);
    if constexpr (kGroup == 4) {
      // Interleaving leaves columns 1 and 2 of each group exchanged.
#pragma GCC unroll 4
      for (int i = 0; i < kLanes; i += kGroup) {
        const V second = v[i + 1];
        v[i + 1] = v[i + 2];
        v[i + 2] = second;
      }
    }
  }
};

// The first `count` columns of as many rows as a vector has lanes, `pitch` values apart: row i's
// value j becomes lane i of square[j]. Nothing is read behind the last row's.
template <typename T>
CONVPOOL_INLINE void load_transposed(const T* from, int64_t pitch, int64_t count, Vec<T>* square) {
  constexpr int kLanes = Simd<T>::kLanes;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    const bool whole = kLanes - count <= (kLanes - 1 - i) * pitch;
    square[i] = whole ? load<T>(from + i * pitch) : load_part<T>(from + i * pitch, count);
  }
  Transposer<T>::run(square);
}

// Value j of row i goes to value i of row j, rows `from_pitch` and `to_pitch` values apart, in a
// square of as many rows as a vector has lanes, or its first `count` columns if these are fewer.
// Nothing is read behind the last row's. The squares do not overlap.
template <typename T>
CONVPOOL_INLINE void transpose_square(const T* from, int64_t from_pitch, T* to, int64_t to_pitch,
                                      int64_t count = Simd<T>::kLanes) {
  constexpr int kLanes = Simd<T>::kLanes;
  Vec<T> square[kLanes];
  load_transposed(from, from_pitch, count, square);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
    if (i < count) store<T>(to + i * to_pitch, square[i]);
}

// Each of `matrices` has rows * columns values: to[c][r] = from[r][c].
template <typename T>
inline void transpose_matrices(const T* from, int64_t matrices, int64_t rows, int64_t columns,
                               T* to) {
  constexpr int kLanes = Simd<T>::kLanes;
  constexpr int64_t kBlock = 64;
  const int64_t blocks = ceil_div(rows, kBlock);
  parallel_for(
      matrices * blocks, static_cast<double>(matrices * rows * columns), [&](int64_t task) {
        const int64_t begin = task % blocks * kBlock, end = min_of(begin + kBlock, rows);
        const int64_t whole = begin + (end - begin) / kLanes * kLanes;
        const T* source = from + task / blocks * rows * columns;
        T* target = to + task / blocks * rows * columns;
        int64_t c = 0;
        for (; c + kLanes <= columns; c += kLanes) {
          for (int64_t r = begin; r < whole; r += kLanes)
            transpose_square(source + r * columns + c, columns, target + c * rows + r, rows);
          for (int64_t r = whole; r < end; ++r)
            for (int k = 0; k < kLanes; ++k)
              target[(c + k) * rows + r] = source[r * columns + c + k];
        }
        for (; c < columns; ++c)
          for (int64_t r = begin; r < end; ++r) target[c * rows + r] = source[r * columns + c];
      });
}

}  // namespace convpool::CONVPOOL_ISA
