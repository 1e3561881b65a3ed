// 1-bit convolution along a tree of output channels, with 512 output places ("pixels") in a word.
//
// The input lies in bit planes: plane t = (c, ky, kx) has a bit for each pixel of a tile, 1 where the
// input seen there is not negative. A channel is a number per pixel, kept as bit slices in two's
// complement: Q = sum over w_t = +1 of b_t - sum over w_t = -1 of b_t, so that with a = 2 b - 1
//
//   y = sum_t w_t a_t = 2 Q - sum_t w_t      and along an edge      Q_j = Q_i + 2 sum_(t in D) w_jt b_t
//
// where D are the places at which the two kernels differ. So a channel begins with its parent's
// slices and adds one plane per differing place: carry-save adders, two logic operations a plane where
// there are instructions of three operands. Subtracting is adding between two complements: Q - c is
// ~(~Q + c).
//
// Zero padding: a place outside counts as b = 0, that is a = -1; pixels that have such places get the
// sum of w_t over them added at the end, which is the same for all pixels of one kind, that is with
// the same places outside.
#pragma once
#include <cstdint>

namespace compactnets::tree {

constexpr int kPixels = 512;        // of a tile
constexpr int kWords = kPixels / 64;
constexpr int kLevels = 24;         // slices of a channel at most, with room for carries
constexpr int kMostWeights = 16383;  // of a kernel: sums fit 16 bits

struct TreeConv {
  const float* x;                // (images, channels, height, width)
  float* y;                      // (images, outputs, out_height, out_width)
  const std::int32_t* places;    // of each channel: first those with w = -1, then those with +1
  const std::int32_t* starts;    // (2 outputs + 1): where these lists begin in `places`
  const std::int32_t* plan;      // (outputs, 2): channel and parent (-1: none), parents first
  const std::int32_t* sums;      // (outputs, taps): sum of w over the input channels
  const float* scale;            // (outputs)
  const float* bias;             // (outputs) or nullptr
  const float* input_shift;      // (channels) or nullptr
  std::int64_t images, channels, height, width, outputs, out_height, out_width;
  std::int64_t kernel[2], stride[2], padding[2], dilation[2];
  int threads;
};

void tree_conv2d(const TreeConv& task);

// The channels of one tile.
struct Tile {
  const std::uint64_t* planes;   // (n, kWords)
  std::uint64_t* slices;         // (outputs, levels, kWords): scratch
  int levels;
};

struct Operations {
  // Slices of channel j from those of its parent (-1: none).
  void (*channel)(const TreeConv& task, const Tile& tile, std::int64_t j, std::int64_t parent);
  // values[i] = 2 Q_i + added[kinds[i]] for all pixels of a tile; `count` values in `added`.
  void (*unslice)(const std::uint64_t* slices, int levels, const std::uint16_t* kinds,
                  const std::int16_t* added, int count, std::int16_t* values);
  // y[i] = scale * values[i] (+ *bias).
  void (*finish)(const std::int16_t* values, std::int64_t count, float scale, const float* bias,
                 float* y);
  // Bit i of words is x[i] + shift >= 0; whole words are written, spare bits 0.
  void (*signs)(const float* x, float shift, std::int64_t count, std::uint64_t* words);
};

extern const Operations portable_operations;
extern const Operations avx2_operations;
extern const Operations avx512_operations;

}  // namespace compactnets::tree
