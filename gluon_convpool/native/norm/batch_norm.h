// Batch normalisation over (batch, channels, inner...), forward and backward.
//
// MXNet's own is fast on the blocked layout that its convolutions leave behind, and slow on plain
// arrays, which ours give: five to ten times the time that memory needs. Here a task takes whole
// channels, so that what it reads again is still in its cache.
#pragma once

#include "../convpool.h"
#include "../parallel.h"

namespace convpool::CONVPOOL_ISA {

template <typename T>
class BatchNorm {
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kSums = 4;  // independent sums, for their latency and for their rounding
  using V = Vec<T>;

 public:
  explicit BatchNorm(const convpool_batch_norm& problem)
      : training_(problem.training != 0),
        fix_gamma_(problem.fix_gamma != 0),
        relu_(problem.relu != 0),
        batch_(problem.batch),
        channels_(problem.channels),
        inner_(problem.inner),
        count_(static_cast<double>(batch_ * inner_)),
        epsilon_(problem.epsilon),
        momentum_(problem.momentum) {}

  void forward(const T* x, const T* gamma, const T* beta, const T* running_mean,
               const T* running_var, T* y, T* mean, T* inv_std) const {
    for_each_channel(3, [&](int64_t c) {
      double m = static_cast<double>(running_mean[c]), v = static_cast<double>(running_var[c]);
      if (training_ && count_ > 0) {
        fetch_next(x, c);
        m = sum<1>(c, [&](int64_t at, auto lanes, const auto& add)
                          CONVPOOL_LAMBDA_INLINE { add(0, get(x + at, lanes)); })
                .of[0] /
            count_;
        const T center = static_cast<T>(m);
        v = sum<1>(c,
                   [&](int64_t at, auto lanes, const auto& add) CONVPOOL_LAMBDA_INLINE {
                     const auto off = get(x + at, lanes) - center;
                     add(0, off * off);
                   })
                .of[0] /
            count_;
        // The mean is rounded; the sum of squares is about the rounded one.
        v -= (m - static_cast<double>(center)) * (m - static_cast<double>(center));
        v = v > 0 ? v : 0;
      }
      mean[c] = static_cast<T>(m);
      inv_std[c] = static_cast<T>(inverse_deviation(v));
      const Scaling scaling{mean[c], factor(gamma, inv_std, c), beta[c]};
      if (relu_)
        write(y, c, [&](int64_t at, auto lanes) CONVPOOL_LAMBDA_INLINE {
          const auto value = scaling.of(get(x + at, lanes));
          return value < 0 ? decltype(value){} : value;
        });
      else
        write(y, c, [&](int64_t at, auto lanes) CONVPOOL_LAMBDA_INLINE {
          return scaling.of(get(x + at, lanes));
        });
    });
  }

  // As MXNet does, the running statistics are moved here and not in the forward pass.
  void backward(const T* x, const T* gamma, const T* beta, const T* mean, const T* inv_std,
                const T* dy, T* dx, T* dgamma, T* dbeta, T* running_mean, T* running_var) const {
    for_each_channel(4, [&](int64_t c) {
      fetch_next(x, c);
      fetch_next(dy, c);
      const Scaling scaling{mean[c], factor(gamma, inv_std, c), beta[c]};
      const auto gradient_of = [&](int64_t at, auto lanes)
                                   CONVPOOL_LAMBDA_INLINE { return get(dy + at, lanes); };
      // What the maximum with 0 lets through is found anew, which costs less than to read y.
      const auto gradient_behind_relu = [&](int64_t at, auto lanes) CONVPOOL_LAMBDA_INLINE {
        const auto gradient = get(dy + at, lanes);
        return scaling.of(get(x + at, lanes)) > 0 ? gradient : decltype(gradient){};
      };
      if (relu_)
        channel_gradient(c, scaling, inv_std, x, gradient_behind_relu, dx, dgamma, dbeta);
      else
        channel_gradient(c, scaling, inv_std, x, gradient_of, dx, dgamma, dbeta);
      if (!training_ || count_ == 0) return;
      const double scale = static_cast<double>(inv_std[c]);
      const double variance = scale > 0 ? 1 / (scale * scale) - epsilon_ : 0;
      running_mean[c] = moved(running_mean[c], static_cast<double>(mean[c]));
      running_var[c] = moved(running_var[c], variance > 0 ? variance : 0);
    });
  }

 private:
  // What a channel is put through: both passes must find the same values positive.
  struct Scaling {
    T center, factor, offset;
    template <typename V>
    CONVPOOL_INLINE V of(V x) const {
      return (x - center) * factor + offset;
    }
  };

  T factor(const T* gamma, const T* inv_std, int64_t c) const {
    return fix_gamma_ ? inv_std[c] : inv_std[c] * gamma[c];
  }

