// Any CPU, fp32: loops over the lanes that the compiler turns into its vectors.
#include "adder/floats.hpp"

namespace compactnets::adder {
namespace {

template <bool kDirect>
inline float term(float x, float w) {
  if (kDirect) return x > w ? x - w : w - x;  // NaN where one of them is
  return x > w ? x : w;
}

template <bool kDirect>
void pixel(const DistanceTask& task, int p) {
  float totals[kLanes] = {};
  const float* weight = task.weight;
  for (int tap = 0; tap < task.tap_count; ++tap) {
    const float* image = task.image + p + task.taps[tap];
    for (int c = 0; c < task.channels;) {
      const int end = c + kFold < task.channels ? c + kFold : task.channels;
      float sums[kLanes] = {};
      for (; c < end; ++c, weight += kLanes)
        for (int lane = 0; lane < kLanes; ++lane)
          sums[lane] += term<kDirect>(image[c * task.channel_step], weight[lane]);
      for (int lane = 0; lane < kLanes; ++lane) totals[lane] += sums[lane];
    }
  }
  float* out = task.out + p * task.out_step;
  for (int lane = 0; lane < task.outputs; ++lane) {
    float result = -totals[lane];
    if (!kDirect) {
      const float twice = 2.0f * totals[lane];
      result = (task.window_sums[p] + weight[lane]) - twice;
      const float sum = twice < 0.0f ? -twice : twice, size = result < 0.0f ? -result : result;
      task.largest[0] = sum > task.largest[0] ? sum : task.largest[0];
      task.largest[1] = size > task.largest[1] ? size : task.largest[1];
    }
    out[lane] = task.scale ? result * task.scale[lane] + task.bias[lane] : result + task.bias[lane];
  }
}

void distances(const DistanceTask& task, bool direct) {
  for (int p = 0; p < task.pixels; ++p) direct ? pixel<true>(task, p) : pixel<false>(task, p);
}

int blocks_at_once(int) { return 1; }

void transpose(const float* x, std::int64_t x_step, std::int64_t pixels, std::int64_t channels,
               float* out, std::int64_t plane) {
  for (std::int64_t c = 0; c < channels; ++c)
    for (std::int64_t p = 0; p < pixels; ++p) out[c * plane + p] = x[p * x_step + c];
}

}  // namespace

const FloatOperations portable_float_operations = {blocks_at_once, distances, transpose};

}  // namespace compactnets::adder
