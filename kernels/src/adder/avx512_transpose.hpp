// AVX-512: pixels with their channels side by side into one plane per channel.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "common/unroll.hpp"

namespace compactnets::adder {
namespace {

// 16 pixels by 16 channels: four rounds of interleaving.
inline void transpose16(const float* x, std::int64_t x_step, float* out, std::int64_t plane) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  __m512 a[16], b[16];
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(x + i * x_step);
  COMPACTNETS_UNROLL
  for (int round = 0; round < 4; ++round) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm512_permutex2var_ps(a[i], low, a[i + 8]);
      b[2 * i + 1] = _mm512_permutex2var_ps(a[i], high, a[i + 8]);
    }
    COMPACTNETS_UNROLL
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i) _mm512_storeu_ps(out + i * plane, a[i]);
}

// out[c * plane + p] = x[p * x_step + c]
inline void transpose_floats(const float* x, std::int64_t x_step, std::int64_t pixels,
                             std::int64_t channels, float* out, std::int64_t plane) {
  std::int64_t p = 0;
  for (; p < pixels; p += 16) {
    std::int64_t c = 0;
    for (; p + 16 <= pixels && c + 16 <= channels; c += 16)
      transpose16(x + p * x_step + c, x_step, out + c * plane + p, plane);
    for (; c < channels; ++c)
      for (std::int64_t i = p; i < p + 16 && i < pixels; ++i)
        out[c * plane + i] = x[i * x_step + c];
  }
}

}  // namespace
}  // namespace compactnets::adder
