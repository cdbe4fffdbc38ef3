// Arrays of numbers that are stored in one type and computed in another (stored_numbers.h).
#pragma once

#include <cstddef>
#include <memory>

#include "../convpool.h"
#include "../stored_numbers.h"
#include "arrays.h"

namespace convpool {

template <typename Wide>
inline constexpr convpool_dtype kWideType =
    sizeof(Wide) == sizeof(double) ? CONVPOOL_FLOAT64 : CONVPOOL_FLOAT32;

template <typename Wide>
std::unique_ptr<Wide[]> room_for(const MXTensor& array) {
  // The values are not set to 0, which takes as long as computing them.
  return std::unique_ptr<Wide[]>(new Wide[static_cast<size_t>(elements(array))]);
}

// The values of an array in the type that they are computed in.
template <typename Wide, typename Stored>
std::unique_ptr<Wide[]> wide_values(const MXTensor& array) {
  std::unique_ptr<Wide[]> values = room_for<Wide>(array);
  widen(static_cast<const Stored*>(array.data_ptr), elements(array), values.get());
  return values;
}

}  // namespace convpool
