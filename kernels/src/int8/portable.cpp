// Plain C++: a position at a time, 32 columns at a time; the compiler makes vectors of it.
#include "int8/plain.hpp"

namespace compactnets::int8 {
namespace {

// acc[c] += the quads of one step for 16 columns.
inline void add_tile(const std::uint8_t* x, const std::int8_t* weight, int quads,
                     std::int32_t* acc) {
  for (int quad = 0; quad < quads; ++quad, x += kQuad, weight += 16 * kQuad) {
    const std::int32_t x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
    for (int c = 0; c < 16; ++c)
      acc[c] += x0 * weight[4 * c] + x1 * weight[4 * c + 1] + x2 * weight[4 * c + 2] +
                x3 * weight[4 * c + 3];
  }
}

void multiply(const Product& p, std::int64_t first, std::int64_t last, std::int64_t first_block,
              std::int64_t last_block) {
  for (std::int64_t block = first_block; block < last_block; ++block) {
    const std::int8_t* weight = p.weight + block * p.block_bytes();
    Runs runs(p, first, last, 1);
    std::int64_t position, stored;
    for (int count; runs.next(position, stored, count);) {
      std::int32_t acc[kColumns] = {};
      const std::uint8_t* x = p.image + position * p.x_step;
      for (int s = 0; s < p.steps; ++s) {
        const std::int8_t* tiles = weight + s * std::int64_t{kStepBytes};
        add_tile(x + p.offsets[s], tiles, p.quads[s], acc);
        add_tile(x + p.offsets[s], tiles + kTileBytes, p.quads[s], acc + 16);
      }
      finish_row(p.finish, acc, sums_of(p, weight), block * kColumns, columns_of(p, block), stored,
                 result(p, stored, block * kColumns));
    }
  }
}

}  // namespace

const Operations portable_operations = {plain_quantize, plain_largest, plain_flip, multiply,
                                        plain_depthwise, 3e5, 1e5};

}  // namespace compactnets::int8
