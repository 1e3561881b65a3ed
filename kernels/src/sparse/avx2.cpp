// AVX2 with FMA: 8 pixels a vector, 16 registers. N = 4 by 3 vectors: 12 sums, 3 of x, 1 weight.
#include <immintrin.h>

#include "common/unroll.hpp"
#include "sparse/product.hpp"

namespace compactnets::sparse {
namespace {

using Vector = __m256;
constexpr int kLanes = 8;

template <int N>
struct Widest {
  static constexpr int value = N == 1 ? 12 : N == 2 ? 5 : 3;
};

alignas(32) constexpr std::int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                 0,  0,  0,  0,  0,  0,  0,  0};

inline __m256i first_lanes(std::int64_t count) {
  const std::int64_t skipped = count >= kLanes ? 0 : kLanes - count;
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + skipped));
}

inline Vector zero() { return _mm256_setzero_ps(); }
inline Vector load(const float* p) { return _mm256_loadu_ps(p); }
inline Vector load_some(const float* p, int count) {
  return _mm256_maskload_ps(p, first_lanes(count));
}
// Lane i: p[first + i] where that lies within a row of `width`, else 0; nothing else is read.
using Mask = __m256i;
inline Mask inside(std::int64_t first, std::int64_t width) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const auto below = [](std::int64_t n) {
    return _mm256_set1_epi32(static_cast<int>(n < 0 ? 0 : n > kLanes ? kLanes : n));
  };
  const __m256i until = _mm256_cmpgt_epi32(below(width - first), lane);
  return _mm256_andnot_si256(_mm256_cmpgt_epi32(below(-first), lane), until);
}
inline Vector load_masked(const float* p, Mask mask) { return _mm256_maskload_ps(p, mask); }

inline Vector in_order(Vector v) {
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
}
inline Vector even_lanes(Vector first, Vector second) {
  return in_order(_mm256_shuffle_ps(first, second, 0x88));
}
inline Vector odd_lanes(Vector first, Vector second) {
  return in_order(_mm256_shuffle_ps(first, second, 0xdd));
}
// p[0], p[2], ...: of 16 floats, or the first `count` of them; nothing behind the last is read.
inline Vector load_every_second(const float* p) { return even_lanes(load(p), load(p + 8)); }
inline Vector load_some_every_second(const float* p, int count) {
  const int floats = 2 * count - 1;
  return even_lanes(load_masked(p, inside(0, floats)), load_masked(p + 8, inside(8, floats)));
}
inline void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
inline void store_some(float* p, Vector v, int count) {
  _mm256_maskstore_ps(p, first_lanes(count), v);
}
inline Vector broadcast(const float* p) { return _mm256_broadcast_ss(p); }
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
// The second operand is returned if one is NaN.
inline Vector at_least(Vector v, Vector low) { return _mm256_max_ps(low, v); }
inline Vector at_most(Vector v, Vector high) { return _mm256_min_ps(high, v); }
inline void pin(Vector& v) { asm("" : "+x"(v)); }
inline void pin(const float*& p) { asm("" : "+r"(p)); }

inline void transpose_square(const float* from, std::int64_t from_pitch, std::int64_t rows,
                             std::int64_t columns, float* to, std::int64_t to_pitch, bool pad) {
  const __m256i wanted = first_lanes(columns);
  __m256 a[8], b[8];
  COMPACTNETS_UNROLL
  for (int i = 0; i < 8; ++i)
    a[i] = i < rows ? _mm256_maskload_ps(from + i * from_pitch, wanted) : _mm256_setzero_ps();
  COMPACTNETS_UNROLL
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < 8; i += 4) {
    COMPACTNETS_UNROLL
    for (int j = 0; j < 2; ++j) {
      const __m256d first = _mm256_castps_pd(b[i + j]), second = _mm256_castps_pd(b[i + j + 2]);
      a[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(first, second));
      a[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(first, second));
    }
  }
  COMPACTNETS_UNROLL
  for (int j = 0; j < 4; ++j) {
    b[j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x20);
    b[4 + j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x31);
  }
  const __m256i valid = first_lanes(pad ? kLanes : rows);
  COMPACTNETS_UNROLL
  for (int i = 0; i < 8; ++i)
    if (i < columns) _mm256_maskstore_ps(to + i * to_pitch, valid, b[i]);
}

#include "sparse/depthwise.hpp"
#include "sparse/tile.hpp"

}  // namespace

const Operations avx2_operations = make_operations();

}  // namespace compactnets::sparse
