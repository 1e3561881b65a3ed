// AVX-512, fp32. Maximum and addition run on both vector ports: 16 terms a cycle. A tile is up to
// 14 pixels by 2 registers of 16 outputs, or up to 7 by 4: 28 accumulators, the step's weights, and
// what is being added. Pixels enter as broadcast operands of the maximum.
#include <immintrin.h>

#include "adder/floats.hpp"
#include "adder/avx512_transpose.hpp"
#include "common/unroll.hpp"

namespace compactnets::adder {
namespace {

inline void stay(__m512& v) { asm volatile("" : "+v"(v)); }

inline __mmask16 first_lanes(int count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

inline __m512 magnitude(__m512 v) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)));
}

template <bool kDirect>
inline __m512 term(float x, __m512 w) {
  const __m512 pixel = _mm512_set1_ps(x);
  return kDirect ? magnitude(_mm512_sub_ps(pixel, w)) : _mm512_max_ps(pixel, w);
}

// totals += sums, `count` vectors. Not inlined: what it loads would displace accumulators.
__attribute__((noinline)) void fold(const float* sums, int count, float* totals) {
  for (int i = 0; i < count * kLanes; i += kLanes)
    _mm512_store_ps(totals + i, _mm512_add_ps(_mm512_load_ps(totals + i), _mm512_load_ps(sums + i)));
}

// Sums over `channels` steps of each of `count` taps, [pixel][block][lane].
template <int Pixels, int Blocks, bool kDirect>
inline void sum_terms(const DistanceTask& task, const float* first, const std::int32_t* taps,
                      int count, const float* weight, int channels, float* out) {
  constexpr int kSums = Pixels * Blocks;
  __m512 sums[kSums];
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_setzero_ps();
  for (int tap = 0; tap < count; ++tap) {
    const float* image = first + taps[tap];
    for (int c = 0; c < channels; ++c, image += task.channel_step, weight += kLanes) {
      __m512 w[Blocks];
      COMPACTNETS_UNROLL
      for (int b = 0; b < Blocks; ++b) w[b] = _mm512_loadu_ps(weight + b * task.block_step);
      COMPACTNETS_UNROLL
      for (int i = 0; i < kSums; ++i) {
        sums[i] = _mm512_add_ps(sums[i], term<kDirect>(image[i / Blocks], w[i % Blocks]));
        stay(sums[i]);
      }
    }
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) _mm512_store_ps(out + i * kLanes, sums[i]);
}

template <bool kDirect>
void finish(const DistanceTask& task, const float* totals, int first, int pixels, int blocks) {
  __m512 largest_sum = _mm512_set1_ps(task.largest[0]);
  __m512 largest_result = _mm512_set1_ps(task.largest[1]);
  const std::int64_t depth = static_cast<std::int64_t>(task.channels) * task.tap_count;
  for (int b = 0; b < blocks; ++b) {
    const __mmask16 lanes = first_lanes(task.outputs - b * kLanes);
    const __m512 weights = _mm512_loadu_ps(task.weight + b * task.block_step + depth * kLanes);
    for (int p = 0; p < pixels; ++p) {
      const __m512 total = _mm512_load_ps(totals + (p * blocks + b) * kLanes);
      __m512 result = _mm512_sub_ps(_mm512_setzero_ps(), total);
      if (!kDirect) {
        const __m512 twice = _mm512_add_ps(total, total);
        const __m512 pixel = _mm512_set1_ps(task.window_sums[first + p]);
        result = _mm512_sub_ps(_mm512_add_ps(pixel, weights), twice);
        largest_sum = _mm512_mask_max_ps(largest_sum, lanes, largest_sum, magnitude(twice));
        largest_result =
            _mm512_mask_max_ps(largest_result, lanes, largest_result, magnitude(result));
      }
      if (task.scale)
        result = _mm512_mul_ps(result, _mm512_maskz_loadu_ps(lanes, task.scale + b * kLanes));
      result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(lanes, task.bias + b * kLanes));
      _mm512_mask_storeu_ps(task.out + (first + p) * task.out_step + b * kLanes, lanes, result);
    }
  }
  task.largest[0] = _mm512_reduce_max_ps(largest_sum);
  task.largest[1] = _mm512_reduce_max_ps(largest_result);
}

