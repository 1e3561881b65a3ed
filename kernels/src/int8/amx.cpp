// The matrix unit (common/amx.hpp says what a tile is). A step takes 64 bytes of each row; four
// tiles of sums take four products a step, 64 cycles in which the loads of the operands hide.
//
// Two forms. Tall: 4 tiles of rows (64 positions) by 16 columns. The positions' bytes stay in the
// first-level cache, where a convolution's taps find them again, and weights stream past once per
// 64 positions: 1 KiB a step, a quarter of what the second-level cache can give. Wide: 2 tiles of
// rows by 32 columns, for rows too long to stay: both operands come in at 2 KiB a step.
//
// Turning sums into results takes about as many vector operations as there are cycles in four
// steps, and as many stores as a tile has rows: with little depth that, and not the matrix unit, is
// the bound. A tile's results are finished a few rows at a time between the steps of the next one.
#include "common/amx.hpp"
#include "common/unroll.hpp"
#include "int8/vector512.hpp"

namespace compactnets::int8 {
namespace {

constexpr int kTileRows = 16;
constexpr int kTiles = 4;                 // of sums
constexpr int kChunk = 8;                 // rows that are finished at a time, without branches
constexpr std::int64_t kNear = 36 << 10;  // bytes that stay in the first-level cache

// Up to four tiles of rows: where they begin; which rows are stored, and where. The list is filled
// up to whole chunks by its last entry, which is then stored more than once.
struct Rows {
  const std::uint8_t* tile[kTiles] = {};
  int tiles = 0, chunks = 0;
  std::int32_t row[kTiles * kTileRows];
  std::int64_t stored[kTiles * kTileRows];
};

// Tiles are read whole: the last one of the image begins earlier, and gives some rows again.
void gather(const Product& p, std::int64_t first, std::int64_t last, int tiles, Rows& rows) {
  int count = 0;
  rows.tiles = 0;
  std::int64_t y = first / p.pitch, x = first % p.pitch;
  const std::int64_t end = p.positions - kTileRows;
  for (int t = 0; t < tiles && first < last; ++t, first += kTileRows) {
    const std::int64_t from = first < end ? first : end;
    rows.tile[rows.tiles++] = p.image + from * p.x_step;
    const std::int64_t stop = first + kTileRows < last ? first + kTileRows : last;
    std::int64_t row = t * kTileRows + first - from;
    for (std::int64_t position = first; position < stop; ++position, ++row) {
      rows.row[count] = static_cast<std::int32_t>(row);
      rows.stored[count] = y * p.width + x;
      count += x < p.width;
      if (++x == p.pitch) {
        x = 0;
        ++y;
      }
    }
  }
  rows.chunks = (count + kChunk - 1) / kChunk;
  for (int i = count; i < rows.chunks * kChunk; ++i) {
    rows.row[i] = rows.row[count - 1];
    rows.stored[i] = rows.stored[count - 1];
  }
}

// A chunk of rows, 16 columns. Kept apart (noinline), as the products below are: merged into one
// function the compiler runs out of registers for addresses.
template <bool kBytes, bool kRowScale>
[[gnu::noinline]] void finish_chunk(const Product& p, const std::int32_t* sums, const Rows& rows,
                                    int first, std::int64_t block, int half) {
  const Finisher<kBytes, kRowScale> finisher(p, block, half);
  const std::int32_t* row = rows.row + first;
  const std::int64_t* stored = rows.stored + first;
  if (finisher.all()) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kChunk; ++i)
      finisher.template store<true>(_mm512_load_si512(sums + row[i] * 16), stored[i],
                                    finisher.row(stored[i]));
  } else if (finisher.any()) {
    for (int i = 0; i < kChunk; ++i)
      finisher.template store<false>(_mm512_load_si512(sums + row[i] * 16), stored[i],
                                     finisher.row(stored[i]));
  }
}

// 64 x 16 (or 2 x 32 x 16) sums that wait for their finish.
template <bool kBytes, bool kRowScale>
class Pending {
 public:
  alignas(64) std::int32_t sums[kTiles * kTileRows * 16];

  // halves: of 16 columns, from `half` on; the second one's sums follow all those of the first.
  void begin(std::int64_t block, int half, int halves, const Rows& of) {
    block_ = block;
    half_ = half;
    of_ = &of;
    chunks_ = of.chunks * halves;
    done_ = 0;
  }
  int chunks() const { return chunks_; }

  void advance(const Product& p, int count) {
    for (; count > 0 && done_ < chunks_; --count, ++done_) {
      const int second = done_ >= of_->chunks;
      finish_chunk<kBytes, kRowScale>(p, sums + second * of_->tiles * kTileRows * 16, *of_,
                                      (done_ - second * of_->chunks) * kChunk, block_,
                                      half_ + second);
    }
  }

 private:
  const Rows* of_ = nullptr;
  std::int64_t block_ = 0;
  int half_ = 0, chunks_ = 0, done_ = 0;
};

