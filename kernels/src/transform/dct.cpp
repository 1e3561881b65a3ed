// What all instruction sets share: scales and the split over threads.
#include "transform/dct.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/isa.hpp"
#include "common/team.hpp"

namespace compactnets::transform {
namespace {

const Operations& operations() {
  return pick<Operations>(nullptr, COMPACTNETS_AVX512(avx512_operations),
                          COMPACTNETS_AVX2(avx2_operations), portable_operations);
}

// What the transform of dct.hpp leaves out of frequency k.
double scale_of(int k) {
  const double pi = std::acos(-1.0);
  if (k % 4 == 0) return std::sqrt(0.125);
  return std::cos(pi / (k % 2 ? 16 : 8)) / 2;
}

// (masks, 8, 8): once the scales for one direction; their squares times the transposed mask for both.
std::vector<float> scales(const Dct& task) {
  std::vector<float> values(64 * task.masks);
  for (std::int64_t m = 0; m < task.masks; ++m)
    for (int u = 0; u < 8; ++u)
      for (int v = 0; v < 8; ++v) {
        const double scale = scale_of(u) * scale_of(v);
        values[64 * m + 8 * v + u] = static_cast<float>(
            task.mask ? scale * scale * task.mask[64 * m + 8 * u + v] : scale);
      }
  return values;
}

}  // namespace

void dct(const Dct& task) {
  const std::int64_t lines = task.height / 8, planes = task.images * task.channels;
  if (planes * lines * task.width == 0) return;
  const Operations& ops = operations();
  const std::vector<float> scale = scales(task);
  // Threads worth waking: some tens of thousand values each pay for the hand-over.
  const double values = static_cast<double>(planes * task.height * task.width);
  const int threads =
      static_cast<int>(std::clamp(values / 3e4, 1.0, static_cast<double>(task.threads)));
  const std::int64_t all = planes * lines;
  const std::int64_t tasks = std::min<std::int64_t>(threads > 1 ? 8 * threads : 1, all);
  parallel_for(tasks, threads, [&](std::size_t index) {
    const std::int64_t from = all * static_cast<std::int64_t>(index) / tasks;
    const std::int64_t to = all * (static_cast<std::int64_t>(index) + 1) / tasks;
    for (std::int64_t line = from; line < to; ++line) {
      const std::int64_t channel = line / lines % task.channels;
      const std::int64_t offset = line * 8 * task.width;
      ops.transform({task.x + offset, task.y + offset, task.width, task.width / 8,
                     scale.data() + 64 * (task.masks == 1 ? 0 : channel), task.mode});
    }
  });
}

}  // namespace compactnets::transform
