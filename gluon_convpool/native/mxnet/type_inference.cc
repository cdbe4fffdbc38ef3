#include "type_inference.h"

#include <mxnet/lib_api.h>

#include <algorithm>

#include "messages.h"
#include "sentences.h"

namespace convpool {

const Types kComputed{"float32, float64", {mxnet::ext::kFloat32, mxnet::ext::kFloat64}};
const Types kReal{"float32, float64, float16",
                  {mxnet::ext::kFloat32, mxnet::ext::kFloat64, mxnet::ext::kFloat16}};
const Types kRealAndIntegers{"float32, float64, float16, int8, uint8, int32",
                             {mxnet::ext::kFloat32, mxnet::ext::kFloat64, mxnet::ext::kFloat16,
                              mxnet::ext::kInt8, mxnet::ext::kUint8, mxnet::ext::kInt32}};

std::string dtype_name(int type) {
  constexpr const char* kNames[] = {"float32", "float64", "float16", "uint8",
                                    "int32",   "int8",    "int64"};
  const bool known = type >= 0 && type < static_cast<int>(sizeof(kNames) / sizeof(*kNames));
  return known ? kNames[type] : "type code " + text(type);
}

void infer_types(const char* op, std::vector<int>* in, std::vector<int>* out,
                 const Types& allowed) {
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

}  // namespace convpool
