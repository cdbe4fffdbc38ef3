// Memory in large pages, where the system has them and lets programs ask.
#pragma once

#include <cstddef>

namespace convpool {

// The size and alignment of a large page.
inline constexpr size_t kLargePage = size_t{2} << 20;

// Asks for large pages under an array that is about to be written, if it is large. Pages that are
// new to the process then come in one fault for every 512: an array of 104 MB that the C library
// had mapped anew took 5 ms for 37 to write. Changes nothing but the time, and is allowed to fail.
void ask_for_large_pages(void* data, size_t bytes);

}  // namespace convpool
