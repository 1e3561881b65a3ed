// Sizes of a convolution, and how its work is cut into tasks.
#pragma once
#include <cstdint>

#include "common/team.hpp"

namespace compactnets::adder {

struct Size2 {
  std::int64_t y, x;
};

struct Geometry {
  std::int64_t images, channels, outputs;
  Size2 in, out, kernel, stride, padding;

  std::int64_t taps() const { return kernel.y * kernel.x; }
  double terms() const {
    return static_cast<double>(images * out.y * out.x) * static_cast<double>(outputs * channels) *
           static_cast<double>(taps());
  }
};

// An image as it comes: steps in elements between neighbours along each axis.
template <typename T>
struct Strided {
  const T* data;
  std::int64_t image, channel, row, column;
};

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Cuts `parts` so that all threads have several tasks: one that is delayed then costs little.
inline std::int64_t parts_per_task(std::int64_t parts, std::int64_t others, int threads) {
  if (threads <= 1) return parts;
  std::int64_t pieces = 8 * threads / (others > 0 ? others : 1);
  pieces = pieces < 1 ? 1 : pieces > parts ? parts : pieces;
  return ceil_div(parts, pieces);
}

// Threads worth waking: about `grain` terms each pay for the hand-over.
inline int useful_threads(double terms, double grain, int threads) {
  const double useful = terms / grain;
  return useful < 1.0 ? 1 : useful < threads ? static_cast<int>(useful) : threads;
}

// body(image, threads) for each image: many images side by side with a thread each, whose packed
// image then stays in that thread's cache; a few one after the other with all threads. What is
// computed for an image depends on that image alone.
template <typename Body>
void each_image(std::int64_t images, int threads, const Body& body) {
  if (threads > 1 && images >= 2 * threads)
    return parallel_for(static_cast<std::size_t>(images), threads,
                        [&](std::size_t image) { body(static_cast<std::int64_t>(image), 1); });
  for (std::int64_t image = 0; image < images; ++image) body(image, threads);
}

}  // namespace compactnets::adder
