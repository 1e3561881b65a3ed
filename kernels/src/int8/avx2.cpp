// AVX2. vpmaddubsw would take bytes, but adds two products of 255 * 127 in 16 bits and saturates;
// so both sides are widened to 16 bits and multiplied by vpmaddwd, which is exact. For the same 8
// channels and quad of depth that are one vpdpbusd elsewhere, 2 multiplications and 2 additions on
// ports of which only two multiply: this is what bounds the path.
//
// A lane pair is an output channel: a register holds 4 channels by a quad of depth. A tile is 6
// rows by 8 channels: 12 sums, 2 weights, a row and a product are the 16 registers. Rows are widened
// once for the 32 channels of a block, so that a quad of them is one broadcasting load.
//
// Where the CPU has VNNI for short vectors (AVX-VNNI: client CPUs without AVX-512), a lane is an
// output channel and vpdpbusd takes the bytes as they are: 6 rows by 16 channels.
#include <immintrin.h>

#include "common/unroll.hpp"
#include "int8/plain.hpp"

#define COMPACTNETS_VNNI __attribute__((target("avxvnni")))

namespace compactnets::int8 {
namespace {

constexpr int kRows = 6;
constexpr int kPart = 16;  // steps that are widened at a time: 12 KiB

inline __m256i load(const void* bytes) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}

// 16 bytes as 16-bit values.
inline __m256i widen(const std::int8_t* weight) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weight)));
}

inline __m256i widen(const std::uint8_t* bytes) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

struct Wide {
  alignas(32) std::uint16_t row[kRows][kPart * kStep];
};

template <int Rows>
inline void widen_rows(const Product& p, const std::uint8_t* x, int first, int last, Wide& wide) {
  for (int r = 0; r < Rows; ++r, x += p.x_step)
    for (int s = first; s < last; ++s)
      for (int i = 0; i < kStep; i += 16)
        _mm256_store_si256(reinterpret_cast<__m256i*>(wide.row[r] + (s - first) * kStep + i),
                           widen(x + p.offsets[s] + i));
}

// Adds the steps [first, last) for 8 channels to acc; weight: theirs, of the block's first step.
template <int Rows>
inline void add_steps(const Product& p, const Wide& wide, const std::int8_t* weight, int first,
                      int last, std::int32_t (*acc)[kColumns], int column) {
  __m256i sums[Rows][2];
  COMPACTNETS_UNROLL
  for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
  for (int s = first; s < last; ++s) {
    const std::uint16_t* rows = wide.row[0] + (s - first) * kStep;
    const std::int8_t* w = weight + s * std::int64_t{kStepBytes};
    const std::int8_t* end = w + p.quads[s] * 16 * kQuad;
    for (; w < end; rows += kQuad, w += 16 * kQuad) {
      const __m256i w0 = widen(w), w1 = widen(w + 16);
      COMPACTNETS_UNROLL
      for (int r = 0; r < Rows; ++r) {
        long long quad;
        __builtin_memcpy(&quad, rows + r * kPart * kStep, sizeof quad);
        const __m256i values = _mm256_set1_epi64x(quad);
        sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(values, w0));
        sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(values, w1));
      }
    }
  }
  COMPACTNETS_UNROLL
  for (int r = 0; r < Rows; ++r) {
    // Neighbours added: channels 0 1 4 5 | 2 3 6 7, then put in order.
    const __m256i added = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[r][0], sums[r][1]), 0xD8);
    auto* to = reinterpret_cast<__m256i*>(acc[r] + column);
    _mm256_storeu_si256(to, _mm256_add_epi32(load(to), added));
  }
}

inline const std::int8_t* column_weight(const std::int8_t* weight, int column) {
  return weight + column / 16 * kTileBytes + column % 16 * kQuad;
}

template <int Rows>
void sum_rows(const Product& p, const std::uint8_t* x, const std::int8_t* weight, int columns,
              std::int32_t (*acc)[kColumns]) {
  Wide wide;
  for (int first = 0; first < p.steps; first += kPart) {
    const int last = first + kPart < p.steps ? first + kPart : p.steps;
    widen_rows<Rows>(p, x, first, last, wide);
    for (int column = 0; column < columns; column += 8)
      add_steps<Rows>(p, wide, column_weight(weight, column), first, last, acc, column);
  }
}

