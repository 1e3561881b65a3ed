// What the AVX-512 and the AMX path share: how a row of 32 sums becomes results.
#pragma once
#include <immintrin.h>

#include "int8/plain.hpp"

namespace compactnets::int8 {
namespace {

inline __mmask16 first_lanes(int count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Finishes 16 columns of a block; the constants of all its rows are loaded once.
class Finisher {
 public:
  Finisher(const Finish& finish, const std::int32_t* sums, std::int64_t first_column, int columns)
      : finish_(finish), lanes_(first_lanes(columns)) {
    scale_ = _mm512_maskz_loadu_ps(lanes_, finish.scale + first_column);
    bias_ = finish.bias ? _mm512_maskz_loadu_ps(lanes_, finish.bias + first_column)
                        : _mm512_setzero_ps();
    correction_ = _mm512_mullo_epi32(_mm512_loadu_si512(sums), _mm512_set1_epi32(finish.x_zero));
  }

  template <bool kBytes, bool kRowScale>
  void store(__m512i acc, std::int64_t stored, void* y, std::int64_t index) const {
    __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc, correction_));
    if constexpr (kRowScale)
      value = _mm512_mul_ps(
          value, _mm512_set1_ps(finish_.row_scale[stored * finish_.row_scale_step]));
    value = _mm512_mul_ps(value, scale_);
    if (finish_.bias) value = _mm512_add_ps(value, bias_);
    if constexpr (kBytes) {
      value = _mm512_max_ps(value, _mm512_set1_ps(finish_.low));  // NaN: low
      value = _mm512_min_ps(value, _mm512_set1_ps(finish_.high));
      const __m512i rounded =
          _mm512_add_epi32(_mm512_cvtps_epi32(value), _mm512_set1_epi32(finish_.y_zero));
      _mm_mask_storeu_epi8(static_cast<std::uint8_t*>(y) + index, lanes_,
                           _mm512_cvtepi32_epi8(rounded));
    } else {
      if (finish_.relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);  // NaN stays
      _mm512_mask_storeu_ps(static_cast<float*>(y) + index, lanes_, value);
    }
  }

 private:
  const Finish& finish_;
  __mmask16 lanes_;
  __m512 scale_, bias_;
  __m512i correction_;
};

// The two halves of a block.
class BlockFinisher {
 public:
  BlockFinisher(const Product& p, std::int64_t block)
      : BlockFinisher(p, p.weight + block * p.block_bytes(), block * kColumns,
                      columns_of(p, block)) {}

  template <bool kBytes, bool kRowScale>
  void store(__m512i left, __m512i right, std::int64_t stored) const {
    const std::int64_t index = stored * p_.y_step + column_;
    left_.store<kBytes, kRowScale>(left, stored, p_.y, index);
    if (columns_ > 16) right_.store<kBytes, kRowScale>(right, stored, p_.y, index + 16);
  }

 private:
  BlockFinisher(const Product& p, const std::int8_t* weight, std::int64_t column, int columns)
      : p_(p), column_(column), columns_(columns),
        left_(p.finish, sums_of(p, weight), column, columns),
        right_(p.finish, sums_of(p, weight) + 16, column + (columns > 16 ? 16 : 0), columns - 16) {}

  const Product& p_;
  std::int64_t column_;
  int columns_;
  Finisher left_, right_;
};

}  // namespace

// The avx512 path's product, which the AMX path takes for few rows.
void multiply_avx512(const Product& product, std::int64_t first, std::int64_t last,
                     std::int64_t first_block, std::int64_t last_block);

}  // namespace compactnets::int8
