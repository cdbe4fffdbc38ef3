// Pooling over (batch, channels, D, H, W), forward and backward.
//
// A window's work is shared with its neighbours: each output row first reduces its input rows, of
// all slices, column by column, then reduces neighbouring columns. Columns whose distance from the
// first leaves the same rest modulo the stride are put side by side in between, so that both steps
// run on whole vectors. Rows are often shorter than a vector, so that several of them, of whatever
// planes, go through the second step together: a band. Its rows are columns_ outputs apart, of
// which those behind out_w_ are not used.
#pragma once

#include <string.h>

#include "../arena.h"
#include "../convpool.h"
#include "../parallel.h"
#include "../runs.h"
#include "../transpose.h"
#include "rules.h"
#include "window_gradient.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class Pooling {
  static constexpr int kLanes = Simd<T>::kLanes;
  using V = Vec<T>;
  using Mask = decltype(V{} == V{});
  // All bands of a task are to stay in L1 with what they read and write.
  static constexpr int64_t kBandBytes = 8 << 10;

 public:
  // Both return false where memory is out.
  static bool forward(const convpool_pooling& pool, const T* x, T* y) {
    return with_pool_rule<T>(pool,
                             [&](auto rule) { return Pooling(pool).forward_all(rule, x, y); });
  }
  static bool backward(const convpool_pooling& pool, const T* x, const T* y, const T* dy, T* dx) {
    if (WindowGradient<T>::fits(pool)) return WindowGradient<T>::run(pool, x, y, dy, dx);
    return with_pool_rule<T>(
        pool, [&](auto rule) { return Pooling(pool).backward_all(rule, x, y, dy, dx); });
  }

 private:
  explicit Pooling(const convpool_pooling& pool)
      : pool_(pool),
        average_(pool.mode == CONVPOOL_AVG),
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
    tiled_ = kernel_d_ == stride_d_ && kernel_h_ == stride_h_ && kernel_w_ == stride_w_ &&
             pad_d_ == 0 && pad_h_ == 0 && pad_w_ == 0 && in_d_ == out_d_ * stride_d_ &&
             in_h_ == out_h_ * stride_h_ && in_w_ == out_w_ * stride_w_;
    if (average_ && window_counts_all(0) && window_counts_all(1) && window_counts_all(2))
      uniform_count_ = kernel_d_ * kernel_h_ * kernel_w_;
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

  // Does every window of an axis count all of its elements?
  bool window_counts_all(int d) const {
    const int64_t outputs = pool_.window.out_size[d], kernel = pool_.window.kernel[d];
    return outputs > 0 && counted(pool_, d, 0) == kernel &&
           counted(pool_, d, outputs - 1) == kernel;
  }
  T row_count(int64_t row) const {
    const int64_t slice = slice_of(row);
    return static_cast<T>(counted(pool_, 2, slice) * counted(pool_, 0, row - slice * out_h_));
  }
  void column_counts(T* counts) const {
    for (int64_t c = 0; c < out_w_; ++c) counts[c] = static_cast<T>(counted(pool_, 1, c));
  }

  // Output rows of a band, of `rows` in all, where each is that many runs of values.
  int64_t band_rows(int64_t rows, int64_t runs) const {
    return max_of(1, min_of(rows, kBandBytes / (runs * band_size(1) * int64_t{sizeof(T)})));
  }
  int64_t band_size(int64_t rows) const { return rows * columns_ * stride_w_; }

  // Where the taps of output 0 are, one after the other, in a band that split() has rearranged.
  class TapPlace {
   public:
    TapPlace(const Pooling& pooling, int64_t rows)
        : stride_(pooling.stride_w_), phase_size_(rows * pooling.columns_) {}
    int64_t at() const { return at_; }
    void next() {
      at_ += phase_size_;
      if (++phase_ < stride_) return;
      phase_ = 0;
      at_ += 1 - stride_ * phase_size_;
    }

   private:
    const int64_t stride_, phase_size_;
    int64_t phase_ = 0, at_ = 0;
  };

  // [row][column] -> [phase][row][column of the phase], and back. Up to a vector behind the last
  // value is read.
  void split(const T* band, int64_t rows, T* to) const {
    const int64_t size = rows * columns_;
    if (stride_w_ == 2) return split_columns(to, to + size, band, size, 2 * (size + kLanes));
    for (int64_t phase = 0; phase < stride_w_; ++phase)
      gather_columns(to + phase * size, band + phase, size, stride_w_);
  }
  void join(const T* phases, int64_t rows, T* to) const {
    const int64_t size = rows * columns_;
    if (stride_w_ == 2) return interleave_columns(to, phases, phases + size, 2 * size);
    for (int64_t phase = 0; phase < stride_w_; ++phase, phases += size)
      for (int64_t k = 0; k < size; ++k) to[phase + k * stride_w_] = phases[k];
  }

  // The output rows of a part, one after the other: divisions cost as much as a short row.
  struct OutputRow {
    int64_t plane, row;
  };
  static void step(OutputRow* at, int64_t row0, int64_t row1) {
    if (++at->row < row1) return;
    at->row = row0;
    ++at->plane;
  }

  template <typename Rule>
  bool forward_all(Rule, const T* x, T* y) const {
    return for_each_part(true, [&](int64_t plane0, int64_t plane1, int64_t row0, int64_t row1) {
      if (whole_plane_) {
        for (int64_t plane = plane0; plane < plane1; plane += kLanes)
          reduce_planes<Rule>(x + plane * in_size(), min_of(kLanes, plane1 - plane), y + plane);
        return true;
      }
      const int64_t count = (plane1 - plane0) * (row1 - row0), most = band_rows(count, 1);
      const int64_t pitch = columns_ * stride_w_;
      Arena arena(Scratch::kTask);
      const size_t band_at = arena.template reserve<T>(band_size(most) + 2 * kLanes);
      const size_t split_at = arena.template reserve<T>(band_size(most) + kernel_w_ + kLanes);
      const size_t count_at = arena.template reserve<T>(out_w_ + kLanes);
      if (!arena.allocate()) return false;
      T *band = arena.template at<T>(band_at), *split_data = arena.template at<T>(split_at);
      T* counts = arena.template at<T>(count_at);
      for (int64_t k = 0; k < band_size(most); ++k) band[k] = Rule::identity();
      if (average_) column_counts(counts);
      OutputRow at{plane0, row0};
      // A part has several planes only where it has all of their rows: its outputs are one run.
      T* to = y + (plane0 * out_rows() + row0) * out_w_;
      for (int64_t first = 0; first < count; first += most) {
        const int64_t rows = min_of(most, count - first);
        const OutputRow start = at;
        for (int64_t b = 0; b < rows; ++b, step(&at, row0, row1))
          reduce_rows<Rule>(x + at.plane * in_size(), window_rows(at.row),
                            band + b * pitch + pad_w_);
        const T* columns = band;
        if (stride_w_ > 1) {
          split(band, rows, split_data);
          columns = split_data;
        }
        const bool by_column = average_ && uniform_count_ == 0;
        if (columns_ == out_w_ && !by_column) {
          reduce_columns<Rule>(columns, rows, rows * columns_, T(1), nullptr, to);
          to += rows * out_w_;
          continue;
        }
        OutputRow done = start;
        for (int64_t b = 0; b < rows; ++b, step(&done, row0, row1), to += out_w_)
          reduce_columns<Rule>(columns + b * columns_, rows, out_w_,
                               by_column ? row_count(done.row) : T(1), by_column ? counts : nullptr,
                               to);
      }
      return true;
    });
  }

  // to[c] = all rows' column c, for the columns inside the image.
  template <typename Rule>
  void reduce_rows(const T* x, const WindowRows& window, T* to) const {
    x += window.first * in_w_;
    const int64_t slice_pitch = in_h_ * in_w_;
    // What the windows read that come after the next two. Short rows are foreseen by the processor.
    constexpr int64_t kLine = 64 / int64_t{sizeof(T)}, kLong = 4 * kLine;
    const T* ahead = x + (window.rows + 2 * stride_h_) * in_w_;
    for (int64_t k = 0; in_w_ >= kLong && k < stride_h_ * in_w_; k += kLine)
      __builtin_prefetch(ahead + k);
    const auto reduce = [&](auto load_at) {
      V sum = broadcast<T>(Rule::identity());
      for (int64_t s = 0; s < window.slices; ++s)
        for (int64_t r = 0; r < window.rows; ++r)
          sum = Rule::combine(sum, Rule::prepare(load_at(x + s * slice_pitch + r * in_w_)));
      return sum;
    };
    if (inside_ < kLanes) {
      store_part<T>(to, reduce([&](const T* row) { return load_part<T>(row, inside_); }), inside_);
      return;
    }
    for (int64_t k = 0; k < inside_; k += kLanes) {
      const int64_t c = min_of(k, inside_ - kLanes);
      store<T>(to + c, reduce([&](const T* row) { return load<T>(row + c); }));
    }
  }

  // Of `count` outputs that stand side by side in a band of so many rows, each divided by row_count
  // * counts[its column], or by the count that all have. Reads up to a vector behind the last
  // column; what it finds there is not used.
  template <typename Rule>
  void reduce_columns(const T* columns, int64_t rows, int64_t count, T row_count, const T* counts,
                      T* y) const {
    const T uniform = uniform_count_ == 0 ? T(1) : static_cast<T>(uniform_count_);
    // Products with the inverse of a power of two are exact, and divisions slow.
    const bool divides = (uniform_count_ & (uniform_count_ - 1)) != 0;
    const T factor = divides ? T(1) : 1 / uniform;
    for (int64_t c = 0; c < count; c += kLanes) {
      TapPlace tap(*this, rows);
      V sum = load<T>(columns + c);
      for (int64_t j = 1; j < kernel_w_; ++j) {
        tap.next();
        sum = Rule::combine(sum, load<T>(columns + tap.at() + c));
      }
      if (counts)
        sum /= load<T>(counts + c) * row_count;
      else if (divides)
        sum /= broadcast<T>(uniform);
      else
        sum *= broadcast<T>(factor);
      store_part<T>(y + c, Rule::finish(sum), count - c);
    }
  }

  // One value for each of up to kLanes planes.
  template <typename Rule>
  void reduce_planes(const T* x, int64_t planes, T* y) const {
    V part[kLanes];
    for (int64_t i = 0; i < kLanes; ++i)
      part[i] = i < planes ? reduce_plane<Rule>(x + i * in_size()) : V{};
    Transposer<T>::run(part);
#pragma GCC unroll 8
    for (int half = kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 16
      for (int i = 0; i < half; ++i) part[i] = Rule::combine(part[i], part[i + half]);
    const V all = average_ ? part[0] / broadcast<T>(static_cast<T>(in_size())) : part[0];
    store_part<T>(y, average_ ? all : Rule::finish(all), planes);
  }

  // The values of a plane, reduced to one in each lane.
  template <typename Rule>
  V reduce_plane(const T* x) const {
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
    for (; k + kLanes <= size; k += kLanes) all = Rule::combine(all, Rule::prepare(load<T>(x + k)));
    if (k == size) return all;
    Mask inside;
    for (int lane = 0; lane < kLanes; ++lane) inside[lane] = lane < size - k ? -1 : 0;
    const V rest = load_part<T>(x + k, size - k);
    return Rule::combine(all, Rule::prepare(inside ? rest : broadcast<T>(Rule::identity())));
  }

  template <typename Rule>
  bool backward_all(Rule, const T* x, const T* y, const T* dy, T* dx) const {
    return for_each_part(false, [&](int64_t plane0, int64_t plane1, int64_t, int64_t) {
      if (whole_plane_) {
        for (int64_t plane = plane0; plane < plane1; ++plane)
          spread_plane<Rule>(x + plane * in_size(), y[plane], dy[plane], dx + plane * in_size());
        return true;
      }
      const int64_t count = (plane1 - plane0) * out_rows();
      const int64_t taps = Rule::kByTap ? min_of(kernel_d_, in_d_) * min_of(kernel_h_, in_h_) : 1;
      const int64_t most = band_rows(count, taps * (Rule::kByTap ? 2 : 1));
      Arena arena(Scratch::kTask);
      GradientBand band{};
      band.pitch = band_size(most) + kernel_w_ + 2 * kLanes;
      band.share_pitch = ceil_div(kernel_w_, stride_w_) + most * columns_ + kLanes;
      const size_t x_at = arena.template reserve<T>(taps * band.pitch);
      const size_t gradient_at = arena.template reserve<T>(band.pitch);
      const size_t inside_at = arena.template reserve<T>(band.pitch);
      const size_t y_at = arena.template reserve<T>(2 * band.share_pitch);
      const size_t share_at =
          arena.template reserve<T>(Rule::kByTap ? taps * kernel_w_ * band.share_pitch : 0);
      const size_t row_at = arena.template reserve<T>(band.pitch);
      const size_t count_at = arena.template reserve<T>(out_w_ + kLanes);
      if (!arena.allocate()) return false;
      const int64_t lead = ceil_div(kernel_w_, stride_w_);
      band.x = arena.template at<T>(x_at);
      band.gradient = arena.template at<T>(gradient_at);
      band.inside = arena.template at<T>(inside_at);
      band.y = arena.template at<T>(y_at);
      band.dy = band.y + band.share_pitch + lead;
      band.shares = Rule::kByTap ? arena.template at<T>(share_at) + lead : band.dy;
      band.rows_apart = arena.template at<T>(row_at);
      band.counts = arena.template at<T>(count_at);
      if (average_) column_counts(band.counts);
      set_padding(&band, most);
      clear(band.y, 2 * band.share_pitch);
      if (Rule::kByTap) clear(band.shares - lead, taps * kernel_w_ * band.share_pitch);
      OutputRow at{plane0, 0};
      for (int64_t first = 0; first < count;) {
        // The windows of a band reach as many rows each.
        band.start = at;
        band.window = window_rows(at.row);
        int64_t rows = 0;
        do {
          ++rows;
          step(&at, 0, out_rows());
          if (rows == most || first + rows == count) break;
          const WindowRows next = window_rows(at.row);
          if (next.slices != band.window.slices || next.rows != band.window.rows) break;
        } while (true);
        if (rows != band.rows) {
          band.rows = rows;
          if (Rule::kByTap) mark_inside(&band);
        }
        spread<Rule>(band, x, y, dy, dx);
        first += rows;
      }
      return true;
    });
  }

  // Some output rows, whose windows have as many rows of the input each, and what their gradient
  // needs: x and its gradient with a band for each row of the windows.
  struct GradientBand {
    OutputRow start;
    WindowRows window;  // of the first of them
    int64_t rows;
    T* x;                 // then its gradient, as rows_apart
    T* gradient;          // of one row of the windows, as split() leaves it
    int64_t pitch;        // from one row of the windows to the next
    T* shares;            // for each row of the windows and tap, by output; zeros before the first
    int64_t share_pitch;  // from one tap to the next
    T* inside;            // 1 inside the image, 0 in the padding, as split() leaves it
    T *y, *dy;            // rows columns_ apart, with zeros between them
    T* rows_apart;        // a band as it is before split(); its padding is NaN
    T* counts;            // per output column
  };

  // Padding is NaN: no comparison finds it equal to a maximum.
  void set_padding(GradientBand* band, int64_t rows) const {
    for (int64_t k = 0; k < band_size(rows); ++k) band->rows_apart[k] = static_cast<T>(NAN);
  }

  void mark_inside(GradientBand* band) const {
    const int64_t pitch = columns_ * stride_w_;
    for (int64_t b = 0; b < band->rows; ++b)
      for (int64_t k = 0; k < pitch; ++k)
        band->rows_apart[b * pitch + k] = k >= pad_w_ && k < pad_w_ + inside_ ? T(1) : T(0);
    split_or_copy(band->rows_apart, band->rows, band->inside);
    set_padding(band, band->rows);
  }

  void split_or_copy(const T* rows_apart, int64_t rows, T* to) const {
    if (stride_w_ > 1) return split(rows_apart, rows, to);
    gather_columns(to, rows_apart, band_size(rows), 1);
  }

  // Calls body(row of the band, its output row, its window).
  template <typename Body>
  void for_each_row(const GradientBand& band, const Body& body) const {
    OutputRow at = band.start;
    for (int64_t b = 0; b < band.rows; ++b, step(&at, 0, out_rows()))
      body(b, at, window_rows(at.row));
  }

  // The outputs of a band, columns_ apart and with a vector of zeros behind them.
  void copy_outputs(const GradientBand& band, const T* from, T* to) const {
    from += (band.start.plane * out_rows() + band.start.row) * out_w_;
    const bool dense = columns_ == out_w_;
    const int64_t runs = dense ? 1 : band.rows, length = dense ? band.rows * out_w_ : out_w_;
    for (int64_t run = 0; run < runs; ++run)
      gather_columns(to + run * columns_, from + run * out_w_, length, 1);
    clear(to + band.rows * columns_, kLanes);
  }

  // Each value of a window has a share of its own. No output is NaN if `Ordered`.
  template <typename Rule, bool Ordered>
  void spread_to_taps(const GradientBand& band, int64_t window_rows_count) const {
    for (int64_t c = 0; c < band.rows * columns_; c += kLanes) {
      const V y_here = load<T>(band.y + c), dy_here = load<T>(band.dy + c);
      Mask open = ~Mask{};
      for (int64_t r = 0; r < window_rows_count; ++r) {
        TapPlace tap(*this, band.rows);
        for (int64_t j = 0; j < kernel_w_; ++j, tap.next()) {
          const V x_here = load<T>(band.x + r * band.pitch + tap.at() + c);
          V share;
          if constexpr (Ordered) {
            share = Rule::ordered_gradient(x_here, y_here, dy_here, &open);
          } else {
            const Mask inside = load<T>(band.inside + tap.at() + c) != V{};
            share = Rule::gradient(x_here, y_here, dy_here, inside, &open);
          }
          store<T>(band.shares + (r * kernel_w_ + j) * band.share_pitch + c, share);
        }
      }
    }
  }

  template <typename Rule>
  void spread(const GradientBand& band, const T* x, const T* y, const T* dy, T* dx) const {
    const int64_t pitch = columns_ * stride_w_, rows = band.rows, size = rows * columns_;
    const int64_t window_rows_count = band.window.slices * band.window.rows;
    const int64_t taps = Rule::kByTap ? window_rows_count : 1;
    copy_outputs(band, dy, band.dy);
    if constexpr (Rule::kByTap) {
      // Rows are read every stride_h_-th first, which the processor does not foresee.
      const int64_t ahead = rows * stride_h_ * in_w_;
      const T* next = x + band.start.plane * in_size() + band.window.first * in_w_ + ahead;
      for (int64_t k = 0; k < ahead; k += 64 / int64_t{sizeof(T)}) __builtin_prefetch(next + k);
      copy_outputs(band, y, band.y);
      for (int64_t r = 0; r < taps; ++r) {
        for_each_row(band, [&](int64_t b, const OutputRow& at, const WindowRows& window) {
          gather_columns(band.rows_apart + b * pitch + pad_w_,
                         x + at.plane * in_size() + row_of(window, r) * in_w_, inside_, 1);
        });
        split_or_copy(band.rows_apart, rows, band.x + r * band.pitch);
      }
      if constexpr (Rule::kFirstOnly) {
        if (has_nan(band.y, size))
          spread_to_taps<Rule, false>(band, taps);
        else
          spread_to_taps<Rule, true>(band, taps);
      } else {
        spread_to_taps<Rule, false>(band, taps);
      }
    } else {
      // Every value of a window takes the same share: spread over one row, it is that of each.
      if (average_)
        for_each_row(band, [&](int64_t b, const OutputRow& at, const WindowRows&) {
          const T row_counts = row_count(at.row);
          for (int64_t c = 0; c < out_w_; ++c)
            band.dy[b * columns_ + c] /= band.counts[c] * row_counts;
        });
    }
    for (int64_t r = 0; r < taps; ++r) {
      T* gradient = stride_w_ > 1 ? band.gradient : band.x + r * band.pitch;
      if constexpr (Rule::kByTap)
        gather_shares(band.shares + r * kernel_w_ * band.share_pitch, band.share_pitch, rows,
                      gradient);
      else
        gather_shares(band.shares, 0, rows, gradient);
      if (stride_w_ > 1) join(gradient, rows, band.x + r * band.pitch);
    }
    // To the rows of the image, in the order of the outputs, whatever the bands are.
    for_each_row(band, [&](int64_t b, const OutputRow& at, const WindowRows& window) {
      if (at.row == 0 && !tiled_) clear(dx + at.plane * in_size(), in_size());
      for (int64_t r = 0; r < window_rows_count; ++r) {
        const T* from = band.x + (Rule::kByTap ? r * band.pitch : 0) + b * pitch + pad_w_;
        T* to = dx + at.plane * in_size() + row_of(window, r) * in_w_;
        if (tiled_)
          gather_columns(to, from, inside_, 1);
        else
          add_run(from, to);
      }
    });
  }

  // What all taps that read a value give it, from shares that lie by output. The taps of a value
  // are those of its phase.
  void gather_shares(const T* shares, int64_t tap_pitch, int64_t rows, T* to) const {
    const int64_t size = rows * columns_;
    for (int64_t phase = 0; phase < stride_w_; ++phase, to += size)
      for (int64_t c = 0; c < size; c += kLanes) {
        V sum{};
        const T* from = shares + phase * tap_pitch + c;
        for (int64_t j = phase; j < kernel_w_; j += stride_w_, from += stride_w_ * tap_pitch - 1)
          sum += load<T>(from);
        store<T>(to + c, sum);
      }
  }

  // Adds what a row of a band has inside the image.
  void add_run(const T* from, T* to) const {
    int64_t k = 0;
    for (; k + kLanes <= inside_; k += kLanes)
      store<T>(to + k, load<T>(to + k) + load<T>(from + k));
    if (k < inside_)
      store_part<T>(to + k, load_part<T>(to + k, inside_ - k) + load<T>(from + k), inside_ - k);
  }

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
        store_part<T>(dx + k,
                      Rule::gradient(load_part<T>(x + k, size - k), y_here, dy_here, open, &open),
                      size - k);
    }
  }

  const convpool_pooling pool_;
  const bool average_;
  const int64_t planes_;
  const int64_t kernel_d_, kernel_h_, kernel_w_, stride_d_, stride_h_, stride_w_;
  const int64_t pad_d_, pad_h_, pad_w_, in_d_, in_h_, in_w_, out_d_, out_h_, out_w_;
  int64_t uniform_count_ = 0;  // by which an average divides all sums; 0 where it is not one number
  int64_t width_;              // columns that the windows of a row cover, padding included
  int64_t columns_;            // of one phase
  int64_t inside_;             // columns of the image among them
  bool whole_plane_;
  bool tiled_;  // does every value belong to exactly one window?
};

}  // namespace convpool::CONVPOOL_ISA
