// AVX2: 16 registers, so at most 12 accumulators; int8 products by way of 16-bit pairs.
#include <immintrin.h>

#include "common/unroll.hpp"
#include "roofline/roofline.hpp"

namespace compactnets::roofline {
namespace {

constexpr int kSums = 10;

inline void opaque(__m256& v) { asm volatile("" : "+x"(v)); }
inline void opaque(__m256i& v) { asm volatile("" : "+x"(v)); }

double fp32_fma(std::int64_t steps) {
  __m256 sums[kSums], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm256_setzero_ps();
  opaque(a);
  opaque(b);
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm256_fmadd_ps(a, b, sums[i]);
      opaque(sums[i]);
    }
  }
  return static_cast<double>(steps) * kSums * 8;
}

double int8_dot(std::int64_t steps) {
  __m256i sums[kSums], a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2);
  __m256i one = _mm256_set1_epi16(1);
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm256_setzero_si256();
  opaque(b);
  opaque(one);
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      opaque(a);
      const __m256i pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one);
      sums[i] = _mm256_add_epi32(sums[i], pairs);
      opaque(sums[i]);
    }
  }
  return static_cast<double>(steps) * kSums * 32;
}

template <bool kInteger>
double fp32_max_add(std::int64_t steps) {
  __m256 sums[kSums], a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f), one = b;
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm256_setzero_ps();
  opaque(one);
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      opaque(a);
      if constexpr (kInteger) {
        const __m256i larger = _mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b));
        sums[i] = _mm256_fmadd_ps(_mm256_castsi256_ps(larger), one, sums[i]);
      } else {
        sums[i] = _mm256_add_ps(_mm256_max_ps(a, b), sums[i]);
      }
      opaque(sums[i]);
    }
  }
  return static_cast<double>(steps) * kSums * 8;
}

void read(const void* memory, std::int64_t bytes) {
  const char* p = static_cast<const char*>(memory);
  for (const char* end = p + bytes; p != end; p += 256) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < 8; ++i) {
      __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * i));
      opaque(value);
    }
  }
}

}  // namespace

const Loops avx2_loops = {fp32_fma, int8_dot, nullptr, nullptr, fp32_max_add<false>,
                          fp32_max_add<true>, nullptr, nullptr, read};

}  // namespace compactnets::roofline
