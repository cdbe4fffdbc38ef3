// The gradient of the weight: dW[outputs x reduction] = dY[outputs x positions] * B^T, where row k
// of B is what tap k of the reduction reads at each position.
//
// It is computed transposed: the left side is B, whose rows lie consecutively in a strip and are
// read in place; the right side is dY with its channels side by side, so only dY is rearranged. One
// task is a range of the reduction of one group; it sums over all images and positions in order, so
// the result does not depend on the tasks. Where that would be little work for a vector of dY, a
// task is a part of the positions instead, and the parts' gradients are added up in order.
//
// A pointwise convolution's x and dY are alike, so that the one with fewer channels is rearranged.
//
// Few outputs would leave most lanes of dY's vectors empty. Then the lanes are positions: each
// value of dW is a sum of vectors of its own, which are added up at the end.
#pragma once

#include "../arena.h"
#include "../gemm/micro_kernel.h"
#include "../parallel.h"
#include "../transpose.h"
#include "strip.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class WeightGradient {
  using Block = Blocks<T>;
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kNr = Block::kNr;
  static constexpr int64_t kStripBytes = 192 << 10;
  static constexpr int64_t kGradientBytes = 512 << 10;
  // The largest gradient that is computed in parts, and how many of all groups: whatever the number
  // of threads is, so that a sum's order is the same.
  static constexpr int64_t kPartBytes = 64 << 10;
  static constexpr int64_t kParts = 16;

 public:
  static constexpr int64_t kFewOutputs = 4;  // of a group

  // `conv` is the forward pass, with `out` the gradient of the output (read only) and `weight`
  // unused; dweight is (groups * outputs, planes, taps), dense. Returns false where memory is
  // out.
  static bool run(const TapConvolution<T>& conv, T* dweight) {
    if (conv.is_pointwise() && conv.outputs > conv.channels)
      return WeightGradient(conv.exchanged(), true).compute_all(dweight);
    return WeightGradient(conv, false).compute_all(dweight);
  }

 private:
  WeightGradient(const TapConvolution<T>& conv, bool exchanged)
      : conv_(conv), exchanged_(exchanged) {
    const int64_t k_panels = ceil_div(conv.reduction(), Block::kMr);
    output_pitch_ = few() ? conv.outputs * kLanes : ceil_div(conv.outputs, kLanes) * kLanes;
    const int64_t row_bytes = output_pitch_ * static_cast<int64_t>(sizeof(T));
    const int64_t fitting = max_of(1, kGradientBytes / (row_bytes * Block::kMr));
    // Every task rearranges dY for itself, so there are no more of them than needed.
    const int64_t wanted = ceil_div(num_threads(), conv.groups);
    tasks_ = min_of(k_panels, max_of(ceil_div(k_panels, fitting), wanted));
    k_panels_ = k_panels;

    // The image is read as it stands where each output reads what is at its own position, unless
    // its channels would push each other out of L1, where those a multiple of 4 KiB apart share one
    // place.
    in_place_ =
        conv.is_pointwise() && conv.in_channel_stride * static_cast<int64_t>(sizeof(T)) % 4096 != 0;

    // Steps decide the order of a sum, so they must not depend on the number of threads. They are
    // about equally long: a short last one would read and write the gradient for little.
    columns_ = ceil_div(conv.w.out_size, ceil_div(conv.w.out_size, Block::kKc));
    rows_ = Block::kKc / columns_;
    if (!in_place_) {
      const int64_t channels =
          min_of(conv.planes(), ceil_div(min_of(fitting, k_panels) * Block::kMr, conv.taps()) + 1);
      const int64_t strip_row =
          channels * (columns_ * conv.w.stride + conv.w.extent()) * static_cast<int64_t>(sizeof(T));
      const int64_t rows_of_strip = kStripBytes / strip_row - conv.h.extent();
      rows_ = min_of(rows_, rows_of_strip / conv.h.stride);
    }
    rows_ = max_of(1, min_of(rows_, conv.h.out_size));
    rows_ = ceil_div(conv.h.out_size, ceil_div(conv.h.out_size, rows_));
    const bool whole = rows_ == conv.h.out_size && columns_ == conv.w.out_size;
    if (in_place_ && whole && conv.d.out_size == 1 && !few())
      images_ = max_of(1, min_of(conv.batch, Block::kKc / conv.positions()));

    row_steps_ = ceil_div(conv.h.out_size, rows_);
    column_steps_ = ceil_div(conv.w.out_size, columns_);
    steps_ = ceil_div(conv.images(), images_) * row_steps_ * column_steps_;
    const int64_t gradient_bytes = conv.reduction() * row_bytes;
    if (!few() && gradient_bytes <= kPartBytes) {
      parts_ = max_of(1, min_of(steps_, kParts / conv.groups));
      tasks_ = parts_ > 1 ? 1 : tasks_;
    }
  }

  bool few() const { return conv_.outputs <= kFewOutputs; }

  bool compute_all(T* dweight) const {
    Arena arena(Scratch::kShared);
    const int64_t size = conv_.reduction() * output_pitch_;
    const size_t parts_at =
        arena.template reserve<T>(parts_ > 1 ? conv_.groups * parts_ * size : 0);
    if (!arena.allocate()) return false;
    T* parts = arena.template at<T>(parts_at);
    bool failed = false;
    parallel_for(conv_.groups * tasks_ * parts_, conv_.multiply_adds(), [&](int64_t item) {
      const int64_t group = item / (tasks_ * parts_), task = item / parts_ % tasks_;
      if (!compute(group, task, item % parts_, parts_ > 1 ? parts + item * size : nullptr, dweight))
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      release_scratch(Scratch::kTask);
    });
    if (failed) return false;
    for (int64_t group = 0; parts_ > 1 && group < conv_.groups; ++group, parts += parts_ * size) {
      for (int64_t part = 1; part < parts_; ++part)
        for (int64_t k = 0; k < size; k += kLanes)
          store<T>(parts + k, load<T>(parts + k) + load<T>(parts + part * size + k));
      write_gradient(parts, conv_.reduction(), 0, group, dweight);
    }
    return true;
  }

  // Of a part of the steps, to `part_gradient`, where that is not null.
  bool compute(int64_t group, int64_t task, int64_t part, T* part_gradient, T* dweight) const {
    const int64_t taps = conv_.taps(), reduction = conv_.reduction();
    const int64_t k0 = k_panels_ * task / tasks_ * Block::kMr;
    const int64_t k1 = min_of(reduction, k_panels_ * (task + 1) / tasks_ * Block::kMr);
    const int64_t c0 = k0 / taps, channels = (k1 - 1) / taps + 1 - c0;
    const StripShape largest(conv_.h, conv_.w, 0, rows_, 0, columns_);

    Arena arena(Scratch::kTask);
    const size_t gradient_at =
        arena.template reserve<T>(part_gradient ? 0 : (k1 - k0) * output_pitch_);
    const size_t strip_at =
        arena.template reserve<T>(in_place_ ? 0 : channels * largest.channel_pitch);
    const size_t panel_at = arena.template reserve<T>(few() ? 0 : images_ * rows_ * columns_ * kNr);
    const size_t offset_at = arena.template reserve<int64_t>(k1 - k0);
    if (!arena.allocate()) return false;
    T* gradient = part_gradient ? part_gradient : arena.template at<T>(gradient_at);
    T* strip_data = arena.template at<T>(strip_at);
    T* panel_data = arena.template at<T>(panel_at);
    int64_t* row_offset = arena.template at<int64_t>(offset_at);
    if (few()) clear(gradient, (k1 - k0) * output_pitch_);

    const int64_t first_step = steps_ * part / parts_;
    for (int64_t step = first_step; step < steps_ * (part + 1) / parts_; ++step) {
      const int64_t image = step / (row_steps_ * column_steps_) * images_;
      const int64_t images = min_of(images_, conv_.images() - image);
      const T* dy = conv_.out_image(image) + group * conv_.outputs * conv_.out_channel_stride;
      const int64_t row = step / column_steps_ % row_steps_ * rows_;
      const int64_t end_row = min_of(row + rows_, conv_.h.out_size);
      const int64_t column = step % column_steps_ * columns_;
      const int64_t end_column = min_of(column + columns_, conv_.w.out_size);
      StripShape strip(conv_.h, conv_.w, row, end_row, column, end_column);
      const T* source = strip_data;
      if (in_place_) {
        strip.row_step = conv_.w.in_size;
        strip.channel_pitch = conv_.in_channel_stride;
        source = conv_.in_slice(image, 0) +
                 (group * conv_.channels + c0) * conv_.in_channel_stride + row * conv_.w.in_size +
                 column;
      } else {
        fill_strip(conv_, strip, image, group, c0, channels, strip_data);
      }
      for (int64_t k = k0; k < k1; ++k)
        row_offset[k - k0] =
            (k / taps - c0) * strip.channel_pitch +
            strip.tap_shift(conv_.h, conv_.w, k % taps / conv_.w.taps, k % conv_.w.taps);
      if (few())
        add_to_sums(dy, strip, row, end_row, column, end_column, source, row_offset, k1 - k0,
                    gradient);
      else
        add(dy, images, strip, row, end_row, column, end_column, source, row_offset, k1 - k0,
            panel_data, gradient, /*accumulate=*/step > first_step);
    }

    if (few())
      write_sums(gradient, k0, k1 - k0, group, dweight);
    else if (!part_gradient)
      write_gradient(gradient, k1 - k0, k0, group, dweight);
    return true;
  }

  // From [k][output] to [output][reduction], rows from k0 on.
  void write_gradient(const T* gradient, int64_t k_count, int64_t k0, int64_t group,
                      T* dweight) const {
    const int64_t reduction = conv_.reduction();
    dweight += group * conv_.outputs * reduction;
    if (exchanged_) {
      for (int64_t k = 0; k < k_count; ++k)
        gather_columns(dweight + (k0 + k) * conv_.outputs, gradient + k * output_pitch_,
                       conv_.outputs, 1);
      return;
    }
    dweight += k0;
    for (int64_t m = 0; m < conv_.outputs; m += kLanes) {
      const int64_t outputs = min_of(kLanes, conv_.outputs - m);
      T* to = dweight + m * reduction;
      if (outputs == kLanes && k_count >= kLanes) {
        for (int64_t k = 0; k < k_count; k += kLanes) {
          const int64_t at = min_of(k, k_count - kLanes);
          transpose_square(gradient + at * output_pitch_ + m, output_pitch_, to + at, reduction);
        }
        continue;
      }
      for (int64_t i = 0; i < outputs; ++i, to += reduction)
        for (int64_t k = 0; k < k_count; ++k) to[k] = gradient[k * output_pitch_ + m + i];
    }
  }

  // Adds the positions [row, end_row) x [column, end_column) of one image, or all of some.
  void add(const T* dy, int64_t images, const StripShape& strip, int64_t row, int64_t end_row,
           int64_t column, int64_t end_column, const T* strip_data, const int64_t* row_offset,
           int64_t k_count, T* panel_data, T* gradient, bool accumulate) const {
    const int64_t positions = (end_row - row) * (end_column - column);
    Reduction reduction{end_row - row, end_column - column, strip.row_step};
    if (reduction.run_stride == reduction.run_length)
      reduction = {images, positions, conv_.in_image_stride};
    // The rows of the next product; with several taps they are no fixed distance away.
    const int64_t ahead = in_place_ ? Block::kMr * strip.channel_pitch : 0;
    for (int64_t m = 0; m < conv_.outputs; m += kNr) {
      const int64_t count = min_of(kNr, conv_.outputs - m), vectors = ceil_div(count, kLanes);
      for (int64_t image = 0; image < images; ++image)
        transpose(dy + image * conv_.out_image_stride + m * conv_.out_channel_stride, count,
                  vectors * kLanes, row, end_row, column, end_column,
                  panel_data + image * positions * vectors * kLanes);
      for (int64_t k = 0; k < k_count; k += Block::kMr) {
        const int64_t rows = min_of(Block::kMr, k_count - k);
        MicroKernels<T>::run(
            rows, vectors, {strip_data, row_offset + k, 0, ahead}, {panel_data, nullptr}, reduction,
            {gradient + k * output_pitch_ + m, output_pitch_, nullptr, accumulate});
      }
    }
  }

  // The same with positions in the lanes: each value of the gradient has a vector in `sums`.
  void add_to_sums(const T* dy, const StripShape& strip, int64_t row, int64_t end_row,
                   int64_t column, int64_t end_column, const T* strip_data,
                   const int64_t* row_offset, int64_t k_count, T* sums) const {
    const int64_t width = conv_.w.out_size;
    Positions at{dy + row * width + column,
                 conv_.out_channel_stride,
                 width,
                 end_row - row,
                 end_column - column,
                 strip.row_step};
    if (strip.row_step == at.length && width == at.length) {
      at.length *= at.runs;
      at.runs = 1;
    }
    static_assert(kFewOutputs == 4, "a call for each number of outputs");
    if (conv_.outputs == 1) return add_to_sums<1>(at, strip_data, row_offset, k_count, sums);
    if (conv_.outputs == 2) return add_to_sums<2>(at, strip_data, row_offset, k_count, sums);
    if (conv_.outputs == 3) return add_to_sums<3>(at, strip_data, row_offset, k_count, sums);
    add_to_sums<4>(at, strip_data, row_offset, k_count, sums);
  }

  // Positions of dY, in runs, and how far apart a strip has those runs.
  struct Positions {
    const T* dy;
    int64_t channel_stride, row_stride;
    int64_t runs, length, strip_step;
  };

  template <int Outputs>
  void add_to_sums(const Positions& at, const T* strip, const int64_t* row_offset, int64_t k_count,
                   T* sums) const {
    constexpr int kTogether = 8 / Outputs;
    int64_t k = 0;
    for (; k + kTogether <= k_count; k += kTogether)
      add_products<Outputs, kTogether>(at, strip, row_offset + k, sums + k * Outputs * kLanes);
    for (; k < k_count; ++k)
      add_products<Outputs, 1>(at, strip, row_offset + k, sums + k * Outputs * kLanes);
  }

  template <int Outputs, int Rows>
  static void add_products(const Positions& at, const T* strip, const int64_t* row_offset,
                           T* sums) {
    Vec<T> sum[Rows][Outputs] = {};
    const auto add = [&](const T* dy, const T* x, auto load_at) {
      Vec<T> dy_here[Outputs];
#pragma GCC unroll 4
      for (int m = 0; m < Outputs; ++m) dy_here[m] = load_at(dy + m * at.channel_stride);
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const Vec<T> x_here = in_register(load_at(x + row_offset[i]));
#pragma GCC unroll 4
        for (int m = 0; m < Outputs; ++m) sum[i][m] += x_here * dy_here[m];
      }
    };
    for (int64_t run = 0; run < at.runs; ++run) {
      const T *dy = at.dy + run * at.row_stride, *x = strip + run * at.strip_step;
      int64_t p = 0;
      for (; p + kLanes <= at.length; p += kLanes)
        add(dy + p, x + p, [](const T* from) { return load<T>(from); });
      // What is behind the last value may be no number.
      const int64_t rest = at.length - p;
      if (rest > 0) add(dy + p, x + p, [rest](const T* from) { return load_part<T>(from, rest); });
    }
    for (int i = 0; i < Rows; ++i)
      for (int m = 0; m < Outputs; ++m, sums += kLanes) store<T>(sums, load<T>(sums) + sum[i][m]);
  }

  void write_sums(const T* sums, int64_t k0, int64_t k_count, int64_t group, T* dweight) const {
    dweight += group * conv_.outputs * conv_.reduction();
    const int64_t k_step = exchanged_ ? conv_.outputs : 1;
    const int64_t m_step = exchanged_ ? 1 : conv_.reduction();
    for (int64_t k = k0; k < k0 + k_count; ++k)
      for (int64_t m = 0; m < conv_.outputs; ++m, sums += kLanes) {
        T sum = 0;
        for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
        dweight[k * k_step + m * m_step] = sum;
      }
  }

  // `count` channels of dY side by side, `pitch` apart, zero where pitch exceeds count.
  void transpose(const T* dy, int64_t count, int64_t pitch, int64_t row, int64_t end_row,
                 int64_t column, int64_t end_column, T* to) const {
    const int64_t width = conv_.w.out_size;
    if (end_column - column == width) {
      transpose_run(dy + row * width, count, pitch, (end_row - row) * width, to);
      return;
    }
    const int64_t length = end_column - column;
    for (int64_t r = row; r < end_row; ++r, to += length * pitch)
      transpose_run(dy + r * width + column, count, pitch, length, to);
  }

  // The same for neighbouring positions.
  void transpose_run(const T* dy, int64_t count, int64_t pitch, int64_t length, T* to) const {
    const int64_t stride = conv_.out_channel_stride;
    for (int64_t m = 0; m < pitch; m += kLanes) {
      const T* from = dy + m * stride;
      if (m + kLanes <= count && length >= kLanes) {
        for (int64_t k = 0; k < length; k += kLanes) {
          const int64_t at = min_of(k, length - kLanes);
          transpose_square(from + at, stride, to + at * pitch + m, pitch);
        }
        continue;
      }
      for (int64_t k = 0; k < length; ++k)
        for (int64_t i = 0; i < kLanes; ++i)
          to[k * pitch + m + i] = m + i < count ? from[i * stride + k] : T(0);
    }
  }

  const TapConvolution<T> conv_;
  const bool exchanged_;      // are x and dY exchanged?
  int64_t k_panels_, tasks_;  // of a group
  int64_t output_pitch_;      // from one row of the transposed gradient, or of sums, to the next
  int64_t rows_, columns_;    // output positions in one step
  int64_t images_ = 1;        // and how many images, of which it has all positions if not one
  int64_t row_steps_, column_steps_, steps_;  // of an image, and of all
  int64_t parts_ = 1;                         // of the steps
  bool in_place_;                             // is the image read in the place of a strip?
};

}  // namespace convpool::CONVPOOL_ISA
