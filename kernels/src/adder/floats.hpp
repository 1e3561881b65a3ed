// fp32 adder convolution, y = -sum |x - w| over a window: layouts, and what each instruction set
// implements of it.
//
// The maximum in place of the distance. |x - w| = 2 max(x, w) - x - w, so that a term costs two
// vector operations (maximum, addition) and not three (difference, sign, addition); the sums of x
// over a window and of w over a filter are cheap. What that costs is accuracy where the two sides
// of the identity are much larger than the distance (data far from zero, close to each other), and
// it turns an infinite distance into infinity - infinity. Both are noticed: non-finite sums before
// anything is computed, cancellation after it, from the largest result beside the largest sum. Then
// the call computes the distances themselves.
//
// Accumulators are added to a second level every kFold terms: errors grow with that number and the
// number of folds, not with the number of terms.
//
// Image   [row][phase][channel][column]: columns whose index has the same remainder by the stride
//         are neighbours, so that the pixels of a tile are neighbouring floats, which enter one by
//         one as broadcast operands.
// Weight  [block of 16 outputs][tap, channel][16 lanes], and behind each block its sums over all
//         taps and channels. Spare lanes are 0.
#pragma once
#include <cstdint>

#include "adder/geometry.hpp"

namespace compactnets::adder {

constexpr int kLanes = 16;  // outputs of a block
constexpr int kFold = 64;   // terms between two folds (a whole number of channels' terms, at least)

// A row of output pixels for one block of outputs, or several neighbouring ones.
struct DistanceTask {
  const float* image;         // first channel of the first tap at the first pixel
  std::int64_t channel_step;  // floats from one channel to the next
  int channels;
  const std::int32_t* taps;  // float offset of each tap
  int tap_count;
  const float* weight;       // the first block
  std::int64_t block_step;   // floats from one block to the next
  const float* window_sums;  // per pixel: sum of x over its window
  const float* scale;        // per lane, 16 to a block, or null (1)
  const float* bias;         // the same, zeros where there is none
  float* out;
  std::int64_t out_step;  // floats from one pixel to the next
  int pixels;
  int outputs;  // valid ones
  float* largest;  // [2]: raised to the largest |2 sum max| and |sum of distances|
};

struct FloatOperations {
  // Blocks that a call of `distances` takes at once for rows of so many pixels.
  int (*blocks_at_once)(int pixels);
  void (*distances)(const DistanceTask& task, bool direct);
  // out[c * plane + p] = x[p * x_step + c]
  void (*transpose)(const float* x, std::int64_t x_step, std::int64_t pixels,
                    std::int64_t channels, float* out, std::int64_t plane);
};

extern const FloatOperations portable_float_operations;
extern const FloatOperations avx2_float_operations;
extern const FloatOperations avx512_float_operations;

struct FloatConv {
  Geometry geometry;
  Strided<float> x;
  const float* weight;
  const float* scale;  // (outputs,) or null
  const float* bias;   // (outputs,) or null
  float* y;            // (images, outputs, out.y, out.x), channels_last, dense
  bool direct;         // never use the identity
  int threads;
};

// y = -sum |x - w|, or scale * that + bias.
void convolve_floats(const FloatConv& conv);

}  // namespace compactnets::adder
