// The operators, as MXNet sees them: attributes in, shapes and types inferred, kernel called.
// This is the only file, besides extension.cc, that knows MXNet.
//
// Each operator stands under two names, with the prefix _npx_ for mx.np arrays and without it for
// legacy ones. Names and attributes are written into users' exported files: see docs/OPERATORS.md.
#include <mxnet/lib_api.h>

#include <algorithm>
#include <exception>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "convpool.h"
#include "extension.h"
#include "large_pages.h"
#include "messages.h"
#include "stored_numbers.h"

namespace convpool {
namespace {

using mxnet::ext::MX_FAIL;
using mxnet::ext::MX_SUCCESS;
using mxnet::ext::MXReturnValue;
using mxnet::ext::MXTensor;
using Dims = std::vector<int64_t>;
using Shape = std::vector<unsigned int>;
using StringMap = std::unordered_map<std::string, std::string>;

// MXNet's own arrays and indices end here (its build has 32-bit sizes).
constexpr double kMostElements = 2147483647.0;

// How MXNet writes an unknown size: -1 under NumPy semantics (seen through an unsigned), 0 without.
constexpr unsigned int kUnknown = 4294967295u;

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

std::string text(int64_t value) { return std::to_string(value); }

template <typename Values>
std::string tuple_text(const Values& values) {
  std::string out = "(";
  for (size_t i = 0; i < values.size(); ++i) {
    if (i) out += ", ";
    out += std::to_string(values[i]);
  }
  return out + (values.size() == 1 ? ",)" : ")");
}

// Fills {name} in a sentence of messages.h.
std::string sentence(const char* form,
                     std::initializer_list<std::pair<const char*, std::string>> values) {
  std::string out;
  for (const char* p = form; *p;) {
    if (*p != '{') {
      out += *p++;
      continue;
    }
    const std::string rest(p + 1);
    const size_t end = rest.find('}');
    const std::string name = rest.substr(0, end);
    for (const auto& value : values)
      if (name == value.first) out += value.second;
    p += end + 2;
  }
  return out;
}

// The attributes of one node, as strings that Python wrote.
class Attributes {
 public:
  Attributes(const char* op, const StringMap& map, std::initializer_list<const char*> known)
      : op_(op), map_(map) {
    for (const auto& entry : map) {
      if (entry.first.compare(0, 2, "__") == 0) continue;  // MXNet's own marks on a node
      bool found = false;
      for (const char* name : known) found = found || entry.first == name;
      if (!found) fail(std::string(op) + ": unknown attribute " + entry.first);
    }
  }

  bool has(const char* name) const {
    const auto found = map_.find(name);
    return found != map_.end() && found->second != "None" && found->second != "()" &&
           found->second != "[]";
  }

  std::string string(const char* name, const char* otherwise) const {
    return has(name) ? map_.at(name) : otherwise;
  }

  int64_t integer(const char* name, int64_t otherwise) const {
    return has(name) ? parse(name, map_.at(name)) : otherwise;
  }

  double number(const char* name, double otherwise) const {
    if (!has(name)) return otherwise;
    const std::string& value = map_.at(name);
    try {
      size_t used = 0;
      const double number = std::stod(value, &used);
      if (used == value.size() && number == number) return number;
    } catch (const std::exception&) {
    }
    fail(std::string(op_) + ": attribute " + name + "=" + value + " is not a number");
  }

  bool boolean(const char* name, bool otherwise) const {
    if (!has(name)) return otherwise;
    const std::string& value = map_.at(name);
    if (value == "True" || value == "true" || value == "1") return true;
    if (value == "False" || value == "false" || value == "0") return false;
    fail(std::string(op_) + ": attribute " + name + "=" + value + " is neither True nor False");
  }

  // "(1, 2)", "[1, 2]" or "3"; empty where the attribute is absent.
  Dims tuple(const char* name) const {
    Dims values;
    if (!has(name)) return values;
    std::string item;
    for (const char c : map_.at(name) + ",") {
      if (c == '(' || c == ')' || c == '[' || c == ']' || c == ' ' || c == 'L') continue;
      if (c != ',') {
        item += c;
      } else if (!item.empty()) {
        values.push_back(parse(name, item));
        item.clear();
      }
    }
    return values;
  }

