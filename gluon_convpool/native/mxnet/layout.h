// Layouts of arrays. The operators have channels first inside; shapes are turned where they come
// and go, and to be shown.
#pragma once

#include <algorithm>
#include <string>

#include "../convpool.h"
#include "attributes.h"

namespace convpool {

std::string checked_layout(const char* op, const Attributes& attributes);

inline bool channels_last(const std::string& layout) { return layout.back() == 'C'; }

inline convpool_layout layout_of(const std::string& layout) {
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

}  // namespace convpool
