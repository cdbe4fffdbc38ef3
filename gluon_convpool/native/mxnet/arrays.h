// MXNet's arrays, as the operators are called with them.
#pragma once

#include <mxnet/lib_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../convpool.h"

namespace convpool {

using mxnet::ext::MXTensor;
using Tensors = std::vector<MXTensor>;

inline int64_t elements(const MXTensor& array) {
  int64_t count = 1;
  for (const int64_t size : array.shape) count *= size;
  return count;
}

inline size_t value_bytes(const MXTensor& array) {
  const DLDataType& type = array.dltensor.dtype;
  return static_cast<size_t>(type.bits) * type.lanes / 8;
}

inline convpool_dtype dtype_of(const MXTensor& array) {
  return array.dtype == mxnet::ext::kFloat64 ? CONVPOOL_FLOAT64 : CONVPOOL_FLOAT32;
}

}  // namespace convpool
