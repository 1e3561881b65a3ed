// Gradients of the fp32 adder convolution that no matrix product gives:
//   to x: sum over filters and taps of h(w - x) g, h the hard tanh (clip to -1 .. 1) or the sign
//   to w: sum over positions of sign(x - w) g
// Both are one kernel. Lanes are 16 input channels. A tile fixes several vectors (pixels of x; or
// filters at one tap) and lets a stream of vectors pass by (all filters, tap by tap; or all pixels
// that the tap meets); each meets every fixed one, and what comes out is weighted by one number g
// per pair, whose neighbours along the tile are neighbours in memory.
//
// Weight (and its gradient)  [block of 16 channels][tap][output][16 lanes], spare lanes 0.
// g to x   [image][row][output][column], with zeros around where windows reach beyond the image.
// x to w   [image][row][column][channels, a whole number of blocks], padded.
#pragma once
#include <cstdint>

#include "adder/geometry.hpp"

namespace compactnets::adder {

constexpr int kChannelLanes = 16;

struct StreamTask {
  const float* stream;       // 16 lanes of the first step
  std::int64_t stream_step;  // floats from step to step
  const float* factor;       // g of the first step and the first fixed vector
  std::int64_t factor_step;  // floats from step to step
  const std::int32_t* stream_offsets;  // where each segment of the stream begins
  const std::int32_t* factor_offsets;  // and its g
  int segments;
  int steps;           // of each segment
  const float* fixed;  // first fixed vector
  std::int64_t fixed_step;
  float* out;  // out[p] = sum of h(stream - fixed[p]) * factor[p], added to what is there if `add`
  std::int64_t out_step;
  int count;  // fixed vectors
  int lanes;  // valid ones, of fixed and out
  bool add;
};

struct StreamOperations {
  void (*clip)(const StreamTask& task);
  void (*sign)(const StreamTask& task);
  // out[c * plane + p] = x[p * x_step + c]
  void (*transpose)(const float* x, std::int64_t x_step, std::int64_t pixels,
                    std::int64_t channels, float* out, std::int64_t plane);
};

extern const StreamOperations portable_stream_operations;
extern const StreamOperations avx2_stream_operations;
extern const StreamOperations avx512_stream_operations;

// x, grad: channels_last and dense; so are the results.
struct Gradient {
  Geometry geometry;
  const float* x;
  const float* weight;  // (blocks, taps, outputs, 16)
  Strided<float> grad;  // of the loss with respect to y
  float* result;        // of x's shape; or (blocks, taps, outputs, 16)
  bool sign;            // to x: sign in place of the hard tanh
  int threads;
};

void input_gradient(const Gradient& gradient);
void weight_sign_gradient(const Gradient& gradient);

}  // namespace compactnets::adder