// Sums of Tiles x 16 positions and 16 columns; weight: that half of the block's first step.
template <int Tiles, typename Waiting>
[[gnu::noinline]] void multiply_tall(const Product& p, const Rows& rows, const std::int8_t* weight,
                                     std::int32_t* sums, Waiting& before) {
  const int steps = p.steps, share = (before.chunks() + steps - 1) / steps;
  const std::int32_t* offsets = p.offsets;
  const std::int64_t x_step = p.x_step;
  const std::uint8_t *row0 = rows.tile[0], *row1 = rows.tile[1], *row2 = rows.tile[2],
                     *row3 = rows.tile[3];
  memory_is_written();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int s = 0; s < steps; ++s, weight += kStepBytes) {
    const std::int64_t offset = offsets[s];
    _tile_loadd(7, weight, 64);
    _tile_loadd(4, row0 + offset, x_step);
    _tile_dpbusd(0, 4, 7);
    if constexpr (Tiles > 1) {
      _tile_loadd(5, row1 + offset, x_step);
      _tile_dpbusd(1, 5, 7);
    }
    if constexpr (Tiles > 2) {
      _tile_loadd(6, row2 + offset, x_step);
      _tile_dpbusd(2, 6, 7);
    }
    if constexpr (Tiles > 3) {
      _tile_loadd(4, row3 + offset, x_step);
      _tile_dpbusd(3, 4, 7);
    }
    before.advance(p, share);
  }
  _tile_stored(0, sums, 64);
  if constexpr (Tiles > 1) _tile_stored(1, sums + 256, 64);
  if constexpr (Tiles > 2) _tile_stored(2, sums + 512, 64);
  if constexpr (Tiles > 3) _tile_stored(3, sums + 768, 64);
  memory_is_written();
}

// Sums of Tiles x 16 positions and 32 columns: first those of columns 0..15.
template <int Tiles, typename Waiting>
[[gnu::noinline]] void multiply_wide(const Product& p, const Rows& rows, const std::int8_t* weight,
                                     std::int32_t* sums, Waiting& before) {
  const int steps = p.steps, share = (before.chunks() + steps - 1) / steps;
  const std::int32_t* offsets = p.offsets;
  const std::int64_t x_step = p.x_step;
  const std::uint8_t *row0 = rows.tile[0], *row1 = rows.tile[1];
  memory_is_written();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int s = 0; s < steps; ++s, weight += kStepBytes) {
    const std::int64_t offset = offsets[s];
    _tile_loadd(4, row0 + offset, x_step);
    _tile_loadd(6, weight, 64);
    _tile_loadd(7, weight + kTileBytes, 64);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    if constexpr (Tiles > 1) {
      _tile_loadd(5, row1 + offset, x_step);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
    before.advance(p, share);
  }
  constexpr int kHalf = Tiles * 256;
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kHalf, 64);
  if constexpr (Tiles > 1) {
    _tile_stored(2, sums + 256, 64);
    _tile_stored(3, sums + kHalf + 256, 64);
  }
  memory_is_written();
}

// Products one after the other, each finished while the next one runs.
template <bool kBytes, bool kRowScale>
class Pipeline {
 public:
  explicit Pipeline(const Product& p) : p_(p) {}
  ~Pipeline() { last().advance(p_, last().chunks()); }
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  void tall(const Rows& rows, std::int64_t block, int half) {
    const std::int8_t* weight = p_.weight + block * p_.block_bytes() + half * kTileBytes;
    Waiting& next = pending_[turn_];
    switch (rows.tiles) {
      case 4: multiply_tall<4>(p_, rows, weight, next.sums, last()); break;
      case 3: multiply_tall<3>(p_, rows, weight, next.sums, last()); break;
      case 2: multiply_tall<2>(p_, rows, weight, next.sums, last()); break;
      default: multiply_tall<1>(p_, rows, weight, next.sums, last()); break;
    }
    next.begin(block, half, 1, rows);
    turn_ ^= 1;
  }

  void wide(const Rows& rows, std::int64_t block) {
    const std::int8_t* weight = p_.weight + block * p_.block_bytes();
    Waiting& next = pending_[turn_];
    if (rows.tiles > 1)
      multiply_wide<2>(p_, rows, weight, next.sums, last());
    else
      multiply_wide<1>(p_, rows, weight, next.sums, last());
    next.begin(block, 0, 2, rows);
    turn_ ^= 1;
  }

 private:
  using Waiting = Pending<kBytes, kRowScale>;
  Waiting& last() { return pending_[turn_ ^ 1]; }

  const Product& p_;
  Waiting pending_[2];
  int turn_ = 0;
};

// Bytes that 64 neighbouring positions read.
std::int64_t reach(const Product& p) {
  const std::int64_t all = static_cast<std::int64_t>(p.steps) * kStep;
  std::int64_t lines = 0;  // rows of the image: offsets further apart than a position's step
  std::int64_t before = -1;
  for (int s = 0; s < p.steps; ++s)
    if (before < 0 || p.offsets[s] - before > 64 * p.x_step || p.offsets[s] < before) {
      ++lines;
      before = p.offsets[s];
    }
  const std::int64_t near = lines * (64 * p.x_step + all / lines);
  return near < 64 * all ? near : 64 * all;
}

template <bool kBytes, bool kRowScale>
void multiply_as(const Product& p, std::int64_t first, std::int64_t last, std::int64_t first_block,
                 std::int64_t last_block) {
  const FullTiles tiles;
  Rows rows[2];  // by turns: the last product's are still needed
  int turn = 0;
  Pipeline<kBytes, kRowScale> pipeline(p);
  if (reach(p) <= kNear) {
    for (std::int64_t position = first; position < last; position += 4 * kTileRows, turn ^= 1) {
      gather(p, position, last, 4, rows[turn]);
      for (std::int64_t block = first_block; block < last_block; ++block)
        for (int half = 0; half < 2; ++half)
          if (block * kColumns + half * 16 < p.columns) pipeline.tall(rows[turn], block, half);
    }
    return;
  }
  for (std::int64_t block = first_block; block < last_block; ++block)
    for (std::int64_t position = first; position < last; position += 2 * kTileRows, turn ^= 1) {
      gather(p, position, last, 2, rows[turn]);
      pipeline.wide(rows[turn], block);
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
                                   depthwise_avx512, 2e7, 5e5};

}  // namespace compactnets::int8
