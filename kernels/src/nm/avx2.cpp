// AVX2: vpshufb gathers only from 16 bytes. Where all indices of a quad point into one such part of
// the 64 inputs (2:4 and 1:4 always, as the weights stand in the order of their inputs) one vpshufb
// does; else four, each on its part, whose other lanes are zero, are combined.
// vpmaddubsw adds two products in 16 bits and would saturate for u8 times s8. The inputs are therefore
// made signed (code - 128, taken back in the sums), and |x| * (w with the sign of x) fits:
// 2 * 128 * 127 = 32512.
// A tile is 4 pixels by 8 outputs; loads of inputs are broadcasts of 16 bytes.
#include <immintrin.h>

#include "common/unroll.hpp"
#include "nm/sparse.hpp"

namespace compactnets::nm {
namespace {

constexpr int kTile = 4, kHalf = 8, kPart = 16, kParts = 4;

inline __m256i load(const std::uint8_t* bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

// 16 inputs of a pixel, in both halves of a register.
inline __m256i part_of(const std::uint8_t* from, int part) {
  return _mm256_broadcastsi128_si256(
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + part * kPart)));
}

// The part that all 32 indices point into, or -1.
inline int common_part(__m256i index) {
  const __m256i parts = _mm256_and_si256(index, _mm256_set1_epi8(0x30));
  const __m256i first = _mm256_broadcastb_epi8(_mm256_castsi256_si128(parts));
  if (_mm256_movemask_epi8(_mm256_cmpeq_epi8(parts, first)) != -1) return -1;
  return _mm_cvtsi128_si32(_mm256_castsi256_si128(parts)) >> 4 & 3;
}

// Indices that point into `part` stay, others get the bit that makes vpshufb give 0.
inline __m256i index_within(__m256i index, int part) {
  const __m256i mine =
      _mm256_cmpeq_epi8(_mm256_and_si256(index, _mm256_set1_epi8(0x30)),
                        _mm256_set1_epi8(static_cast<char>(part * kPart)));
  return _mm256_or_si256(_mm256_andnot_si256(mine, _mm256_set1_epi8(-128)), index);
}

// sum + products of 4 codes less 128 with 4 weights, per lane.
inline __m256i add_products(__m256i sum, __m256i codes, __m256i values) {
  const __m256i x = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(values, x));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <int Pixels>
inline void add_quad(const std::uint8_t* from, std::int64_t step, __m256i index, __m256i values,
                     __m256i* sums) {
  const int part = common_part(index);
  if (part >= 0) {
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pixels; ++p)
      sums[p] = add_products(
          sums[p], _mm256_shuffle_epi8(part_of(from + p * step, part), index), values);
    return;
  }
  __m256i within[kParts];
  COMPACTNETS_UNROLL
  for (int i = 0; i < kParts; ++i) within[i] = index_within(index, i);
  COMPACTNETS_UNROLL
  for (int p = 0; p < Pixels; ++p) {
    __m256i codes = _mm256_setzero_si256();
    COMPACTNETS_UNROLL
    for (int i = 0; i < kParts; ++i)
      codes = _mm256_or_si256(
          codes, _mm256_shuffle_epi8(part_of(from + p * step, i), within[i]));
    sums[p] = add_products(sums[p], codes, values);
  }
}

template <int Pixels>
void multiply_half(const Task& t, std::int64_t pixel, std::int64_t first) {
  const std::uint8_t* x = t.x + pixel * t.pixel_step;
  const std::uint8_t* weight =
      t.weight + first / kLanes * t.chunks * t.quads * kQuadBytes + first % kLanes * 4;
  __m256i sums[Pixels], total = _mm256_setzero_si256();  // total: of the weights
  const __m256i ones = _mm256_set1_epi8(1);
  COMPACTNETS_UNROLL
  for (int p = 0; p < Pixels; ++p) sums[p] = _mm256_setzero_si256();
  for (int chunk = 0; chunk < t.chunks; ++chunk)
    for (int quad = 0; quad < t.quads; ++quad, weight += kQuadBytes) {
      const __m256i values = load(weight + kChunk);
      const __m256i index = _mm256_and_si256(load(weight), _mm256_set1_epi8(kChunk - 1));
      add_quad<Pixels>(x + t.offsets[chunk], t.pixel_step, index, values, sums);
      total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_maddubs_epi16(ones, values),
                                                        _mm256_set1_epi16(1)));
    }
  total = _mm256_slli_epi32(total, 7);  // the 128 taken from each input
  COMPACTNETS_UNROLL
  for (int p = 0; p < Pixels; ++p) {
    std::int32_t dots[kHalf];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(dots), _mm256_add_epi32(sums[p], total));
    const float x_scale = t.x_scale[(pixel + p) * t.x_scale_step];
    float* out = t.out + (pixel + p) * t.out_step;
    for (int lane = 0; lane < kHalf && first + lane < t.outputs; ++lane) {
      const std::int64_t o = first + lane;
      const float scaled = static_cast<float>(dots[lane] - t.excess[o]) * t.scale[o] * x_scale;
      out[o] = t.bias ? scaled + t.bias[o] : scaled;
    }
  }
}

void multiply(const Task& t) {
  std::int64_t p = 0;
  for (; p + kTile <= t.pixels; p += kTile)
    for (std::int64_t first = 0; first < t.outputs; first += kHalf)
      multiply_half<kTile>(t, p, first);
  for (; p < t.pixels; ++p)
    for (std::int64_t first = 0; first < t.outputs; first += kHalf) multiply_half<1>(t, p, first);
}

}  // namespace

const Multiply avx2_multiply = multiply;

}  // namespace compactnets::nm
