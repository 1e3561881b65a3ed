// AVX-512: 16 pixels a vector, 32 registers. N = 4 by 6 vectors: 24 sums, 6 of x, 1 weight; a block
// is 24 multiply-adds (12 cycles of two multipliers) for 11 loads. N = 1: the sum's operand comes
// from memory, 13 vectors are a whole 14 x 14 map.
#include <immintrin.h>

#include "common/unroll.hpp"
#include "sparse/product.hpp"

namespace compactnets::sparse {
namespace {

using Vector = __m512;
constexpr int kLanes = 16;

template <int N>
struct Widest {
  static constexpr int value = N == 1 ? 14 : N == 2 ? 10 : 6;
};

inline __mmask16 first_lanes(std::int64_t count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

inline Vector zero() { return _mm512_setzero_ps(); }
inline Vector load(const float* p) { return _mm512_loadu_ps(p); }
inline Vector load_some(const float* p, int count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), p);
}
// Lane i: p[first + i] where that lies within a row of `width`, else 0; nothing else is read.
using Mask = __mmask16;
inline Mask inside(std::int64_t first, std::int64_t width) {
  const Mask until = first >= width ? 0 : first_lanes(width - first);
  return first < 0 ? until & static_cast<Mask>(0xffff << -first) : until;
}
inline Vector load_masked(const float* p, Mask mask) { return _mm512_maskz_loadu_ps(mask, p); }

inline Vector even_lanes(Vector first, Vector second) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_ps(first, even, second);
}
inline Vector odd_lanes(Vector first, Vector second) {
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return _mm512_permutex2var_ps(first, odd, second);
}
// p[0], p[2], ...: of 32 floats, or the first `count` of them; nothing behind the last is read.
inline Vector load_every_second(const float* p) { return even_lanes(load(p), load(p + 16)); }
inline Vector load_some_every_second(const float* p, int count) {
  const int floats = 2 * count - 1;
  return even_lanes(load_masked(p, inside(0, floats)), load_masked(p + 16, inside(16, floats)));
}
inline void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
inline void store_some(float* p, Vector v, int count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), v);
}
inline Vector broadcast(const float* p) { return _mm512_set1_ps(*p); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
// The second operand is returned if one is NaN.
inline Vector at_least(Vector v, Vector low) { return _mm512_max_ps(low, v); }
inline Vector at_most(Vector v, Vector high) { return _mm512_min_ps(high, v); }
inline void pin(Vector& v) { asm("" : "+v"(v)); }
inline void pin(const float*& p) { asm("" : "+r"(p)); }

// 16 x 16 in four rounds of 16 shuffles: pairs of rows, pairs of pairs, then 128-bit lanes.
inline void transpose_square(const float* from, std::int64_t from_pitch, std::int64_t rows,
                             std::int64_t columns, float* to, std::int64_t to_pitch, bool pad) {
  const __mmask16 wanted = first_lanes(columns);
  __m512 a[16], b[16];
  if (rows >= 16 && columns >= 16) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(from + i * from_pitch);
  } else {
    COMPACTNETS_UNROLL
    for (int i = 0; i < 16; ++i)
      a[i] = i < rows ? _mm512_maskz_loadu_ps(wanted, from + i * from_pitch) : _mm512_setzero_ps();
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; i += 4) {
    COMPACTNETS_UNROLL
    for (int j = 0; j < 2; ++j) {
      const __m512d first = _mm512_castps_pd(b[i + j]), second = _mm512_castps_pd(b[i + j + 2]);
      a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
      a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
    }
  }
  // a[4 g + j] holds, in lane l, column 4 l + j of rows 4 g .. 4 g + 3.
  COMPACTNETS_UNROLL
  for (int j = 0; j < 4; ++j) {
    const __m512 low01 = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x44);
    const __m512 high01 = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xee);
    const __m512 low23 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x44);
    const __m512 high23 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xee);
    b[j] = _mm512_shuffle_f32x4(low01, low23, 0x88);
    b[4 + j] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    b[8 + j] = _mm512_shuffle_f32x4(high01, high23, 0x88);
    b[12 + j] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
  }
  if (columns >= 16 && (pad || rows >= 16)) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < 16; ++i) _mm512_storeu_ps(to + i * to_pitch, b[i]);
  } else {
    const __mmask16 valid = pad ? 0xffff : first_lanes(rows);
    COMPACTNETS_UNROLL
    for (int i = 0; i < 16; ++i)
      if (i < columns) _mm512_mask_storeu_ps(to + i * to_pitch, valid, b[i]);
  }
}

#include "sparse/depthwise.hpp"
#include "sparse/tile.hpp"

}  // namespace

const Operations avx512_operations = make_operations();

}  // namespace compactnets::sparse