 private:
  int64_t parse(const char* name, const std::string& value) const {
    try {
      size_t used = 0;
      const int64_t number = std::stoll(value, &used);
      if (used == value.size()) return number;
    } catch (const std::exception&) {
    }
    fail(std::string(op_) + ": attribute " + name + "=" + value + " is not an integer");
  }

  const char* op_;
  const StringMap& map_;
};

// A node's attributes as `Parsed`, which reads them from a map that outlives it. MXNet asks about a
// node some ten times for a call and its gradient, each time with the attributes as text, and to
// parse them takes as long as a small layer: a thread keeps those that it has seen.
template <typename Parsed>
const Parsed& attributes_of(const StringMap& map) {
  struct Node {
    const StringMap map;
    const Parsed parsed;
    explicit Node(const StringMap& from) : map(from), parsed(map) {}
  };
  constexpr size_t kMost = 1024;
  thread_local std::unordered_multimap<size_t, Node> seen;
  const std::hash<std::string> hash;
  size_t key = 0;  // the same in whatever order the attributes come
  for (const auto& one : map) key += hash(one.first) * 31 + hash(one.second) * 17;
  const auto equal = seen.equal_range(key);
  for (auto one = equal.first; one != equal.second; ++one)
    if (one->second.map == map) return one->second.parsed;
  if (seen.size() >= kMost) seen.clear();
  return seen.emplace(key, map)->second.parsed;
}

// A window's attributes, checked, with what is absent filled in.
struct WindowAttributes {
  Dims kernel, stride, dilation, pad;

  WindowAttributes(const char* op, const Attributes& attributes)
      : kernel(attributes.tuple("kernel")),
        stride(filled(op, attributes, "stride", 1)),
        dilation(filled(op, attributes, "dilate", 1)),
        pad(filled(op, attributes, "pad", 0)) {
    check_least(op, "kernel_size", kernel, 1);
    check_least(op, "strides", stride, 1);
    check_least(op, "dilation", dilation, 1);
    check_least(op, "padding", pad, 0);
  }

  // The smallest window, which anything but an empty array holds.
  static WindowAttributes single(size_t ndim) {
    WindowAttributes window;
    window.kernel = window.stride = window.dilation = Dims(ndim, 1);
    window.pad = Dims(ndim, 0);
    return window;
  }

 private:
  WindowAttributes() = default;

  Dims filled(const char* op, const Attributes& attributes, const char* name,
              int64_t otherwise) const {
    const Dims values = attributes.tuple(name);
    if (values.empty()) return Dims(kernel.size(), otherwise);
    if (values.size() != kernel.size())
      fail(sentence(messages::tuple_length, {{"op", op},
                                             {"name", name},
                                             {"value", tuple_text(values)},
                                             {"ndim", text(static_cast<int64_t>(kernel.size()))}}));
    return values;
  }

