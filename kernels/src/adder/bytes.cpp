// What all instruction sets share of the 8-bit adder convolution: packing, order of work, threads.
#include "adder/bytes.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/isa.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::adder {
namespace {

constexpr double kGrain = 4e6;  // terms that pay for waking a thread

const ByteOperations& operations() {
  return pick<ByteOperations>(nullptr, COMPACTNETS_AVX512(avx512_byte_operations),
                              COMPACTNETS_AVX2(avx2_byte_operations), portable_byte_operations);
}

// `channels` channels of `pixels` neighbouring pixels of x to out[c * plane + p], flipped.
void to_planes(const ByteOperations& ops, const ByteConv& conv, const std::uint8_t* x,
               std::int64_t pixels, std::int64_t channels, std::uint8_t* out, std::int64_t plane) {
  const std::int64_t pixel_step = conv.x.column;
  if (conv.x.channel == 1 && channels > 1)
    return ops.transpose(x, pixel_step, pixels, channels, conv.flip, out, plane);
  for (std::int64_t c = 0; c < channels; ++c) {
    const std::uint8_t* from = x + c * conv.x.channel;
    std::uint8_t* to = out + c * plane;
    for (std::int64_t p = 0; p < pixels; ++p) to[p] = from[p * pixel_step] ^ conv.flip;
  }
}

// Per-output values of a block in 16 lanes, `missing` in the spare ones.
void spread(const float* values, std::int64_t first, std::int64_t count, float* lanes) {
  for (std::int64_t lane = 0; lane < kBlock; ++lane)
    lanes[lane] = values && lane < count ? values[first + lane] : 0.0f;
}

struct Epilogue {
  alignas(64) float scale[kBlock], bias[kBlock];
  FinishTask task{};

  Epilogue(const ByteConv& conv, std::int64_t block) {
    const Geometry& g = conv.geometry;
    task.outputs = static_cast<int>(std::min<std::int64_t>(g.outputs - block * kBlock, kBlock));
    spread(conv.scale, block * kBlock, task.outputs, scale);
    spread(conv.bias, block * kBlock, task.outputs, bias);
    task.scale = conv.scale ? scale : nullptr;
    task.bias = bias;
    task.out_step = g.outputs;
  }

  // `pixels` output pixels from flat index `pixel` (rows and columns counted through) on.
  void operator()(const ByteOperations& ops, const ByteConv& conv, std::int64_t block,
                  std::int64_t pixel, const std::int32_t* sums, const std::int32_t* correction,
                  std::int64_t pixels) {
    const std::int64_t index = pixel * conv.geometry.outputs + block * kBlock;
    task.out = static_cast<std::int32_t*>(conv.y) + index;  // float and int32 are of one size
    task.sums = sums;
    task.correction = correction;
    task.pixels = static_cast<int>(pixels);
    ops.finish(task);
  }
};

// ---- the sliding way

struct SlidePlan {
  const ByteConv& conv;
  std::int64_t row, rows, plane, positions, segments, steps, blocks;
  std::vector<std::int32_t> offsets;

  explicit SlidePlan(const ByteConv& c) : conv(c) {
    const Geometry& g = c.geometry;
    row = std::max(g.in.x + g.padding.x, g.out.x);  // the latter: padding wider than the kernel
    rows = g.in.y + 2 * g.padding.y;
    positions = (g.out.y - 1) * row + g.out.x;
    segments = ceil_div(g.kernel.x, kQuad);
    steps = g.channels * g.kernel.y * segments;
    blocks = ceil_div(g.outputs, kBlock);
    // A tile reads up to 8 bytes behind its last pair, which may itself lie behind the last
    // position; 64 bytes more keep the planes of many channels out of each other's cache lines.
    plane = ceil_div(rows * row + g.padding.x + kQuad * segments + 2 * kTileRows + 16, 64) * 64;
    if (plane % 1024 == 0) plane += 64;
    offsets.reserve(static_cast<std::size_t>(steps));
    for (std::int64_t channel = 0; channel < g.channels; ++channel)
      for (std::int64_t ky = 0; ky < g.kernel.y; ++ky)
        for (std::int64_t segment = 0; segment < segments; ++segment)
          offsets.push_back(
              static_cast<std::int32_t>(channel * plane + ky * row + kQuad * segment));
  }

