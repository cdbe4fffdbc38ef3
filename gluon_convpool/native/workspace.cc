#include "workspace.h"

#include <cstdlib>

#include "large_pages.h"

namespace convpool {
namespace {

struct Buffer {
  void* data = nullptr;
  size_t size = 0;

  ~Buffer() { free(data); }

  void reset(size_t bytes) {
    free(data);
    data = nullptr;
    size = 0;
    const bool large = bytes >= kLargePage;
    if (bytes == 0 || posix_memalign(&data, large ? kLargePage : 64, bytes) != 0) {
      data = nullptr;
      return;
    }
    size = bytes;
    ask_for_large_pages(data, bytes);
  }
};

Buffer& buffer(Scratch which) {
  thread_local Buffer buffers[kScratchBuffers];
  return buffers[static_cast<int>(which)];
}

}  // namespace

void* scratch(Scratch which, size_t bytes) {
  Buffer& b = buffer(which);
  if (b.size < bytes) {
    // Growing by half keeps slowly growing requests from allocating each time.
    size_t wanted = bytes + (bytes < kScratchKept ? bytes / 2 : 0);
    b.reset((wanted + 63) / 64 * 64);
  }
  return b.data;
}

void release_scratch(Scratch which) {
  Buffer& b = buffer(which);
  if (b.size > kScratchKept) b.reset(0);
}

}  // namespace convpool
