// The numbers that tune, one row per instruction set.
#pragma once

#include "../simd.h"

namespace convpool::CONVPOOL_ISA {

struct BlockSizes {
  int mr;      // rows of C in registers: each is one broadcast of A per step
  int nv;      // vectors of C in registers per row; NR = nv * lanes
  int kc;      // aim for the length of one pass over the reduction
  int panels;  // aim for the micro-panels of B in one task
  int part;    // bytes that a pass over long sums reads again and again
  int read;    // multiply-adds in the time that a value from memory takes
};

// The mr * nv accumulators, nv vectors of B and one broadcast must fit the register file, and there
// must be more accumulators than (fused) multiply-add latency times its throughput. A panel of B
// (kc * NR values) stays in L1 while panels of A (kc * mr values) stream by it, and a task's panels
// of B together fit L2. Where a step of the reduction takes as long as it takes to bring its part
// of B from L2, the panel may be longer, so that tiles of C are read and written less often.
#if CONVPOOL_VECTOR_BYTES == 64
// 32 registers, two FMA per cycle, latency 4: 24 accumulators, with three loads of B and eight
// broadcasts for them. A panel of B is 48 KiB. Rows of A in place have eight pointers, which
// general registers hold; with 14 rows and two vectors they do not, and such products took up
// to 1.5 times as long. Transformed weights of 512 channels at 7x7, 38 MB, took twice as long to
// read as to make.
inline constexpr BlockSizes kBlockSizes{8, 3, 256, 10, 1 << 20, 24};
#elif CONVPOOL_VECTOR_BYTES == 32
// 16 registers, two FMA per cycle, latency 4 to 5: 12 accumulators. A panel of B is 16 KiB. On a
// Zen 4, 3x3 with 256 channels at 14x14 took as long with 9 MB of transformed weights as where they
// were made anew, and a quarter longer before they were fetched ahead.
inline constexpr BlockSizes kBlockSizes{6, 2, 256, 16, 1 << 20, 16};
#elif defined(__aarch64__)
// 32 registers of four lanes: 24 accumulators. A panel of B is 15 KiB.
inline constexpr BlockSizes kBlockSizes{8, 3, 320, 16, 8 << 20, 4};
#else
// 16 registers and no FMA, so a product needs a register of its own: 8 accumulators. A panel of B
// is 10 KiB.
inline constexpr BlockSizes kBlockSizes{4, 2, 320, 24, 8 << 20, 4};
#endif

template <typename T>
struct Blocks {
  static constexpr int kMr = kBlockSizes.mr;
  static constexpr int kNv = kBlockSizes.nv;
  static constexpr int kNr = kBlockSizes.nv * Simd<T>::kLanes;
  // Panels have the same number of bytes for every type: of wider values there are fewer columns.
  static constexpr int kKc = kBlockSizes.kc;
  static constexpr int kPanels = kBlockSizes.panels;
  static constexpr int kPartBytes = kBlockSizes.part;
  static constexpr int kReadFromMemory = kBlockSizes.read;
};

}  // namespace convpool::CONVPOOL_ISA
