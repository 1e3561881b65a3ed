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
#ifdef COMPACTNETS_X86
  return pick<Operations>(nullptr, &avx512_operations, &avx2_operations, portable_operations);
#else
  return portable_operations;
#endif
}

constexpr std::int64_t kSkew = 16;  // floats between positions, against equal cache sets

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Tiles [first, first + count) of row `row` of tiles of slice `depth` of image `image`.
struct Run {
  std::int64_t image, depth, row, first, count;
};

struct Plan {
  const Conv& conv;
  Size3 tiles;
  std::int64_t all_tiles, block, channel_blocks;
  std::int64_t v_block, v_position, m_position;  // steps in floats
  std::int64_t padded_outputs;
  std::vector<std::int32_t> offsets;             // in V of the kept channels, position by position
  std::vector<std::int64_t> first, u_offset;     // of each position in offsets and in U
  std::vector<float> bias;                       // zeros if there is none

  explicit Plan(const Conv& c) : conv(c) {
    tiles = {ceil_div(c.out.z, 2), ceil_div(c.out.y, 2), ceil_div(c.out.x, 2)};
    all_tiles = c.images * tiles.z * tiles.y * tiles.x;
    channel_blocks = ceil_div(c.channels, kRow);
    padded_outputs = ceil_div(c.outputs, 16) * 16;
    block = choose_block();
    v_block = block * kRow;
    v_position = channel_blocks * v_block + kSkew;
    m_position = block * kRow + kSkew;
    list_channels();
    bias.assign(c.outputs, 0.0f);
    if (c.bias) std::copy_n(c.bias, c.outputs, bias.data());
  }

  // 28 tiles: V and M of 64 channels then take 0.9 MB, and each panel of U is used twice. As few as
  // 14 where that gives a thread more than one block.
  std::int64_t choose_block() const {
    const std::int64_t fair = ceil_div(all_tiles, 2 * conv.threads);
    return std::clamp<std::int64_t>(ceil_div(fair, 14) * 14, 14, 28);
  }

  void list_channels() {
    std::int64_t u = 0;
    offsets.reserve(kPositions * conv.channels);
    for (int p = 0; p < kPositions; ++p) {
      first.push_back(static_cast<std::int64_t>(offsets.size()));
      u_offset.push_back(u);
      const bool* keep = conv.keep + p * conv.channels;
      for (std::int64_t c = 0; c < conv.channels; ++c)
        if (keep[c]) offsets.push_back(static_cast<std::int32_t>(c / kRow * v_block + c % kRow));
      u += (static_cast<std::int64_t>(offsets.size()) - first.back()) * padded_outputs;
    }
    first.push_back(static_cast<std::int64_t>(offsets.size()));
  }

  // Calls visit(run, index of its first tile in the block) for the tiles [from, to).
  template <typename Visit>
  void runs(std::int64_t from, std::int64_t to, const Visit& visit) const {
    for (std::int64_t tile = from; tile < to;) {
      const std::int64_t line = tile / tiles.x, x = tile % tiles.x;
      const std::int64_t count = std::min(tiles.x - x, to - tile);
      visit(Run{line / tiles.y / tiles.z, line / tiles.y % tiles.z, line % tiles.y, x, count},
            tile - from);
      tile += count;
    }
  }
};

// zeros: as long as a row of the image.
void gather(const Plan& plan, const Operations& ops, const Run& run, const float* zeros,
            float* scratch, float* v) {
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
  strip.v = v;
  strip.position_step = plan.v_position;
  strip.block_step = plan.v_block;
  strip.scratch = scratch;
  ops.transform_input(strip);
}

// M of the outputs [first, first + 64).
void multiply(const Plan& plan, const Operations& ops, std::int64_t first, int tiles,
              const float* v, float* m) {
  Product product{};
  product.tiles = tiles;
  const std::int64_t end = std::min<std::int64_t>(first + kRow, plan.padded_outputs);
  for (int p = 0; p < kPositions; ++p) {
    product.v = v + p * plan.v_position;
    product.offsets = plan.offsets.data() + plan.first[p];
    product.kept = static_cast<int>(plan.first[p + 1] - plan.first[p]);
    for (std::int64_t output = first; output < end; output += kPanel) {
      product.width = static_cast<int>(std::min<std::int64_t>(kPanel, end - output));
      product.u = plan.conv.u + plan.u_offset[p] + output * product.kept;
      product.m = m + p * plan.m_position + output - first;
      ops.multiply(product);
    }
  }
}

void scatter(const Plan& plan, const Operations& ops, const Run& run, std::int64_t first,
             const float* m) {
  const Conv& c = plan.conv;
  OutputStrip strip{};
  strip.m = m;
  strip.position_step = plan.m_position;
  strip.bias = plan.bias.data() + first;
  strip.column_step = c.outputs;
  strip.row_step = c.out.x * strip.column_step;
  strip.depth_step = c.out.y * strip.row_step;
  strip.y = c.y + (run.image * c.out.z + 2 * run.depth) * strip.depth_step +
            2 * run.row * strip.row_step + 2 * run.first * strip.column_step + first;
  strip.depths = static_cast<int>(std::min<std::int64_t>(2, c.out.z - 2 * run.depth));
  strip.rows = static_cast<int>(std::min<std::int64_t>(2, c.out.y - 2 * run.row));
  strip.columns = c.out.x - 2 * run.first;
  strip.outputs = static_cast<int>(std::min<std::int64_t>(kRow, c.outputs - first));
  strip.tiles = static_cast<int>(run.count);
  ops.transform_output(strip);
}

void convolve_block(const Plan& plan, const Operations& ops, std::int64_t from, std::int64_t to) {
  const Conv& c = plan.conv;
  const std::int64_t row = (c.in.x - 1) * c.column_step + c.channels;
  auto* v = workspace<float>(Slot::activations, kPositions * plan.v_position);
  auto* m = workspace<float>(Slot::products, kPositions * plan.m_position);
  auto* scratch = workspace<float>(Slot::sums, 16 * 16 * (2 * plan.block + 2) + row);
  float* zeros = scratch + 16 * 16 * (2 * plan.block + 2);
  std::fill_n(zeros, row, 0.0f);
  plan.runs(from, to, [&](const Run& run, std::int64_t index) {
    gather(plan, ops, run, zeros, scratch, v + index * kRow);
  });
  for (std::int64_t first = 0; first < c.outputs; first += kRow) {
    multiply(plan, ops, first, static_cast<int>(to - from), v, m);
    plan.runs(from, to, [&](const Run& run, std::int64_t index) {
      scatter(plan, ops, run, first, m + index * kRow);
    });
  }
}

// Threads worth waking: about half a million multiply-adds each pay for the hand-over.
int useful_threads(const Plan& plan) {
  const double products = static_cast<double>(plan.all_tiles) *
                          static_cast<double>(plan.offsets.size()) *
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
