// Depthwise convolution of small planes, with as many channels side by side as a vector has lanes.
//
// Where rows are shorter than a vector, or the outputs of a phase stand apart, depthwise.h computes
// beside the output and copies. Here a block of channels is transposed into vectors of channels,
// padded with zeros, so that every output is one vector and has all of its taps, and the result is
// transposed back. Strides and phases are places in the transposed plane, and need nothing of their
// own. Transposing costs about four instructions for a vector, and one output of 3x3 nine
// multiply-adds.
#pragma once

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

  // Does this pay? Measured with 3x3 and 5x5 on planes of 7x7 to 28x28, where it takes between 0.4
  // (gradient of the input with stride 2, 14x14) and 0.8 (7x7) of the other kernel's time if so,
  // and 1.2 to 2 of it if not.
  static bool fits(const TapConvolution<T>& conv, int64_t row_step) {
    if (conv.channels != 1 || conv.outputs != 1 || conv.groups < kLanes) return false;
    if (conv.w.out_size >= kLanes && conv.out_column_stride == 1) return false;
    const DepthwiseLanes lanes(conv, row_step);
    return (lanes.padded() + lanes.out_plane_) * kVectorBytes <= kMostBytes;
  }

 private:
  static constexpr int64_t kMostBytes = 40 << 10;

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

  // Vectors in the padded plane, with room for what transposing writes behind the end of a row.
  int64_t padded() const { return rows_ * pitch_ + kLanes; }

  // The first channel of a block: the last block starts earlier where it would reach over the end,
  // and only its lanes from first_lane on are written.
  int64_t first_channel(int64_t block) const {
    return min_of(block * kLanes, conv_.groups - kLanes);
  }
  int64_t first_lane(int64_t block) const { return block * kLanes - first_channel(block); }

  // Runs body(block, image, start of a task) over all of them; the images of a block in a row.
  template <typename Body>
  bool for_each(size_t vectors, const Body& body) const {
    const int64_t items = blocks_ * conv_.batch;
    const int64_t tasks = min_of(items, 8 * num_threads());
    bool failed = false;
    parallel_for(tasks, conv_.multiply_adds(), [&](int64_t task) {
      Arena arena(Scratch::kTask);
      const size_t at = arena.template reserve<V>(static_cast<int64_t>(vectors));
      if (!arena.allocate()) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      V* memory = arena.template at<V>(at);
      for (int64_t i = 0; i < padded(); ++i) memory[i] = V{};
      for (int64_t item = items * task / tasks; item < items * (task + 1) / tasks; ++item)
        body(item / conv_.batch, item % conv_.batch, memory,
             item == items * task / tasks || item % conv_.batch == 0);
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  // Channels apart to channels side by side: positions [first, first + count) of kLanes planes, of
  // which the plane from `from` on has `size` values. Writes whole squares.
  static void gather(const T* from, int64_t plane, int64_t first, int64_t count, int64_t size,
                     V* to) {
    for (int64_t k = 0; k < count; k += kLanes) {
      if (first + k + kLanes <= size) {
        transpose_square(from + first + k, plane, reinterpret_cast<T*>(to + k), kLanes);
        continue;
      }
      for (int64_t i = k; i < count; ++i) {
        V v{};
        for (int lane = 0; lane < kLanes; ++lane) v[lane] = from[lane * plane + first + i];
        to[i] = v;
      }
    }
  }

  void fill(int64_t image, int64_t channel, V* padded_plane) const {
    const T* from = conv_.in + image * conv_.in_image_stride + channel * conv_.in_channel_stride;
    V* row = padded_plane + top_ * pitch_ + left_;
    for (int64_t r = 0; r < in_rows_; ++r, row += pitch_)
      gather(from, conv_.in_channel_stride, (in_row_ + r) * conv_.w.in_size + in_column_,
             in_columns_, in_plane_, row);
    // What stands behind the end of a row goes; above the first row nothing was written.
    V* end = padded_plane + top_ * pitch_ + left_ + in_columns_;
    const int64_t gap = min_of(pitch_ - in_columns_, kLanes);
    for (int64_t r = 0; r < in_rows_; ++r, end += pitch_)
      for (int64_t k = 0; k < gap; ++k) end[k] = V{};
    if (in_rows_ > 0)
      for (int64_t k = gap; k < kLanes; ++k) (end - pitch_)[k] = V{};
  }

  // The outputs of one phase, in the transposed plane of outputs.
  struct Phase {
    int64_t first, rows, columns, taps;
    const int64_t* shift;   // of each tap, in the padded plane
    const int64_t* weight;  // of each tap, from the channel's first weight
  };

  template <int Count>
  static CONVPOOL_INLINE void outputs(const V* in, int64_t step, const int64_t* shift,
                                      const V* weight, int64_t taps, V bias, V* out,
                                      int64_t out_step) {
    V sum[Count];
    for (int k = 0; k < Count; ++k) sum[k] = bias;
    for (int64_t t = 0; t < taps; ++t) {
      const V* at = in + shift[t];
      const V w = weight[t];
#pragma GCC unroll 4
      for (int k = 0; k < Count; ++k) sum[k] += at[k * step] * w;
    }
    for (int k = 0; k < Count; ++k) out[k * out_step] = sum[k];
  }

  void compute_phase(const Phase& phase, const V* in, const V* weight, V bias, V* out) const {
    const int64_t step = conv_.w.stride;
    for (int64_t r = 0; r < phase.rows; ++r) {
      const V* from = in + r * conv_.h.stride * pitch_;
      V* to = out + phase.first + r * row_step_ * out_row_;
      int64_t c = 0;
      for (; c + kTogether <= phase.columns; c += kTogether)
        outputs<kTogether>(from + c * step, step, phase.shift, weight, phase.taps, bias,
                           to + c * column_step_, column_step_);
      for (; c < phase.columns; ++c)
        outputs<1>(from + c * step, step, phase.shift, weight, phase.taps, bias,
                   to + c * column_step_, column_step_);
    }
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
                   shift,
                   weight};
      for (int64_t i = 0; i < h.taps; ++i)
        for (int64_t j = 0; j < w.taps; ++j) {
          *shift++ = (h.offset[i] - conv_.h.first()) * pitch_ + w.offset[j] - conv_.w.first();
          *weight++ = h.index[i] * conv_.weight_row_stride + w.index[j];
        }
    }
    const size_t vectors = static_cast<size_t>(padded() + out_plane_ + taps);
    return for_each(vectors, [&](int64_t block, int64_t image, V* memory, bool other_block) {
      V* out = memory + padded();
      V* weights = out + out_plane_;
      const int64_t channel = first_channel(block);
      if (other_block) gather_weights(phases, count, channel, weights);
      fill(image, channel, memory);
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
    int64_t k = 0;
    while (k < out_plane_ && out_plane_ >= kLanes) {
      if (k + kLanes > out_plane_) k = out_plane_ - kLanes;
      V square[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) square[i] = out[k + i];
      Transposer<T>::run(square);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (i < first_lane) continue;
        V v = square[i];
        if (conv_.epilogue.active) {
          if (sum) v += load<T>(sum + i * out_plane_ + k);
          v = conv_.epilogue.apply(v);
        }
        store<T>(to + i * out_plane_ + k, v);
      }
      k += kLanes;
    }
    for (; k < out_plane_; ++k)
      for (int64_t i = first_lane; i < kLanes; ++i) {
        const int64_t at = i * out_plane_ + k;
        const T v = out[k][i];
        to[at] = conv_.epilogue.active ? conv_.epilogue.apply(sum ? v + sum[at] : v) : v;
      }
  }

  // Images follow each other in one task, so that a sum's order does not depend on the threads.
  bool weight_gradient_all(T* dweight) const {
    const int64_t taps = conv_.taps(), columns = conv_.w.out_size;
    bool failed = false;
    parallel_for(blocks_, conv_.multiply_adds(), [&](int64_t block) {
      Arena arena(Scratch::kTask);
      const size_t in_at = arena.template reserve<V>(padded());
      const size_t dy_at = arena.template reserve<V>(out_plane_ + kLanes);
      const size_t sums_at = arena.template reserve<V>(taps);
      if (!arena.allocate()) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      V* in = arena.template at<V>(in_at);
      V* dy = arena.template at<V>(dy_at);
      V* sums = arena.template at<V>(sums_at);
      for (int64_t i = 0; i < padded(); ++i) in[i] = V{};
      for (int64_t t = 0; t < taps; ++t) sums[t] = V{};
      const int64_t channel = first_channel(block);
      for (int64_t image = 0; image < conv_.batch; ++image) {
        fill(image, channel, in);
        gather(conv_.out + image * conv_.out_image_stride + channel * out_plane_, out_plane_, 0,
               out_plane_, out_plane_, dy);
        for (int64_t i = 0; i < conv_.h.taps; ++i)
          for (int64_t j = 0; j < conv_.w.taps; ++j) {
            const V* from = in + conv_.h.shift(i) * pitch_ + conv_.w.shift(j);
            V sum[kTogether] = {};
            for (int64_t r = 0; r < conv_.h.out_size; ++r)
              add_products(from + r * conv_.h.stride * pitch_, dy + r * columns, columns, sum);
            sums[i * conv_.w.taps + j] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
          }
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

  void add_products(const V* in, const V* dy, int64_t columns, V* sum) const {
    const int64_t step = conv_.w.stride;
    int64_t c = 0;
    for (; c + kTogether <= columns; c += kTogether)
#pragma GCC unroll 4
      for (int k = 0; k < kTogether; ++k) sum[k] += in[(c + k) * step] * dy[c + k];
    for (; c < columns; ++c) sum[0] += in[c * step] * dy[c];
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
