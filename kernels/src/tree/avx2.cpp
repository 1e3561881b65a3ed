// AVX2: words of 256 bits.
#include <immintrin.h>

#include "tree/slices.hpp"

namespace compactnets::tree {
namespace {

struct Word {
  using Type = __m256i;
  static constexpr int kCount = 4;
  static Type load(const std::uint64_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store(std::uint64_t* p, Type v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  static Type zero() { return _mm256_setzero_si256(); }
  static Type flip(Type v) { return _mm256_xor_si256(v, _mm256_set1_epi64x(-1)); }
  static Type add(Type& a, Type b, Type c) {
    const Type half = _mm256_xor_si256(a, b);
    const Type carry = _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(half, c));
    a = _mm256_xor_si256(half, c);
    return carry;
  }
};

}  // namespace

const Operations avx2_operations = {channel<Word>, unslice_bits, finish, sign_bits};

}  // namespace compactnets::tree