  // A pair more than there are positions is read before the first and behind the last.
  static constexpr std::int64_t kLead = 64;
  std::int64_t image_bytes() const { return kLead + conv.geometry.channels * plane; }
};

// Channels [first, last) of an image into their planes. Threads share by channels and not by rows:
// two of them never write to the same cache line.
void pack_planes(const SlidePlan& plan, const ByteOperations& ops, std::int64_t first,
                 std::int64_t last, std::uint8_t* planes) {
  const ByteConv& conv = plan.conv;
  const Geometry& g = conv.geometry;
  const std::uint8_t* x = conv.x.data + first * conv.x.channel;
  std::uint8_t* out = planes + first * plan.plane;
  std::memset(out, conv.padding, (last - first) * plan.plane);
  for (std::int64_t y = 0; y < g.in.y; ++y)
    to_planes(ops, conv, x + y * conv.x.row, g.in.x, last - first,
              out + (g.padding.y + y) * plan.row + g.padding.x, plan.plane);
}

// What the taps of weight 0 behind the kernel's last column add at `count` positions from `first`.
void sum_spare_taps(const SlidePlan& plan, const std::int32_t* sums, std::int64_t first,
                    std::int64_t count, std::int32_t* correction) {
  const Geometry& g = plan.conv.geometry;
  std::fill_n(correction, count, 0);
  for (std::int64_t ky = 0; ky < g.kernel.y; ++ky)
    for (std::int64_t kx = g.kernel.x; kx < kQuad * plan.segments; ++kx) {
      const std::int32_t* from = sums + ky * plan.row + kx + first;
      for (std::int64_t i = 0; i < count; ++i) correction[i] += from[i];
    }
}

// Positions [first, last) for one block of outputs. What a tile leaves half done (see SlideTask)
// the next one completes.
void slide_positions(const SlidePlan& plan, const ByteOperations& ops, const std::uint8_t* planes,
                     const std::int32_t* sums, std::int64_t block, std::int64_t first,
                     std::int64_t last) {
  const ByteConv& conv = plan.conv;
  const Geometry& g = conv.geometry;
  alignas(64) std::int32_t tile[kTileRows * kBlock];
  alignas(64) std::int32_t correction[kTileRows];
  Epilogue finish(conv, block);
  SlideTask task{};
  task.offsets = plan.offsets.data();
  task.steps = static_cast<int>(plan.steps);
  task.weight = conv.weight + block * plan.steps * kSlideStep;
  task.sums = tile;
  const std::int64_t all_pairs = ceil_div(last - first + ops.lag, 2);
  const std::int64_t tiles = ceil_div(all_pairs, ops.most_pairs);
  std::int64_t position = first - ops.lag;
  for (std::int64_t t = 0; t < tiles; ++t) {
    task.pairs = static_cast<int>((t + 1) * all_pairs / tiles - t * all_pairs / tiles);
    task.image = planes + position;
    ops.slide(task);
    const std::int64_t begin = std::max(position, first);
    const std::int64_t end = std::min(position + 2 * task.pairs, last);
    if (begin < end) sum_spare_taps(plan, sums, begin, end - begin, correction);
    for (std::int64_t at = begin; at < end;) {
      const std::int64_t y = at / plan.row, x = at % plan.row;
      const std::int64_t run = std::min(end, (y + 1) * plan.row) - at;
      if (x < g.out.x)
        finish(ops, conv, block, y * g.out.x + x,
               tile + (at - position) * kBlock, correction + (at - begin),
               std::min(run, g.out.x - x));
      at += run;
    }
    position += 2 * task.pairs;
    std::memcpy(tile, tile + 2 * task.pairs * kBlock, ops.lag * kBlock * sizeof(*tile));
  }
}

// One image.
void slide(const ByteConv& conv, const ByteOperations& ops) {
  const SlidePlan plan(conv);
  const Geometry& g = conv.geometry;
  const int threads = useful_threads(g.terms(), kGrain, conv.threads);
  std::uint8_t* planes = workspace<std::uint8_t>(Slot::activations, plan.image_bytes()) + plan.kLead;
  auto* sums = workspace<std::int32_t>(Slot::sums, plan.plane);

  constexpr std::int64_t kChannels = 16;   // that are transposed together
  constexpr std::int64_t kPositions = 64;  // sums in whole cache lines
  const std::int64_t chunk = kChannels * parts_per_task(ceil_div(g.channels, kChannels), 1, threads);
  parallel_for(ceil_div(g.channels, chunk), threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * chunk;
    if (first == 0) std::memset(planes - plan.kLead, conv.padding, plan.kLead);
    pack_planes(plan, ops, first, std::min(first + chunk, g.channels), planes);
  });
  const std::int64_t part = kPositions * parts_per_task(plan.plane / kPositions, 1, threads);
  parallel_for(ceil_div(plan.plane, part), threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * part;
    ops.sum_planes(planes + first, plan.plane, g.channels, std::min(part, plan.plane - first),
                   sums + first);
  });

  const std::int64_t step = parts_per_task(plan.positions, plan.blocks, threads);
  const std::int64_t pieces = ceil_div(plan.positions, step);
  parallel_for(plan.blocks * pieces, threads, [&](std::size_t task) {
    const std::int64_t block = static_cast<std::int64_t>(task) / pieces;
    const std::int64_t first = static_cast<std::int64_t>(task) % pieces * step;
    slide_positions(plan, ops, planes, sums, block, first,
                    std::min(first + step, plan.positions));
  });
}

