// A strip: the part of an image that a run of output positions reads, copied with its zero padding
// so that whoever reads it needs no bounds and meets only consecutive values.
//
// Layout: [channel][row][phase][column]. Rows are those from the first to the last that are read.
// Columns whose distance from the first leaves the same rest modulo the stride stand together, so
// that the values one tap reads for neighbouring outputs are neighbours whatever the stride. Rows
// and phases that no tap reads are left unset.
#pragma once

#include "../runs.h"
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

// Of some channels, from the one whose slice of the image `image` is on. A plane of the strip lies
// `pitch` values behind the one before it. All is zero where `image` is null.
template <typename T>
inline void fill_slices(const TapConvolution<T>& conv, const StripShape& strip, const T* image,
                        int64_t channels, int64_t pitch, T* to) {
  const TapAxis &h = conv.h, &w = conv.w;
  const int64_t first_row = strip.row0 * h.stride + h.first();
  // Columns [begin, end) of a phase lie inside the image.
  struct Phase {
    int64_t to, from, begin, end;
  };
  constexpr int64_t kTogether = 4;
  // Bit i: are rows read whose number leaves the rest i? Longer strides have all of them filled.
  uint64_t rows_read = ~uint64_t{0};
  if (h.stride > 1 && h.stride <= 64)
    for (int64_t rest = 0; rest < h.stride; ++rest)
      if (!h.reads_phase(rest)) rows_read &= ~(uint64_t{1} << rest);
  const bool all_rows = rows_read == ~uint64_t{0};
  for (int64_t phase = 0; phase < w.stride;) {
    Phase phases[kTogether];
    int64_t count = 0;
    for (; phase < w.stride && count < kTogether; ++phase) {
      if (!w.reads_phase(phase)) continue;
      const int64_t start = strip.column0 * w.stride + w.first() + phase;
      const int64_t begin = start < 0 ? min_of(ceil_div(-start, w.stride), strip.columns) : 0;
      const int64_t after =
          start < w.in_size ? min_of(ceil_div(w.in_size - start, w.stride), strip.columns) : 0;
      phases[count++] = {phase * strip.columns, start + begin * w.stride, begin,
                         max_of(after, begin)};
    }
    // A channel at a time, so that an image is read in the order in which it lies.
    for (int64_t c = 0; c < channels; ++c) {
      const T* channel = image ? image + c * conv.in_channel_stride : nullptr;
      for (int64_t row = 0; row < strip.rows; ++row) {
        if (!all_rows && !(rows_read >> row % h.stride & 1)) continue;
        const int64_t in_row = first_row + row;
        const bool inside = channel && in_row >= 0 && in_row < h.in_size;
        T* row_to = to + c * pitch + row * strip.row_pitch;
        for (const Phase* p = phases; p < phases + count; ++p) {
          T* place = row_to + p->to;
          if (!inside) {
            clear(place, strip.columns);
            continue;
          }
          clear(place, p->begin);
          gather_columns(place + p->begin, channel + in_row * w.in_size + p->from,
                         p->end - p->begin, w.stride);
          clear(place + p->end, strip.columns - p->end);
        }
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
