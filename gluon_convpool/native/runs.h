// Runs of values copied, cleared, and taken apart and joined by every second value, in vectors
// however short they are.
#pragma once

#include "simd.h"

namespace convpool::CONVPOOL_ISA {

// Copies count < 2 * Size values by their two ends, or clears them where `from` is null. Rows are
// often this short, and then a call of memcpy or memset is what takes the time.
template <typename T, int Size>
CONVPOOL_INLINE void copy_short(T* to, const T* from, int64_t count) {
  if constexpr (kMasks && 2 * Size == Simd<T>::kLanes) {
    store_masked(to, from ? load_masked(from, count) : Vec<T>{}, count);
  } else if (count >= Size) {
    T head[Size] = {}, tail[Size] = {};
    if (from) {
      __builtin_memcpy(head, from, sizeof(head));
      __builtin_memcpy(tail, from + count - Size, sizeof(tail));
    }
    __builtin_memcpy(to, head, sizeof(head));
    __builtin_memcpy(to + count - Size, tail, sizeof(tail));
  } else if constexpr (Size > 1) {
    copy_short<T, Size / 2>(to, from, count);
  }
}

// The first `count` lanes of a vector, all of them where there are as many.
template <typename T>
CONVPOOL_INLINE void store_part(T* to, Vec<T> value, int64_t count) {
  constexpr int kLanes = Simd<T>::kLanes;
  if (count >= kLanes) return store<T>(to, value);
  if constexpr (kMasks) {
    store_masked(to, value, count);
  } else {
    T values[kLanes];
    store<T>(values, value);
    copy_short<T, kLanes / 2>(to, values, count);
  }
}

// Zero behind the last value.
template <typename T>
CONVPOOL_INLINE Vec<T> load_part(const T* from, int64_t count) {
  constexpr int kLanes = Simd<T>::kLanes;
  if (count >= kLanes) return load<T>(from);
  if constexpr (kMasks) {
    return load_masked(from, count);
  } else {
    T values[kLanes] = {};
    copy_short<T, kLanes / 2>(values, from, count);
    return load<T>(values);
  }
}

// Lanes [begin, end) of the vector at `from`, cut to those that there are, and zero in the others,
// which are not read.
template <typename T>
CONVPOOL_INLINE Vec<T> load_lanes(const T* from, int64_t begin, int64_t end) {
  constexpr int kLanes = Simd<T>::kLanes;
  if (begin <= 0 && end >= kLanes) return load<T>(from);
  begin = max_of(begin, 0);
  end = max_of(begin, min_of(end, kLanes));
  if constexpr (kMasks) {
    return begin >= kLanes ? Vec<T>{} : load_masked(from, begin, end);
  } else {
    T values[kLanes] = {};
    for (int64_t k = begin; k < end; ++k) values[k] = from[k];
    return load<T>(values);
  }
}

// store_part() and load_part() for lanes that are `step` apart in memory.
template <typename T>
CONVPOOL_INLINE void store_apart(T* to, Vec<T> value, int64_t count, int64_t step) {
  if (step == 1) return store_part<T>(to, value, count);
  T values[Simd<T>::kLanes];
  store<T>(values, value);
  for (int64_t k = 0; k < min_of(count, Simd<T>::kLanes); ++k) to[k * step] = values[k];
}
template <typename T>
CONVPOOL_INLINE Vec<T> load_apart(const T* from, int64_t count, int64_t step) {
  if (step == 1) return load_part<T>(from, count);
  T values[Simd<T>::kLanes] = {};
  for (int64_t k = 0; k < min_of(count, Simd<T>::kLanes); ++k) values[k] = from[k * step];
  return load<T>(values);
}

template <typename T>
CONVPOOL_INLINE void clear(T* to, int64_t count) {
  constexpr int kLanes = Simd<T>::kLanes;
  if (count < kLanes) {
    copy_short<T, kLanes / 2>(to, nullptr, count);
    return;
  }
  for (int64_t k = 0; k < count; k += kLanes) store<T>(to + min_of(k, count - kLanes), Vec<T>{});
}

// to[k] = from[k * step] for k < count.
template <typename T>
CONVPOOL_INLINE void gather_columns(T* to, const T* from, int64_t count, int64_t step) {
  constexpr int kLanes = Simd<T>::kLanes;
  if (step == 1 && count < kLanes) {
    copy_short<T, kLanes / 2>(to, from, count);
  } else if (step == 1) {
    for (int64_t k = 0; k < count; k += kLanes) {
      const int64_t at = min_of(k, count - kLanes);
      store<T>(to + at, load<T>(from + at));
    }
  } else if (step == 2) {
    // What is behind the last value may not be readable.
    int64_t k = 0;
    for (; k + kLanes < count; k += kLanes) {
      Vec<T> pair[2];
      deinterleave<T>(from + 2 * k, pair);
      store<T>(to + k, pair[0]);
    }
    if constexpr (kMasks) {
      if (k == count) return;
      const int64_t values = 2 * (count - k) - 1;
      Vec<T> pair[2];
      deinterleave<T>(
          load_part<T>(from + 2 * k, values),
          values > kLanes ? load_part<T>(from + 2 * k + kLanes, values - kLanes) : Vec<T>{}, pair);
      store_part<T>(to + k, pair[0], count - k);
    } else {
      for (; k < count; ++k) to[k] = from[2 * k];
    }
  } else {
    for (int64_t k = 0; k < count; ++k) to[k] = from[k * step];
  }
}

// even[k] = from[2 * k], odd[k] = from[2 * k + 1] for k < pairs. Of the `readable` values from
// `from` on, a few that are not asked for may be read.
template <typename T>
CONVPOOL_INLINE void split_columns(T* even, T* odd, const T* from, int64_t pairs,
                                   int64_t readable) {
  constexpr int kLanes = Simd<T>::kLanes;
  Vec<T> pair[2];
  if (pairs >= kLanes) {
    for (int64_t k = 0; k < pairs; k += kLanes) {
      const int64_t at = min_of(k, pairs - kLanes);
      deinterleave<T>(from + 2 * at, pair);
      store<T>(even + at, pair[0]);
      store<T>(odd + at, pair[1]);
    }
  } else if (readable >= 2 * kLanes) {
    T values[2][kLanes];
    deinterleave<T>(from, pair);
    store<T>(values[0], pair[0]);
    store<T>(values[1], pair[1]);
    copy_short<T, kLanes / 2>(even, values[0], pairs);
    copy_short<T, kLanes / 2>(odd, values[1], pairs);
  } else {
    for (int64_t k = 0; k < pairs; ++k) {
      even[k] = from[2 * k];
      odd[k] = from[2 * k + 1];
    }
  }
}

// to[2 * k] = even[k], to[2 * k + 1] = odd[k], `count` values in all. Up to a vector behind the
// last value of both is read.
template <typename T>
CONVPOOL_INLINE void interleave_columns(T* to, const T* even, const T* odd, int64_t count) {
  constexpr int kLanes = Simd<T>::kLanes;
  if (count < 2 * kLanes) {
    Vec<T> pair[2];
    T values[2 * kLanes];
    interleave<T>(load<T>(even), load<T>(odd), pair);
    store<T>(values, pair[0]);
    store<T>(values + kLanes, pair[1]);
    copy_short<T, kLanes>(to, values, count);
    return;
  }
  const int64_t last = count / 2 - kLanes;
  for (int64_t k = 0; k < last + kLanes; k += kLanes) {
    const int64_t at = min_of(k, last);
    Vec<T> pair[2];
    interleave<T>(load<T>(even + at), load<T>(odd + at), pair);
    store<T>(to + 2 * at, pair[0]);
    store<T>(to + 2 * at + kLanes, pair[1]);
  }
  if (count % 2 != 0) to[count - 1] = even[count / 2];
}

}  // namespace convpool::CONVPOOL_ISA
