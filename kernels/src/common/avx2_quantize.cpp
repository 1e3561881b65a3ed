// 8 values at a time; the rest of a row one by one, by the same arithmetic.
#include <immintrin.h>

#include "common/quantize.hpp"

namespace compactnets::quantize {
namespace {

inline std::uint32_t largest_bits(const float* x, std::int64_t count) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i largest = _mm256_setzero_si256();
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    largest = _mm256_max_epu32(
        largest, _mm256_and_si256(magnitude,
                                  _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i))));
  std::uint32_t lanes[8], result = 0;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), largest);
  for (std::uint32_t lane : lanes) result = lane > result ? lane : result;
  for (; i < count; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    bits &= 0x7fffffffu;
    result = bits > result ? bits : result;
  }
  return result;
}

}  // namespace

void avx2_row(const float* x, std::int64_t count, std::int64_t padded, std::int8_t* q,
              float* scale) {
  const Choice choice = choose(largest_bits(x, count));
  *scale = choice.scale;
  const std::int64_t used = choice.factor == 0.0f ? 0 : count;
  const __m256 factor = _mm256_set1_ps(choice.factor);
  std::int64_t i = 0;
  for (; i + 8 <= used; i += 8) {
    const __m256i rounded = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded),
                                          _mm256_extracti128_si256(rounded, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), _mm_packs_epi16(words, words));
  }
  for (; i < used; ++i)
    q[i] = static_cast<std::int8_t>(_mm_cvtss_si32(_mm_set_ss(x[i] * choice.factor)));
  for (; i < padded; ++i) q[i] = 0;
}

}  // namespace compactnets::quantize
