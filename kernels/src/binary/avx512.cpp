// AVX-512 with VPOPCNTDQ. A lane is an output channel; a tile is up to 8 pixels by 16 channels.
//
// Per pair of words and pixel: xor, two ternary logic operations, popcount, add: 5 vector
// operations for 2 x 16 x 32 bits, the image's words coming in as broadcast operands of the first
// two. A pixel holds two registers (twos, ones): 8 pixels take 16 of the 32, the pair's weights 2;
// nothing spills. More pixels would not save anything: weights are read once per 8 pixels already.
#include <immintrin.h>

#include "binary/conv.hpp"
#include "common/unroll.hpp"

namespace compactnets::binary {
namespace {

constexpr int kTile = 8;

inline __mmask16 first_lanes(int count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

// Bit i: not (x[i] + input_shift[i] >= 0), of `count` <= 16 values; no others are read.
inline std::uint32_t negative16(const float* x, const float* input_shift, int count) {
  if (count <= 0) return 0;
  const __mmask16 lanes = first_lanes(count);
  __m512 value = _mm512_maskz_loadu_ps(lanes, x);
  if (input_shift) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(lanes, input_shift));
  return _mm512_mask_cmp_ps_mask(lanes, value, _mm512_setzero_ps(), _CMP_NGE_UQ);
}

inline std::uint32_t negative32(const float* x, const float* input_shift, int count) {
  return negative16(x, input_shift, count) |
         negative16(x + 16, input_shift ? input_shift + 16 : nullptr, count - 16) << 16;
}

void pack(const float* x, std::int64_t x_step, std::int64_t pixels, const float* input_shift,
          const PixelLayout& layout, std::uint32_t* packed) {
  for (std::int64_t p = 0; p < pixels; ++p, x += x_step) {
    const float* values = x;
    const float* offsets = input_shift;
    for (int g = 0; g < layout.groups; ++g) {
      std::uint32_t before = 0;
      for (int word = 0; word < layout.words; ++word) {
        const int done = word * kWordBits;
        const std::uint32_t bits =
            negative32(values + done, offsets ? offsets + done : nullptr, layout.channels - done);
        packed[word] = word % 2 ? bits ^ before : bits;
        before = bits;
      }
      packed += layout.words;
      values += layout.channels;
      if (offsets) offsets += layout.channels;
    }
  }
}

inline __m512i broadcast(const std::uint32_t* word) {
  return _mm512_set1_epi32(static_cast<int>(*word));
}

inline __m512i load(const void* words) { return _mm512_loadu_si512(words); }

// The dot product of each lane; twos counts for two, as ones holds what has no partner yet.
inline __m512i dots(const RowTask& task, int pixel, __m512i twos, __m512i ones) {
  const __m512i base = load(task.base + task.column_class[pixel] * task.base_step);
  const __m512i differing =
      _mm512_add_epi32(_mm512_add_epi32(twos, twos), _mm512_popcnt_epi32(ones));
  return _mm512_sub_epi32(base, _mm512_add_epi32(differing, differing));
}

template <int Pixels>
inline void store_tile(const RowTask& task, int first_pixel, const __m512i (&twos)[Pixels],
                       const __m512i (&ones)[Pixels]) {
  const Result& result = task.result;
  const __mmask16 lanes = first_lanes(result.channels);
  if (result.threshold) {
    const __m512i threshold = load(result.threshold);
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pixels; ++p)
      result.bits[(first_pixel + p) * result.bits_step] = _mm512_mask_cmplt_epi32_mask(
          lanes, dots(task, first_pixel + p, twos[p], ones[p]), threshold);
    return;
  }
  const __m512 scale = _mm512_loadu_ps(result.scale), bias = _mm512_loadu_ps(result.bias);
  COMPACTNETS_UNROLL
  for (int p = 0; p < Pixels; ++p) {
    const __m512 dot = _mm512_cvtepi32_ps(dots(task, first_pixel + p, twos[p], ones[p]));
    _mm512_mask_storeu_ps(result.out + (first_pixel + p) * result.out_step, lanes,
                          _mm512_add_ps(_mm512_mul_ps(dot, scale), bias));
  }
}

template <int Pixels>
inline void convolve_tile(const RowTask& task, int first_pixel) {
  constexpr int kXor3 = 0x96;         // a ^ b ^ c
  constexpr int kCarry = 0xD4;        // (x1, ones, next): ones == next ? x1 : ones
  const std::uint32_t* image = task.image + first_pixel * task.pixel_step;
  const std::int64_t step = task.pixel_step;
  const std::uint32_t* weight = task.weight;
  __m512i twos[Pixels], ones[Pixels];
  COMPACTNETS_UNROLL
  for (int p = 0; p < Pixels; ++p) twos[p] = ones[p] = _mm512_setzero_si512();

  for (int i = 0; i < task.pairs; ++i, weight += 2 * kLanes) {
    const __m512i w1 = load(weight), w12 = load(weight + kLanes);
    const std::uint32_t* words = image + task.pair_offsets[i];
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pixels; ++p) {
      const __m512i x1 = _mm512_xor_si512(w1, broadcast(words + p * step));
      const __m512i next =
          _mm512_ternarylogic_epi32(ones[p], w12, broadcast(words + p * step + 1), kXor3);
      const __m512i carry = _mm512_ternarylogic_epi32(x1, ones[p], next, kCarry);
      ones[p] = next;
      twos[p] = _mm512_add_epi32(twos[p], _mm512_popcnt_epi32(carry));
    }
  }
  for (int i = 0; i < task.singles; ++i, weight += kLanes) {
    const __m512i w = load(weight);
    const std::uint32_t* words = image + task.single_offsets[i];
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pixels; ++p) {
      const __m512i x1 = _mm512_xor_si512(w, broadcast(words + p * step));
      twos[p] = _mm512_add_epi32(twos[p], _mm512_popcnt_epi32(_mm512_and_si512(ones[p], x1)));
      ones[p] = _mm512_xor_si512(ones[p], x1);
    }
  }

  store_tile<Pixels>(task, first_pixel, twos, ones);
}

void convolve_row(const RowTask& task) {
  // Tiles of 7 where they come out even (56, 28, 14, 7 pixels), else of 8 and a rest.
  const int tile = task.pixels % kTile != 0 && task.pixels % 7 == 0 ? 7 : kTile;
  int p = 0;
  if (tile == 7)
    for (; p < task.pixels; p += 7) convolve_tile<7>(task, p);
  for (; p + kTile <= task.pixels; p += kTile) convolve_tile<kTile>(task, p);
  switch (task.pixels - p) {
    case 7: return convolve_tile<7>(task, p);
    case 6: return convolve_tile<6>(task, p);
    case 5: return convolve_tile<5>(task, p);
    case 4: return convolve_tile<4>(task, p);
    case 3: return convolve_tile<3>(task, p);
    case 2: return convolve_tile<2>(task, p);
    case 1: return convolve_tile<1>(task, p);
    default: return;
  }
}

}  // namespace

const Operations avx512_operations = {pack, convolve_row};

}  // namespace compactnets::binary
