// Vectors of 8 floats; see lanes_avx512.hpp.
#pragma once
#include <immintrin.h>

namespace compactnets {
namespace {

struct Lanes {
  using Type = __m256;
  static constexpr int kCount = 8;

  static __m256i first(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Type zero() { return _mm256_setzero_ps(); }
  static Type set1(float value) { return _mm256_set1_ps(value); }
  static Type load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Type v) { _mm256_storeu_ps(p, v); }
  static Type load_first(const float* p, int count) {
    return count >= kCount ? load(p) : _mm256_maskload_ps(p, first(count));
  }
  static void store_first(float* p, Type v, int count) {
    if (count >= kCount)
      store(p, v);
    else
      _mm256_maskstore_ps(p, first(count), v);
  }
  static Type fma(Type a, Type b, Type c) { return _mm256_fmadd_ps(a, b, c); }
  static void pin(Type& v) { asm("" : "+x"(v)); }
};

}  // namespace
}  // namespace compactnets
