// AVX2. vpmaddubsw would take bytes, but adds two products of 255 * 127 in 16 bits and saturates;
// so both sides are widened to 16 bits and multiplied by vpmaddwd, which is exact.
//
// A lane pair is an output channel: a register holds 4 channels by a quad of depth as 16-bit
// values. A tile is 4 rows by 8 channels (2 registers) -- see kTile.
#include <immintrin.h>

#include "common/unroll.hpp"
#include "int8/plain.hpp"

namespace compactnets::int8 {
namespace {

constexpr int kRows = 6;

// Four bytes of a row as 16-bit values, four times.
inline __m256i broadcast(const std::uint8_t* quad) {
  int bytes;
  __builtin_memcpy(&bytes, quad, sizeof bytes);
  return _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(bytes)));
}

// 4 channels by a quad of weights, as 16-bit values.
inline __m256i widen(const std::int8_t* weight) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weight)));
}

// Sums of 8 channels (from lane `channel` of a tile of 16) for Rows rows.
template <int Rows>
inline void sum_rows(const Product& p, const std::uint8_t* x, const std::int8_t* weight,
                     std::int32_t (*acc)[kColumns]) {
  __m256i sums[Rows][2];
  COMPACTNETS_UNROLL
  for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
  for (int s = 0; s < p.steps; ++s, weight += kStepBytes) {
    const std::uint8_t* row = x + p.offsets[s];
    const std::int8_t* w = weight;
    for (int quad = 0; quad < p.quads[s]; ++quad, row += kQuad, w += 16 * kQuad) {
      const __m256i w0 = widen(w), w1 = widen(w + 16);
      COMPACTNETS_UNROLL
      for (int r = 0; r < Rows; ++r) {
        const __m256i bytes = broadcast(row + r * p.x_step);
        sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(bytes, w0));
        sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(bytes, w1));
      }
    }
  }
  COMPACTNETS_UNROLL
  for (int r = 0; r < Rows; ++r) {
    const __m256i added = _mm256_hadd_epi32(sums[r][0], sums[r][1]);  // channels 0 1 4 5, 2 3 6 7
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc[r]), _mm256_permute4x64_epi64(added, 0xD8));
  }
}

template <int Rows>
inline void multiply_rows(const Product& p, std::int64_t block, std::int64_t position,
                          std::int64_t stored) {
  const std::int8_t* weight = p.weight + block * p.block_bytes();
  const int columns = columns_of(p, block);
  std::int32_t acc[Rows][kColumns];
  for (int c = 0; c < columns; c += 8)
    sum_rows<Rows>(p, p.image + position * p.x_step,
                   weight + c / 16 * kTileBytes + c % 16 * kQuad,
                   reinterpret_cast<std::int32_t (*)[kColumns]>(&acc[0][c]));
  for (int r = 0; r < Rows; ++r)
    finish_row(p.finish, acc[r], sums_of(p, weight), block * kColumns, columns, stored + r,
               result(p, stored + r, block * kColumns));
}

void multiply(const Product& p, std::int64_t first, std::int64_t last, std::int64_t first_block,
              std::int64_t last_block) {
  for (std::int64_t block = first_block; block < last_block; ++block) {
    Runs runs(p, first, last, kRows);
    std::int64_t position, stored;
    for (int count; runs.next(position, stored, count);) {
      switch (count) {
        case 6: multiply_rows<6>(p, block, position, stored); break;
        case 5: multiply_rows<5>(p, block, position, stored); break;
        case 4: multiply_rows<4>(p, block, position, stored); break;
        case 3: multiply_rows<3>(p, block, position, stored); break;
        case 2: multiply_rows<2>(p, block, position, stored); break;
        case 1: multiply_rows<1>(p, block, position, stored); break;
      }
    }
  }
}

}  // namespace

const Operations avx2_operations = {plain_quantize, plain_largest, plain_flip, multiply,
                                    plain_depthwise};

}  // namespace compactnets::int8
