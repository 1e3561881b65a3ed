// Activations to int8, one scale per row, chosen from the row itself at run time.
#pragma once
#include <cstdint>

namespace compactnets {

// scale = max |x| / 127, q = x * (127 / max |x|) rounded to nearest, ties to even: |q| <= 127.
// A row with a NaN or an infinity: q = 0, scale = NaN, so that all made of it is NaN. A row whose
// largest magnitude is below 2^-100 (127 / max could overflow): q = 0, scale = 0.
// q[count .. padded) becomes 0. No value of x beyond count is read.
using QuantizeRow = void (*)(const float* x, std::int64_t count, std::int64_t padded,
                             std::int8_t* q, float* scale);

// For the instruction set in use.
QuantizeRow quantize_row();

namespace quantize {

// How the largest magnitude, as its bits, decides: factor and scale of a row.
struct Choice {
  float factor, scale;
};

constexpr std::uint32_t kInfinity = 0x7f800000u, kSmallest = 0x0d800000u;  // 2^-100

// static: each instruction set keeps its own copy.
static inline Choice choose(std::uint32_t largest_bits) {
  if (largest_bits >= kInfinity) return {0.0f, __builtin_nanf("")};
  if (largest_bits < kSmallest) return {0.0f, 0.0f};
  float largest;
  __builtin_memcpy(&largest, &largest_bits, sizeof(largest));
  return {127.0f / largest, largest / 127.0f};
}

void portable_row(const float* x, std::int64_t count, std::int64_t padded, std::int8_t* q,
                  float* scale);
void avx2_row(const float* x, std::int64_t count, std::int64_t padded, std::int8_t* q,
              float* scale);
void avx512_row(const float* x, std::int64_t count, std::int64_t padded, std::int8_t* q,
                float* scale);

}  // namespace quantize
}  // namespace compactnets
