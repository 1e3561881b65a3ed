// Linear layers with weights of 4 or 2 bits and int8 activations: layout, and what each instruction
// set implements of it.
//
// A weight is scale * (code - zero), its code 0 .. 2^bits - 1 (ternary: 0, 1, 2 with zero = 1).
// With the codes unsigned and the activations signed, vpdpbusd multiplies both as they are, and
//     sum x * (code - zero) = sum x * code - zero * sum x
// takes the share of `zero` out again, exactly, once per row of x.
//
// Packed weight [block][step][64 bytes]: a step is 4 inputs; byte 4 l + j of a step belongs to
//   input 4 * step + j and holds, in its 8 / bits fields from the low bits up, the codes of the
//   outputs l, 16 + l, ... of the block, which has 16 * 8 / bits outputs. So 4 values of x,
//   broadcast, meet 16 outputs per field at once, and there is no horizontal sum. Inputs are padded
//   to a multiple of 64 (x with zeros there), outputs to whole blocks.
// A block is one run of memory, read once, front to back: at 1 token the weights are the work.
//
// Nested masks: fields need not be moved into place. With b & 0x0f and b itself as operands,
//     sum x * b - sum x * (b & 0x0f) = 16 * sum x * high
// gives the high field by a subtraction and one shift of the sum, at the end; 2-bit fields likewise
// by the masks 03, 0f, 3f, ff. Sums are taken modulo 2^32 and the differences fit 32 bits up to
// 65536 inputs: exact.
#pragma once
#include <cstdint>

namespace compactnets::lowbit {

constexpr int kLanes = 16;
constexpr int kStepInputs = 4;
constexpr int kStepBytes = kLanes * kStepInputs;
constexpr int kPadding = 64;              // inputs are padded to a multiple of it: one AMX tile
constexpr std::int64_t kMostInputs = 65536;

// Some blocks of outputs for all rows of x.
struct Task {
  int bits, zero;
  std::int64_t rows, x_step;     // bytes from row to row: the padded inputs
  const std::int8_t* x;          // readable up to a multiple of 32 rows
  const float* x_scale;          // of each row
  const std::int32_t* x_sums;    // [row][group]
  int groups, group_steps;       // groups of inputs with a scale of their own, steps of each
  int blocks;
  std::int64_t block_bytes;
  const std::uint8_t* weight;    // first block
  std::int64_t outputs;          // valid ones from the first block's first, at least 1
  const float* scale;            // [group], scale_step apart, of the first block's first output
  std::int64_t scale_step;
  const float* bias;             // or nullptr
  float* out;                    // first row, first block's first output
  std::int64_t out_step;
};

// out = (sum over groups, in order, of float(dot) * scale) * x_scale + bias, each operation rounded.
struct Operations {
  void (*multiply)(const Task& task);
  std::int32_t (*sum)(const std::int8_t* x, std::int64_t count);  // count: a multiple of 32
  int blocks_at_once[5];  // by bits: what one task should have at least
};

extern const Operations portable_operations;
extern const Operations avx2_operations;
extern const Operations avx512_operations;
extern const Operations amx_operations;

// Everything a call needs; see lowbit_linear.
struct Linear {
  int bits, zero;
  std::int64_t rows, inputs, outputs;
  const float* x;               // (rows, inputs) dense, or nullptr:
  const std::int8_t* x_codes;   // already int8, with x_codes_scale for all rows or for each
  const float* x_codes_scale;
  bool scale_per_row;
  const std::uint8_t* weight;
  const float* scale;           // (groups, outputs)
  int groups;
  const float* bias;            // (outputs,) or nullptr
  float* y;                     // (rows, outputs) dense
  int threads;
};

void linear(const Linear& call);

}  // namespace compactnets::lowbit
