// What the operators infer about types, as MXNet's codes.
#pragma once

#include <string>
#include <vector>

namespace convpool {

// MXNet's type codes, as Python names them.
std::string dtype_name(int type);

struct Types {
  const char* names;
  std::vector<int> codes;
};

// What the kernels compute, what is stored and computed as float, and what is as double.
extern const Types kComputed, kReal, kRealAndIntegers;

// All arrays of an operator have one type, which must be one of those that are allowed.
void infer_types(const char* op, std::vector<int>* in, std::vector<int>* out,
                 const Types& allowed = kComputed);

}  // namespace convpool
