// AVX2: one block, a row to a register.
#include "common/lanes_avx2.hpp"
#include "transform/blocks.hpp"

namespace compactnets::transform {
namespace {

struct Rows {
  using Type = __m256;
  static constexpr int kBlocks = 1;
  static constexpr bool kTwoStreams = false;

  static Type load(const float* p, int) { return _mm256_loadu_ps(p); }
  static void store(float* p, Type v, int) { _mm256_storeu_ps(p, v); }
  static Type repeat(const float* p) { return _mm256_loadu_ps(p); }
  static Type set1(float value) { return _mm256_set1_ps(value); }
  static Type fma(Type a, Type b, Type c) { return _mm256_fmadd_ps(a, b, c); }
  static Type fnma(Type a, Type b, Type c) { return _mm256_fnmadd_ps(a, b, c); }

  static void transpose(Type (&v)[8]) {
    Type pairs[8], quads[8];
    COMPACTNETS_UNROLL
    for (int i = 0; i < 4; ++i) {
      pairs[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
      pairs[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    COMPACTNETS_UNROLL
    for (int i = 0; i < 2; ++i) {
      COMPACTNETS_UNROLL
      for (int j = 0; j < 2; ++j) {
        const Type first = pairs[4 * i + j], second = pairs[4 * i + j + 2];
        quads[4 * i + 2 * j] = _mm256_shuffle_ps(first, second, 0x44);
        quads[4 * i + 2 * j + 1] = _mm256_shuffle_ps(first, second, 0xee);
      }
    }
    COMPACTNETS_UNROLL
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
      v[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
  }
};

}  // namespace

const Operations avx2_operations = {transform<Rows>};

}  // namespace compactnets::transform
