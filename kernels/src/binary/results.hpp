// Where the blocks of 16 output channels of a convolution put their results.
#pragma once
#include <cstdint>
#include <vector>

#include "binary/conv.hpp"

namespace compactnets::binary {

// Per-channel values spread to blocks, and the output itself. Signs of a group whose channels are
// no multiple of 16 do not start at half a word: its blocks then write to scratch memory, from
// which finish() collects them.
class Results {
 public:
  explicit Results(const Conv& conv);

  // What output pixel `pixel` (of all images) and `block` write to.
  Result at(std::int64_t block, std::int64_t pixel) const;

  // To be called after the last block.
  void finish() const;

 private:
  std::int64_t first_output(std::int64_t block) const;
  int outputs_of(std::int64_t block) const;
  template <typename T>
  void spread(const T* values, std::vector<T>& lanes) const;

  const Conv& conv_;
  std::int64_t blocks_of_group_, blocks_, words_;
  std::vector<float> scale_, bias_;  // [block][16]
  std::vector<std::int32_t> threshold_;
  std::uint16_t* apart_ = nullptr;  // [pixel][block] where blocks do not start at half a word
};

// `count` <= 32 bits of a packed pixel from bit `first` on; spare bits are 0.
std::uint32_t bits_from(const std::uint32_t* pixel, std::int64_t first, int count);

}  // namespace compactnets::binary