// ---- the plain way

struct PlainPlan {
  const ByteConv& conv;
  std::int64_t groups, columns, phase, row, rows, blocks, steps;
  std::vector<std::int32_t> offsets;

  explicit PlainPlan(const ByteConv& c) : conv(c) {
    const Geometry& g = c.geometry;
    groups = ceil_div(g.channels, kGroup);
    columns = g.out.x + (g.kernel.x - 1) / g.stride.x;  // of a phase
    phase = groups * columns * kGroup;
    row = std::min(g.stride.x, g.kernel.x) * phase;  // phases that no tap meets are left out
    rows = (g.out.y - 1) * g.stride.y + g.kernel.y;
    blocks = ceil_div(g.outputs, kBlock);
    steps = g.taps() * groups;
    for (std::int64_t ky = 0; ky < g.kernel.y; ++ky)
      for (std::int64_t kx = 0; kx < g.kernel.x; ++kx)
        for (std::int64_t group = 0; group < groups; ++group)
          offsets.push_back(static_cast<std::int32_t>(
              ky * row + kx % g.stride.x * phase +
              (group * columns + kx / g.stride.x) * kGroup));
  }
};

// `columns` times the same 8 bytes: zero in every channel that there is, spare ones 0.
void pad_group(const ByteConv& conv, std::int64_t first, std::int64_t columns, std::uint8_t* out) {
  for (std::int64_t column = 0; column < columns; ++column, out += kGroup)
    for (std::int64_t c = 0; c < kGroup; ++c)
      out[c] = first + c < conv.geometry.channels ? conv.padding : 0;
}

// Eight channels from `first` of `columns` pixels, x_step apart; spare ones are 0.
void pack_group(const ByteConv& conv, const std::uint8_t* x, std::int64_t x_step,
                std::int64_t first, std::int64_t columns, std::uint8_t* out) {
  const std::int64_t count = std::min<std::int64_t>(conv.geometry.channels - first, kGroup);
  if (count == kGroup && conv.x.channel == 1) {
    const std::uint64_t flips = 0x0101010101010101u * conv.flip;
    for (std::int64_t column = 0; column < columns; ++column, out += kGroup) {
      std::uint64_t bytes;
      std::memcpy(&bytes, x + column * x_step + first, sizeof(bytes));
      bytes ^= flips;
      std::memcpy(out, &bytes, sizeof(bytes));
    }
    return;
  }
  for (std::int64_t column = 0; column < columns; ++column, out += kGroup)
    for (std::int64_t c = 0; c < kGroup; ++c)
      out[c] = c < count ? x[column * x_step + (first + c) * conv.x.channel] ^ conv.flip : 0;
}

