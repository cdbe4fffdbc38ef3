// The algorithms that can compute a convolution, and the choice among them.
#pragma once

#include <stdlib.h>

#include "../winograd_switch.h"
#include "implicit_gemm.h"
#include "weight_gradient.h"
#include "winograd.h"
#include "winograd_weight_gradient.h"

namespace convpool::CONVPOOL_ISA {

// The passes return false where memory is out.
template <typename T>
struct ConvolutionAlgorithm {
  convpool_algorithm id;
  bool (*supports)(const convpool_convolution& conv, convpool_pass pass);
  // An estimate of the time of a pass, in multiply-adds at the speed of the micro-kernel.
  double (*cost)(const convpool_convolution& conv, convpool_pass pass);
  bool (*forward)(const convpool_convolution& conv, const T* x, const T* weight, const T* bias,
                  T* y);
  bool (*backward_data)(const convpool_convolution& conv, const T* dy, const T* weight, T* dx);
  bool (*backward_weight)(const convpool_convolution& conv, const T* x, const T* dy, T* dweight);
};

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
  forward_taps(window, 0, &problem.h);
  forward_taps(window, 1, &problem.w);
  problem.in_channel_stride = window.in_size[0] * window.in_size[1];
  problem.in_image_stride = conv.in_channels * problem.in_channel_stride;
  problem.out_row_stride = window.out_size[1];
  problem.out_column_stride = 1;
  problem.out_channel_stride = window.out_size[0] * window.out_size[1];
  problem.out_image_stride = conv.out_channels * problem.out_channel_stride;
  problem.weight_row_stride = window.kernel[1];
  problem.weight_channel_stride = window.kernel[0] * window.kernel[1];
  problem.weight_output_stride = problem.channels * problem.weight_channel_stride;
  problem.weight_group_stride = problem.outputs * problem.weight_output_stride;
  return problem;
}

// What both passes of the data gradient share: dy is read, dx written, and the roles of inputs and
// outputs are exchanged. The taps are those of the forward pass still.
template <typename T>
inline TapConvolution<T> data_gradient_problem(const convpool_convolution& conv, int64_t* taps) {
  const TapConvolution<T> forward = forward_problem<T>(conv, taps);
  TapConvolution<T> problem = forward;
  problem.channels = forward.outputs;
  problem.outputs = forward.channels;
  problem.weight_output_stride = forward.weight_channel_stride;
  problem.weight_channel_stride = forward.weight_output_stride;
  problem.in_channel_stride = forward.out_channel_stride;
  problem.in_image_stride = forward.out_image_stride;
  problem.out_channel_stride = forward.in_channel_stride;
  problem.out_image_stride = forward.in_image_stride;
  problem.out_row_stride = conv.window.stride[0] * conv.window.in_size[1];
  problem.out_column_stride = conv.window.stride[1];
  return problem;
}

// Room for the taps of a problem, freed when it goes out of scope.
class TapStorage {
 public:
  explicit TapStorage(const convpool_window& window)
      : taps_(static_cast<int64_t*>(malloc(
            static_cast<size_t>(2 * (window.kernel[0] + window.kernel[1])) * sizeof(int64_t)))) {}
  ~TapStorage() { free(taps_); }
  TapStorage(const TapStorage&) = delete;
  TapStorage& operator=(const TapStorage&) = delete;
  int64_t* get() const { return taps_; }

 private:
  int64_t* taps_;
};

namespace implicit_gemm {

inline bool supports(const convpool_convolution&, convpool_pass) { return true; }

// What is not a product of panels: cutting panels and filling strips take a share of the time, and
// the gradients read or write the weights out of order.
inline double cost(const convpool_convolution& conv, convpool_pass pass) {
  const convpool_window& window = conv.window;
  const double weights = static_cast<double>(conv.out_channels * conv.in_channels / conv.groups) *
                         static_cast<double>(window.kernel[0] * window.kernel[1]);
  const double positions =
      static_cast<double>(conv.batch * window.out_size[0] * window.out_size[1]);
  const double out_of_order = pass == CONVPOOL_FORWARD ? 0 : 100;
  return weights * (1.15 * positions + out_of_order);
}

template <typename T>
inline bool forward(const convpool_convolution& conv, const T* x, const T* weight, const T* bias,
                    T* y) {
  const TapStorage taps(conv.window);
  if (!taps.get()) return false;
  TapConvolution<T> problem = forward_problem<T>(conv, taps.get());
  problem.in = x;
  problem.weight = weight;
  problem.bias = bias;
  problem.out = y;
  return ImplicitGemm<T>::run(problem);
}

// No window reads these elements.
template <typename T>
inline void clear_output(const TapConvolution<T>& conv) {
  const int64_t channels = conv.groups * conv.outputs;
  parallel_for(conv.batch * channels, static_cast<double>(conv.batch * channels * conv.positions()),
               [&](int64_t plane) {
                 T* to = conv.out + plane / channels * conv.out_image_stride +
                         plane % channels * conv.out_channel_stride;
                 for (int64_t row = 0; row < conv.h.out_size; ++row, to += conv.out_row_stride)
                   for (int64_t column = 0; column < conv.w.out_size; ++column)
                     to[column * conv.out_column_stride] = T(0);
               });
}

// For every phase of the stride, a convolution of dy with the taps that reach the phase, flipped,
// inputs and outputs exchanged.
template <typename T>
inline bool backward_data(const convpool_convolution& conv, const T* dy, const T* weight, T* dx) {
  const convpool_window& window = conv.window;
  const TapStorage taps(window);
  if (!taps.get()) return false;
  TapConvolution<T> problem = data_gradient_problem<T>(conv, taps.get());
  problem.in = dy;
  problem.weight = weight;
  for (int64_t row = 0; row < window.stride[0]; ++row)
    for (int64_t column = 0; column < window.stride[1]; ++column) {
      backward_taps(window, 0, row, &problem.h);
      backward_taps(window, 1, column, &problem.w);
      if (problem.positions() == 0) continue;
      problem.out = dx + row * window.in_size[1] + column;
      if (problem.taps() == 0) {
        clear_output(problem);
      } else if (!ImplicitGemm<T>::run(problem)) {
        return false;
      }
    }
  return true;
}

template <typename T>
inline bool backward_weight(const convpool_convolution& conv, const T* x, const T* dy, T* dweight) {
  const TapStorage taps(conv.window);
  if (!taps.get()) return false;
  TapConvolution<T> problem = forward_problem<T>(conv, taps.get());
  problem.in = x;
  problem.out = const_cast<T*>(dy);
  return WeightGradient<T>::run(problem, dweight);
}

}  // namespace implicit_gemm

