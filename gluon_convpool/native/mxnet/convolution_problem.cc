#include "convolution_problem.h"

#include "layout.h"

namespace convpool {

convpool_convolution convolution_problem(const std::string& layout, const WindowAttributes& window,
                                         int64_t groups, convpool_dtype dtype,
                                         const std::vector<int64_t>& x,
                                         const std::vector<int64_t>& y) {
  const Dims in = channels_first(layout, x), out = channels_first(layout, y);
  convpool_convolution conv{};
  conv.dtype = dtype;
  conv.layout = layout_of(layout);
  conv.algorithm = CONVPOOL_AUTO;
  conv.batch = in[0];
  conv.in_channels = in[1];
  conv.out_channels = out[1];
  conv.groups = groups;
  fill_window(window, in, out, false, &conv.window);
  return conv;
}

}  // namespace convpool