  static void check_least(const char* op, const char* name, const Dims& values, int64_t least) {
    for (const int64_t value : values)
      if (value < least)
        fail(sentence(
            messages::below_minimum,
            {{"op", op}, {"name", name}, {"value", tuple_text(values)}, {"minimum", text(least)}}));
  }
};

std::string checked_layout(const char* op, const Attributes& attributes) {
  const std::string layout = attributes.string("layout", "NCHW");
  for (const char* known : {"NCW", "NCHW", "NCDHW", "NWC", "NHWC", "NDHWC"})
    if (layout == known) return layout;
  fail(sentence(messages::unknown_choice,
                {{"op", op},
                 {"name", "layout"},
                 {"value", "'" + layout + "'"},
                 {"allowed", "'NCW', 'NCHW', 'NCDHW', 'NWC', 'NHWC', 'NDHWC'"}}));
}

// Everything here has channels first; shapes are turned where they come and go, and to be shown.
bool channels_last(const std::string& layout) { return layout.back() == 'C'; }

convpool_layout layout_of(const std::string& layout) {
  return channels_last(layout) ? CONVPOOL_CHANNEL_LAST : CONVPOOL_CHANNEL_FIRST;
}

template <typename Values>
Values channels_first(const std::string& layout, Values shape) {
  if (channels_last(layout) && shape.size() == layout.size())
    std::rotate(shape.begin() + 1, shape.end() - 1, shape.end());
  return shape;
}

template <typename Values>
Values as_layout(const std::string& layout, Values shape) {
  if (channels_last(layout) && shape.size() == layout.size())
    std::rotate(shape.begin() + 1, shape.begin() + 2, shape.end());
  return shape;
}

constexpr const char* kConvolution = "convolution";
constexpr const char* kPooling = "pooling";

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
    allowed += (allowed.empty() ? "'" : ", '") + std::string(algorithm.name) + "'";
  }
  fail(sentence(messages::unknown_choice, {{"op", kConvolution},
                                           {"name", "algorithm"},
                                           {"value", "'" + wanted + "'"},
                                           {"allowed", allowed}}));
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
    fail(sentence(messages::unknown_choice,
                  {{"op", kConvolution},
                   {"name", "act_type"},
                   {"value", "'" + type + "'"},
                   {"allowed", "'none', 'relu', 'leaky', 'clip', 'sigmoid'"}}));
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
        window(kConvolution, attributes),
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
    if (window.kernel.size() + 2 != layout.size())
      fail(sentence(messages::tuple_length,
                    {{"op", kConvolution},
                     {"name", "kernel_size"},
                     {"value", tuple_text(window.kernel)},
                     {"ndim", text(static_cast<int64_t>(layout.size()) - 2)}}));
    check_positive("channels", channels);
    check_positive("groups", groups);
    if (channels % groups != 0) fail(not_divisible("channels", channels));
    check_positive("num_data", pieces);
    if (clipped && !scaled) fail(sentence(messages::relu_without_scale, {{"op", kConvolution}}));
    if (joined() && prepacked) fail(sentence(messages::packed_pieces, {{"op", kConvolution}}));
    if (joined() && !is_pointwise())
      fail(sentence(messages::joined_unfit, {{"op", kConvolution},
                                             {"kernel_size", tuple_text(window.kernel)},
                                             {"strides", tuple_text(window.stride)},
                                             {"padding", tuple_text(window.pad)},
                                             {"groups", text(groups)}}));
  }

  // Is x not one array as it stands?
  bool joined() const { return pieces > 1 || scaled; }

  // Where the inputs are: pieces of x, weight, bias, scale and shift, sum.
  size_t weight_at() const { return static_cast<size_t>(pieces); }
  size_t bias_at() const { return weight_at() + 1; }
  size_t scale_at() const { return bias_at() + (bias ? 1 : 0); }
  size_t inputs() const { return scale_at() + (scaled ? 2 : 0) + (sum ? 1 : 0); }

  std::string not_divisible(const char* name, int64_t value) const {
    return sentence(
        messages::channels_not_divisible,
        {{"op", kConvolution}, {"groups", text(groups)}, {"name", name}, {"value", text(value)}});
  }

 private:
  bool is_pointwise() const {
    for (size_t i = 0; i < window.kernel.size(); ++i)
      if (window.kernel[i] != 1 || window.stride[i] != 1 || window.pad[i] != 0) return false;
    return groups == 1;
  }

  static bool is_relu(const Attributes& attributes) {
    const std::string type = attributes.string("data_act_type", "none");
    if (type != "none" && type != "relu")
      fail(sentence(messages::unknown_choice, {{"op", kConvolution},
                                               {"name", "data_act_type"},
                                               {"value", "'" + type + "'"},
                                               {"allowed", "'none', 'relu'"}}));
    return type == "relu";
  }

  static void check_positive(const char* name, int64_t value) {
    if (value < 1)
      fail(sentence(
          messages::below_minimum,
          {{"op", kConvolution}, {"name", name}, {"value", text(value)}, {"minimum", "1"}}));
  }
};

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
        window(kPooling, attributes),
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
      fail(sentence(messages::unknown_choice, {{"op", kPooling},
                                               {"name", "mode"},
                                               {"value", "'" + type + "'"},
                                               {"allowed", "'max', 'avg', 'sum', 'lp'"}}));
    }
    if (mode == CONVPOOL_LP && (p < 1 || p > 3))
      fail(sentence(messages::unknown_choice,
                    {{"op", kPooling}, {"name", "p"}, {"value", text(p)}, {"allowed", "1, 2, 3"}}));
    if (global) return;
    if (window.kernel.size() + 2 != layout.size())
      fail(sentence(messages::tuple_length,
                    {{"op", kPooling},
                     {"name", "pool_size"},
                     {"value", tuple_text(window.kernel)},
                     {"ndim", text(static_cast<int64_t>(layout.size()) - 2)}}));
    for (size_t i = 0; i < window.kernel.size(); ++i)
      if (window.pad[i] >= window.kernel[i])
        fail(sentence(messages::padding_not_smaller, {{"op", kPooling},
                                                      {"padding", tuple_text(window.pad)},
                                                      {"pool_size", tuple_text(window.kernel)}}));
  }
};

