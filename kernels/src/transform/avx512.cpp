// AVX-512: two neighbouring blocks to a register, two registers of each row at a time. 168 vector
// operations for two blocks, 48 of them in the transpositions, which only one of the two vector
// pipes can do: see transform_two for what keeps the other busy meanwhile. Two of some 400 values for four blocks
// go by way of the stack, none of them in transform_one.
#include "common/lanes_avx512.hpp"
#include "transform/blocks.hpp"

namespace compactnets::transform {
namespace {

struct Rows {
  using Type = __m512;
  static constexpr int kBlocks = 2;
  static constexpr bool kTwoStreams = true;

  static Type load(const float* p, int blocks) { return Lanes::load_first(p, 8 * blocks); }
  static void store(float* p, Type v, int blocks) { Lanes::store_first(p, v, 8 * blocks); }
  static Type repeat(const float* p) { return _mm512_broadcast_f32x8(_mm256_loadu_ps(p)); }
  static Type set1(float value) { return _mm512_set1_ps(value); }
  static Type fma(Type a, Type b, Type c) { return _mm512_fmadd_ps(a, b, c); }
  static Type fnma(Type a, Type b, Type c) { return _mm512_fnmadd_ps(a, b, c); }

  // 8x8 in each half: 2x2 and 4x4 within 128 bits, then quarters between registers.
  static void transpose(Type (&v)[8]) {
    Type pairs[8], quads[8];
    COMPACTNETS_UNROLL
    for (int i = 0; i < 4; ++i) {
      pairs[2 * i] = _mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]);
      pairs[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]);
    }
    COMPACTNETS_UNROLL
    for (int i = 0; i < 2; ++i) {
      COMPACTNETS_UNROLL
      for (int j = 0; j < 2; ++j) {
        const Type first = pairs[4 * i + j], second = pairs[4 * i + j + 2];
        quads[4 * i + 2 * j] = _mm512_shuffle_ps(first, second, 0x44);
        quads[4 * i + 2 * j + 1] = _mm512_shuffle_ps(first, second, 0xee);
      }
    }
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    COMPACTNETS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const __m512d first = _mm512_castps_pd(quads[i]), second = _mm512_castps_pd(quads[i + 4]);
      v[i] = _mm512_castpd_ps(_mm512_permutex2var_pd(first, low, second));
      v[i + 4] = _mm512_castpd_ps(_mm512_permutex2var_pd(first, high, second));
    }
  }
};

}  // namespace

const Operations avx512_operations = {transform<Rows>};

}  // namespace compactnets::transform