void pack_plain_row(const PlainPlan& plan, std::int64_t row, std::uint8_t* out) {
  const ByteConv& conv = plan.conv;
  const Geometry& g = conv.geometry;
  const std::int64_t y = row - g.padding.y;
  const bool inside = 0 <= y && y < g.in.y;
  const std::int64_t phases = std::min(g.stride.x, g.kernel.x);
  for (std::int64_t phase = 0; phase < phases; ++phase) {
    // Columns [begin, end) lie in the image.
    const std::int64_t before = std::max<std::int64_t>(g.padding.x - phase, 0);
    const std::int64_t begin = std::min(ceil_div(before, g.stride.x), plan.columns);
    const std::int64_t reach = std::max<std::int64_t>(g.in.x + g.padding.x - phase, 0);
    const std::int64_t end =
        inside ? std::clamp(ceil_div(reach, g.stride.x), begin, plan.columns) : begin;
    const std::int64_t first_pixel = begin * g.stride.x + phase - g.padding.x;
    for (std::int64_t group = 0; group < plan.groups; ++group, out += plan.columns * kGroup) {
      pad_group(conv, group * kGroup, begin, out);
      if (begin < end)
        pack_group(conv, conv.x.data + y * conv.x.row + first_pixel * conv.x.column,
                   g.stride.x * conv.x.column, group * kGroup, end - begin, out + begin * kGroup);
      pad_group(conv, group * kGroup, plan.columns - end, out + end * kGroup);
    }
  }
}

// Rows [first, last) of the output for one block.
void plain_rows(const PlainPlan& plan, const ByteOperations& ops, const std::uint8_t* packed,
                std::int64_t block, std::int64_t first, std::int64_t last) {
  const ByteConv& conv = plan.conv;
  const Geometry& g = conv.geometry;
  alignas(64) std::int32_t tile[kTileRows * kBlock];
  Epilogue finish(conv, block);
  PlainTask task{};
  task.offsets = plan.offsets.data();
  task.steps = static_cast<int>(plan.steps);
  task.weight = conv.weight + block * plan.steps * kPlainStep;
  task.sums = tile;
  for (std::int64_t y = first; y < last; ++y)
    for (std::int64_t x = 0; x < g.out.x; x += kTileRows) {
      task.image = packed + y * g.stride.y * plan.row + x * kGroup;
      task.pixels = static_cast<int>(std::min<std::int64_t>(g.out.x - x, kTileRows));
      ops.plain(task);
      finish(ops, conv, block, y * g.out.x + x, tile, nullptr, task.pixels);
    }
}

// One image.
void plain(const ByteConv& conv, const ByteOperations& ops) {
  const PlainPlan plan(conv);
  const Geometry& g = conv.geometry;
  const int threads = useful_threads(g.terms(), kGrain, conv.threads);
  auto* packed = workspace<std::uint8_t>(Slot::activations, plan.rows * plan.row);

  const std::int64_t pack_step = parts_per_task(plan.rows, 1, threads);
  parallel_for(ceil_div(plan.rows, pack_step), threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * pack_step;
    for (std::int64_t row = first; row < std::min(first + pack_step, plan.rows); ++row)
      pack_plain_row(plan, row, packed + row * plan.row);
  });

  const std::int64_t step = parts_per_task(g.out.y, plan.blocks, threads);
  const std::int64_t pieces = ceil_div(g.out.y, step);
  parallel_for(plan.blocks * pieces, threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) % pieces * step;
    plain_rows(plan, ops, packed, static_cast<std::int64_t>(task) / pieces, first,
               std::min(first + step, g.out.y));
  });
}

}  // namespace

void convolve_bytes(const ByteConv& conv) {
  const Geometry& g = conv.geometry;
  if (g.images == 0 || g.out.y <= 0 || g.out.x <= 0 || g.outputs == 0) return;
  each_image(g.images, useful_threads(g.terms(), kGrain, conv.threads),
             [&](std::int64_t image, int threads) {
               ByteConv one = conv;
               one.geometry.images = 1;
               one.threads = threads;
               one.x.data += image * conv.x.image;
               one.y = static_cast<std::int32_t*>(conv.y) + image * g.out.y * g.out.x * g.outputs;
               slides(g) ? slide(one, operations()) : plain(one, operations());
             });
}

}  // namespace compactnets::adder
