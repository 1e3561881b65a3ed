// Shift convolution: every channel of an image moves by whole pixels, zeros come in at the border.
//
//   y[n, c, i, j] = x[n, c, i + dy[c], j + dx[c]], 0 outside
//
// Nothing is computed, so the layout is everything, and copies of whole stretches of memory are as
// good on every processor as the C library's memcpy. Values are bytes of any element type.
//
// Channels first: within a plane, row ends touch row beginnings, so that a shifted plane is one
// stretch of memory, apart from |dx| columns into which the neighbouring row has leaked; these are
// overwritten with zeros while they are in the first-level cache.
// Channels last: a run of neighbouring channels with one shift moves together, pixel by pixel; if
// all move together the image is a plane of pixels and goes the first way.
#pragma once
#include <cstdint>

namespace compactnets::transform {

struct Shift {
  const char* x;
  char* y;
  const std::int32_t* shifts;  // (channels, 2): dy, dx
  std::int64_t images, channels, height, width;
  std::int64_t item;           // bytes of an element
  bool channels_last;          // both x and y; dense either way
  int threads;
};

void shift(const Shift& task);

}  // namespace compactnets::transform
