// The operator convpool_convolution.
#include <mxnet/lib_api.h>

#include <cstddef>
#include <cstdint>
#include <limits>
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

constexpr const char* kConvolution = "convolution";

struct AlgorithmName {
  const char* name;
  convpool_algorithm id;
  const char* needs;
};

constexpr AlgorithmName kAlgorithmNames[] = {
    {"auto", CONVPOOL_AUTO, ""},
    {"implicit_gemm", CONVPOOL_IMPLICIT_GEMM, messages::needs_implicit_gemm},
    {"winograd", CONVPOOL_WINOGRAD, messages::needs_winograd},
    {"depthwise", CONVPOOL_DEPTHWISE, messages::needs_depthwise},
};

convpool_algorithm algorithm_named(const std::string& wanted) {
  std::string allowed;
  for (const AlgorithmName& algorithm : kAlgorithmNames) {
    if (wanted == algorithm.name) return algorithm.id;
    allowed += (allowed.empty() ? "" : ", ") + quoted(algorithm.name);
  }
  refuse_choice(kConvolution, "algorithm", quoted(wanted), allowed);
}

// What the last step does to an output, without the sum.
convpool_epilogue activation_named(const Attributes& attributes) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  convpool_epilogue epilogue{nullptr, 1, -kInfinity, kInfinity, 0};
  const std::string type = attributes.string("act_type", "none");
  if (type == "relu") {
    epilogue.lowest = 0;
  } else if (type == "leaky") {
    epilogue.negative_slope = attributes.number("slope", 0.25);
  } else if (type == "clip") {
    epilogue.lowest = attributes.number("a_min", -kInfinity);
    epilogue.highest = attributes.number("a_max", kInfinity);
  } else if (type == "sigmoid") {
    epilogue.sigmoid = 1;
  } else if (type != "none") {
    refuse_choice(kConvolution, "act_type", quoted(type),
                  "'none', 'relu', 'leaky', 'clip', 'sigmoid'");
  }
  return epilogue;
}

struct ConvolutionAttributes {
  const Attributes attributes;
  const std::string layout;
  const WindowAttributes window;
  const int64_t channels, groups;
  const bool bias;
  const convpool_algorithm algorithm;
  const convpool_epilogue activation;
  const bool sum;        // another array is added to the output
  const bool fused;      // there is a last step
  const int64_t pieces;  // arrays that stand one behind the other along the channels of x
  const bool scaled;     // each channel of x is scaled and shifted first
  const bool clipped;    // and is at least 0 then
  const bool prepacked;  // the weight is what convpool_pack_weight made

  explicit ConvolutionAttributes(const StringMap& map)
      : attributes(kConvolution, map,
                   {"kernel", "stride", "dilate", "pad", "num_filter", "num_group", "no_bias",
                    "layout", "algorithm", "act_type", "slope", "a_min", "a_max", "with_sum",
                    "num_data", "with_scale", "data_act_type", "prepacked"}),
        layout(checked_layout(kConvolution, attributes)),
        window(kConvolution, attributes, WindowAttributes::kEach),
        channels(attributes.integer("num_filter", 0)),
        groups(attributes.integer("num_group", 1)),
        bias(!attributes.boolean("no_bias", false)),
        algorithm(algorithm_named(attributes.string("algorithm", "auto"))),
        activation(activation_named(attributes)),
        sum(attributes.boolean("with_sum", false)),
        fused(sum || attributes.string("act_type", "none") != "none"),
        pieces(attributes.integer("num_data", 1)),
        scaled(attributes.boolean("with_scale", false)),
        clipped(is_relu(attributes)),
        prepacked(attributes.boolean("prepacked", false)) {
    check_length(kConvolution, "kernel_size", window.kernel, layout.size() - 2);
    check_least(kConvolution, "channels", channels, 1);
    check_least(kConvolution, "groups", groups, 1);
    check_divisible(kConvolution, "channels", channels, groups);
    check_least(kConvolution, "num_data", pieces, 1);
    if (clipped && !scaled) fail(sentence(messages::relu_without_scale, {{"op", kConvolution}}));
    if (joined() && prepacked) fail(sentence(messages::packed_pieces, {{"op", kConvolution}}));
    if (joined() && !is_pointwise())
      fail(sentence(messages::joined_unfit, {{"op", kConvolution},
                                             {"kernel_size", tuple_text(window.kernel)},
                                             {"strides", tuple_text(window.stride)},
                                             {"padding", window.padding_text()},
                                             {"groups", text(groups)}}));
  }

