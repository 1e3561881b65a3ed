// Sparse weight times dense activations in fp32: layouts, and what each instruction set implements.
//
// Weight    rows of blocks. A block is `block` (1: CSR; 2, 4, 8, 16) consecutive outputs that share
//           one input k, a channel and tap of the kernel: values [blocks][block], index k of each,
//           ascending within a row, and starts [rows + 1].
// Pixels (or tokens) lie in the vector lanes, so that a weight is one broadcast for many products
// and no sum runs across lanes. A tile is T vectors of pixels by N = min(block, 4) outputs:
//     for each block of the row:  x = the T vectors of input k;  sums[n][v] += value[n] * x[v]
// N * T sums stay in registers. With N = 4 a vector of x is loaded once for four products: the
// multipliers are the limit. With N = 1 (CSR) each product needs a load of its own, and the loads
// are: N * T products cost T + N + 1 of them. Wider blocks run as 2 or 4 quarters.
//
// Where x comes from:
//   panel      1x1 convolution, linear: the pixels of one tile are laid out as [k][T vectors],
//              aligned, in the first cache levels, copied or transposed on the fly; step = k
//   in place   1x1 convolution, channels first: step = k in the input itself (the last tile, which
//              would read past the end, goes through a panel)
//   image      k x k or strided convolution: zero-padded planes [channel][phase][row][column].
//              Rows and columns that are equal modulo the stride form a phase, so that one step to
//              the next pixel is one float for any stride, and a tap is a constant offset: no
//              im2col. Pixels run over the padded width; those between rows are thrown away.
//              With groups, k counts within a group; some groups at a time are packed and met by
//              their rows, as many as the first-level cache holds. A depthwise convolution is a
//              group per channel.
// The common depthwise convolution (3x3, nothing dropped) has a loop of its own: depthwise.hpp.
// CSR in pairs: two rows run together, first the inputs that both have, which then cost one load
// for two products, then those of each alone. Rows are paired by how many inputs they share.
// The inputs are cut in `chunks` ranges, all rows of one range before the next, where a tile of x
// would otherwise not stay in the first-level cache; sums then wait in the output.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace compactnets::sparse {

// Two rows of CSR that are computed together, in one range of inputs: steps [shared, alone[0]) with
// two values each, then [alone[0], alone[1]) and [alone[1], alone[2]) of the first and the second
// row alone. values: the first one. A row without a partner is its own, with nothing there.
struct Pair {
  std::int32_t row[2], shared, alone[3];
  std::int64_t values;
};

// Some rows of blocks, one range of inputs, one tile of pixels.
struct TileTask {
  const float* x;             // pixel 0 of the tile, step 0
  std::int64_t pitch;         // floats from one step to the next
  const std::int32_t* steps;  // of each block
  const float* values;        // `block` of each block
  const std::int32_t* first;  // by row: its blocks [first, last) of this range of inputs
  const std::int32_t* last;
  std::int64_t first_row, last_row;  // the rows to compute
  const Pair *pairs, *pairs_end;  // these instead of the rows, if not nullptr
  int block;
  const float* bias;          // by output, or nullptr
  float* y;                   // pixel 0 of output 0
  std::int64_t y_pitch;       // floats from one output to the next
  int vectors;                // T
  int pixels;                 // that are stored: more than T - 1 vectors hold, at most T
  bool resume;                // the sums go on from y, not from the bias
  bool at_least, at_most;     // whether to clamp to [low, infinity), to (-infinity, high]
  float low, high;            // NaN stays NaN
};

// Channels [first, last) of a depthwise convolution; see depthwise.hpp.
struct DepthwiseTask {
  const float* x;       // channel 0 of an image
  const float* values;  // nine of each channel
  const float* bias;    // by channel, or nullptr
  float* y;
  std::int64_t first, last;
  std::int64_t in_y, in_x, out_y, out_x;
  int stride;           // 1 or 2
  bool at_least, at_most;
  float low, high;
};

