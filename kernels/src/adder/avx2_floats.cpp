// AVX2, fp32. A tile is 6 pixels by 16 outputs: 12 accumulators, the step's two registers of
// weights, the pixel, what is being added: all 16 registers.
#include <immintrin.h>

#include "adder/floats.hpp"
#include "common/unroll.hpp"

namespace compactnets::adder {
namespace {

constexpr int kTile = 6;

inline void stay(__m256& v) { asm volatile("" : "+x"(v)); }

inline __m256 magnitude(__m256 v) {
  return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}

template <bool kDirect>
inline __m256 term(__m256 pixel, __m256 w) {
  return kDirect ? magnitude(_mm256_sub_ps(pixel, w)) : _mm256_max_ps(pixel, w);
}

// totals += sums, `pixels` times 16. Not inlined: what it loads would displace accumulators.
__attribute__((noinline)) void fold(const float* sums, int pixels, float* totals) {
  for (int i = 0; i < pixels * kLanes; i += 8)
    _mm256_store_ps(totals + i, _mm256_add_ps(_mm256_load_ps(totals + i), _mm256_load_ps(sums + i)));
}

// Sums over `channels` steps of each of `count` taps, [pixel][lane].
template <int Pixels, bool kDirect>
inline void sum_terms(const DistanceTask& task, const float* first, const std::int32_t* taps,
                      int count, const float* weight, int channels, float* out) {
  __m256 sums[2 * Pixels];
  COMPACTNETS_UNROLL
  for (int i = 0; i < 2 * Pixels; ++i) sums[i] = _mm256_setzero_ps();
  for (int tap = 0; tap < count; ++tap) {
    const float* image = first + taps[tap];
    for (int c = 0; c < channels; ++c, image += task.channel_step, weight += kLanes) {
      const __m256 low = _mm256_loadu_ps(weight), high = _mm256_loadu_ps(weight + 8);
      COMPACTNETS_UNROLL
      for (int i = 0; i < 2 * Pixels; ++i) {
        const __m256 pixel = _mm256_set1_ps(image[i / 2]);
        sums[i] = _mm256_add_ps(sums[i], term<kDirect>(pixel, i % 2 ? high : low));
        stay(sums[i]);
      }
    }
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < 2 * Pixels; ++i) _mm256_store_ps(out + 8 * i, sums[i]);
}

template <bool kDirect>
void finish(const DistanceTask& task, const float* totals, int first, int pixels) {
  const std::int64_t depth = static_cast<std::int64_t>(task.channels) * task.tap_count;
  const float* weights = task.weight + depth * kLanes;
  for (int p = 0; p < pixels; ++p, totals += kLanes) {
    const float window = task.window_sums[first + p];
    float* out = task.out + (first + p) * task.out_step;
    for (int lane = 0; lane < task.outputs; ++lane) {
      float result = -totals[lane];
      if (!kDirect) {
        const float twice = 2.0f * totals[lane];
        result = (window + weights[lane]) - twice;
        const float sum = twice < 0.0f ? -twice : twice, size = result < 0.0f ? -result : result;
        task.largest[0] = sum > task.largest[0] ? sum : task.largest[0];
        task.largest[1] = size > task.largest[1] ? size : task.largest[1];
      }
      out[lane] = task.scale ? result * task.scale[lane] + task.bias[lane]
                             : result + task.bias[lane];
    }
  }
}

template <int Pixels, bool kDirect>
void tile(const DistanceTask& task, int first) {
  alignas(32) float totals[Pixels * kLanes] = {}, sums[Pixels * kLanes];
  // Between two folds lie parts of one tap, or several taps of few channels.
  const float* weight = task.weight;
  const int taps = task.channels < kFold ? kFold / task.channels : 1;
  for (int tap = 0; tap < task.tap_count; tap += taps) {
    const int count = tap + taps < task.tap_count ? taps : task.tap_count - tap;
    for (int c = 0; c < task.channels; c += kFold) {
      const int channels = c + kFold < task.channels ? kFold : task.channels - c;
      sum_terms<Pixels, kDirect>(task, task.image + first + c * task.channel_step, task.taps + tap, count,
                         weight, channels, sums);
      fold(sums, Pixels, totals);
      weight += count * channels * kLanes;
    }
  }
  finish<kDirect>(task, totals, first, Pixels);
}

// A row in tiles of nearly equal width.
template <bool kDirect>
void row(const DistanceTask& task) {
  const int tiles = (task.pixels + kTile - 1) / kTile;
  for (int t = 0; t < tiles; ++t) {
    const int first = t * task.pixels / tiles, last = (t + 1) * task.pixels / tiles;
    switch (last - first) {
      case 6: tile<6, kDirect>(task, first); break;
      case 5: tile<5, kDirect>(task, first); break;
      case 4: tile<4, kDirect>(task, first); break;
      case 3: tile<3, kDirect>(task, first); break;
      case 2: tile<2, kDirect>(task, first); break;
      case 1: tile<1, kDirect>(task, first); break;
      default: break;
    }
  }
}

void distances(const DistanceTask& task, bool direct) {
  direct ? row<true>(task) : row<false>(task);
}

int blocks_at_once(int) { return 1; }

void transpose(const float* x, std::int64_t x_step, std::int64_t pixels, std::int64_t channels,
               float* out, std::int64_t plane) {
  constexpr std::int64_t kBlock = 16;  // pixels and channels whose cache lines stay at hand
  for (std::int64_t p = 0; p < pixels; p += kBlock)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t i = p; i < p + kBlock && i < pixels; ++i)
        out[c * plane + i] = x[i * x_step + c];
}

}  // namespace

const FloatOperations avx2_float_operations = {blocks_at_once, distances, transpose};

}  // namespace compactnets::adder
