// The strip (see strip.h) of one plane, for kernels that take a plane after the other: what it
// needs to know is worked out once, because a division costs as much as a row of a small plane, and
// a strip that held the same rows of another plane still holds its padding.
#pragma once

#include "strip.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class PlaneStrip {
  static constexpr int kLanes = Simd<T>::kLanes;

 public:
  // All columns of the outputs. The axes' offsets are not used after this.
  PlaneStrip(const TapAxis& h, const TapAxis& w)
      : height_(h.in_size),
        width_(w.in_size),
        row_stride_(h.stride),
        stride_(w.stride),
        first_row_(h.first()),
        first_column_(w.first()),
        extent_(h.extent()),
        columns_(StripShape(h, w, 0, 1, 0, w.out_size).columns) {
    for (int64_t phase = 0; phase < min_of(2, stride_); ++phase) run_[phase] = run_of(phase);
    even_ = stride_ == 2 && run_[1].from < run_[0].from ? 1 : 0;
  }

  int64_t row_pitch() const { return columns_ * stride_; }
  int64_t rows(int64_t out_rows) const { return (out_rows - 1) * row_stride_ + extent_ + 1; }
  // Values, with room for a vector behind the last one.
  int64_t size(int64_t channels, int64_t out_rows) const {
    return channels * rows(out_rows) * row_pitch() + kLanes;
  }
  // Where a tap with these offsets reads for the first output.
  int64_t shift(int64_t row_offset, int64_t column_offset) const {
    const int64_t column = column_offset - first_column_;
    return (row_offset - first_row_) * row_pitch() + column % stride_ * columns_ + column / stride_;
  }

  // For output rows from row0 on, of channels `channel_stride` apart.
  void fill(const T* image, int64_t channels, int64_t channel_stride, int64_t row0,
            int64_t out_rows, bool clear_padding, T* to) const {
    const int64_t first = row0 * row_stride_ + first_row_, count = rows(out_rows);
    const int64_t above = min_of(max_of(0, -first), count);
    const int64_t after = max_of(above, min_of(height_ - first, count));
    for (int64_t c = 0; c < channels; ++c, image += channel_stride, to += count * row_pitch()) {
      if (clear_padding) pad(above, after, count, to);
      fill_rows(image, first + above, after - above, to + above * row_pitch());
    }
  }

 private:
  // What a row of the image is in a row of the strip, for one phase of the columns: zero from
  // `start` on, `count` values from `begin` on, zero up to `end`.
  struct Run {
    int64_t from, count, start, begin, end;
  };

  Run run_of(int64_t phase) const {
    const int64_t first = first_column_ + phase, start = phase * columns_;
    const int64_t begin = first < 0 ? min_of(ceil_div(-first, stride_), columns_) : 0;
    const int64_t inside = ceil_div(max_of(width_ - first, 0), stride_);
    return {first + begin * stride_, max_of(0, min_of(inside, columns_) - begin), start,
            start + begin, start + columns_};
  }

  void pad(int64_t above, int64_t after, int64_t count, T* to) const {
    clear(to, above * row_pitch());
    clear(to + after * row_pitch(), (count - after) * row_pitch());
    for (int64_t phase = 0; phase < stride_; ++phase) {
      const Run run = run_of(phase);
      for (int64_t row = above; row < after; ++row) {
        T* place = to + row * row_pitch();
        clear(place + run.start, run.begin - run.start);
        clear(place + run.begin + run.count, run.end - run.begin - run.count);
      }
    }
  }

  // The columns of rows inside the image.
  void fill_rows(const T* image, int64_t first, int64_t count, T* to) const {
    const int64_t width = width_, pitch = row_pitch();
    const T* from = image + first * width;
    if (stride_ == 2) {
      const Run even = run_[even_], odd = run_[1 - even_];
      const int64_t pairs = min_of(even.count, odd.count);
      int64_t readable = (height_ - first) * width - even.from;
      for (int64_t row = 0; row < count; ++row, to += pitch, from += width, readable -= width) {
        split_columns(to + even.begin, to + odd.begin, from + even.from, pairs, readable);
        for (int64_t k = pairs; k < even.count; ++k) to[even.begin + k] = from[even.from + 2 * k];
      }
      return;
    }
    for (int64_t phase = 0; phase < stride_; ++phase) {
      const Run run = stride_ == 1 ? run_[0] : run_of(phase);
      if (stride_ == 1 && run.count < kLanes) {
        for (int64_t row = 0; row < count; ++row)
          copy_short<T, kLanes / 2>(to + row * pitch + run.begin, from + row * width + run.from,
                                    run.count);
      } else {
        for (int64_t row = 0; row < count; ++row)
          gather_columns(to + row * pitch + run.begin, from + row * width + run.from, run.count,
                         stride_);
      }
    }
  }

  const int64_t height_, width_, row_stride_, stride_;
  const int64_t first_row_, first_column_, extent_;
  const int64_t columns_;  // of one phase
  Run run_[2];
  int64_t even_;  // where the stride is 2, the phase that starts first
};

}  // namespace convpool::CONVPOOL_ISA
