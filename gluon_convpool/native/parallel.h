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

// The same for bodies with parallel loops of their own, which return false on failure, as this does
// then. Where tasks share out among the threads, each thread has some to itself, and the loops in
// them run on it alone; else all threads go from one task to the next together.
template <typename Body>
bool parallel_for_whole(int64_t tasks, double work, const Body& body) {
  const int64_t threads = num_threads();
  if (tasks >= threads && (tasks % threads == 0 || tasks >= 3 * threads)) {
    bool failed = false;
    parallel_for(tasks, work, [&](int64_t i) {
      if (!body(i)) __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    });
    return !failed;
  }
  for (int64_t i = 0; i < tasks; ++i)
    if (!body(i)) return false;
  return true;
}

}  // namespace convpool::CONVPOOL_ISA
