// The gradient of the data where channels are few beside the outputs. A product whose rows are the
// channels would leave most of the micro-kernel's rows empty, and read all of dY for each of the
// others. Here columns = W^T * dY, with a row for each channel and tap, is what each output gives
// to each value that its window read, and is added up where the windows lie. Some rows of an image
// at a time, so that columns stay small.
#pragma once

#include "../arena.h"
#include "../parallel.h"
#include "matrix_product.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class FewInputs {
  // Of all rows at once, and the most of a single one: a long signal is one row.
  static constexpr int64_t kColumnBytes = 1 << 20, kMostRowBytes = 2 << 20;
  // Measured with 1, 3 and 4 channels and 64 outputs, where it takes about half of the time.
  static constexpr int64_t kMostInputs = 4, kFewestOutputs = 16, kFewestTaps = 4;
  static constexpr int64_t kRowsOfTask = 8;
  static constexpr int kLanes = Simd<T>::kLanes;

 public:
  static bool serves(const convpool_convolution& conv) {
    return conv.in_channels / conv.groups <= kMostInputs &&
           conv.out_channels / conv.groups >= kFewestOutputs &&
           product_of_axes(conv.window.kernel) >= kFewestTaps && row_bytes(conv) <= kMostRowBytes;
  }

  // Returns false where memory is out.
  static bool run(const convpool_convolution& conv, const T* dy, const T* weight, T* dx) {
    return FewInputs(conv).run(dy, weight, dx);
  }

 private:
  explicit FewInputs(const convpool_convolution& conv)
      : conv_(conv),
        window_(conv.window),
        taps_(product_of_axes(window_.kernel)),
        inputs_(conv.in_channels / conv.groups),
        outputs_(conv.out_channels / conv.groups),
        in_plane_(product_of_axes(window_.in_size)),
        out_plane_(product_of_axes(window_.out_size)),
        phase_size_(ceil_div(window_.in_size[1], window_.stride[1])),
        line_(ceil_div(phase_size_, kLanes) * kLanes) {}

  // The columns of a row of outputs.
  static int64_t row_bytes(const convpool_convolution& conv) {
    return conv.in_channels / conv.groups * product_of_axes(conv.window.kernel) *
           conv.window.out_size[1] * static_cast<int64_t>(sizeof(T));
  }

  // Of the columns of x that are every stride-th from `phase` on, a tap gives output 0 to number
  // `step`, which may be below 0.
  struct Place {
    int64_t phase, step;
  };
  void find_places(Place* places) const {
    const int64_t stride = window_.stride[1];
    for (int64_t j = 0; j < window_.kernel[1]; ++j) {
      const int64_t at = j * window_.dilation[1] - window_.pad[1];
      const int64_t phase = (at % stride + stride) % stride;
      places[j] = {phase, (at - phase) / stride};
    }
  }

  bool run(const T* dy, const T* weight, T* dx) const {
    const double work = static_cast<double>(conv_.batch * out_plane_ * conv_.out_channels) *
                        static_cast<double>(inputs_ * taps_);
    return parallel_for_whole(conv_.batch, work, [&](int64_t image) {
      const bool done = run_image(image, dy, weight, dx);
      release_scratch(Scratch::kColumns);
      return done;
    });
  }

  bool run_image(int64_t image, const T* dy, const T* weight, T* dx) const {
    clear(dx + image * conv_.in_channels * in_plane_, conv_.in_channels * in_plane_);
    const int64_t rows = window_.out_size[0], width = window_.out_size[1];
    const int64_t bands = min_of(rows, ceil_div(rows * row_bytes(conv_), kColumnBytes));
    Arena arena(Scratch::kColumns);
    const size_t columns_at =
        arena.template reserve<T>(inputs_ * taps_ * width * ceil_div(rows, bands));
    const size_t places_at = arena.template reserve<Place>(window_.kernel[1]);
    if (!arena.allocate()) return false;
    T* columns = arena.template at<T>(columns_at);
    Place* places = arena.template at<Place>(places_at);
    find_places(places);
    for (int64_t group = 0; group < conv_.groups; ++group)
      for (int64_t slice = 0; slice < window_.out_size[2]; ++slice)
        for (int64_t band = 0; band < bands; ++band) {
          const int64_t first = rows * band / bands, end = rows * (band + 1) / bands;
          const Matrix<T> a{weight + group * outputs_ * inputs_ * taps_, 1, inputs_ * taps_};
          const T* b = dy + (image * conv_.out_channels + group * outputs_) * out_plane_ +
                       (slice * rows + first) * width;
          if (!multiply_matrices(inputs_ * taps_, outputs_, (end - first) * width, a, b, out_plane_,
                                 columns))
            return false;
          if (!add_up(columns, places, slice, first, end,
                      dx + (image * conv_.in_channels + group * inputs_) * in_plane_))
            return false;
        }
    return true;
  }

  // The columns of the outputs in rows [first, end) of a slice to the channels of a group.
  bool add_up(const T* columns, const Place* places, int64_t slice, int64_t first, int64_t end,
              T* dx) const {
    const int64_t step = window_.stride[0], dilation = window_.dilation[0];
    const int64_t top = max_of(0, first * step - window_.pad[0]);
    const int64_t bottom = min_of(window_.in_size[0], (end - 1) * step - window_.pad[0] +
                                                          (window_.kernel[0] - 1) * dilation + 1);
    if (top >= bottom) return true;
    const int64_t pieces = ceil_div(bottom - top, kRowsOfTask);
    const double work = static_cast<double>((end - first) * window_.out_size[1] * inputs_ * taps_);
    bool failed = false;
    parallel_for(inputs_ * window_.kernel[2] * pieces, work, [&](int64_t task) {
      const int64_t piece = task % pieces, t = task / pieces % window_.kernel[2];
      const int64_t channel = task / pieces / window_.kernel[2];
      const int64_t in_slice = slice * window_.stride[2] + t * window_.dilation[2] - window_.pad[2];
      if (in_slice < 0 || in_slice >= window_.in_size[2]) return;
      Arena arena(Scratch::kTask);
      const size_t lines_at = arena.template reserve<T>(window_.stride[1] * line_ + kLanes);
      const size_t row_at = arena.template reserve<T>(window_.in_size[1] + kLanes);
      const size_t rows_at = arena.template reserve<const T*>(window_.kernel[0]);
      if (!arena.allocate()) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      T *lines = arena.template at<T>(lines_at), *sums = arena.template at<T>(row_at);
      const T** rows = arena.template at<const T*>(rows_at);
      const int64_t positions = (end - first) * window_.out_size[1];
      const T* of_slice =
          columns + (channel * taps_ + t * window_.kernel[0] * window_.kernel[1]) * positions;
      T* plane = dx + channel * in_plane_ + in_slice * window_.in_size[0] * window_.in_size[1];
      const int64_t row_end = top + (bottom - top) * (piece + 1) / pieces;
      for (int64_t row = top + (bottom - top) * piece / pieces; row < row_end; ++row) {
        int64_t count = 0;
        for (int64_t i = 0; i < window_.kernel[0]; ++i) {
          const int64_t from = row + window_.pad[0] - i * dilation;
          if (from < first * step || from % step != 0 || from / step >= end) continue;
          rows[count++] = of_slice + i * window_.kernel[1] * positions +
                          (from / step - first) * window_.out_size[1];
        }
        if (count == 0) continue;
        for (int64_t phase = 0; phase < window_.stride[1]; ++phase)
          sum_phase(rows, count, positions, places, phase, lines + phase * line_);
        add_row(lines, sums, plane + row * window_.in_size[1]);
      }
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  // What rows of outputs give to a phase of a row of x, `pitch` values from tap to tap.
  void sum_phase(const T* const* rows, int64_t count, int64_t pitch, const Place* places,
                 int64_t phase, T* to) const {
    const int64_t width = window_.out_size[1];
    for (int64_t k = 0; k < phase_size_; k += kLanes) {
      Vec<T> sum{};
      for (int64_t j = 0; j < window_.kernel[1]; ++j) {
        if (places[j].phase != phase) continue;
        const int64_t column = k - places[j].step;  // the output whose tap lies here
        for (int64_t i = 0; i < count; ++i)
          sum += load_lanes(rows[i] + j * pitch + column, -column, width - column);
      }
      store<T>(to + k, sum);
    }
  }

  // Adds the phases in `lines` to a row of x; `sums` has room for them side by side.
  void add_row(const T* lines, T* sums, T* row) const {
    const int64_t step = window_.stride[1], width = window_.in_size[1];
    const T* from = lines;
    if (step > 1) {
      from = sums;
      if (step == 2)
        interleave_columns(sums, lines, lines + line_, width);
      else
        for (int64_t phase = 0; phase < min_of(step, width); ++phase)
          for (int64_t k = phase, at = 0; k < width; k += step, ++at)
            sums[k] = lines[phase * line_ + at];
    }
    int64_t k = 0;
    for (; k + kLanes <= width; k += kLanes)
      store<T>(row + k, load<T>(row + k) + load<T>(from + k));
    if (k < width)
      store_part(row + k, load_part(row + k, width - k) + load<T>(from + k), width - k);
  }

  const convpool_convolution& conv_;
  const convpool_window& window_;
  const int64_t taps_, inputs_, outputs_;  // the channels are those of a group
  const int64_t in_plane_, out_plane_;
  const int64_t phase_size_, line_;  // every stride-th column of x, and room for them
};

}  // namespace convpool::CONVPOOL_ISA
