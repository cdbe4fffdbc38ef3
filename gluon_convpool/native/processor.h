// What the processor does with the vectors of its instruction set.
#pragma once

namespace convpool {

// Does this processor compute vectors of 64 bytes in two halves? Zen 4 does (AMD, "Software
// Optimization Guide for the AMD Zen4 Microarchitecture", publication 57647). There they multiply
// and add no faster than narrower ones, which leave fewer lanes empty.
bool halves_wide_vectors();

}  // namespace convpool
