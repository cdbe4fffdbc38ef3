// A convolution as the kernels take it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../convpool.h"
#include "window_attributes.h"

namespace convpool {

// The convolution from arrays of shape `x` to those of shape `y`, both as the layout has them. A
// transposed one is given by the convolution that it is transposed of, for which `x` is the shape
// of its output and `y` that of its data.
convpool_convolution convolution_problem(const std::string& layout, const WindowAttributes& window,
                                         int64_t groups, convpool_dtype dtype,
                                         const std::vector<int64_t>& x,
                                         const std::vector<int64_t>& y);

}  // namespace convpool
