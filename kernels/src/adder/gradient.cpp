// What all instruction sets share of the gradients: packing, order of work, threads.
#include "adder/gradient.hpp"

#include <algorithm>
#include <vector>

#include "common/isa.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::adder {
namespace {

constexpr double kGrain = 1e6;  // terms that pay for waking a thread

const StreamOperations& operations() {
  return pick<StreamOperations>(nullptr, COMPACTNETS_AVX512(avx512_stream_operations),
                              COMPACTNETS_AVX2(avx2_stream_operations), portable_stream_operations);
}

// ---- with respect to x

struct InputPlan {
  const Gradient& gradient;
  std::int64_t left, columns, row, blocks;  // of packed g: [image][row][output][column]

  explicit InputPlan(const Gradient& given) : gradient(given) {
    const Geometry& g = given.geometry;
    left = std::max<std::int64_t>(0, ceil_div(g.kernel.x - 1 - g.padding.x, g.stride.x));
    columns = left + std::max(g.out.x, (g.in.x - 1 + g.padding.x) / g.stride.x + 1);
    row = g.outputs * columns;
    blocks = ceil_div(g.channels, kChannelLanes);
  }
};

void pack_gradient_row(const InputPlan& plan, const StreamOperations& ops, std::int64_t image,
                       std::int64_t y, float* out) {
  const Geometry& g = plan.gradient.geometry;
  const Strided<float>& grad = plan.gradient.grad;
  const float* from = grad.data + image * grad.image + y * grad.row;
  for (std::int64_t output = 0; output < g.outputs; ++output) {
    float* line = out + output * plan.columns;
    std::fill_n(line, plan.left, 0.0f);
    std::fill_n(line + plan.left + g.out.x, plan.columns - plan.left - g.out.x, 0.0f);
  }
  if (grad.channel == 1)
    return ops.transpose(from, grad.column, g.out.x, g.outputs, out + plan.left, plan.columns);
  for (std::int64_t output = 0; output < g.outputs; ++output)
    for (std::int64_t x = 0; x < g.out.x; ++x)
      out[output * plan.columns + plan.left + x] =
          from[output * grad.channel + x * grad.column];
}

// One row of the gradient for one block of channels. Pixels whose column has the same remainder by
// the stride meet the same taps: they make up the tiles.
void input_row(const InputPlan& plan, const StreamOperations& ops, const float* packed,
               std::int64_t image, std::int64_t block, std::int64_t y,
               std::vector<std::int32_t>& streams, std::vector<std::int32_t>& factors) {
  const Gradient& gradient = plan.gradient;
  const Geometry& g = gradient.geometry;
  const std::int64_t pixel = (image * g.in.y + y) * g.in.x;
  for (std::int64_t px = 0; px < std::min(g.stride.x, g.in.x); ++px) {
    streams.clear();
    factors.clear();
    for (std::int64_t ky = (y + g.padding.y) % g.stride.y; ky < g.kernel.y; ky += g.stride.y) {
      const std::int64_t oy = (y + g.padding.y - ky) / g.stride.y;
      if (y + g.padding.y < ky || oy >= g.out.y) continue;
      for (std::int64_t kx = (px + g.padding.x) % g.stride.x; kx < g.kernel.x; kx += g.stride.x) {
        const std::int64_t ox = (px + g.padding.x - kx) / g.stride.x;  // exact, may be negative
        streams.push_back(
            static_cast<std::int32_t>((ky * g.kernel.x + kx) * g.outputs * kChannelLanes));
        factors.push_back(static_cast<std::int32_t>(oy * plan.row + plan.left + ox));
      }
    }
    StreamTask task{};
    task.stream = gradient.weight + block * g.taps() * g.outputs * kChannelLanes;
    task.stream_step = kChannelLanes;
    task.factor = packed + image * g.out.y * plan.row;
    task.factor_step = plan.columns;
    task.stream_offsets = streams.data();
    task.factor_offsets = factors.data();
    task.segments = static_cast<int>(streams.size());
    task.steps = static_cast<int>(g.outputs);
    task.fixed = gradient.x + (pixel + px) * g.channels + block * kChannelLanes;
    task.fixed_step = g.stride.x * g.channels;
    task.out = gradient.result + (task.fixed - gradient.x);
    task.out_step = task.fixed_step;
    task.count = static_cast<int>(ceil_div(g.in.x - px, g.stride.x));
    task.lanes =
        static_cast<int>(std::min<std::int64_t>(g.channels - block * kChannelLanes, kChannelLanes));
    gradient.sign ? ops.sign(task) : ops.clip(task);
  }
}

void image_gradient(const Gradient& gradient) {
  const Geometry& g = gradient.geometry;
  const InputPlan plan(gradient);
  const StreamOperations& ops = operations();
  const int threads = useful_threads(g.terms(), kGrain, gradient.threads);
  const std::int64_t grad_rows = g.images * g.out.y;
  float* packed = workspace<float>(Slot::activations, grad_rows * plan.row);
  const std::int64_t pack_step = parts_per_task(grad_rows, 1, threads);
  parallel_for(ceil_div(grad_rows, pack_step), threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * pack_step;
    for (std::int64_t row = first; row < std::min(first + pack_step, grad_rows); ++row)
      pack_gradient_row(plan, ops, row / g.out.y, row % g.out.y, packed + row * plan.row);
  });

