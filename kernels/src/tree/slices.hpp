// What is written once for words of any width. W has: Type, kCount (64-bit words in it), load, store,
// zero, flip (complement), and add(a, b, c): a becomes the sum of three bits, the carry is returned.
#pragma once
#include "tree/conv.hpp"

namespace compactnets::tree {
namespace {

// Adds planes to the first `top` slices in acc, each plane with weight 2^level.
template <typename W>
inline void add_planes(typename W::Type* acc, int level, int top, const std::uint64_t* planes,
                       const std::int32_t* places, std::int32_t count) {
  using V = typename W::Type;
  V pending[kLevels];     // a word per level that waits for a second one
  unsigned waiting = 0;
  const auto push = [&](V word, int at) {
    while (waiting >> at & 1) {
      waiting &= ~(1u << at);
      word = W::add(acc[at], pending[at], word);
      ++at;
    }
    pending[at] = word;
    waiting |= 1u << at;
  };
  const auto plane = [&](std::int32_t i) {
    return W::load(planes + static_cast<std::int64_t>(places[i]) * kWords);
  };
  std::int32_t i = 0;
  V ones = acc[level], twos = acc[level + 1], fours = acc[level + 2];
  for (; i + 8 <= count; i += 8) {
    const V a = W::add(ones, plane(i), plane(i + 1));
    const V b = W::add(ones, plane(i + 2), plane(i + 3));
    const V c = W::add(twos, a, b);
    const V d = W::add(ones, plane(i + 4), plane(i + 5));
    const V e = W::add(ones, plane(i + 6), plane(i + 7));
    const V f = W::add(twos, d, e);
    push(W::add(fours, c, f), level + 3);
  }
  acc[level] = ones, acc[level + 1] = twos, acc[level + 2] = fours;
  for (; i < count; ++i) push(plane(i), level);
  V carry = W::zero();
  for (int at = level; at < top; ++at)
    carry = W::add(acc[at], waiting >> at & 1 ? pending[at] : W::zero(), carry);
}

template <typename W>
void channel(const TreeConv& task, const Tile& tile, std::int64_t j, std::int64_t parent) {
  const std::int32_t* starts = task.starts + 2 * j;
  const std::int64_t size = static_cast<std::int64_t>(tile.levels) * kWords;
  for (int part = 0; part < kWords; part += W::kCount) {
    typename W::Type acc[kLevels];
    const int top = tile.levels;  // what is carried beyond, is lost
    for (int k = 0; k < top + 3; ++k)
      acc[k] = parent >= 0 && k < top ? W::load(tile.slices + parent * size + k * kWords + part)
                                      : W::zero();
    const int level = parent >= 0 ? 1 : 0;
    const std::uint64_t* planes = tile.planes + part;
    if (starts[1] > starts[0]) {
      for (int k = 0; k < top; ++k) acc[k] = W::flip(acc[k]);
      add_planes<W>(acc, level, top, planes, task.places + starts[0], starts[1] - starts[0]);
      for (int k = 0; k < top; ++k) acc[k] = W::flip(acc[k]);
    }
    if (starts[2] > starts[1])
      add_planes<W>(acc, level, top, planes, task.places + starts[1], starts[2] - starts[1]);
    for (int k = 0; k < top; ++k)
      W::store(tile.slices + j * size + k * kWords + part, acc[k]);
  }
}

// 2^(level + 1), negative for the last slice, which is the sign.
inline int weight_of(int level, int levels) {
  return level == levels - 1 ? -(2 << level) : 2 << level;
}

inline void finish(const std::int16_t* values, std::int64_t count, float scale, const float* bias,
                   float* y) {
  if (bias) {
    const float offset = *bias;
    for (std::int64_t i = 0; i < count; ++i) y[i] = scale * static_cast<float>(values[i]) + offset;
  } else {
    for (std::int64_t i = 0; i < count; ++i) y[i] = scale * static_cast<float>(values[i]);
  }
}

// For processors without masks: 16 pixels of a slice at a time.
inline void unslice_bits(const std::uint64_t* slices, int levels, const std::uint16_t* kinds,
                         const std::int16_t* added, int, std::int16_t* values) {
  for (int i = 0; i < kPixels; ++i) values[i] = added[kinds[i]];
  for (int k = 0; k < levels; ++k) {
    const auto weight = static_cast<std::int16_t>(weight_of(k, levels));
    for (int part = 0; part < 4 * kWords; ++part) {
      const auto bits = static_cast<std::uint16_t>(slices[k * kWords + part / 4] >> 16 * (part % 4));
      for (int i = 0; i < 16; ++i) {
        const auto chosen = static_cast<std::uint16_t>(1 << i);
        values[16 * part + i] += static_cast<std::int16_t>((bits & chosen) == chosen ? weight : 0);
      }
    }
  }
}

inline void sign_bits(const float* x, float shift, std::int64_t count, std::uint64_t* words) {
  for (std::int64_t begin = 0; begin < count; begin += 64) {
    std::uint64_t word = 0;
    const std::int64_t end = count - begin < 64 ? count - begin : 64;
    for (std::int64_t i = 0; i < end; ++i)
      word |= static_cast<std::uint64_t>(x[begin + i] + shift >= 0) << i;
    words[begin / 64] = word;
  }
}

}  // namespace
}  // namespace compactnets::tree
