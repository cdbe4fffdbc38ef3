#include "winograd_switch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace convpool {
namespace {

bool wanted_by_environment() {
  const char* value = std::getenv("GLUON_CONVPOOL_WINOGRAD");
  return !value || std::strcmp(value, "0") != 0;
}

std::atomic<bool>& enabled() {
  static std::atomic<bool> value{wanted_by_environment()};
  return value;
}

}  // namespace

bool winograd_enabled() { return enabled().load(std::memory_order_relaxed); }
void enable_winograd(bool value) { enabled().store(value, std::memory_order_relaxed); }

}  // namespace convpool
