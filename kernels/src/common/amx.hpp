// The int8 matrix unit (AMX): eight tiles of 16 rows by 64 bytes. _tile_dpb*d(C, A, B) adds to
// C (16 x 16 int32) the product of A (16 rows of 64 bytes) and B (16 rows of 4 x 16 bytes: row k
// holds, for each of 16 columns, the four values of depth 4k .. 4k+3). Only amx*.cpp include this.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace compactnets {

// Gives all eight tiles their full size while it lives, on the thread that made it. To be made
// inside each task of a parallel loop: the configuration belongs to a thread, costs some tens of
// cycles, and a thread with live tiles pays for them at every context switch.
class FullTiles {
 public:
  FullTiles() {
    alignas(64) struct {
      std::uint8_t palette, start_row, reserved[14];
      std::uint16_t bytes_of_row[16];
      std::uint8_t rows[16];
    } config{};
    config.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      config.bytes_of_row[tile] = 64;
      config.rows[tile] = 16;
    }
    _tile_loadconfig(&config);
  }
  ~FullTiles() { _tile_release(); }
  FullTiles(const FullTiles&) = delete;
  FullTiles& operator=(const FullTiles&) = delete;
};

}  // namespace compactnets