namespace winograd {

template <typename T>
inline constexpr const WinogradTile<T>* kTiles[] = {
    &kWinogradTile<T, 2, 3, 2, 3>, &kWinogradTile<T, 4, 3, 4, 3>, &kWinogradTile<T, 2, 5, 2, 5>,
    &kWinogradTile<T, 4, 5, 4, 5>, &kWinogradTile<T, 1, 1, 6, 3>, &kWinogradTile<T, 6, 3, 1, 1>,
    &kWinogradTile<T, 1, 1, 4, 5>, &kWinogradTile<T, 4, 5, 1, 1>, &kWinogradTile<T, 1, 1, 4, 7>,
    &kWinogradTile<T, 4, 7, 1, 1>,
};

template <typename T>
struct Choice {
  const WinogradTile<T>* tile;
  double cost;
};

// The size of tile that costs least, and how much. Null where no size fits the kernel, or where all
// need more than `most_bytes` of memory.
template <typename T, template <typename> class Computation>
inline Choice<T> choose_tile(const TapConvolution<T>& problem, double most_bytes) {
  Choice<T> best{nullptr, 0};
  if (!Winograd<T>::supports(problem)) return best;
  for (const WinogradTile<T>* tile : kTiles<T>) {
    if (tile->rh != problem.h.taps || tile->rw != problem.w.taps) continue;
    const Computation<T> computation(problem, *tile);
    if (computation.memory() > most_bytes) continue;
    const double cost = computation.cost();
    if (best.tile && cost >= best.cost) continue;
    best = {tile, cost};
  }
  return best;
}

template <typename T>
inline double array_bytes(const convpool_convolution& conv) {
  const convpool_window& window = conv.window;
  const double in = static_cast<double>(conv.batch * conv.in_channels) *
                    static_cast<double>(window.in_size[0] * window.in_size[1]);
  const double out = static_cast<double>(conv.batch * conv.out_channels) *
                     static_cast<double>(window.out_size[0] * window.out_size[1]);
  const double weight = static_cast<double>(conv.out_channels * conv.in_channels / conv.groups) *
                        static_cast<double>(window.kernel[0] * window.kernel[1]);
  return (in + out + weight) * static_cast<double>(sizeof(T));
}

// The data gradient of a convolution with stride 1 is one with the taps flipped.
template <typename T>
inline TapConvolution<T> problem_of(const convpool_convolution& conv, convpool_pass pass,
                                    int64_t* taps) {
  if (pass != CONVPOOL_BACKWARD_DATA) return forward_problem<T>(conv, taps);
  TapConvolution<T> problem = data_gradient_problem<T>(conv, taps);
  backward_taps(conv.window, 0, 0, &problem.h);
  backward_taps(conv.window, 1, 0, &problem.w);
  return problem;
}

template <typename T>
inline Choice<T> choose(const convpool_convolution& conv, convpool_pass pass) {
  const convpool_window& window = conv.window;
  constexpr int64_t kLongest = 7;
  if (!winograd_enabled() || window.kernel[0] > kLongest || window.kernel[1] > kLongest ||
      window.stride[0] != 1 || window.stride[1] != 1)
    return {nullptr, 0};
  int64_t taps[4 * kLongest];
  const TapConvolution<T> problem = problem_of<T>(conv, pass, taps);
  // Training holds so many arrays that the gradient of the weight may need more.
  if (pass == CONVPOOL_BACKWARD_WEIGHT)
    return choose_tile<T, WinogradWeightGradient>(problem, 5 * array_bytes<T>(conv));
  return choose_tile<T, Winograd>(problem, 2 * array_bytes<T>(conv));
}

template <typename T>
inline bool supports(const convpool_convolution& conv, convpool_pass pass) {
  return choose<T>(conv, pass).tile != nullptr;
}

template <typename T>
inline double cost(const convpool_convolution& conv, convpool_pass pass) {
  return choose<T>(conv, pass).cost;
}

template <typename T>
inline bool run(const convpool_convolution& conv, convpool_pass pass, const T* in, const T* weight,
                const T* bias, T* out) {
  const TapStorage taps(conv.window);
  if (!taps.get()) return false;
  TapConvolution<T> problem = problem_of<T>(conv, pass, taps.get());
  problem.in = in;
  problem.weight = weight;
  problem.bias = bias;
  problem.out = out;
  return Winograd<T>(problem, *choose<T>(conv, pass).tile).run();
}

template <typename T>
inline bool forward(const convpool_convolution& conv, const T* x, const T* weight, const T* bias,
                    T* y) {
  return run<T>(conv, CONVPOOL_FORWARD, x, weight, bias, y);
}

template <typename T>
inline bool backward_data(const convpool_convolution& conv, const T* dy, const T* weight, T* dx) {
  return run<T>(conv, CONVPOOL_BACKWARD_DATA, dy, weight, nullptr, dx);
}

template <typename T>
inline bool backward_weight(const convpool_convolution& conv, const T* x, const T* dy, T* dweight) {
  const TapStorage taps(conv.window);
  if (!taps.get()) return false;
  TapConvolution<T> problem = forward_problem<T>(conv, taps.get());
  problem.in = x;
  problem.out = const_cast<T*>(dy);
  const WinogradTile<T>* tile = choose<T>(conv, CONVPOOL_BACKWARD_WEIGHT).tile;
  return WinogradWeightGradient<T>(problem, *tile).run(dweight);
}

}  // namespace winograd

