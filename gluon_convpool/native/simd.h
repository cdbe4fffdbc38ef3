// One vector type, as wide as the instruction set that this translation unit is compiled for.
//
// Everything that depends on an instruction set lives in `namespace convpool::CONVPOOL_ISA`, so
// that the builds of one source can stand in one library. Such code calls no inline function of the
// standard library: the linker would keep a single copy of it, possibly one with instructions that
// this processor lacks.
#pragma once

#include <cstddef>
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef CONVPOOL_ISA
#define CONVPOOL_ISA baseline
#endif

// The width can be forced, so that the tables of a wide instruction set can be tested on a narrower
// processor: the compiler splits the vectors.
#ifndef CONVPOOL_VECTOR_BYTES
#if defined(__AVX512F__)
#define CONVPOOL_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define CONVPOOL_VECTOR_BYTES 32
#else
#define CONVPOOL_VECTOR_BYTES 16
#endif
#endif

#define CONVPOOL_INLINE inline __attribute__((always_inline))
#define CONVPOOL_LAMBDA_INLINE __attribute__((always_inline))

namespace convpool::CONVPOOL_ISA {

inline constexpr int kVectorBytes = CONVPOOL_VECTOR_BYTES;

template <typename T>
struct Simd {
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
  typedef T Vec __attribute__((vector_size(kVectorBytes)));
  typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};

template <typename T>
using Vec = typename Simd<T>::Vec;

template <typename T>
CONVPOOL_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}

template <typename T>
CONVPOOL_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}

// Stores a vector to where it is aligned, past the caches: memory that is written and read much
// later, or by nobody soon, need not be brought there first.
template <typename T>
CONVPOOL_INLINE void store_past_caches(T* p, Vec<T> v) {
#if defined(__AVX512F__) && CONVPOOL_VECTOR_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif defined(__AVX2__) && CONVPOOL_VECTOR_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#elif defined(__SSE2__) && CONVPOOL_VECTOR_BYTES == 16
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)v);
#else
  store<T>(p, v);
#endif
}
// Is an array of so many values stored so best? It must be more than a core can hope to find in a
// cache when it is read next, and what is written in whole vectors must begin aligned: at multiples
// of `strides`, of which several may be joined by |.
template <typename T>
inline bool goes_past_caches(const T* to, int64_t values, int64_t strides) {
  constexpr int64_t kLargeBytes = 8 << 20;
  return values * int64_t{sizeof(T)} >= kLargeBytes && strides % Simd<T>::kLanes == 0 &&
         reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0;
}
// Between such stores and the moment when other threads may read what they wrote.
CONVPOOL_INLINE void finish_past_caches() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Where the instruction set has masks: the first `count` lanes, 0 <= count < kLanes. What is not
// loaded is zero.
#if defined(__AVX512F__) && CONVPOOL_VECTOR_BYTES == 64
inline constexpr bool kMasks = true;
CONVPOOL_INLINE uint32_t mask_of(int64_t count) { return (1u << count) - 1; }
CONVPOOL_INLINE Vec<float> load_masked(const float* p, int64_t count) {
  return (Vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask_of(count)), p);
}
CONVPOOL_INLINE Vec<double> load_masked(const double* p, int64_t count) {
  return (Vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask_of(count)), p);
}
// Lanes [begin, end), 0 <= begin <= end <= kLanes; the others are not read.
CONVPOOL_INLINE Vec<float> load_masked(const float* p, int64_t begin, int64_t end) {
  return (Vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask_of(end) & ~mask_of(begin)),
                                           p);
}
CONVPOOL_INLINE Vec<double> load_masked(const double* p, int64_t begin, int64_t end) {
  return (Vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(mask_of(end) & ~mask_of(begin)),
                                            p);
}
CONVPOOL_INLINE void store_masked(float* p, Vec<float> v, int64_t count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask_of(count)), (__m512)v);
}
CONVPOOL_INLINE void store_masked(double* p, Vec<double> v, int64_t count) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask_of(count)), (__m512d)v);
}
#else
inline constexpr bool kMasks = false;
template <typename T>
Vec<T> load_masked(const T* p, int64_t count);
template <typename T>
Vec<T> load_masked(const T* p, int64_t begin, int64_t end);
template <typename T>
void store_masked(T* p, Vec<T> v, int64_t count);
#endif

// Has a value that was loaded for several uses stay in a register. GCC else makes it an operand
// from memory of each, and a vector that reaches over two cache lines is then read as often as it
// is used.
template <typename V>
CONVPOOL_INLINE V in_register(V v) {
#if defined(__AVX512F__) && CONVPOOL_VECTOR_BYTES == 64
  asm("" : "+v"(v));
#elif (defined(__AVX2__) && CONVPOOL_VECTOR_BYTES == 32) || \
    (defined(__SSE2__) && CONVPOOL_VECTOR_BYTES == 16)
  asm("" : "+x"(v));
#elif defined(__aarch64__) && CONVPOOL_VECTOR_BYTES == 16
  asm("" : "+w"(v));
#endif
  return v;
}

template <typename T>
CONVPOOL_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};
}

// Two vectors of every second value of a and b, from the first and from the second on.
template <typename T>
CONVPOOL_INLINE void deinterleave(Vec<T> a, Vec<T> b, Vec<T> (&to)[2]) {
  constexpr int kLanes = Simd<T>::kLanes, kPart = 16 / static_cast<int>(sizeof(T));
  decltype(a == b) lane{};
  for (int k = 0; k < kLanes; ++k) lane[k] = 2 * k;
  if (kLanes == 2 * kPart) {
    // AVX2 is slow to move values across the middle of a vector: do it once, for both results.
    decltype(a == b) half{};
    for (int k = 0; k < kLanes; ++k) {
      half[k] = k < kPart ? k : k + kPart;
      const int in_part = 2 * (k % kPart);
      lane[k] = k - k % kPart + (in_part < kPart ? in_part : in_part + kLanes - kPart);
    }
    const Vec<T> low = __builtin_shuffle(a, b, half);
    b = __builtin_shuffle(a, b, half + kPart);
    a = low;
  }
  to[0] = __builtin_shuffle(a, b, lane);
  to[1] = __builtin_shuffle(a, b, lane + 1);
}

// The same of two vectors in memory.
template <typename T>
CONVPOOL_INLINE void deinterleave(const T* from, Vec<T> (&to)[2]) {
  deinterleave<T>(load<T>(from), load<T>(from + Simd<T>::kLanes), to);
}

// to = {a[0], b[0], a[1], b[1], ...}: two vectors.
template <typename T>
CONVPOOL_INLINE void interleave(Vec<T> a, Vec<T> b, Vec<T> (&to)[2]) {
  constexpr int kLanes = Simd<T>::kLanes;
  decltype(Vec<T>{} == Vec<T>{}) lane{};
  for (int k = 0; k < kLanes; ++k) lane[k] = k / 2 + k % 2 * kLanes;
  to[0] = __builtin_shuffle(a, b, lane);
  to[1] = __builtin_shuffle(a, b, lane + kLanes / 2);
}

CONVPOOL_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
CONVPOOL_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
CONVPOOL_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace convpool::CONVPOOL_ISA
