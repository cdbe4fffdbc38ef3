// Depthwise convolution of small planes, with as many channels side by side as a vector has lanes.
//
// Where rows are shorter than a vector, or the outputs of a phase stand apart, depthwise.h computes
// beside the output and copies. Here a block of channels is transposed into vectors of channels,
// padded with zeros, so that every output is one vector and has all of its taps, and the result is
// transposed back. Strides and phases are places in the transposed plane, and need nothing of their
// own. A plane is transposed as one row, whatever its rows are: each vector then goes to its place.
// Transposing costs about six instructions for a vector, and one output of 3x3 nine multiply-adds.
#pragma once

#include <type_traits>

#include "../arena.h"
#include "../parallel.h"
#include "../transpose.h"
#include "tap_convolution.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class DepthwiseLanes {
  static constexpr int kLanes = Simd<T>::kLanes;
  using V = Vec<T>;
  static constexpr int kTogether = 4;  // outputs that share the load of a weight

 public:
  // `conv` and `axes` are as in Depthwise::compute.
  template <typename Axes>
  static bool compute(const TapConvolution<T>& conv, int64_t row_step, int64_t taps,
                      const Axes& axes) {
    return DepthwiseLanes(conv, row_step).compute_all(taps, axes);
  }

  // As Depthwise::weight_gradient.
  static bool weight_gradient(const TapConvolution<T>& conv, T* dweight) {
    return DepthwiseLanes(conv, 1).weight_gradient_all(dweight);
  }

  // Does this pay? Measured with 3x3 and 5x5, it takes between 0.3 (gradient of the input with
  // stride 2, 14x14) and 0.8 (forward with stride 2, 28x28) of the other kernel's time if so, and
  // 0.9 to 2 of it if not.
  static bool fits(const TapConvolution<T>& conv, int64_t row_step) {
    if (conv.channels != 1 || conv.outputs != 1 || conv.groups < kLanes) return false;
    if (conv.w.out_size >= kLanes && conv.out_column_stride == 1) return false;
    const DepthwiseLanes lanes(conv, row_step);
    return (lanes.padded() + lanes.out_plane_) * kVectorBytes <= kMostBytes;
  }

 private:
  // Of the padded plane and the outputs, which are to stay in L2 beside what passes through it.
  static constexpr int64_t kMostBytes = 112 << 10;

  DepthwiseLanes(const TapConvolution<T>& conv, int64_t row_step)
      : conv_(conv),
        row_step_(row_step),
        column_step_(conv.out_column_stride),
        rows_((conv.h.out_size - 1) * conv.h.stride + conv.h.extent() + 1),
        pitch_((conv.w.out_size - 1) * conv.w.stride + conv.w.extent() + 1),
        top_(max_of(0, -conv.h.first())),
        left_(max_of(0, -conv.w.first())),
        in_row_(max_of(0, conv.h.first())),
        in_column_(max_of(0, conv.w.first())),
        in_rows_(max_of(0, min_of(conv.h.in_size - in_row_, rows_ - top_))),
        in_columns_(max_of(0, min_of(conv.w.in_size - in_column_, pitch_ - left_))),
        in_plane_(conv.h.in_size * conv.w.in_size),
        out_row_(conv.out_row_stride / row_step),
        out_plane_(conv.out_channel_stride),
        blocks_(ceil_div(conv.groups, kLanes)) {}

  // Vectors in the padded plane, with one behind it for inputs that no window reads.
  int64_t padded() const { return rows_ * pitch_ + 1; }

  // The first channel of a block: the last block starts earlier where it would reach over the end,
  // and only its lanes from first_lane on are written.
  int64_t first_channel(int64_t block) const {
    return min_of(block * kLanes, conv_.groups - kLanes);
  }
  int64_t first_lane(int64_t block) const { return block * kLanes - first_channel(block); }

  // Where each value of an input plane goes in the padded one.
  void find_places(int64_t* places) const {
    for (int64_t k = 0; k < in_plane_; ++k) places[k] = rows_ * pitch_;
    for (int64_t r = 0; r < in_rows_; ++r)
      for (int64_t c = 0; c < in_columns_; ++c)
        places[(in_row_ + r) * conv_.w.in_size + in_column_ + c] = (top_ + r) * pitch_ + left_ + c;
  }

  // Runs body(block, image, memory, places, start of a block) over all of them, the images of a
  // block in a row; `memory` begins with a padded plane of zeros.
  template <typename Body>
  bool for_each(int64_t vectors, const Body& body) const {
    const int64_t items = blocks_ * conv_.batch;
    const int64_t tasks = min_of(items, 8 * num_threads());
    bool failed = false;
    parallel_for(tasks, conv_.multiply_adds(), [&](int64_t task) {
      Arena arena(Scratch::kTask);
      const size_t at = arena.template reserve<V>(vectors);
      const size_t places_at = arena.template reserve<int64_t>(in_plane_);
      if (!arena.allocate()) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      V* memory = arena.template at<V>(at);
      int64_t* places = arena.template at<int64_t>(places_at);
      find_places(places);
      for (int64_t i = 0; i < padded(); ++i) memory[i] = V{};
      for (int64_t item = items * task / tasks; item < items * (task + 1) / tasks; ++item)
        body(item / conv_.batch, item % conv_.batch, memory, places,
             item == items * task / tasks || item % conv_.batch == 0);
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  // Channels apart to channels side by side, from kLanes planes of `size` values: calls
  // body(position, vector) for all positions in [begin, end), for some of them twice, and for some
  // others.
  template <typename Body>
  static CONVPOOL_INLINE void gather(const T* from, int64_t plane, int64_t begin, int64_t end,
                                     int64_t size, const Body& body) {
    for (int64_t k = begin; k < end; k += kLanes) {
      const int64_t at = max_of(0, min_of(k, size - kLanes));
      const int64_t count = min_of(kLanes, size - at);
      V square[kLanes];
      load_transposed(from + at, plane, count, square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i)
        if (i < count) body(at + i, square[i]);
    }
  }

  void fill(int64_t image, int64_t channel, const int64_t* places, V* padded_plane) const {
    const T* from = conv_.in + image * conv_.in_image_stride + channel * conv_.in_channel_stride;
    gather(from, conv_.in_channel_stride, in_row_ * conv_.w.in_size,
           (in_row_ + in_rows_) * conv_.w.in_size, in_plane_,
           [&](int64_t k, V v) CONVPOOL_LAMBDA_INLINE { padded_plane[places[k]] = v; });
  }

  // The outputs of one phase, in the transposed plane of outputs.
  struct Phase {
    int64_t first, rows, columns, taps;
    int64_t width;          // taps of a row that are neighbours
    const int64_t* shift;   // of each tap, in the padded plane
    const int64_t* weight;  // of each tap, from the channel's first weight
  };

  // Taps that are neighbours in a row share the loads of Count outputs, Step vectors apart (0: as
  // `step` says).
  template <int Count, int Width, int Step>
  static CONVPOOL_INLINE void outputs(const V* in, int64_t step, const int64_t* shift,
                                      const V* weight, int64_t taps, V bias, V* out,
                                      int64_t out_step) {
    static_assert(Step > 0 || Width == 1, "neighbours are found by their step");
    V sum[Count];
#pragma GCC unroll 4
    for (int k = 0; k < Count; ++k) sum[k] = bias;
    for (int64_t t = 0; t < taps; t += Width) {
      const V* at = in + shift[t];
      if constexpr (Step == 0) {
#pragma GCC unroll 4
        for (int k = 0; k < Count; ++k) sum[k] += at[k * step] * weight[t];
      } else {
        V w[Width];
#pragma GCC unroll 8
        for (int j = 0; j < Width; ++j) w[j] = weight[t + j];
#pragma GCC unroll 16
        for (int q = 0; q < (Count - 1) * Step + Width; ++q) {
          const V x = at[q];
#pragma GCC unroll 4
          for (int k = 0; k < Count; ++k)
            if (q - k * Step >= 0 && q - k * Step < Width) sum[k] += x * w[q - k * Step];
        }
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < Count; ++k) out[k * out_step] = sum[k];
  }

  template <int Width, int Step>
  static void row_of_outputs(const V* in, int64_t step, int64_t columns, const int64_t* shift,
                             const V* weight, int64_t taps, V bias, V* out, int64_t out_step) {
    const int64_t last = columns - kTogether;
    for (int64_t c = 0; last >= 0 && c < columns; c += kTogether) {
      const int64_t at = min_of(c, last);  // some outputs are computed twice
      outputs<kTogether, Width, Step>(in + at * step, step, shift, weight, taps, bias,
                                      out + at * out_step, out_step);
    }
    for (int64_t c = 0; last < 0 && c < columns; ++c)
      outputs<1, Width, Step>(in + c * step, step, shift, weight, taps, bias, out + c * out_step,
                              out_step);
  }

  // How many taps of a row are neighbours: all or one.
  static int64_t width_of(const TapAxis& w) {
    for (int64_t j = 1; j < w.taps; ++j)
      if (w.shift(j) != j) return 1;
    return w.taps;
  }

  static auto row_function(int64_t width, int64_t step) {
    if (step == 1 && width == 2) return row_of_outputs<2, 1>;
    if (step == 1 && width == 3) return row_of_outputs<3, 1>;
    if (step == 1 && width == 5) return row_of_outputs<5, 1>;
    if (step == 2 && width == 3) return row_of_outputs<3, 2>;
    if (step == 2 && width == 5) return row_of_outputs<5, 2>;
    return row_of_outputs<1, 0>;
  }

  void compute_phase(const Phase& phase, const V* in, const V* weight, V bias, V* out) const {
    const auto row_of = row_function(phase.width, conv_.w.stride);
    for (int64_t r = 0; r < phase.rows; ++r)
      row_of(in + r * conv_.h.stride * pitch_, conv_.w.stride, phase.columns, phase.shift, weight,
             phase.taps, bias, out + phase.first + r * row_step_ * out_row_, column_step_);
  }

  template <typename Axes>
  bool compute_all(int64_t taps, const Axes& axes) const {
    const int64_t count = row_step_ * column_step_;
    Arena arena(Scratch::kShared);
    const size_t phases_at = arena.template reserve<Phase>(count);
    const size_t shift_at = arena.template reserve<int64_t>(taps);
    const size_t weight_at = arena.template reserve<int64_t>(taps);
    if (!arena.allocate()) return false;
    Phase* phases = arena.template at<Phase>(phases_at);
    int64_t* shift = arena.template at<int64_t>(shift_at);
    int64_t* weight = arena.template at<int64_t>(weight_at);
    for (int64_t p = 0; p < count; ++p) {
      TapAxis h = conv_.h, w = conv_.w;
      axes(p / column_step_, p % column_step_, &h, &w);
      phases[p] = {p / column_step_ * out_row_ + p % column_step_,
                   h.out_size,
                   w.out_size,
                   h.taps * w.taps,
                   width_of(w),
                   shift,
                   weight};
      for (int64_t i = 0; i < h.taps; ++i)
        for (int64_t j = 0; j < w.taps; ++j) {
          *shift++ = (h.offset[i] - conv_.h.first()) * pitch_ + w.offset[j] - conv_.w.first();
          *weight++ = h.index[i] * conv_.weight_row_stride + w.index[j];
        }
    }
    const int64_t vectors = padded() + out_plane_ + taps;
    return for_each(vectors, [&](int64_t block, int64_t image, V* memory, const int64_t* places,
                                 bool other_block) {
      V* out = memory + padded();
      V* weights = out + out_plane_;
      const int64_t channel = first_channel(block);
      if (other_block) gather_weights(phases, count, channel, weights);
      fill(image, channel, places, memory);
      V bias{};
      if (conv_.bias) bias = load<T>(conv_.bias + channel);
      const V* weight_of_phase = weights;
      for (int64_t p = 0; p < count; ++p) {
        compute_phase(phases[p], memory, weight_of_phase, bias, out);
        weight_of_phase += phases[p].taps;
      }
      put(image, channel, first_lane(block), out);
    });
  }

  void gather_weights(const Phase* phases, int64_t count, int64_t channel, V* to) const {
    const T* from = conv_.weight + channel * conv_.weight_group_stride;
    for (int64_t p = 0; p < count; ++p)
      for (int64_t t = 0; t < phases[p].taps; ++t) {
        V v{};
        for (int lane = 0; lane < kLanes; ++lane)
          v[lane] = from[lane * conv_.weight_group_stride + phases[p].weight[t]];
        *to++ = v;
      }
  }

  // Channels side by side to channels apart, with the last step.
  void put(int64_t image, int64_t channel, int64_t first_lane, const V* out) const {
    T* to = conv_.out + image * conv_.out_image_stride + channel * out_plane_;
    const T* sum = conv_.epilogue.sum_at(to, conv_.out);
    for (int64_t begin = 0; begin < out_plane_; begin += kLanes) {
      const int64_t k = max_of(0, min_of(begin, out_plane_ - kLanes));
      const int64_t count = min_of(kLanes, out_plane_ - k);
      V square[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) square[i] = i < count ? out[k + i] : V{};
      Transposer<T>::run(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (i < first_lane) continue;
        V v = square[i];
        const int64_t at = i * out_plane_ + k;
        if (conv_.epilogue.active) {
          if (sum) v += load_part<T>(sum + at, count);
          v = conv_.epilogue.apply(v);
        }
        store_part<T>(to + at, v, count);
      }
    }
  }

  // Images follow each other in one task, so that a sum's order does not depend on the threads.
  bool weight_gradient_all(T* dweight) const {
    const int64_t taps = conv_.taps(), columns = conv_.w.out_size;
    const bool joined = add_function(width_of(conv_.w), conv_.w.stride) != add_rows_of<1, 0>;
    const int64_t width = joined ? width_of(conv_.w) : 1;
    const auto add_rows = add_function(width, conv_.w.stride);
    bool failed = false;
    parallel_for(blocks_, conv_.multiply_adds(), [&](int64_t block) {
      Arena arena(Scratch::kTask);
      const size_t in_at = arena.template reserve<V>(padded());
      const size_t dy_at = arena.template reserve<V>(out_plane_);
      const size_t places_at = arena.template reserve<int64_t>(in_plane_);
      const size_t sums_at = arena.template reserve<V>(taps);
      if (!arena.allocate()) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      V* in = arena.template at<V>(in_at);
      V* dy = arena.template at<V>(dy_at);
      V* sums = arena.template at<V>(sums_at);
      int64_t* places = arena.template at<int64_t>(places_at);
      find_places(places);
      for (int64_t i = 0; i < padded(); ++i) in[i] = V{};
      for (int64_t t = 0; t < taps; ++t) sums[t] = V{};
      const int64_t channel = first_channel(block);
      for (int64_t image = 0; image < conv_.batch; ++image) {
        fill(image, channel, places, in);
        gather(conv_.out + image * conv_.out_image_stride + channel * out_plane_, out_plane_, 0,
               out_plane_, out_plane_, [&](int64_t k, V v) CONVPOOL_LAMBDA_INLINE { dy[k] = v; });
        for (int64_t i = 0; i < conv_.h.taps; ++i)
          for (int64_t j = 0; j < conv_.w.taps; j += width)
            add_rows(in + conv_.h.shift(i) * pitch_ + conv_.w.shift(j), conv_.h.stride * pitch_,
                     conv_.w.stride, dy, conv_.h.out_size, columns, sums + i * conv_.w.taps + j);
      }
      for (int64_t i = 0; i < conv_.h.taps; ++i)
        for (int64_t j = 0; j < conv_.w.taps; ++j) {
          const V sum = sums[i * conv_.w.taps + j];
          const int64_t at = conv_.h.index[i] * conv_.weight_row_stride + conv_.w.index[j];
          for (int64_t lane = first_lane(block); lane < kLanes; ++lane)
            dweight[(channel + lane) * taps + at] = sum[lane];
        }
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  // sums[j] += the products of Width neighbouring taps of a row; steps as in outputs().
  template <int Width, int Step>
  static void add_rows_of(const V* in, int64_t row_pitch, int64_t step, const V* dy, int64_t rows,
                          int64_t columns, V* sums) {
    // Every other output adds to sums of its own, so that none waits for the one before.
    V sum[2][Width] = {};
    const auto add = [&](auto count, const V* at, const V* gradient) CONVPOOL_LAMBDA_INLINE {
      constexpr int kCount = decltype(count)::value;
      V g[kCount];
#pragma GCC unroll 4
      for (int k = 0; k < kCount; ++k) g[k] = gradient[k];
#pragma GCC unroll 16
      for (int q = 0; q < (Step ? (kCount - 1) * Step + Width : kCount); ++q) {
        const V x = at[Step ? q : q * step];
#pragma GCC unroll 4
        for (int k = 0; k < kCount; ++k) {
          const int j = Step ? q - k * Step : q == k ? 0 : -1;
          if (j >= 0 && j < Width) sum[k % 2][j] += g[k] * x;
        }
      }
    };
    for (int64_t r = 0; r < rows; ++r, in += row_pitch, dy += columns) {
      int64_t c = 0;
      for (; c + kTogether <= columns; c += kTogether)
        add(std::integral_constant<int, kTogether>{}, in + c * step, dy + c);
      if (columns - c >= 2) {
        add(std::integral_constant<int, 2>{}, in + c * step, dy + c);
        c += 2;
      }
      if (c < columns) add(std::integral_constant<int, 1>{}, in + c * step, dy + c);
    }
    for (int j = 0; j < Width; ++j) sums[j] += sum[0][j] + sum[1][j];
  }

  static auto add_function(int64_t width, int64_t step) {
    if (step == 1 && width == 3) return add_rows_of<3, 1>;
    if (step == 1 && width == 5) return add_rows_of<5, 1>;
    if (step == 2 && width == 3) return add_rows_of<3, 2>;
    if (step == 2 && width == 5) return add_rows_of<5, 2>;
    return add_rows_of<1, 0>;
  }

  const TapConvolution<T> conv_;
  const int64_t row_step_, column_step_;
  const int64_t rows_, pitch_;        // of the padded plane
  const int64_t top_, left_;          // its zeros
  const int64_t in_row_, in_column_;  // the first value of the input that is read
  const int64_t in_rows_, in_columns_;
  const int64_t in_plane_, out_row_, out_plane_;
  const int64_t blocks_;
};

}  // namespace convpool::CONVPOOL_ISA
