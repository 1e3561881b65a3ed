// The parts of the 3-D Winograd convolution that all instruction sets share: blocks of tiles, strips,
// the order of work and its split over threads.
#include "winograd/winograd.hpp"

#include <algorithm>
#include <vector>

#include "common/isa.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::winograd {
namespace {

const Operations& operations() {
  return pick<Operations>(nullptr, COMPACTNETS_AVX512(avx512_operations),
                          COMPACTNETS_AVX2(avx2_operations), portable_operations);
}

constexpr std::int64_t kSkew = 16;  // floats between positions, against equal cache sets

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Tiles [first, first + count) of row `row` of tiles of slice `depth` of image `image`.
struct Run {
  std::int64_t image, depth, row, first, count;
  std::int64_t tile, column;  // where they begin among the block's tiles, and in X
};

// Sizes, and the steps (in floats) of a block's intermediate results.
struct Plan {
  const Conv& conv;
  Size3 tiles;
  std::int64_t all_tiles, block, channel_blocks, output_blocks, padded_outputs;
  std::int64_t x_block, x_step, v_block, y_block, y_step;
  std::vector<std::int32_t> offsets;          // in V of the kept channels, position by position
  std::vector<std::int64_t> first, u_offset;  // of each position in offsets and in U
  std::vector<float> bias;                    // zeros if there is none

  explicit Plan(const Conv& c) : conv(c) {
    tiles = {ceil_div(c.out.z, 2), ceil_div(c.out.y, 2), ceil_div(c.out.x, 2)};
    all_tiles = c.images * tiles.z * tiles.y * tiles.x;
    channel_blocks = ceil_div(c.channels, kRow);
    output_blocks = ceil_div(c.outputs, kRow);
    padded_outputs = ceil_div(c.outputs, 16) * 16;
    block = choose_block();
    x_block = most_columns() * kRow;
    x_step = channel_blocks * x_block + kSkew;
    v_block = block * kRow;
    y_block = 2 * block * kRow;
    y_step = output_blocks * y_block + kSkew;
    list_channels();
    bias.assign(c.outputs, 0.0f);
    if (c.bias) std::copy_n(c.bias, c.outputs, bias.data());
  }

  // At most 14 tiles while all of U stays in the second-level cache, else 56: U then comes from
  // further away, once per block. All blocks alike, as many for every thread.
  std::int64_t choose_block() const {
    const std::int64_t kept =
        std::count(conv.keep, conv.keep + kPositions * conv.channels, true);
    const std::int64_t most = 4 * kept * padded_outputs < 1500000 ? 14 : 56;
    const std::int64_t blocks = ceil_div(ceil_div(all_tiles, most), conv.threads) * conv.threads;
    return ceil_div(all_tiles, blocks);
  }

  // Columns of X: two a tile, and two more for every run.
  std::int64_t most_columns() const {
    const std::int64_t runs = std::min(block, block / tiles.x + 2);
    return 2 * (block + runs);
  }

  // Without a branch on keep, which nothing could predict.
  void list_channels() {
    offsets.resize(kPositions * conv.channels + 1);
    std::int64_t listed = 0;
    for (int p = 0; p < kPositions; ++p) {
      first.push_back(listed);
      u_offset.push_back(listed * padded_outputs);
      const bool* keep = conv.keep + p * conv.channels;
      for (std::int64_t c = 0; c < conv.channels; ++c) {
        offsets[listed] = static_cast<std::int32_t>(c / kRow * v_block + c % kRow);
        listed += keep[c];
      }
    }
    first.push_back(listed);
  }

  // The tiles [from, to), line by line.
  std::vector<Run> runs(std::int64_t from, std::int64_t to) const {
    std::vector<Run> found;
    std::int64_t column = 0;
    for (std::int64_t tile = from; tile < to;) {
      const std::int64_t line = tile / tiles.x, x = tile % tiles.x;
      const std::int64_t count = std::min(tiles.x - x, to - tile);
      found.push_back({line / tiles.y / tiles.z, line / tiles.y % tiles.z, line % tiles.y, x,
                       count, tile - from, column});
      tile += count;
      column += 2 * count + 2;
    }
    return found;
  }

