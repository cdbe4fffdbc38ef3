// A weight packed once for many forward passes, as one array: this header, the weight as it was,
// and its taps as Winograd's convolution transforms them, if that pays. The weight as it was serves
// where those are of no use: for other sizes of the data, or with another instruction set.
#pragma once

#include <stdint.h>
#include <string.h>

#include "convpool.h"

namespace convpool {

// How transformed taps are laid out: two computations with equal values read the same array.
struct TapFormat {
  int64_t lanes, panel, longest_pass;  // of the instruction set and the outputs
  int64_t mh, rh, mw, rw;              // the tile
  int64_t h_stride, w_stride, h_parts, w_parts, depth_taps;
  int64_t values;  // of all taps
};

struct PackedWeight {
  // Changes with anything that is not written in the header.
  static constexpr uint64_t kMark = 0x32304b434150564eu;
  static constexpr int64_t kHeaderBytes = 192;

  uint64_t mark;
  int64_t values;                                         // of all
  int64_t dtype, layout, groups, out_channels, channels;  // channels of a group
  int64_t ndim, kernel[CONVPOOL_MAX_NDIM];
  TapFormat format;  // all zero without taps

  static int64_t value_bytes(int64_t dtype) { return dtype == CONVPOOL_FLOAT64 ? 8 : 4; }
  static int64_t header_values(int64_t dtype) { return kHeaderBytes / value_bytes(dtype); }
  int64_t weights() const {
    int64_t count = out_channels * channels;
    for (int64_t d = 0; d < ndim; ++d) count *= kernel[d];
    return count;
  }
  // Whole cache lines, so that the taps begin with one.
  int64_t weight_bytes() const { return (weights() * value_bytes(dtype) + 63) / 64 * 64; }
  int64_t all_values() const {
    return header_values(dtype) + weight_bytes() / value_bytes(dtype) + format.values;
  }
  const void* weight() const { return reinterpret_cast<const char*>(this) + kHeaderBytes; }
  void* weight() { return reinterpret_cast<char*>(this) + kHeaderBytes; }
  const void* taps() const { return static_cast<const char*>(weight()) + weight_bytes(); }
  void* taps() { return static_cast<char*>(weight()) + weight_bytes(); }
  bool has(const TapFormat& wanted) const;
};

// Stands for a weight that is packed for whoever reads it, while it is planned.
inline constexpr PackedWeight kAnyPacked{};

inline bool PackedWeight::has(const TapFormat& wanted) const {
  return this == &kAnyPacked || !memcmp(&format, &wanted, sizeof(format));
}

static_assert(sizeof(PackedWeight) <= PackedWeight::kHeaderBytes, "the weight follows the header");

}  // namespace convpool
