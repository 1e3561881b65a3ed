// 1-bit convolution: layouts, and what each instruction set implements of it.
//
// A bit is 1 where the value is negative: of two words, popcount(a xor w) counts the products that
// are -1, and a dot product over K channels is K - 2 * popcount.
//
// Packed image  [image][row][column][group][word], rows and columns padded. `words` =
//   ceil(channels of a group / 32). Spare bits and padding are 0, that is +1: a table of
//   corrections (`base`) takes the share of the padding out again, exactly.
// Packed weight [block][step][16 lanes]: a block is 16 output channels of one group, one per lane,
//   so that one word of the image, broadcast, meets 16 channels at once: no im2col, no horizontal
//   sum. Steps: first all pairs of words (tap by tap), then, if `words` is odd, the last word of
//   each tap; behind them the tap sums, sum over a tap of the +-1 weights, int32.
//
// The pair trick. Two differing words x1 = a1^w1 and x2 = a2^w2 enter a carry-save adder with the
// running `ones`: the carry counts twice, the sum becomes the next `ones`. The sum needs only the
// parity x1^x2 = (a1^a2)^(w1^w2), so both sides store pairs as (first, first xor second):
//     parity = w12 ^ a12;  carry = majority(ones, x1, x2) = parity ? ones : x1;  ones ^= parity
// One population count per two words; the result is 2 * sum popcount(carry) + popcount(ones).
#pragma once
#include <cstdint>

namespace compactnets::binary {

constexpr int kLanes = 16;   // output channels of a block
constexpr int kWordBits = 32;

struct PixelLayout {
  int groups;
  int channels;  // of one group
  int words;     // of one group
};

// Where one block's dot products go: to floats, or to the signs that the next 1-bit layer reads.
struct Result {
  int channels;                   // valid lanes, 1..16
  const float* scale;             // the block's 16 entries, as all here
  const float* bias;
  float* out;                     // scale * dot + bias: first pixel, first channel of the block
  std::int64_t out_step;          // floats from one pixel to the next
  const std::int32_t* threshold;  // nullptr: floats
  std::uint16_t* bits;            // bit = dot < threshold; spare lanes 0
  std::int64_t bits_step;         // in 16 bits
};

// One row of output pixels for one block of output channels.
struct RowTask {
  const std::uint32_t* image;         // packed word that the first tap of the first pixel meets
  std::int64_t pixel_step;            // words from one output pixel to the next in the image
  const std::uint32_t* weight;        // the block's steps
  const std::int32_t* pair_offsets;   // word offset of each pair within the image
  int pairs;
  const std::int32_t* single_offsets; // word offset of each unpaired word
  int singles;
  const std::int32_t* base;           // [class][stride base_step]: the block's 16 sums start here
  std::int64_t base_step;
  const std::int32_t* column_class;   // border class of each pixel
  int pixels;
  Result result;
};

struct Operations {
  // Signs of `pixels` pixels, x_step floats apart with their channels contiguous, into words.
  // bit = not (x + input_shift >= 0): NaN counts as negative, both zeros as positive.
  void (*pack)(const float* x, std::int64_t x_step, std::int64_t pixels, const float* input_shift,
               const PixelLayout& layout, std::uint32_t* packed);
  void (*convolve_row)(const RowTask& task);
};

extern const Operations portable_operations;
extern const Operations avx2_operations;
extern const Operations avx512_operations;

struct Size2 {
  std::int64_t y, x;
};

// Everything a call of the convolution needs; see binary_conv2d.
struct Conv {
  // Input: floats (images, channels, height, width) with channel stride 1, or x = nullptr and signs
  // (images, height, width, words), bit c % 32 of word c / 32 for channel c. Steps are in elements.
  const float* x;
  const float* input_shift;       // (channels,) or nullptr; floats only
  const std::uint32_t* signs;
  std::int64_t image_step, row_step, column_step;
  std::int64_t images;
  Size2 in, out, kernel, stride, padding, dilation;
  PixelLayout layout;
  std::int64_t group_outputs;     // output channels of one group
  const std::uint32_t* weight;    // (groups * blocks, steps + taps, 16)
  // Output: floats (images, outputs, out.y, out.x), channels_last and dense, or y = nullptr and
  // signs (images, out.y, out.x, words).
  const float* scale;             // (outputs,)
  const float* bias;              // (outputs,) or nullptr
  float* y;
  const std::int32_t* threshold;  // (outputs,)
  std::uint32_t* y_signs;
  int threads;

  std::int64_t outputs() const { return group_outputs * layout.groups; }
  std::int64_t blocks_of_group() const { return (group_outputs + kLanes - 1) / kLanes; }
  std::int64_t blocks() const { return layout.groups * blocks_of_group(); }
  std::int64_t taps() const { return kernel.y * kernel.x; }
};

// d = conv(sign(x + input_shift), weight), zero padding exact; y = scale * d + bias, or the bit
// d < threshold of each output.
void binary_conv2d(const Conv& conv);

// Signs of the dense (pixels, channels) floats x_step apart as (pixels, words) of the format above.
void pack_signs(const float* x, std::int64_t x_step, std::int64_t pixels, int channels,
                const float* input_shift, std::uint32_t* words, int threads);

}  // namespace compactnets::binary
