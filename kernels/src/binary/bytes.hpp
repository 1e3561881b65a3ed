// 1-bit convolution on an int8 matrix unit: signs of activations as bytes, weights as bits.
//
// A unit that multiplies 16 pixels x 64 bytes by 64 bytes x 16 channels in 16 cycles does some
// 1000 products a cycle; popcounts reach 410 (see conv.hpp). So each sign becomes a byte of +1 or -1
// when the image is copied, and each weight a byte of +64 or -64 just before it is used: in memory
// weights stay what pack_weight made of them, 1 bit each. Sums come out times 64, exactly.
//
// Byte image [image][plane][row][column][group][byte]: a group's channels are padded to a multiple
//   of 64 bytes. Padding of either kind is 0 and adds nothing: there is no table of corrections.
//   Every stride.y-th row and stride.x-th column make one plane, so that neighbouring pixels of the
//   output lie side by side whatever the stride, and the plane flattened is one long row of pixels:
//   only the last columns of each of its rows, where a window would run over the edge, are computed
//   in vain.
// A step is 64 bytes of depth, two words of the packed weight: first the pairs of all taps, then the
//   last words of all taps if their number is odd (its upper 32 bytes of the image are 0).
#pragma once
#include <cstdint>

#include "binary/conv.hpp"

namespace compactnets::binary {

constexpr int kStepBytes = 64;
constexpr int kPixelBlock = 64;  // pixels whose sums the unit holds at a time

struct ByteLayout {
  int groups;
  int channels;  // of one group
  int bytes;     // of one group, a multiple of 64
};

// Some rows of one image, flattened, for one block of 16 output channels.
struct ByteTask {
  const std::int8_t* image;     // where the first tap of the first pixel lies
  std::int64_t pixel_step;      // bytes from one flattened pixel to the next
  const std::int32_t* offsets;  // of each step within the image
  int pairs, singles;           // steps of two words and of one
  const std::uint32_t* weight;  // the block's pairs, then its single words
  int pixels;                   // flattened; the last one is output
  int pitch, width;             // pixels of a row, and how many of them are output
  Result result;                // where the first pixel belongs
};

struct ByteOperations {
  // As Operations::pack, to bytes of +1 and -1 with zeros behind each group.
  void (*pack)(const float* x, std::int64_t x_step, std::int64_t pixels, const float* input_shift,
               const ByteLayout& layout, std::int8_t* bytes);
  // The same from bits, 1 for -1: a pixel is groups x ceil(channels / 32) words.
  void (*spread)(const std::uint32_t* words, std::int64_t pixels, const ByteLayout& layout,
                 std::int8_t* bytes);
  void (*convolve)(const ByteTask& task);
};

#ifdef COMPACTNETS_X86
extern const ByteOperations amx_operations;
#endif

// What binary_conv2d does, on bytes. For sums of up to 2^24 products.
void convolve_bytes(const Conv& conv, const ByteOperations& ops);

// Whether that is the faster way for this layer.
bool bytes_pay(const Conv& conv);

}  // namespace compactnets::binary
