// 8-bit adder convolution, y = -sum |x - w| over a window: layouts, and what each instruction set
// implements of it.
//
// Codes of x and w share scale and zero point, so their differences are the real ones; signed codes
// are moved up by 128, which changes no difference. There are two ways through a convolution, by
// its geometry alone, so that a packed weight fits every processor:
//
// Sliding (stride 1, at least 3 taps in a row). x86 has an instruction for the search of moving
//   blocks in video: the sums of absolute differences of 4 bytes with 4 neighbouring windows of 4
//   bytes. It yields 128 differences in an instruction, twice as many as the sum over 8 bytes, of
//   which 3 of 4 count where the kernel is 3 wide. The fourth tap's weight is 0: it adds the byte
//   of the image itself, |a - 0| = a, and those bytes are summed once over all channels and taken
//   out again, exactly.
//   Image   [channel][plane]: rows of one channel behind each other, with one gap of `padding`
//           columns between two rows: right padding of the one, left padding of the next. All
//           positions of an image form one line, in which a row's last few are computed in vain.
//   Weight  [block of 16 outputs][step][8][2][4 bytes]: a step is 4 taps of a row of the kernel
//           for one channel (channel by channel, in it row by row); 8 pairs (output l, output
//           8 + l).
// Plain (any other). Sums over 8 bytes, which are 8 channels of one tap.
//   Image   [row][phase][group of 8 channels][column][8 bytes]: columns whose index has the same
//           remainder by the stride are neighbours, so that the pixels of a tile always are.
//   Weight  [block of 16 outputs][step][16][8 bytes]: steps tap by tap, in it group by group. Spare
//           bytes are 0 on both sides.
//
// Both leave int32 sums [position][16 outputs] of a tile in scratch memory (in the first-level
// cache), from where `finish` writes what the caller wants.
#pragma once
#include <cstdint>

#include "adder/geometry.hpp"

namespace compactnets::adder {

constexpr int kBlock = 16;       // outputs of a block
constexpr int kQuad = 4;         // taps of a sliding step
constexpr int kGroup = 8;        // channels of a plain step
constexpr int kSlideStep = 64;   // bytes of a sliding step's weights
constexpr int kPlainStep = 128;  // bytes of a plain step's weights
constexpr int kTileRows = 64;    // positions that a tile's scratch memory has room for

// A tile of the sliding way: outputs 0..7 at positions 0 .. 2 pairs - 1 go to rows of the same index
// of sums; outputs 8..15 `lag` positions and rows further on. Of a lag of 2 the first two rows and
// the two behind the last are half filled: neighbouring tiles complete them.
struct SlideTask {
  const std::uint8_t* image;    // byte of the first tap at position 0
  const std::int32_t* offsets;  // from there to each step's first byte
  int steps;
  const std::uint8_t* weight;  // the block's steps
  int pairs;                   // 1 .. most_pairs
  std::int32_t* sums;          // [2 * pairs + lag][16]
};

struct PlainTask {
  const std::uint8_t* image;  // 8 bytes of the first step at the first pixel
  const std::int32_t* offsets;
  int steps;
  const std::uint8_t* weight;
  int pixels;          // 1 .. kTileRows, 8 bytes from one to the next
  std::int32_t* sums;  // [pixels][16]
};

// out = scale * value + bias with value = correction - sum, or value itself where scale is null.
struct FinishTask {
  const std::int32_t* sums;        // [pixels][16]
  const std::int32_t* correction;  // [pixels] or null
  const float* scale;              // 16 entries or null
  const float* bias;               // 16 entries
  void* out;                       // float, or int32 where scale is null
  std::int64_t out_step;           // elements from one pixel to the next
  int pixels;
  int outputs;  // valid ones, 1 .. 16
};

struct ByteOperations {
  int most_pairs;  // of a sliding tile: 2 * most_pairs + lag <= kTileRows
  int lag;         // 0 or 2, see SlideTask
  // out[c * plane + p] = x[p * x_step + c] ^ flip
  void (*transpose)(const std::uint8_t* x, std::int64_t x_step, std::int64_t pixels,
                    std::int64_t channels, std::uint8_t flip, std::uint8_t* out,
                    std::int64_t plane);
  // sums[p] = sum over c of planes[c * plane + p]
  void (*sum_planes)(const std::uint8_t* planes, std::int64_t plane, std::int64_t channels,
                     std::int64_t pixels, std::int32_t* sums);
  void (*slide)(const SlideTask& task);
  void (*plain)(const PlainTask& task);
  void (*finish)(const FinishTask& task);
};

extern const ByteOperations portable_byte_operations;
extern const ByteOperations avx2_byte_operations;
extern const ByteOperations avx512_byte_operations;

// Whether a convolution takes the sliding way.
inline bool slides(const Geometry& g) {
  return g.stride.y == 1 && g.stride.x == 1 && g.kernel.x >= 3;
}

struct ByteConv {
  Geometry geometry;
  Strided<std::uint8_t> x;
  std::uint8_t flip;         // 128 for signed codes, else 0
  std::uint8_t padding;      // the code of zero, after the flip
  const std::uint8_t* weight;
  const float* scale;  // (outputs,) or null: then y is int32
  const float* bias;   // (outputs,) or null
  void* y;             // (images, outputs, out.y, out.x), channels_last, dense
  int threads;
};

// y = -sum |x - w|, or scale * that + bias.
void convolve_bytes(const ByteConv& conv);

}  // namespace compactnets::adder
