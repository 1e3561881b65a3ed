// AVX-512: a tile is one word, and an instruction takes three bits to their sum or to their carry.
#include <immintrin.h>

#include "tree/slices.hpp"

namespace compactnets::tree {
namespace {

struct Word {
  using Type = __m512i;
  static constexpr int kCount = 8;
  static Type load(const std::uint64_t* p) { return _mm512_loadu_si512(p); }
  static void store(std::uint64_t* p, Type v) { _mm512_storeu_si512(p, v); }
  static Type zero() { return _mm512_setzero_si512(); }
  static Type flip(Type v) { return _mm512_ternarylogic_epi64(v, v, v, 0x55); }
  static Type add(Type& a, Type b, Type c) {
    const Type carry = _mm512_ternarylogic_epi64(a, b, c, 0xe8);
    a = _mm512_ternarylogic_epi64(a, b, c, 0x96);
    return carry;
  }
};

// A bit of a slice is a mask: the slice's weight is added where it is set, 32 pixels at a time.
void unslice(const std::uint64_t* slices, int levels, int offset, std::int16_t* values) {
  for (int word = 0; word < kWords; ++word) {
    __m512i low = _mm512_set1_epi16(static_cast<short>(-offset)), high = low;
    for (int k = 0; k < levels; ++k) {
      const __m512i weight = _mm512_set1_epi16(static_cast<short>(weight_of(k, levels)));
      const std::uint64_t bits = slices[k * kWords + word];
      low = _mm512_mask_add_epi16(low, static_cast<__mmask32>(bits), low, weight);
      high = _mm512_mask_add_epi16(high, static_cast<__mmask32>(bits >> 32), high, weight);
    }
    _mm512_storeu_si512(values + 64 * word, low);
    _mm512_storeu_si512(values + 64 * word + 32, high);
  }
}

void signs(const float* x, float shift, std::int64_t count, std::uint64_t* words) {
  const __m512 by = _mm512_set1_ps(shift), zero = _mm512_setzero_ps();
  for (std::int64_t begin = 0; begin < count; begin += 64) {
    std::uint64_t word = 0;
    const std::int64_t end = count - begin < 64 ? count - begin : 64;
    for (std::int64_t i = 0; i < end; i += 16) {
      const std::int64_t rest = end - i;
      const auto some = static_cast<__mmask16>(rest >= 16 ? 0xffff : (1u << rest) - 1);
      const __m512 value = _mm512_add_ps(_mm512_maskz_loadu_ps(some, x + begin + i), by);
      word |= static_cast<std::uint64_t>(_mm512_mask_cmp_ps_mask(some, value, zero, _CMP_GE_OQ)) << i;
    }
    words[begin / 64] = word;
  }
}

}  // namespace

const Operations avx512_operations = {channel<Word>, unslice, finish, signs};

}  // namespace compactnets::tree
