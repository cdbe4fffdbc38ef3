// The operator convpool_batch_norm, and its gradient.
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

namespace convpool {
namespace {

constexpr const char* kBatchNorm = "batch_norm";

// Inputs of batch_norm, in their order, and its outputs.
enum { kData, kGamma, kBeta, kRunningMean, kRunningVar, kMode };
enum { kOut, kMean, kInvStd, kTraining, kBatchNormOutputs };

struct BatchNormAttributes {
  const Attributes attributes;
  const double epsilon, momentum;
  const bool fix_gamma, use_global_stats;
  const std::string mode, act_type;

  explicit BatchNormAttributes(const StringMap& map)
      : attributes(kBatchNorm, map,
                   {"eps", "momentum", "fix_gamma", "use_global_stats", "mode", "act_type"}),
        epsilon(attributes.number("eps", 1e-3)),
        momentum(attributes.number("momentum", 0.9)),
        fix_gamma(attributes.boolean("fix_gamma", true)),
        use_global_stats(attributes.boolean("use_global_stats", false)),
        mode(attributes.string("mode", "predict")),
        act_type(attributes.string("act_type", "none")) {
    if (mode != "predict" && mode != "train" && mode != "input")
      refuse_choice(kBatchNorm, "mode", quoted(mode), "'predict', 'train', 'input'");
    if (act_type != "none" && act_type != "relu")
      refuse_choice(kBatchNorm, "act_type", quoted(act_type), "'none', 'relu'");
  }

  size_t inputs() const { return mode == "input" ? kMode + 1 : kMode; }
};

convpool_batch_norm batch_norm_problem(const BatchNormAttributes& attributes, bool training,
                                       const MXTensor& data) {
  const std::vector<int64_t>& x = data.shape;
  convpool_batch_norm norm{};
  norm.dtype = dtype_of(data);
  norm.training = training ? 1 : 0;
  norm.fix_gamma = attributes.fix_gamma ? 1 : 0;
  norm.relu = attributes.act_type == "relu" ? 1 : 0;
  norm.batch = x[0];
  norm.channels = x[1];
  norm.inner = 1;
  for (size_t i = 2; i < x.size(); ++i) norm.inner *= x[i];
  norm.epsilon = attributes.epsilon;
  norm.momentum = attributes.momentum;
  return norm;
}

// An extension operator is not told whether it runs for training. In a graph, which serves both, it
// is told by one of MXNet's that is: `mode` is zero in training, and not else (see
// docs/OPERATORS.md). What is not finite does not tell.
template <typename T>
bool is_training(const BatchNormAttributes& attributes, Tensors* in) {
  if (attributes.use_global_stats) return false;
  if (attributes.mode != "input") return attributes.mode == "train";
  const T* mode = static_cast<const T*>(in->at(kMode).data_ptr);
  for (int64_t i = 0; i < in->at(kMode).shape[0]; ++i)
    if (mode[i] < 0 || mode[i] > 0) return false;
  return true;
}

MXReturnValue batch_norm_arity(const StringMap& map, int* num_in, int* num_out) {
  return guarded([&] {
    *num_in = static_cast<int>(attributes_of<BatchNormAttributes>(map).inputs());
    *num_out = kBatchNormOutputs;
  });
}

MXReturnValue batch_norm_mutates(const StringMap&, std::vector<int>* indices) {
  *indices = {kRunningMean, kRunningVar};
  return MX_SUCCESS;
}

template <bool kNumpy>
MXReturnValue batch_norm_shape(const StringMap&, std::vector<Shape>* in, std::vector<Shape>* out) {
  return guarded([&] {
    const Shape& data = in->at(kData);
    check_known(kBatchNorm, data);
    if (data.size() < 2)
      fail(sentence(messages::too_few_axes, {{"op", kBatchNorm}, {"shape", tuple_text(data)}}));
    const Shape channels{data[1]};
    for (size_t i = kGamma; i <= kRunningVar; ++i) {
      if (!fits(in->at(i), channels, kNumpy))
        fail(sentence(
            messages::channels_of_statistics,
            {{"op", kBatchNorm}, {"shape", tuple_text(data)}, {"channels", text(in->at(i)[0])}}));
      in->at(i) = channels;
    }
    // The layer that it was made for is the first one that is asked.
    if (in->size() > kMode && fits(in->at(kMode), channels, kNumpy)) in->at(kMode) = channels;
    out->at(kOut) = data;
    out->at(kMean) = out->at(kInvStd) = channels;
    out->at(kTraining) = {1};
  });
}

MXReturnValue batch_norm_type(const StringMap&, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] { infer_types(kBatchNorm, in, out); });
}

