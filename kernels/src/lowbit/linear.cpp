// Activations to int8 row by row, then tasks of some blocks of outputs each.
#include "lowbit/linear.hpp"

#include <algorithm>
#include <cstring>

#include "common/isa.hpp"
#include "common/quantize.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::lowbit {
namespace {

const Operations& operations() {
  return pick<Operations>(COMPACTNETS_AMX(amx_operations), COMPACTNETS_AVX512(avx512_operations),
                          COMPACTNETS_AVX2(avx2_operations), portable_operations);
}

std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

// Activations as the kernels read them, in this thread's scratch memory.
struct Activations {
  std::int64_t step, padded_rows, group_inputs;
  std::int8_t* codes;
  float* scale;
  std::int32_t* sums;

  explicit Activations(const Linear& c)
      : step(round_up(c.inputs, kPadding)),
        padded_rows(c.rows == 1 ? 1 : round_up(c.rows, 32)),
        group_inputs(c.groups == 1 ? step : c.inputs / c.groups) {
    const std::int64_t code_bytes = padded_rows * step;  // a multiple of 64
    const std::int64_t numbers = c.rows * (1 + c.groups);
    codes = workspace<std::int8_t>(Slot::activations, code_bytes + 4 * numbers);
    scale = reinterpret_cast<float*>(codes + code_bytes);
    sums = reinterpret_cast<std::int32_t*>(scale + c.rows);
  }

  void fill_row(const Linear& c, const Operations& ops, QuantizeRow quantize,
                std::int64_t row) const {
    std::int8_t* to = codes + row * step;
    if (c.x) {
      quantize(c.x + row * c.inputs, c.inputs, step, to, scale + row);
    } else {
      std::memcpy(to, c.x_codes + row * c.inputs, static_cast<std::size_t>(c.inputs));
      std::memset(to + c.inputs, 0, static_cast<std::size_t>(step - c.inputs));
      scale[row] = c.x_codes_scale[c.scale_per_row ? row : 0];
    }
    for (int group = 0; group < c.groups; ++group)
      sums[row * c.groups + group] = ops.sum(to + group * group_inputs, group_inputs);
  }
};

// Threads worth waking: about 2 million products each pay for the hand-over.
int useful_threads(const Linear& c) {
  const double products = static_cast<double>(c.rows) * static_cast<double>(c.inputs) *
                          static_cast<double>(c.outputs);
  return static_cast<int>(std::clamp(products / 2e6, 1.0, static_cast<double>(c.threads)));
}

Task whole(const Linear& c, const Activations& x) {
  Task task{};
  task.bits = c.bits;
  task.zero = c.zero;
  task.rows = c.rows;
  task.x_step = x.step;
  task.x = x.codes;
  task.x_scale = x.scale;
  task.x_sums = x.sums;
  task.groups = c.groups;
  task.group_steps = static_cast<int>(x.group_inputs / kStepInputs);
  task.block_bytes = x.step * kLanes;
  task.scale_step = c.outputs;
  task.out_step = c.outputs;
  return task;
}

}  // namespace

void linear(const Linear& c) {
  if (c.rows == 0 || c.outputs == 0) return;
  const Operations& ops = operations();
  const QuantizeRow quantize = quantize_row();
  const int threads = useful_threads(c);
  const Activations x(c);
  if (c.rows == 1)
    x.fill_row(c, ops, quantize, 0);
  else
    parallel_for(c.rows, threads, [&](std::size_t row) { x.fill_row(c, ops, quantize, row); });
  if (x.padded_rows > c.rows)  // a tile reads all its rows
    std::memset(x.codes + c.rows * x.step, 0,
                static_cast<std::size_t>((x.padded_rows - c.rows) * x.step));

  const std::int64_t block_outputs = kLanes * 8 / c.bits;
  const std::int64_t blocks = (c.outputs + block_outputs - 1) / block_outputs;
  const std::int64_t at_once = threads == 1 && c.rows == 1 ? blocks : ops.blocks_at_once[c.bits];
  const Task all = whole(c, x);
  parallel_for((blocks + at_once - 1) / at_once, threads, [&](std::size_t index) {
    const std::int64_t first = static_cast<std::int64_t>(index) * at_once;
    const std::int64_t output = first * block_outputs;
    Task task = all;
    task.blocks = static_cast<int>(std::min(at_once, blocks - first));
    task.weight = c.weight + first * task.block_bytes;
    task.outputs = std::min(c.outputs - output, task.blocks * block_outputs);
    task.scale = c.scale + output;
    task.bias = c.bias ? c.bias + output : nullptr;
    task.out = c.y + output;
    ops.multiply(task);
  });
}

}  // namespace compactnets::lowbit
