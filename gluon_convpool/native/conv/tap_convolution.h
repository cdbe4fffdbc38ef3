// A convolution as a list of taps.
//
//   out[m, z, r, c] = bias[m] + sum over ch, t, i, j of
//       A[m, ch, t, i, j] * in[ch, z * d.stride + d.offset[t], r * h.stride + h.offset[i],
//                                                              c * w.stride + w.offset[j]]
//
// with zero where `in` ends. The forward pass of a layer is one of these (offsets step by the
// dilation and start at minus the padding). The gradient of its input is one for each phase of the
// stride: `in` is the gradient of the output, the offsets are those of the taps that reach the
// phase, and `out` is every stride-th element. Stride, padding, dilation and transposition are
// offsets; nothing after this file knows them.
//
// Depth is no axis of its own for the code that computes. The slices of the output are images, and
// what it calls a channel is a plane: one channel at one tap of the depth, channel by channel. A
// plane may lie outside of the input, and is zero then. Without depth, a plane is a channel.
#pragma once

#include <stdlib.h>

#include "../convpool.h"
#include "../gemm/epilogue.h"
#include "../packed_weight.h"
#include "../simd.h"

namespace convpool::CONVPOOL_ISA {

// Of three axes of a window.
inline int64_t product_of_axes(const int64_t* axes) { return axes[0] * axes[1] * axes[2]; }

// One spatial axis. Offsets ascend.
struct TapAxis {
  int64_t in_size, out_size, stride;
  int64_t taps;
  int64_t* offset;  // of the input index, relative to output index * stride
  int64_t* index;   // of the tap in the kernel's axis

  bool is_identity() const {
    return taps == 1 && stride == 1 && offset[0] == 0 && in_size == out_size;
  }
  int64_t first() const { return offset[0]; }
  int64_t extent() const { return offset[taps - 1] - offset[0]; }
  // Where output `o` reads at tap `t`, counted from the first value that any tap of output 0 reads.
  int64_t shift(int64_t t) const { return offset[t] - offset[0]; }
  // Does any tap read positions whose distance from the first one leaves this rest modulo stride?
  bool reads_phase(int64_t rest) const {
    for (int64_t t = 0; t < taps; ++t)
      if (shift(t) % stride == rest) return true;
    return false;
  }
};

// An input whose channels are not one array as it stands: those of several arrays, one behind the
// other, and each value v is max(v * scale + shift, lowest) before it is read.
template <typename T>
struct JoinedInput {
  int64_t pieces;
  const T* const* data;     // each (batch, its channels, ...)
  const int64_t* channels;  // of each piece
  const T *scale, *shift;   // one value per channel of all; null: v as it is
  T lowest;
};

template <typename T>
struct TapConvolution {
  int64_t batch, groups;
  int64_t channels;  // reduced, per group
  int64_t outputs;   // written, per group
  TapAxis h, w, d;

  // With channels first, columns are neighbours and rows follow one another; with channels last,
  // channels are neighbours. Only Winograd's convolution reads both.
  const T* in;
  int64_t in_image_stride, in_channel_stride, in_slice_stride, in_row_stride, in_column_stride;
  // Where it is not null, the convolution is pointwise and without groups, and `in` is null.
  const JoinedInput<T>* joined;

  T* out;
  int64_t out_image_stride, out_channel_stride, out_row_stride, out_column_stride;
  int64_t out_slice_stride;

  // A[m, ch, t, i, j] at m * .. + ch * .. + d.index[t] * .. + h.index[i] * .. + w.index[j] * ..
  const T* weight;
  int64_t weight_group_stride, weight_output_stride, weight_channel_stride, weight_row_stride;
  int64_t weight_slice_stride, weight_column_stride;
  const PackedWeight* packed;  // what else there is of the weight; may be null
  const T* bias;               // per output, may be null
  Epilogue<T> epilogue;

