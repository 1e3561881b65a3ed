// AVX-512, fp32. Maximum and addition run on both vector ports: 16 terms a cycle. A tile is up to
// 14 pixels by 2 registers of 16 outputs, or up to 7 by 4: 28 accumulators, the step's weights, and
// what is being added. Pixels enter as broadcast operands of the maximum.
#include <immintrin.h>

#include "adder/floats.hpp"
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

// Sums over `channels` steps, [pixel][block][lane].
template <int Pixels, int Blocks, bool kDirect>
inline void sum_terms(const DistanceTask& task, const float* image, const float* weight,
                      int channels, float* out) {
  constexpr int kSums = Pixels * Blocks;
  __m512 sums[kSums];
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_setzero_ps();
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
  const float* weight = task.weight;
  for (int tap = 0; tap < task.tap_count; ++tap) {
    const float* image = task.image + first + task.taps[tap];
    for (int c = 0; c < task.channels; c += kFold) {
      const int count = c + kFold < task.channels ? kFold : task.channels - c;
      sum_terms<Pixels, Blocks, kDirect>(task, image + c * task.channel_step, weight, count, sums);
      fold(sums, Pixels * Blocks, totals);
      weight += count * kLanes;
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

// 16 pixels by 16 channels: four rounds of interleaving.
inline void transpose16(const float* x, std::int64_t x_step, float* out, std::int64_t plane) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  __m512 a[16], b[16];
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(x + i * x_step);
  COMPACTNETS_UNROLL
  for (int round = 0; round < 4; ++round) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm512_permutex2var_ps(a[i], low, a[i + 8]);
      b[2 * i + 1] = _mm512_permutex2var_ps(a[i], high, a[i + 8]);
    }
    COMPACTNETS_UNROLL
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i) _mm512_storeu_ps(out + i * plane, a[i]);
}

void transpose(const float* x, std::int64_t x_step, std::int64_t pixels, std::int64_t channels,
               float* out, std::int64_t plane) {
  std::int64_t p = 0;
  for (; p < pixels; p += 16) {
    std::int64_t c = 0;
    for (; p + 16 <= pixels && c + 16 <= channels; c += 16)
      transpose16(x + p * x_step + c, x_step, out + c * plane + p, plane);
    for (; c < channels; ++c)
      for (std::int64_t i = p; i < p + 16 && i < pixels; ++i)
        out[c * plane + i] = x[i * x_step + c];
  }
}

}  // namespace

const FloatOperations avx512_float_operations = {blocks_at_once, distances, transpose};

}  // namespace compactnets::adder