  // Is x not one array as it stands?
  bool joined() const { return pieces > 1 || scaled; }

  // Where the inputs are: pieces of x, weight, bias, scale and shift, sum.
  size_t weight_at() const { return static_cast<size_t>(pieces); }
  size_t bias_at() const { return weight_at() + 1; }
  size_t scale_at() const { return bias_at() + (bias ? 1 : 0); }
  size_t inputs() const { return scale_at() + (scaled ? 2 : 0) + (sum ? 1 : 0); }

 private:
  bool is_pointwise() const {
    for (size_t i = 0; i < window.kernel.size(); ++i)
      if (window.kernel[i] != 1 || window.stride[i] != 1 || window.pad[i] != 0) return false;
    return groups == 1 && !window.sides_differ();
  }

  static bool is_relu(const Attributes& attributes) {
    const std::string type = attributes.string("data_act_type", "none");
    if (type != "none" && type != "relu")
      refuse_choice(kConvolution, "data_act_type", quoted(type), "'none', 'relu'");
    return type == "relu";
  }
};

convpool_convolution problem_of(const ConvolutionAttributes& attributes, convpool_dtype dtype,
                                const std::vector<int64_t>& x, const std::vector<int64_t>& y) {
  convpool_convolution conv =
      convolution_problem(attributes.layout, attributes.window, attributes.groups, dtype, x, y);
  conv.algorithm = attributes.algorithm;
  return conv;
}

// Refuses a forced algorithm that cannot compute this convolution, once its shapes are known. Types
// are inferred after shapes, and what a kernel needs does not depend on them.
void check_algorithm(const ConvolutionAttributes& attributes, const Shape& data, const Shape& y,
                     bool numpy) {
  if (attributes.algorithm == CONVPOOL_AUTO) return;
  for (const unsigned int size : data)
    if (unknown(size, numpy)) return;
  const convpool_convolution conv = problem_of(
      attributes, CONVPOOL_FLOAT32, Dims(data.begin(), data.end()), Dims(y.begin(), y.end()));
  if (convpool_convolution_algorithm(&conv, CONVPOOL_FORWARD) != CONVPOOL_AUTO) return;
  const AlgorithmName* name = kAlgorithmNames;
  while (name->id != attributes.algorithm) ++name;
  const WindowAttributes& window = attributes.window;
  fail(sentence(messages::algorithm_unfit, {{"op", kConvolution},
                                            {"algorithm", quoted(name->name)},
                                            {"kernel_size", tuple_text(window.kernel)},
                                            {"strides", tuple_text(window.stride)},
                                            {"dilation", tuple_text(window.dilation)},
                                            {"groups", text(attributes.groups)},
                                            {"shape", tuple_text(data)},
                                            {"needs", name->needs}}));
}

// The shape of x, from those of its pieces.
Shape joined_shape(const ConvolutionAttributes& conv, const std::vector<Shape>& in, bool numpy) {
  if (conv.joined() && channels_last(conv.layout))
    fail(
        "convolution: data in several pieces, or scaled, are only for layouts with channels first");
  Shape data = channels_first(conv.layout, in.at(0));
  for (size_t i = 0; i < conv.weight_at(); ++i) {
    const Shape& piece = in.at(i);
    check_axes(kConvolution, conv.layout, piece);
    if (i == 0) continue;
    Shape expected = data;
    expected[1] = piece[1];
    if (!fits(piece, expected, numpy))
      fail(sentence(messages::piece_shape, {{"op", kConvolution},
                                            {"shape", tuple_text(piece)},
                                            {"expected", tuple_text(in.at(0))}}));
    data[1] = unknown(data[1], numpy) || unknown(piece[1], numpy) ? unknown_size(numpy)
                                                                  : data[1] + piece[1];
  }
  return data;
}

