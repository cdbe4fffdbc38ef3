// Numbers that are stored in one type and computed in another: float16 in float, integers of 8 and
// 32 bits in double. MXNet's arrays of such types enter and leave the operators through here.
#pragma once

#include <stdint.h>
#include <string.h>

#include <cmath>
#include <limits>

#include "threads.h"

namespace convpool {

// IEEE 754 binary16, as MXNet has it.
struct Half {
  uint16_t bits;
};

inline float widened(Half half) {
  const uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000u) << 16;
  const uint32_t rest = half.bits & 0x7fffu;
  uint32_t bits;
  if (rest >= 0x7c00u) {  // infinity and NaN
    bits = sign | 0x7f800000u | rest << 13;
  } else {
    // The exponents' biases differ by 112; as a factor that serves numbers below the normal ones.
    const uint32_t moved = rest << 13;
    float value;
    memcpy(&value, &moved, sizeof(value));
    value *= 0x1p112f;
    memcpy(&bits, &value, sizeof(bits));
    bits |= sign;
  }
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

inline double widened(int8_t value) { return value; }
inline double widened(uint8_t value) { return value; }
inline double widened(int32_t value) { return value; }

// Rounded to the nearest, of two to the even one.
inline void narrow(float value, bool /*floor*/, Half* to) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  uint32_t half;
  if (bits > 0x7f800000u) {  // NaN
    half = 0x7e00u;
  } else if (bits >= 0x477ff000u) {  // nearer to 65536 than to 65504, the largest number
    half = 0x7c00u;
  } else if (bits < 0x38800000u) {
    // Below the normal numbers: their last bit is that of 0.5, which the sum is rounded to.
    float small;
    memcpy(&small, &bits, sizeof(small));
    small += 0.5f;
    memcpy(&half, &small, sizeof(half));
    half -= 0x3f000000u;
  } else {
    half = (bits + 0xfffu + (bits >> 13 & 1u)) - 0x38000000u;
    half >>= 13;
  }
  to->bits = static_cast<uint16_t>(sign | half);
}

// The nearest that the type holds, after rounding down where that is asked for.
template <typename Integer>
void narrow(double value, bool floor, Integer* to) {
  constexpr double kLowest = std::numeric_limits<Integer>::min();
  constexpr double kHighest = std::numeric_limits<Integer>::max();
  if (floor) value = std::floor(value);
  *to = static_cast<Integer>(value < kLowest ? kLowest : value > kHighest ? kHighest : value);
}

// Calls body(first, last) for parts of 0 to count, on several threads where there is much to do.
template <typename Body>
void for_parts(int64_t count, const Body& body) {
  constexpr int64_t kPart = 1 << 15;
  const int64_t parts = (count + kPart - 1) / kPart;
  const int threads = parts < num_threads() ? static_cast<int>(parts) : num_threads();
  if (threads <= 1) {
    body(int64_t{0}, count);
    return;
  }
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t part = 0; part < parts; ++part)
    body(part * kPart, part + 1 == parts ? count : (part + 1) * kPart);
}

template <typename Stored, typename Wide>
void widen(const Stored* from, int64_t count, Wide* to) {
  for_parts(count, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) to[i] = widened(from[i]);
  });
}

template <typename Wide, typename Stored>
void narrow(const Wide* from, int64_t count, bool floor, Stored* to) {
  for_parts(count, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) narrow(from[i], floor, to + i);
  });
}

}  // namespace convpool
