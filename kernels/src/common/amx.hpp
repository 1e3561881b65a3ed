// The int8 matrix unit (AMX): eight tiles of 16 rows by 64 bytes. _tile_dpb*d(C, A, B) adds to
// C (16 x 16 int32) the product of A (16 rows of 64 bytes) and B (16 rows of 4 x 16 bytes: row k
// holds, for each of 16 columns, the four values of depth 4k .. 4k+3). Only amx*.cpp include this.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace compactnets {

// GCC's tile intrinsics do not tell the compiler that they read memory: what was stored before has
// to be stored by now.
inline void memory_is_written() { asm volatile("" ::: "memory"); }

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
    memory_is_written();
    _tile_loadconfig(&config);
  }
  ~FullTiles() { _tile_release(); }
  FullTiles(const FullTiles&) = delete;
  FullTiles& operator=(const FullTiles&) = delete;
};

// One block of 32 rows by 32 columns, the largest whose operands a step loads once for two uses:
// four tiles of sums, two of A, two of B; 4 loads (8 cycles each) hide behind 4 products (16 cycles).
//   C = sum over steps s of A_s B_s,   C row-major int32, c_step entries from row to row
// A_s: rows 0..15 at upper + offsets[s], rows 16..31 at lower + offsets[s], each row 64 bytes and
// a_step bytes from the one before: rows of a matrix, or neighbouring pixels of an image, where
// offsets[s] walks over taps and channels, so that a convolution needs no im2col.
// B_s: 2048 bytes from b + 2048 s: the tile of columns 0..15, then that of 16..31.
// All 16 rows of a tile are read whether they are used or not: pad the image.
// kAdd: C += the sum, so that a long sum can be cut into parts whose A and B stay in the first-level
// cache while they are used again (8 steps of both are 32 KiB).
template <bool kSignedA, bool kAdd = false>
inline void multiply_block(const void* upper, const void* lower, std::int64_t a_step,
                           const std::int32_t* offsets, int steps, const void* b, std::int32_t* c,
                           std::int64_t c_step) {
  memory_is_written();
  if constexpr (kAdd) {
    _tile_loadd(0, c, c_step * 4);
    _tile_loadd(1, c + 16, c_step * 4);
    _tile_loadd(2, c + 16 * c_step, c_step * 4);
    _tile_loadd(3, c + 16 * c_step + 16, c_step * 4);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const char* weights = static_cast<const char*>(b);
  for (int s = 0; s < steps; ++s, weights += 2048) {
    _tile_loadd(4, static_cast<const char*>(upper) + offsets[s], a_step);
    _tile_loadd(5, static_cast<const char*>(lower) + offsets[s], a_step);
    _tile_loadd(6, weights, 64);
    _tile_loadd(7, weights + 1024, 64);
    if constexpr (kSignedA) {
      _tile_dpbssd(0, 4, 6);
      _tile_dpbssd(1, 4, 7);
      _tile_dpbssd(2, 5, 6);
      _tile_dpbssd(3, 5, 7);
    } else {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  }
  _tile_stored(0, c, c_step * 4);
  _tile_stored(1, c + 16, c_step * 4);
  _tile_stored(2, c + 16 * c_step, c_step * 4);
  _tile_stored(3, c + 16 * c_step + 16, c_step * 4);
  memory_is_written();
}

}  // namespace compactnets