template <int Pixels, int Blocks, bool kDirect>
void tile(const DistanceTask& task, int first) {
  alignas(64) float totals[Pixels * Blocks * kLanes], sums[Pixels * Blocks * kLanes];
  for (int i = 0; i < Pixels * Blocks; ++i)
    _mm512_store_ps(totals + i * kLanes, _mm512_setzero_ps());
  // Between two folds lie parts of one tap, or several taps of few channels.
  const float* weight = task.weight;
  const int taps = task.channels < kFold ? kFold / task.channels : 1;
  for (int tap = 0; tap < task.tap_count; tap += taps) {
    const int count = tap + taps < task.tap_count ? taps : task.tap_count - tap;
    for (int c = 0; c < task.channels; c += kFold) {
      const int channels = c + kFold < task.channels ? kFold : task.channels - c;
      sum_terms<Pixels, Blocks, kDirect>(task, task.image + first + c * task.channel_step, task.taps + tap, count,
                                 weight, channels, sums);
      fold(sums, Pixels * Blocks, totals);
      weight += count * channels * kLanes;
    }
  }
  finish<kDirect>(task, totals, first, Pixels, Blocks);
}

constexpr int kTile = 14;  // pixels by 2 blocks
constexpr int kHalf = 7;   // pixels by up to 4 blocks

template <int Blocks, bool kDirect>
void narrow_tile(const DistanceTask& task, int first, int pixels) {
  switch (pixels) {
    case 7: return tile<7, Blocks, kDirect>(task, first);
    case 6: return tile<6, Blocks, kDirect>(task, first);
    case 5: return tile<5, Blocks, kDirect>(task, first);
    case 4: return tile<4, Blocks, kDirect>(task, first);
    case 3: return tile<3, Blocks, kDirect>(task, first);
    case 2: return tile<2, Blocks, kDirect>(task, first);
    case 1: return tile<1, Blocks, kDirect>(task, first);
    default: return;
  }
}

template <int Blocks, bool kDirect>
void wide_tile(const DistanceTask& task, int first, int pixels) {
  switch (pixels) {
    case 14: return tile<14, Blocks, kDirect>(task, first);
    case 13: return tile<13, Blocks, kDirect>(task, first);
    case 12: return tile<12, Blocks, kDirect>(task, first);
    case 11: return tile<11, Blocks, kDirect>(task, first);
    case 10: return tile<10, Blocks, kDirect>(task, first);
    case 9: return tile<9, Blocks, kDirect>(task, first);
    case 8: return tile<8, Blocks, kDirect>(task, first);
    default: return narrow_tile<Blocks, kDirect>(task, first, pixels);
  }
}

// A row in tiles of nearly equal width.
template <bool kDirect>
void row(const DistanceTask& task) {
  const int blocks = (task.outputs + kLanes - 1) / kLanes;
  const int most = blocks > 2 ? kHalf : kTile;
  const int tiles = (task.pixels + most - 1) / most;
  for (int t = 0; t < tiles; ++t) {
    const int first = t * task.pixels / tiles, last = (t + 1) * task.pixels / tiles;
    switch (blocks) {
      case 4: narrow_tile<4, kDirect>(task, first, last - first); break;
      case 3: narrow_tile<3, kDirect>(task, first, last - first); break;
      case 2: wide_tile<2, kDirect>(task, first, last - first); break;
      default: wide_tile<1, kDirect>(task, first, last - first); break;
    }
  }
}

void distances(const DistanceTask& task, bool direct) {
  direct ? row<true>(task) : row<false>(task);
}

int blocks_at_once(int pixels) { return pixels <= kHalf ? 4 : 2; }

}  // namespace

const FloatOperations avx512_float_operations = {blocks_at_once, distances, transpose_floats};

}  // namespace compactnets::adder
