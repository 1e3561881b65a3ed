// The int8 matrix unit multiplies 64 inputs of 16 pixels by 16 outputs in 16 cycles, zeros or not: as
// many products as the gather path does with one weight of 16 kept. So where the layer has its
// weights as dense tiles too and there are pixels enough to fill them, N:M weights are multiplied as
// dense ones; the pattern then saves nothing. For few pixels, where the weights' bytes are the cost,
// and without tiles, bytes are gathered as on AVX-512.
#include <immintrin.h>

#include "common/amx.hpp"
#include "common/unroll.hpp"
#include "common/workspace.hpp"
#include "nm/sparse.hpp"

namespace compactnets::nm {
namespace {

constexpr int kSide = 32;  // pixels and outputs of a block

inline __mmask16 first_lanes(std::int64_t count) {
  if (count >= 16) return 0xffff;
  return count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// What belongs to 16 outputs, in registers.
struct Outputs {
  __mmask16 lanes;
  __m512i excess;
  __m512 scale, bias;
};

inline Outputs outputs_from(const Task& t, std::int64_t first) {
  const __mmask16 lanes = first_lanes(t.outputs - first);
  return {lanes, _mm512_maskz_loadu_epi32(lanes, t.excess + first),
          _mm512_maskz_loadu_ps(lanes, t.scale + first),
          t.bias ? _mm512_maskz_loadu_ps(lanes, t.bias + first) : _mm512_setzero_ps()};
}

inline void store(const Task& t, const Outputs& o, const std::int32_t* sums, __m512 x_scale,
                  float* out) {
  const __m512i dot = _mm512_sub_epi32(_mm512_load_si512(sums), o.excess);
  __m512 result = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot), o.scale), x_scale);
  if (t.bias) result = _mm512_add_ps(result, o.bias);
  _mm512_mask_storeu_ps(out, o.lanes, result);
}

void multiply(const Task& t) {
  if (!t.tiles || t.pixels < kSide) return avx512_multiply(t);
  auto* sums = static_cast<std::int32_t*>(workspace_bytes(Slot::products, 4 * kSide * kSide));
  const FullTiles tiles;
  const std::uint8_t* weight = t.tiles;
  for (std::int64_t first = 0; first < t.outputs; first += kSide) {
    const Outputs left = outputs_from(t, first), right = outputs_from(t, first + 16);
    for (std::int64_t done = 0; done < t.pixels; done += kSide) {
      // The last block begins early, so that all its rows are pixels; those done are not stored.
      const std::int64_t pixel = done + kSide <= t.pixels ? done : t.pixels - kSide;
      const std::uint8_t* x = t.x + pixel * t.pixel_step;
      multiply_block<false>(x, x + 16 * t.pixel_step, t.pixel_step, t.offsets, t.chunks, weight,
                            sums, kSide);
      for (std::int64_t p = done - pixel; p < kSide; ++p) {
        const __m512 x_scale = _mm512_set1_ps(t.x_scale[(pixel + p) * t.x_scale_step]);
        float* out = t.out + (pixel + p) * t.out_step + first;
        store(t, left, sums + p * kSide, x_scale, out);
        if (right.lanes) store(t, right, sums + p * kSide + 16, x_scale, out + 16);
      }
    }
    weight += static_cast<std::int64_t>(t.chunks) * kTilePairBytes;
  }
}

}  // namespace

const Multiply amx_multiply = multiply;

}  // namespace compactnets::nm
