// The matrix unit, for many rows of x: a block's codes become int8 tiles once (zero taken off on the
// way: 4 operations per 128 weights), then every 32 rows of x are multiplied with them. What 4 bits
// save is memory; the arithmetic is int8's. For few rows the vector path is faster, as it does
// not write the weights out. Inputs are taken in parts of 512, whose tiles (16 KiB) are overwritten
// by those of the next part while they are still in the first-level cache.
// With scales per group the sums leave the tiles after each group and are gathered as floats; a
// group of 32 inputs fills half a tile, the other half is zeros.
#include "lowbit/avx512.hpp"

#include "common/amx.hpp"
#include "common/unroll.hpp"
#include "common/workspace.hpp"

namespace compactnets::lowbit {
namespace {

constexpr int kFewRows = 6;          // up to here the vector path is as fast
constexpr int kSide = 32;            // rows and columns of a block of products
constexpr int kTileSteps = 16;       // steps of 4 inputs in one tile
constexpr int kPartTiles = 8;         // of the inputs at a time, see below
constexpr int kPartSteps = kPartTiles * kTileSteps;
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
  std::uint8_t* tiles;     // of one part of the inputs
  std::int32_t* products;  // 32 x 32 of each 32 rows: sums of the parts so far
  float* totals;           // 32 x 32 of each 32 rows: scaled sums of the groups so far
};

// Offsets of the tiles of x along the inputs of a part.
constexpr std::int32_t kOffsets[kPartTiles] = {0, 64, 128, 192, 256, 320, 384, 448};

inline std::int64_t valid_rows(const Task& t, std::int64_t row) {
  return t.rows - row < kSide ? t.rows - row : kSide;
}

// Adds a part's products to the sums of 32 rows by 32 outputs; x: the part's inputs of those rows.
void multiply_part(const Task& t, const std::int8_t* x, int tiles, bool first, const Scratch& s) {
  const auto multiply = first ? multiply_block<true, false> : multiply_block<true, true>;
  multiply(x, x + 16 * t.x_step, t.x_step, kOffsets, tiles, s.tiles, s.products, kSide);
}

void store_sums(const Task& t, std::int64_t row, std::int64_t output, const Scratch& s) {
  const __m512 left = load_scale(t, 0, output), right = load_scale(t, 0, output + 16);
  const __m512 zero = _mm512_setzero_ps();
  for (std::int64_t r = 0; r < valid_rows(t, row); ++r) {
    const std::int32_t* dots = s.products + r * kSide;
    store_row(t, row + r, output, add_group(zero, _mm512_load_si512(dots), left));
    store_row(t, row + r, output + 16, add_group(zero, _mm512_load_si512(dots + 16), right));
  }
}

// The groups of a part, each from its tiles (or halves of them) to the totals of 32 rows.
void multiply_groups(const Task& t, std::int64_t row, std::int64_t output, int first_step,
                     int steps, const Scratch& s) {
  const int units = (t.group_steps + kTileSteps - 1) / kTileSteps;
  const std::int64_t rows = valid_rows(t, row);
  int unit = 0;
  for (int step = first_step; step < first_step + steps; step += t.group_steps, unit += units) {
    const int group = step / t.group_steps;
    if (group == t.groups) return;  // half a tile of padding
    const std::int8_t* x = t.x + row * t.x_step + step * kStepInputs / kPadding * kPadding;
    multiply_block<true>(x, x + 16 * t.x_step, t.x_step, kOffsets, units,
                         s.tiles + unit * kPairBytes, s.products, kSide);
    const __m512 left = load_scale(t, group, output), right = load_scale(t, group, output + 16);
    for (std::int64_t r = 0; r < rows; ++r) {
      float* totals = s.totals + r * kSide;
      const std::int32_t* dots = s.products + r * kSide;
      const __m512 zero = _mm512_setzero_ps();
      const __m512 before = group ? _mm512_load_ps(totals) : zero;
      const __m512 before16 = group ? _mm512_load_ps(totals + 16) : zero;
      _mm512_store_ps(totals, add_group(before, _mm512_load_si512(dots), left));
      _mm512_store_ps(totals + 16, add_group(before16, _mm512_load_si512(dots + 16), right));
    }
  }
}

void store_totals(const Task& t, std::int64_t row, std::int64_t output, const Scratch& s) {
  for (std::int64_t r = 0; r < valid_rows(t, row); ++r)
    for (int half = 0; half < kSide; half += 16)
      store_row(t, row + r, output + half, _mm512_load_ps(s.totals + r * kSide + half));
}

// All rows by the 32 outputs of one pair of fields, part by part of the inputs.
template <int Bits>
void multiply_pair(const Task& t, const std::uint8_t* weight, int pair, std::int64_t output,
                   const Scratch& scratch) {
  const int steps = static_cast<int>(t.block_bytes / kStepBytes);
  const bool grouped = t.groups > 1, spread = grouped && t.group_steps < kTileSteps;
  for (int step = 0; step < steps; step += kPartSteps) {
    const int count = steps - step < kPartSteps ? steps - step : kPartSteps;
    expand<Bits>(weight + step * kStepBytes, pair, t.zero, count, spread, scratch.tiles);
    Scratch s = scratch;
    for (std::int64_t row = 0; row < t.rows; row += kSide) {
      if (grouped) {
        multiply_groups(t, row, output, step, count, s);
        if (step + count == steps) store_totals(t, row, output, s);
      } else {
        multiply_part(t, t.x + row * t.x_step + step * kStepInputs, count / kTileSteps, step == 0, s);
        if (step + count == steps) store_sums(t, row, output, s);
      }
      s.products += kSide * kSide;
      s.totals += kSide * kSide;
    }
  }
}

template <int Bits>
void multiply_many(const Task& t) {
  constexpr int kPairs = 4 / Bits;  // pairs of fields in a byte: 1 or 2
  const std::int64_t sums = (t.rows + kSide - 1) / kSide * kSide * kSide;
  Scratch s{};
  s.tiles = static_cast<std::uint8_t*>(workspace_bytes(Slot::weights, 2 * kPartTiles * kPairBytes));
  s.products = static_cast<std::int32_t*>(workspace_bytes(Slot::products, 2 * 4 * sums));
  s.totals = reinterpret_cast<float*>(s.products + sums);
  const FullTiles tiles;
  for (int block = 0; block < t.blocks; ++block)
    for (int pair = 0; pair < kPairs; ++pair) {
      const std::int64_t output = (static_cast<std::int64_t>(block) * kPairs + pair) * kSide;
      if (output >= t.outputs) break;
      multiply_pair<Bits>(t, t.weight + block * t.block_bytes, pair, output, s);
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

const Operations amx_operations = {multiply, sum, {0, 0, 2, 0, 4}};

}  // namespace compactnets::lowbit
