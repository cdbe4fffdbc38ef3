// Several arrays in one scratch buffer: reserve each, then allocate once, then ask for the
// pointers.
#pragma once

#include "simd.h"
#include "workspace.h"

namespace convpool::CONVPOOL_ISA {

class Arena {
 public:
  explicit Arena(Scratch which) : which_(which) {}

  // Room for `count` values; returns where, relative to the buffer.
  template <typename T>
  size_t reserve(int64_t count) {
    const size_t at = size_;
    size_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return at;
  }
  // False where memory is out.
  bool allocate() {
    base_ = static_cast<char*>(scratch(which_, size_));
    return base_ != nullptr;
  }
  template <typename T>
  T* at(size_t where) const {
    return reinterpret_cast<T*>(base_ + where);
  }

 private:
  Scratch which_;
  size_t size_ = 64;
  char* base_ = nullptr;
};

}  // namespace convpool::CONVPOOL_ISA
