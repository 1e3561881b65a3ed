// int8 products: linear layers and convolutions of uint8 activations with int8 weights.
//
// The image. Activations lie in NHWC order, one byte a value, padding already there as the zero
// point. A convolution is a matrix product whose rows are read where they lie: row (y, x) begins at
// the first tap's byte, and the bytes of a kernel's row (its taps by its channels) follow each other
// (with dilation or groups: those of one tap). So there is no im2col, only an image with a border.
// With a vertical stride s the image is stored as s planes, plane p holding the rows p, p + s, ...;
// then the step from one output row to the next is `pitch` steps between neighbouring pixels, and
// all positions of an image, border columns included, form ONE evenly spaced sequence, of which any
// 16 are a tile of the matrix unit. Positions with x >= width are computed and not stored.
//
// The weight. The bytes of a segment (kernel row or tap) are cut into steps of 64, the last filled
// up with zeros, which meet whatever follows in the image. A block is 32 columns (output channels):
// for each step two tiles of 1024 bytes, columns 0..15 and 16..31, each [16 quads][16 columns][4]:
// a lane's four bytes are what vpdpbusd adds up, a whole tile is what the matrix unit takes. After
// the steps follow the 32 columns' sums (int32): sum (x - zero) w = sum x w - zero sum w, so any
// zero point costs one multiplication per column. One layout serves all instruction sets.
//
// The result. acc is exact in 32 bits up to 65536 values of depth. Then, each step rounded to
// fp32: value = acc * scale + bias (or (acc * row_scale) * scale + bias); ReLU; and for bytes
// round half to even, clamp, + zero point. Equal bits on every path.
#pragma once
#include <cstdint>

namespace compactnets::int8 {

constexpr int kStep = 64;         // bytes of a row that a step takes
constexpr int kQuad = 4;          // bytes that one lane adds up
constexpr int kColumns = 32;      // of a block
constexpr int kTileBytes = 1024;  // 16 quads by 16 columns
constexpr int kStepBytes = 2 * kTileBytes;
constexpr int kSumBytes = kColumns * 4;

// What becomes of an exact sum.
struct Finish {
  const float* scale;      // per column
  const float* bias;       // per column, or nullptr
  const float* row_scale;  // of position 0, or nullptr
  std::int64_t row_scale_step;
  std::int32_t x_zero;
  std::int32_t y_zero;
  float low, high;  // bounds of the value: before y_zero is added, or ReLU's for floats
  bool relu;
  bool bytes;  // the result: bytes (uint8 or int8), else float
};

// One image (or matrix) times one group's blocks.
struct Product {
  const std::uint8_t* image;
  std::int64_t x_step;     // bytes from a position to the next
  std::int64_t width;      // columns that are stored
  std::int64_t pitch;      // positions from a row to the next, >= width
  std::int64_t positions;  // (rows - 1) * pitch + width; no position from there on may be read
  const std::int32_t* offsets;  // of each step, from the position's first byte
  const std::int32_t* quads;    // of each step that are not all zero weights: 1..16
  int steps;
  const std::int8_t* weight;
  std::int64_t columns;
  Finish finish;
  void* y;                  // position 0, column 0
  std::int64_t y_step;      // elements from a stored position to the next

  std::int64_t block_bytes() const {
    return static_cast<std::int64_t>(steps) * kStepBytes + kSumBytes;
  }
};

// Depthwise convolution of one image: channel c of the output sees channel c alone. Weights:
// blocks of 32 channels, [tap][32] bytes, then the sums.
struct Depthwise {
  const std::uint8_t* image;
  std::int64_t x_step, row_step;   // bytes from a position to the next, to the next output row
  std::int64_t width;
  const std::int32_t* offsets;     // of each tap
  int taps;
  const std::int8_t* weight;
  std::int64_t channels;
  Finish finish;
  void* y;
  std::int64_t y_step;
};

struct Operations {
  // out[i] = clamp(round half to even(x[i] * inverse), -zero, 255 - zero) + zero; NaN is 0.
  void (*quantize)(const float* x, std::int64_t count, float inverse, int zero, std::uint8_t* out);
  float (*largest)(const float* x, std::int64_t count);  // max |x|, NaN ignored
  void (*flip)(const std::uint8_t* x, std::int64_t count, std::uint8_t* out);  // x ^ 0x80
  // Positions [first, last), blocks [first_block, last_block).
  void (*multiply)(const Product& product, std::int64_t first, std::int64_t last,
                   std::int64_t first_block, std::int64_t last_block);
  // Output rows [first, last), all channels.
  void (*depthwise)(const Depthwise& task, std::int64_t first, std::int64_t last);
  // Products that take about as long as waking a thread twice.
  double multiply_task, depthwise_task;
};

extern const Operations amx_operations, avx512_operations, avx2_operations, avx2_vnni_operations,
    portable_operations;

// The avx2 path uses AVX-VNNI where the CPU has it, unless told not to (for tests). Returns whether
// it does from now on.
bool use_avx_vnni(bool wanted);

// ---- The whole operator: what bind.cpp fills in and conv.cpp runs. ----

struct Size2 {
  std::int64_t y, x;
};

enum class Input { uint8, int8, float32 };

struct Conv {
  const void* x;  // NHWC, channel step 1
  Input input;
  std::int64_t images, channels, groups, outputs;
  std::int64_t x_image_step, x_row_step, x_column_step;  // elements
  Size2 in, out, kernel, stride, padding, dilation;
  const std::int8_t* packed;
  std::int64_t packed_blocks, packed_bytes;
  const float* scale;
  const float* bias;
  std::int32_t x_zero;
  float x_inverse;  // of a float32 input's scale; 0: found per image, or per row of a matrix
  bool relu;
  bool float_output, signed_output;
  std::int32_t y_zero;
  void* y;
  bool matrix;  // a linear layer: one image of one row, whose pixels are the matrix's rows
  int threads;
};

// Throws std::invalid_argument where packed does not fit.
void int8_conv2d(const Conv& conv);
void quantize(const float* x, std::int64_t count, float inverse, int zero, std::uint8_t* out,
              int threads);

}  // namespace compactnets::int8
