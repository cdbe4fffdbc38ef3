// The operator convpool_deformable_columns.
#include <mxnet/lib_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../convpool.h"
#include "arrays.h"
#include "attribute_checks.h"
#include "attributes.h"
#include "messages.h"
#include "operator_call.h"
#include "sentences.h"
#include "shape_inference.h"
#include "type_inference.h"
#include "window_attributes.h"

namespace convpool {
namespace {

constexpr const char* kDeformable = "deformable_convolution";

// Inputs: data, offset and, where there is one, the mask. Output: the columns, one channel for each
// channel of the data and element of the window.
struct SamplingAttributes {
  const Attributes attributes;
  const WindowAttributes window;
  const int64_t groups;
  const bool masked;

  explicit SamplingAttributes(const StringMap& map)
      : attributes(kDeformable, map,
                   {"kernel", "stride", "dilate", "pad", "num_deformable_group", "with_mask"}),
        window(kDeformable, attributes),
        groups(attributes.integer("num_deformable_group", 1)),
        masked(attributes.boolean("with_mask", false)) {
    check_length(kDeformable, "kernel_size", window.kernel, 2);
    check_least(kDeformable, "num_deformable_group", groups, 1);
  }

  int64_t taps() const { return window.kernel[0] * window.kernel[1]; }
};

void infer_sampling(const StringMap& map, std::vector<Shape>* in, std::vector<Shape>* out,
                    bool numpy) {
  const SamplingAttributes& sampling = attributes_of<SamplingAttributes>(map);
  check_axes(kDeformable, "NCHW", in->at(0));
  const Shape data = in->at(0);
  const bool known = !unknown(data[1], numpy);
  if (known && data[1] % sampling.groups)
    fail(sentence(
        messages::deformable_channels,
        {{"op", kDeformable}, {"groups", text(sampling.groups)}, {"value", text(data[1])}}));
  const Shape windows = output_size(kDeformable, sampling.window, data, /*full=*/false, numpy);
  for (size_t i = 1; i < in->size(); ++i) {
    const int64_t each = i == 1 ? 2 : 1;
    const Shape expected{data[0],
                         static_cast<unsigned int>(each * sampling.groups * sampling.taps()),
                         windows[0], windows[1]};
    if (!fits(in->at(i), expected, numpy))
      fail(sentence(messages::deformable_input, {{"op", kDeformable},
                                                 {"name", i == 1 ? "offset" : "mask"},
                                                 {"shape", tuple_text(in->at(i))},
                                                 {"expected", tuple_text(expected)},
                                                 {"each", i == 1 ? "two numbers" : "one number"}}));
    in->at(i) = expected;
  }
  const Shape columns{
      data[0], known ? data[1] * static_cast<unsigned int>(sampling.taps()) : unknown_size(numpy),
      windows[0], windows[1]};
  check_elements(kDeformable, columns);
  out->at(0) = columns;
}

convpool_sampling sampling_problem(const SamplingAttributes& attributes, const MXTensor& x,
                                   const std::vector<int64_t>& columns) {
  convpool_sampling sampling{};
  sampling.dtype = dtype_of(x);
  sampling.batch = x.shape[0];
  sampling.channels = x.shape[1];
  sampling.groups = attributes.groups;
  fill_window(attributes.window, x.shape, columns, false, &sampling.window);
  return sampling;
}

MXReturnValue sampling_arity(const StringMap& map, int* num_in, int* num_out) {
  return guarded([&] {
    *num_in = attributes_of<SamplingAttributes>(map).masked ? 3 : 2;
    *num_out = 1;
  });
}

template <bool kNumpy>
MXReturnValue sampling_shape(const StringMap& map, std::vector<Shape>* in,
                             std::vector<Shape>* out) {
  return guarded([&] { infer_sampling(map, in, out, kNumpy); });
}

MXReturnValue sampling_type(const StringMap&, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] { infer_types(kDeformable, in, out); });
}

MXReturnValue sampling_forward(const StringMap& map, Tensors* in, Tensors* out,
                               const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const SamplingAttributes& attributes = attributes_of<SamplingAttributes>(map);
    const convpool_sampling sampling = sampling_problem(attributes, in->at(0), out->at(0).shape);
    check_status(kDeformable,
                 convpool_deformable_columns_forward(
                     &sampling, in->at(0).data_ptr, in->at(1).data_ptr,
                     attributes.masked ? in->at(2).data_ptr : nullptr, out->at(0).data_ptr));
  });
}

// Inputs: the gradient of the columns, then data, offset, mask and columns. Outputs: the gradients
// of data, offset and mask.
MXReturnValue sampling_backward(const StringMap& map, Tensors* in, Tensors* out,
                                const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const SamplingAttributes& attributes = attributes_of<SamplingAttributes>(map);
    MXTensor &dcolumns = in->at(0), &x = in->at(1);
    const convpool_sampling sampling = sampling_problem(attributes, x, dcolumns.shape);
    check_status(kDeformable, convpool_deformable_columns_backward(
                                  &sampling, x.data_ptr, in->at(2).data_ptr,
                                  attributes.masked ? in->at(3).data_ptr : nullptr,
                                  dcolumns.data_ptr, out->at(0).data_ptr, out->at(1).data_ptr,
                                  attributes.masked ? out->at(2).data_ptr : nullptr));
  });
}

REGISTER_OP(convpool_deformable_columns)
    .setForward(sampling_forward, "cpu")
    .setBackward(sampling_backward, "cpu")
    .setParseAttrs(sampling_arity)
    .setInferType(sampling_type)
    .setInferShape(sampling_shape<false>);

REGISTER_OP(_npx_convpool_deformable_columns)
    .setForward(sampling_forward, "cpu")
    .setBackward(sampling_backward, "cpu")
    .setParseAttrs(sampling_arity)
    .setInferType(sampling_type)
    .setInferShape(sampling_shape<true>);

}  // namespace
}  // namespace convpool
