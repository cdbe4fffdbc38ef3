// Pooling over (batch, channels, D, H, W), forward and backward.
//
// A window's work is shared with its neighbours: each output row first reduces its input rows, of
// all slices, column by column, then reduces neighbouring columns. Columns whose distance from the
// first leaves the same rest modulo the stride are put side by side in between, so that both steps
// run on whole vectors.
#pragma once

#include <string.h>

#include "../arena.h"
#include "../convpool.h"
#include "../parallel.h"
#include "rules.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class Pooling {
  static constexpr int kLanes = Simd<T>::kLanes;
  using V = Vec<T>;
  using Mask = decltype(V{} == V{});

 public:
  // Both return false where memory is out.
  static bool forward(const convpool_pooling& pool, const T* x, T* y) {
    return with_pool_rule<T>(pool,
                             [&](auto rule) { return Pooling(pool).forward_all(rule, x, y); });
  }
  static bool backward(const convpool_pooling& pool, const T* x, const T* y, const T* dy, T* dx) {
    return with_pool_rule<T>(
        pool, [&](auto rule) { return Pooling(pool).backward_all(rule, x, y, dy, dx); });
  }

 private:
  explicit Pooling(const convpool_pooling& pool)
      : average_(pool.mode == CONVPOOL_AVG),
        count_pad_(pool.count_include_pad != 0),
        planes_(pool.batch * pool.channels),
        kernel_d_(pool.window.kernel[2]),
        kernel_h_(pool.window.kernel[0]),
        kernel_w_(pool.window.kernel[1]),
        stride_d_(pool.window.stride[2]),
        stride_h_(pool.window.stride[0]),
        stride_w_(pool.window.stride[1]),
        pad_d_(pool.window.pad[2]),
        pad_h_(pool.window.pad[0]),
        pad_w_(pool.window.pad[1]),
        in_d_(pool.window.in_size[2]),
        in_h_(pool.window.in_size[0]),
        in_w_(pool.window.in_size[1]),
        out_d_(pool.window.out_size[2]),
        out_h_(pool.window.out_size[0]),
        out_w_(pool.window.out_size[1]) {
    width_ = (out_w_ - 1) * stride_w_ + kernel_w_;
    columns_ = ceil_div(width_, stride_w_);
    inside_ = max_of(0, min_of(in_w_, width_ - pad_w_));
    whole_plane_ = out_d_ == 1 && out_h_ == 1 && out_w_ == 1 && pad_d_ == 0 && pad_h_ == 0 &&
                   pad_w_ == 0 && kernel_d_ >= in_d_ && kernel_h_ >= in_h_ && kernel_w_ >= in_w_;
  }

  double work() const {
    return static_cast<double>(planes_) * static_cast<double>(in_size() + out_size());
  }

  // Of a plane: all slices of a channel.
  int64_t in_size() const { return in_d_ * in_h_ * in_w_; }
  int64_t out_size() const { return out_d_ * out_h_ * out_w_; }
  int64_t out_rows() const { return out_d_ * out_h_; }
  // A division takes as long as a short row.
  int64_t slice_of(int64_t out_row) const { return out_d_ == 1 ? 0 : out_row / out_h_; }

  // Runs body(first plane, end plane, first output row, end output row). Rows are split only where
  // planes are few, and only if `split_rows`.
  template <typename Body>
  bool for_each_part(bool split_rows, const Body& body) const {
    if (planes_ == 0 || out_size() == 0) return true;
    const int64_t wanted = 4 * num_threads();
    const int64_t plane_parts = min_of(planes_, wanted);
    const int64_t row_parts =
        split_rows && !whole_plane_ ? min_of(out_rows(), ceil_div(wanted, plane_parts)) : 1;
    bool failed = false;
    parallel_for(plane_parts * row_parts, work(), [&](int64_t task) {
      const int64_t part = task / row_parts, rows = task % row_parts;
      if (!body(planes_ * part / plane_parts, planes_ * (part + 1) / plane_parts,
                out_rows() * rows / row_parts, out_rows() * (rows + 1) / row_parts))
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  // Input rows of an output row's window: `rows` of each slice, none where it lies outside. The
  // first is row `first` of the plane.
  struct WindowRows {
    int64_t first, slices, rows;
  };
  WindowRows window_rows(int64_t row) const {
    const int64_t out_slice = slice_of(row);
    const int64_t slice = out_slice * stride_d_ - pad_d_;
    const int64_t start = (row - out_slice * out_h_) * stride_h_ - pad_h_;
    const int64_t slice0 = max_of(0, slice), row0 = max_of(0, start);
    return {slice0 * in_h_ + row0, max_of(0, min_of(slice + kernel_d_, in_d_) - slice0),
            max_of(0, min_of(start + kernel_h_, in_h_) - row0)};
  }

  // Where row r of a window is in its plane.
  int64_t row_of(const WindowRows& window, int64_t r) const {
    if (window.slices == 1) return window.first + r;
    return window.first + r / window.rows * in_h_ + r % window.rows;
  }

  // How many elements of one axis the average counts.
  int64_t counted(int64_t out, int64_t stride, int64_t kernel, int64_t pad, int64_t size) const {
    const int64_t start = out * stride - pad;
    const int64_t count = count_pad_ ? min_of(start + kernel, size + pad) - start
                                     : min_of(start + kernel, size) - max_of(start, 0);
    return max_of(1, count);  // a window that lies outside sums to 0, whatever divides it
  }
  T row_count(int64_t row) const {
    const int64_t slice = slice_of(row);
    return static_cast<T>(counted(slice, stride_d_, kernel_d_, pad_d_, in_d_) *
                          counted(row - slice * out_h_, stride_h_, kernel_h_, pad_h_, in_h_));
  }
  void column_counts(T* counts) const {
    for (int64_t c = 0; c < out_w_; ++c)
      counts[c] = static_cast<T>(counted(c, stride_w_, kernel_w_, pad_w_, in_w_));
  }

  // Where tap j finds the column of output 0 in a row that split() has rearranged.
  int64_t tap_shift(int64_t j) const { return j % stride_w_ * columns_ + j / stride_w_; }

  // Padded row -> [phase][column], and back, adding to what is inside the image.
  void split(const T* row, T* to) const {
    for (int64_t phase = 0; phase < stride_w_; ++phase, to += columns_) {
      const int64_t count = max_of(0, ceil_div(width_ - phase, stride_w_));
      if (stride_w_ == 2)
        for (int64_t k = 0; k < count; ++k) to[k] = row[phase + 2 * k];
      else
        for (int64_t k = 0; k < count; ++k) to[k] = row[phase + k * stride_w_];
    }
  }
  void add_split(const T* from, T* row) const {
    for (int64_t phase = 0; phase < stride_w_; ++phase, from += columns_) {
      // Columns k with 0 <= phase + k * stride - pad < inside.
      const int64_t k0 = phase < pad_w_ ? ceil_div(pad_w_ - phase, stride_w_) : 0;
      const int64_t k1 = ceil_div(max_of(0, inside_ + pad_w_ - phase), stride_w_);
      T* to = row + phase - pad_w_;
      if (stride_w_ == 1)
        for (int64_t k = k0; k < k1; ++k) to[k] += from[k];
      else if (stride_w_ == 2)
        for (int64_t k = k0; k < k1; ++k) to[2 * k] += from[k];
      else
        for (int64_t k = k0; k < k1; ++k) to[k * stride_w_] += from[k];
    }
  }

  template <typename Rule>
  bool forward_all(Rule, const T* x, T* y) const {
    return for_each_part(true, [&](int64_t plane0, int64_t plane1, int64_t row0, int64_t row1) {
      if (whole_plane_) {
        for (int64_t plane = plane0; plane < plane1; ++plane)
          y[plane] = reduce_plane<Rule>(x + plane * in_size());
        return true;
      }
      Arena arena(Scratch::kTask);
      const size_t row_at = arena.template reserve<T>(width_ + kLanes);
      const size_t split_at = arena.template reserve<T>(columns_ * stride_w_ + kLanes);
      const size_t count_at = arena.template reserve<T>(out_w_);
      if (!arena.allocate()) return false;
      T *row_data = arena.template at<T>(row_at), *split_data = arena.template at<T>(split_at);
      T* counts = arena.template at<T>(count_at);
      for (int64_t k = 0; k < width_; ++k) row_data[k] = Rule::identity();
      if (average_) column_counts(counts);
      for (int64_t plane = plane0; plane < plane1; ++plane)
        for (int64_t row = row0; row < row1; ++row) {
          reduce_rows<Rule>(x + plane * in_size(), window_rows(row), row_data + pad_w_);
          const T* columns = row_data;
          if (stride_w_ > 1) {
            split(row_data, split_data);
            columns = split_data;
          }
          T* to = y + (plane * out_rows() + row) * out_w_;
          reduce_columns<Rule>(columns, to);
          if (average_) {
            const T rows = row_count(row);
            for (int64_t c = 0; c < out_w_; ++c) to[c] /= rows * counts[c];
          } else {
            for (int64_t c = 0; c < out_w_; ++c) to[c] = Rule::finish(to[c]);
          }
        }
      return true;
    });
  }

  // to[c] = all rows' column c, for the columns inside the image.
  template <typename Rule>
  void reduce_rows(const T* x, const WindowRows& window, T* to) const {
    x += window.first * in_w_;
    if (window.slices == 1) return reduce_rows<Rule>(x, window.rows, to);
    const int64_t slice_pitch = in_h_ * in_w_;
    int64_t c = 0;
    for (; c + kLanes <= inside_; c += kLanes) {
      V sum = broadcast<T>(Rule::identity());
      for (int64_t s = 0; s < window.slices; ++s)
        for (int64_t r = 0; r < window.rows; ++r)
          sum = Rule::combine(sum, Rule::prepare(load<T>(x + s * slice_pitch + r * in_w_ + c)));
      store<T>(to + c, sum);
    }
    for (; c < inside_; ++c) {
      T sum = Rule::identity();
      for (int64_t s = 0; s < window.slices; ++s)
        for (int64_t r = 0; r < window.rows; ++r)
          sum = Rule::combine(sum, Rule::prepare(x[s * slice_pitch + r * in_w_ + c]));
      to[c] = sum;
    }
  }

  // The same of one slice.
  template <typename Rule>
  void reduce_rows(const T* x, int64_t rows, T* to) const {
    int64_t c = 0;
    for (; c + kLanes <= inside_; c += kLanes) {
      V sum = broadcast<T>(Rule::identity());
      for (int64_t r = 0; r < rows; ++r)
        sum = Rule::combine(sum, Rule::prepare(load<T>(x + r * in_w_ + c)));
      store<T>(to + c, sum);
    }
    for (; c < inside_; ++c) {
      T sum = Rule::identity();
      for (int64_t r = 0; r < rows; ++r) sum = Rule::combine(sum, Rule::prepare(x[r * in_w_ + c]));
      to[c] = sum;
    }
  }

  // Reads up to a vector behind the last column; what it finds there is not used.
  template <typename Rule>
  void reduce_columns(const T* columns, T* y) const {
    for (int64_t c = 0; c < out_w_; c += kLanes) {
      V sum = load<T>(columns + c);
      for (int64_t j = 1; j < kernel_w_; ++j)
        sum = Rule::combine(sum, load<T>(columns + tap_shift(j) + c));
      store_part(y + c, sum, out_w_ - c);
    }
  }

  static CONVPOOL_INLINE void store_part(T* to, V value, int64_t count) {
    if (count >= kLanes) {
      store<T>(to, value);
    } else {
      memcpy(to, &value, static_cast<size_t>(count) * sizeof(T));
    }
  }

  static CONVPOOL_INLINE V load_part(const T* from, int64_t count) {
    if (count >= kLanes) return load<T>(from);
    V value = {};
    memcpy(&value, from, static_cast<size_t>(count) * sizeof(T));
    return value;
  }

  template <typename Rule>
  T reduce_plane(const T* x) const {
    const int64_t size = in_size();
    constexpr int kChains = 4;
    V chain[kChains];
    for (int i = 0; i < kChains; ++i) chain[i] = broadcast<T>(Rule::identity());
    int64_t k = 0;
    for (; k + kChains * kLanes <= size; k += kChains * kLanes)
      for (int i = 0; i < kChains; ++i)
        chain[i] = Rule::combine(chain[i], Rule::prepare(load<T>(x + k + i * kLanes)));
    V all = chain[0];
    for (int i = 1; i < kChains; ++i) all = Rule::combine(all, chain[i]);
    T result = all[0];
    for (int lane = 1; lane < kLanes; ++lane) result = Rule::combine(result, T(all[lane]));
    for (; k < size; ++k) result = Rule::combine(result, Rule::prepare(x[k]));
    return average_ ? result / static_cast<T>(size) : Rule::finish(result);
  }

  template <typename Rule>
  bool backward_all(Rule, const T* x, const T* y, const T* dy, T* dx) const {
    return for_each_part(false, [&](int64_t plane0, int64_t plane1, int64_t, int64_t) {
      Arena arena(Scratch::kTask);
      const int64_t padded = columns_ * stride_w_ + kLanes;
      const int64_t rows =
          Rule::kByTap && !whole_plane_ ? min_of(kernel_d_, in_d_) * min_of(kernel_h_, in_h_) : 1;
      const size_t x_at = arena.template reserve<T>(rows * padded);
      const size_t gradient_at = arena.template reserve<T>(rows * padded);
      const size_t inside_at = arena.template reserve<T>(padded);
      const size_t row_at = arena.template reserve<T>(width_ + kLanes);
      const size_t count_at = arena.template reserve<T>(out_w_);
      if (!arena.allocate()) return false;
      const Buffers buffers{arena.template at<T>(x_at),
                            arena.template at<T>(gradient_at),
                            padded,
                            arena.template at<T>(inside_at),
                            arena.template at<T>(row_at),
                            arena.template at<T>(count_at)};
      for (int64_t k = 0; k < width_; ++k)
        buffers.row[k] = k >= pad_w_ && k < pad_w_ + inside_ ? T(1) : T(0);
      split(buffers.row, buffers.inside);
      if (average_) column_counts(buffers.counts);
      for (int64_t plane = plane0; plane < plane1; ++plane) {
        T* to = dx + plane * in_size();
        if (whole_plane_) {
          spread_plane<Rule>(x + plane * in_size(), y[plane], dy[plane], to);
          continue;
        }
        for (int64_t k = 0; k < in_size(); ++k) to[k] = T(0);
        for (int64_t row = 0; row < out_rows(); ++row) {
          const int64_t out = plane * out_size() + row * out_w_;
          if constexpr (Rule::kByTap)
            spread_by_tap<Rule>(x + plane * in_size(), y + out, dy + out, row, buffers, to);
          else
            spread_by_row(dy + out, row, buffers, to);
        }
      }
      return true;
    });
  }

  struct Buffers {
    T *x,
        *gradient;  // as many rows as a window has, of `pitch` values each, as split() leaves them
    int64_t pitch;
    T* inside;  // one such row: 1 inside the image, 0 in the padding
    T* row;     // one padded row
    T* counts;  // per output column
  };

  template <typename Rule>
  void spread_plane(const T* x, T y, T dy, T* dx) const {
    const int64_t size = in_size();
    if constexpr (Rule::kFirstOnly) {
      memset(dx, 0, static_cast<size_t>(size) * sizeof(T));
      int64_t k = 0;
      while (k < size - 1 && !(x[k] == y || (x[k] != x[k] && y != y))) ++k;
      dx[k] = dy;
    } else {
      const T share = average_ ? dy / static_cast<T>(size) : dy;
      const V y_here = broadcast<T>(y), dy_here = broadcast<T>(share);
      Mask open = ~Mask{};
      for (int64_t k = 0; k < size; k += kLanes)
        store_part(dx + k, Rule::gradient(load_part(x + k, size - k), y_here, dy_here, open, &open),
                   size - k);
    }
  }

  // Each value's share depends on the value: tap by tap.
  template <typename Rule>
  void spread_by_tap(const T* x, const T* y, const T* dy, int64_t row, const Buffers& b,
                     T* dx) const {
    const WindowRows window = window_rows(row);
    const int64_t rows = window.slices * window.rows;
    for (int64_t r = 0; r < rows; ++r) {
      memcpy(b.row + pad_w_, x + row_of(window, r) * in_w_,
             static_cast<size_t>(inside_) * sizeof(T));
      split(b.row, b.x + r * b.pitch);
      memset(b.gradient + r * b.pitch, 0, static_cast<size_t>(b.pitch) * sizeof(T));
    }
    for (int64_t c = 0; c < out_w_; c += kLanes) {
      const V y_here = load_part(y + c, out_w_ - c), dy_here = load_part(dy + c, out_w_ - c);
      Mask open = ~Mask{};
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < kernel_w_; ++j) {
          const int64_t at = r * b.pitch + tap_shift(j) + c;
          const Mask inside = load<T>(b.inside + tap_shift(j) + c) != V{};
          const V share = Rule::gradient(load<T>(b.x + at), y_here, dy_here, inside, &open);
          store<T>(b.gradient + at, load<T>(b.gradient + at) + share);
        }
    }
    for (int64_t r = 0; r < rows; ++r)
      add_split(b.gradient + r * b.pitch, dx + row_of(window, r) * in_w_);
  }

  // Every value of a window takes the same share: spread it over one row, add that to each.
  void spread_by_row(const T* dy, int64_t row, const Buffers& b, T* dx) const {
    memset(b.gradient, 0, static_cast<size_t>(b.pitch) * sizeof(T));
    const T rows = average_ ? row_count(row) : T(1);
    for (int64_t c = 0; c < out_w_; c += kLanes) {
      V share = load_part(dy + c, out_w_ - c);
      if (average_) {
        V counts = load_part(b.counts + c, out_w_ - c);
        if (out_w_ - c < kLanes) counts = counts == V{} ? broadcast<T>(T(1)) : counts;
        share /= counts * broadcast<T>(rows);
      }
      for (int64_t j = 0; j < kernel_w_; ++j) {
        T* to = b.gradient + tap_shift(j) + c;
        store<T>(to, load<T>(to) + share);
      }
    }
    const WindowRows window = window_rows(row);
    for (int64_t r = 0; r < window.slices * window.rows; ++r)
      add_split(b.gradient, dx + row_of(window, r) * in_w_);
  }

  const bool average_, count_pad_;
  const int64_t planes_;
  const int64_t kernel_d_, kernel_h_, kernel_w_, stride_d_, stride_h_, stride_w_;
  const int64_t pad_d_, pad_h_, pad_w_, in_d_, in_h_, in_w_, out_d_, out_h_, out_w_;
  int64_t width_;    // columns that the windows of a row cover, padding included
  int64_t columns_;  // of one phase
  int64_t inside_;   // columns of the image among them
  bool whole_plane_;
};

}  // namespace convpool::CONVPOOL_ISA
