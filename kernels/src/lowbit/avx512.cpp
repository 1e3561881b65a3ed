// AVX-512 with VNNI. A tile is some rows of x by some blocks of outputs; a sum is a register.
//
// One row: 128 outputs (4 blocks of 4 bits, 2 of 2 bits), 8 sums; per step of 4 inputs a broadcast
// of x, a load per block, the masks, 8 vpdpbusd: for 4 bits 12 operations on the two vector ports
// for 512 products. The blocks are as many streams of memory; at 4096 inputs and outputs they come
// from the third-level cache or memory, whose bandwidth then is the bound.
// More rows: the masks of a step serve all rows of the tile, one block at a time.
// No spills in the loops over steps (objdump).
#include "lowbit/avx512.hpp"

#include "common/unroll.hpp"

namespace compactnets::lowbit {
namespace {

constexpr int kAhead = 512;  // bytes: second-level cache to first, a tenth faster at 1024 x 1024

// The lowest `fields` fields of each byte.
template <int Bits>
inline __m512i nested(__m512i bytes, int fields) {
  if (fields * Bits == 8) return bytes;
  return _mm512_and_si512(bytes, _mm512_set1_epi8(static_cast<char>((1 << (Bits * fields)) - 1)));
}

// The sum that belongs to field f alone.
template <int Bits>
inline __m512i unnest(const __m512i* sums, int field) {
  if (field == 0) return sums[0];
  return _mm512_srai_epi32(_mm512_sub_epi32(sums[field], sums[field - 1]), Bits * field);
}

template <int Bits, int Rows, int Blocks>
void multiply_tile(const Task& t, std::int64_t row, int block) {
  constexpr int kFields = 8 / Bits, kSums = Rows * Blocks * kFields;
  const std::uint8_t* weight = t.weight + block * t.block_bytes;
  const std::int8_t* x = t.x + row * t.x_step;
  const std::int64_t output = static_cast<std::int64_t>(block) * kFields * kLanes;
  __m512 totals[kSums];
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) totals[i] = _mm512_setzero_ps();
  for (int group = 0; group < t.groups; ++group) {
    __m512i sums[Rows][Blocks][kFields];
    COMPACTNETS_UNROLL
    for (int r = 0; r < Rows; ++r)
      COMPACTNETS_UNROLL
      for (int b = 0; b < Blocks; ++b)
        COMPACTNETS_UNROLL
        for (int f = 0; f < kFields; ++f) sums[r][b][f] = _mm512_setzero_si512();
    for (int step = 0; step < t.group_steps; ++step, weight += kStepBytes, x += kStepInputs) {
      __m512i four[Rows];
      COMPACTNETS_UNROLL
      for (int r = 0; r < Rows; ++r) {
        int values;
        __builtin_memcpy(&values, x + r * t.x_step, sizeof(values));
        four[r] = _mm512_set1_epi32(values);
        if (Rows == 1) asm("" : "+v"(four[r]));
      }
      COMPACTNETS_UNROLL
      for (int b = 0; b < Blocks; ++b) {
        const __m512i bytes = _mm512_loadu_si512(weight + b * t.block_bytes);
        if (Rows == 1) _mm_prefetch(weight + b * t.block_bytes + kAhead, _MM_HINT_T0);
        COMPACTNETS_UNROLL
        for (int f = 0; f < kFields; ++f) {
          const __m512i codes = nested<Bits>(bytes, f + 1);
          COMPACTNETS_UNROLL
          for (int r = 0; r < Rows; ++r)
            sums[r][b][f] = _mm512_dpbusd_epi32(sums[r][b][f], codes, four[r]);
        }
      }
    }
    COMPACTNETS_UNROLL
    for (int b = 0; b < Blocks; ++b)
      COMPACTNETS_UNROLL
      for (int f = 0; f < kFields; ++f) {
        const __m512 scale = load_scale(t, group, output + (b * kFields + f) * kLanes);
        COMPACTNETS_UNROLL
        for (int r = 0; r < Rows; ++r) {
          const __m512i excess =
              _mm512_set1_epi32(t.zero * t.x_sums[(row + r) * t.groups + group]);
          const int i = (r * Blocks + b) * kFields + f;
          totals[i] = add_group(
              totals[i], _mm512_sub_epi32(unnest<Bits>(sums[r][b], f), excess), scale);
        }
      }
  }
  COMPACTNETS_UNROLL
  for (int r = 0; r < Rows; ++r)
    COMPACTNETS_UNROLL
    for (int b = 0; b < Blocks; ++b)
      COMPACTNETS_UNROLL
      for (int f = 0; f < kFields; ++f)
        store_row(t, row + r, output + (b * kFields + f) * kLanes,
                  totals[(r * Blocks + b) * kFields + f]);
}

template <int Bits, int Rows, int Blocks>
void multiply_blocks(const Task& t, std::int64_t row) {
  int block = 0;
  for (; block + Blocks <= t.blocks; block += Blocks) multiply_tile<Bits, Rows, Blocks>(t, row, block);
  for (; block < t.blocks; ++block) multiply_tile<Bits, Rows, 1>(t, row, block);
}

// 8 to 12 sums a tile: fewer would wait for one another.
void multiply_4_bits(const Task& t) {
  std::int64_t row = 0;
  for (; row + 6 <= t.rows; row += 6) multiply_blocks<4, 6, 1>(t, row);
  switch (t.rows - row) {
    case 5: multiply_blocks<4, 1, 4>(t, row++); [[fallthrough]];  // 5 at once would spill
    case 4: return multiply_blocks<4, 4, 1>(t, row);
    case 3: return multiply_blocks<4, 3, 2>(t, row);
    case 2: return multiply_blocks<4, 2, 2>(t, row);
    case 1: return multiply_blocks<4, 1, 4>(t, row);
    default: return;
  }
}

void multiply_2_bits(const Task& t) {
  std::int64_t row = 0;
  for (; row + 3 <= t.rows; row += 3) multiply_blocks<2, 3, 1>(t, row);
  switch (t.rows - row) {
    case 2: return multiply_blocks<2, 2, 1>(t, row);
    case 1: return multiply_blocks<2, 1, 2>(t, row);
    default: return;
  }
}

std::int32_t sum(const std::int8_t* x, std::int64_t count) {
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i total = _mm256_setzero_si256();
  for (std::int64_t i = 0; i < count; i += 32)
    total = _mm256_dpbusd_epi32(total, ones,
                                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i)));
  return _mm512_reduce_add_epi32(_mm512_zextsi256_si512(total));
}

void multiply(const Task& t) { t.bits == 4 ? multiply_4_bits(t) : multiply_2_bits(t); }

}  // namespace

const Operations avx512_operations = {multiply, sum, {0, 0, 2, 0, 4}};

}  // namespace compactnets::lowbit
