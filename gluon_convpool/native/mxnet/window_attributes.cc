#include "window_attributes.h"

#include "attribute_checks.h"

namespace convpool {

WindowAttributes::WindowAttributes(const char* op, const Attributes& attributes)
    : kernel(attributes.tuple("kernel")),
      stride(filled(op, attributes, "stride", 1)),
      dilation(filled(op, attributes, "dilate", 1)),
      pad(filled(op, attributes, "pad", 0)) {
  check_least(op, "kernel_size", kernel, 1);
  check_least(op, "strides", stride, 1);
  check_least(op, "dilation", dilation, 1);
  check_least(op, "padding", pad, 0);
}

WindowAttributes WindowAttributes::single(size_t ndim) {
  WindowAttributes window;
  window.kernel = window.stride = window.dilation = Dims(ndim, 1);
  window.pad = Dims(ndim, 0);
  return window;
}

Dims WindowAttributes::filled(const char* op, const Attributes& attributes, const char* name,
                              int64_t otherwise) const {
  const Dims values = attributes.tuple(name);
  if (values.empty()) return Dims(kernel.size(), otherwise);
  check_length(op, name, values, kernel.size());
  return values;
}

void fill_window(const WindowAttributes& from, const std::vector<int64_t>& in,
                 const std::vector<int64_t>& out, bool global, convpool_window* to) {
  to->ndim = static_cast<int32_t>(in.size()) - 2;
  for (int i = 0; i < to->ndim; ++i) {
    const size_t d = static_cast<size_t>(i);
    to->in_size[i] = in[d + 2];
    to->out_size[i] = out[d + 2];
    to->kernel[i] = global ? in[d + 2] : from.kernel[d];
    to->stride[i] = global ? 1 : from.stride[d];
    to->dilation[i] = global ? 1 : from.dilation[d];
    to->pad[i] = global ? 0 : from.pad[d];
  }
}

}  // namespace convpool
