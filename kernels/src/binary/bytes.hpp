// 1-bit convolution on an int8 matrix unit: signs of activations as bytes, weights as bits.
//
// A unit that multiplies 16 pixels x 64 bytes by 64 bytes x 16 channels in 16 cycles does some
// 1000 products a cycle; popcounts reach 410 (see conv.hpp). So each sign becomes a byte of +1 or
// -1 when the image is copied, and each weight a byte of +64 or -64 just before it is used: in
// memory weights stay what pack_weight made of them, 1 bit each. Sums come out times 64, exactly.
//
// Byte image [image][plane][slice][row][column][64 bytes]: a slice is 64 channels of one group, the
//   last one of a group filled up. Padding of either kind is 0 and adds nothing: there is no table
//   of corrections. 16 neighbouring pixels of a slice are one dense tile, and all taps of a window
//   meet within a few KiB. Every stride.y-th row and stride.x-th column make one plane, so that
//   neighbouring pixels of the output lie side by side whatever the stride; a slice flattened is
//   one long row of pixels, of which only the last columns of each row, where a window would run
//   over the edge, are computed in vain.
// A step is one tap of one slice: 64 bytes of depth, two words of the packed weight, or the last
//   word of a tap alone (its upper 32 bytes of the image are 0).
#pragma once
#include <cstdint>

#include "binary/conv.hpp"

namespace compactnets::binary {

constexpr int kStepBytes = 64;
constexpr int kPixelBlock = 64;  // pixels whose sums the unit holds at a time

struct ByteLayout {
  int groups;
  int channels;             // of one group
  int slices;               // of one group
  std::int64_t slice_step;  // bytes from slice to slice
};

struct Step {
  std::int32_t image;   // bytes from the first tap of the first slice
  std::int32_t weight;  // words within the block
  bool pair;
};

constexpr int kTogether = 4;  // blocks whose channels of a pixel are written together, or 1
constexpr int kKept = 40;  // tiles of weights that a task expands once and keeps, 1 KiB each
constexpr int kBlockSums = kPixelBlock * kLanes + 16;  // not to meet in one set of the cache

// Some rows of one image, flattened, for neighbouring blocks of output channels of one group.
struct ByteTask {
  const std::int8_t* image;     // where the first tap of the first pixel lies
  const Step* steps;
  int step_count;
  const std::uint32_t* weight;  // of the first block
  std::int64_t weight_step;     // words from block to block
  int blocks, together;         // the second divides the first
  int pixels;                   // flattened; the last one is output
  int pitch, width;             // pixels of a row, and how many of them are output
  Result result;                // where the first pixel belongs; channels, scale ... of all blocks
  std::int8_t* expanded;        // scratch: kKept KiB
  std::int32_t* sums;           // scratch: 2 * together * kBlockSums
};

struct ByteOperations {
  // As Operations::pack, to bytes of +1 and -1: a pixel's share of each slice.
  void (*pack)(const float* x, std::int64_t x_step, std::int64_t pixels, const float* input_shift,
               const ByteLayout& layout, std::int8_t* bytes);
  // The same from bits, 1 for -1: a pixel is groups x ceil(channels / 32) words.
  void (*spread)(const std::uint32_t* words, std::int64_t pixels, const ByteLayout& layout,
                 std::int8_t* bytes);
  void (*convolve)(const ByteTask& task);
};

extern const ByteOperations amx_operations;

// What binary_conv2d does, on bytes. For sums of up to 2^24 products.
void convolve_bytes(const Conv& conv, const ByteOperations& ops);

// Whether that is the faster way for this layer.
bool bytes_pay(const Conv& conv);

}  // namespace compactnets::binary