// The cheapest algorithm for a pass, or the one that the caller forces. Null where none serves.
// The estimates look at the convolution alone, so that the number of threads changes no bit.
template <typename T>
inline const ConvolutionAlgorithm<T>* choose_algorithm(const convpool_convolution& conv,
                                                       convpool_pass pass) {
  static constexpr ConvolutionAlgorithm<T> kAlgorithms[] = {
      {CONVPOOL_IMPLICIT_GEMM, implicit_gemm::supports, implicit_gemm::cost,
       implicit_gemm::forward<T>, implicit_gemm::backward_data<T>,
       implicit_gemm::backward_weight<T>},
      {CONVPOOL_WINOGRAD, winograd::supports<T>, winograd::cost<T>, winograd::forward<T>,
       winograd::backward_data<T>, winograd::backward_weight<T>},
  };
  if (conv.algorithm != CONVPOOL_AUTO) {
    for (const ConvolutionAlgorithm<T>& algorithm : kAlgorithms) {
      if (algorithm.id != conv.algorithm) continue;
      if (!algorithm.supports(conv, CONVPOOL_FORWARD)) return nullptr;
      if (algorithm.supports(conv, pass)) return &algorithm;
      convpool_convolution free_choice = conv;
      free_choice.algorithm = CONVPOOL_AUTO;
      return choose_algorithm<T>(free_choice, pass);
    }
    return nullptr;
  }
  const ConvolutionAlgorithm<T>* best = nullptr;
  double best_cost = 0;
  for (const ConvolutionAlgorithm<T>& algorithm : kAlgorithms) {
    if (!algorithm.supports(conv, pass)) continue;
    const double cost = algorithm.cost(conv, pass);
    if (best && cost >= best_cost) continue;
    best = &algorithm;
    best_cost = cost;
  }
  return best;
}

// dbias[c] = sum of dy over images and positions, each row of an image summed in vectors first.
template <typename T>
inline void bias_gradient(const convpool_convolution& conv, const T* dy, T* dbias) {
  const int64_t size = conv.window.out_size[0] * conv.window.out_size[1];
  const double work = static_cast<double>(conv.batch * conv.out_channels * size) / 4;
  parallel_for(conv.out_channels, work, [&](int64_t channel) {
    constexpr int kLanes = Simd<T>::kLanes;
    T sum = 0;
    for (int64_t image = 0; image < conv.batch; ++image) {
      const T* from = dy + (image * conv.out_channels + channel) * size;
      Vec<T> partial[4] = {};
      int64_t i = 0;
      for (; i + 4 * kLanes <= size; i += 4 * kLanes)
        for (int v = 0; v < 4; ++v) partial[v] += load<T>(from + i + v * kLanes);
      const Vec<T> all = (partial[0] + partial[1]) + (partial[2] + partial[3]);
      T part = 0;
      for (int lane = 0; lane < kLanes; ++lane) part += all[lane];
      for (; i < size; ++i) part += from[i];
      sum += part;
    }
    dbias[channel] = sum;
  });
}

}  // namespace convpool::CONVPOOL_ISA
