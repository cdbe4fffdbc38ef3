// A strip: the part of an image that a run of output positions reads, copied with its zero padding
// so that whoever reads it needs no bounds and meets only consecutive values.
//
// Layout: [channel][row][phase][column]. Rows are those from the first to the last that are read.
// Columns whose distance from the first leaves the same rest modulo the stride stand together, so
// that the values one tap reads for neighbouring outputs are neighbours whatever the stride. Rows
// and phases that no tap reads are left unset.
#pragma once

#include "tap_convolution.h"

namespace convpool::CONVPOOL_ISA {

// The shape of a strip for output rows [row0, row1) and columns [column0, column1).
struct StripShape {
  int64_t row0, column0;  // of the output
  int64_t rows, columns;  // of the input; columns counts those of one phase
  int64_t row_pitch;      // values
  int64_t channel_pitch;  // values
  int64_t column_stride;  // phases in a row
  int64_t row_step;       // from one output row's source row to the next's: values

  StripShape(const TapAxis& h, const TapAxis& w, int64_t first_row, int64_t end_row,
             int64_t first_column, int64_t end_column)
      : row0(first_row), column0(first_column) {
    rows = (end_row - first_row - 1) * h.stride + h.extent() + 1;
    columns = ceil_div((end_column - first_column - 1) * w.stride + w.extent() + 1, w.stride);
    column_stride = w.stride;
    row_pitch = columns * w.stride;
    channel_pitch = rows * row_pitch;
    row_step = h.stride * row_pitch;
  }

  // From output (row0, column0) of a channel to what tap (i, j) reads for it.
  int64_t tap_shift(const TapAxis& h, const TapAxis& w, int64_t i, int64_t j) const {
    const int64_t column = w.shift(j);
    return h.shift(i) * row_pitch + column % w.stride * columns + column / w.stride;
  }
};

// Copies count < 2 * Size values by their two ends, or clears them where `from` is null. Rows are
// often this short, and then a call of memcpy or memset is what takes the time.
template <typename T, int Size>
CONVPOOL_INLINE void copy_short(T* to, const T* from, int64_t count) {
  if (count >= Size) {
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
    for (int64_t k = 0; k < count; ++k) to[k] = from[2 * k];
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

// Of some channels, from the one whose slice of the image `image` is on. A plane of the strip lies
// `pitch` values behind the one before it. All is zero where `image` is null.
template <typename T>
inline void fill_slices(const TapConvolution<T>& conv, const StripShape& strip, const T* image,
                        int64_t channels, int64_t pitch, T* to) {
  const TapAxis &h = conv.h, &w = conv.w;
  const int64_t first_row = strip.row0 * h.stride + h.first();
  for (int64_t phase = 0; phase < w.stride; ++phase) {
    if (!w.reads_phase(phase)) continue;
    // Columns [begin, end) of this phase lie inside the image.
    const int64_t start = strip.column0 * w.stride + w.first() + phase;
    const int64_t begin = start < 0 ? min_of(ceil_div(-start, w.stride), strip.columns) : 0;
    const int64_t after =
        start < w.in_size ? min_of(ceil_div(w.in_size - start, w.stride), strip.columns) : 0;
    const int64_t end = max_of(after, begin);
    for (int64_t row = 0; row < strip.rows; ++row) {
      if (h.stride > 1 && !h.reads_phase(row % h.stride)) continue;
      const int64_t in_row = first_row + row;
      T* place = to + row * strip.row_pitch + phase * strip.columns;
      if (!image || in_row < 0 || in_row >= h.in_size) {
        for (int64_t c = 0; c < channels; ++c, place += pitch) clear(place, strip.columns);
        continue;
      }
      const T* from = image + in_row * w.in_size + start + begin * w.stride;
      for (int64_t c = 0; c < channels; ++c, place += pitch, from += conv.in_channel_stride) {
        clear(place, begin);
        gather_columns(place + begin, from, end - begin, w.stride);
        clear(place + end, strip.columns - end);
      }
    }
  }
}

// Planes [plane, plane + planes) of what an image of the output reads of a group.
template <typename T>
inline void fill_strip(const TapConvolution<T>& conv, const StripShape& strip, int64_t image,
                       int64_t group, int64_t plane, int64_t planes, T* to) {
  for (int64_t tap = 0; tap < conv.d.taps; ++tap) {
    const int64_t first = ceil_div(plane - tap, conv.d.taps);
    const int64_t end = ceil_div(plane + planes - tap, conv.d.taps);
    const T* slice = conv.in_slice(image, tap);
    if (slice) slice += (group * conv.channels + first) * conv.in_channel_stride;
    fill_slices(conv, strip, slice, end - first, conv.d.taps * strip.channel_pitch,
                to + (first * conv.d.taps + tap - plane) * strip.channel_pitch);
  }
}

}  // namespace convpool::CONVPOOL_ISA
