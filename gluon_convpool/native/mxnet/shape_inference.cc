#include "shape_inference.h"

#include "messages.h"
#include "sentences.h"

namespace convpool {
namespace {

// MXNet's own arrays and indices end here (its build has 32-bit sizes).
constexpr double kMostElements = 2147483647.0;

}  // namespace

Shape output_size(const char* op, const WindowAttributes& window, const Shape& data, bool full,
                  bool numpy) {
  Shape out;
  Dims padded, extent;
  bool inside = true;
  for (size_t i = 0; i < window.kernel.size(); ++i) {
    const unsigned int size = data[i + 2];
    extent.push_back(window.dilation[i] * (window.kernel[i] - 1) + 1);
    padded.push_back(static_cast<int64_t>(size) + window.pad[i] + window.pad_end[i]);
    if (unknown(size, numpy)) {
      out.push_back(size);
      continue;
    }
    if (extent[i] > padded[i]) {
      inside = false;
      continue;
    }
    out.push_back(
        static_cast<unsigned int>(divided(padded[i] - extent[i], window.stride[i], full) + 1));
  }
  if (!inside)
    fail(sentence(messages::kernel_too_large, {{"op", op},
                                               {"kernel_size", tuple_text(window.kernel)},
                                               {"dilation", tuple_text(window.dilation)},
                                               {"padding", window.padding_text()},
                                               {"extent", tuple_text(extent)},
                                               {"padded", tuple_text(padded)}}));
  return out;
}

bool fits(const Shape& shape, const Shape& known, bool numpy) {
  if (shape.empty()) return true;
  if (shape.size() != known.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i)
    if (!unknown(shape[i], numpy) && !unknown(known[i], numpy) && shape[i] != known[i])
      return false;
  return true;
}

void check_known(const char* op, const Shape& data) {
  if (data.empty()) fail(std::string(op) + ": the shape of data is not known");
}

void check_axes(const char* op, const std::string& layout, const Shape& data) {
  check_known(op, data);
  if (data.size() != layout.size())
    fail(sentence(messages::wrong_axes, {{"op", op},
                                         {"layout", layout},
                                         {"shape", tuple_text(data)},
                                         {"expected", text(static_cast<int64_t>(layout.size()))}}));
}

void check_elements(const char* op, const Shape& shape) {
  double elements = 1;
  for (const unsigned int size : shape) elements *= size == kUnknown ? 1.0 : size;
  if (elements > kMostElements)
    fail(sentence(messages::too_large, {{"op", op}, {"shape", tuple_text(shape)}}));
}

void infer_bias(const char* op, int64_t channels, bool numpy, Shape* bias) {
  const Shape expected{static_cast<unsigned int>(channels)};
  if (!fits(*bias, expected, numpy))
    fail(sentence(
        messages::bias_shape,
        {{"op", op}, {"bias_shape", tuple_text(*bias)}, {"expected", tuple_text(expected)}}));
  *bias = expected;
}

}  // namespace convpool