// ceil(a / b) for b > 0 and a >= 0, or floor.
int64_t divided(int64_t a, int64_t b, bool up) { return up ? (a + b - 1) / b : a / b; }

bool unknown(unsigned int size, bool numpy) { return size == kUnknown || (size == 0 && !numpy); }

// The spatial sizes of the output; sizes that are not known yet stay so.
Shape output_size(const char* op, const WindowAttributes& window, const Shape& data, bool full,
                  bool numpy) {
  Shape out;
  Dims padded, extent;
  bool fits = true;
  for (size_t i = 0; i < window.kernel.size(); ++i) {
    const unsigned int size = data[i + 2];
    extent.push_back(window.dilation[i] * (window.kernel[i] - 1) + 1);
    padded.push_back(static_cast<int64_t>(size) + 2 * window.pad[i]);
    if (unknown(size, numpy)) {
      out.push_back(size);
      continue;
    }
    if (extent[i] > padded[i]) {
      fits = false;
      continue;
    }
    out.push_back(
        static_cast<unsigned int>(divided(padded[i] - extent[i], window.stride[i], full) + 1));
  }
  if (!fits)
    fail(sentence(messages::kernel_too_large, {{"op", op},
                                               {"kernel_size", tuple_text(window.kernel)},
                                               {"dilation", tuple_text(window.dilation)},
                                               {"padding", tuple_text(window.pad)},
                                               {"extent", tuple_text(extent)},
                                               {"padded", tuple_text(padded)}}));
  return out;
}

