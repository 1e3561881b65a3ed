// Products of int8 with N:M sparse weights, by gathering bytes: layout, and what each instruction set
// implements of it.
//
// The pattern: of every m neighbouring inputs (m divides 64) at most n have a weight, for every
// output. So of 64 inputs each output has at most 64 n / m weights, in `quads` of four.
//
// The trick: a vector register holds 64 inputs of one pixel (or row), and vpermb picks any 64 bytes of
// it by 64 indices: for 16 outputs the 4 inputs of a quad. vpdpbusd multiplies them by the quad's
// weights and adds them up per output. One index vector and one weight vector, loaded, serve all
// pixels of a tile; nothing depends on where in the 64 inputs the weights are.
//
// Packed weight [panel of 16 outputs][chunk of 64 inputs][quad][128 bytes]: 64 indices (byte
//   4 l + j: weight j of the quad of output l), then 64 weights. Weights stand in the order of their
//   inputs; where an output has fewer, weight 0 at index 0. Of an index the low 6 bits count.
// Tiles, for the matrix unit only: the same weights dense, [pair of panels][chunk][2048 bytes], laid
//   out as multiply_block in common/amx.hpp wants them.
// Chunks of a convolution: tap by tap, the channels of a tap in 64s (the last one padded).
// Activations are unsigned, x = code - zero, [row][column][channel] with the channels padded to 64:
//     sum x * w = sum code * w - zero * sum w.
#pragma once
#include <cstdint>

namespace compactnets::nm {

constexpr int kLanes = 16;
constexpr int kChunk = 64;
constexpr int kQuadBytes = 128;
constexpr int kTilePairBytes = 2048;

// Some pixels, pixel_step bytes apart, for all panels.
struct Task {
  const std::uint8_t* x;         // first pixel, first tap
  std::int64_t pixel_step;
  const std::int32_t* offsets;   // of each chunk, from a pixel's x
  int chunks, quads;
  std::int64_t pixels;
  const std::uint8_t* weight;    // first panel
  const std::uint8_t* tiles;     // or nullptr
  std::int64_t outputs;
  const float* scale;            // (outputs,)
  const std::int32_t* excess;    // (outputs,): zero * sum of the weights
  const float* bias;             // (outputs,) or nullptr
  const float* x_scale;          // of the first pixel
  std::int64_t x_scale_step;     // 1: every pixel has its own, 0: one for all
  float* out;                    // first pixel
  std::int64_t out_step;
};

// out = (float(dot) * scale) * x_scale + bias, each operation rounded.
using Multiply = void (*)(const Task& task);

extern const Multiply portable_multiply;
extern const Multiply avx2_multiply;
extern const Multiply avx512_multiply;
extern const Multiply amx_multiply;

enum class Kind { floats, signed_codes, unsigned_codes };

struct Size2 {
  std::int64_t y, x;
};

// Everything a call needs; a linear layer is a 1x1 convolution of images of one pixel.
struct Conv {
  Kind kind;
  const void* x;                 // (images, height, width, channels) dense
  std::int64_t images;
  Size2 in, out, kernel, stride, padding;
  std::int64_t channels, outputs;
  float x_scale;                 // of given codes; floats: one per image, from its largest magnitude
  const float* x_scales;         // of given codes, one per image, in place of x_scale; or nullptr
  int zero;                      // of unsigned codes
  const std::uint8_t* weight;
  const std::uint8_t* tiles;     // or nullptr
  int quads;
  const float* scale;
  const std::int32_t* weight_sums;
  const float* bias;
  float* y;                      // (images, out.y, out.x, outputs) dense
  int threads;
};

void conv(const Conv& call);

}  // namespace compactnets::nm
