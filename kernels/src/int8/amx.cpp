// The matrix unit: 32 positions by 32 columns at a time (common/amx.hpp).
#include "common/amx.hpp"
#include "common/unroll.hpp"
#include "int8/vector512.hpp"

namespace compactnets::int8 {
namespace {

constexpr int kTileRows = 16;

template <bool kBytes, bool kRowScale>
void finish_rows(const Product& p, const BlockFinisher& finisher, const std::int32_t* acc,
                 std::int64_t position, int count) {
  std::int64_t row = position / p.pitch, x = position % p.pitch;
  for (int r = 0; r < count; ++r, acc += kColumns) {
    if (x < p.width)
      finisher.store<kBytes, kRowScale>(_mm512_load_si512(acc), _mm512_load_si512(acc + 16),
                                        row * p.width + x);
    if (++x == p.pitch) {
      x = 0;
      ++row;
    }
  }
}

template <bool kBytes, bool kRowScale>
void multiply_as(const Product& p, std::int64_t first, std::int64_t last, std::int64_t first_block,
                 std::int64_t last_block) {
  const FullTiles tiles;
  alignas(64) std::int32_t acc[2 * kTileRows * kColumns];
  for (std::int64_t block = first_block; block < last_block; ++block) {
    const std::int8_t* weight = p.weight + block * p.block_bytes();
    const BlockFinisher finisher(p, block);
    for (std::int64_t position = first; position < last; position += 2 * kTileRows) {
      // Tiles read whole: the last ones begin earlier and give some rows again.
      const std::int64_t end = p.positions - kTileRows;
      const std::int64_t upper = position < end ? position : end;
      const std::int64_t second = position + kTileRows < last ? position + kTileRows : upper;
      const std::int64_t lower = second < end ? second : end;
      multiply_block<false>(p.image + upper * p.x_step, p.image + lower * p.x_step, p.x_step,
                            p.offsets, p.steps, weight, acc, kColumns);
      const std::int64_t left = last - position;
      finish_rows<kBytes, kRowScale>(p, finisher, acc + (position - upper) * kColumns, position,
                                     left < kTileRows ? static_cast<int>(left) : kTileRows);
      if (left > kTileRows)
        finish_rows<kBytes, kRowScale>(
            p, finisher, acc + (kTileRows + second - lower) * kColumns, second,
            left < 2 * kTileRows ? static_cast<int>(left - kTileRows) : kTileRows);
    }
  }
}

void multiply(const Product& p, std::int64_t first, std::int64_t last, std::int64_t first_block,
              std::int64_t last_block) {
  if (p.positions < kTileRows) return multiply_avx512(p, first, last, first_block, last_block);
  const auto run = p.finish.bytes
                       ? (p.finish.row_scale ? multiply_as<true, true> : multiply_as<true, false>)
                       : (p.finish.row_scale ? multiply_as<false, true> : multiply_as<false, false>);
  run(p, first, last, first_block, last_block);
}

}  // namespace

const Operations amx_operations = {plain_quantize, plain_largest, plain_flip, multiply,
                                   plain_depthwise};

}  // namespace compactnets::int8
