// What the running machine can do: loops that do nothing but one kind of step, from registers or the
// first-level cache, and plain reads. Kernels are judged by their share of these rates.
//
// A loop has enough independent accumulators to hide every latency, and its operands are made
// opaque to the compiler (`asm`), which would otherwise take them out of the loop.
#pragma once
#include <cstdint>

namespace compactnets::roofline {

// Does `steps` steps and returns how many operations those were.
using Loop = double (*)(std::int64_t steps);

// nullptr: the path has no such loop. MAC: one multiply and add.
struct Loops {
  Loop fp32_fma;       // MAC
  Loop int8_dot;       // MAC, uint8 by int8 into int32
  Loop int8_gather;    // the same with a byte permutation before each (N:M sparsity)
  Loop bit_pairs;      // bits compared and counted, by the pair trick of binary/conv.hpp
  Loop fp32_max_add;   // max and add, floating point
  Loop fp32_umax_add;  // max as unsigned integers, add by FMA with 1
  Loop int8_max_add;   // max of bytes, add by a dot product with 1
  Loop int8_sad;       // differences of bytes in sliding windows, those that count: 3 of 4
  void (*read)(const void* memory, std::int64_t bytes);  // a multiple of 512 bytes
};

extern const Loops portable_loops;
extern const Loops avx2_loops;
extern const Loops avx512_loops;
extern const Loops amx_loops;

}  // namespace compactnets::roofline
