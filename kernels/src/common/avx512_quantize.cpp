// 16 values at a time; the rest of a row under a mask.
#include <immintrin.h>

#include "common/quantize.hpp"

namespace compactnets::quantize {
namespace {

inline __mmask16 first_lanes(std::int64_t count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

inline std::uint32_t largest_bits(const float* x, std::int64_t count) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest = _mm512_setzero_si512(), other = largest;
  std::int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    largest = _mm512_max_epu32(largest,
                               _mm512_and_si512(magnitude, _mm512_loadu_si512(x + i)));
    other = _mm512_max_epu32(other,
                             _mm512_and_si512(magnitude, _mm512_loadu_si512(x + i + 16)));
  }
  for (; i < count; i += 16)
    largest = _mm512_max_epu32(
        largest, _mm512_and_si512(magnitude,
                                  _mm512_maskz_loadu_epi32(first_lanes(count - i), x + i)));
  return _mm512_reduce_max_epu32(_mm512_max_epu32(largest, other));
}

}  // namespace

void avx512_row(const float* x, std::int64_t count, std::int64_t padded, std::int8_t* q,
                float* scale) {
  const Choice choice = choose(largest_bits(x, count));
  *scale = choice.scale;
  const __m512 factor = _mm512_set1_ps(choice.factor);
  // What counts as zero is not multiplied: infinity * 0 would be NaN.
  const std::int64_t used = choice.factor == 0.0f ? 0 : count;
  std::int64_t i = 0;
  for (; i + 16 <= used; i += 16) {
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm512_cvtepi32_epi8(rounded));
  }
  for (; i < padded; i += 16) {
    const __mmask16 read = i < used ? first_lanes(used - i) : 0;
    const __m512i rounded =
        _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(read, x + i), factor));
    _mm_mask_storeu_epi8(q + i, first_lanes(padded - i), _mm512_cvtepi32_epi8(rounded));
  }
}

}  // namespace compactnets::quantize
