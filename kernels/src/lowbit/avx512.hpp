// What the AVX-512 and AMX paths share: fields of a packed step, and the way out to floats. Only
// files compiled for them include this; everything is internal to the file.
#pragma once
#include <immintrin.h>

#include "lowbit/linear.hpp"

namespace compactnets::lowbit {
namespace {

inline __mmask16 first_lanes(std::int64_t count) {
  if (count >= 16) return 0xffff;
  return count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// total + float(dot) * scale
inline __m512 add_group(__m512 total, __m512i dot, __m512 scale) {
  return _mm512_add_ps(total, _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale));
}

// The 16 results from `output` on of one row; lanes beyond the last output are not touched.
inline void store_row(const Task& t, std::int64_t row, std::int64_t output, __m512 total) {
  const __mmask16 lanes = first_lanes(t.outputs - output);
  __m512 result = _mm512_mul_ps(total, _mm512_set1_ps(t.x_scale[row]));
  if (t.bias) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(lanes, t.bias + output));
  _mm512_mask_storeu_ps(t.out + row * t.out_step + output, lanes, result);
}

inline __m512 load_scale(const Task& t, int group, std::int64_t output) {
  return _mm512_maskz_loadu_ps(first_lanes(t.outputs - output),
                               t.scale + group * t.scale_step + output);
}

}  // namespace
}  // namespace compactnets::lowbit
