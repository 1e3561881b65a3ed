// Loops that the compiler vectorizes well, for each path with its own instructions: every path's
// file includes them. No function of the standard library in here (see kernels/CMakeLists.txt).
#pragma once
#include "int8/product.hpp"

namespace compactnets::int8 {
namespace {

// Rounds half to even, for |value| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline std::int32_t round_even(float value) {
  union {
    float real;
    std::int32_t bits;
  } sum;
  sum.real = value + 12582912.0f;
  return sum.bits - 0x4B400000;
}

inline float clamp(float value, float low, float high) {
  value = value > low ? value : low;  // NaN: low
  return value < high ? value : high;
}

[[maybe_unused]] void plain_quantize(const float* x, std::int64_t count, float inverse, int zero,
                                     std::uint8_t* out) {
  const float low = static_cast<float>(-zero), high = static_cast<float>(255 - zero);
  for (std::int64_t i = 0; i < count; ++i)
    out[i] = static_cast<std::uint8_t>(round_even(clamp(x[i] * inverse, low, high)) + zero);
}

[[maybe_unused]] float plain_largest(const float* x, std::int64_t count) {
  constexpr int kLanes = 64;
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const float size = x[i + lane] < 0.0f ? -x[i + lane] : x[i + lane];
      lanes[lane] = size > lanes[lane] ? size : lanes[lane];
    }
  for (int lane = 0; i < count; ++i, ++lane) {
    const float size = x[i] < 0.0f ? -x[i] : x[i];
    lanes[lane] = size > lanes[lane] ? size : lanes[lane];
  }
  float largest = 0.0f;
  for (float size : lanes) largest = size > largest ? size : largest;
  return largest;
}

[[maybe_unused]] void plain_flip(const std::uint8_t* x, std::int64_t count, std::uint8_t* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<std::uint8_t>(x[i] ^ 0x80);
}

// Stores `columns` <= 32 finished values of one position. sums: the block's, of the weights.
inline void finish_row(const Finish& finish, const std::int32_t* acc, const std::int32_t* sums,
                       std::int64_t first_column, int columns, std::int64_t position, void* y) {
  const float* scale = finish.scale + first_column;
  float values[kColumns];
  for (int c = 0; c < columns; ++c)
    values[c] = static_cast<float>(static_cast<std::int32_t>(
        static_cast<std::uint32_t>(acc[c]) - static_cast<std::uint32_t>(finish.x_zero) *
                                                 static_cast<std::uint32_t>(sums[c])));
  if (finish.row_scale) {
    const float row_scale = finish.row_scale[position * finish.row_scale_step];
    for (int c = 0; c < columns; ++c) values[c] *= row_scale;
  }
  for (int c = 0; c < columns; ++c) values[c] *= scale[c];
  if (finish.bias)
    for (int c = 0; c < columns; ++c) values[c] += finish.bias[first_column + c];
  if (finish.bytes) {
    auto* out = static_cast<std::uint8_t*>(y);
    for (int c = 0; c < columns; ++c)
      out[c] = static_cast<std::uint8_t>(round_even(clamp(values[c], finish.low, finish.high)) +
                                         finish.y_zero);
    return;
  }
  auto* out = static_cast<float*>(y);
  if (finish.relu)
    for (int c = 0; c < columns; ++c) out[c] = values[c] < 0.0f ? 0.0f : values[c];  // NaN stays
  else
    for (int c = 0; c < columns; ++c) out[c] = values[c];
}

// Where a position's values go.
inline void* result(const Product& p, std::int64_t stored, std::int64_t column) {
  const std::int64_t index = stored * p.y_step + column;
  return p.finish.bytes ? static_cast<void*>(static_cast<std::uint8_t*>(p.y) + index)
                        : static_cast<void*>(static_cast<float*>(p.y) + index);
}

inline int columns_of(const Product& p, std::int64_t block) {
  const std::int64_t left = p.columns - block * kColumns;
  return left < kColumns ? static_cast<int>(left) : kColumns;
}

inline const std::int32_t* sums_of(const Product& p, const std::int8_t* weight) {
  return reinterpret_cast<const std::int32_t*>(weight + p.steps * std::int64_t{kStepBytes});
}

// Walks over the positions [first, last) in runs of at most `longest` neighbours of one row.
class Runs {
 public:
  Runs(const Product& p, std::int64_t first, std::int64_t last, int longest)
      : p_(p), position_(first), last_(last), row_(first / p.pitch), x_(first % p.pitch),
        longest_(longest) {}

  // The next run, or false. position: of the image; stored: of the result.
  bool next(std::int64_t& position, std::int64_t& stored, int& count) {
    if (x_ >= p_.width) {
      position_ += p_.pitch - x_;
      x_ = 0;
      ++row_;
    }
    if (position_ >= last_) return false;
    std::int64_t run = p_.width - x_ < longest_ ? p_.width - x_ : longest_;
    if (run > last_ - position_) run = last_ - position_;
    position = position_;
    stored = row_ * p_.width + x_;
    count = static_cast<int>(run);
    position_ += run;
    x_ += run;
    return true;
  }

 private:
  const Product& p_;
  std::int64_t position_, last_, row_, x_;
  int longest_;
};

// Sums of 32 channels, tap by tap.
[[maybe_unused]] void plain_depthwise_block(const Depthwise& t, const std::uint8_t* from,
                                            const std::int8_t* weight, std::int32_t* acc) {
  for (int tap = 0; tap < t.taps; ++tap, weight += kColumns) {
    const std::uint8_t* x = from + t.offsets[tap];
    for (int c = 0; c < kColumns; ++c) acc[c] += x[c] * weight[c];
  }
}

// Output rows [first, last) by blocks of 32 channels; block_sums(task, x, weight, sums) where all
// 32 are there.
template <typename BlockSums>
[[maybe_unused]] void depthwise_rows(const Depthwise& t, std::int64_t first, std::int64_t last,
                                     const BlockSums& block_sums) {
  const std::int64_t blocks = (t.channels + kColumns - 1) / kColumns;
  for (std::int64_t row = first; row < last; ++row)
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int8_t* weight = t.weight + block * (t.taps * std::int64_t{kColumns} + kSumBytes);
      const std::int64_t left = t.channels - block * kColumns;
      const int channels = left < kColumns ? static_cast<int>(left) : kColumns;
      std::int32_t sums[kColumns];
      __builtin_memcpy(sums, weight + t.taps * std::int64_t{kColumns}, sizeof sums);
      for (std::int64_t x = 0; x < t.width; ++x) {
        const std::uint8_t* from = t.image + row * t.row_step + x * t.x_step + block * kColumns;
        std::int32_t acc[kColumns] = {};
        if (channels == kColumns)
          block_sums(t, from, weight, acc);
        else
          for (int tap = 0; tap < t.taps; ++tap)
            for (int c = 0; c < channels; ++c)
              acc[c] += from[t.offsets[tap] + c] * weight[tap * kColumns + c];
        const std::int64_t stored = row * t.width + x;
        const std::int64_t index = stored * t.y_step + block * kColumns;
        void* y = t.finish.bytes ? static_cast<void*>(static_cast<std::uint8_t*>(t.y) + index)
                                 : static_cast<void*>(static_cast<float*>(t.y) + index);
        finish_row(t.finish, acc, sums, block * kColumns, channels, stored, y);
      }
    }
}

[[maybe_unused]] void plain_depthwise(const Depthwise& t, std::int64_t first, std::int64_t last) {
  depthwise_rows(t, first, last, plain_depthwise_block);
}

}  // namespace
}  // namespace compactnets::int8
