// Depthwise convolution of arrays whose channels come last, as many outputs as channels.
//
// A vector of neighbouring channels is what the vectors of depthwise_lanes.h are made of, so
// nothing is copied, padded or transposed but the weights. Neighbouring outputs of a row share the
// load of a weight. A tap that reads outside of the image is left out.
//
//   weights: [tap][channel]
//
// A value is summed in the order of its taps, whatever the tasks are.
#pragma once

#include <type_traits>

#include "../arena.h"
#include "../parallel.h"
#include "../transpose.h"
#include "tap_convolution.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class DepthwiseChannelsLast {
  static constexpr int kLanes = Simd<T>::kLanes;
  using V = Vec<T>;
  // Outputs that share the load of a weight: as many sums as hide how long one takes, where the row
  // has them.
  static constexpr int kMany = 8, kFew = 4;
  static constexpr int64_t kMostTaps = 128;

 public:
  static bool fits(const convpool_convolution& conv) {
    return conv.layout == CONVPOOL_CHANNEL_LAST && conv.in_channels == conv.out_channels &&
           conv.in_channels >= kLanes && conv.window.kernel[0] * conv.window.kernel[1] <= kMostTaps;
  }

  static bool forward(const TapConvolution<T>& conv) {
    return with_weights(conv, conv.taps(), [&](const T* weights) { compute(conv, weights); });
  }

  // `conv` is the gradient's problem with the taps of all phases; see backward_taps.
  static bool backward_data(const convpool_window& window, TapConvolution<T> conv) {
    const int64_t kernel_taps = window.kernel[0] * window.kernel[1];
    return with_weights(conv, kernel_taps, [&](const T* weights) {
      T* dx = conv.out;
      const int64_t row = conv.out_row_stride / window.stride[0];
      const int64_t column = conv.out_column_stride / window.stride[1];
      for (int64_t i = 0; i < window.stride[0]; ++i)
        for (int64_t j = 0; j < window.stride[1]; ++j) {
          backward_taps(window, 0, i, &conv.h);
          backward_taps(window, 1, j, &conv.w);
          conv.out = dx + i * row + j * column;
          compute(conv, weights);
        }
    });
  }

  // `conv` is the forward pass, with `out` the gradient of the output (read only); dweight is
  // (channels, taps), dense. Images and rows are added up in order.
  static bool weight_gradient(const TapConvolution<T>& conv, T* dweight) {
    const int64_t blocks = ceil_div(conv.groups, kLanes), taps = conv.taps();
    const int64_t lines = ceil_div(conv.groups * int64_t{sizeof(T)}, 64);  // of cache, in a pixel
    const int64_t tasks = min_of(lines, num_threads());
    bool failed = false;
    parallel_for(tasks, conv.multiply_adds(), [&](int64_t task) {
      const int64_t first = blocks * task / tasks, count = blocks * (task + 1) / tasks - first;
      Arena arena(Scratch::kTask);
      const size_t sums_at = arena.template reserve<V>(taps * count);
      if (!arena.allocate()) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      V* sums = arena.template at<V>(sums_at);
      for (int64_t i = 0; i < taps * count; ++i) sums[i] = V{};
      with_window(conv.w, [&](auto window) {
        for (int64_t image = 0; image < conv.batch; ++image)
          for (int64_t row = 0; row < conv.h.out_size; ++row)
            add_row<decltype(window)>(conv, image, row, first, count, sums);
      });
      for (int64_t block = 0; block < count; ++block) {
        const int64_t channel = first_channel(conv, first + block);
        for (int64_t lane = (first + block) * kLanes - channel; lane < kLanes; ++lane)
          for (int64_t t = 0; t < taps; ++t)
            dweight[(channel + lane) * taps + t] = sums[t * count + block][lane];
      }
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

 private:
  // The last block starts earlier where it would reach over the end; only its lanes that no other
  // block has are written.
  static int64_t first_channel(const TapConvolution<T>& conv, int64_t block) {
    return min_of(block * kLanes, conv.groups - kLanes);
  }

  // body(weights) with the weights of all taps of the kernel, channels side by side.
  template <typename Body>
  static bool with_weights(const TapConvolution<T>& conv, int64_t taps, const Body& body) {
    Arena arena(Scratch::kShared);
    const size_t at = arena.template reserve<T>(taps * conv.groups);
    if (!arena.allocate()) return false;
    T* weights = arena.template at<T>(at);
    transpose_matrices(conv.weight, 1, conv.groups, taps, weights);
    body(weights);
    return true;
  }

  // The taps that some outputs of a row find inside of the input, row by row of the kernel.
  struct Taps {
    int64_t rows, columns;
    int64_t shift[kMostTaps];   // to what a tap reads, from the input at the output's own place
    int64_t weight[kMostTaps];  // the tap's number in the kernel, times `pitch`

    Taps(const TapConvolution<T>& conv, int64_t top, int64_t bottom, int64_t left, int64_t right,
         int64_t pitch)
        : rows(bottom - top), columns(right - left) {
      int64_t tap = 0;
      for (int64_t i = top; i < bottom; ++i)
        for (int64_t j = left; j < right; ++j, ++tap) {
          shift[tap] =
              conv.h.offset[i] * conv.in_row_stride + conv.w.offset[j] * conv.in_column_stride;
          weight[tap] = (conv.h.index[i] * conv.weight_row_stride + conv.w.index[j]) * pitch;
        }
    }
    int64_t count() const { return rows * columns; }
  };

  // The taps [begin, end) of `axis` that output `at` finds inside of the input.
  static void inside(const TapAxis& axis, int64_t at, int64_t* begin, int64_t* end) {
    const int64_t from = at * axis.stride;
    *begin = 0;
    while (*begin < axis.taps && from + axis.offset[*begin] < 0) ++*begin;
    *end = axis.taps;
    while (*end > *begin && from + axis.offset[*end - 1] >= axis.in_size) --*end;
  }

  static void prefetch(const T* from, int64_t values) {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < values; i += kLine) __builtin_prefetch(from + i);
  }

  template <int N>
  using Count = std::integral_constant<int, N>;

  // Calls body(taps, input, first output, Count) along a row. With `overlap`, outputs may begin
  // before the last ones ended.
  template <typename Body>
  static void for_each_run(const TapConvolution<T>& conv, int64_t image, int64_t row, int64_t pitch,
                           bool overlap, const Body& body) {
    const TapAxis& axis = conv.w;
    const int64_t columns = axis.out_size, step = axis.stride * conv.in_column_stride;
    int64_t begin = 0, end = columns;  // the outputs that find all taps
    if (axis.taps > 0) {
      const int64_t room = max_of(0, axis.in_size - axis.first() - axis.extent());
      begin = min_of(columns, ceil_div(max_of(0, -axis.first()), axis.stride));
      end = max_of(begin, min_of(columns, ceil_div(room, axis.stride)));
    }
    int64_t top, bottom;
    inside(conv.h, row, &top, &bottom);
    const T* in = conv.in + image * conv.in_image_stride + row * conv.h.stride * conv.in_row_stride;
    for (int64_t column = 0; column < columns; ++column) {
      if (column == begin) column = end;
      if (column == columns) break;
      int64_t left, right;
      inside(axis, column, &left, &right);
      body(Taps(conv, top, bottom, left, right, pitch), in + column * step, column, Count<1>{});
    }
    const Taps taps(conv, top, bottom, 0, axis.taps, pitch);
    const auto run = [&](int64_t column, auto count) {
      // What the next ones read of the kernel's last row, which no row above has read yet: too many
      // places at once for the processor to see them coming.
      if (taps.count() > 0)
        prefetch(in + (column + count) * step + taps.shift[taps.count() - 1], count * step);
      body(taps, in + column * step, column, count);
    };
    int64_t column = begin;
    // Pixels so far apart fall into the same sets of the first cache, which has room for few of
    // them.
    const bool apart = conv.in_column_stride * int64_t{sizeof(T)} % 2048 != 0;
    for (; apart && column + kMany <= end; column += kMany) run(column, Count<kMany>{});
    for (; column + kFew <= end; column += kFew) run(column, Count<kFew>{});
    if (overlap && column < end && end - begin >= kFew) return run(end - kFew, Count<kFew>{});
    for (; column < end; ++column) run(column, Count<1>{});
  }

  // A row of taps side by side, and how far neighbouring outputs move it.
  template <int Columns, int Stride>
  struct Window {
    static constexpr int kColumns = Columns, kStride = Stride;
    static constexpr int reads(int outputs) { return (outputs - 1) * Stride + Columns; }
  };

  // body(Window) with the one that fits, or without columns where none is made for it.
  template <typename Body>
  static void with_window(const TapAxis& axis, const Body& body) {
    const bool side_by_side = axis.taps > 1 && axis.extent() == axis.taps - 1 && axis.stride <= 2;
    switch (side_by_side ? axis.taps * 4 + axis.stride : 0) {
      case 3 * 4 + 1:
        return body(Window<3, 1>{});
      case 3 * 4 + 2:
        return body(Window<3, 2>{});
      case 5 * 4 + 1:
        return body(Window<5, 1>{});
      case 5 * 4 + 2:
        return body(Window<5, 2>{});
      case 7 * 4 + 1:
        return body(Window<7, 1>{});
      default:
        return body(Window<0, 1>{});
    }
  }

  static void compute(const TapConvolution<T>& conv, const T* weights) {
    with_window(conv.w, [&](auto window) {
      using W = decltype(window);
      parallel_for(conv.batch * conv.h.out_size, conv.multiply_adds(), [&](int64_t task) {
        const int64_t image = task / conv.h.out_size, row = task % conv.h.out_size;
        T* out = conv.out + image * conv.out_image_stride + row * conv.out_row_stride;
        for_each_run(conv, image, row, conv.groups, true,
                     [&](const Taps& taps, const T* in, int64_t column, auto count) {
                       compute_run<W, count.value>(conv, taps, in, weights,
                                                   out + column * conv.out_column_stride);
                     });
      });
    });
  }

  template <typename W, int N>
  static void compute_run(const TapConvolution<T>& conv, const Taps& taps, const T* in,
                          const T* weights, T* out) {
    const int64_t channels = conv.groups, whole = channels / kLanes * kLanes;
    const int64_t out_step = conv.out_column_stride;
    V sums[N];
    for (int64_t c = 0; c < whole; c += kLanes) {
      sum_taps<W, N>(conv, taps, in + c, weights + c, conv.bias ? load<T>(conv.bias + c) : V{},
                     sums);
#pragma GCC unroll 8
      for (int k = 0; k < N; ++k) {
        T* to = out + k * out_step + c;
        store<T>(to, finished(conv, sums[k], to));
      }
    }
    if (whole == channels) return;
    const int64_t c = channels - kLanes;
    sum_taps<W, N>(conv, taps, in + c, weights + c, conv.bias ? load<T>(conv.bias + c) : V{}, sums);
    for (int k = 0; k < N; ++k) {
      T* to = out + k * out_step + c;
      const V value = finished(conv, sums[k], to);
      for (int64_t lane = whole - c; lane < kLanes; ++lane) to[lane] = value[lane];
    }
  }

  template <typename W, int N>
  static CONVPOOL_INLINE void sum_taps(const TapConvolution<T>& conv, const Taps& taps, const T* in,
                                       const T* weights, V bias, V* to) {
    const int64_t in_step = conv.in_column_stride;
    V sums[N];
#pragma GCC unroll 8
    for (int k = 0; k < N; ++k) sums[k] = bias;
    if constexpr (W::kColumns > 0 && N > 1) {
      constexpr int kReads = W::reads(N);
      for (int64_t row = 0; row < taps.rows; ++row) {
        const T* from = in + taps.shift[row * W::kColumns];
        V weight[W::kColumns];
#pragma GCC unroll 8
        for (int j = 0; j < W::kColumns; ++j)
          weight[j] = load<T>(weights + taps.weight[row * W::kColumns + j]);
#pragma GCC unroll 24
        for (int read = 0; read < kReads; ++read) {
          const V value = load<T>(from);
          from += in_step;
#pragma GCC unroll 8
          for (int k = 0; k < N; ++k) {
            const int j = read - k * W::kStride;
            if (j >= 0 && j < W::kColumns) sums[k] += value * weight[j];
          }
        }
      }
    } else {
      const int64_t step = conv.w.stride * in_step;
      for (int64_t t = 0; t < taps.count(); ++t) {
        const V weight = load<T>(weights + taps.weight[t]);
        const T* from = in + taps.shift[t];
#pragma GCC unroll 8
        for (int k = 0; k < N; ++k) sums[k] += load<T>(from + k * step) * weight;
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < N; ++k) to[k] = sums[k];
  }

  static CONVPOOL_INLINE V finished(const TapConvolution<T>& conv, V value, const T* place) {
    if (!conv.epilogue.active) return value;
    const T* sum = conv.epilogue.sum_at(place, conv.out);
    if (sum) value += load<T>(sum);
    return conv.epilogue.apply(value);
  }

  // Adds the products of a row to the sums of `count` blocks of channels from `first` on.
  template <typename W>
  static void add_row(const TapConvolution<T>& conv, int64_t image, int64_t row, int64_t first,
                      int64_t count, V* sums) {
    const T* dy = conv.out + image * conv.out_image_stride + row * conv.out_row_stride;
    for_each_run(conv, image, row, count, false,
                 [&](const Taps& taps, const T* in, int64_t column, auto outputs) {
                   const T* from = dy + column * conv.out_column_stride;
                   for (int64_t block = 0; block < count; ++block) {
                     const int64_t c = first_channel(conv, first + block);
                     add_products<W, outputs.value>(conv, taps, in + c, from + c, sums + block);
                   }
                 });
  }

  // To the sums of a block of channels, those of neighbouring taps `pitch` apart.
  template <typename W, int N>
  static CONVPOOL_INLINE void add_products(const TapConvolution<T>& conv, const Taps& taps,
                                           const T* in, const T* dy, V* sums) {
    const int64_t in_step = conv.in_column_stride;
    V gradient[N];
#pragma GCC unroll 8
    for (int k = 0; k < N; ++k) gradient[k] = load<T>(dy + k * conv.out_column_stride);
    if constexpr (W::kColumns > 0 && N > 1) {
      constexpr int kReads = W::reads(N);
      for (int64_t row = 0; row < taps.rows; ++row) {
        const T* from = in + taps.shift[row * W::kColumns];
        const int64_t* number = taps.weight + row * W::kColumns;
        V sum[W::kColumns];
#pragma GCC unroll 8
        for (int j = 0; j < W::kColumns; ++j) sum[j] = sums[number[j]];
#pragma GCC unroll 24
        for (int read = 0; read < kReads; ++read) {
          const V value = load<T>(from);
          from += in_step;
#pragma GCC unroll 8
          for (int k = 0; k < N; ++k) {
            const int j = read - k * W::kStride;
            if (j >= 0 && j < W::kColumns) sum[j] += value * gradient[k];
          }
        }
#pragma GCC unroll 8
        for (int j = 0; j < W::kColumns; ++j) sums[number[j]] = sum[j];
      }
    } else {
      const int64_t step = conv.w.stride * in_step;
      for (int64_t t = 0; t < taps.count(); ++t) {
        const T* from = in + taps.shift[t];
        V sum = sums[taps.weight[t]];
#pragma GCC unroll 8
        for (int k = 0; k < N; ++k) sum += load<T>(from + k * step) * gradient[k];
        sums[taps.weight[t]] = sum;
      }
    }
  }
};

}  // namespace convpool::CONVPOOL_ISA
