// The choice of a path, and the one for any CPU.
#include "common/quantize.hpp"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "common/isa.hpp"

namespace compactnets {
namespace quantize {
namespace {

std::uint32_t magnitude_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits & 0x7fffffffu;
}

}  // namespace

void portable_row(const float* x, std::int64_t count, std::int64_t padded, std::int8_t* q,
                  float* scale) {
  std::uint32_t largest = 0;  // as integers the bits of magnitudes are ordered, NaN the largest
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t bits = magnitude_bits(x[i]);
    largest = bits > largest ? bits : largest;
  }
  const Choice choice = choose(largest);
  *scale = choice.scale;
  if (choice.factor == 0.0f) {
    std::memset(q, 0, static_cast<std::size_t>(padded));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i)
    q[i] = static_cast<std::int8_t>(std::nearbyintf(x[i] * choice.factor));
  std::memset(q + count, 0, static_cast<std::size_t>(padded - count));
}

}  // namespace quantize

QuantizeRow quantize_row() {
  using Row = std::remove_pointer_t<QuantizeRow>;
  return &pick<Row>(nullptr, COMPACTNETS_AVX512(quantize::avx512_row),
                    COMPACTNETS_AVX2(quantize::avx2_row), quantize::portable_row);
}

}  // namespace compactnets
