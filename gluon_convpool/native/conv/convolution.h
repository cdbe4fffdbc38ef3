// The algorithms that can compute a convolution, and the choice among them.
#pragma once

#include "depthwise.h"
#include "implicit_gemm_passes.h"
#include "winograd_passes.h"

namespace convpool::CONVPOOL_ISA {

// The passes return false where memory is out.
template <typename T>
struct ConvolutionAlgorithm {
  convpool_algorithm id;
  // Are arrays with channels last read and written as they are?
  bool (*any_layout)(const convpool_convolution& conv);
  bool (*supports)(const convpool_convolution& conv, convpool_pass pass);
  // An estimate of the time of a pass, in multiply-adds at the speed of the micro-kernel.
  double (*cost)(const convpool_convolution& conv, convpool_pass pass);
  bool (*forward)(const convpool_convolution& conv, const T* x, const T* weight, const T* bias,
                  const Epilogue<T>& epilogue, T* y);
  bool (*backward_data)(const convpool_convolution& conv, const T* dy, const T* weight, T* dx);
  bool (*backward_weight)(const convpool_convolution& conv, const T* x, const T* dy, T* dweight);
};

// The cheapest algorithm for a pass, or the one that the caller forces. Null where none serves.
// The estimates look at the convolution alone, so that the number of threads changes no bit.
template <typename T>
inline const ConvolutionAlgorithm<T>* choose_algorithm(const convpool_convolution& conv,
                                                       convpool_pass pass) {
  const auto never = [](const convpool_convolution&) { return false; };
  const auto always = [](const convpool_convolution&) { return true; };
  static constexpr ConvolutionAlgorithm<T> kAlgorithms[] = {
      {CONVPOOL_IMPLICIT_GEMM, never, implicit_gemm::supports, implicit_gemm::cost<T>,
       implicit_gemm::forward<T>, implicit_gemm::backward_data<T>,
       implicit_gemm::backward_weight<T>},
      {CONVPOOL_WINOGRAD, always, winograd::supports<T>, winograd::cost<T>, winograd::forward<T>,
       winograd::backward_data<T>, winograd::backward_weight<T>},
      {CONVPOOL_DEPTHWISE, depthwise::any_layout<T>, depthwise::supports, depthwise::cost,
       depthwise::forward<T>, depthwise::backward_data<T>, depthwise::backward_weight<T>},
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
  const int64_t size = conv.window.out_size[0] * conv.window.out_size[1] * conv.window.out_size[2];
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
