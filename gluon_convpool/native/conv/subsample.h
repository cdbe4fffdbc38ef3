// Every stride-th value of an image, and back: a pointwise convolution with a stride is one without
// of the values that it reads.
#pragma once

#include "../parallel.h"
#include "strip.h"

namespace convpool::CONVPOOL_ISA {

inline bool is_strided_pointwise(const convpool_convolution& conv) {
  const convpool_window& window = conv.window;
  bool strided = false;
  for (int d = 0; d < window.ndim; ++d) {
    // What the last output reads may be padding.
    if (window.kernel[d] != 1 || window.pad[d] != 0 ||
        (window.out_size[d] - 1) * window.stride[d] >= window.in_size[d])
      return false;
    strided = strided || window.stride[d] != 1;
  }
  return strided;
}

// The convolution of the values that `conv`, a pointwise one, reads.
inline convpool_convolution without_stride(convpool_convolution conv) {
  for (int d = 0; d < conv.window.ndim; ++d) {
    conv.window.stride[d] = 1;
    conv.window.in_size[d] = conv.window.out_size[d];
  }
  return conv;
}

// How many values it reads.
inline int64_t subsampled_size(const convpool_convolution& conv) {
  const int64_t* size = conv.window.out_size;
  return conv.batch * conv.in_channels * size[0] * size[1] * size[2];
}

// Calls body(where a plane of x begins, where the values of it that are read begin) for each plane.
template <typename Body>
inline void for_each_subsampled_plane(const convpool_convolution& conv, const Body& body) {
  const int64_t *in = conv.window.in_size, *out = conv.window.out_size;
  parallel_for(conv.batch * conv.in_channels, static_cast<double>(subsampled_size(conv)),
               [&](int64_t plane) {
                 body(plane * in[0] * in[1] * in[2], plane * out[0] * out[1] * out[2]);
               });
}

template <typename T>
inline void subsample(const convpool_convolution& conv, const T* x, T* values) {
  const convpool_window& window = conv.window;
  const int64_t *in = window.in_size, *out = window.out_size, *stride = window.stride;
  for_each_subsampled_plane(conv, [&](int64_t from, int64_t to) {
    for (int64_t slice = 0; slice < out[2]; ++slice)
      for (int64_t row = 0; row < out[0]; ++row, to += out[1])
        gather_columns(values + to,
                       x + from + (slice * stride[2] * in[0] + row * stride[0]) * in[1], out[1],
                       stride[1]);
  });
}

// The transpose: what no window reads is zero.
template <typename T>
inline void spread(const convpool_convolution& conv, const T* values, T* x) {
  const convpool_window& window = conv.window;
  const int64_t *in = window.in_size, *out = window.out_size, *stride = window.stride;
  for_each_subsampled_plane(conv, [&](int64_t to, int64_t from) {
    clear(x + to, in[0] * in[1] * in[2]);
    for (int64_t slice = 0; slice < out[2]; ++slice)
      for (int64_t row = 0; row < out[0]; ++row, from += out[1]) {
        T* place = x + to + (slice * stride[2] * in[0] + row * stride[0]) * in[1];
        for (int64_t k = 0; k < out[1]; ++k) place[k * stride[1]] = values[from + k];
      }
  });
}

}  // namespace convpool::CONVPOOL_ISA
