// The operator convpool_pooling.
#include <mxnet/lib_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../convpool.h"
#include "../stored_numbers.h"
#include "arrays.h"
#include "attribute_checks.h"
#include "attributes.h"
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

constexpr const char* kPooling = "pooling";

struct PoolingAttributes {
  const Attributes attributes;
  const std::string layout;
  const WindowAttributes window;
  const bool global, full, count_include_pad;
  const int64_t p;
  convpool_pool_mode mode = CONVPOOL_MAX;

  explicit PoolingAttributes(const StringMap& map)
      : attributes(kPooling, map,
                   {"kernel", "stride", "pad", "pool_type", "global_pool", "pooling_convention",
                    "count_include_pad", "p_value", "layout"}),
        layout(checked_layout(kPooling, attributes)),
        window(kPooling, attributes, WindowAttributes::kEach),
        global(attributes.boolean("global_pool", false)),
        full(attributes.string("pooling_convention", "valid") == "full"),
        count_include_pad(attributes.boolean("count_include_pad", true)),
        p(attributes.integer("p_value", 2)) {
    const std::string type = attributes.string("pool_type", "max");
    if (type == "max") {
      mode = CONVPOOL_MAX;
    } else if (type == "avg") {
      mode = CONVPOOL_AVG;
    } else if (type == "sum") {
      mode = CONVPOOL_SUM;
    } else if (type == "lp") {
      mode = CONVPOOL_LP;
    } else {
      refuse_choice(kPooling, "mode", quoted(type), "'max', 'avg', 'sum', 'lp'");
    }
    if (mode == CONVPOOL_LP && (p < 1 || p > 3)) refuse_choice(kPooling, "p", text(p), "1, 2, 3");
    if (global) return;
    check_length(kPooling, "pool_size", window.kernel, layout.size() - 2);
    for (size_t i = 0; i < window.kernel.size(); ++i)
      if (std::max(window.pad[i], window.pad_end[i]) >= window.kernel[i])
        fail(sentence(messages::padding_not_smaller, {{"op", kPooling},
                                                      {"padding", window.padding_text()},
                                                      {"pool_size", tuple_text(window.kernel)}}));
    if (full && window.sides_differ())
      fail(sentence(messages::ceil_mode_sides,
                    {{"op", kPooling}, {"padding", window.padding_text()}}));
  }

  // Kernels know the padding in front alone. Where that behind is another one, windows end within
  // it, for only the full convention has some that do not.
  convpool_count counts() const {
    if (!count_include_pad) return CONVPOOL_COUNT_DATA;
    return !global && window.sides_differ() ? CONVPOOL_COUNT_WINDOW : CONVPOOL_COUNT_PADDING;
  }
};

void infer_pooling(const StringMap& map, std::vector<Shape>* in, std::vector<Shape>* out,
                   bool numpy) {
  const PoolingAttributes& pool = attributes_of<PoolingAttributes>(map);
  check_axes(kPooling, pool.layout, in->at(0));
  const Shape data = channels_first(pool.layout, in->at(0));
  Shape y{data[0], data[1]};
  if (pool.global) {
    output_size(kPooling, WindowAttributes::single(data.size() - 2), data, false, numpy);
    y.resize(data.size(), 1);
  } else {
    for (const unsigned int size : output_size(kPooling, pool.window, data, pool.full, numpy))
      y.push_back(size);
  }
  check_elements(kPooling, y);
  out->at(0) = as_layout(pool.layout, y);
}

convpool_pooling pooling_problem(const PoolingAttributes& attributes, convpool_dtype dtype,
                                 const std::vector<int64_t>& data,
                                 const std::vector<int64_t>& out) {
  const Dims x = channels_first(attributes.layout, data),
             y = channels_first(attributes.layout, out);
  convpool_pooling pool{};
  pool.dtype = dtype;
  pool.layout = layout_of(attributes.layout);
  pool.mode = attributes.mode;
  pool.p = static_cast<int32_t>(attributes.p);
  pool.count_include_pad = attributes.counts();
  pool.batch = x[0];
  pool.channels = x[1];
  fill_window(attributes.window, x, y, attributes.global, &pool.window);
  return pool;
}

MXReturnValue pooling_arity(const StringMap& map, int* num_in, int* num_out) {
  return guarded([&] {
    attributes_of<PoolingAttributes>(map);  // refuses wrong ones
    *num_in = 1;
    *num_out = 1;
  });
}

template <bool kNumpy>
MXReturnValue pooling_shape(const StringMap& map, std::vector<Shape>* in, std::vector<Shape>* out) {
  return guarded([&] { infer_pooling(map, in, out, kNumpy); });
}

