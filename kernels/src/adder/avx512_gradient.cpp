// AVX-512: difference, clip, multiply-add: three operations on two ports, 1.5 cycles for 16 terms.
// The clip is one instruction: of two numbers vrangeps returns the one of smaller magnitude, with
// the sign of the first. A tile has up to 14 fixed vectors and as many accumulators.
#include <immintrin.h>

#include "adder/gradient.hpp"
#include "adder/avx512_transpose.hpp"
#include "common/unroll.hpp"

namespace compactnets::adder {
namespace {

constexpr int kTile = 14;

inline void stay(__m512& v) { asm volatile("" : "+v"(v)); }

template <bool kSign>
inline __m512 squash(__m512 difference, __m512 one) {
  constexpr int kSmallerMagnitudeSignOfFirst = 2;
  // A sign is a clip of the difference made large; 2^126 leaves only subnormal ones below 1.
  if (kSign) difference = _mm512_mul_ps(difference, _mm512_set1_ps(0x1p126f));
  return _mm512_range_ps(difference, one, kSmallerMagnitudeSignOfFirst);
}

template <int Count, bool kSign>
void tile(const StreamTask& task, int first) {
  const __mmask16 lanes =
      task.lanes >= 16 ? 0xffff : static_cast<__mmask16>((1u << task.lanes) - 1);
  const float* fixed_at = task.fixed + first * task.fixed_step;
  float* out = task.out + first * task.out_step;
  __m512 one = _mm512_set1_ps(1.0f);
  stay(one);
  __m512 fixed[Count], sums[Count];
  COMPACTNETS_UNROLL
  for (int p = 0; p < Count; ++p) {
    fixed[p] = _mm512_maskz_loadu_ps(lanes, fixed_at + p * task.fixed_step);
    sums[p] = task.add ? _mm512_maskz_loadu_ps(lanes, out + p * task.out_step)
                       : _mm512_setzero_ps();
  }
  for (int segment = 0; segment < task.segments; ++segment) {
    const float* stream = task.stream + task.stream_offsets[segment];
    const float* factor = task.factor + task.factor_offsets[segment] + first;
    for (int step = 0; step < task.steps;
         ++step, stream += task.stream_step, factor += task.factor_step) {
      const __m512 passing = _mm512_loadu_ps(stream);
      COMPACTNETS_UNROLL
      for (int p = 0; p < Count; ++p) {
        const __m512 value = squash<kSign>(_mm512_sub_ps(passing, fixed[p]), one);
        sums[p] = _mm512_fmadd_ps(value, _mm512_set1_ps(factor[p]), sums[p]);
        stay(sums[p]);
      }
    }
  }
  COMPACTNETS_UNROLL
  for (int p = 0; p < Count; ++p)
    _mm512_mask_storeu_ps(out + p * task.out_step, lanes, sums[p]);
}

template <bool kSign>
void run(const StreamTask& task) {
  const int tiles = (task.count + kTile - 1) / kTile;
  for (int t = 0; t < tiles; ++t) {
    const int first = t * task.count / tiles, last = (t + 1) * task.count / tiles;
    switch (last - first) {
      case 14: tile<14, kSign>(task, first); break;
      case 13: tile<13, kSign>(task, first); break;
      case 12: tile<12, kSign>(task, first); break;
      case 11: tile<11, kSign>(task, first); break;
      case 10: tile<10, kSign>(task, first); break;
      case 9: tile<9, kSign>(task, first); break;
      case 8: tile<8, kSign>(task, first); break;
      case 7: tile<7, kSign>(task, first); break;
      case 6: tile<6, kSign>(task, first); break;
      case 5: tile<5, kSign>(task, first); break;
      case 4: tile<4, kSign>(task, first); break;
      case 3: tile<3, kSign>(task, first); break;
      case 2: tile<2, kSign>(task, first); break;
      case 1: tile<1, kSign>(task, first); break;
      default: break;
    }
  }
}

void clip(const StreamTask& task) { run<false>(task); }
void sign(const StreamTask& task) { run<true>(task); }

}  // namespace

const StreamOperations avx512_stream_operations = {clip, sign, transpose_floats};

}  // namespace compactnets::adder
