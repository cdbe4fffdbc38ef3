// The kernels of one instruction set, as a table that dispatch.cc chooses.
#pragma once

#include "packed_weight.h"

namespace convpool {

struct Kernels {
  const char* name;
  // Of the algorithm that would serve, in multiply-adds at the speed of the micro-kernel.
  double (*convolution_cost)(const convpool_convolution*, convpool_pass);
  // What a packed weight has behind the weight, whose taps are written unless `taps` is null.
  TapFormat (*pack_taps)(const convpool_convolution*, const void* weight, void* taps);
  convpool_algorithm (*convolution_algorithm)(const convpool_convolution*, convpool_pass);
  // The epilogue may be null.
  convpool_status (*convolution_forward)(const convpool_convolution*, const void*, const void*,
                                         const void*, const convpool_epilogue*, void*);
  convpool_status (*convolution_forward_joined)(const convpool_convolution*,
                                                const convpool_joined_input*, const void*,
                                                const void*, const convpool_epilogue*, void*);
  // The bias, of the channels of x, may be null.
  convpool_status (*convolution_backward_data)(const convpool_convolution*, const void*,
                                               const void*, const void*, void*);
  convpool_status (*convolution_backward_weight)(const convpool_convolution*, const void*,
                                                 const void*, void*);
  convpool_status (*convolution_backward_bias)(const convpool_convolution*, const void*, void*);
  convpool_status (*pooling_forward)(const convpool_pooling*, const void*, void*);
  convpool_status (*pooling_backward)(const convpool_pooling*, const void*, const void*,
                                      const void*, void*);
  convpool_status (*deformable_columns_forward)(const convpool_sampling*, const void*, const void*,
                                                const void*, void*);
  convpool_status (*deformable_columns_backward)(const convpool_sampling*, const void*, const void*,
                                                 const void*, const void*, void*, void*, void*);
  convpool_status (*batch_norm_forward)(const convpool_batch_norm*, const void*, const void*,
                                        const void*, const void*, const void*, void*, void*, void*);
  convpool_status (*batch_norm_backward)(const convpool_batch_norm*, const void*, const void*,
                                         const void*, const void*, const void*, const void*, void*,
                                         void*, void*, void*, void*);
  double (*measure_micro_kernel)(double seconds);
  double (*measure_peak)(double seconds);
};

namespace baseline {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}

}  // namespace convpool
