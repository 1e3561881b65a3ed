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

// A bit of a slice is a mask: the slice's weight is added where it is set, 32 pixels at a time. What
// padding adds is looked up in a register where there are few kinds of pixels (9 for a 3x3 kernel).
void unslice(const std::uint64_t* slices, int levels, const std::uint16_t* kinds,
             const std::int16_t* added, int count, std::int16_t* values) {
  const bool few = count <= 32;
  const auto some = static_cast<__mmask32>(count >= 32 ? ~0u : (1u << count) - 1);
  const __m512i table = _mm512_maskz_loadu_epi16(some, added);
  if (!few)
    for (int i = 0; i < kPixels; ++i) values[i] = added[kinds[i]];
  for (int half = 0; half < 2 * kWords; ++half) {
    __m512i sum = few ? _mm512_permutexvar_epi16(_mm512_loadu_si512(kinds + 32 * half), table)
                      : _mm512_loadu_si512(values + 32 * half);
    const auto* bits = reinterpret_cast<const __mmask32*>(slices) + half;
    for (int k = 0; k < levels; ++k) {
      const __m512i weight = _mm512_set1_epi16(static_cast<short>(weight_of(k, levels)));
      sum = _mm512_mask_add_epi16(sum, bits[k * 2 * kWords], sum, weight);
    }
    _mm512_storeu_si512(values + 32 * half, sum);
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
