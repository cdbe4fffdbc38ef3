// One parallel loop over independent tasks.
#pragma once

#include "simd.h"
#include "threads.h"

namespace convpool::CONVPOOL_ISA {

// A task this long (in multiply-adds, or values moved) is not worth waking a thread for.
inline constexpr double kSerialWork = 100e3;

// Runs body(i) for 0 <= i < tasks, in any order, on several threads. `work` is an estimate of the
// whole loop's multiply-adds. OpenMP's threads are the ones that MXNet's own operators use, so the
// two never compete for a processor.
template <typename Body>
void parallel_for(int64_t tasks, double work, const Body& body) {
  int64_t threads = min_of(num_threads(), tasks);
  if (work < kSerialWork) threads = 1;
  if (threads <= 1) {
    for (int64_t i = 0; i < tasks; ++i) body(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast<int>(threads))
  for (int64_t i = 0; i < tasks; ++i) body(i);
}

}  // namespace convpool::CONVPOOL_ISA
