#include "window_attributes.h"

#include "attribute_checks.h"
#include "messages.h"
#include "sentences.h"

namespace convpool {

WindowAttributes::WindowAttributes(const char* op, const Attributes& attributes, Sides sides)
    : kernel(attributes.tuple("kernel")),
      stride(filled(op, attributes, "stride", 1)),
      dilation(filled(op, attributes, "dilate", 1)) {
  check_least(op, "kernel_size", kernel, 1);
  check_least(op, "strides", stride, 1);
  check_least(op, "dilation", dilation, 1);
  if (sides == kEach)
    read_both_sides(op, attributes);
  else
    pad = pad_end = filled(op, attributes, "pad", 0);
  check_least(op, "padding", pad, 0);
}

WindowAttributes WindowAttributes::single(size_t ndim) {
  WindowAttributes window;
  window.kernel = window.stride = window.dilation = Dims(ndim, 1);
  window.pad = window.pad_end = Dims(ndim, 0);
  return window;
}

std::string WindowAttributes::padding_text() const {
  if (!sides_differ()) return tuple_text(pad);
  std::string out;
  for (size_t i = 0; i < pad.size(); ++i)
    out += (i ? ", " : "(") + tuple_text(Dims{pad[i], pad_end[i]});
  return out + (pad.size() == 1 ? ",)" : ")");
}

void WindowAttributes::read_both_sides(const char* op, const Attributes& attributes) {
  const size_t ndim = kernel.size();
  Dims values = attributes.tuple("pad");
  if (values.empty()) values = Dims(ndim, 0);
  if (values.size() != ndim && values.size() != 2 * ndim)
    fail(sentence(messages::padding_sides, {{"op", op},
                                            {"value", tuple_text(values)},
                                            {"ndim", text(static_cast<int64_t>(ndim))},
                                            {"both", text(static_cast<int64_t>(2 * ndim))}}));
  check_least(op, "padding", values, 0);
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(ndim);
  pad = Dims(values.begin(), middle);
  pad_end = values.size() == ndim ? pad : Dims(middle, values.end());
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