  const std::int64_t step = parts_per_task(g.in.y, g.images * plan.blocks, threads);
  const std::int64_t pieces = ceil_div(g.in.y, step);
  parallel_for(g.images * plan.blocks * pieces, threads, [&](std::size_t index) {
    std::vector<std::int32_t> streams, factors;
    const std::int64_t first = static_cast<std::int64_t>(index) % pieces * step;
    const std::int64_t block = static_cast<std::int64_t>(index) / pieces % plan.blocks;
    const std::int64_t image = static_cast<std::int64_t>(index) / pieces / plan.blocks;
    for (std::int64_t y = first; y < std::min(first + step, g.in.y); ++y)
      input_row(plan, ops, packed, image, block, y, streams, factors);
  });
}

// ---- with respect to w

// A row of x with its padding, channels filled up to whole blocks.
void pack_input_row(const Gradient& gradient, std::int64_t image, std::int64_t row,
                    std::int64_t columns, std::int64_t step, float* out) {
  const Geometry& g = gradient.geometry;
  const std::int64_t y = row - g.padding.y;
  for (std::int64_t column = 0; column < columns; ++column, out += step) {
    const std::int64_t at = column - g.padding.x;
    const bool inside = 0 <= y && y < g.in.y && 0 <= at && at < g.in.x;
    const float* pixel = gradient.x + ((image * g.in.y + y) * g.in.x + at) * g.channels;
    const std::int64_t valid = inside ? g.channels : 0;
    if (valid) std::copy_n(pixel, valid, out);
    std::fill_n(out + valid, step - valid, 0.0f);
  }
}

}  // namespace

void input_gradient(const Gradient& gradient) {
  const Geometry& g = gradient.geometry;
  if (g.images == 0 || g.in.y == 0 || g.in.x == 0) return;
  each_image(g.images, useful_threads(g.terms(), kGrain, gradient.threads),
             [&](std::int64_t image, int threads) {
               const std::int64_t first = image * g.in.y * g.in.x * g.channels;
               Gradient one = gradient;
               one.geometry.images = 1;
               one.threads = threads;
               one.x += first;
               one.result += first;
               one.grad.data += image * gradient.grad.image;
               image_gradient(one);
             });
}

void weight_sign_gradient(const Gradient& gradient) {
  const Geometry& g = gradient.geometry;
  const StreamOperations& ops = operations();
  const int threads = useful_threads(g.terms(), kGrain, gradient.threads);
  const std::int64_t blocks = ceil_div(g.channels, kChannelLanes);
  const std::int64_t step = blocks * kChannelLanes;
  const std::int64_t columns = (g.out.x - 1) * g.stride.x + g.kernel.x;
  const std::int64_t rows = (g.out.y - 1) * g.stride.y + g.kernel.y;
  float* packed = workspace<float>(Slot::activations, g.images * rows * columns * step);
  parallel_for(g.images, threads, [&](std::size_t task) {
    const std::int64_t image = static_cast<std::int64_t>(task);
    for (std::int64_t row = 0; row < rows; ++row)
      pack_input_row(gradient, image, row, columns, step,
                     packed + (image * rows + row) * columns * step);
  });

  std::vector<std::int32_t> streams, factors;  // the rows of an image's result
  for (std::int64_t y = 0; y < g.out.y; ++y) {
    streams.push_back(static_cast<std::int32_t>(y * g.stride.y * columns * step));
    factors.push_back(static_cast<std::int32_t>(y * g.out.x * g.outputs));
  }
  parallel_for(blocks * g.taps(), threads, [&](std::size_t index) {
    const std::int64_t block = static_cast<std::int64_t>(index) / g.taps();
    const std::int64_t tap = static_cast<std::int64_t>(index) % g.taps();
    const std::int64_t filters = static_cast<std::int64_t>(index) * g.outputs * kChannelLanes;
    StreamTask task{};
    task.stream_step = g.stride.x * step;
    task.factor_step = g.outputs;
    task.stream_offsets = streams.data();
    task.factor_offsets = factors.data();
    task.segments = static_cast<int>(g.out.y);
    task.steps = static_cast<int>(g.out.x);
    task.fixed = gradient.weight + filters;
    task.fixed_step = kChannelLanes;
    task.out = gradient.result + filters;
    task.out_step = kChannelLanes;
    task.count = static_cast<int>(g.outputs);
    task.lanes = kChannelLanes;
    for (std::int64_t image = 0; image < g.images; ++image) {
      task.stream = packed + image * rows * columns * step + block * kChannelLanes +
                    (tap / g.kernel.x * columns + tap % g.kernel.x) * step;
      task.factor = gradient.grad.data + image * g.out.y * g.out.x * g.outputs;
      task.add = image > 0;
      ops.sign(task);
    }
  });
}

}  // namespace compactnets::adder
