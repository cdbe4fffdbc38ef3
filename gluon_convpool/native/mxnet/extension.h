// What MXNet is told when a call fails.
#pragma once

#include <string>

#define CONVPOOL_EXPORT __attribute__((visibility("default")))

namespace convpool {

// The sentence that goes with the failure which this thread is about to return. "" takes it back.
void set_message(const std::string& message);

}  // namespace convpool