MXReturnValue pooling_type(const StringMap& map, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] {
    const bool root = attributes_of<PoolingAttributes>(map).mode == CONVPOOL_LP;
    infer_types(root ? "pooling(mode='lp')" : kPooling, in, out, root ? kReal : kRealAndIntegers);
  });
}

template <typename Wide>
std::unique_ptr<Wide[]> pool_wide(const PoolingAttributes& attributes, const Wide* x,
                                  const MXTensor& data, const MXTensor& y) {
  std::unique_ptr<Wide[]> out = room_for<Wide>(y);
  const convpool_pooling pool = pooling_problem(attributes, kWideType<Wide>, data.shape, y.shape);
  check_status(kPooling, convpool_pooling_forward(&pool, x, out.get()));
  return out;
}

template <typename Wide, typename Stored>
void pooling_of_stored(const PoolingAttributes& attributes, const MXTensor& x, const MXTensor& y) {
  const auto data = wide_values<Wide, Stored>(x);
  const auto out = pool_wide<Wide>(attributes, data.get(), x, y);
  narrow(out.get(), elements(y), /*floor=*/attributes.mode == CONVPOOL_AVG,
         static_cast<Stored*>(y.data_ptr));
}

MXReturnValue pooling_forward(const StringMap& map, Tensors* in, Tensors* out,
                              const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const PoolingAttributes& attributes = attributes_of<PoolingAttributes>(map);
    MXTensor &x = in->at(0), &y = out->at(0);
    switch (x.dtype) {
      case mxnet::ext::kFloat16:
        return pooling_of_stored<float, Half>(attributes, x, y);
      case mxnet::ext::kInt8:
        return pooling_of_stored<double, int8_t>(attributes, x, y);
      case mxnet::ext::kUint8:
        return pooling_of_stored<double, uint8_t>(attributes, x, y);
      case mxnet::ext::kInt32:
        return pooling_of_stored<double, int32_t>(attributes, x, y);
      default:
        break;
    }
    const convpool_pooling pool = pooling_problem(attributes, dtype_of(x), x.shape, y.shape);
    check_status(kPooling, convpool_pooling_forward(&pool, x.data_ptr, y.data_ptr));
  });
}

// The output is computed again: y has been rounded.
void pooling_backward_of_half(const PoolingAttributes& attributes, const MXTensor& dy,
                              const MXTensor& x, const MXTensor& dx) {
  const auto data = wide_values<float, Half>(x), gradient = wide_values<float, Half>(dy);
  const auto y = pool_wide<float>(attributes, data.get(), x, dy);
  const auto found = room_for<float>(dx);
  const convpool_pooling pool = pooling_problem(attributes, CONVPOOL_FLOAT32, x.shape, dy.shape);
  check_status(kPooling,
               convpool_pooling_backward(&pool, data.get(), y.get(), gradient.get(), found.get()));
  narrow(found.get(), elements(dx), /*floor=*/false, static_cast<Half*>(dx.data_ptr));
}

// Inputs: the gradient of y, then x and y. Output: the gradient of x.
MXReturnValue pooling_backward(const StringMap& map, Tensors* in, Tensors* out,
                               const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const PoolingAttributes& attributes = attributes_of<PoolingAttributes>(map);
    MXTensor &dy = in->at(0), &x = in->at(1), &y = in->at(2), &dx = out->at(0);
    if (x.dtype == mxnet::ext::kFloat16) return pooling_backward_of_half(attributes, dy, x, dx);
    if (x.dtype != mxnet::ext::kFloat32 && x.dtype != mxnet::ext::kFloat64) {
      // What is rounded to integers has no slope.
      const size_t size = x.dtype == mxnet::ext::kInt32 ? sizeof(int32_t) : sizeof(int8_t);
      std::fill_n(static_cast<char*>(dx.data_ptr), size * static_cast<size_t>(elements(dx)), '\0');
      return;
    }
    const convpool_pooling pool = pooling_problem(attributes, dtype_of(x), x.shape, y.shape);
    check_status(kPooling, convpool_pooling_backward(&pool, x.data_ptr, y.data_ptr, dy.data_ptr,
                                                     dx.data_ptr));
  });
}

REGISTER_OP(convpool_pooling)
    .setForward(pooling_forward, "cpu")
    .setBackward(pooling_backward, "cpu")
    .setParseAttrs(pooling_arity)
    .setInferType(pooling_type)
    .setInferShape(pooling_shape<false>);

REGISTER_OP(_npx_convpool_pooling)
    .setForward(pooling_forward, "cpu")
    .setBackward(pooling_backward, "cpu")
    .setParseAttrs(pooling_arity)
    .setInferType(pooling_type)
    .setInferShape(pooling_shape<true>);

}  // namespace
}  // namespace convpool
