// What the operators infer about shapes, and how MXNet writes what it does not know yet.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "window_attributes.h"

namespace convpool {

using Shape = std::vector<unsigned int>;

// How MXNet writes an unknown size: -1 under NumPy semantics (seen through an unsigned), 0 without.
inline constexpr unsigned int kUnknown = 4294967295u;

inline unsigned int unknown_size(bool numpy) { return numpy ? kUnknown : 0; }

inline bool unknown(unsigned int size, bool numpy) {
  return size == kUnknown || (size == 0 && !numpy);
}

// ceil(a / b) for b > 0 and a >= 0, or floor.
inline int64_t divided(int64_t a, int64_t b, bool up) { return up ? (a + b - 1) / b : a / b; }

// The spatial sizes of the output; sizes that are not known yet stay so.
Shape output_size(const char* op, const WindowAttributes& window, const Shape& data, bool full,
                  bool numpy);

// Does a shape that is known in part fit one that is known?
bool fits(const Shape& shape, const Shape& known, bool numpy);

// Without the shape of its data an operator infers nothing.
void check_known(const char* op, const Shape& data);

// Known, with as many axes as the layout.
void check_axes(const char* op, const std::string& layout, const Shape& data);

void check_elements(const char* op, const Shape& shape);

void infer_bias(const char* op, int64_t channels, bool numpy, Shape* bias);

}  // namespace convpool
