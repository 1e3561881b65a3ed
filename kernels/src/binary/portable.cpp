// Any CPU: plain loops over the 16 lanes, which compilers turn into the vectors they have
// (SSE2, NEON, ...). One pixel at a time: 16 counts and 16 `ones` fill a 128-bit register file.
#include <bit>

#include "binary/conv.hpp"

namespace compactnets::binary {
namespace {

void pack(const float* x, std::int64_t x_step, std::int64_t pixels, const float* input_shift,
          const PixelLayout& layout, std::uint32_t* packed) {
  for (std::int64_t p = 0; p < pixels; ++p, x += x_step) {
    for (int c0 = 0, g = 0; g < layout.groups; ++g, packed += layout.words) {
      const int end = c0 + layout.channels;
      for (int word = 0; word < layout.words; ++word) {
        std::uint32_t bits = 0;
        for (int bit = 0; bit < kWordBits && c0 < end; ++bit, ++c0) {
          const float value = input_shift ? x[c0] + input_shift[c0] : x[c0];
          bits |= static_cast<std::uint32_t>(!(value >= 0.0f)) << bit;
        }
        packed[word] = word % 2 ? bits ^ packed[word - 1] : bits;
      }
    }
  }
}

#if defined(__POPCNT__) || defined(__aarch64__)
inline std::uint32_t count_bits(std::uint32_t v) {
  return static_cast<std::uint32_t>(std::popcount(v));
}
#else
// Without an instruction std::popcount is a call; this form vectorizes.
inline std::uint32_t count_bits(std::uint32_t v) {
  v -= (v >> 1) & 0x55555555u;
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0fu;
  v += v >> 8;
  return (v + (v >> 16)) & 0x3fu;
}
#endif

struct Counts {
  std::uint32_t twos[kLanes] = {};
  std::uint32_t ones[kLanes] = {};
};

inline void add_pair(Counts& counts, const std::uint32_t* weight, std::uint32_t first,
                     std::uint32_t both) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const std::uint32_t x1 = weight[lane] ^ first;
    const std::uint32_t parity = weight[kLanes + lane] ^ both;
    const std::uint32_t ones = counts.ones[lane];
    counts.twos[lane] += count_bits(x1 ^ (parity & (x1 ^ ones)));
    counts.ones[lane] = ones ^ parity;
  }
}

inline void add_single(Counts& counts, const std::uint32_t* weight, std::uint32_t word) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const std::uint32_t x1 = weight[lane] ^ word;
    counts.twos[lane] += count_bits(counts.ones[lane] & x1);
    counts.ones[lane] ^= x1;
  }
}

void convolve_row(const RowTask& task) {
  for (int p = 0; p < task.pixels; ++p) {
    const std::uint32_t* image = task.image + p * task.pixel_step;
    const std::uint32_t* weight = task.weight;
    Counts counts;
    for (int i = 0; i < task.pairs; ++i, weight += 2 * kLanes) {
      const std::uint32_t* words = image + task.pair_offsets[i];
      add_pair(counts, weight, words[0], words[1]);
    }
    for (int i = 0; i < task.singles; ++i, weight += kLanes)
      add_single(counts, weight, image[task.single_offsets[i]]);

    const std::int32_t* base = task.base + task.column_class[p] * task.base_step;
    float* out = task.out + p * task.out_step;
    for (int lane = 0; lane < task.channels; ++lane) {
      const auto differing =
          static_cast<std::int32_t>(2 * counts.twos[lane] + count_bits(counts.ones[lane]));
      const auto dot = static_cast<float>(base[lane] - 2 * differing);
      out[lane] = dot * task.scale[lane] + task.bias[lane];
    }
  }
}

}  // namespace

const Operations portable_operations = {pack, convolve_row};

}  // namespace compactnets::binary