  std::int64_t outputs_of(std::int64_t output_block) const {
    return std::min<std::int64_t>(kRow, conv.outputs - output_block * kRow);
  }
};

// zeros: as long as a row of the image.
void gather(const Plan& plan, const Operations& ops, const Run& run, const float* zeros,
            float* x) {
  const Conv& c = plan.conv;
  InputStrip strip{};
  for (int i = 0; i < 16; ++i) {
    const std::int64_t z = 2 * run.depth - c.padding.z + i / 4;
    const std::int64_t y = 2 * run.row - c.padding.y + i % 4;
    const bool inside = 0 <= z && z < c.in.z && 0 <= y && y < c.in.y;
    strip.rows[i] =
        inside ? c.x + run.image * c.image_step + z * c.depth_step + y * c.row_step : zeros;
  }
  strip.column_step = c.column_step;
  strip.first_column = 2 * run.first - c.padding.x;
  strip.columns = c.in.x;
  strip.channels = static_cast<int>(c.channels);
  strip.tiles = static_cast<int>(run.count);
  strip.x = x + run.column * kRow;
  strip.i_step = plan.x_step;
  strip.block_step = plan.x_block;
  ops.transform_input(strip);
}

// x: of i = position / 4.
void spread(const Plan& plan, const Operations& ops, const std::vector<Run>& runs, int position,
            const float* x, float* v) {
  Spread strip{};
  strip.x_block_step = plan.x_block;
  strip.v_block_step = plan.v_block;
  strip.channels = static_cast<int>(plan.conv.channels);
  strip.column = position % 4;
  for (const Run& run : runs) {
    strip.x = x + run.column * kRow;
    strip.v = v + run.tile * kRow;
    strip.tiles = static_cast<int>(run.count);
    ops.spread(strip);
  }
}

// y: of i = position / 4.
void multiply(const Plan& plan, const Operations& ops, int position, int tiles, const float* v,
              float* y) {
  Product product{};
  product.v = v;
  product.offsets = plan.offsets.data() + plan.first[position];
  product.kept = static_cast<int>(plan.first[position + 1] - plan.first[position]);
  product.tiles = tiles;
  product.column = position % 4;
  for (std::int64_t output = 0; output < plan.padded_outputs; output += kPanel) {
    product.width = static_cast<int>(std::min<std::int64_t>(kPanel, plan.padded_outputs - output));
    product.u = plan.conv.u + plan.u_offset[position] + output * product.kept;
    product.y = y + output / kRow * plan.y_block + output % kRow;
    ops.multiply(product);
  }
}

void scatter(const Plan& plan, const Operations& ops, const Run& run, std::int64_t output_block,
             const float* folded) {
  const Conv& c = plan.conv;
  const std::int64_t first = output_block * kRow;
  OutputStrip strip{};
  strip.folded = folded + output_block * plan.y_block + 2 * run.tile * kRow;
  strip.i_step = plan.y_step;
  strip.bias = plan.bias.data() + first;
  strip.column_step = c.outputs;
  strip.row_step = c.out.x * strip.column_step;
  strip.depth_step = c.out.y * strip.row_step;
  strip.y = c.y + (run.image * c.out.z + 2 * run.depth) * strip.depth_step +
            2 * run.row * strip.row_step + 2 * run.first * strip.column_step + first;
  strip.depths = static_cast<int>(std::min<std::int64_t>(2, c.out.z - 2 * run.depth));
  strip.rows = static_cast<int>(std::min<std::int64_t>(2, c.out.y - 2 * run.row));
  strip.columns = c.out.x - 2 * run.first;
  strip.outputs = static_cast<int>(plan.outputs_of(output_block));
  strip.tiles = static_cast<int>(run.count);
  ops.transform_output(strip);
}

void convolve_block(const Plan& plan, const Operations& ops, std::int64_t from, std::int64_t to) {
  const Conv& c = plan.conv;
  const std::vector<Run> runs = plan.runs(from, to);
  const int tiles = static_cast<int>(to - from);
  const std::int64_t row = (c.in.x - 1) * c.column_step + c.channels;
  auto* x = workspace<float>(Slot::activations, 16 * plan.x_step + row);
  auto* v = workspace<float>(Slot::products, plan.channel_blocks * plan.v_block);
  auto* y = workspace<float>(Slot::sums, 16 * plan.y_step);
  float* const zeros = x + 16 * plan.x_step;
  std::fill_n(zeros, row, 0.0f);
  for (const Run& run : runs) gather(plan, ops, run, zeros, x);
  for (int position = 0; position < kPositions; ++position) {
    spread(plan, ops, runs, position, x + position / 4 * plan.x_step, v);
    multiply(plan, ops, position, tiles, v, y + position / 4 * plan.y_step);
  }
  for (std::int64_t block = 0; block < plan.output_blocks; ++block)
    for (const Run& run : runs) scatter(plan, ops, run, block, y);
}

// Threads worth waking: about half a million multiply-adds each pay for the hand-over.
int useful_threads(const Plan& plan) {
  const double products = static_cast<double>(plan.all_tiles) *
                          static_cast<double>(plan.first.back()) *
                          static_cast<double>(plan.padded_outputs);
  return static_cast<int>(
      std::clamp(products / 5e5, 1.0, static_cast<double>(plan.conv.threads)));
}

}  // namespace

void winograd3d(const Conv& conv) {
  if (conv.images == 0 || conv.outputs == 0) return;
  const Plan plan(conv);
  const Operations& ops = operations();
  parallel_for(ceil_div(plan.all_tiles, plan.block), useful_threads(plan), [&](std::size_t task) {
    const std::int64_t from = static_cast<std::int64_t>(task) * plan.block;
    convolve_block(plan, ops, from, std::min(from + plan.block, plan.all_tiles));
  });
}

}  // namespace compactnets::winograd
