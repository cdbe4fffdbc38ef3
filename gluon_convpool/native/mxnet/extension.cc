// MXNet's part of an extension library, with one change: where its messages are kept.
//
// lib_api.cc keeps every message forever, in a list that threads share, and MXNet prints the whole
// list with each later error. Here a message belongs to the thread that failed and is gone once
// MXNet has asked for it (which it does on the same thread, right after the call that failed).
#include "extension.h"

// MXNet finds the interface's functions by name.
#pragma GCC visibility push(default)
#define _msgSize convpool_unused_msgSize
#define _msgGet convpool_unused_msgGet
#include "lib_api.cc"
#undef _msgSize
#undef _msgGet
#pragma GCC visibility pop

namespace convpool {
namespace {

std::string& pending() {
  thread_local std::string message;
  return message;
}

std::string& printed() {
  thread_local std::string message;
  return message;
}

}  // namespace

void set_message(const std::string& message) { pending() = message; }

}  // namespace convpool

extern "C" {

CONVPOOL_EXPORT int _msgSize() { return convpool::pending().empty() ? 0 : 1; }

CONVPOOL_EXPORT void _msgGet(int, const char** message) {
  convpool::printed().swap(convpool::pending());
  convpool::pending().clear();
  *message = convpool::printed().c_str();
}

}  // extern "C"

CONVPOOL_EXPORT mxnet::ext::MXReturnValue initialize(int version) {
  // 1.7.0 is the first release with this interface.
  if (version >= 10700) return mxnet::ext::MX_SUCCESS;
  convpool::set_message("gluon_convpool needs MXNet 1.7 or newer");
  return mxnet::ext::MX_FAIL;
}
