// The matrix unit: a block of 2x2 tiles with the four loads that it needs, from the first-level cache.
#include "common/amx.hpp"
#include "roofline/roofline.hpp"

namespace compactnets::roofline {
namespace {

double int8_dot(std::int64_t steps) {
  alignas(64) static const std::int8_t kOperands[4][1024] = {};
  const FullTiles tiles;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t s = 0; s < steps; ++s) {
    _tile_loadd(4, kOperands[0], 64);
    _tile_loadd(5, kOperands[1], 64);
    _tile_loadd(6, kOperands[2], 64);
    _tile_loadd(7, kOperands[3], 64);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  return static_cast<double>(steps) * 4 * 16 * 16 * 64;
}

}  // namespace

const Loops amx_loops = {nullptr, int8_dot, nullptr, nullptr, nullptr,
                         nullptr, nullptr,  nullptr, nullptr};

}  // namespace compactnets::roofline
