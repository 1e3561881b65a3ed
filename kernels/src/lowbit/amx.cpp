// The matrix unit, for many rows of x: a block's codes become int8 tiles once (zero taken off on the
// way: 4 operations per 128 weights), then every 32 rows of x are multiplied with them. What 4 bits
// save is memory; the arithmetic is int8's. For few rows the vector path is faster, as it does
// not write the weights out.
// With scales per group the sums leave the tiles after each group and are gathered as floats; a
// group of 32 inputs fills half a tile, the other half is zeros.
#include "lowbit/avx512.hpp"

#include "common/amx.hpp"
#include "common/unroll.hpp"
#include "common/workspace.hpp"

namespace compactnets::lowbit {
namespace {

constexpr int kFewRows = 4;          // up to here the vector path is as fast
constexpr int kSide = 32;            // rows and columns of a block of products
constexpr int kTileSteps = 16;       // steps of 4 inputs in one tile
constexpr int kRunSteps = 8;         // steps of a group of 32 inputs
constexpr int kPairBytes = 2048;     // two tiles, 32 outputs

// The codes of one field less zero.
template <int Bits>
inline __m512i field_of(__m512i bytes, int field, __m512i zero) {
  const __m512i mask = _mm512_set1_epi8((1 << Bits) - 1);
  const __m512i low = field ? _mm512_srli_epi16(bytes, static_cast<unsigned>(Bits * field)) : bytes;
  return _mm512_sub_epi8(_mm512_and_si512(low, mask), zero);
}

// Fields 2 * pair and 2 * pair + 1 of `steps` steps from weight on, as two tiles per 16 steps.
// spread: 8 steps fill a half of each tile in turn, the other half becomes zeros.
template <int Bits>
void expand(const std::uint8_t* weight, int pair, int zero, int steps, bool spread,
            std::uint8_t* tiles) {
  const __m512i zeros = _mm512_set1_epi8(static_cast<char>(zero));
  for (int step = 0; step < steps; ++step) {
    const __m512i bytes = _mm512_loadu_si512(weight + step * kStepBytes);
    const int unit = spread ? step / kRunSteps : step / kTileSteps;
    std::uint8_t* to = tiles + unit * kPairBytes + step % kTileSteps * kStepBytes;
    _mm512_store_si512(to, field_of<Bits>(bytes, 2 * pair, zeros));
    _mm512_store_si512(to + 1024, field_of<Bits>(bytes, 2 * pair + 1, zeros));
    if (!spread) continue;
    std::uint8_t* other = tiles + unit * kPairBytes + (step + kRunSteps) % kTileSteps * kStepBytes;
    _mm512_store_si512(other, _mm512_setzero_si512());
    _mm512_store_si512(other + 1024, _mm512_setzero_si512());
  }
}

struct Scratch {
  std::uint8_t* tiles;
  std::int32_t* products;  // 32 x 32
  float* totals;           // 32 x 32
  std::int32_t* offsets;   // of the tiles of x along the inputs
};

inline std::int64_t valid_rows(const Task& t, std::int64_t row) {
  return t.rows - row < kSide ? t.rows - row : kSide;
}

// The 32 x 32 products of all inputs, scaled and stored.
void multiply_channels(const Task& t, std::int64_t row, std::int64_t output, const Scratch& s) {
  const std::int8_t* x = t.x + row * t.x_step;
  multiply_block<true>(x, x + 16 * t.x_step, t.x_step, s.offsets, t.group_steps / kTileSteps,
                       s.tiles, s.products, kSide);
  for (std::int64_t r = 0; r < valid_rows(t, row); ++r)
    for (int half = 0; half < kSide; half += 16) {
      const __m512i dot = _mm512_load_si512(s.products + r * kSide + half);
      store_row(t, row + r, output + half,
                add_group(_mm512_setzero_ps(), dot, load_scale(t, 0, output + half)));
    }
}

void multiply_groups(const Task& t, std::int64_t row, std::int64_t output, const Scratch& s) {
  const int group_inputs = t.group_steps * kStepInputs;
  const int units = (t.group_steps + kTileSteps - 1) / kTileSteps;
  const std::int64_t rows = valid_rows(t, row);
  for (int i = 0; i < kSide * kSide; i += 16)
    _mm512_store_ps(s.totals + i, _mm512_setzero_ps());
  for (int group = 0; group < t.groups; ++group) {
    const std::int8_t* x = t.x + row * t.x_step + group * group_inputs / kPadding * kPadding;
    multiply_block<true>(x, x + 16 * t.x_step, t.x_step, s.offsets, units,
                         s.tiles + group * units * kPairBytes, s.products, kSide);
    const __m512 left = load_scale(t, group, output), right = load_scale(t, group, output + 16);
    for (std::int64_t r = 0; r < rows; ++r) {
      float* totals = s.totals + r * kSide;
      const std::int32_t* dots = s.products + r * kSide;
      _mm512_store_ps(totals, add_group(_mm512_load_ps(totals), _mm512_load_si512(dots), left));
      _mm512_store_ps(totals + 16, add_group(_mm512_load_ps(totals + 16),
                                             _mm512_load_si512(dots + 16), right));
    }
  }
  for (std::int64_t r = 0; r < rows; ++r)
    for (int half = 0; half < kSide; half += 16)
      store_row(t, row + r, output + half, _mm512_load_ps(s.totals + r * kSide + half));
}

template <int Bits>
void multiply_many(const Task& t) {
  constexpr int kPairs = 4 / Bits;  // pairs of fields in a byte: 1 or 2
  const int steps = static_cast<int>(t.block_bytes / kStepBytes);
  const bool spread = t.groups > 1 && t.group_steps < kTileSteps;
  const std::int64_t units = steps / (spread ? kRunSteps : kTileSteps);
  Scratch s{};
  s.tiles = static_cast<std::uint8_t*>(workspace_bytes(Slot::weights, units * kPairBytes));
  s.products = static_cast<std::int32_t*>(
      workspace_bytes(Slot::products, 4 * (2 * kSide * kSide + steps / kTileSteps)));
  s.totals = reinterpret_cast<float*>(s.products + kSide * kSide);
  s.offsets = s.products + 2 * kSide * kSide;
  for (int i = 0; i < steps / kTileSteps; ++i) s.offsets[i] = i * kPadding;
  const FullTiles tiles;
  for (int block = 0; block < t.blocks; ++block)
    for (int pair = 0; pair < kPairs; ++pair) {
      const std::int64_t output = (static_cast<std::int64_t>(block) * kPairs + pair) * kSide;
      if (output >= t.outputs) break;
      expand<Bits>(t.weight + block * t.block_bytes, pair, t.zero, steps, spread, s.tiles);
      for (std::int64_t row = 0; row < t.rows; row += kSide)
        t.groups == 1 ? multiply_channels(t, row, output, s) : multiply_groups(t, row, output, s);
    }
}

void multiply(const Task& t) {
  if (t.rows <= kFewRows) return avx512_operations.multiply(t);
  t.bits == 4 ? multiply_many<4>(t) : multiply_many<2>(t);
}

std::int32_t sum(const std::int8_t* x, std::int64_t count) {
  return avx512_operations.sum(x, count);
}

}  // namespace

const Operations amx_operations = {multiply, sum, {0, 0, 1, 0, 1}};

}  // namespace compactnets::lowbit