  int64_t images() const { return batch * d.out_size; }
  int64_t planes() const { return channels * d.taps; }  // reduced, per group
  int64_t taps() const { return h.taps * w.taps; }      // of a plane
  int64_t reduction() const { return planes() * taps(); }
  int64_t positions() const { return h.out_size * w.out_size; }
  double multiply_adds() const {
    return static_cast<double>(images() * groups * outputs) * static_cast<double>(reduction()) *
           static_cast<double>(positions());
  }
  // The same with inputs and outputs exchanged, and with them the two axes of the weights.
  TapConvolution exchanged() const {
    TapConvolution other = *this;
    other.channels = outputs;
    other.outputs = channels;
    other.in = out;
    other.in_image_stride = out_image_stride;
    other.in_channel_stride = out_channel_stride;
    other.in_slice_stride = out_slice_stride;
    other.in_row_stride = out_row_stride;
    other.in_column_stride = out_column_stride;
    other.out = const_cast<T*>(in);
    other.out_image_stride = in_image_stride;
    other.out_channel_stride = in_channel_stride;
    other.out_slice_stride = in_slice_stride;
    other.out_row_stride = in_row_stride;
    other.out_column_stride = in_column_stride;
    other.weight_output_stride = weight_channel_stride;
    other.weight_channel_stride = weight_output_stride;
    return other;
  }
  // Where an image of the output starts.
  T* out_image(int64_t image) const {
    return out + image / d.out_size * out_image_stride + image % d.out_size * out_slice_stride;
  }
  // What an image of the output reads of channel 0 at a tap of the depth; null where that is zero.
  const T* in_slice(int64_t image, int64_t tap) const {
    const int64_t slice = image % d.out_size * d.stride + d.offset[tap];
    if (slice < 0 || slice >= d.in_size) return nullptr;
    return in + image / d.out_size * in_image_stride + slice * in_slice_stride;
  }
  // The first weight of a plane, relative to that of the output.
  int64_t weight_offset(int64_t plane) const {
    if (d.taps == 1) return plane * weight_channel_stride + d.index[0] * weight_slice_stride;
    return plane / d.taps * weight_channel_stride + d.index[plane % d.taps] * weight_slice_stride;
  }
  // May whole vectors of the output go past the caches? They are aligned wherever a position is a
  // multiple of a vector.
  bool large_aligned_output() const {
    const int64_t strides = out_channel_stride | out_image_stride | out_slice_stride;
    return out_column_stride == 1 &&
           goes_past_caches(out, images() * groups * outputs * positions(), strides);
  }
  bool dense_output() const { return out_column_stride == 1 && out_row_stride == w.out_size; }
  // Does each output read the one value of each channel that stands at its own position?
  bool is_pointwise() const { return h.is_identity() && w.is_identity() && d.is_identity(); }
  // Are the weights of one output already in the order of the reduction?
  bool weight_in_order() const {
    return weight_channel_stride == taps() * d.taps && d.index[0] == 0 &&
           (d.taps == 1 || (weight_slice_stride == taps() && d.index[1] == 1)) && plane_in_order();
  }
  // Are those of one plane?
  bool plane_in_order() const {
    return weight_column_stride == 1 && weight_row_stride == w.taps && w.index[0] == 0 &&
           h.index[0] == 0 && (w.taps == 1 || w.index[1] == 1) && (h.taps == 1 || h.index[1] == 1);
  }
  // Are the weights of one output and plane those of a whole kernel, last tap first?
  bool weight_reversed() const {
    if (weight_column_stride != 1 || weight_row_stride != w.taps) return false;
    for (int64_t i = 0; i < h.taps; ++i)
      if (h.index[i] != h.taps - 1 - i) return false;
    for (int64_t j = 0; j < w.taps; ++j)
      if (w.index[j] != w.taps - 1 - j) return false;
    return true;
  }
};

// The axes of a window are those of a row's start, of a row, and of the depth, in this order: see
// kernels.cc.

// Fills `axis` for the forward pass; offset and index have room for the kernel's size.
inline void forward_taps(const convpool_window& window, int d, TapAxis* axis) {
  axis->in_size = window.in_size[d];
  axis->out_size = window.out_size[d];
  axis->stride = window.stride[d];
  axis->taps = window.kernel[d];
  for (int64_t t = 0; t < axis->taps; ++t) {
    axis->offset[t] = t * window.dilation[d] - window.pad[d];
    axis->index[t] = t;
  }
}

// Fills `axis` for the input gradient at positions phase, phase + stride, ...: the taps t with
// phase + pad - t * dilation divisible by the stride. May leave none.
inline void backward_taps(const convpool_window& window, int d, int64_t phase, TapAxis* axis) {
  const int64_t stride = window.stride[d];
  axis->in_size = window.out_size[d];
  axis->out_size = phase < window.in_size[d] ? ceil_div(window.in_size[d] - phase, stride) : 0;
  axis->stride = 1;
  axis->taps = 0;
  for (int64_t t = window.kernel[d] - 1; t >= 0; --t) {
    const int64_t distance = phase + window.pad[d] - t * window.dilation[d];
    if (distance % stride != 0) continue;
    axis->offset[axis->taps] = distance / stride;
    axis->index[axis->taps] = t;
    ++axis->taps;
  }
}

// The part of a tap convolution that the forward pass and both gradients share. `taps` has room for
// twice the kernel's sizes.
template <typename T>
inline TapConvolution<T> forward_problem(const convpool_convolution& conv, int64_t* taps) {
  const convpool_window& window = conv.window;
  TapConvolution<T> problem{};
  problem.batch = conv.batch;
  problem.groups = conv.groups;
  problem.channels = conv.in_channels / conv.groups;
  problem.outputs = conv.out_channels / conv.groups;
  problem.h.offset = taps;
  problem.h.index = problem.h.offset + window.kernel[0];
  problem.w.offset = problem.h.index + window.kernel[0];
  problem.w.index = problem.w.offset + window.kernel[1];
  problem.d.offset = problem.w.index + window.kernel[1];
  problem.d.index = problem.d.offset + window.kernel[2];
  forward_taps(window, 0, &problem.h);
  forward_taps(window, 1, &problem.w);
  forward_taps(window, 2, &problem.d);
  const bool last = conv.layout == CONVPOOL_CHANNEL_LAST;
  problem.in_column_stride = last ? conv.in_channels : 1;
  problem.in_row_stride = window.in_size[1] * problem.in_column_stride;
  problem.in_slice_stride = window.in_size[0] * problem.in_row_stride;
  problem.in_channel_stride = last ? 1 : window.in_size[2] * problem.in_slice_stride;
  problem.in_image_stride =
      window.in_size[2] * problem.in_slice_stride * (last ? 1 : conv.in_channels);
  problem.out_column_stride = last ? conv.out_channels : 1;
  problem.out_row_stride = window.out_size[1] * problem.out_column_stride;
  problem.out_slice_stride = window.out_size[0] * problem.out_row_stride;
  problem.out_channel_stride = last ? 1 : window.out_size[2] * problem.out_slice_stride;
  problem.out_image_stride =
      window.out_size[2] * problem.out_slice_stride * (last ? 1 : conv.out_channels);
  problem.weight_column_stride = last ? problem.channels : 1;
  problem.weight_row_stride = window.kernel[1] * problem.weight_column_stride;
  problem.weight_slice_stride = window.kernel[0] * problem.weight_row_stride;
  problem.weight_channel_stride = last ? 1 : window.kernel[2] * problem.weight_slice_stride;
  problem.weight_output_stride =
      problem.channels * window.kernel[0] * window.kernel[1] * window.kernel[2];
  problem.weight_group_stride = problem.outputs * problem.weight_output_stride;
  problem.packed = static_cast<const PackedWeight*>(conv.packed);
  return problem;
}

// The part that the phases of the input's gradient share: inputs and outputs exchanged. What a
// phase adds are its taps (see backward_taps) and where in dx it starts.
template <typename T>
inline TapConvolution<T> backward_problem(const convpool_convolution& conv, int64_t* taps) {
  TapConvolution<T> problem = forward_problem<T>(conv, taps).exchanged();
  problem.packed = nullptr;
  problem.out_slice_stride *= conv.window.stride[2];
  problem.out_row_stride *= conv.window.stride[0];
  problem.out_column_stride *= conv.window.stride[1];
  return problem;
}

// Calls body(problem, first) for each phase of the stride that has positions: with its taps, of
// which there may be none, and where in dx its output begins. Stops where body returns false, and
// returns that.
template <typename T, typename Body>
inline bool for_each_phase(const convpool_convolution& conv, TapConvolution<T> problem,
                           const Body& body) {
  const convpool_window& window = conv.window;
  const int64_t column_stride = problem.out_column_stride / window.stride[1];
  const int64_t row_stride = problem.out_row_stride / window.stride[0];
  const int64_t slice_stride = problem.out_slice_stride / window.stride[2];
  for (int64_t slice = 0; slice < window.stride[2]; ++slice)
    for (int64_t row = 0; row < window.stride[0]; ++row)
      for (int64_t column = 0; column < window.stride[1]; ++column) {
        backward_taps(window, 0, row, &problem.h);
        backward_taps(window, 1, column, &problem.w);
        backward_taps(window, 2, slice, &problem.d);
        if (problem.images() * problem.positions() == 0) continue;
        if (!body(problem, slice * slice_stride + row * row_stride + column * column_stride))
          return false;
      }
  return true;
}

// Room for the taps of a problem, freed when it goes out of scope.
class TapStorage {
 public:
  explicit TapStorage(const convpool_window& window)
      : taps_(static_cast<int64_t*>(malloc(
            static_cast<size_t>(2 * (window.kernel[0] + window.kernel[1] + window.kernel[2])) *
            sizeof(int64_t)))) {}
  ~TapStorage() { free(taps_); }
  TapStorage(const TapStorage&) = delete;
  TapStorage& operator=(const TapStorage&) = delete;
  int64_t* get() const { return taps_; }

 private:
  int64_t* taps_;
};

// body(problem) for the forward pass on these arrays; false where memory is out.
template <typename T, typename Body>
inline bool with_forward_problem(const convpool_convolution& conv, const T* x, const T* weight,
                                 const T* bias, const Epilogue<T>& epilogue, T* y,
                                 const Body& body) {
  const TapStorage taps(conv.window);
  if (!taps.get()) return false;
  TapConvolution<T> problem = forward_problem<T>(conv, taps.get());
  problem.in = x;
  problem.weight = weight;
  problem.bias = bias;
  problem.epilogue = epilogue;
  problem.out = y;
  return body(problem);
}

// The same for the gradient of the weight: `out` is the gradient of the output, and only read.
template <typename T, typename Body>
inline bool with_weight_gradient_problem(const convpool_convolution& conv, const T* x, const T* dy,
                                         const Body& body) {
  return with_forward_problem<T>(conv, x, nullptr, nullptr, {}, const_cast<T*>(dy), body);
}

}  // namespace convpool::CONVPOOL_ISA
