// AVX-512: every loop body is one instruction mix of a kernel, on 8 to 24 accumulators.
#include <immintrin.h>

#include "common/unroll.hpp"
#include "roofline/roofline.hpp"

namespace compactnets::roofline {
namespace {

inline void opaque(__m512& v) { asm volatile("" : "+v"(v)); }
inline void opaque(__m512i& v) { asm volatile("" : "+v"(v)); }

double fp32_fma(std::int64_t steps) {
  constexpr int kSums = 24;
  __m512 sums[kSums], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_setzero_ps();
  opaque(a);
  opaque(b);
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm512_fmadd_ps(a, b, sums[i]);
      opaque(sums[i]);
    }
  }
  return static_cast<double>(steps) * kSums * 16;
}

// kGather: with a permutation of the first operand's bytes before each product.
template <bool kGather>
double int8_dot(std::int64_t steps) {
  constexpr int kSums = 16;
  __m512i sums[kSums], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_setzero_si512();
  opaque(b);
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      opaque(a);
      const __m512i left = kGather ? _mm512_permutexvar_epi8(b, a) : a;
      sums[i] = _mm512_dpbusd_epi32(sums[i], left, b);
      opaque(sums[i]);
    }
  }
  return static_cast<double>(steps) * kSums * 64;
}

double bit_pairs(std::int64_t steps) {
  constexpr int kXor3 = 0x96, kCarry = 0xD4, kPixels = 8;
  __m512i twos[kPixels], ones[kPixels];
  __m512i w1 = _mm512_set1_epi8(0x35), w12 = _mm512_set1_epi8(0x53), a = w1, a12 = w12;
  COMPACTNETS_UNROLL
  for (int i = 0; i < kPixels; ++i) twos[i] = ones[i] = _mm512_setzero_si512();
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kPixels; ++i) {
      opaque(a);
      const __m512i x1 = _mm512_xor_si512(w1, a);
      __m512i next = _mm512_ternarylogic_epi32(ones[i], w12, a12, kXor3);
      const __m512i carry = _mm512_ternarylogic_epi32(x1, ones[i], next, kCarry);
      ones[i] = next;
      twos[i] = _mm512_add_epi32(twos[i], _mm512_popcnt_epi32(carry));
      opaque(twos[i]);
      opaque(ones[i]);
    }
  }
  return static_cast<double>(steps) * kPixels * 1024;
}

template <bool kInteger>
double fp32_max_add(std::int64_t steps) {
  constexpr int kSums = 16;
  __m512 sums[kSums], a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f), one = b;
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_setzero_ps();
  opaque(one);
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      opaque(a);
      if constexpr (kInteger) {
        const __m512i larger = _mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b));
        sums[i] = _mm512_fmadd_ps(_mm512_castsi512_ps(larger), one, sums[i]);
      } else {
        sums[i] = _mm512_add_ps(_mm512_max_ps(a, b), sums[i]);
      }
      opaque(sums[i]);
    }
  }
  return static_cast<double>(steps) * kSums * 16;
}

double int8_max_add(std::int64_t steps) {
  constexpr int kSums = 16;
  __m512i sums[kSums], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2), one = a;
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_setzero_si512();
  opaque(one);
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      opaque(a);
      sums[i] = _mm512_dpbusd_epi32(sums[i], _mm512_max_epu8(a, b), one);
      opaque(sums[i]);
    }
  }
  return static_cast<double>(steps) * kSums * 64;
}

double int8_sad(std::int64_t steps) {
  constexpr int kSums = 16;
  __m512i sums[kSums], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_setzero_si512();
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      opaque(a);
      sums[i] = _mm512_adds_epu16(sums[i], _mm512_dbsad_epu8(a, b, 0x94));
      opaque(sums[i]);
    }
  }
  return static_cast<double>(steps) * kSums * 96;
}

void read(const void* memory, std::int64_t bytes) {
  const char* p = static_cast<const char*>(memory);
  for (const char* end = p + bytes; p != end; p += 512) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < 8; ++i) {
      __m512i value = _mm512_loadu_si512(p + 64 * i);
      opaque(value);
    }
  }
}

}  // namespace

const Loops avx512_loops = {fp32_fma,            int8_dot<false>,    int8_dot<true>,
                            bit_pairs,           fp32_max_add<false>, fp32_max_add<true>,
                            int8_max_add,        int8_sad,            read};

}  // namespace compactnets::roofline
