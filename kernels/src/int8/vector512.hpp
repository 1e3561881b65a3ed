// What the AVX-512 and the AMX path share: how a row of 32 sums becomes results.
#pragma once
#include <immintrin.h>

#include "int8/plain.hpp"

namespace compactnets::int8 {
namespace {

inline __mmask16 first_lanes(int count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Finishes 16 columns of a block. Its constants are vectors of their own: as a local variable in a
// loop over rows they stay in registers, whatever the loop stores.
template <bool kBytes, bool kRowScale>
class Finisher {
 public:
  Finisher() = default;
  // half: 0 or 1, columns 0..15 or 16..31 of the block.
  Finisher(const Product& p, std::int64_t block, int half)
      : Finisher(p.finish, sums_of(p, p.weight + block * p.block_bytes()) + half * 16,
                 block * kColumns + half * 16, p.columns, p.y, p.y_step) {}

  // sums: of 16 columns' weights; the columns begin at `column`, of `columns` in all.
  Finisher(const Finish& finish, const std::int32_t* sums, std::int64_t column,
           std::int64_t columns, void* y, std::int64_t y_step) {
    const std::int64_t left = columns - column;
    lanes_ = first_lanes(left < 16 ? static_cast<int>(left) : 16);
    if (!lanes_) return;
    scale_ = _mm512_maskz_loadu_ps(lanes_, finish.scale + column);
    bias_ = finish.bias ? _mm512_maskz_loadu_ps(lanes_, finish.bias + column)
                        : _mm512_set1_ps(-0.0f);  // x + -0 is x for every x
    correction_ = _mm512_mullo_epi32(_mm512_loadu_si512(sums), _mm512_set1_epi32(finish.x_zero));
    const float no_floor = -__builtin_inff();
    low_ = _mm512_set1_ps(kBytes ? finish.low : finish.relu ? 0.0f : no_floor);
    high_ = _mm512_set1_ps(finish.high);
    y_zero_ = _mm512_set1_epi32(finish.y_zero);
    row_scale_ = finish.row_scale;
    row_scale_step_ = finish.row_scale_step;
    y_ = static_cast<char*>(y) + column * (kBytes ? 1 : 4);
    y_step_ = y_step * (kBytes ? 1 : 4);
  }

  bool any() const { return lanes_ != 0; }

  bool all() const { return lanes_ == 0xffff; }

  char* row(std::int64_t stored) const { return y_ + stored * y_step_; }

  // kAll: of 16 columns that all exist; a plain store is cheaper than a masked one.
  template <bool kAll>
  void store(__m512i acc, std::int64_t stored, char* y) const {
    __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc, correction_));
    if constexpr (kRowScale)
      value = _mm512_mul_ps(value, _mm512_set1_ps(row_scale_[stored * row_scale_step_]));
    value = _mm512_add_ps(_mm512_mul_ps(value, scale_), bias_);
    if constexpr (kBytes) {
      value = _mm512_min_ps(_mm512_max_ps(value, low_), high_);  // NaN: low
      const __m512i rounded = _mm512_add_epi32(_mm512_cvtps_epi32(value), y_zero_);
      if constexpr (kAll)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm512_cvtepi32_epi8(rounded));
      else
        _mm512_mask_cvtepi32_storeu_epi8(y, lanes_, rounded);
    } else {
      value = _mm512_max_ps(low_, value);  // NaN stays
      if constexpr (kAll)
        _mm512_storeu_ps(y, value);
      else
        _mm512_mask_storeu_ps(y, lanes_, value);
    }
  }

 private:
  __mmask16 lanes_;
  __m512 scale_, bias_, low_, high_;
  __m512i correction_, y_zero_;
  const float* row_scale_;
  std::int64_t row_scale_step_;
  char* y_;
  std::int64_t y_step_;
};

}  // namespace

// The avx512 path's: the AMX path takes them for few rows and for single channels.
void multiply_avx512(const Product& product, std::int64_t first, std::int64_t last,
                     std::int64_t first_block, std::int64_t last_block);
void depthwise_avx512(const Depthwise& task, std::int64_t first, std::int64_t last);

}  // namespace compactnets::int8
