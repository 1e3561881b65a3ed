// AVX2: difference, minimum, maximum, multiply-add on 8 lanes. A tile has 5 fixed vectors and as
// many accumulators; the two halves of the 16 lanes take turns.
#include <immintrin.h>

#include "adder/gradient.hpp"
#include "common/unroll.hpp"

namespace compactnets::adder {
namespace {

constexpr int kTile = 5;
constexpr int kHalf = 8;

inline void stay(__m256& v) { asm volatile("" : "+x"(v)); }

inline __m256i first_lanes(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

template <bool kSign>
inline __m256 squash(__m256 difference, __m256 one, __m256 minus_one) {
  // A sign is a clip of the difference made large; 2^126 leaves only subnormal ones below 1.
  if (kSign) difference = _mm256_mul_ps(difference, _mm256_set1_ps(0x1p126f));
  return _mm256_max_ps(_mm256_min_ps(difference, one), minus_one);
}

template <int Count, bool kSign>
void tile(const StreamTask& task, int first, int half) {
  const __m256i lanes = first_lanes(task.lanes - half);
  const float* fixed_at = task.fixed + first * task.fixed_step + half;
  float* out = task.out + first * task.out_step + half;
  __m256 one = _mm256_set1_ps(1.0f), minus_one = _mm256_set1_ps(-1.0f);
  stay(one);
  stay(minus_one);
  __m256 fixed[Count], sums[Count];
  COMPACTNETS_UNROLL
  for (int p = 0; p < Count; ++p) {
    fixed[p] = _mm256_maskload_ps(fixed_at + p * task.fixed_step, lanes);
    sums[p] = task.add ? _mm256_maskload_ps(out + p * task.out_step, lanes) : _mm256_setzero_ps();
  }
  for (int segment = 0; segment < task.segments; ++segment) {
    const float* stream = task.stream + task.stream_offsets[segment] + half;
    const float* factor = task.factor + task.factor_offsets[segment] + first;
    for (int step = 0; step < task.steps;
         ++step, stream += task.stream_step, factor += task.factor_step) {
      const __m256 passing = _mm256_loadu_ps(stream);
      COMPACTNETS_UNROLL
      for (int p = 0; p < Count; ++p) {
        const __m256 value = squash<kSign>(_mm256_sub_ps(passing, fixed[p]), one, minus_one);
        sums[p] = _mm256_fmadd_ps(value, _mm256_set1_ps(factor[p]), sums[p]);
        stay(sums[p]);
      }
    }
  }
  COMPACTNETS_UNROLL
  for (int p = 0; p < Count; ++p) _mm256_maskstore_ps(out + p * task.out_step, lanes, sums[p]);
}

template <bool kSign>
void run(const StreamTask& task) {
  const int tiles = (task.count + kTile - 1) / kTile;
  for (int half = 0; half < task.lanes; half += kHalf)
    for (int t = 0; t < tiles; ++t) {
      const int first = t * task.count / tiles, last = (t + 1) * task.count / tiles;
      switch (last - first) {
        case 5: tile<5, kSign>(task, first, half); break;
        case 4: tile<4, kSign>(task, first, half); break;
        case 3: tile<3, kSign>(task, first, half); break;
        case 2: tile<2, kSign>(task, first, half); break;
        case 1: tile<1, kSign>(task, first, half); break;
        default: break;
      }
    }
}

void clip(const StreamTask& task) { run<false>(task); }
void sign(const StreamTask& task) { run<true>(task); }

void transpose(const float* x, std::int64_t x_step, std::int64_t pixels, std::int64_t channels,
               float* out, std::int64_t plane) {
  constexpr std::int64_t kBlock = 16;  // pixels and channels whose cache lines stay at hand
  for (std::int64_t p = 0; p < pixels; p += kBlock)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t i = p; i < p + kBlock && i < pixels; ++i)
        out[c * plane + i] = x[i * x_step + c];
}

}  // namespace

const StreamOperations avx2_stream_operations = {clip, sign, transpose};

}  // namespace compactnets::adder
