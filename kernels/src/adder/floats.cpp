// What all instruction sets share of the fp32 adder convolution: packing, order of work, threads,
// and the decision whether the identity is accurate enough.
#include "adder/floats.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "common/isa.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::adder {
namespace {

constexpr double kGrain = 1e6;        // terms that pay for waking a thread
constexpr float kCancellation = 4.0f;  // largest sum of maxima beside the largest result

const FloatOperations& operations() {
  return pick<FloatOperations>(nullptr, COMPACTNETS_AVX512(avx512_float_operations),
                              COMPACTNETS_AVX2(avx2_float_operations), portable_float_operations);
}

struct Plan {
  const FloatConv& conv;
  std::int64_t columns, phases, phase, row, rows, blocks, block_step;
  std::vector<std::int32_t> taps;
  std::vector<float> scale, bias;  // [block][16]

  explicit Plan(const FloatConv& c) : conv(c) {
    const Geometry& g = c.geometry;
    columns = g.out.x + (g.kernel.x - 1) / g.stride.x;  // of a phase
    phases = std::min(g.stride.x, g.kernel.x);          // those that some tap meets
    phase = g.channels * columns;
    row = phases * phase;
    rows = (g.out.y - 1) * g.stride.y + g.kernel.y;
    blocks = ceil_div(g.outputs, kLanes);
    block_step = (g.taps() * g.channels + 1) * kLanes;
    for (std::int64_t ky = 0; ky < g.kernel.y; ++ky)
      for (std::int64_t kx = 0; kx < g.kernel.x; ++kx)
        taps.push_back(static_cast<std::int32_t>(ky * row + kx % g.stride.x * phase +
                                                 kx / g.stride.x));
    spread(c.scale, scale);
    spread(c.bias, bias);
  }

