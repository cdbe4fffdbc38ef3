// Pooling over (batch, D, H, W, channels), forward and backward: channels are the lanes.
#pragma once

#include "../convpool.h"
#include "../parallel.h"
#include "../runs.h"
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
        in_size_(window_.in_size[0] * window_.in_size[1] * window_.in_size[2]),
        out_size_(window_.out_size[0] * window_.out_size[1] * window_.out_size[2]) {}

  // Where a window stands, and its elements that lie inside, of each axis.
  struct Place {
    int64_t out[3], begin[3], end[3];
  };
  void set_axis(Place* place, int d, int64_t out) const {
    const int64_t start = out * window_.stride[d] - window_.pad[d];
    place->out[d] = out;
    place->begin[d] = max_of(0, start);
    place->end[d] = max_of(place->begin[d], min_of(start + window_.kernel[d], window_.in_size[d]));
  }
  // Calls body(position) for each element of the window.
  template <typename Body>
  CONVPOOL_INLINE void for_each_inside(const Place& place, const Body& body) const {
    for (int64_t depth = place.begin[2]; depth < place.end[2]; ++depth)
      for (int64_t row = place.begin[0]; row < place.end[0]; ++row)
        for (int64_t column = place.begin[1]; column < place.end[1]; ++column)
          body((depth * window_.in_size[0] + row) * window_.in_size[1] + column);
  }

  T divisor(const Place& place) const {
    if (pool_.mode != CONVPOOL_AVG) return T(1);
    int64_t count = 1;
    for (int d = 0; d < 3; ++d) count *= counted(pool_, d, place.out[d]);
    return static_cast<T>(count);
  }

  double work() const {
    return static_cast<double>(pool_.batch * channels_) * static_cast<double>(in_size_ + out_size_);
  }

  template <typename Rule>
  void forward_all(Rule, const T* x, T* y) const {
    const int64_t out_h = window_.out_size[0], out_w = window_.out_size[1];
    const int64_t rows = window_.out_size[2] * out_h;
    // One window over all has one row: there its channels are shared out.
    const int64_t blocks = rows == 1 ? ceil_div(channels_, kBlock) : 1;
    parallel_for(pool_.batch * rows * blocks, work(), [&](int64_t task) {
      const int64_t image = task / blocks / rows, row = task / blocks % rows;
      const int64_t first = task % blocks * kBlock;
      const int64_t last = blocks == 1 ? channels_ : min_of(channels_, first + kBlock);
      const T* from = x + image * in_size_ * channels_;
      Place place;
      set_axis(&place, 2, row / out_h);
      set_axis(&place, 0, row % out_h);
      for (int64_t column = 0; column < out_w; ++column) {
        set_axis(&place, 1, column);
        T* to = y + (image * out_size_ + row * out_w + column) * channels_;
        const V divisors = broadcast<T>(divisor(place));
        for (int64_t c = first; c < last; c += kLanes) {
          const int64_t count = last - c;
          V result = broadcast<T>(Rule::identity());
          for_each_inside(place, [&](int64_t position) {
            const V value = load_part<T>(from + position * channels_ + c, count);
            result = Rule::combine(result, Rule::prepare(value));
          });
          if constexpr (!Rule::kByTap) {
            if (pool_.mode == CONVPOOL_AVG) result /= divisors;
          } else if constexpr (!Rule::kFirstOnly) {
            for (int lane = 0; lane < kLanes; ++lane) result[lane] = Rule::finish(result[lane]);
          }
          store_part<T>(to + c, result, count);
        }
      }
    });
  }

  template <typename Rule>
  void backward_all(Rule, const T* x, const T* y, const T* dy, T* dx) const {
    const int64_t out_h = window_.out_size[0], out_w = window_.out_size[1];
    const int64_t blocks = ceil_div(channels_, kBlock);
    parallel_for(pool_.batch * blocks, work(), [&](int64_t task) {
      const int64_t image = task / blocks;
      const int64_t first = task % blocks * kBlock, last = min_of(channels_, first + kBlock);
      const T* x_here = x + image * in_size_ * channels_;
      T* to = dx + image * in_size_ * channels_;
      for (int64_t position = 0; position < in_size_; ++position)
        for (int64_t c = first; c < last; ++c) to[position * channels_ + c] = T(0);
      for (int64_t position = 0; position < out_size_; ++position) {
        Place place;
        set_axis(&place, 2, position / out_w / out_h);
        set_axis(&place, 0, position / out_w % out_h);
        set_axis(&place, 1, position % out_w);
        const int64_t out = (image * out_size_ + position) * channels_;
        const V divisors = broadcast<T>(divisor(place));
        for (int64_t c = first; c < last; c += kLanes) {
          const int64_t count = last - c;
          const V y_here = load_part<T>(y + out + c, count);
          V dy_here = load_part<T>(dy + out + c, count);
          if (pool_.mode == CONVPOOL_AVG) dy_here /= divisors;
          Mask open = ~Mask{};
          for_each_inside(place, [&](int64_t inside) {
            const int64_t at = inside * channels_ + c;
            const V share =
                Rule::gradient(load_part<T>(x_here + at, count), y_here, dy_here, ~Mask{}, &open);
            store_part<T>(to + at, load_part<T>(to + at, count) + share, count);
          });
        }
      }
    });
  }

  const convpool_pooling& pool_;
  const convpool_window& window_;
  const int64_t channels_, in_size_, out_size_;
};

}  // namespace convpool::CONVPOOL_ISA
