// The operator convpool_convolution_transpose.
#include <mxnet/lib_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../convpool.h"
#include "arrays.h"
#include "attribute_checks.h"
#include "attributes.h"
#include "convolution_problem.h"
#include "layout.h"
#include "messages.h"
#include "operator_call.h"
#include "sentences.h"
#include "shape_inference.h"
#include "stored_arrays.h"
#include "type_inference.h"
#include "window_attributes.h"

namespace convpool {
namespace {

constexpr const char* kTransposed = "convolution_transpose";

struct TransposedAttributes {
  const Attributes attributes;
  const std::string layout;
  const WindowAttributes window;
  const int64_t channels, groups;
  const bool bias;
  Dims adj;

  explicit TransposedAttributes(const StringMap& map)
      : attributes(kTransposed, map,
                   {"kernel", "stride", "dilate", "pad", "adj", "num_filter", "num_group",
                    "no_bias", "layout"}),
        layout(checked_layout(kTransposed, attributes)),
        window(kTransposed, attributes),
        channels(attributes.integer("num_filter", 0)),
        groups(attributes.integer("num_group", 1)),
        bias(!attributes.boolean("no_bias", false)),
        adj(attributes.tuple("adj")) {
    const size_t ndim = layout.size() - 2;
    if (adj.empty()) adj = Dims(window.kernel.size(), 0);
    check_length(kTransposed, "kernel_size", window.kernel, ndim);
    check_length(kTransposed, "output_padding", adj, ndim);
    for (size_t i = 0; i < ndim; ++i)
      if (adj[i] < 0 || adj[i] >= window.stride[i])
        fail(sentence(messages::output_padding_not_smaller,
                      {{"op", kTransposed},
                       {"output_padding", tuple_text(adj)},
                       {"strides", tuple_text(window.stride)}}));
    check_least(kTransposed, "channels", channels, 1);
    check_least(kTransposed, "groups", groups, 1);
    check_divisible(kTransposed, "channels", channels, groups);
  }
};

void infer_transposed(const StringMap& map, std::vector<Shape>* in, std::vector<Shape>* out,
                      bool numpy) {
  const TransposedAttributes& conv = attributes_of<TransposedAttributes>(map);
  check_axes(kTransposed, conv.layout, in->at(0));
  const Shape data = channels_first(conv.layout, in->at(0));
  const Shape given = channels_first(conv.layout, in->at(1));
  const auto shown = [&](const Shape& shape) { return tuple_text(as_layout(conv.layout, shape)); };
  Shape weight{data[1], static_cast<unsigned int>(conv.channels / conv.groups)};
  for (const int64_t size : conv.window.kernel) weight.push_back(static_cast<unsigned int>(size));
  const bool channels_known = !unknown(data[1], numpy);
  if (channels_known && given.size() == weight.size() && !unknown(given[0], numpy) &&
      given[0] != data[1])
    fail(sentence(
        messages::channels_mismatch_transposed,
        {{"op", kTransposed}, {"data_channels", text(data[1])}, {"weight_shape", shown(given)}}));
  if (channels_known) {
    check_least(kTransposed, "in_channels", int64_t{data[1]}, 1);
    check_divisible(kTransposed, "in_channels", data[1], conv.groups);
  }
  if (!fits(given, weight, numpy))
    fail(sentence(
        messages::weight_shape,
        {{"op", kTransposed}, {"weight_shape", shown(given)}, {"expected", shown(weight)}}));
  if (!channels_known && given.size() == weight.size()) weight[0] = given[0];
  if (conv.bias) infer_bias(kTransposed, conv.channels, numpy, &in->at(2));
  Shape y{data[0], static_cast<unsigned int>(conv.channels)};
  Dims least;
  bool left = true;
  for (size_t i = 0; i < conv.window.kernel.size(); ++i) {
    // What one element of the data leaves of the output, and how many it takes to leave one.
    const int64_t stride = conv.window.stride[i];
    const int64_t first = conv.window.dilation[i] * (conv.window.kernel[i] - 1) + 1 + conv.adj[i] -
                          2 * conv.window.pad[i];
    least.push_back(first >= 1 ? 1 : 1 + divided(1 - first, stride, true));
    if (unknown(data[i + 2], numpy)) {
      y.push_back(data[i + 2]);
      continue;
    }
    left = left && data[i + 2] >= least.back();
    y.push_back(static_cast<unsigned int>((int64_t{data[i + 2]} - 1) * stride + first));
  }
  if (!left)
    fail(sentence(messages::nothing_left,
                  {{"op", kTransposed},
                   {"padding", tuple_text(conv.window.pad)},
                   {"least", tuple_text(least)},
                   {"sizes", tuple_text(Shape(data.begin() + 2, data.end()))}}));
  check_elements(kTransposed, y);
  in->at(1) = as_layout(conv.layout, weight);
  out->at(0) = as_layout(conv.layout, y);
}

// The convolution that it is transposed of, which reads what has the shape of the output.
convpool_convolution problem_of(const TransposedAttributes& attributes, convpool_dtype dtype,
                                const std::vector<int64_t>& data, const std::vector<int64_t>& out) {
  return convolution_problem(attributes.layout, attributes.window, attributes.groups, dtype, out,
                             data);
}

MXReturnValue transposed_arity(const StringMap& map, int* num_in, int* num_out) {
  return guarded([&] {
    *num_in = attributes_of<TransposedAttributes>(map).bias ? 3 : 2;
    *num_out = 1;
  });
}

template <bool kNumpy>
MXReturnValue transposed_shape(const StringMap& map, std::vector<Shape>* in,
                               std::vector<Shape>* out) {
  return guarded([&] { infer_transposed(map, in, out, kNumpy); });
}

MXReturnValue transposed_type(const StringMap&, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] { infer_types(kTransposed, in, out, kReal); });
}

