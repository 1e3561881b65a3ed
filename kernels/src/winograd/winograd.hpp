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
// the kept channels: one broadcast of V and two rows of U feed a tile of accumulators. Work goes by
// blocks of some tens of tiles, so that V (64 positions x tiles x channels) and M, eight times as
// large as input and output, never leave the second-level cache:
//
//   V [position][channel / 64][tile][64]     rows 256 bytes apart: addresses with constant steps
//   M [position][tile][64]                   of 64 outputs at a time
//   U [position][panel][kept channel][32]    the last panel may be 16 wide
#pragma once
#include <cstdint>

namespace compactnets::winograd {

constexpr int kPositions = 64;
constexpr int kRow = 64;    // floats from row to row of V and M
constexpr int kPanel = 32;  // outputs of a panel of U

// Neighbouring tiles along one row of the image: its 4x4 rows of pixels (depth, row) go into V.
struct InputStrip {
  const float* rows[16];       // column 0 of each; a row of zeros where it lies outside
  std::int64_t column_step;    // floats from pixel to pixel; channels are contiguous
  std::int64_t first_column;   // of the first tile; negative in the padding
  std::int64_t columns;        // of the image
  int channels, tiles;
  float* v;                    // row of the first tile
  std::int64_t position_step, block_step;  // of V: to the next position, to the next 64 channels
  float* scratch;              // 16 vectors for each of 2 tiles + 2 columns
};

// M_p of some tiles for one panel.
struct Product {
  const float* v;
  const std::int32_t* offsets;  // of each kept channel in the first row of V
  int kept, tiles, width;       // width: 16 or 32 outputs
  const float* u;
  float* m;
};

// The same tiles, from M to the image.
struct OutputStrip {
  const float* m;
  std::int64_t position_step;
  const float* bias;            // of these outputs; never nullptr
  float* y;                     // first output of the first tile
  std::int64_t depth_step, row_step, column_step;
  int depths, rows;             // 1 or 2: how much of the tiles lies inside
  std::int64_t columns;         // up to 2 a tile
  int outputs, tiles;           // at most 64 outputs
};

struct Operations {
  void (*transform_input)(const InputStrip& strip);
  void (*multiply)(const Product& product);
  void (*transform_output)(const OutputStrip& strip);
};

extern const Operations portable_operations;
#ifdef COMPACTNETS_X86
extern const Operations avx2_operations;
extern const Operations avx512_operations;
#endif

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