MXReturnValue batch_norm_forward(const StringMap& map, Tensors* in, Tensors* out,
                                 const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const BatchNormAttributes& attributes = attributes_of<BatchNormAttributes>(map);
    const bool is_double = dtype_of(in->at(kData)) == CONVPOOL_FLOAT64;
    const bool training =
        is_double ? is_training<double>(attributes, in) : is_training<float>(attributes, in);
    void* told = out->at(kTraining).data_ptr;
    if (is_double)
      *static_cast<double*>(told) = training;
    else
      *static_cast<float*>(told) = training;
    const convpool_batch_norm norm = batch_norm_problem(attributes, training, in->at(kData));
    check_status(kBatchNorm,
                 convpool_batch_norm_forward(&norm, in->at(kData).data_ptr, in->at(kGamma).data_ptr,
                                             in->at(kBeta).data_ptr, in->at(kRunningMean).data_ptr,
                                             in->at(kRunningVar).data_ptr, out->at(kOut).data_ptr,
                                             out->at(kMean).data_ptr, out->at(kInvStd).data_ptr));
  });
}

// The gradient is registered below as an operator of its own, because only so can it say that it
// writes to two of its inputs. Its inputs: the gradients of the outputs, the inputs, the outputs.
constexpr int kFirstInput = kBatchNormOutputs;

MXReturnValue batch_norm_gradient_arity(const StringMap& map, int* num_in, int* num_out) {
  return guarded([&] {
    *num_out = static_cast<int>(attributes_of<BatchNormAttributes>(map).inputs());
    *num_in = *num_out + 2 * kBatchNormOutputs;
  });
}

MXReturnValue batch_norm_gradient_mutates(const StringMap&, std::vector<int>* indices) {
  *indices = {kFirstInput + kRunningMean, kFirstInput + kRunningVar};
  return MX_SUCCESS;
}

MXReturnValue batch_norm_gradient_shape(const StringMap&, std::vector<Shape>* in,
                                        std::vector<Shape>* out) {
  return guarded([&] {
    for (size_t i = 0; i < out->size(); ++i) out->at(i) = in->at(kFirstInput + i);
  });
}

MXReturnValue batch_norm_gradient(const StringMap& map, Tensors* in, Tensors* out,
                                  const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const BatchNormAttributes& attributes = attributes_of<BatchNormAttributes>(map);
    const auto input = [&](size_t i) { return in->at(kFirstInput + i).data_ptr; };
    const auto output = [&](size_t i) {
      return in->at(kFirstInput + attributes.inputs() + i).data_ptr;
    };
    const MXTensor& x = in->at(kFirstInput + kData);
    const void* told = output(kTraining);
    const bool training = dtype_of(x) == CONVPOOL_FLOAT64 ? *static_cast<const double*>(told) != 0
                                                          : *static_cast<const float*>(told) != 0;
    const convpool_batch_norm norm = batch_norm_problem(attributes, training, x);
    check_status(kBatchNorm, convpool_batch_norm_backward(
                                 &norm, input(kData), input(kGamma), input(kBeta), output(kMean),
                                 output(kInvStd), in->at(kOut).data_ptr, out->at(kData).data_ptr,
                                 out->at(kGamma).data_ptr, out->at(kBeta).data_ptr,
                                 input(kRunningMean), input(kRunningVar)));
  });
}

REGISTER_OP(convpool_batch_norm)
    .setForward(batch_norm_forward, "cpu")
    .setBackward(batch_norm_gradient, "cpu")
    .setParseAttrs(batch_norm_arity)
    .setInferType(batch_norm_type)
    .setInferShape(batch_norm_shape<false>)
    .setMutateInputs(batch_norm_mutates);

REGISTER_OP(_backward_convpool_batch_norm)
    .setForward(batch_norm_gradient, "cpu")
    .setParseAttrs(batch_norm_gradient_arity)
    .setInferType(batch_norm_type)
    .setInferShape(batch_norm_gradient_shape)
    .setMutateInputs(batch_norm_gradient_mutates);

REGISTER_OP(_npx_convpool_batch_norm)
    .setForward(batch_norm_forward, "cpu")
    .setBackward(batch_norm_gradient, "cpu")
    .setParseAttrs(batch_norm_arity)
    .setInferType(batch_norm_type)
    .setInferShape(batch_norm_shape<true>)
    .setMutateInputs(batch_norm_mutates);

REGISTER_OP(_backward__npx_convpool_batch_norm)
    .setForward(batch_norm_gradient, "cpu")
    .setParseAttrs(batch_norm_gradient_arity)
    .setInferType(batch_norm_type)
    .setInferShape(batch_norm_gradient_shape)
    .setMutateInputs(batch_norm_gradient_mutates);

}  // namespace
}  // namespace convpool