void infer_convolution(const StringMap& map, std::vector<Shape>* in, std::vector<Shape>* out,
                       bool numpy) {
  const ConvolutionAttributes& conv = attributes_of<ConvolutionAttributes>(map);
  const Shape data = joined_shape(conv, *in, numpy);
  Shape given = channels_first(conv.layout, in->at(conv.weight_at()));
  const Shape packed = given;
  if (conv.prepacked) {
    if (packed.size() != 1 || unknown(packed[0], numpy))
      fail(sentence(messages::packed_shape,
                    {{"op", kConvolution}, {"weight_shape", tuple_text(packed)}}));
    given.clear();
  }
  const auto shown = [&](const Shape& shape) { return tuple_text(as_layout(conv.layout, shape)); };
  Shape weight{static_cast<unsigned int>(conv.channels), data[1]};
  for (const int64_t size : conv.window.kernel) weight.push_back(static_cast<unsigned int>(size));
  const bool channels_known = !unknown(data[1], numpy);
  if (channels_known && given.size() == weight.size() && !unknown(given[1], numpy) &&
      given[1] * conv.groups != data[1])
    fail(sentence(messages::channels_mismatch, {{"op", kConvolution},
                                                {"data_channels", text(data[1])},
                                                {"weight_shape", shown(given)},
                                                {"groups", text(conv.groups)}}));
  if (channels_known) {
    check_least(kConvolution, "in_channels", int64_t{data[1]}, 1);
    check_divisible(kConvolution, "in_channels", data[1], conv.groups);
    weight[1] = data[1] / static_cast<unsigned int>(conv.groups);
  }
  if (!fits(given, weight, numpy))
    fail(sentence(
        messages::weight_shape,
        {{"op", kConvolution}, {"weight_shape", shown(given)}, {"expected", shown(weight)}}));
  if (!channels_known && given.size() == weight.size()) weight[1] = given[1];
  if (conv.bias) infer_bias(kConvolution, conv.channels, numpy, &in->at(conv.bias_at()));
  for (size_t i = 0; conv.scaled && channels_known && i < 2; ++i) {
    const Shape scale{data[1]};
    Shape& given_scale = in->at(conv.scale_at() + i);
    if (!fits(given_scale, scale, numpy))
      fail(sentence(messages::scale_shape, {{"op", kConvolution},
                                            {"name", i == 0 ? "scale" : "shift"},
                                            {"shape", tuple_text(given_scale)},
                                            {"expected", tuple_text(scale)}}));
    given_scale = scale;
  }
  Shape y{data[0], static_cast<unsigned int>(conv.channels)};
  for (const unsigned int size :
       output_size(kConvolution, conv.window, data, /*full=*/false, numpy))
    y.push_back(size);
  check_elements(kConvolution, y);
  check_algorithm(conv, as_layout(conv.layout, data), as_layout(conv.layout, y), numpy);
  if (conv.sum) {
    const Shape sum = as_layout(conv.layout, y);
    if (!fits(in->back(), sum, numpy))
      fail(sentence(messages::sum_shape, {{"op", kConvolution},
                                          {"sum_shape", tuple_text(in->back())},
                                          {"expected", tuple_text(sum)}}));
    in->back() = sum;
  }
  in->at(conv.weight_at()) = conv.prepacked ? packed : as_layout(conv.layout, weight);
  out->at(0) = as_layout(conv.layout, y);
}

MXReturnValue convolution_arity(const StringMap& map, int* num_in, int* num_out) {
  return guarded([&] {
    const ConvolutionAttributes& attributes = attributes_of<ConvolutionAttributes>(map);
    *num_in = static_cast<int>(attributes.inputs());
    *num_out = 1;
  });
}

template <bool kNumpy>
MXReturnValue convolution_shape(const StringMap& map, std::vector<Shape>* in,
                                std::vector<Shape>* out) {
  return guarded([&] { infer_convolution(map, in, out, kNumpy); });
}

MXReturnValue convolution_type(const StringMap& map, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] {
    const bool prepacked = attributes_of<ConvolutionAttributes>(map).prepacked;
    infer_types(prepacked ? "convolution(prepacked=True)" : kConvolution, in, out,
                prepacked ? kComputed : kReal);
  });
}

