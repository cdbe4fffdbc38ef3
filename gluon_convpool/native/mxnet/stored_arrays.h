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

// What a kernel reads of an array: its values where they are, or those of float16 as float.
class ComputedInput {
 public:
  explicit ComputedInput(const MXTensor& array) : data_(array.data_ptr) {
    if (array.dtype != mxnet::ext::kFloat16) return;
    values_ = wide_values<float, Half>(array);
    data_ = values_.get();
  }

  const void* data() const { return data_; }

 private:
  std::unique_ptr<float[]> values_;
  const void* data_;
};

// What a kernel writes of an array: the array, or room for float where it is of float16, which
// store() rounds.
class ComputedOutput {
 public:
  explicit ComputedOutput(const MXTensor& array) : array_(array) {
    if (array.dtype == mxnet::ext::kFloat16) values_ = room_for<float>(array);
  }

  void* data() { return values_ ? values_.get() : array_.data_ptr; }
  void store() const {
    if (values_)
      narrow(values_.get(), elements(array_), /*floor=*/false, static_cast<Half*>(array_.data_ptr));
  }

 private:
  const MXTensor& array_;
  std::unique_ptr<float[]> values_;
};

}  // namespace convpool