void check_axes(const char* op, const std::string& layout, const Shape& data) {
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

// Does a shape that is known in part fit one that is known?
bool fits(const Shape& shape, const Shape& known, bool numpy) {
  if (shape.empty()) return true;
  if (shape.size() != known.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i)
    if (!unknown(shape[i], numpy) && !unknown(known[i], numpy) && shape[i] != known[i])
      return false;
  return true;
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

convpool_dtype dtype_of(const MXTensor& array) {
  return array.dtype == mxnet::ext::kFloat64 ? CONVPOOL_FLOAT64 : CONVPOOL_FLOAT32;
}

convpool_convolution convolution_problem(const ConvolutionAttributes& attributes,
                                         convpool_dtype dtype, const std::vector<int64_t>& data,
                                         const std::vector<int64_t>& out) {
  const Dims x = channels_first(attributes.layout, data),
             y = channels_first(attributes.layout, out);
  convpool_convolution conv{};
  conv.dtype = dtype;
  conv.layout = layout_of(attributes.layout);
  conv.algorithm = attributes.algorithm;
  conv.batch = x[0];
  conv.in_channels = x[1];
  conv.out_channels = y[1];
  conv.groups = attributes.groups;
  fill_window(attributes.window, x, y, false, &conv.window);
  return conv;
}

// Refuses a forced algorithm that cannot compute this convolution, once its shapes are known. Types
// are inferred after shapes, and what a kernel needs does not depend on them.
void check_algorithm(const ConvolutionAttributes& attributes, const Shape& data, const Shape& y,
                     bool numpy) {
  if (attributes.algorithm == CONVPOOL_AUTO) return;
  for (const unsigned int size : data)
    if (unknown(size, numpy)) return;
  const convpool_convolution conv = convolution_problem(
      attributes, CONVPOOL_FLOAT32, Dims(data.begin(), data.end()), Dims(y.begin(), y.end()));
  if (convpool_convolution_algorithm(&conv, CONVPOOL_FORWARD) != CONVPOOL_AUTO) return;
  const AlgorithmName* name = kAlgorithmNames;
  while (name->id != attributes.algorithm) ++name;
  const WindowAttributes& window = attributes.window;
  fail(sentence(messages::algorithm_unfit, {{"op", kConvolution},
                                            {"algorithm", "'" + std::string(name->name) + "'"},
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
    if (piece.empty()) fail("convolution: the shape of data is not known");
    check_axes(kConvolution, conv.layout, piece);
    if (i == 0) continue;
    Shape expected = data;
    expected[1] = piece[1];
    if (!fits(piece, expected, numpy))
      fail(sentence(messages::piece_shape, {{"op", kConvolution},
                                            {"shape", tuple_text(piece)},
                                            {"expected", tuple_text(in.at(0))}}));
    data[1] = unknown(data[1], numpy) || unknown(piece[1], numpy) ? (numpy ? kUnknown : 0)
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
    if (data[1] % conv.groups != 0) fail(conv.not_divisible("in_channels", data[1]));
    weight[1] = data[1] / static_cast<unsigned int>(conv.groups);
  }
  if (!fits(given, weight, numpy))
    fail(sentence(
        messages::weight_shape,
        {{"op", kConvolution}, {"weight_shape", shown(given)}, {"expected", shown(weight)}}));
  if (!channels_known && given.size() == weight.size()) weight[1] = given[1];
  if (conv.bias) {
    const Shape bias{static_cast<unsigned int>(conv.channels)};
    Shape& given_bias = in->at(conv.bias_at());
    if (!fits(given_bias, bias, numpy))
      fail(sentence(messages::bias_shape, {{"op", kConvolution},
                                           {"bias_shape", tuple_text(given_bias)},
                                           {"expected", tuple_text(bias)}}));
    given_bias = bias;
  }
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

void infer_pooling(const StringMap& map, std::vector<Shape>* in, std::vector<Shape>* out,
                   bool numpy) {
  const PoolingAttributes& pool = attributes_of<PoolingAttributes>(map);
  if (in->at(0).empty()) fail("pooling: the shape of data is not known");
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

// MXNet's type codes, as Python names them.
std::string dtype_name(int type) {
  constexpr const char* kNames[] = {"float32", "float64", "float16", "uint8",
                                    "int32",   "int8",    "int64"};
  const bool known = type >= 0 && type < static_cast<int>(sizeof(kNames) / sizeof(*kNames));
  return known ? kNames[type] : "type code " + text(type);
}

struct Types {
  const char* names;
  std::vector<int> codes;
};

// What the kernels compute, what is stored and computed as float, and what is as double.
const Types kComputed{"float32, float64", {mxnet::ext::kFloat32, mxnet::ext::kFloat64}};
const Types kReal{"float32, float64, float16",
                  {mxnet::ext::kFloat32, mxnet::ext::kFloat64, mxnet::ext::kFloat16}};
const Types kRealAndIntegers{"float32, float64, float16, int8, uint8, int32",
                             {mxnet::ext::kFloat32, mxnet::ext::kFloat64, mxnet::ext::kFloat16,
                              mxnet::ext::kInt8, mxnet::ext::kUint8, mxnet::ext::kInt32}};

// All arrays of an operator have one type, which must be one of those that are allowed.
void infer_types(const char* op, std::vector<int>* in, std::vector<int>* out,
                 const Types& allowed = kComputed) {
  int type = -1;
  bool mixed = false;
  std::string names;
  for (const int t : *in) {
    if (t == -1) continue;
    names += (names.empty() ? "" : ", ") + dtype_name(t);
    mixed = mixed || (type != -1 && t != type);
    type = t;
  }
  if (mixed) fail(sentence(messages::mixed_dtypes, {{"op", op}, {"dtypes", names}}));
  if (type == -1) type = out->at(0);
  const std::vector<int>& codes = allowed.codes;
  if (type != -1 && std::find(codes.begin(), codes.end(), type) == codes.end())
    fail(sentence(messages::unsupported_dtype,
                  {{"op", op}, {"dtype", dtype_name(type)}, {"allowed", allowed.names}}));
  for (int& t : *in) t = type;
  for (int& t : *out) t = type;
}

void check_status(const char* op, convpool_status status) {
  if (status == CONVPOOL_OUT_OF_MEMORY) fail(std::string(op) + ": out of memory");
  if (status == CONVPOOL_UNSUPPORTED) fail(std::string(op) + ": no kernel has these arguments");
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
  pool.count_include_pad = attributes.count_include_pad ? 1 : 0;
  pool.batch = x[0];
  pool.channels = x[1];
  fill_window(attributes.window, x, y, attributes.global, &pool.window);
  return pool;
}

// Exceptions end here; MXNet gets their sentence.
template <typename Body>
MXReturnValue guarded(const Body& body) {
  try {
    set_message("");
    body();
    return MX_SUCCESS;
  } catch (const std::bad_alloc&) {
    set_message("out of memory");
    return MX_FAIL;
  } catch (const std::exception& error) {
    set_message(error.what());
    return MX_FAIL;
  }
}

using Tensors = std::vector<MXTensor>;

int64_t elements(const MXTensor& array) {
  int64_t count = 1;
  for (const int64_t size : array.shape) count *= size;
  return count;
}

size_t value_bytes(const MXTensor& array) {
  const DLDataType& type = array.dltensor.dtype;
  return static_cast<size_t>(type.bits) * type.lanes / 8;
}

// The same for a body that writes `out`.
template <typename Body>
MXReturnValue computed(const Tensors* out, const Body& body) {
  for (const MXTensor& array : *out)
    ask_for_large_pages(array.data_ptr, static_cast<size_t>(elements(array)) * value_bytes(array));
  return guarded(body);
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

MXReturnValue convolution_type(const StringMap&, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] { infer_types(kConvolution, in, out); });
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
    convpool_convolution conv = convolution_problem(attributes, dtype_of(x), x.shape, y.shape);
    convpool_epilogue epilogue = attributes.activation;
    if (attributes.sum) epilogue.sum = in->back().data_ptr;
    const MXTensor& given = in->at(attributes.weight_at());
    const void* weight = attributes.prepacked ? unpack(attributes, given, &conv) : given.data_ptr;
    const void* bias = attributes.bias ? in->at(attributes.bias_at()).data_ptr : nullptr;
    const convpool_epilogue* last = attributes.fused ? &epilogue : nullptr;
    if (!attributes.joined()) {
      check_status(kConvolution, convpool_convolution_forward_fused(&conv, x.data_ptr, weight, bias,
                                                                    last, y.data_ptr));
      return;
    }
    std::vector<const void*> data;
    Dims channels;
    conv.in_channels = 0;
    for (size_t i = 0; i < attributes.weight_at(); ++i) {
      data.push_back(in->at(i).data_ptr);
      channels.push_back(in->at(i).shape[1]);
      conv.in_channels += channels.back();
    }
    convpool_joined_input input{attributes.pieces, data.data(),
                                channels.data(),   nullptr,
                                nullptr,           -std::numeric_limits<double>::infinity()};
    if (attributes.scaled) {
      input.scale = in->at(attributes.scale_at()).data_ptr;
      input.shift = in->at(attributes.scale_at() + 1).data_ptr;
    }
    if (attributes.clipped) input.lowest = 0;
    check_status(kConvolution, convpool_convolution_forward_joined(&conv, &input, weight, bias,
                                                                   last, y.data_ptr));
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
    const void* dy = in->at(0).data_ptr;
    MXTensor& x = in->at(1);
    const convpool_convolution conv =
        convolution_problem(attributes, dtype_of(x), x.shape, in->at(0).shape);
    check_status(kConvolution, convpool_convolution_backward_data(&conv, dy, in->at(2).data_ptr,
                                                                  out->at(0).data_ptr));
    check_status(kConvolution,
                 convpool_convolution_backward_weight(&conv, x.data_ptr, dy, out->at(1).data_ptr));
    if (attributes.bias)
      check_status(kConvolution,
                   convpool_convolution_backward_bias(&conv, dy, out->at(2).data_ptr));
  });
}

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
    for (const auto& one : {std::make_pair("kernel_size", &window.kernel),
                            std::make_pair("output_padding", &std::as_const(adj))})
      if (one.second->size() != ndim)
        fail(sentence(messages::tuple_length, {{"op", kTransposed},
                                               {"name", one.first},
                                               {"value", tuple_text(*one.second)},
                                               {"ndim", text(static_cast<int64_t>(ndim))}}));
    for (size_t i = 0; i < ndim; ++i)
      if (adj[i] < 0 || adj[i] >= window.stride[i])
        fail(sentence(messages::output_padding_not_smaller,
                      {{"op", kTransposed},
                       {"output_padding", tuple_text(adj)},
                       {"strides", tuple_text(window.stride)}}));
    for (const auto& one : {std::make_pair("channels", channels), std::make_pair("groups", groups)})
      if (one.second < 1)
        fail(sentence(messages::below_minimum, {{"op", kTransposed},
                                                {"name", one.first},
                                                {"value", text(one.second)},
                                                {"minimum", "1"}}));
    if (channels % groups != 0) fail(not_divisible("channels", channels));
  }

  std::string not_divisible(const char* name, int64_t value) const {
    return sentence(
        messages::channels_not_divisible,
        {{"op", kTransposed}, {"groups", text(groups)}, {"name", name}, {"value", text(value)}});
  }
};

void infer_transposed(const StringMap& map, std::vector<Shape>* in, std::vector<Shape>* out,
                      bool numpy) {
  const TransposedAttributes& conv = attributes_of<TransposedAttributes>(map);
  if (in->at(0).empty()) fail("convolution_transpose: the shape of data is not known");
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
  if (channels_known && data[1] % conv.groups != 0)
    fail(conv.not_divisible("in_channels", data[1]));
  if (!fits(given, weight, numpy))
    fail(sentence(
        messages::weight_shape,
        {{"op", kTransposed}, {"weight_shape", shown(given)}, {"expected", shown(weight)}}));
  if (!channels_known && given.size() == weight.size()) weight[0] = given[0];
  if (conv.bias) {
    const Shape bias{static_cast<unsigned int>(conv.channels)};
    if (!fits(in->at(2), bias, numpy))
      fail(sentence(messages::bias_shape, {{"op", kTransposed},
                                           {"bias_shape", tuple_text(in->at(2))},
                                           {"expected", tuple_text(bias)}}));
    in->at(2) = bias;
  }
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

// The convolution that it is transposed of: from arrays of the shape of its output, y, to those of
// the shape of its data, x.
convpool_convolution transposed_problem(const TransposedAttributes& attributes,
                                        convpool_dtype dtype, const std::vector<int64_t>& data,
                                        const std::vector<int64_t>& out) {
  const Dims x = channels_first(attributes.layout, data),
             y = channels_first(attributes.layout, out);
  convpool_convolution conv{};
  conv.dtype = dtype;
  conv.layout = layout_of(attributes.layout);
  conv.algorithm = CONVPOOL_AUTO;
  conv.batch = x[0];
  conv.in_channels = y[1];
  conv.out_channels = x[1];
  conv.groups = attributes.groups;
  fill_window(attributes.window, y, x, false, &conv.window);
  return conv;
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
  return guarded([&] { infer_types(kTransposed, in, out); });
}

MXReturnValue transposed_forward(const StringMap& map, Tensors* in, Tensors* out,
                                 const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const TransposedAttributes& attributes = attributes_of<TransposedAttributes>(map);
    const MXTensor& x = in->at(0);
    const convpool_convolution conv =
        transposed_problem(attributes, dtype_of(x), x.shape, out->at(0).shape);
    check_status(kTransposed,
                 convpool_convolution_transpose(&conv, in->at(0).data_ptr, in->at(1).data_ptr,
                                                attributes.bias ? in->at(2).data_ptr : nullptr,
                                                out->at(0).data_ptr));
  });
}

