#include "binary/results.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "common/workspace.hpp"

namespace compactnets::binary {

static_assert(std::endian::native == std::endian::little, "blocks write halves of words");

Results::Results(const Conv& conv)
    : conv_(conv),
      blocks_of_group_(conv.blocks_of_group()),
      blocks_(conv.blocks()),
      words_((conv.outputs() + kWordBits - 1) / kWordBits) {
  if (conv.threshold == nullptr) {
    spread(conv.scale, scale_);
    spread(conv.bias, bias_);
    return;
  }
  spread(conv.threshold, threshold_);
  const std::int64_t pixels = conv.images * conv.out.y * conv.out.x;
  if (conv.layout.groups > 1 && conv.group_outputs % kLanes != 0)
    apart_ = workspace<std::uint16_t>(Slot::products, pixels * blocks_);
  else if (blocks_ % 2 != 0)  // nobody writes the upper half of the last word
    std::memset(conv.y_signs, 0, static_cast<std::size_t>(pixels * words_) * sizeof(*conv.y_signs));
}

Result Results::at(std::int64_t block, std::int64_t pixel) const {
  Result result{};
  result.channels = outputs_of(block);
  if (conv_.threshold == nullptr) {
    result.scale = scale_.data() + block * kLanes;
    result.bias = bias_.data() + block * kLanes;
    result.out_step = conv_.outputs();
    result.out = conv_.y + pixel * result.out_step + first_output(block);
    return result;
  }
  result.threshold = threshold_.data() + block * kLanes;
  result.bits_step = apart_ ? blocks_ : 2 * words_;
  result.bits = apart_ ? apart_ : reinterpret_cast<std::uint16_t*>(conv_.y_signs);
  result.bits += pixel * result.bits_step + block;
  return result;
}

void Results::finish() const {
  if (apart_ == nullptr) return;
  const std::int64_t pixels = conv_.images * conv_.out.y * conv_.out.x;
  std::memset(conv_.y_signs, 0, static_cast<std::size_t>(pixels * words_) * sizeof(*conv_.y_signs));
  for (std::int64_t p = 0; p < pixels; ++p)
    for (std::int64_t block = 0; block < blocks_; ++block) {
      const std::uint64_t bits = apart_[p * blocks_ + block];
      const std::int64_t first = first_output(block);
      std::uint32_t* word = conv_.y_signs + p * words_ + first / kWordBits;
      const std::uint64_t shifted = bits << (first % kWordBits);
      word[0] |= static_cast<std::uint32_t>(shifted);
      if (shifted >> kWordBits) word[1] |= static_cast<std::uint32_t>(shifted >> kWordBits);
    }
}

std::int64_t Results::first_output(std::int64_t block) const {
  return block / blocks_of_group_ * conv_.group_outputs + block % blocks_of_group_ * kLanes;
}

int Results::outputs_of(std::int64_t block) const {
  const std::int64_t left = conv_.group_outputs - block % blocks_of_group_ * kLanes;
  return static_cast<int>(std::min<std::int64_t>(left, kLanes));
}

// Zeros in the spare lanes, or everywhere without values.
template <typename T>
void Results::spread(const T* values, std::vector<T>& lanes) const {
  lanes.assign(static_cast<std::size_t>(blocks_ * kLanes), T{});
  if (!values) return;
  for (std::int64_t block = 0; block < blocks_; ++block)
    std::copy_n(values + first_output(block), outputs_of(block), lanes.data() + block * kLanes);
}

std::uint32_t bits_from(const std::uint32_t* pixel, std::int64_t first, int count) {
  const std::int64_t word = first / kWordBits;
  const int shift = static_cast<int>(first % kWordBits);
  std::uint64_t bits = pixel[word] >> shift;
  if (shift + count > kWordBits)  // the next word exists: it holds some of these bits
    bits |= static_cast<std::uint64_t>(pixel[word + 1]) << (kWordBits - shift);
  return static_cast<std::uint32_t>(bits & ((1ull << count) - 1));
}

}  // namespace compactnets::binary
