// Convolution of arrays whose channels come last, and weights in the order (output, kernel...,
// input), by an algorithm that reads them the other way. A pointwise one is a product of matrices
// as they stand. Others are transposed to channels first in scratch memory, a few images at a time,
// computed there, and transposed back.
#pragma once

#include "../arena.h"
#include "../parallel.h"
#include "../transpose.h"
#include "convolution.h"
#include "matrix_product.h"

namespace convpool::CONVPOOL_ISA {

namespace channels_last {

// How many values one image, its output and the weights have, and of what the latter are made.
struct Sizes {
  int64_t in, out, taps, inputs;  // positions, positions, taps, input channels of a group
  int64_t x, y, weight;

  explicit Sizes(const convpool_convolution& conv)
      : in(product_of_axes(conv.window.in_size)),
        out(product_of_axes(conv.window.out_size)),
        taps(product_of_axes(conv.window.kernel)),
        inputs(conv.in_channels / conv.groups),
        x(conv.in_channels * in),
        y(conv.out_channels * out),
        weight(conv.out_channels * inputs * taps) {}

 private:
};

// Are the positions of the whole batch the rows of a matrix, and the output's those of a product?
inline bool is_product(const convpool_convolution& conv) {
  const convpool_window& window = conv.window;
  for (int d = 0; d < window.ndim; ++d)
    if (window.kernel[d] != 1 || window.stride[d] != 1 || window.pad[d] != 0 ||
        window.in_size[d] != window.out_size[d])
      return false;
  return conv.groups == 1 &&
         (conv.algorithm == CONVPOOL_AUTO || conv.algorithm == CONVPOOL_IMPLICIT_GEMM);
}

// What comes behind the products of y's rows of channels: the bias, which may be null, and the
// epilogue.
template <typename T>
inline void finish(int64_t rows, int64_t channels, const T* bias, const Epilogue<T>& epilogue,
                   T* y) {
  if (!bias && !epilogue.active) return;
  constexpr int64_t kBlock = 64;
  const double work = static_cast<double>(rows * channels);
  parallel_for(ceil_div(rows, kBlock), work, [&](int64_t task) {
    const int64_t last = min_of(rows, (task + 1) * kBlock);
    for (int64_t row = task * kBlock; row < last; ++row) {
      T* to = y + row * channels;
      if (bias)
        for (int64_t c = 0; c < channels; ++c) to[c] += bias[c];
      if (!epilogue.active) continue;
      const T* sum = epilogue.sum_at(to, y);
      for (int64_t c = 0; c < channels; ++c) to[c] = epilogue.apply(to[c] + (sum ? sum[c] : T(0)));
    }
  });
}

// So many images at once as scratch memory holds from call to call, which may grow by half more
// than was asked for.
template <typename T>
inline int64_t images_at_once(const convpool_convolution& conv, int64_t weight, int64_t image) {
  const int64_t room = static_cast<int64_t>(kScratchKept / 3 * 2 / sizeof(T)) - weight - 1024;
  return max_of(1, min_of(conv.batch, room / max_of(1, image)));
}

// Calls body(part, first image) for one part of the batch after the other, with channels first.
template <typename Body>
inline bool for_each_part(const convpool_convolution& conv, int64_t images, const Body& body) {
  for (int64_t first = 0; first < conv.batch; first += images) {
    convpool_convolution part = conv;
    part.layout = CONVPOOL_CHANNEL_FIRST;
    part.batch = min_of(images, conv.batch - first);
    if (!body(part, first)) return false;
  }
  return true;
}

// What a part of the batch is computed by. How much memory an algorithm may use depends on the
// batch: one that serves the whole may be too large for a part.
template <typename T>
inline const ConvolutionAlgorithm<T>& algorithm_of(const convpool_convolution& part,
                                                   convpool_pass pass) {
  const ConvolutionAlgorithm<T>* algorithm = choose_algorithm<T>(part, pass);
  if (algorithm) return *algorithm;
  convpool_convolution free_choice = part;
  free_choice.algorithm = CONVPOOL_AUTO;
  return *choose_algorithm<T>(free_choice, pass);
}

template <typename T>
inline bool forward(const convpool_convolution& conv, const T* x, const T* weight, const T* bias,
                    const Epilogue<T>& epilogue, T* y) {
  const Sizes sizes(conv);
  if (is_product(conv)) {
    Arena arena(Scratch::kLayout);
    const size_t weight_at = arena.template reserve<T>(sizes.weight);
    if (!arena.allocate()) return false;
    T* turned = arena.template at<T>(weight_at);
    transpose_matrices(weight, 1, conv.out_channels, conv.in_channels, turned);
    const int64_t rows = conv.batch * sizes.in;
    if (!multiply_matrices<T>(rows, conv.in_channels, conv.out_channels, {x, conv.in_channels, 1},
                              turned, conv.out_channels, y))
      return false;
    finish(rows, conv.out_channels, bias, epilogue, y);
    return true;
  }
  const int64_t sum_size = epilogue.sum ? sizes.y : 0;
  const int64_t images = images_at_once<T>(conv, sizes.weight, sizes.x + sizes.y + sum_size);
  Arena arena(Scratch::kLayout);
  const size_t weight_at = arena.template reserve<T>(sizes.weight);
  const size_t x_at = arena.template reserve<T>(images * sizes.x);
  const size_t y_at = arena.template reserve<T>(images * sizes.y);
  const size_t sum_at = arena.template reserve<T>(images * sum_size);
  if (!arena.allocate()) return false;
  T *first_weight = arena.template at<T>(weight_at), *first_x = arena.template at<T>(x_at);
  T *first_y = arena.template at<T>(y_at), *first_sum = arena.template at<T>(sum_at);
  transpose_matrices(weight, conv.out_channels, sizes.taps, sizes.inputs, first_weight);
  return for_each_part(conv, images, [&](const convpool_convolution& part, int64_t image) {
    transpose_matrices(x + image * sizes.x, part.batch, sizes.in, conv.in_channels, first_x);
    Epilogue<T> last = epilogue;
    if (epilogue.sum) {
      transpose_matrices(epilogue.sum + image * sizes.y, part.batch, sizes.out, conv.out_channels,
                         first_sum);
      last.sum = first_sum;
    }
    if (!algorithm_of<T>(part, CONVPOOL_FORWARD)
             .forward(part, first_x, first_weight, bias, last, first_y))
      return false;
    transpose_matrices(first_y, part.batch, conv.out_channels, sizes.out, y + image * sizes.y);
    return true;
  });
}

template <typename T>
inline bool backward_data(const convpool_convolution& conv, const T* dy, const T* weight, T* dx) {
  const Sizes sizes(conv);
  if (is_product(conv))
    return multiply_matrices<T>(conv.batch * sizes.in, conv.out_channels, conv.in_channels,
                                {dy, conv.out_channels, 1}, weight, conv.in_channels, dx);
  const int64_t images = images_at_once<T>(conv, sizes.weight, sizes.x + sizes.y);
  Arena arena(Scratch::kLayout);
  const size_t weight_at = arena.template reserve<T>(sizes.weight);
  const size_t dx_at = arena.template reserve<T>(images * sizes.x);
  const size_t dy_at = arena.template reserve<T>(images * sizes.y);
  if (!arena.allocate()) return false;
  T *first_weight = arena.template at<T>(weight_at), *first_dx = arena.template at<T>(dx_at);
  T* first_dy = arena.template at<T>(dy_at);
  transpose_matrices(weight, conv.out_channels, sizes.taps, sizes.inputs, first_weight);
  return for_each_part(conv, images, [&](const convpool_convolution& part, int64_t image) {
    transpose_matrices(dy + image * sizes.y, part.batch, sizes.out, conv.out_channels, first_dy);
    if (!algorithm_of<T>(part, CONVPOOL_BACKWARD_DATA)
             .backward_data(part, first_dy, first_weight, first_dx))
      return false;
    transpose_matrices(first_dx, part.batch, conv.in_channels, sizes.in, dx + image * sizes.x);
    return true;
  });
}

// The whole batch at once, because the sum over it is made in there.
template <typename T>
inline bool backward_weight(const convpool_convolution& conv, const T* x, const T* dy, T* dweight) {
  const Sizes sizes(conv);
  if (is_product(conv))
    return multiply_matrices<T>(conv.out_channels, conv.batch * sizes.in, conv.in_channels,
                                {dy, 1, conv.out_channels}, x, conv.in_channels, dweight);
  Arena arena(Scratch::kLayout);
  const size_t weight_at = arena.template reserve<T>(sizes.weight);
  const size_t x_at = arena.template reserve<T>(conv.batch * sizes.x);
  const size_t dy_at = arena.template reserve<T>(conv.batch * sizes.y);
  if (!arena.allocate()) return false;
  T *first_weight = arena.template at<T>(weight_at), *first_x = arena.template at<T>(x_at);
  T* first_dy = arena.template at<T>(dy_at);
  return for_each_part(conv, conv.batch, [&](const convpool_convolution& whole, int64_t) {
    transpose_matrices(x, conv.batch, sizes.in, conv.in_channels, first_x);
    transpose_matrices(dy, conv.batch, sizes.out, conv.out_channels, first_dy);
    if (!algorithm_of<T>(whole, CONVPOOL_BACKWARD_WEIGHT)
             .backward_weight(whole, first_x, first_dy, first_weight))
      return false;
    transpose_matrices(first_weight, conv.out_channels, sizes.inputs, sizes.taps, dweight);
    return true;
  });
}

// dbias[c] = sum of dy over images and positions: those of a row first, then rows, then images.
template <typename T>
inline void bias_gradient(const convpool_convolution& conv, const T* dy, T* dbias) {
  constexpr int64_t kBlock = 64 / static_cast<int64_t>(sizeof(T));
  const int64_t channels = conv.out_channels;
  const int64_t rows = conv.window.out_size[2] * conv.window.out_size[0];
  const int64_t columns = conv.window.out_size[1];
  const double work = static_cast<double>(conv.batch * channels * rows * columns) / 4;
  parallel_for(ceil_div(channels, kBlock), work, [&](int64_t task) {
    const int64_t first = task * kBlock, count = min_of(kBlock, channels - first);
    T total[kBlock] = {};
    for (int64_t image = 0; image < conv.batch; ++image) {
      T of_image[kBlock] = {};
      for (int64_t row = 0; row < rows; ++row) {
        T of_row[kBlock] = {};
        const T* from = dy + (image * rows + row) * columns * channels + first;
        for (int64_t column = 0; column < columns; ++column, from += channels)
          for (int64_t c = 0; c < count; ++c) of_row[c] += from[c];
        for (int64_t c = 0; c < count; ++c) of_image[c] += of_row[c];
      }
      for (int64_t c = 0; c < count; ++c) total[c] += of_image[c];
    }
    for (int64_t c = 0; c < count; ++c) dbias[first + c] = total[c];
  });
}

}  // namespace channels_last

}  // namespace convpool::CONVPOOL_ISA