// Inputs: the gradient of y, then x, weight, bias and y. Outputs: gradients of x, weight and bias.
MXReturnValue transposed_backward(const StringMap& map, Tensors* in, Tensors* out,
                                  const mxnet::ext::OpResource&) {
  return computed(out, [&] {
    const TransposedAttributes& attributes = attributes_of<TransposedAttributes>(map);
    MXTensor &dy = in->at(0), &x = in->at(1);
    convpool_convolution conv = transposed_problem(attributes, dtype_of(x), x.shape, dy.shape);
    check_status(kTransposed, convpool_convolution_forward(&conv, dy.data_ptr, in->at(2).data_ptr,
                                                           nullptr, out->at(0).data_ptr));
    check_status(kTransposed, convpool_convolution_backward_weight(&conv, dy.data_ptr, x.data_ptr,
                                                                   out->at(1).data_ptr));
    if (!attributes.bias) return;
    // Its outputs are this one's: all that is looked at is how many there are.
    conv.out_channels = conv.in_channels;
    for (int d = 0; d < conv.window.ndim; ++d) conv.window.out_size[d] = conv.window.in_size[d];
    check_status(kTransposed,
                 convpool_convolution_backward_bias(&conv, dy.data_ptr, out->at(2).data_ptr));
  });
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
constexpr convpool_dtype kWideType =
    sizeof(Wide) == sizeof(double) ? CONVPOOL_FLOAT64 : CONVPOOL_FLOAT32;

// The values of an array in the type that they are computed in.
template <typename Wide>
std::unique_ptr<Wide[]> room_for(const MXTensor& array) {
  // The values are not set to 0, which takes as long as computing them.
  return std::unique_ptr<Wide[]>(new Wide[static_cast<size_t>(elements(array))]);
}

template <typename Wide, typename Stored>
std::unique_ptr<Wide[]> wide_values(const MXTensor& array) {
  std::unique_ptr<Wide[]> values = room_for<Wide>(array);
  widen(static_cast<const Stored*>(array.data_ptr), elements(array), values.get());
  return values;
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
    if (window.kernel.size() != 2)
      fail(sentence(messages::tuple_length, {{"op", kDeformable},
                                             {"name", "kernel_size"},
                                             {"value", tuple_text(window.kernel)},
                                             {"ndim", "2"}}));
    if (groups < 1)
      fail(sentence(messages::below_minimum, {{"op", kDeformable},
                                              {"name", "num_deformable_group"},
                                              {"value", text(groups)},
                                              {"minimum", "1"}}));
  }

  int64_t taps() const { return window.kernel[0] * window.kernel[1]; }
};

