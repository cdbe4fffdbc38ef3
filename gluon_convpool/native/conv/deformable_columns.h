// What moved windows see, as columns whose product with the weight is a deformable convolution.
//
// x: (batch, channels, H, W), offset: (batch, groups, kernel, {row, column}, out H, out W),
// mask: (batch, groups, kernel, out H, out W) or null,
// columns: (batch, channels, kernel, out H, out W). Each of the groups of channels has places of
// its own; kernel elements ("taps") are in row-major order. Dense arrays, of any alignment.
//
// Where an element lies and how much of its four neighbours it takes is worked out once for a chunk
// of windows and then used for all channels of the group.
#pragma once

#include "../convpool.h"
#include "../parallel.h"
#include "../simd.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class DeformableColumns {
 public:
  DeformableColumns(const convpool_sampling& sampling, const T* x, const T* offset, const T* mask)
      : s_(sampling),
        window_(sampling.window),
        x_(x),
        offset_(offset),
        mask_(mask),
        height_(window_.in_size[0]),
        width_(window_.in_size[1]),
        taps_(window_.kernel[0] * window_.kernel[1]),
        places_(window_.out_size[0] * window_.out_size[1]),
        channels_(sampling.channels / sampling.groups) {}

  void forward(T* columns) const {
    each_chunk([&](const Chunk& chunk) {
      Corners corners;
      find(chunk, &corners);
      scale(chunk, corners.weight);
      for (int64_t c = 0; c < channels_; ++c) {
        const T* image = image_of(chunk, c);
        T* column = columns + column_of(chunk, c);
        for (int64_t i = 0; i < chunk.count; ++i) {
          T sum = 0;
          for (int k = 0; k < 4; ++k) sum += product(corners.weight[k][i], image, corners.at[k][i]);
          column[i] = sum;
        }
      }
    });
  }

  // dmask may be null where there is no mask.
  void backward(const T* dcolumns, T* dx, T* doffset, T* dmask) const {
    each_chunk([&](const Chunk& chunk) { place_gradients(chunk, dcolumns, doffset, dmask); });
    data_gradient(dcolumns, dx);
  }

 private:
  static constexpr int64_t kChunk = 256;
  // Channels whose gradient one task sums up: it finds the places anew for so many.
  static constexpr int64_t kChannels = 16;

  // `count` windows from `first` on, seen through one tap of one group in one image.
  struct Chunk {
    int64_t image, group, tap, first, count;
  };

  // The four neighbours of each place, numbers within a plane, and their shares. A neighbour that
  // is not there has the share 0 and the number of one that is.
  struct Corners {
    int32_t at[4][kChunk];
    T weight[4][kChunk];
    // The derivatives of the shares by row and column.
    T by_row[4][kChunk], by_column[4][kChunk];
  };

  // 0 times a number that is not looked at, be it infinite, is 0.
  static CONVPOOL_INLINE T product(T share, const T* image, int32_t at) {
    const T value = image[at];
    return share == 0 ? T(0) : share * value;
  }

  template <typename Body>
  void each_chunk(const Body& body) const {
    const int64_t chunks = ceil_div(places_, kChunk);
    const int64_t tasks = s_.batch * s_.groups * taps_ * chunks;
    const double work = 8.0 * static_cast<double>(s_.batch * s_.channels * taps_ * places_);
    parallel_for(tasks, work, [&](int64_t task) {
      Chunk chunk;
      chunk.first = task % chunks * kChunk;
      chunk.count = min_of(kChunk, places_ - chunk.first);
      task /= chunks;
      chunk.tap = task % taps_;
      task /= taps_;
      chunk.group = task % s_.groups;
      chunk.image = task / s_.groups;
      body(chunk);
    });
  }

  // Where the numbers of a tap begin among those that each group has `each` of for every tap.
  int64_t place_of(const Chunk& chunk, int64_t each) const {
    return ((chunk.image * s_.groups + chunk.group) * taps_ + chunk.tap) * each * places_ +
           chunk.first;
  }

  const T* image_of(const Chunk& chunk, int64_t c) const {
    return x_ + (chunk.image * s_.channels + chunk.group * channels_ + c) * height_ * width_;
  }

  int64_t column_of(const Chunk& chunk, int64_t c) const {
    return ((chunk.image * s_.channels + chunk.group * channels_ + c) * taps_ + chunk.tap) *
               places_ +
           chunk.first;
  }

  void scale(const Chunk& chunk, T (&weight)[4][kChunk]) const {
    if (!mask_) return;
    const T* mask = mask_ + place_of(chunk, 1);
    for (int k = 0; k < 4; ++k)
      for (int64_t i = 0; i < chunk.count; ++i) weight[k][i] *= mask[i];
  }

  // One axis of a place: the two neighbours, which of them are there, and their shares.
  struct Neighbours {
    int64_t number[2];
    T share[2], slope[2];
  };

  // Without a mask the data ends at its last element; with one there are zeros around it.
  bool neighbours(T place, int64_t size, Neighbours* found) const {
    const T end = static_cast<T>(size);
    // comparisons that NaN fails
    if (!(mask_ ? place > -1 && place < end : place >= 0 && place < end)) return false;
    if (!mask_ && place > end - 1) place = end - 1;
    const T low = __builtin_floor(place);
    const T part = place - low;
    const int64_t first = static_cast<int64_t>(low);
    for (int k = 0; k < 2; ++k) {
      const int64_t number = first + k;
      const int64_t inside = max_of(0, min_of(number, size - 1));
      const bool there = !mask_ || number == inside;
      found->number[k] = inside;
      found->share[k] = !there ? T(0) : k ? part : 1 - part;
      found->slope[k] = !there ? T(0) : k ? T(1) : T(-1);
    }
    return true;
  }

  void find(const Chunk& chunk, Corners* corners) const {
    const T* rows = offset_ + place_of(chunk, 2);
    const T* columns = rows + places_;
    const int64_t tap_row = chunk.tap / window_.kernel[1] * window_.dilation[0] - window_.pad[0];
    const int64_t tap_column = chunk.tap % window_.kernel[1] * window_.dilation[1] - window_.pad[1];
    int64_t row = chunk.first / window_.out_size[1], column = chunk.first % window_.out_size[1];
    for (int64_t i = 0; i < chunk.count; ++i) {
      Neighbours y, x;
      const bool there =
          neighbours(static_cast<T>(row * window_.stride[0] + tap_row) + rows[i], height_, &y) &&
          neighbours(static_cast<T>(column * window_.stride[1] + tap_column) + columns[i], width_,
                     &x);
      for (int k = 0; k < 4; ++k) {
        const int a = k / 2, b = k % 2;
        corners->at[k][i] = there ? static_cast<int32_t>(y.number[a] * width_ + x.number[b]) : 0;
        corners->weight[k][i] = there ? y.share[a] * x.share[b] : T(0);
        corners->by_row[k][i] = there ? y.slope[a] * x.share[b] : T(0);
        corners->by_column[k][i] = there ? y.share[a] * x.slope[b] : T(0);
      }
      if (++column == window_.out_size[1]) {
        column = 0;
        ++row;
      }
    }
  }

  void place_gradients(const Chunk& chunk, const T* dcolumns, T* doffset, T* dmask) const {
    Corners corners;
    find(chunk, &corners);
    T by_row[kChunk] = {}, by_column[kChunk] = {}, by_mask[kChunk] = {};
    for (int64_t c = 0; c < channels_; ++c) {
      const T* image = image_of(chunk, c);
      const T* gradient = dcolumns + column_of(chunk, c);
      for (int64_t i = 0; i < chunk.count; ++i) {
        T row = 0, column = 0, value = 0;
        for (int k = 0; k < 4; ++k) {
          const int32_t at = corners.at[k][i];
          row += product(corners.by_row[k][i], image, at);
          column += product(corners.by_column[k][i], image, at);
          value += product(corners.weight[k][i], image, at);
        }
        by_row[i] += gradient[i] * row;
        by_column[i] += gradient[i] * column;
        by_mask[i] += gradient[i] * value;
      }
    }
    T* rows = doffset + place_of(chunk, 2);
    T* columns = rows + places_;
    const T* mask = mask_ ? mask_ + place_of(chunk, 1) : nullptr;
    for (int64_t i = 0; i < chunk.count; ++i) {
      const T m = mask ? mask[i] : T(1);
      rows[i] = m * by_row[i];
      columns[i] = m * by_column[i];
      if (mask) dmask[place_of(chunk, 1) + i] = by_mask[i];
    }
  }

  void data_gradient(const T* dcolumns, T* dx) const {
    const int64_t blocks = ceil_div(channels_, kChannels);
    const double work = 8.0 * static_cast<double>(s_.batch * s_.channels * taps_ * places_);
    parallel_for(s_.batch * s_.groups * blocks, work, [&](int64_t task) {
      const int64_t begin = task % blocks * kChannels, end = min_of(begin + kChannels, channels_);
      Chunk chunk{};
      chunk.group = task / blocks % s_.groups;
      chunk.image = task / blocks / s_.groups;
      T* planes = dx + (image_of(chunk, begin) - x_);
      for (int64_t i = 0; i < (end - begin) * height_ * width_; ++i) planes[i] = 0;
      Corners corners;
      for (chunk.tap = 0; chunk.tap < taps_; ++chunk.tap) {
        for (chunk.first = 0; chunk.first < places_; chunk.first += kChunk) {
          chunk.count = min_of(kChunk, places_ - chunk.first);
          find(chunk, &corners);
          scale(chunk, corners.weight);
          for (int64_t c = begin; c < end; ++c) {
            const T* gradient = dcolumns + column_of(chunk, c);
            T* plane = planes + (c - begin) * height_ * width_;
            for (int64_t i = 0; i < chunk.count; ++i)
              for (int k = 0; k < 4; ++k)
                plane[corners.at[k][i]] += corners.weight[k][i] * gradient[i];
          }
        }
      }
    });
  }

  const convpool_sampling& s_;
  const convpool_window& window_;
  const T* const x_;
  const T* const offset_;
  const T* const mask_;
  const int64_t height_, width_, taps_, places_, channels_;
};

}  // namespace convpool::CONVPOOL_ISA
