#include "processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace convpool {

bool halves_wide_vectors() {
#if defined(__x86_64__)
  static const bool halves = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &a, &b, &c, &d)) return false;
    const unsigned family = (a >> 8 & 0xf) + (a >> 20 & 0xff);
    return family == 0x19;
  }();
  return halves;
#else
  return false;
#endif
}

}  // namespace convpool
