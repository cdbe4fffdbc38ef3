// Tiles of an image, and bands: a few rows of an image with the channels of one vector side by
// side.
#pragma once

#include "../transpose.h"
#include "strip.h"
#include "tap_convolution.h"

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

// Every row_step-th row and column_step-th column of channels. Strides are in values; either
// columns or channels are neighbours.
template <typename T>
struct ChannelPlanes {
  const T* data;
  int64_t channel_stride, row_stride, column_stride, height, width, row_step, column_step;
};

// The most columns of a band.
inline constexpr int64_t kMostBandColumns = 64;

// Writes `rows` rows of `columns` vectors, rows `pitch` values apart, from (y, x) on: the values of
// `channels` channels, to the lanes from `lane` on. What lies outside of the image is zero.
template <typename T>
inline void fill_band(const ChannelPlanes<T>& image, int64_t lane, int64_t channels, int64_t y,
                      int64_t x, int64_t rows, int64_t columns, T* band, int64_t pitch) {
  constexpr int kLanes = Simd<T>::kLanes;
  const int64_t step = image.column_step;
  const int64_t begin = x < 0 ? min_of(ceil_div(-x, step), columns) : 0;
  const int64_t after = x < image.width ? min_of(ceil_div(image.width - x, step), columns) : 0;
  const int64_t end = max_of(after, begin);
  const bool side_by_side = image.channel_stride == 1;
  const bool squares = !side_by_side && channels == kLanes;
  const int64_t column_pitch = step * image.column_stride;
  alignas(64) T dense[kLanes * kMostBandColumns];
  for (int64_t row = 0; row < rows; ++row, y += image.row_step, band += pitch) {
    const bool inside = y >= 0 && y < image.height;
    const int64_t first = inside ? begin : columns, last = inside ? end : columns;
    const auto clear_columns = [&](int64_t k, int64_t stop) {
      if (channels == kLanes) return clear(band + k * kLanes, (stop - k) * kLanes);
      for (; k < stop; ++k) clear(band + k * kLanes + lane, channels);
    };
    clear_columns(0, first);
    clear_columns(last, columns);
    if (first >= last) continue;
    const T* from =
        image.data + y * image.row_stride + x * image.column_stride + first * column_pitch;
    if (side_by_side) {
      T* to = band + first * kLanes + lane;
      if (channels == kLanes)
        for (int64_t k = first; k < last; ++k, from += column_pitch, to += kLanes)
          store<T>(to, load<T>(from));
      else
        for (int64_t k = first; k < last; ++k, from += column_pitch, to += kLanes)
          for (int64_t c = 0; c < channels; ++c) to[c] = from[c];
      continue;
    }
    int64_t from_pitch = image.channel_stride;
    if (squares && step > 1) {
      for (int64_t c = 0; c < kLanes; ++c)
        gather_columns(dense + c * kMostBandColumns, from + c * from_pitch, last - first, step);
      from = dense;
      from_pitch = kMostBandColumns;
    }
    if (squares) {
      for (int64_t k = 0; k < last - first; k += kLanes) {
        // The last square overlaps the one before it instead of reading behind the row.
        const int64_t at = max_of(0, min_of(k, last - first - kLanes));
        transpose_square(from + at, from_pitch, band + (first + at) * kLanes, kLanes, last - first);
      }
      continue;
    }
    for (int64_t c = 0; c < channels; ++c, from += from_pitch)
      for (int64_t k = 0; k < last - first; ++k)
        band[(first + k) * kLanes + lane + c] = from[k * step];
  }
}

// A convolution with a stride or a dilation as one over neighbours, so that it can be cut into
// tiles.
//
// With stride s, the inputs that a tap reads lie s apart: the image is s x s smaller ones, and
// their channels are as many more channels, each with every s-th tap. With dilation d, the outputs
// that read the same inputs lie d apart: both images are d x d smaller ones, each an image of its
// own. A kernel longer than the taps of a tile is several shorter ones, one behind the other: the
// image from where each begins is a channel more, too. So are the taps of the depth.
template <typename T>
class NeighbourView {
 public:
  struct Axis {
    int64_t stride, dilation;
    int64_t taps;      // of the view; where the kernel has none behind its end, they are zero
    int64_t parts;     // into which a channel is cut: for each run of such taps, the stride's
    int64_t out_size;  // of the largest of the smaller images

