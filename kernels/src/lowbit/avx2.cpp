// AVX2: vpmaddubsw multiplies unsigned codes by signed x and adds two products in 16 bits. Codes
// are at most 15, |x| at most 128: 8 steps of sums, 8 * 2 * 15 * 128 = 30720, fit 16 bits, so that
// they are widened only once per 8 steps. Nested masks would not fit; fields are shifted down.
// A tile is half a block (8 lanes) by 3 rows of 4 bits or 2 of 2 bits, whose sums of 8 steps are
// registers (objdump: three loads of spilled values a step with 2 bits; more rows spill more).
#include <immintrin.h>

#include "common/unroll.hpp"
#include "lowbit/linear.hpp"

namespace compactnets::lowbit {
namespace {

#if defined(__clang__)
#define COMPACTNETS_KEEP_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define COMPACTNETS_KEEP_ROLLED _Pragma("GCC unroll 1")
#endif

constexpr int kHalf = 8;        // lanes of a vector
constexpr int kRunSteps = 8;    // steps between widenings; divides those of every group

template <int Bits>
inline __m256i field_of(__m256i bytes, int field) {
  const __m256i mask = _mm256_set1_epi8((1 << Bits) - 1);
  return _mm256_and_si256(field ? _mm256_srli_epi16(bytes, Bits * field) : bytes, mask);
}

// Adds the products of 8 steps to sums [row][field].
template <int Bits, int Rows>
inline void add_run(const std::uint8_t* weight, const std::int8_t* x, std::int64_t x_step,
                    __m256i* sums) {
  constexpr int kFields = 8 / Bits;
  __m256i words[Rows][kFields];
  COMPACTNETS_UNROLL
  for (int r = 0; r < Rows; ++r)
    COMPACTNETS_UNROLL
    for (int f = 0; f < kFields; ++f) words[r][f] = _mm256_setzero_si256();
  COMPACTNETS_KEEP_ROLLED  // eight steps at once would spill
  for (int step = 0; step < kRunSteps; ++step, weight += kStepBytes, x += kStepInputs) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight));
    COMPACTNETS_UNROLL
    for (int f = 0; f < kFields; ++f) {
      const __m256i codes = field_of<Bits>(bytes, f);
      COMPACTNETS_UNROLL
      for (int r = 0; r < Rows; ++r) {
        int four;
        __builtin_memcpy(&four, x + r * x_step, sizeof(four));
        words[r][f] = _mm256_add_epi16(words[r][f],
                                       _mm256_maddubs_epi16(codes, _mm256_set1_epi32(four)));
      }
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
  COMPACTNETS_UNROLL
  for (int r = 0; r < Rows; ++r)
    COMPACTNETS_UNROLL
    for (int f = 0; f < kFields; ++f)
      sums[r * kFields + f] =
          _mm256_add_epi32(sums[r * kFields + f], _mm256_madd_epi16(words[r][f], ones));
}

// Eight results from `output` on of one row.
inline void store_row(const Task& t, std::int64_t row, std::int64_t output, const float* totals) {
  float* out = t.out + row * t.out_step + output;
  for (int lane = 0; lane < kHalf && output + lane < t.outputs; ++lane) {
    const float scaled = totals[lane] * t.x_scale[row];
    out[lane] = t.bias ? scaled + t.bias[output + lane] : scaled;
  }
}

inline void add_group(const Task& t, int group, std::int64_t output, __m256i dot, float* totals) {
  const float* scale = t.scale + group * t.scale_step + output;
  float dots[kHalf];
  _mm256_storeu_ps(dots, _mm256_cvtepi32_ps(dot));
  for (int lane = 0; lane < kHalf && output + lane < t.outputs; ++lane)
    totals[lane] += dots[lane] * scale[lane];
}

template <int Bits, int Rows>
void multiply_tile(const Task& t, std::int64_t row, int block, int half) {
  constexpr int kFields = 8 / Bits;
  const std::uint8_t* weight = t.weight + block * t.block_bytes + half * 32;
  const std::int8_t* x = t.x + row * t.x_step;
  const std::int64_t output = static_cast<std::int64_t>(block) * kFields * kLanes + half * kHalf;
  float totals[Rows * kFields][kHalf] = {};
  for (int group = 0; group < t.groups; ++group) {
    __m256i sums[Rows * kFields];
    for (int i = 0; i < Rows * kFields; ++i) sums[i] = _mm256_setzero_si256();
    for (int step = 0; step < t.group_steps; step += kRunSteps) {
      add_run<Bits, Rows>(weight, x, t.x_step, sums);
      weight += kRunSteps * kStepBytes;
      x += kRunSteps * kStepInputs;
    }
    for (int r = 0; r < Rows; ++r) {
      const __m256i excess = _mm256_set1_epi32(t.zero * t.x_sums[(row + r) * t.groups + group]);
      for (int f = 0; f < kFields; ++f)
        add_group(t, group, output + f * kLanes,
                  _mm256_sub_epi32(sums[r * kFields + f], excess), totals[r * kFields + f]);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int f = 0; f < kFields; ++f)
      store_row(t, row + r, output + f * kLanes, totals[r * kFields + f]);
}

template <int Bits>
void multiply_rows(const Task& t) {
  constexpr int kRows = Bits == 4 ? 3 : 2;
  for (int block = 0; block < t.blocks; ++block) {
    std::int64_t row = 0;
    for (; row + kRows <= t.rows; row += kRows)
      for (int half = 0; half < 2; ++half) multiply_tile<Bits, kRows>(t, row, block, half);
    for (; row < t.rows; ++row)
      for (int half = 0; half < 2; ++half) multiply_tile<Bits, 1>(t, row, block, half);
  }
}

void multiply(const Task& t) { t.bits == 4 ? multiply_rows<4>(t) : multiply_rows<2>(t); }

std::int32_t sum(const std::int8_t* x, std::int64_t count) {
  return portable_operations.sum(x, count);
}

}  // namespace

const Operations avx2_operations = {multiply, sum, {0, 0, 1, 0, 2}};

}  // namespace compactnets::lowbit
