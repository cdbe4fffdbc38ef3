#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

extern "C" int omp_in_parallel(void);
// Of OpenMP 5; libraries of before lack it.
extern "C" int omp_pause_resource_all(int kind) __attribute__((weak));

namespace convpool {
namespace {

std::atomic<int> requested{0};
std::atomic<bool> forked{false};

int affinity_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    const int n = CPU_COUNT(&set);
    if (n > 0) return n;
  }
  const int n = static_cast<int>(std::thread::hardware_concurrency());
  return n > 0 ? n : 1;
}

// The processors that a quota of the process's own control group allows; 0 where there is none.
// https://docs.kernel.org/admin-guide/cgroup-v2.html: cpu.max holds "$MAX $PERIOD", MAX may be
// "max".
int quota_of(const std::string& directory) {
  double quota = 0, period = 0;
  std::ifstream v2(directory + "/cpu.max");
  std::string max;
  if (v2 >> max >> period && max != "max") quota = atof(max.c_str());
  if (quota <= 0) {
    std::ifstream(directory + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(directory + "/cpu.cfs_period_us") >> period;
  }
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int>(std::ceil(quota / period));
}

int cgroup_count() {
  int least = 0;
  const auto consider = [&least](int n) {
    if (n > 0 && (least == 0 || n < least)) least = n;
  };
  // Lines read "hierarchy:controllers:path"; an empty list of controllers is cgroup v2. A quota of
  // a parent binds its children too.
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && controllers.find("cpu") == std::string::npos) continue;
    const std::string root =
        controllers.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controllers;
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      consider(quota_of(root + path));
      if (path.empty() || path.rfind('/') == std::string::npos) break;
    }
  }
  return least;
}

int default_count() {
  if (const char* text = getenv("OMP_NUM_THREADS")) {
    const int n = atoi(text);  // "4,2" gives the first level's count
    if (n > 0) return n;
  }
  const int n = affinity_count(), quota = cgroup_count();
  return quota > 0 && quota < n ? quota : n;
}

// The runtime's worker threads do not exist in a forked child, and asking it for them would wait
// forever.
struct ForkGuard {
  ForkGuard() {
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
  }
};
const ForkGuard fork_guard;

}  // namespace

int num_threads() {
  if (forked || omp_in_parallel()) return 1;
  int n = requested;
  if (n < 1) {
    n = default_count();
    int unset = 0;
    if (!requested.compare_exchange_strong(unset, n)) n = unset;
  }
  return n;
}

void set_num_threads(int n) { requested = n < 1 ? 0 : n; }

void release_threads() {
  constexpr int kSoft = 1;  // what the threads have set stays
  if (!forked && omp_pause_resource_all) omp_pause_resource_all(kSoft);
}

}  // namespace convpool