struct Operations {
  int lanes;
  int widest[3];  // largest T for N = 1, 2, 4
  void (*multiply)(const TileTask& task);
  void (*depthwise)(const DepthwiseTask& task);
  // to[c][r] = from[r][c] for r < rows, c < columns. With `pad`, to[c] is written up to the next
  // full vector: zeros behind the rows.
  void (*transpose)(const float* from, std::int64_t from_pitch, std::int64_t rows,
                    std::int64_t columns, float* to, std::int64_t to_pitch, bool pad);
  // to[r][c] = from[r][c * step] for c < columns, then zeros up to `width`; step is 1 or 2.
  void (*copy)(const float* from, std::int64_t from_pitch, std::int64_t step, std::int64_t rows,
               std::int64_t columns, float* to, std::int64_t to_pitch, std::int64_t width);
};

extern const Operations portable_operations;
extern const Operations avx2_operations;
extern const Operations avx512_operations;
const Operations& operations();  // of the path in use

struct Size2 {
  std::int64_t y, x;
};

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// What a plan is made of. The arrays but index and starts have to live as long as the plan.
struct Product {
  const float* values;
  const std::int32_t* index;
  const std::int32_t* starts;
  const float* bias;  // or nullptr
  std::int64_t rows, blocks, block;
  std::int64_t images, channels, groups;
  Size2 in, out, kernel, stride, padding, dilation;
  bool channels_last;
  float low, high;
  // How: vectors of a tile, ranges of inputs, whether a 1x1 convolution reads its input
  // in place, whether rows of CSR run in pairs.
  int tile, chunks;
  bool in_place, pairs;
  int threads;
};

// A product for one shape of input, ready to run any number of times.
class Plan {
 public:
  explicit Plan(const Product& product);
  // x and y dense, channels_last or channels first as the product says.
  void run(const float* x, float* y) const;

 private:
  struct Tile {
    std::int64_t first;  // pixel
    int vectors, pixels;
  };
  struct Range {
    std::int64_t first, last;
    std::int64_t size() const { return last - first; }
  };
  void list_taps();
  void list_blocks();
  void list_tiles();
  void cut_rows();
  void match_rows();
  void list_pairs();
  bool tile_in_place(const Tile& tile) const;
  std::int64_t panel_floats(const Tile& tile) const;
  void pack_panel(const float* x, const Tile& tile, Range inputs, float* panel) const;
  Range inside(std::int64_t phase_x) const;
  void pack_rows_last(const float* x, float* planes, Range channels, std::int64_t row) const;
  void pack_planes_first(const float* x, float* planes, std::int64_t channel) const;
  void pack_image(const float* x, float* planes, Range channels, int threads) const;
  void multiply(const float* x, std::int64_t pitch, const Tile& tile, Range rows, float* y) const;
  void store_gaps(const float* sums, std::int64_t pitch, const Tile& tile, Range outputs,
                  float* y) const;
  float* planes(std::int64_t channels) const;
  Range slab(std::size_t index) const { return {slabs_[index], slabs_[index + 1]}; }
  void run_pointwise(const float* x, float* y) const;
  void run_image(const float* x, float* y) const;
  void run_groups(const float* x, float* y) const;
  void run_depthwise(const float* x, float* y) const;

  Product p_;
  const Operations& ops_;
  bool pointwise_, depthwise_, gapless_;
  std::int64_t outputs_, pixels_;       // of one image; pixels with those between rows
  Size2 phases_, plane_;                // phases of a channel; rows and columns of a plane
  std::int64_t plane_floats_, channel_floats_;
  std::int64_t group_channels_, group_rows_, batch_;  // batch_: groups packed at a time
  std::vector<std::int64_t> tap_offset_;
  std::vector<std::int32_t> steps_;
  std::vector<std::int32_t> first_, last_;  // [range][row]
  std::vector<std::int64_t> slabs_;         // first row of each slab, and the end
  std::vector<Tile> tiles_;
  std::vector<Pair> pairs_;                 // [range][pair]
  std::vector<std::array<std::int32_t, 2>> partners_;  // rows of each pair
  std::vector<std::int64_t> pair_slabs_;    // first pair of each slab, and the end
  std::vector<std::int32_t> pair_steps_;
  std::vector<float> pair_values_;
  bool shared_panels_;
};

}  // namespace compactnets::sparse