  // gradient_of(place, lanes) is what arrives behind the scaling.
  template <typename GradientOf>
  CONVPOOL_INLINE void channel_gradient(int64_t c, const Scaling& scaling, const T* inv_std,
                                        const T* x, const GradientOf& gradient_of, T* dx, T* dgamma,
                                        T* dbeta) const {
    const T center = scaling.center;
    const Sums<2> sums =
        sum<2>(c, [&](int64_t at, auto lanes, const auto& add) CONVPOOL_LAMBDA_INLINE {
          const auto gradient = gradient_of(at, lanes);
          add(0, gradient);
          add(1, (get(x + at, lanes) - center) * gradient);
        });
    const double total = sums.of[0], product = sums.of[1], scale = static_cast<double>(inv_std[c]);
    dgamma[c] = fix_gamma_ ? T(0) : static_cast<T>(product * scale);
    dbeta[c] = static_cast<T>(total);
    if (!training_ || count_ == 0) {
      write(dx, c, [&](int64_t at, auto lanes) CONVPOOL_LAMBDA_INLINE {
        return gradient_of(at, lanes) * scaling.factor;
      });
      return;
    }
    const T average = static_cast<T>(total / count_);
    const T slope = static_cast<T>(product * scale * scale / count_);
    write(dx, c, [&](int64_t at, auto lanes) CONVPOOL_LAMBDA_INLINE {
      const auto off = (get(x + at, lanes) - center) * slope;
      return (gradient_of(at, lanes) - average - off) * scaling.factor;
    });
  }

  struct One {};
  struct Many {};

  static CONVPOOL_INLINE V get(const T* p, Many) { return load<T>(p); }
  static CONVPOOL_INLINE T get(const T* p, One) { return *p; }

  T moved(T running, double now) const {
    return static_cast<T>(static_cast<double>(running) * momentum_ + now * (1 - momentum_));
  }

  double inverse_deviation(double variance) const {
    const double inside = variance + epsilon_;
    return inside > 0 ? 1 / __builtin_sqrt(inside) : 0;
  }

  template <typename Body>
  void for_each_channel(double passes, const Body& body) const {
    // A few channels for a task where they are small; eight or more tasks for each thread.
    const int64_t together = max_of(1, min_of(channels_ / (8 * num_threads()), 16));
    const double work = passes * count_ * static_cast<double>(channels_);
    parallel_for(ceil_div(channels_, together), work, [&](int64_t task) {
      const int64_t end = min_of(channels_, (task + 1) * together);
      for (int64_t c = task * together; c < end; ++c) body(c);
    });
  }

  // Writes value(place, lanes) to all places of a channel.
  template <typename Value>
  CONVPOOL_INLINE void write(T* to, int64_t c, const Value& value) const {
    const bool past_caches = goes_past_caches(to, batch_ * channels_ * inner_, inner_);
    for (int64_t n = 0; n < batch_; ++n) {
      int64_t at = (n * channels_ + c) * inner_;
      const int64_t end = at + inner_;
      if (past_caches) {
        for (; at < end; at += kLanes) store_past_caches<T>(to + at, value(at, Many{}));
        continue;
      }
      for (; at + kLanes <= end; at += kLanes) store<T>(to + at, value(at, Many{}));
      for (; at < end; ++at) to[at] = value(at, One{});
    }
    if (past_caches) finish_past_caches();
  }

  // Rows of one channel lie far apart, and the processor has just begun to foresee where a short
  // one leads when it ends. Those of the next channel follow them.
  void fetch_next(const T* from, int64_t c) const {
    constexpr int64_t kLine = 64 / int64_t{sizeof(T)}, kShort = 16 * kLine;
    if (inner_ > kShort || c + 1 == channels_) return;
    for (int64_t n = 0; n < batch_; ++n) {
      const T* row = from + (n * channels_ + c + 1) * inner_;
      for (int64_t k = 0; k < inner_; k += kLine) __builtin_prefetch(row + k);
    }
  }

  template <int Count>
  struct Sums {
    double of[Count];
  };

  // What body(place, lanes, add) adds up over all values of a channel by add(which, value): in the
  // type itself, with several sums side by side, and those in double precision before they have
  // more values than rounding bears.
  template <int Count, typename Body>
  CONVPOOL_INLINE Sums<Count> sum(int64_t c, const Body& body) const {
    constexpr int64_t kMost = 256;
    Sums<Count> total{};
    V part[Count][kSums] = {};
    int64_t added = 0;
    const auto finish = [&]() CONVPOOL_LAMBDA_INLINE {
      for (int q = 0; q < Count; ++q) {
        const V together = (part[q][0] + part[q][1]) + (part[q][2] + part[q][3]);
        for (int k = 0; k < kLanes; ++k) total.of[q] += static_cast<double>(together[k]);
        for (int k = 0; k < kSums; ++k) part[q][k] = V{};
      }
      added = 0;
    };
    for (int64_t n = 0; n < batch_; ++n) {
      int64_t at = (n * channels_ + c) * inner_;
      const int64_t end = at + inner_;
      for (; at + kSums * kLanes <= end; at += kSums * kLanes) {
#pragma GCC unroll 4
        for (int k = 0; k < kSums; ++k)
          body(at + k * kLanes, Many{},
               [&](int q, V v) CONVPOOL_LAMBDA_INLINE { part[q][k] += v; });
        if (++added == kMost) finish();
      }
#pragma GCC unroll 4
      for (int k = 0; k < kSums; ++k) {
        if (at + kLanes > end) break;
        body(at, Many{}, [&](int q, V v) CONVPOOL_LAMBDA_INLINE { part[q][k] += v; });
        at += kLanes;
      }
      if (++added == kMost) finish();
      for (; at < end; ++at)
        body(at, One{},
             [&](int q, T v) CONVPOOL_LAMBDA_INLINE { total.of[q] += static_cast<double>(v); });
    }
    finish();
    return total;
  }

  const bool training_, fix_gamma_, relu_;
  const int64_t batch_, channels_, inner_;
  const double count_, epsilon_, momentum_;
};

}  // namespace convpool::CONVPOOL_ISA
