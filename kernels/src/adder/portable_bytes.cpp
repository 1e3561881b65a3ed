// Any CPU, 8 bits: loops that the compiler turns into its vectors of bytes and words.
#include "adder/bytes.hpp"

namespace compactnets::adder {
namespace {

constexpr int kMostPairs = 31;
constexpr int kPositions = 16;  // of a sliding tile
constexpr int kFold = 64;       // 64 steps * 4 bytes * 255 < 65536

void transpose(const std::uint8_t* x, std::int64_t x_step, std::int64_t pixels,
               std::int64_t channels, std::uint8_t flip, std::uint8_t* out, std::int64_t plane) {
  for (std::int64_t c = 0; c < channels; ++c)
    for (std::int64_t p = 0; p < pixels; ++p) out[c * plane + p] = x[p * x_step + c] ^ flip;
}

void sum_planes(const std::uint8_t* planes, std::int64_t plane, std::int64_t channels,
                std::int64_t pixels, std::int32_t* sums) {
  for (std::int64_t p = 0; p < pixels; ++p) sums[p] = 0;
  for (std::int64_t c = 0; c < channels; ++c)
    for (std::int64_t p = 0; p < pixels; ++p) sums[p] += planes[c * plane + p];
}

inline void add_tap(const std::uint8_t* image, std::uint8_t weight, std::uint16_t* words) {
  for (int p = 0; p < kPositions; ++p) {
    const std::uint8_t high = image[p] > weight ? image[p] : weight;
    const std::uint8_t low = image[p] > weight ? weight : image[p];
    words[p] = static_cast<std::uint16_t>(words[p] + static_cast<std::uint8_t>(high - low));
  }
}

// Output `output` of the block at kPositions positions from `image` on.
void slide_output(const SlideTask& task, const std::uint8_t* image, int output,
                  std::uint32_t* sums) {
  const std::uint8_t* weight = task.weight + output % 8 * 8 + output / 8 * kQuad;
  for (int p = 0; p < kPositions; ++p) sums[p] = 0;
  for (int step = 0; step < task.steps;) {
    const int end = step + kFold < task.steps ? step + kFold : task.steps;
    std::uint16_t words[kPositions] = {};
    for (; step < end; ++step, weight += kSlideStep)
      for (int tap = 0; tap < kQuad; ++tap)
        add_tap(image + task.offsets[step] + tap, weight[tap], words);
    for (int p = 0; p < kPositions; ++p) sums[p] += words[p];
  }
}

void slide(const SlideTask& task) {
  std::uint32_t sums[kPositions];
  const int rows = 2 * task.pairs;
  for (int first = 0; first < rows; first += kPositions)
    for (int output = 0; output < kBlock; ++output) {
      slide_output(task, task.image + first, output, sums);
      for (int p = 0; p < kPositions && first + p < rows; ++p)
        task.sums[(first + p) * kBlock + output] = static_cast<std::int32_t>(sums[p]);
    }
}

inline std::int32_t differences(const std::uint8_t* a, const std::uint8_t* b) {
  std::int32_t sum = 0;
  for (int i = 0; i < kGroup; ++i) sum += a[i] > b[i] ? a[i] - b[i] : b[i] - a[i];
  return sum;
}

void plain(const PlainTask& task) {
  for (int p = 0; p < task.pixels; ++p) {
    const std::uint8_t* image = task.image + p * kGroup;
    const std::uint8_t* weight = task.weight;
    std::int32_t sums[kBlock] = {};
    for (int step = 0; step < task.steps; ++step, weight += kPlainStep)
      for (int output = 0; output < kBlock; ++output)
        sums[output] += differences(image + task.offsets[step], weight + output * kGroup);
    for (int output = 0; output < kBlock; ++output) task.sums[p * kBlock + output] = sums[output];
  }
}

void finish(const FinishTask& task) {
  for (int p = 0; p < task.pixels; ++p) {
    const std::int32_t from = task.correction ? task.correction[p] : 0;
    const std::int32_t* sums = task.sums + p * kBlock;
    if (task.scale) {
      float* out = static_cast<float*>(task.out) + p * task.out_step;
      for (int i = 0; i < task.outputs; ++i)
        out[i] = static_cast<float>(from - sums[i]) * task.scale[i] + task.bias[i];
    } else {
      std::int32_t* out = static_cast<std::int32_t*>(task.out) + p * task.out_step;
      for (int i = 0; i < task.outputs; ++i) out[i] = from - sums[i];
    }
  }
}

}  // namespace

const ByteOperations portable_byte_operations = {kMostPairs, 0,     transpose, sum_planes,
                                                 slide,      plain, finish};

}  // namespace compactnets::adder
