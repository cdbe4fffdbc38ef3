// The gradient of max, average and sum pooling, by the windows that most networks have: up to 3x3,
// with steps of one or two columns, without depth.
//
// A plane is walked through from top to bottom. The gradients of the rows that the windows of a row
// of outputs see stand in a ring, so that each is written once; those of maxima need the rows
// themselves, which stand in another, with NaN around them, which no maximum equals. Of
// neighbouring outputs, one vector finds its maxima tap by tap; what the taps give to a value of
// the input is added up in registers before it is added to the ring.
#pragma once

#include <math.h>

#include "../arena.h"
#include "../convpool.h"
#include "../parallel.h"
#include "rules.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class WindowGradient {
  static constexpr int kLanes = Simd<T>::kLanes;
  using V = Vec<T>;
  static constexpr int kMostRows = 3;

 public:
  // With channels first. Windows that do not overlap take 0.7 to 0.9 of the time in the bands of
  // pooling.h, but for maxima in long rows.
  static bool fits(const convpool_pooling& pool) {
    const convpool_window& window = pool.window;
    if (window.stride[1] == window.kernel[1] &&
        (pool.mode != CONVPOOL_MAX || 2 * window.out_size[1] <= kLanes))
      return false;
    return pool.mode != CONVPOOL_LP && window.kernel[2] == 1 && window.in_size[2] == 1 &&
           window.out_size[2] == 1 && window.pad[2] == 0 && window.kernel[0] <= kMostRows &&
           functions(pool.mode, window.kernel[1], window.stride[1]);
  }

  // Returns false where memory is out.
  static bool run(const convpool_pooling& pool, const T* x, const T* y, const T* dy, T* dx) {
    return WindowGradient(pool, dx).run_all(x, y, dy, dx);
  }

 private:
  WindowGradient(const convpool_pooling& pool, const T* dx)
      : pool_(pool),
        max_(pool.mode == CONVPOOL_MAX),
        planes_(pool.batch * pool.channels),
        kernel_h_(pool.window.kernel[0]),
        kernel_w_(pool.window.kernel[1]),
        stride_h_(pool.window.stride[0]),
        stride_w_(pool.window.stride[1]),
        pad_h_(pool.window.pad[0]),
        pad_w_(pool.window.pad[1]),
        in_h_(pool.window.in_size[0]),
        in_w_(pool.window.in_size[1]),
        out_h_(pool.window.out_size[0]),
        out_w_(pool.window.out_size[1]),
        columns_(out_w_ + (kernel_w_ - 1) / stride_w_),
        inside_(max_of(0, min_of(in_w_, (out_w_ - 1) * stride_w_ + kernel_w_ - pad_w_))),
        written_(ceil_div(columns_, kLanes) * kLanes * stride_w_),
        pitch_(written_ + kLanes),
        past_caches_(goes_past_caches(dx, planes_ * in_h_ * in_w_, in_w_)) {}

  // Of a row of outputs, whose windows see as many rows as the function is for.
  struct Row {
    const T* x[kMostRows];  // from the first column that a window sees; of maxima only
    T* dx[kMostRows];       // added to
    const T *y, *dy;        // of an average, dy is the share of each value
    int64_t outputs;
    int64_t columns;  // outputs, and as many more as the last window reaches behind the last one
  };
  using Function = void (*)(const Row&);

  // What is left of the window's search after a tap, and what the tap gets.
  static CONVPOOL_INLINE V take(V x, V dy, V* y) {
    const V nothing = broadcast<T>(static_cast<T>(NAN));
    const V share = x == *y ? dy : V{};
    *y = x == *y ? nothing : *y;
    return share;
  }

  // The last Count lanes of `before`, and then the first ones of `here`.
  template <int Count>
  static CONVPOOL_INLINE V follow(V before, V here) {
    decltype(here == here) lane{};
    for (int k = 0; k < kLanes; ++k) lane[k] = kLanes - Count + k;
    return __builtin_shuffle(before, here, lane);
  }

  static CONVPOOL_INLINE void add(T* to, V value) { store<T>(to, load<T>(to) + value); }

  // Of maxima.
  template <int Rows, int Kernel, int Stride>
  static void spread(const Row& row) {
    V second_before[kMostRows] = {}, third_before[kMostRows] = {};
    for (int64_t c = 0; c < row.columns; c += kLanes) {
      const int64_t left = max_of(0, row.outputs - c);
      V y = load_part<T>(row.y + c, left);
      const V dy = load_part<T>(row.dy + c, left);
#pragma GCC unroll 3
      for (int r = 0; r < Rows; ++r) {
        const T* x = row.x[r] + c * Stride;
        T* dx = row.dx[r] + c * Stride;
        if constexpr (Stride == 2) {
          V pair[2], next[2];
          deinterleave<T>(x, pair);
          V even = take(pair[0], dy, &y);
          const V odd = take(pair[1], dy, &y);
          if constexpr (Kernel == 3) {
            deinterleave<T>(x + 2, next);
            const V third = take(next[0], dy, &y);
            even += follow<1>(third_before[r], third);
            third_before[r] = third;
          }
          interleave<T>(even, odd, pair);
          add(dx, pair[0]);
          add(dx + kLanes, pair[1]);
        } else {
          V sum = take(load<T>(x), dy, &y);
          const V second = take(load<T>(x + 1), dy, &y);
          sum += follow<1>(second_before[r], second);
          second_before[r] = second;
          if constexpr (Kernel == 3) {
            const V third = take(load<T>(x + 2), dy, &y);
            sum += follow<2>(third_before[r], third);
            third_before[r] = third;
          }
          add(dx, sum);
        }
      }
    }
  }

  // Of averages and sums: all rows of a window get the same.
  template <int Rows, int Kernel, int Stride>
  static void spread_evenly(const Row& row) {
    V before{};
    for (int64_t c = 0; c < row.columns; c += kLanes) {
      const V dy = load_part<T>(row.dy + c, max_of(0, row.outputs - c));
      V sum[2] = {dy, dy};
      if constexpr (Stride == 2) {
        if constexpr (Kernel == 3) sum[0] += follow<1>(before, dy);
        interleave<T>(sum[0], sum[1], sum);
      } else {
        sum[0] += follow<1>(before, dy);
        if constexpr (Kernel == 3) sum[0] += follow<2>(before, dy);
      }
      before = dy;
#pragma GCC unroll 3
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
        for (int k = 0; k < Stride; ++k) add(row.dx[r] + c * Stride + k * kLanes, sum[k]);
    }
  }

  template <int Kernel, int Stride>
  static constexpr Function kFunctions[2][kMostRows] = {
      {spread_evenly<1, Kernel, Stride>, spread_evenly<2, Kernel, Stride>,
       spread_evenly<3, Kernel, Stride>},
      {spread<1, Kernel, Stride>, spread<2, Kernel, Stride>, spread<3, Kernel, Stride>}};

  // By the number of rows, from one on; null where no window of this kind is served.
  static const Function* functions(convpool_pool_mode mode, int64_t kernel, int64_t stride) {
    if (kernel < 2 || kernel > 3 || stride < 1 || stride > 2) return nullptr;
    const int max = mode == CONVPOOL_MAX ? 1 : 0;
    if (stride == 1) return kernel == 2 ? kFunctions<2, 1>[max] : kFunctions<3, 1>[max];
    return kernel == 2 ? kFunctions<2, 2>[max] : kFunctions<3, 2>[max];
  }

  bool run_all(const T* x, const T* y, const T* dy, T* dx) const {
    const int64_t in_size = in_h_ * in_w_, out_size = out_h_ * out_w_;
    const int64_t tasks = min_of(planes_, 4 * num_threads());
    bool failed = false;
    parallel_for(tasks, static_cast<double>(planes_ * (in_size + out_size)), [&](int64_t task) {
      Arena arena(Scratch::kTask);
      const size_t x_at = arena.template reserve<T>(max_ ? kernel_h_ * pitch_ : 0);
      const size_t share_at = arena.template reserve<T>(2 * out_w_);
      const size_t dx_at = arena.template reserve<T>(kernel_h_ * pitch_);
      if (!arena.allocate()) {
        __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        return;
      }
      T* shares = arena.template at<T>(share_at);
      const Buffers buffers{arena.template at<T>(x_at), arena.template at<T>(dx_at), shares,
                            shares + out_w_};
      for (int64_t k = 0; max_ && k < kernel_h_ * pitch_; ++k)
        buffers.x_ring[k] = static_cast<T>(NAN);
      for (int64_t c = 0; c < out_w_; ++c) buffers.counts[c] = static_cast<T>(counted(pool_, 1, c));
      for (int64_t plane = planes_ * task / tasks; plane < planes_ * (task + 1) / tasks; ++plane)
        run_plane(x + plane * in_size, y + plane * out_size, dy + plane * out_size, buffers,
                  dx + plane * in_size);
      if (past_caches_) finish_past_caches();
      release_scratch(Scratch::kTask);
    });
    return !failed;
  }

  struct Buffers {
    T* x_ring;  // of maxima only
    T* dx_ring;
    T* shares;  // of a row of averages, and how many columns they divide by
    T* counts;
  };

  void run_plane(const T* x, const T* y, const T* dy, const Buffers& buffers, T* dx) const {
    const Function* spread_rows = functions(pool_.mode, kernel_w_, stride_w_);
    const bool nan = max_ && has_nan(y, out_h_ * out_w_);
    int64_t begin = 0, end = 0;  // the rows that stand in the ring
    for (int64_t o = 0; o < out_h_; ++o, y += out_w_, dy += out_w_) {
      const int64_t start = o * stride_h_ - pad_h_;
      const int64_t row0 = min_of(max_of(0, start), in_h_);
      const int64_t row1 = max_of(row0, min_of(start + kernel_h_, in_h_));
      for (; begin < row0; ++begin) put_row(begin, end, buffers.dx_ring, dx);
      for (end = max_of(end, row0); end < row1; ++end) {
        if (max_) gather_columns(buffers.x_ring + place(end) + pad_w_, x + end * in_w_, inside_, 1);
        clear(buffers.dx_ring + place(end), written_);
      }
      if (row0 == row1) continue;
      Row row{{}, {}, y, dy, out_w_, columns_};
      for (int64_t r = row0; r < row1; ++r) {
        row.x[r - row0] = buffers.x_ring + place(r);
        row.dx[r - row0] = buffers.dx_ring + place(r);
      }
      if (pool_.mode == CONVPOOL_AVG) {
        const T rows = static_cast<T>(counted(pool_, 0, o));
        for (int64_t c = 0; c < out_w_; ++c) buffers.shares[c] = dy[c] / (buffers.counts[c] * rows);
        row.dy = buffers.shares;
      }
      spread_rows[row1 - row0 - 1](row);
      if (nan) spread_nan(row, row1 - row0);
    }
    for (; begin < in_h_; ++begin) put_row(begin, end, buffers.dx_ring, dx);
  }

  int64_t place(int64_t row) const { return row % kernel_h_ * pitch_; }

  // A row of the gradient that is complete; from `end` on they are seen by no window.
  void put_row(int64_t row, int64_t end, const T* dx_ring, T* dx) const {
    dx += row * in_w_;
    const int64_t seen = row < end ? inside_ : 0;
    if (past_caches_ && seen == in_w_) {
      const T* from = dx_ring + place(row) + pad_w_;
      for (int64_t k = 0; k < seen; k += kLanes) store_past_caches<T>(dx + k, load<T>(from + k));
      return;
    }
    gather_columns(dx, dx_ring + place(row) + pad_w_, seen, 1);
    clear(dx + seen, in_w_ - seen);
  }

  // The outputs that are NaN: the first NaN of a window takes the gradient. Padding is none.
  void spread_nan(const Row& row, int64_t rows) const {
    for (int64_t c = 0; c < out_w_; ++c) {
      if (row.y[c] == row.y[c]) continue;
      const int64_t first = c * stride_w_, end = min_of(first + kernel_w_, pad_w_ + inside_);
      bool open = true;
      for (int64_t r = 0; r < rows && open; ++r)
        for (int64_t k = max_of(first, pad_w_); k < end && open; ++k)
          if (row.x[r][k] != row.x[r][k]) {
            row.dx[r][k] += row.dy[c];
            open = false;
          }
    }
  }

  const convpool_pooling pool_;
  const bool max_;
  const int64_t planes_;
  const int64_t kernel_h_, kernel_w_, stride_h_, stride_w_, pad_h_, pad_w_;
  const int64_t in_h_, in_w_, out_h_, out_w_;
  const int64_t columns_;  // of the outputs, and those that the last window reaches behind them
  const int64_t inside_;   // columns of the input that windows see
  const int64_t written_;  // of a row of the gradient, in whole vectors
  const int64_t pitch_;    // of a ring's rows
  const bool past_caches_;
};

}  // namespace convpool::CONVPOOL_ISA