    Axis(const TapAxis& axis, int64_t view_taps)
        : stride(axis.stride), dilation(axis.taps > 1 ? axis.shift(1) : 1), taps(view_taps) {
      parts = stride * ceil_div(axis.taps, stride * taps);
      out_size = ceil_div(axis.out_size, dilation);
    }
    int64_t step() const { return stride * dilation; }
    // Where in the image a part begins.
    int64_t start(int64_t part) const { return part % stride + part / stride * taps * step(); }
    // The kernel's tap that is tap `t` of a part.
    int64_t tap(int64_t part, int64_t t) const {
      return part % stride + (part / stride * taps + t) * stride;
    }
  };

  const TapConvolution<T> conv;
  const Axis h, w;
  const int64_t batch;
  const int64_t parts;     // of a channel
  const int64_t channels;  // of a group

  NeighbourView(const TapConvolution<T>& problem, int64_t h_taps, int64_t w_taps)
      : conv(problem),
        h(problem.h, h_taps),
        w(problem.w, w_taps),
        batch(problem.images() * h.dilation * w.dilation),
        parts(h.parts * w.parts),
        channels(problem.planes() * parts) {}

  // Is there a view of so many taps, none of them always zero for want of as many in the kernel?
  static bool exists(const TapConvolution<T>& conv, int64_t h_taps, int64_t w_taps) {
    return conv.d.taps > 0 && exists(conv.h, h_taps) && exists(conv.w, w_taps);
  }
  // Is a channel of the view a channel as it stands, with the whole kernel?
  bool whole() const { return parts == 1; }
  bool dense() const { return whole() && h.step() == 1 && w.step() == 1; }

  // kLanes channels from `channel` on, of the rows and columns of the view from (y, x) on.
  void fill(int64_t group, int64_t channel, int64_t image, int64_t y, int64_t x, int64_t rows,
            int64_t columns, T* band, int64_t pitch) const {
    constexpr int kLanes = Simd<T>::kLanes;
    const int64_t row = y * h.step() + conv.h.first() + image / w.dilation % h.dilation;
    const int64_t column = x * w.step() + conv.w.first() + image % w.dilation;
    for (int64_t lane = 0; lane < kLanes;) {
      ChannelPlanes<T> planes{nullptr, 0, 0, 0, 0, 0, h.step(), w.step()};
      int64_t count = kLanes - lane, part = 0;
      if (channel + lane < channels) {
        part = (channel + lane) / conv.channels;
        const int64_t c = (channel + lane) % conv.channels;
        count = min_of(count, conv.channels - c);
        const T* slice = conv.in_slice(image / (h.dilation * w.dilation), part / parts);
        part %= parts;
        if (slice)
          planes = {slice + (group * conv.channels + c) * conv.in_channel_stride,
                    conv.in_channel_stride,
                    conv.in_row_stride,
                    conv.in_column_stride,
                    conv.h.in_size,
                    conv.w.in_size,
                    h.step(),
                    w.step()};
      }
      fill_band(planes, lane, count, row + h.start(part / w.parts),
                column + w.start(part % w.parts), rows, columns, band, pitch);
      lane += count;
    }
  }

  // The same of the output's gradient, from `output` on; lanes behind the group's last are zero.
  void fill_gradient(int64_t group, int64_t output, int64_t image, int64_t y, int64_t x,
                     int64_t rows, int64_t columns, T* band, int64_t pitch) const {
    constexpr int kLanes = Simd<T>::kLanes;
    const int64_t count = min_of(kLanes, conv.outputs - output);
    const int64_t row = y * h.dilation + image / w.dilation % h.dilation;
    const int64_t column = x * w.dilation + image % w.dilation;
    const T* dy = conv.out_image(image / (h.dilation * w.dilation)) +
                  (group * conv.outputs + output) * conv.out_channel_stride;
    fill_band<T>({dy, conv.out_channel_stride, conv.out_row_stride, conv.out_column_stride,
                  conv.h.out_size, conv.w.out_size, h.dilation, w.dilation},
                 0, count, row, column, rows, columns, band, pitch);
    if (count < kLanes)
      fill_band<T>({nullptr, 0, 0, 0, 0, 0, 1, 1}, count, kLanes - count, 0, 0, rows, columns, band,
                   pitch);
  }

