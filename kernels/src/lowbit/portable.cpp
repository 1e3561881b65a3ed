// Any CPU: one row by one block at a time, in loops that the compiler can vectorize.
#include <algorithm>

#include "lowbit/linear.hpp"

namespace compactnets::lowbit {
namespace {

// sums[field][lane] = sum over the steps of code * x.
template <int Bits>
void add_products(const std::uint8_t* weight, const std::int8_t* x, int steps,
                  std::int32_t (&sums)[8 / Bits][kLanes]) {
  constexpr int kFields = 8 / Bits, kMask = (1 << Bits) - 1;
  for (auto& field : sums) std::fill(field, field + kLanes, 0);
  for (int step = 0; step < steps; ++step, weight += kStepBytes, x += kStepInputs)
    for (int field = 0; field < kFields; ++field)
      for (int lane = 0; lane < kLanes; ++lane) {
        const std::uint8_t* four = weight + 4 * lane;
        const int shift = field * Bits;
        sums[field][lane] += ((four[0] >> shift) & kMask) * x[0] +
                             ((four[1] >> shift) & kMask) * x[1] +
                             ((four[2] >> shift) & kMask) * x[2] +
                             ((four[3] >> shift) & kMask) * x[3];
      }
}

template <int Bits>
void multiply_block(const Task& t, int block, std::int64_t row) {
  constexpr int kFields = 8 / Bits, kOutputs = kFields * kLanes;
  const std::uint8_t* weight = t.weight + block * t.block_bytes;
  const std::int8_t* x = t.x + row * t.x_step;
  const std::int64_t first = static_cast<std::int64_t>(block) * kOutputs;
  const int valid = static_cast<int>(std::min<std::int64_t>(kOutputs, t.outputs - first));
  float totals[kOutputs] = {};
  for (int group = 0; group < t.groups; ++group) {
    std::int32_t sums[kFields][kLanes];
    add_products<Bits>(weight, x, t.group_steps, sums);
    const std::int32_t excess = t.zero * t.x_sums[row * t.groups + group];
    const float* scale = t.scale + group * t.scale_step + first;
    for (int o = 0; o < valid; ++o)
      totals[o] += static_cast<float>(sums[o / kLanes][o % kLanes] - excess) * scale[o];
    weight += t.group_steps * kStepBytes;
    x += t.group_steps * kStepInputs;
  }
  float* out = t.out + row * t.out_step + first;
  for (int o = 0; o < valid; ++o) {
    const float scaled = totals[o] * t.x_scale[row];
    out[o] = t.bias ? scaled + t.bias[first + o] : scaled;
  }
}

void multiply(const Task& t) {
  for (int block = 0; block < t.blocks; ++block)
    for (std::int64_t row = 0; row < t.rows; ++row)
      t.bits == 4 ? multiply_block<4>(t, block, row) : multiply_block<2>(t, block, row);
}

std::int32_t sum(const std::int8_t* x, std::int64_t count) {
  std::int32_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) total += x[i];
  return total;
}

}  // namespace

const Operations portable_operations = {multiply, sum, {0, 0, 1, 0, 1}};

}  // namespace compactnets::lowbit
