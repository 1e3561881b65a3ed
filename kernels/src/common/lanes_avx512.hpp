// Vectors of 16 floats, for kernels that are written once for all instruction sets. Each of the
// three lanes*.hpp defines `Lanes`; a file includes one of them and then the shared templates. The
// type is local to its file, and so is every template made from it: the linker has no copies to
// choose from.
#pragma once
#include <immintrin.h>

namespace compactnets {
namespace {

struct Lanes {
  using Type = __m512;
  static constexpr int kCount = 16;

  static __mmask16 first(int count) {
    return count >= kCount ? 0xffff : static_cast<__mmask16>((1u << (count < 0 ? 0 : count)) - 1);
  }
  static Type zero() { return _mm512_setzero_ps(); }
  static Type set1(float value) { return _mm512_set1_ps(value); }
  static Type load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Type v) { _mm512_storeu_ps(p, v); }
  // The first `count` lanes only: no others are read (they are zero) or written.
  static Type load_first(const float* p, int count) {
    return _mm512_maskz_loadu_ps(first(count), p);
  }
  static void store_first(float* p, Type v, int count) {
    _mm512_mask_storeu_ps(p, first(count), v);
  }
  static Type fma(Type a, Type b, Type c) { return _mm512_fmadd_ps(a, b, c); }
  // Keeps v in a register: the compiler would load or broadcast it again at each use.
  static void pin(Type& v) { asm("" : "+v"(v)); }
};

}  // namespace
}  // namespace compactnets
