// Pooling over (batch, H, W, channels), forward and backward: channels are the lanes.
#pragma once

#include <string.h>

#include "../convpool.h"
#include "../parallel.h"
#include "rules.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class ChannelsLastPooling {
  static constexpr int kLanes = Simd<T>::kLanes;
  // Channels of a task, in whole cache lines.
  static constexpr int64_t kBlock = 256 / static_cast<int64_t>(sizeof(T));
  using V = Vec<T>;
  using Mask = decltype(V{} == V{});

 public:
  static void forward(const convpool_pooling& pool, const T* x, T* y) {
    with_pool_rule<T>(pool, [&](auto rule) { ChannelsLastPooling(pool).forward_all(rule, x, y); });
  }
  static void backward(const convpool_pooling& pool, const T* x, const T* y, const T* dy, T* dx) {
    with_pool_rule<T>(
        pool, [&](auto rule) { ChannelsLastPooling(pool).backward_all(rule, x, y, dy, dx); });
  }

 private:
  explicit ChannelsLastPooling(const convpool_pooling& pool)
      : pool_(pool),
        window_(pool.window),
        channels_(pool.channels),
        in_size_(window_.in_size[0] * window_.in_size[1]),
        out_size_(window_.out_size[0] * window_.out_size[1]) {}

  // The elements of a window that lie inside, of one axis.
  void inside(int d, int64_t out, int64_t* begin, int64_t* end) const {
    const int64_t start = out * window_.stride[d] - window_.pad[d];
    *begin = max_of(0, start);
    *end = max_of(*begin, min_of(start + window_.kernel[d], window_.in_size[d]));
  }

  // How many elements of one axis the average counts.
  int64_t counted(int d, int64_t out) const {
    const int64_t start = out * window_.stride[d] - window_.pad[d];
    const int64_t stop = start + window_.kernel[d], size = window_.in_size[d];
    const int64_t count = pool_.count_include_pad ? min_of(stop, size + window_.pad[d]) - start
                                                  : min_of(stop, size) - max_of(start, 0);
    return max_of(1, count);  // a window that lies outside sums to 0, whatever divides it
  }
  T divisor(int64_t row, int64_t column) const {
    if (pool_.mode != CONVPOOL_AVG) return T(1);
    return static_cast<T>(counted(0, row) * counted(1, column));
  }

  static CONVPOOL_INLINE V load_part(const T* from, int64_t count) {
    if (count >= kLanes) return load<T>(from);
    V value = {};
    memcpy(&value, from, static_cast<size_t>(count) * sizeof(T));
    return value;
  }
  static CONVPOOL_INLINE void store_part(T* to, V value, int64_t count) {
    if (count >= kLanes) {
      store<T>(to, value);
    } else {
      memcpy(to, &value, static_cast<size_t>(count) * sizeof(T));
    }
  }

  double work() const {
    return static_cast<double>(pool_.batch * channels_) * static_cast<double>(in_size_ + out_size_);
  }

  template <typename Rule>
  void forward_all(Rule, const T* x, T* y) const {
    const int64_t out_h = window_.out_size[0], out_w = window_.out_size[1];
    const int64_t in_w = window_.in_size[1];
    // One window over all has one row: there its channels are shared out.
    const int64_t blocks = out_h == 1 ? ceil_div(channels_, kBlock) : 1;
    parallel_for(pool_.batch * out_h * blocks, work(), [&](int64_t task) {
      const int64_t image = task / blocks / out_h, row = task / blocks % out_h;
      const int64_t first = task % blocks * kBlock;
      const int64_t last = blocks == 1 ? channels_ : min_of(channels_, first + kBlock);
      const T* from = x + image * in_size_ * channels_;
      int64_t row0, row1;
      inside(0, row, &row0, &row1);
      for (int64_t column = 0; column < out_w; ++column) {
        int64_t column0, column1;
        inside(1, column, &column0, &column1);
        T* to = y + (image * out_size_ + row * out_w + column) * channels_;
        const V divisors = broadcast<T>(divisor(row, column));
        for (int64_t c = first; c < last; c += kLanes) {
          const int64_t count = last - c;
          V result = broadcast<T>(Rule::identity());
          for (int64_t r = row0; r < row1; ++r)
            for (int64_t k = column0; k < column1; ++k)
              result = Rule::combine(
                  result, Rule::prepare(load_part(from + (r * in_w + k) * channels_ + c, count)));
          if constexpr (!Rule::kByTap) {
            if (pool_.mode == CONVPOOL_AVG) result /= divisors;
          } else if constexpr (!Rule::kFirstOnly) {
            for (int lane = 0; lane < kLanes; ++lane) result[lane] = Rule::finish(result[lane]);
          }
          store_part(to + c, result, count);
        }
      }
    });
  }

  template <typename Rule>
  void backward_all(Rule, const T* x, const T* y, const T* dy, T* dx) const {
    const int64_t in_w = window_.in_size[1], out_w = window_.out_size[1];
    const int64_t blocks = ceil_div(channels_, kBlock);
    parallel_for(pool_.batch * blocks, work(), [&](int64_t task) {
      const int64_t image = task / blocks;
      const int64_t first = task % blocks * kBlock, last = min_of(channels_, first + kBlock);
      const T* x_here = x + image * in_size_ * channels_;
      T* to = dx + image * in_size_ * channels_;
      for (int64_t position = 0; position < in_size_; ++position)
        for (int64_t c = first; c < last; ++c) to[position * channels_ + c] = T(0);
      for (int64_t position = 0; position < out_size_; ++position) {
        const int64_t row = position / out_w, column = position % out_w;
        int64_t row0, row1, column0, column1;
        inside(0, row, &row0, &row1);
        inside(1, column, &column0, &column1);
        const int64_t out = (image * out_size_ + position) * channels_;
        const V divisors = broadcast<T>(divisor(row, column));
        for (int64_t c = first; c < last; c += kLanes) {
          const int64_t count = last - c;
          const V y_here = load_part(y + out + c, count);
          V dy_here = load_part(dy + out + c, count);
          if (pool_.mode == CONVPOOL_AVG) dy_here /= divisors;
          Mask open = ~Mask{};
          for (int64_t r = row0; r < row1; ++r)
            for (int64_t k = column0; k < column1; ++k) {
              const int64_t at = (r * in_w + k) * channels_ + c;
              const V share =
                  Rule::gradient(load_part(x_here + at, count), y_here, dy_here, ~Mask{}, &open);
              store_part(to + at, load_part(to + at, count) + share, count);
            }
        }
      }
    });
  }

  const convpool_pooling& pool_;
  const convpool_window& window_;
  const int64_t channels_, in_size_, out_size_;
};

}  // namespace convpool::CONVPOOL_ISA
