// How fast multiply-adds run: in registers, and in the micro-kernel on panels that stay in cache.
// One thread; the best of many short runs, because a disturbance only ever adds time.
#pragma once

#include <stdlib.h>
#include <time.h>

#include "micro_kernel.h"

namespace convpool::CONVPOOL_ISA {

inline double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// The largest operations per second of calls of run(), each of which does `operations`.
template <typename Run>
double best_rate(double seconds, double operations, const Run& run) {
  double best = 0;
  for (const double end = now() + seconds; now() < end;) {
    const double start = now();
    run();
    const double rate = operations / (now() - start);
    if (rate > best) best = rate;
  }
  return best;
}

// Independent chains: enough of them to cover the latency of a multiply-add twice over.
inline constexpr int kChains = 12;

template <typename T>
__attribute__((noinline)) T spin(int64_t steps, T factor, T term) {
  const Vec<T> f = broadcast<T>(factor), t = broadcast<T>(term);
  Vec<T> chain[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) chain[i] = broadcast<T>(static_cast<T>(i));
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chain[i] = chain[i] * f + t;
  }
  Vec<T> sum = chain[0];
#pragma GCC unroll 12
  for (int i = 1; i < kChains; ++i) sum += chain[i];
  return sum[0];
}

template <typename T>
double measure_peak(double seconds) {
  const int64_t steps = 100000;
  volatile T sink, factor = T(0.999), term = T(0.001);
  const double rate =
      best_rate(seconds, 2.0 * kChains * Simd<T>::kLanes * static_cast<double>(steps),
                [&] { sink = spin<T>(steps, factor, term); });
  (void)sink;
  return rate;
}

template <typename T>
double measure_micro_kernel(double seconds) {
  using Block = Blocks<T>;
  constexpr int64_t kPanelsOfA = 16;  // as many as 64 to 224 output channels have
  const int64_t a_size = Block::kKc * Block::kMr, b_size = Block::kKc * Block::kNr;
  const int64_t c_size = Block::kMr * Block::kNr;
  void* memory = nullptr;
  if (posix_memalign(&memory, 64,
                     static_cast<size_t>(kPanelsOfA * (a_size + c_size) + b_size) * sizeof(T)))
    return 0;
  T *a = static_cast<T*>(memory), *b = a + kPanelsOfA * a_size, *c = b + b_size;
  for (int64_t i = 0; i < kPanelsOfA * (a_size + c_size) + b_size; ++i) a[i] = T(0);
  const int64_t repeats = 20;
  const double operations = 2.0 * static_cast<double>(repeats * kPanelsOfA * c_size) * Block::kKc;
  const double rate = best_rate(seconds, operations, [&] {
    for (int64_t r = 0; r < repeats; ++r)
      for (int64_t panel = 0; panel < kPanelsOfA; ++panel)
        MicroKernels<T>::run(Block::kMr, Block::kNv, {a + panel * a_size, nullptr}, {b, nullptr},
                             {1, Block::kKc, 0}, {c + panel * c_size, Block::kNr, nullptr, true});
  });
  free(memory);
  return rate;
}

}  // namespace convpool::CONVPOOL_ISA
