// Tiles of an image, and bands: a few rows of an image with the channels of one vector side by
// side.
#pragma once

#include "tap_convolution.h"
#include "transpose.h"

namespace convpool::CONVPOOL_ISA {

// Neighbouring tiles of one tile row of an image.
struct TileRun {
  int64_t image, row, column, tiles;
};

// The tiles of a batch, in the order of images, tile rows and tile columns.
struct TileGrid {
  int64_t rows, columns;  // of an image
  int64_t count;          // in all images

  TileGrid(int64_t batch, int64_t height, int64_t width, int mh, int mw)
      : rows(ceil_div(height, mh)), columns(ceil_div(width, mw)), count(batch * rows * columns) {}

  // The longest run that begins at `tile`, ends before `end` and has at most `most` tiles.
  TileRun run_at(int64_t tile, int64_t end, int64_t most) const {
    const int64_t column = tile % columns;
    const int64_t tiles = min_of(min_of(end - tile, columns - column), most);
    return {tile / (rows * columns), tile / columns % rows, column, tiles};
  }
};

// Channels of an image that lie `channel_stride` values apart; rows are dense.
template <typename T>
struct ChannelPlanes {
  const T* data;
  int64_t channel_stride, height, width;
};

// Writes `rows` rows of `columns` vectors from (y, x) on, rows `pitch` values apart. What lies
// outside of the image, and lanes behind the last of `channels`, are zero.
template <typename T>
inline void fill_band(const ChannelPlanes<T>& image, int64_t channels, int64_t y, int64_t x,
                      int64_t rows, int64_t columns, T* band, int64_t pitch) {
  constexpr int kLanes = Simd<T>::kLanes;
  const auto clear_columns = [](T* to, int64_t count) {
    for (int64_t k = 0; k < count * kLanes; ++k) to[k] = T(0);
  };
  const int64_t begin = min_of(max_of(-x, 0), columns);
  const int64_t end = max_of(begin, min_of(columns, image.width - x));
  for (int64_t row = 0; row < rows; ++row, ++y, band += pitch) {
    if (y < 0 || y >= image.height) {
      clear_columns(band, columns);
      continue;
    }
    clear_columns(band, begin);
    clear_columns(band + end * kLanes, columns - end);
    const T* from = image.data + y * image.width + x;
    if (channels == kLanes && end - begin >= kLanes) {
      for (int64_t k = begin; k < end; k += kLanes) {
        // The last square overlaps the one before it instead of reading behind the row.
        const int64_t at = min_of(k, end - kLanes);
        transpose_square<T>(from + at, image.channel_stride, band + at * kLanes, kLanes);
      }
      continue;
    }
    for (int64_t lane = 0; lane < kLanes; ++lane, from += image.channel_stride)
      for (int64_t k = begin; k < end; ++k)
        band[k * kLanes + lane] = lane < channels ? from[k] : T(0);
  }
}

}  // namespace convpool::CONVPOOL_ISA
