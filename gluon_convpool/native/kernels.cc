// Compiled once for each instruction set, with CONVPOOL_ISA naming it.
#include "kernels.h"

#include "conv/channels_last.h"
#include "conv/convolution.h"
#include "conv/deformable_columns.h"
#include "gemm/measure.h"
#include "norm/batch_norm.h"
#include "pool/channels_last.h"
#include "pool/pooling.h"

namespace convpool::CONVPOOL_ISA {
namespace {

// Does every output read the one value that stands at its own place on axis `d`?
bool is_identity(const convpool_window& window, int d) {
  return window.kernel[d] == 1 && window.stride[d] == 1 && window.pad[d] == 0 &&
         window.in_size[d] == window.out_size[d];
}

// Axis `a` of a window as axis `b` of another; a < 0: an axis with a single place.
void copy_axis(const convpool_window& from, int a, convpool_window* to, int b) {
  to->kernel[b] = a < 0 ? 1 : from.kernel[a];
  to->stride[b] = a < 0 ? 1 : from.stride[a];
  to->dilation[b] = a < 0 ? 1 : from.dilation[a];
  to->pad[b] = a < 0 ? 0 : from.pad[a];
  to->in_size[b] = a < 0 ? 1 : from.in_size[a];
  to->out_size[b] = a < 0 ? 1 : from.out_size[a];
}

// The window with the axes that the kernels know, whatever it has: height, width, depth.
convpool_window three_axes(const convpool_window& window) {
  convpool_window all{};
  all.ndim = CONVPOOL_MAX_NDIM;
  for (int b = 0; b < 3; ++b) {
    const int a = window.ndim + (b < 2 ? b - 2 : -3);
    copy_axis(window, a, &all, b);
  }
  // Neighbours on two axes that no window joins may as well stand on one: two axes are faster than
  // three.
  if (window.ndim < 3 || !is_identity(all, 0)) return all;
  if (is_identity(all, 1)) {
    all.in_size[1] *= all.in_size[0];
    all.out_size[1] *= all.out_size[0];
    copy_axis(all, 2, &all, 0);
  } else if (is_identity(all, 2)) {
    all.in_size[0] *= all.in_size[2];
    all.out_size[0] *= all.out_size[2];
  } else {
    return all;
  }
  copy_axis(all, -1, &all, 2);
  return all;
}

// Is there such a window? With sizes that are none, kernels would divide by zero.
bool is_possible(const convpool_window& window) {
  for (int d = 0; d < window.ndim; ++d)
    if (window.kernel[d] < 1 || window.stride[d] < 1 || window.dilation[d] < 1 ||
        window.pad[d] < 0 || window.in_size[d] < 0 || window.out_size[d] < 0)
      return false;
  return true;
}

bool is_possible(const convpool_convolution& conv) {
  return is_possible(conv.window) && conv.batch >= 0 && conv.groups >= 1 && conv.in_channels >= 1 &&
         conv.out_channels >= 1 && conv.in_channels % conv.groups == 0 &&
         conv.out_channels % conv.groups == 0;
}

bool is_possible(const convpool_pooling& pool) {
  return is_possible(pool.window) && pool.batch >= 0 && pool.channels >= 0;
}

// Calls body(T{}) with the type of arrays.
template <typename Body>
convpool_status with_type_of(convpool_dtype dtype, const Body& body) {
  if (dtype == CONVPOOL_FLOAT32) return body(float{});
  if (dtype == CONVPOOL_FLOAT64) return body(double{});
  return CONVPOOL_UNSUPPORTED;
}

// Calls body(problem, T{}) with the axes that the kernels know and the array type that serves these
// values.
template <typename Problem, typename Body>
convpool_status with_type(Problem problem, const Body& body) {
  const int32_t ndim = problem.window.ndim;
  if (ndim < 1 || ndim > CONVPOOL_MAX_NDIM) return CONVPOOL_UNSUPPORTED;
  if (problem.layout != CONVPOOL_CHANNEL_FIRST && problem.layout != CONVPOOL_CHANNEL_LAST)
    return CONVPOOL_UNSUPPORTED;
  if (!is_possible(problem)) return CONVPOOL_UNSUPPORTED;
  problem.window = three_axes(problem.window);
  // A window that stays where it is takes no step, however long: work and memory grow with strides.
  for (int d = 0; d < problem.window.ndim; ++d)
    if (problem.window.out_size[d] == 1) problem.window.stride[d] = 1;
  return with_type_of(problem.dtype, [&](auto type) { return body(problem, type); });
}

convpool_status status_of(bool done) { return done ? CONVPOOL_OK : CONVPOOL_OUT_OF_MEMORY; }

// The algorithm, or what brings arrays with channels last to it: either has the passes as
// functions.
template <typename T>
ConvolutionAlgorithm<T> passes_of(const convpool_convolution& conv,
                                  const ConvolutionAlgorithm<T>& algorithm) {
  if (conv.layout == CONVPOOL_CHANNEL_FIRST || algorithm.any_layout(conv)) return algorithm;
  return {algorithm.id,
          algorithm.any_layout,
          algorithm.supports,
          algorithm.cost,
          channels_last::forward<T>,
          channels_last::backward_data<T>,
          channels_last::backward_weight<T>};
}

void release_shared_scratch() {
  release_scratch(Scratch::kShared);
  release_scratch(Scratch::kLayout);
  release_scratch(Scratch::kSubsampled);
  release_scratch(Scratch::kColumns);
}

// No output element: gradients are zero.
bool empty(const convpool_convolution& conv) {
  const int64_t* size = conv.window.out_size;
  return conv.batch == 0 || size[0] == 0 || size[1] == 0 || size[2] == 0;
}

// No element of the data, for which there may be outputs, of padding alone.
bool has_no_data(const convpool_convolution& conv) {
  const int64_t* size = conv.window.in_size;
  return size[0] == 0 || size[1] == 0 || size[2] == 0;
}

template <typename T>
void clear_data(const convpool_convolution& conv, T* dx) {
  const int64_t* size = conv.window.in_size;
  clear(dx, conv.batch * conv.in_channels * size[0] * size[1] * size[2]);
}

template <typename T>
void clear_weight(const convpool_convolution& conv, T* dweight) {
  const int64_t* size = conv.window.kernel;
  clear(dweight,
        conv.out_channels * (conv.in_channels / conv.groups) * size[0] * size[1] * size[2]);
}

// To the gradient of the data, where it is the output of a transposed convolution.
template <typename T>
void add_bias(const convpool_convolution& conv, const T* bias, T* dx) {
  const int64_t* axes = conv.window.in_size;
  const int64_t size = axes[0] * axes[1] * axes[2], planes = conv.batch * conv.in_channels;
  if (conv.layout == CONVPOOL_CHANNEL_LAST) {
    channels_last::finish<T>(conv.batch * size, conv.in_channels, bias, {}, dx);
    return;
  }
  parallel_for(planes, static_cast<double>(planes * size), [&](int64_t plane) {
    const T value = bias[plane % conv.in_channels];
    T* to = dx + plane * size;
    for (int64_t k = 0; k < size; ++k) to[k] += value;
  });
}

double convolution_cost(const convpool_convolution* problem, convpool_pass pass) {
  double cost = 0;
  with_type(*problem, [&](const auto& conv, auto type) {
    const auto* algorithm = choose_algorithm<decltype(type)>(conv, pass);
    if (algorithm) cost = algorithm->cost(conv, pass);
    return CONVPOOL_OK;
  });
  return cost;
}

TapFormat pack_taps(const convpool_convolution* problem, const void* weight, void* taps) {
  TapFormat format{};
  with_type(*problem, [&](convpool_convolution conv, auto type) {
    using T = decltype(type);
    conv.packed = &kAnyPacked;
    const auto* algorithm = choose_algorithm<T>(conv, CONVPOOL_FORWARD);
    if (!algorithm || algorithm->id != CONVPOOL_WINOGRAD || empty(conv)) return CONVPOOL_OK;
    const WinogradTile<T>& tile = *winograd::choose<T>(conv, CONVPOOL_FORWARD).tile;
    with_forward_problem<T>(conv, nullptr, static_cast<const T*>(weight), nullptr, {}, nullptr,
                            [&](const TapConvolution<T>& one) {
                              const Winograd<T> winograd(one, tile);
                              format = winograd.tap_format();
                              if (taps) winograd.pack(static_cast<T*>(taps));
                              return true;
                            });
    return CONVPOOL_OK;
  });
  return format;
}

convpool_algorithm convolution_algorithm(const convpool_convolution* problem, convpool_pass pass) {
  convpool_algorithm id = CONVPOOL_AUTO;
  with_type(*problem, [&](const auto& conv, auto type) {
    const auto* algorithm = choose_algorithm<decltype(type)>(conv, pass);
    if (algorithm) id = algorithm->id;
    return CONVPOOL_OK;
  });
  return id;
}

template <typename T>
Epilogue<T> epilogue_of(const convpool_epilogue* epilogue) {
  if (!epilogue) return {};
  return {static_cast<const T*>(epilogue->sum), static_cast<T>(epilogue->negative_slope),
          static_cast<T>(epilogue->lowest), static_cast<T>(epilogue->highest), true};
}

inline float exponential(float v) { return __builtin_expf(v); }
inline double exponential(double v) { return __builtin_exp(v); }

// The last step of an epilogue, on the values that are written: `Epilogue` says why.
template <typename T>
void apply_sigmoid(const convpool_convolution& conv, T* y) {
  constexpr int64_t kBlock = 4096;
  constexpr double kWork = 32;  // multiply-adds in the time of one
  const int64_t* size = conv.window.out_size;
  const int64_t count = conv.batch * conv.out_channels * size[0] * size[1] * size[2];
  parallel_for(ceil_div(count, kBlock), kWork * static_cast<double>(count), [&](int64_t task) {
    const int64_t end = min_of(count, (task + 1) * kBlock);
    for (int64_t k = task * kBlock; k < end; ++k) y[k] = T(1) / (T(1) + exponential(-y[k]));
  });
}

template <typename T>
convpool_status finish_forward(const convpool_convolution& conv, bool done,
                               const convpool_epilogue* epilogue, T* y) {
  if (done && epilogue && epilogue->sigmoid) apply_sigmoid(conv, y);
  release_shared_scratch();
  return status_of(done);
}

convpool_status convolution_forward(const convpool_convolution* problem, const void* x,
                                    const void* weight, const void* bias,
                                    const convpool_epilogue* epilogue, void* y) {
  return with_type(*problem, [&](const auto& conv, auto type) {
    using T = decltype(type);
    const auto* algorithm = choose_algorithm<T>(conv, CONVPOOL_FORWARD);
    if (!algorithm) return CONVPOOL_UNSUPPORTED;
    if (empty(conv)) return CONVPOOL_OK;
    const bool done =
        passes_of(conv, *algorithm)
            .forward(conv, static_cast<const T*>(x), static_cast<const T*>(weight),
                     static_cast<const T*>(bias), epilogue_of<T>(epilogue), static_cast<T*>(y));
    return finish_forward(conv, done, epilogue, static_cast<T*>(y));
  });
}

bool is_pointwise(const convpool_convolution& conv) {
  const convpool_window& window = conv.window;
  for (int d = 0; d < window.ndim; ++d)
    if (window.kernel[d] != 1 || window.stride[d] != 1 || window.pad[d] != 0) return false;
  return conv.groups == 1 && conv.layout == CONVPOOL_CHANNEL_FIRST;
}

convpool_status convolution_forward_joined(const convpool_convolution* problem,
                                           const convpool_joined_input* x, const void* weight,
                                           const void* bias, const convpool_epilogue* epilogue,
                                           void* y) {
  return with_type(*problem, [&](const auto& conv, auto type) {
    using T = decltype(type);
    if (!is_pointwise(conv)) return CONVPOOL_UNSUPPORTED;
    if (empty(conv)) return CONVPOOL_OK;
    const JoinedInput<T> joined{x->pieces,
                                reinterpret_cast<const T* const*>(x->data),
                                x->channels,
                                static_cast<const T*>(x->scale),
                                static_cast<const T*>(x->shift),
                                static_cast<T>(x->lowest)};
    const bool done = implicit_gemm::forward_joined<T>(
        conv, joined, static_cast<const T*>(weight), static_cast<const T*>(bias),
        epilogue_of<T>(epilogue), static_cast<T*>(y));
    return finish_forward(conv, done, epilogue, static_cast<T*>(y));
  });
}

convpool_status convolution_backward_data(const convpool_convolution* problem, const void* dy,
                                          const void* weight, const void* bias, void* dx) {
  return with_type(*problem, [&](const auto& conv, auto type) {
    using T = decltype(type);
    const auto* algorithm = choose_algorithm<T>(conv, CONVPOOL_BACKWARD_DATA);
    if (!algorithm) return CONVPOOL_UNSUPPORTED;
    if (empty(conv) || has_no_data(conv)) {
      clear_data(conv, static_cast<T*>(dx));
      return CONVPOOL_OK;
    }
    const bool done = passes_of(conv, *algorithm)
                          .backward_data(conv, static_cast<const T*>(dy),
                                         static_cast<const T*>(weight), static_cast<T*>(dx));
    if (bias && done) add_bias(conv, static_cast<const T*>(bias), static_cast<T*>(dx));
    release_shared_scratch();
    return status_of(done);
  });
}

convpool_status convolution_backward_weight(const convpool_convolution* problem, const void* x,
                                            const void* dy, void* dweight) {
  return with_type(*problem, [&](const auto& conv, auto type) {
    using T = decltype(type);
    const auto* algorithm = choose_algorithm<T>(conv, CONVPOOL_BACKWARD_WEIGHT);
    if (!algorithm) return CONVPOOL_UNSUPPORTED;
    if (empty(conv)) {
      clear_weight(conv, static_cast<T*>(dweight));
      return CONVPOOL_OK;
    }
    const bool done = passes_of(conv, *algorithm)
                          .backward_weight(conv, static_cast<const T*>(x),
                                           static_cast<const T*>(dy), static_cast<T*>(dweight));
    release_shared_scratch();
    return status_of(done);
  });
}

convpool_status convolution_backward_bias(const convpool_convolution* problem, const void* dy,
                                          void* dbias) {
  return with_type(*problem, [&](const auto& conv, auto type) {
    using T = decltype(type);
    const auto gradient =
        conv.layout == CONVPOOL_CHANNEL_FIRST ? bias_gradient<T> : channels_last::bias_gradient<T>;
    gradient(conv, static_cast<const T*>(dy), static_cast<T*>(dbias));
    return CONVPOOL_OK;
  });
}

convpool_status pooling_forward(const convpool_pooling* problem, const void* x, void* y) {
  return with_type(*problem, [&](const auto& pool, auto type) {
    using T = decltype(type);
    if (pool.layout == CONVPOOL_CHANNEL_LAST) {
      ChannelsLastPooling<T>::forward(pool, static_cast<const T*>(x), static_cast<T*>(y));
      return CONVPOOL_OK;
    }
    return status_of(Pooling<T>::forward(pool, static_cast<const T*>(x), static_cast<T*>(y)));
  });
}

convpool_status pooling_backward(const convpool_pooling* problem, const void* x, const void* y,
                                 const void* dy, void* dx) {
  return with_type(*problem, [&](const auto& pool, auto type) {
    using T = decltype(type);
    if (pool.layout == CONVPOOL_CHANNEL_LAST) {
      ChannelsLastPooling<T>::backward(pool, static_cast<const T*>(x), static_cast<const T*>(y),
                                       static_cast<const T*>(dy), static_cast<T*>(dx));
      return CONVPOOL_OK;
    }
    return status_of(Pooling<T>::backward(pool, static_cast<const T*>(x), static_cast<const T*>(y),
                                          static_cast<const T*>(dy), static_cast<T*>(dx)));
  });
}

template <typename T>
T* typed(void* array) {
  return static_cast<T*>(array);
}

template <typename T>
const T* typed(const void* array) {
  return static_cast<const T*>(array);
}

convpool_status deformable_columns_forward(const convpool_sampling* sampling, const void* x,
                                           const void* offset, const void* mask, void* columns) {
  return with_type_of(sampling->dtype, [&](auto type) {
    using T = decltype(type);
    DeformableColumns<T>(*sampling, typed<T>(x), typed<T>(offset), typed<T>(mask))
        .forward(typed<T>(columns));
    return CONVPOOL_OK;
  });
}

convpool_status deformable_columns_backward(const convpool_sampling* sampling, const void* x,
                                            const void* offset, const void* mask,
                                            const void* dcolumns, void* dx, void* doffset,
                                            void* dmask) {
  return with_type_of(sampling->dtype, [&](auto type) {
    using T = decltype(type);
    DeformableColumns<T>(*sampling, typed<T>(x), typed<T>(offset), typed<T>(mask))
        .backward(typed<T>(dcolumns), typed<T>(dx), typed<T>(doffset), typed<T>(dmask));
    return CONVPOOL_OK;
  });
}

convpool_status batch_norm_forward(const convpool_batch_norm* norm, const void* x,
                                   const void* gamma, const void* beta, const void* running_mean,
                                   const void* running_var, void* y, void* mean, void* inv_std) {
  return with_type_of(norm->dtype, [&](auto type) {
    using T = decltype(type);
    BatchNorm<T>(*norm).forward(typed<T>(x), typed<T>(gamma), typed<T>(beta),
                                typed<T>(running_mean), typed<T>(running_var), typed<T>(y),
                                typed<T>(mean), typed<T>(inv_std));
    return CONVPOOL_OK;
  });
}

convpool_status batch_norm_backward(const convpool_batch_norm* norm, const void* x,
                                    const void* gamma, const void* beta, const void* mean,
                                    const void* inv_std, const void* dy, void* dx, void* dgamma,
                                    void* dbeta, void* running_mean, void* running_var) {
  return with_type_of(norm->dtype, [&](auto type) {
    using T = decltype(type);
    BatchNorm<T>(*norm).backward(typed<T>(x), typed<T>(gamma), typed<T>(beta), typed<T>(mean),
                                 typed<T>(inv_std), typed<T>(dy), typed<T>(dx), typed<T>(dgamma),
                                 typed<T>(dbeta), typed<T>(running_mean), typed<T>(running_var));
    return CONVPOOL_OK;
  });
}

}  // namespace

#define CONVPOOL_STRING_(text) #text
#define CONVPOOL_STRING(text) CONVPOOL_STRING_(text)

extern const Kernels kKernels;
const Kernels kKernels = {
    CONVPOOL_STRING(CONVPOOL_ISA),
    convolution_cost,
    pack_taps,
    convolution_algorithm,
    convolution_forward,
    convolution_forward_joined,
    convolution_backward_data,
    convolution_backward_weight,
    convolution_backward_bias,
    pooling_forward,
    pooling_backward,
    deformable_columns_forward,
    deformable_columns_backward,
    batch_norm_forward,
    batch_norm_backward,
    measure_micro_kernel<float>,
    measure_peak<float>,
};

}  // namespace convpool::CONVPOOL_ISA