template <int Rows>
COMPACTNETS_VNNI void sum_rows_vnni(const Product& p, const std::uint8_t* x,
                                    const std::int8_t* weight, int columns,
                                    std::int32_t (*acc)[kColumns]) {
  for (int column = 0; column < columns; column += 16) {
    __m256i sums[Rows][2];
    COMPACTNETS_UNROLL
    for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    for (int s = 0; s < p.steps; ++s) {
      const std::uint8_t* row = x + p.offsets[s];
      const std::uint8_t* middle = row + 3 * p.x_step;
      const std::int8_t* w = column_weight(weight, column) + s * std::int64_t{kStepBytes};
      const std::int8_t* end = w + p.quads[s] * 16 * kQuad;
      for (; w < end; row += kQuad, middle += kQuad, w += 16 * kQuad) {
        const __m256i w0 = load(w), w1 = load(w + 32);
        COMPACTNETS_UNROLL
        for (int r = 0; r < Rows; ++r) {
          int quad;
          __builtin_memcpy(&quad, (r < 3 ? row : middle) + r % 3 * p.x_step, sizeof quad);
          __m256i bytes = _mm256_set1_epi32(quad);
          asm("" : "+x"(bytes));
          sums[r][0] = _mm256_dpbusd_avx_epi32(sums[r][0], bytes, w0);
          sums[r][1] = _mm256_dpbusd_avx_epi32(sums[r][1], bytes, w1);
        }
      }
    }
    COMPACTNETS_UNROLL
    for (int r = 0; r < Rows; ++r) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc[r] + column), sums[r][0]);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc[r] + column + 8), sums[r][1]);
    }
  }
}

using SumRows = void (*)(const Product&, const std::uint8_t*, const std::int8_t*, int,
                         std::int32_t (*)[kColumns]);

void multiply_by(const SumRows* sum_rows_of, const Product& p, std::int64_t first,
                 std::int64_t last, std::int64_t first_block, std::int64_t last_block) {
  for (std::int64_t block = first_block; block < last_block; ++block) {
    const std::int8_t* weight = p.weight + block * p.block_bytes();
    const int columns = columns_of(p, block);
    Runs runs(p, first, last, kRows);
    std::int64_t position, stored;
    for (int count; runs.next(position, stored, count);) {
      std::int32_t acc[kRows][kColumns] = {};
      sum_rows_of[count - 1](p, p.image + position * p.x_step, weight, columns, acc);
      for (int r = 0; r < count; ++r)
        finish_row(p.finish, acc[r], sums_of(p, weight), block * kColumns, columns, stored + r,
                   result(p, stored + r, block * kColumns));
    }
  }
}

void multiply(const Product& p, std::int64_t first, std::int64_t last, std::int64_t first_block,
              std::int64_t last_block) {
  static constexpr SumRows kSumRows[kRows] = {sum_rows<1>, sum_rows<2>, sum_rows<3>,
                                              sum_rows<4>, sum_rows<5>, sum_rows<6>};
  multiply_by(kSumRows, p, first, last, first_block, last_block);
}

void multiply_vnni(const Product& p, std::int64_t first, std::int64_t last,
                   std::int64_t first_block, std::int64_t last_block) {
  static constexpr SumRows kSumRows[kRows] = {sum_rows_vnni<1>, sum_rows_vnni<2>,
                                              sum_rows_vnni<3>, sum_rows_vnni<4>,
                                              sum_rows_vnni<5>, sum_rows_vnni<6>};
  multiply_by(kSumRows, p, first, last, first_block, last_block);
}

// Depthwise: 32 channels in four registers of 32-bit lanes, whose upper 16 bits are 0 in x.
inline void depthwise_block(const Depthwise& t, const std::uint8_t* from, const std::int8_t* weight,
                            std::int32_t* acc) {
  __m256i sums[4];
  COMPACTNETS_UNROLL
  for (int i = 0; i < 4; ++i) sums[i] = _mm256_setzero_si256();
  for (int tap = 0; tap < t.taps; ++tap, weight += kColumns) {
    const std::uint8_t* x = from + t.offsets[tap];
    COMPACTNETS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const __m256i values = _mm256_cvtepu8_epi32(
          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x + 8 * i)));
      const __m256i weights = _mm256_cvtepi8_epi32(
          _mm_loadl_epi64(reinterpret_cast<const __m128i*>(weight + 8 * i)));
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(values, weights));
    }
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < 4; ++i)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + 8 * i), sums[i]);
}

void depthwise(const Depthwise& t, std::int64_t first, std::int64_t last) {
  depthwise_rows(t, first, last, depthwise_block);
}

}  // namespace

const Operations avx2_operations = {plain_quantize, plain_largest, plain_flip, multiply, depthwise,
                                    1e6,            2e5};
const Operations avx2_vnni_operations = {plain_quantize, plain_largest, plain_flip, multiply_vnni,
                                         depthwise,      2e6,           2e5};

}  // namespace compactnets::int8
