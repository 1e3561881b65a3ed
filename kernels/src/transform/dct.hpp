// Blocks of 8x8 pixels into frequencies by the orthonormal DCT-II, times a mask, and back.
//
// One transform of 8 values takes 28 operations when its scale is left out: sums s and differences
// d of opposite values, then for the even frequencies a butterfly and a rotation, for the odd ones
// a symmetric 4x4 matrix with a unit in every row (r_k = cos(k pi / 16) / cos(pi / 16), t = tan
// (pi / 8)):
//
//   F0 = s0+s1+s2+s3               F1 =    d0 + r3 d1 + r5 d2 + r7 d3
//   F4 = s0-s1-s2+s3               F3 = r3 d0 - r7 d1 -    d2 - r5 d3
//   F2 =   (s0-s3) + t (s1-s2)     F5 = r5 d0 -    d1 + r7 d2 + r3 d3
//   F6 = t (s0-s3) -   (s1-s2)     F7 = r7 d0 - r5 d1 + r3 d2 -    d3
//
// The inverse is the transposed flow, 28 operations as well. The scales of both directions, 1/sqrt 8
// (F0, F4), cos(pi/8)/2 (F2, F6) and cos(pi/16)/2, are multiplied into the mask.
//
// A register is a row of one block (8 lanes) or of two neighbours (16): vertical transform, 8x8
// transposition in registers, horizontal transform, mask, and the same way back. The mask is kept
// transposed, so that two transpositions do for both directions.
#pragma once
#include <cstdint>

namespace compactnets::transform {

enum class Mode { mask, forward, inverse };

// A row of blocks of one plane.
struct BlockRow {
  const float* x;
  float* y;
  std::int64_t row_step;  // floats, of x and y
  std::int64_t blocks;
  const float* scale;     // (8, 8) transposed: mask and scales of the transforms
  Mode mode;
};

struct Operations {
  void (*transform)(const BlockRow& row);
};

extern const Operations portable_operations;
extern const Operations avx2_operations;
extern const Operations avx512_operations;

struct Dct {
  const float* x;
  float* y;
  std::int64_t images, channels, height, width;
  const float* mask;         // (masks, 8, 8); nullptr unless the mode is mask
  std::int64_t masks;        // 1 or channels
  Mode mode;
  int threads;
};

void dct(const Dct& task);

}  // namespace compactnets::transform