  // The output from (y, x) of an image of the view on.
  T* out(int64_t image, int64_t output, int64_t y, int64_t x) const {
    return conv.out_image(image / (h.dilation * w.dilation)) + output * conv.out_channel_stride +
           (y * h.dilation + image / w.dilation % h.dilation) * conv.out_row_stride +
           (x * w.dilation + image % w.dilation) * conv.out_column_stride;
  }
  // How many rows and columns of an image of the view lie inside, from y or x on.
  int64_t rows_from(int64_t image, int64_t y) const {
    return inside(conv.h, h.dilation, image / w.dilation % h.dilation, y);
  }
  int64_t columns_from(int64_t image, int64_t x) const {
    return inside(conv.w, w.dilation, image % w.dilation, x);
  }

  // Where the taps of a channel of the view are found.
  struct Taps {
    const T* kernel;  // of the first output of the group
    int64_t h_part, w_part;
  };
  Taps taps(int64_t group, int64_t channel) const {
    const int64_t part = channel / conv.channels % parts;
    const T* kernel =
        conv.weight + group * conv.weight_group_stride + conv.weight_offset(plane(channel));
    return {kernel, part / w.parts, part % w.parts};
  }
  // The row and column in the kernel of tap (i, j); false where there is none.
  bool find_tap(const Taps& of, int64_t i, int64_t j, int64_t* row, int64_t* column) const {
    *row = h.tap(of.h_part, i);
    *column = w.tap(of.w_part, j);
    return *row < conv.h.taps && *column < conv.w.taps;
  }
  // That tap of the first output of the group; null where there is none.
  const T* tap(const Taps& of, int64_t i, int64_t j) const {
    int64_t row, column;
    if (!find_tap(of, i, j, &row, &column)) return nullptr;
    return of.kernel + conv.h.index[row] * conv.weight_row_stride +
           conv.w.index[column] * conv.weight_column_stride;
  }
  // From this channel on, none has the last tap of the rows, or of the columns, as is asked.
  int64_t channels_with_taps(bool last_row, bool last_column) const {
    if (conv.d.taps > 1) return channels;
    const int64_t h_parts = last_row ? parts_with_last_tap(h, conv.h.taps) : h.parts;
    const int64_t w_parts = last_column ? parts_with_last_tap(w, conv.w.taps) : w.parts;
    return ((h_parts - 1) * w.parts + w_parts) * conv.channels;
  }
  // The plane that a channel of the view is, or a part of.
  int64_t plane(int64_t channel) const {
    return channel % conv.channels * conv.d.taps + channel / (conv.channels * parts);
  }

 private:
  static bool exists(const TapAxis& axis, int64_t taps) {
    for (int64_t t = 1; t < axis.taps; ++t)
      if (axis.shift(t) != t * axis.shift(1)) return false;
    const int64_t phase_taps = ceil_div(axis.taps, axis.stride);
    return (phase_taps == taps || (phase_taps > taps && taps > 1)) &&
           (axis.stride == 1 || axis.taps == 1 || axis.shift(1) == 1);
  }
  // Those that have it come first.
  static int64_t parts_with_last_tap(const Axis& axis, int64_t kernel_taps) {
    int64_t count = axis.parts;
    while (axis.tap(count - 1, axis.taps - 1) >= kernel_taps) --count;
    return count;
  }
  static int64_t inside(const TapAxis& axis, int64_t dilation, int64_t phase, int64_t from) {
    return max_of(0, ceil_div(axis.out_size - phase, dilation) - from);
  }
};

}  // namespace convpool::CONVPOOL_ISA