void infer_sampling(const StringMap& map, std::vector<Shape>* in, std::vector<Shape>* out,
                    bool numpy) {
  const SamplingAttributes& sampling = attributes_of<SamplingAttributes>(map);
  if (in->at(0).empty()) fail(std::string(kDeformable) + ": the shape of data is not known");
  check_axes(kDeformable, "NCHW", in->at(0));
  const Shape data = in->at(0);
  const bool known = data[1] != kUnknown && (numpy || data[1] != 0);
  if (known && data[1] % sampling.groups)
    fail(sentence(
        messages::deformable_channels,
        {{"op", kDeformable}, {"groups", text(sampling.groups)}, {"value", text(data[1])}}));
  const std::vector<unsigned int> windows =
      output_size(kDeformable, sampling.window, data, /*full=*/false, numpy);
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
  const unsigned int none = numpy ? kUnknown : 0;
  const Shape columns{data[0], known ? data[1] * static_cast<unsigned int>(sampling.taps()) : none,
                      windows[0], windows[1]};
  check_elements(kDeformable, columns);
  out->at(0) = columns;
}

convpool_sampling sampling_problem(const SamplingAttributes& attributes, const MXTensor& x,
                                   const std::vector<int64_t>& columns) {
  convpool_sampling sampling{};
  sampling.dtype = x.dtype == mxnet::ext::kFloat64 ? CONVPOOL_FLOAT64 : CONVPOOL_FLOAT32;
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
      refuse("mode", mode, "'predict', 'train', 'input'");
    if (act_type != "none" && act_type != "relu") refuse("act_type", act_type, "'none', 'relu'");
  }

  static void refuse(const char* name, const std::string& value, const char* allowed) {
    fail(sentence(
        messages::unknown_choice,
        {{"op", kBatchNorm}, {"name", name}, {"value", "'" + value + "'"}, {"allowed", allowed}}));
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
    if (data.empty()) fail("batch_norm: the shape of data is not known");
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
