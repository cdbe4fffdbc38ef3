// Scratch memory of the calling thread: aligned to 64 bytes, kept from call to call, bounded.
#pragma once

#include <cstddef>

namespace convpool {

// Several buffers a thread, so that memory which all tasks of a call share outlives the tasks that
// the calling thread runs itself, and arrays in another layout outlive the call that computes with
// them.
enum class Scratch { kShared = 0, kTask = 1, kLayout = 2, kSubsampled = 3, kColumns = 4 };
inline constexpr int kScratchBuffers = 5;

// At least `bytes` bytes, not cleared; valid until the thread asks for the same buffer again. Null
// where memory is out. A buffer larger than kScratchKept is freed by release_scratch.
void* scratch(Scratch which, size_t bytes);

inline constexpr size_t kScratchKept = size_t{16} << 20;

// Frees what the calling thread holds beyond kScratchKept.
void release_scratch(Scratch which);

}  // namespace convpool
