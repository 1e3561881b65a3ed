// AVX-512 with VBMI and VNNI. A tile is up to 12 pixels by the 16 outputs of a panel: 12 registers of
// sums, 12 of inputs, and an index and a weight vector per quad. Per quad and pixel one vpermb and
// one vpdpbusd for 64 weights. vpermb has one port on Intel's cores, which bounds this to 64 weights
// a cycle; vpdpbusd takes the other. Pixels are the outer loop, so that their inputs stay in the
// first-level cache while the weights pass by. For few pixels a tile takes several panels instead, so
// that no sum waits for the one before it. No spills in the loop over quads (objdump).
#include <immintrin.h>

#include "common/unroll.hpp"
#include "nm/sparse.hpp"

namespace compactnets::nm {
namespace {

constexpr int kTile = 12;

inline __mmask16 first_lanes(std::int64_t count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

// The results of `Pixels` pixels for a panel, from their sums.
template <int Pixels>
inline void store_panel(const Task& t, std::int64_t pixel, std::int64_t panel,
                        const __m512i* sums) {
  const std::int64_t first = panel * kLanes;
  const __mmask16 lanes = first_lanes(t.outputs - first);
  const __m512i excess = _mm512_maskz_loadu_epi32(lanes, t.excess + first);
  const __m512 scale = _mm512_maskz_loadu_ps(lanes, t.scale + first);
  const __m512 bias = t.bias ? _mm512_maskz_loadu_ps(lanes, t.bias + first) : _mm512_setzero_ps();
  COMPACTNETS_UNROLL
  for (int p = 0; p < Pixels; ++p) {
    const __m512 dot = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[p], excess));
    __m512 result = _mm512_mul_ps(_mm512_mul_ps(dot, scale),
                                  _mm512_set1_ps(t.x_scale[(pixel + p) * t.x_scale_step]));
    if (t.bias) result = _mm512_add_ps(result, bias);
    _mm512_mask_storeu_ps(t.out + (pixel + p) * t.out_step + first, lanes, result);
  }
}

template <int Pixels, int Panels>
inline void multiply_tile(const Task& t, std::int64_t pixel, std::int64_t panel) {
  const std::uint8_t* x = t.x + pixel * t.pixel_step;
  const std::int64_t panel_bytes = static_cast<std::int64_t>(t.chunks) * t.quads * kQuadBytes;
  const std::uint8_t* weight = t.weight + panel * panel_bytes;
  __m512i sums[Panels][Pixels];
  COMPACTNETS_UNROLL
  for (int b = 0; b < Panels; ++b)
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pixels; ++p) sums[b][p] = _mm512_setzero_si512();
  for (int chunk = 0; chunk < t.chunks; ++chunk) {
    const std::uint8_t* from = x + t.offsets[chunk];
    __m512i inputs[Pixels];
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pixels; ++p) inputs[p] = _mm512_loadu_si512(from + p * t.pixel_step);
    for (int quad = 0; quad < t.quads; ++quad, weight += kQuadBytes) {
      COMPACTNETS_UNROLL
      for (int b = 0; b < Panels; ++b) {
        const __m512i index = _mm512_loadu_si512(weight + b * panel_bytes);
        const __m512i values = _mm512_loadu_si512(weight + b * panel_bytes + kChunk);
        COMPACTNETS_UNROLL
        for (int p = 0; p < Pixels; ++p)
          sums[b][p] =
              _mm512_dpbusd_epi32(sums[b][p], _mm512_permutexvar_epi8(index, inputs[p]), values);
      }
    }
  }
  COMPACTNETS_UNROLL
  for (int b = 0; b < Panels; ++b) store_panel<Pixels>(t, pixel, panel + b, sums[b]);
}

template <int Pixels, int Panels = 1>
void multiply_panels(const Task& t, std::int64_t pixel) {
  const std::int64_t panels = (t.outputs + kLanes - 1) / kLanes;
  std::int64_t panel = 0;
  for (; panel + Panels <= panels; panel += Panels) multiply_tile<Pixels, Panels>(t, pixel, panel);
  for (; panel < panels; ++panel) multiply_tile<Pixels, 1>(t, pixel, panel);
}

void multiply(const Task& t) {
  std::int64_t p = 0;
  if (t.quads == 1)  // two panels share the inputs, which one quad would load for itself alone
    for (; t.pixels - p >= 8; p += 8) multiply_panels<8, 2>(t, p);
  // The last 12 to 16 pixels as two tiles of about half: a tile of 1 to 3 would wait for its sums.
  for (; t.pixels - p >= kTile + 5 || t.pixels - p == kTile; p += kTile)
    multiply_panels<kTile>(t, p);
  if (t.pixels - p > kTile) {
    multiply_panels<8>(t, p);
    p += 8;
  }
  switch (t.pixels - p) {
    case 11: return multiply_panels<11>(t, p);
    case 10: return multiply_panels<10>(t, p);
    case 9: return multiply_panels<9>(t, p);
    case 8: return multiply_panels<8>(t, p);
    case 7: return multiply_panels<7>(t, p);
    case 6: return multiply_panels<6>(t, p);
    case 5: return multiply_panels<5>(t, p);
    case 4: return multiply_panels<4>(t, p);
    case 3: return multiply_panels<3, 4>(t, p);
    case 2: return multiply_panels<2, 4>(t, p);
    case 1: return multiply_panels<1, 8>(t, p);
    default: return;
  }
}

}  // namespace

const Multiply avx512_multiply = multiply;

}  // namespace compactnets::nm
