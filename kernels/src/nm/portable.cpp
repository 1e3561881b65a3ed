// Any CPU: one pixel by one panel at a time.
#include <algorithm>

#include "nm/sparse.hpp"

namespace compactnets::nm {
namespace {

void multiply_panel(const Task& t, std::int64_t pixel, std::int64_t panel) {
  const std::uint8_t* x = t.x + pixel * t.pixel_step;
  const std::uint8_t* weight = t.weight + panel * t.chunks * t.quads * kQuadBytes;
  std::int32_t sums[kLanes] = {};
  for (int chunk = 0; chunk < t.chunks; ++chunk) {
    const std::uint8_t* from = x + t.offsets[chunk];
    for (int quad = 0; quad < t.quads; ++quad, weight += kQuadBytes) {
      const auto* values = reinterpret_cast<const std::int8_t*>(weight + kChunk);
      for (int lane = 0; lane < kLanes; ++lane)
        for (int j = 4 * lane; j < 4 * lane + 4; ++j) sums[lane] += from[weight[j] & (kChunk - 1)] * values[j];
    }
  }
  const std::int64_t first = panel * kLanes;
  const int valid = static_cast<int>(std::min<std::int64_t>(kLanes, t.outputs - first));
  const float x_scale = t.x_scale[pixel * t.x_scale_step];
  for (int lane = 0; lane < valid; ++lane) {
    const std::int64_t o = first + lane;
    const float scaled = static_cast<float>(sums[lane] - t.excess[o]) * t.scale[o] * x_scale;
    t.out[pixel * t.out_step + o] = t.bias ? scaled + t.bias[o] : scaled;
  }
}

void multiply(const Task& t) {
  for (std::int64_t pixel = 0; pixel < t.pixels; ++pixel)
    for (std::int64_t panel = 0; panel * kLanes < t.outputs; ++panel)
      multiply_panel(t, pixel, panel);
}

}  // namespace

const Multiply portable_multiply = multiply;

}  // namespace compactnets::nm
