// The attributes of a window that slides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../convpool.h"
#include "attributes.h"

namespace convpool {

// A window's attributes, checked, with what is absent filled in.
struct WindowAttributes {
  Dims kernel, stride, dilation, pad;

  WindowAttributes(const char* op, const Attributes& attributes);

  // The smallest window, which anything but an empty array holds.
  static WindowAttributes single(size_t ndim);

 private:
  WindowAttributes() = default;

  Dims filled(const char* op, const Attributes& attributes, const char* name,
              int64_t otherwise) const;
};

// The window as the kernels take it, between arrays of these shapes; a global one is as large as
// the data.
void fill_window(const WindowAttributes& from, const std::vector<int64_t>& in,
                 const std::vector<int64_t>& out, bool global, convpool_window* to);

}  // namespace convpool