MXReturnValue transposed_forward(const StringMap& map, Tensors* in, Tensors* out,
                                 const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const TransposedAttributes& attributes = attributes_of<TransposedAttributes>(map);
    const convpool_convolution conv =
        problem_of(attributes, dtype_of(in->at(0)), in->at(0).shape, out->at(0).shape);
    const std::vector<ComputedInput> inputs(in->begin(), in->end());
    ComputedOutput y(out->at(0));
    check_status(kTransposed, convpool_convolution_transpose(
                                  &conv, inputs[0].data(), inputs[1].data(),
                                  attributes.bias ? inputs[2].data() : nullptr, y.data()));
    y.store();
  });
}

// Inputs: the gradient of y, then x, weight, bias and y. Outputs: gradients of x, weight and bias.
MXReturnValue transposed_backward(const StringMap& map, Tensors* in, Tensors* out,
                                  const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const TransposedAttributes& attributes = attributes_of<TransposedAttributes>(map);
    const ComputedInput dy(in->at(0)), x(in->at(1)), weight(in->at(2));
    convpool_convolution conv =
        problem_of(attributes, dtype_of(in->at(1)), in->at(1).shape, in->at(0).shape);
    ComputedOutput dx(out->at(0)), dweight(out->at(1));
    check_status(kTransposed,
                 convpool_convolution_forward(&conv, dy.data(), weight.data(), nullptr, dx.data()));
    dx.store();
    check_status(kTransposed,
                 convpool_convolution_backward_weight(&conv, dy.data(), x.data(), dweight.data()));
    dweight.store();
    if (!attributes.bias) return;
    // Its outputs are this one's: all that is looked at is how many there are.
    conv.out_channels = conv.in_channels;
    for (int d = 0; d < conv.window.ndim; ++d) conv.window.out_size[d] = conv.window.in_size[d];
    ComputedOutput dbias(out->at(2));
    check_status(kTransposed, convpool_convolution_backward_bias(&conv, dy.data(), dbias.data()));
    dbias.store();
  });
}

REGISTER_OP(convpool_convolution_transpose)
    .setForward(transposed_forward, "cpu")
    .setBackward(transposed_backward, "cpu")
    .setParseAttrs(transposed_arity)
    .setInferType(transposed_type)
    .setInferShape(transposed_shape<false>);

REGISTER_OP(_npx_convpool_convolution_transpose)
    .setForward(transposed_forward, "cpu")
    .setBackward(transposed_backward, "cpu")
    .setParseAttrs(transposed_arity)
    .setInferType(transposed_type)
    .setInferShape(transposed_shape<true>);

}  // namespace
}  // namespace convpool
