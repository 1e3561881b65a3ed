// 3-D convolution 3x3x3, stride 1, by Winograd's F(2x2x2, 3x3x3): 64 products for 8 outputs in
// place of 216. Minimal filtering: arXiv:1509.09308; sparsity per position: arXiv:2301.11180.
//
// A tile is 2x2x2 outputs, read from 4x4x4 inputs d. Along each axis the input becomes B'd, the
// weight Gg, their products are summed over channels, and A' of the sums are the outputs:
//
//        | 1  0 -1  0 |        |  1    0    0  |
//   B' = | 0  1  1  0 |    G = | 1/2  1/2  1/2 |    A' = | 1  1  1  0 |
//        | 0 -1  1  0 |        | 1/2 -1/2  1/2 |         | 0  1 -1 -1 |
//        | 0  1  0 -1 |        |  0    0    1  |
//
// The 64 positions of a transformed tile, p = 16 (depth) + 4 (row) + (column), never mix: per
// position a dense product M_p (tiles x outputs) = V_p (tiles x channels) U_p. Column sparsity
// keeps at each position a subset of the channels: rows of U_p that are absent are never met.
//
// Lanes are channels in both transforms (no shuffles) and outputs in the product, which walks over
// the kept channels: one broadcast of V and two rows of U feed a tile of accumulators.
//
// V and M are eight times as large as input and output, and stores that miss the first-level cache
// cost four times those that hit. So work goes by blocks of some tens of tiles, and only what is
// transformed along depth and rows lies in memory (the second-level cache). The last axis, which
// doubles it, exists for one position at a time: position p = 4 i + column, where i is one of the
// 16 pairs (depth, row), is made of two columns of X, multiplied, and added to one or two of the
// two columns of Y straight from the accumulators. M is never stored.
//
//   X  [i][channel / 64][column of pixels][64]   rows of 64: addresses with constant steps
//   V  [channel / 64][tile][64]                  for one position
//   Y  [i][output / 64][tile][2][64]
//   U  [position][panel][kept channel][32]       the last panel may be 16 wide
#pragma once
#include <cstdint>

namespace compactnets::winograd {

constexpr int kPositions = 64;
constexpr int kRow = 64;    // floats from row to row of X and V, between the columns of Y
constexpr int kPanel = 32;  // outputs of a panel of U

// Neighbouring tiles along one row of the image: 4x4 rows of pixels (depth, row) go into X.
struct InputStrip {
  const float* rows[16];       // column 0 of each; a row of zeros where it lies outside
  std::int64_t column_step;    // floats from pixel to pixel; channels are contiguous
  std::int64_t first_column;   // of the strip; negative in the padding
  std::int64_t columns;        // of the image
  int channels, tiles;         // 2 tiles + 2 columns
  float* x;                    // row of the first column
  std::int64_t i_step, block_step;  // of X: to the next (depth, row), to the next 64 channels
};

// The same tiles for one position, from X to V.
struct Spread {
  const float* x;               // row of the strip's first column
  float* v;                     // row of the first tile
  std::int64_t x_block_step, v_block_step;
  int channels, tiles, column;
};

// The product of all tiles of the block at one position with one panel, added to Y.
struct Product {
  const float* v;
  const std::int32_t* offsets;  // of each kept channel in the first row of V
  int kept, tiles, width;       // width: 16 or 32 outputs
  const float* u;
  float* y;
  int column;
};

// The tiles of a strip, from Y to the image.
struct OutputStrip {
  const float* folded;          // Y: row of the first tile
  std::int64_t i_step;
  const float* bias;            // of these outputs; never nullptr
  float* y;                     // first output of the first tile
  std::int64_t depth_step, row_step, column_step;
  int depths, rows;             // 1 or 2: how much of the tiles lies inside
  std::int64_t columns;         // up to 2 a tile
  int outputs, tiles;           // at most 64 outputs
};

struct Operations {
  void (*transform_input)(const InputStrip& strip);
  void (*spread)(const Spread& spread);
  void (*multiply)(const Product& product);
  void (*transform_output)(const OutputStrip& strip);
};

extern const Operations portable_operations;
extern const Operations avx2_operations;
extern const Operations avx512_operations;

struct Size3 {
  std::int64_t z, y, x;
};

struct Conv {
  const float* x;  // (images, channels, in.z, in.y, in.x), channel stride 1
  std::int64_t image_step, depth_step, row_step, column_step;
  std::int64_t images, channels, outputs;
  Size3 in, out, padding;
  const float* u;
  const bool* keep;   // (64, channels)
  const float* bias;  // (outputs,) or nullptr
  float* y;           // (images, outputs, out.z, out.y, out.x), channels last, dense
  int threads;
};

void winograd3d(const Conv& conv);

}  // namespace compactnets::winograd