// Lets the convolution use what a packed weight has; returns the weight that it was made from.
const void* unpack(const ConvolutionAttributes& attributes, const MXTensor& packed,
                   convpool_convolution* conv) {
  const void* weight = convpool_packed_weight(conv, packed.data_ptr, packed.shape.at(0));
  if (!weight)
    fail(sentence(messages::packed_unfit, {{"op", kConvolution},
                                           {"channels", text(conv->out_channels)},
                                           {"in_channels", text(conv->in_channels)},
                                           {"groups", text(conv->groups)},
                                           {"kernel_size", tuple_text(attributes.window.kernel)},
                                           {"layout", attributes.layout},
                                           {"dtype", dtype_name(packed.dtype)}}));
  conv->packed = packed.data_ptr;
  return weight;
}

MXReturnValue convolution_forward(const StringMap& map, Tensors* in, Tensors* out,
                                  const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const ConvolutionAttributes& attributes = attributes_of<ConvolutionAttributes>(map);
    MXTensor &x = in->at(0), &y = out->at(0);
    convpool_convolution conv = problem_of(attributes, dtype_of(x), x.shape, y.shape);
    const std::vector<ComputedInput> inputs(in->begin(), in->end());
    ComputedOutput output(y);
    convpool_epilogue epilogue = attributes.activation;
    if (attributes.sum) epilogue.sum = inputs.back().data();
    const size_t weight_at = attributes.weight_at();
    const void* weight = attributes.prepacked ? unpack(attributes, in->at(weight_at), &conv)
                                              : inputs[weight_at].data();
    const void* bias = attributes.bias ? inputs[attributes.bias_at()].data() : nullptr;
    const convpool_epilogue* last = attributes.fused ? &epilogue : nullptr;
    if (!attributes.joined()) {
      check_status(kConvolution, convpool_convolution_forward_fused(&conv, inputs[0].data(), weight,
                                                                    bias, last, output.data()));
      output.store();
      return;
    }
    std::vector<const void*> data;
    Dims channels;
    conv.in_channels = 0;
    for (size_t i = 0; i < weight_at; ++i) {
      data.push_back(inputs[i].data());
      channels.push_back(in->at(i).shape[1]);
      conv.in_channels += channels.back();
    }
    convpool_joined_input input{attributes.pieces, data.data(),
                                channels.data(),   nullptr,
                                nullptr,           -std::numeric_limits<double>::infinity()};
    if (attributes.scaled) {
      input.scale = inputs[attributes.scale_at()].data();
      input.shift = inputs[attributes.scale_at() + 1].data();
    }
    if (attributes.clipped) input.lowest = 0;
    check_status(kConvolution, convpool_convolution_forward_joined(&conv, &input, weight, bias,
                                                                   last, output.data()));
    output.store();
  });
}

// Inputs: the gradient of y, then x, weight, bias and y, for there is no sum. Outputs: gradients of
// x, weight and bias.
MXReturnValue convolution_backward(const StringMap& map, Tensors* in, Tensors* out,
                                   const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const ConvolutionAttributes& attributes = attributes_of<ConvolutionAttributes>(map);
    if (attributes.fused || attributes.joined() || attributes.prepacked)
      fail(sentence(messages::fused_gradient, {{"op", kConvolution}}));
    const ComputedInput dy(in->at(0)), x(in->at(1)), weight(in->at(2));
    const convpool_convolution conv =
        problem_of(attributes, dtype_of(in->at(1)), in->at(1).shape, in->at(0).shape);
    ComputedOutput dx(out->at(0)), dweight(out->at(1));
    check_status(kConvolution,
                 convpool_convolution_backward_data(&conv, dy.data(), weight.data(), dx.data()));
    dx.store();
    check_status(kConvolution,
                 convpool_convolution_backward_weight(&conv, x.data(), dy.data(), dweight.data()));
    dweight.store();
    if (!attributes.bias) return;
    ComputedOutput dbias(out->at(2));
    check_status(kConvolution, convpool_convolution_backward_bias(&conv, dy.data(), dbias.data()));
    dbias.store();
  });
}

REGISTER_OP(convpool_convolution)
    .setForward(convolution_forward, "cpu")
    .setBackward(convolution_backward, "cpu")
    .setParseAttrs(convolution_arity)
    .setInferType(convolution_type)
    .setInferShape(convolution_shape<false>);

REGISTER_OP(_npx_convpool_convolution)
    .setForward(convolution_forward, "cpu")
    .setBackward(convolution_backward, "cpu")
    .setParseAttrs(convolution_arity)
    .setInferType(convolution_type)
    .setInferShape(convolution_shape<true>);

}  // namespace
}  // namespace convpool