  void spread(const float* values, std::vector<float>& lanes) const {
    lanes.assign(static_cast<std::size_t>(blocks * kLanes), 0.0f);
    if (values) std::copy_n(values, conv.geometry.outputs, lanes.data());
  }
};

// Columns [first, last) of a phase lie in the image, the others in the padding.
void pack_phase(const Plan& plan, const FloatOperations& ops, const float* x, std::int64_t phase,
                float* out) {
  const Geometry& g = plan.conv.geometry;
  const Strided<float>& from = plan.conv.x;
  std::int64_t first = std::max<std::int64_t>(ceil_div(g.padding.x - phase, g.stride.x), 0);
  first = std::min(first, plan.columns);
  std::int64_t last = (g.in.x + g.padding.x - phase + g.stride.x - 1) / g.stride.x;
  last = std::clamp(last, first, plan.columns);
  if (!x) first = last = 0;
  for (std::int64_t c = 0; c < g.channels; ++c) {
    std::fill_n(out + c * plan.columns, first, 0.0f);
    std::fill_n(out + c * plan.columns + last, plan.columns - last, 0.0f);
  }
  if (first == last) return;
  x += (first * g.stride.x + phase - g.padding.x) * from.column;
  if (from.channel == 1)
    return ops.transpose(x, g.stride.x * from.column, last - first, g.channels, out + first,
                         plan.columns);
  for (std::int64_t c = 0; c < g.channels; ++c)
    for (std::int64_t p = first; p < last; ++p)
      out[c * plan.columns + p] = x[c * from.channel + (p - first) * g.stride.x * from.column];
}

// A row of the padded image, and the sums over its channels [phase][column].
void pack_row(const Plan& plan, const FloatOperations& ops, std::int64_t image, std::int64_t row,
              float* out, float* sums) {
  const Geometry& g = plan.conv.geometry;
  const std::int64_t y = row - g.padding.y;
  const float* x = 0 <= y && y < g.in.y
                       ? plan.conv.x.data + image * plan.conv.x.image + y * plan.conv.x.row
                       : nullptr;
  for (std::int64_t phase = 0; phase < plan.phases; ++phase) {
    pack_phase(plan, ops, x, phase, out);
    std::fill_n(sums, plan.columns, 0.0f);
    for (std::int64_t c = 0; c < g.channels; ++c)
      for (std::int64_t p = 0; p < plan.columns; ++p) sums[p] += out[c * plan.columns + p];
    out += plan.phase;
    sums += plan.columns;
  }
}

// Sums of x over the windows of one output row.
void sum_windows(const Plan& plan, const float* sums, std::int64_t y, float* windows) {
  const Geometry& g = plan.conv.geometry;
  std::fill_n(windows, g.out.x, 0.0f);
  for (std::int64_t ky = 0; ky < g.kernel.y; ++ky)
    for (std::int64_t kx = 0; kx < g.kernel.x; ++kx) {
      const float* from = sums +
                          ((y * g.stride.y + ky) * plan.phases + kx % g.stride.x) * plan.columns +
                          kx / g.stride.x;
      for (std::int64_t x = 0; x < g.out.x; ++x) windows[x] += from[x];
    }
}

bool all_finite(const float* values, std::int64_t count) {
  float zero = 0.0f;  // 0 * infinity and 0 * NaN are NaN
  for (std::int64_t i = 0; i < count; ++i) zero += 0.0f * values[i];
  return zero == 0.0f;
}

bool weights_finite(const Plan& plan) {
  bool finite = true;
  for (std::int64_t block = 1; block <= plan.blocks; ++block)
    finite &= all_finite(plan.conv.weight + block * plan.block_step - kLanes, kLanes);
  return finite;
}

void raise(std::atomic<float>& largest, float value) {
  float before = largest.load(std::memory_order_relaxed);
  while (before < value && !largest.compare_exchange_weak(before, value)) {
  }
}

struct Packed {
  const float* image;
  const float* windows;  // [image][row of y][column]
};

// All distances; false where the identity lost too much.
bool compute(const Plan& plan, const FloatOperations& ops, const Packed& packed, bool direct,
             int threads) {
  const FloatConv& conv = plan.conv;
  const Geometry& g = conv.geometry;
  const std::int64_t at_once = ops.blocks_at_once(static_cast<int>(g.out.x));
  const std::int64_t sets = ceil_div(plan.blocks, at_once);
  const std::int64_t step = parts_per_task(g.out.y, g.images * sets, threads);
  const std::int64_t pieces = ceil_div(g.out.y, step);
  std::atomic<float> largest_sum{0.0f}, largest_result{0.0f};
  parallel_for(g.images * sets * pieces, threads, [&](std::size_t index) {
    const std::int64_t piece = static_cast<std::int64_t>(index) % pieces;
    const std::int64_t set = static_cast<std::int64_t>(index) / pieces % sets;
    const std::int64_t image = static_cast<std::int64_t>(index) / pieces / sets;
    const std::int64_t block = set * at_once;
    float largest[2] = {0.0f, 0.0f};
    DistanceTask task{};
    task.channel_step = plan.columns;
    task.channels = static_cast<int>(g.channels);
    task.taps = plan.taps.data();
    task.tap_count = static_cast<int>(plan.taps.size());
    task.weight = conv.weight + block * plan.block_step;
    task.block_step = plan.block_step;
    task.scale = conv.scale ? plan.scale.data() + block * kLanes : nullptr;
    task.bias = plan.bias.data() + block * kLanes;
    task.out_step = g.outputs;
    task.pixels = static_cast<int>(g.out.x);
    task.outputs = static_cast<int>(std::min(g.outputs - block * kLanes, at_once * kLanes));
    task.largest = largest;
    for (std::int64_t y = piece * step; y < std::min((piece + 1) * step, g.out.y); ++y) {
      task.image = packed.image + (image * plan.rows + y * g.stride.y) * plan.row;
      task.window_sums = packed.windows + (image * g.out.y + y) * g.out.x;
      task.out = conv.y + (image * g.out.y + y) * g.out.x * g.outputs + block * kLanes;
      ops.distances(task, direct);
    }
    raise(largest_sum, largest[0]);
    raise(largest_result, largest[1]);
  });
  return direct || (std::isfinite(largest_sum.load()) &&
                    largest_sum.load() <= kCancellation * largest_result.load());
}

void convolve_image(const FloatConv& conv) {
  const Geometry& g = conv.geometry;
  const Plan plan(conv);
  const FloatOperations& ops = operations();
  const int threads = useful_threads(g.terms(), kGrain, conv.threads);
  const std::int64_t rows = g.images * plan.rows;
  const std::int64_t sums_of_row = plan.phases * plan.columns;
  float* image = workspace<float>(Slot::activations, rows * plan.row);
  float* sums = workspace<float>(Slot::sums, rows * sums_of_row);
  float* windows = workspace<float>(Slot::products, g.images * g.out.y * g.out.x);

  const std::int64_t step = parts_per_task(rows, 1, threads);
  parallel_for(ceil_div(rows, step), threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * step;
    for (std::int64_t row = first; row < std::min(first + step, rows); ++row)
      pack_row(plan, ops, row / plan.rows, row % plan.rows, image + row * plan.row,
               sums + row * sums_of_row);
  });
  for (std::int64_t i = 0; i < g.images * g.out.y; ++i)
    sum_windows(plan, sums + i / g.out.y * plan.rows * sums_of_row, i % g.out.y,
                windows + i * g.out.x);

  const bool direct = conv.direct || !all_finite(windows, g.images * g.out.y * g.out.x) ||
                      !weights_finite(plan);
  const Packed packed{image, windows};
  if (!compute(plan, ops, packed, direct, threads)) compute(plan, ops, packed, true, threads);
}

}  // namespace

void convolve_floats(const FloatConv& conv) {
  const Geometry& g = conv.geometry;
  if (g.images == 0 || g.out.y <= 0 || g.out.x <= 0 || g.outputs == 0) return;
  each_image(g.images, useful_threads(g.terms(), kGrain, conv.threads),
             [&](std::int64_t image, int threads) {
               FloatConv one = conv;
               one.geometry.images = 1;
               one.threads = threads;
               one.x.data += image * conv.x.image;
               one.y += image * g.out.y * g.out.x * g.outputs;
               convolve_image(one);
             });
}

}  // namespace compactnets::adder
