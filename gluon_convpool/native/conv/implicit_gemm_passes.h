// The passes of a convolution by implicit GEMM, and what they cost.
#pragma once

#include "../parallel.h"
#include "few_inputs.h"
#include "implicit_gemm.h"
#include "subsample.h"
#include "summed_columns.h"
#include "weight_gradient.h"

namespace convpool::CONVPOOL_ISA {

namespace implicit_gemm {

inline bool supports(const convpool_convolution&, convpool_pass) { return true; }

// An estimate in multiply-adds at the speed of the micro-kernel. Whole vectors are computed, of
// positions or, for the gradient of the weight, of outputs. Every product of panels also reads and
// writes a tile (as long as so many steps of the reduction), and every panel of B is cut, filled
// into a strip or transposed once (as long as so many rows; fewer where it is read in place). The
// gradients read or write the weights out of order, and with a stride each phase is a shorter
// product whose outputs are no neighbours. The constants are fitted to times on AVX2 and AVX-512.
inline constexpr double kPerStep = 1.1, kTile = 8, kCut = 6, kInPlace = 2, kTransposed = 16,
                        kOutOfOrder = 100, kApart = 1.4;

template <typename T>
inline double whole_vectors(int64_t count) {
  return static_cast<double>(ceil_div(count, Simd<T>::kLanes) * Simd<T>::kLanes);
}
template <typename T>
inline double cost_of_panel(const int64_t* axes) {
  return axes[1] % Blocks<T>::kNr == 0 ? kInPlace : kCut;
}

// Of the gradient of the data as convolutions, one for each phase of the stride.
template <typename T>
inline double cost_by_phases(const convpool_convolution& conv) {
  const convpool_window& window = conv.window;
  const int64_t inputs = conv.in_channels / conv.groups, outputs = conv.out_channels / conv.groups;
  const int64_t taps = product_of_axes(window.kernel), stride = product_of_axes(window.stride);
  const double steps = static_cast<double>(outputs * taps) / static_cast<double>(stride);
  return (stride > 1 ? kApart : 1) * kPerStep * static_cast<double>(conv.groups * conv.batch) *
             whole_vectors<T>(product_of_axes(window.in_size)) * (steps + kTile) *
             (static_cast<double>(inputs) + cost_of_panel<T>(window.in_size)) +
         kOutOfOrder * static_cast<double>(conv.out_channels * inputs * taps);
}

enum class DataGradient { kFewInputs, kColumns, kPhases };

template <typename T>
inline DataGradient way_of_data_gradient(const convpool_convolution& conv) {
  if (FewInputs<T>::serves(conv)) return DataGradient::kFewInputs;
  if (SummedColumns<T>::serves(conv) && SummedColumns<T>::cost(conv) < cost_by_phases<T>(conv))
    return DataGradient::kColumns;
  return DataGradient::kPhases;
}

template <typename T>
inline double cost(const convpool_convolution& conv, convpool_pass pass) {
  const convpool_window& window = conv.window;
  const int64_t taps = product_of_axes(window.kernel), positions = product_of_axes(window.out_size);
  const int64_t inputs = conv.in_channels / conv.groups, outputs = conv.out_channels / conv.groups;
  const double images = kPerStep * static_cast<double>(conv.groups * conv.batch);
  const double weights = static_cast<double>(conv.out_channels * inputs * taps);
  const double reduction = static_cast<double>(inputs * taps), m = static_cast<double>(outputs);
  if (pass == CONVPOOL_FORWARD && positions > ImplicitGemm<T>::kMostJoined &&
      ImplicitGemm<T>::reads_by_rows(outputs, taps, window.out_size[1]))
    return images * static_cast<double>(window.out_size[0] * window.out_size[2]) *
           whole_vectors<T>(window.out_size[1]) * (reduction + kTile) * (m + kInPlace);
  if (pass == CONVPOOL_FORWARD) {
    const double vectors =
        positions <= ImplicitGemm<T>::kMostJoined
            ? whole_vectors<T>(conv.batch * positions)
            : static_cast<double>(conv.batch) *
                  static_cast<double>(ImplicitGemm<T>::vector_positions(positions));
    const bool stands = taps == 1 && outputs <= ImplicitGemm<T>::kReadInPlace * Blocks<T>::kMr;
    const double panel = stands ? kInPlace : cost_of_panel<T>(window.out_size);
    return kPerStep * static_cast<double>(conv.groups) * vectors * (reduction + kTile) *
           (m + panel);
  }
  if (pass == CONVPOOL_BACKWARD_WEIGHT && outputs <= WeightGradient<T>::kFewOutputs)
    return 2.4 * images * static_cast<double>(window.out_size[0] * window.out_size[2]) *
           whole_vectors<T>(window.out_size[1]) * m * reduction;
  if (pass == CONVPOOL_BACKWARD_WEIGHT)
    return images * static_cast<double>(positions) * whole_vectors<T>(outputs) *
               (reduction + kTransposed) +
           kOutOfOrder * weights;
  switch (way_of_data_gradient<T>(conv)) {
    case DataGradient::kFewInputs:
      // Values that are added to where a window lies: one by one, or in runs of a row.
      return images * static_cast<double>(positions) * reduction * (m + 10);
    case DataGradient::kColumns:
      return SummedColumns<T>::cost(conv);
    default:
      return cost_by_phases<T>(conv);
  }
}

// The same for one phase of the gradient by the input, whose positions are no neighbours in dx.
template <typename T>
inline double phase_cost(const TapConvolution<T>& phase) {
  const int64_t positions = ceil_div(phase.positions(), Simd<T>::kLanes) * Simd<T>::kLanes;
  const double reduction = static_cast<double>(phase.reduction());
  const double outputs = static_cast<double>(phase.outputs);
  return static_cast<double>(phase.groups) *
         (kPerStep * kApart * static_cast<double>(phase.images() * positions) *
              (reduction + kTile) * (outputs + kCut) +
          kOutOfOrder * outputs * reduction);
}

// body(values) with room for what a pointwise convolution with a stride reads; false where memory
// is out.
template <typename T, typename Body>
inline bool with_subsampled(const convpool_convolution& conv, const Body& body) {
  Arena arena(Scratch::kSubsampled);
  const size_t values_at = arena.template reserve<T>(subsampled_size(conv));
  return arena.allocate() && body(arena.template at<T>(values_at));
}

template <typename T>
inline bool forward(const convpool_convolution& conv, const T* x, const T* weight, const T* bias,
                    const Epilogue<T>& epilogue, T* y) {
  if (is_strided_pointwise(conv))
    return with_subsampled<T>(conv, [&](T* values) {
      subsample(conv, x, values);
      return forward<T>(without_stride(conv), values, weight, bias, epilogue, y);
    });
  return with_forward_problem(
      conv, x, weight, bias, epilogue, y,
      [&](const TapConvolution<T>& problem) { return ImplicitGemm<T>::run(problem); });
}

// The same on channels that are not one array as it stands. The convolution is pointwise and has
// one group.
template <typename T>
inline bool forward_joined(const convpool_convolution& conv, const JoinedInput<T>& joined,
                           const T* weight, const T* bias, const Epilogue<T>& epilogue, T* y) {
  return with_forward_problem<T>(conv, nullptr, weight, bias, epilogue, y,
                                 [&](TapConvolution<T> problem) {
                                   problem.joined = &joined;
                                   return ImplicitGemm<T>::run(problem);
                                 });
}

// No window reads these elements.
template <typename T>
inline void clear_output(const TapConvolution<T>& conv) {
  const int64_t channels = conv.groups * conv.outputs;
  const double values = static_cast<double>(conv.images() * channels * conv.positions());
  parallel_for(conv.images() * channels, values, [&](int64_t plane) {
    T* to = conv.out_image(plane / channels) + plane % channels * conv.out_channel_stride;
    for (int64_t row = 0; row < conv.h.out_size; ++row, to += conv.out_row_stride)
      for (int64_t column = 0; column < conv.w.out_size; ++column)
        to[column * conv.out_column_stride] = T(0);
  });
}

template <typename T>
inline bool run_phase(const TapConvolution<T>& phase) {
  if (phase.d.taps * phase.taps() > 0) return ImplicitGemm<T>::run(phase);
  clear_output(phase);
  return true;
}

// For every phase of the stride, a convolution of dy with the taps that reach the phase, flipped,
// inputs and outputs exchanged.
template <typename T>
inline bool backward_data(const convpool_convolution& conv, const T* dy, const T* weight, T* dx) {
  if (is_strided_pointwise(conv))
    return with_subsampled<T>(conv, [&](T* values) {
      if (!backward_data<T>(without_stride(conv), dy, weight, values)) return false;
      spread(conv, values, dx);
      return true;
    });
  const DataGradient way = way_of_data_gradient<T>(conv);
  if (way == DataGradient::kFewInputs) return FewInputs<T>::run(conv, dy, weight, dx);
  if (way == DataGradient::kColumns) return SummedColumns<T>::run(conv, dy, weight, dx);
  const TapStorage taps(conv.window);
  if (!taps.get()) return false;
  TapConvolution<T> gradient = backward_problem<T>(conv, taps.get());
  gradient.in = dy;
  gradient.weight = weight;
  return for_each_phase(conv, gradient, [&](TapConvolution<T> problem, int64_t first) {
    problem.out = dx + first;
    return run_phase(problem);
  });
}

template <typename T>
inline bool backward_weight(const convpool_convolution& conv, const T* x, const T* dy, T* dweight) {
  if (is_strided_pointwise(conv))
    return with_subsampled<T>(conv, [&](T* values) {
      subsample(conv, x, values);
      return backward_weight<T>(without_stride(conv), values, dy, dweight);
    });
  return with_weight_gradient_problem(conv, x, dy, [&](const TapConvolution<T>& problem) {
    return WeightGradient<T>::run(problem, dweight);
  });
}

}  // namespace implicit_gemm

}  // namespace convpool::CONVPOOL_ISA
