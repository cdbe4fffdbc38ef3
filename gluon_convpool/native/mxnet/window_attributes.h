// The attributes of a window that slides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../convpool.h"
#include "attributes.h"

namespace convpool {

// A window's attributes, checked, with what is absent filled in.
struct WindowAttributes {
  // How much `pad` may say: one value for each axis; or also two, those of all axes before the
  // data, then those behind it.
  enum Sides { kAlike, kEach };

  Dims kernel, stride, dilation, pad, pad_end;

  WindowAttributes(const char* op, const Attributes& attributes, Sides sides = kAlike);

  // The smallest window, which anything but an empty array holds.
  static WindowAttributes single(size_t ndim);

  bool sides_differ() const { return pad != pad_end; }

  // The padding as users write it: one value for each axis, or pairs where the sides differ.
  std::string padding_text() const;

 private:
  WindowAttributes() = default;

  Dims filled(const char* op, const Attributes& attributes, const char* name,
              int64_t otherwise) const;
  void read_both_sides(const char* op, const Attributes& attributes);
};

// The window as the kernels take it, between arrays of these shapes; a global one is as large as
// the data.
void fill_window(const WindowAttributes& from, const std::vector<int64_t>& in,
                 const std::vector<int64_t>& out, bool global, convpool_window* to);

}  // namespace convpool
