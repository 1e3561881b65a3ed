// Any CPU: loops over the lanes that the compiler turns into its vectors.
#include "adder/gradient.hpp"

namespace compactnets::adder {
namespace {

template <bool kSign>
inline float squash(float difference) {
  if (kSign) difference *= 0x1p126f;  // only subnormal differences stay below 1
  difference = difference < 1.0f ? difference : 1.0f;
  return difference > -1.0f ? difference : -1.0f;
}

template <bool kSign>
void run(const StreamTask& task) {
  for (int p = 0; p < task.count; ++p) {
    float fixed[kChannelLanes] = {}, sums[kChannelLanes] = {};
    float* out = task.out + p * task.out_step;
    for (int lane = 0; lane < task.lanes; ++lane) {
      fixed[lane] = task.fixed[p * task.fixed_step + lane];
      if (task.add) sums[lane] = out[lane];
    }
    for (int segment = 0; segment < task.segments; ++segment) {
      const float* stream = task.stream + task.stream_offsets[segment];
      const float* factor = task.factor + task.factor_offsets[segment] + p;
      for (int step = 0; step < task.steps;
           ++step, stream += task.stream_step, factor += task.factor_step)
        for (int lane = 0; lane < kChannelLanes; ++lane)
          sums[lane] += squash<kSign>(stream[lane] - fixed[lane]) * *factor;
    }
    for (int lane = 0; lane < task.lanes; ++lane) out[lane] = sums[lane];
  }
}

void clip(const StreamTask& task) { run<false>(task); }
void sign(const StreamTask& task) { run<true>(task); }

void transpose(const float* x, std::int64_t x_step, std::int64_t pixels, std::int64_t channels,
               float* out, std::int64_t plane) {
  for (std::int64_t c = 0; c < channels; ++c)
    for (std::int64_t p = 0; p < pixels; ++p) out[c * plane + p] = x[p * x_step + c];
}

}  // namespace

const StreamOperations portable_stream_operations = {clip, sign, transpose};

}  // namespace compactnets::adder
