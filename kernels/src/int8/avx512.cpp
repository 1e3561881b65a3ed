// AVX-512 with VNNI. A lane is an output channel; a tile is up to 14 rows by 32 channels.
//
// Per quad of depth: the two registers of weights are loaded once, and each row's four bytes are
// broadcast by a load port and meet both: for 14 rows 16 loads and 28 vpdpbusd, which keep both
// multiplying ports busy; 28 sums + 2 weights + 1 row are 31 of the 32 registers, nothing spills
// in the loop over the quads of a step (objdump). 14, 28, 56 pixels are a whole number of tiles,
// 7 pixels one half. A single row (a matrix-vector product) splits its depth over four sets of
// sums, to hide vpdpbusd's latency.
#include "common/unroll.hpp"
#include "int8/vector512.hpp"

namespace compactnets::int8 {
namespace {

constexpr int kRows = 14;

inline __m512i load(const void* bytes) { return _mm512_loadu_si512(bytes); }

inline __m512i broadcast(const std::uint8_t* quad) {
  int bytes;
  __builtin_memcpy(&bytes, quad, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

// Row addresses from every third row's: base, base + step, base + 2 step cost no register each.
template <int Rows>
struct RowBases {
  static constexpr int kBases = (Rows + 2) / 3;
  const std::uint8_t* base[kBases];
  std::int64_t step;

  RowBases(const std::uint8_t* first, std::int64_t x_step) : step(x_step) {
    COMPACTNETS_UNROLL
    for (int b = 0; b < kBases; ++b) base[b] = first + 3 * b * x_step;
  }
  const std::uint8_t* row(int r, std::int64_t offset) const {
    return base[r / 3] + offset + (r % 3) * step;
  }
};

// All of the depth for Rows rows of one block; Parts independent sets of sums.
template <int Rows, int Parts>
inline void sum_rows(const Product& p, const std::uint8_t* x, const std::int8_t* weight,
                     __m512i (&acc)[Rows][2]) {
  __m512i part[Parts][Rows][2];
  COMPACTNETS_UNROLL
  for (int i = 0; i < Parts; ++i)
    COMPACTNETS_UNROLL
    for (int r = 0; r < Rows; ++r) part[i][r][0] = part[i][r][1] = _mm512_setzero_si512();
  for (int s = 0; s < p.steps; ++s, weight += kStepBytes) {
    RowBases<Rows> rows(x + p.offsets[s], p.x_step);
    COMPACTNETS_UNROLL
    for (int b = 0; b < RowBases<Rows>::kBases; ++b) asm volatile("" : "+r"(rows.base[b]));
    const int quads = p.quads[s];
    const std::int8_t* w = weight;
    // Where Parts do not divide the quads, what is added beyond is zero weights.
    for (int quad = 0; quad < quads; quad += Parts, w += Parts * 64) {
      COMPACTNETS_UNROLL
      for (int i = 0; i < Parts; ++i) {
        const __m512i w0 = load(w + i * 64), w1 = load(w + kTileBytes + i * 64);
        COMPACTNETS_UNROLL
        for (int r = 0; r < Rows; ++r) {
          __m512i bytes = broadcast(rows.row(r, i * kQuad));
          asm("" : "+v"(bytes));
          part[i][r][0] = _mm512_dpbusd_epi32(part[i][r][0], bytes, w0);
          part[i][r][1] = _mm512_dpbusd_epi32(part[i][r][1], bytes, w1);
        }
      }
      COMPACTNETS_UNROLL
      for (int b = 0; b < RowBases<Rows>::kBases; ++b) rows.base[b] += Parts * kQuad;
    }
  }
  COMPACTNETS_UNROLL
  for (int r = 0; r < Rows; ++r)
    COMPACTNETS_UNROLL
    for (int half = 0; half < 2; ++half) {
      acc[r][half] = part[0][r][half];
      COMPACTNETS_UNROLL
      for (int i = 1; i < Parts; ++i)
        acc[r][half] = _mm512_add_epi32(acc[r][half], part[i][r][half]);
    }
}

template <bool kValue>
struct Bool {
  static constexpr bool value = kValue;
};

template <int Rows, bool kBytes, bool kRowScale>
inline void multiply_rows(const Product& p, const std::int8_t* weight,
                          const Finisher<kBytes, kRowScale>& left,
                          const Finisher<kBytes, kRowScale>& right,
                          std::int64_t position, std::int64_t stored) {
  constexpr int kParts = Rows == 1 ? 4 : Rows <= 3 ? 2 : 1;
  __m512i acc[Rows][2];
  sum_rows<Rows, kParts>(p, p.image + position * p.x_step, weight, acc);
  const auto finish = [&](const auto finisher, auto all, int half) {
    COMPACTNETS_UNROLL
    for (int r = 0; r < Rows; ++r)
      finisher.template store<all.value>(acc[r][half], stored + r, finisher.row(stored + r));
  };
  COMPACTNETS_UNROLL
  for (int half = 0; half < 2; ++half) {
    const Finisher<kBytes, kRowScale>& finisher = half ? right : left;
    if (finisher.all())
      finish(finisher, Bool<true>{}, half);
    else if (finisher.any())
      finish(finisher, Bool<false>{}, half);
  }
}

template <bool kBytes, bool kRowScale>
void multiply_as(const Product& p, std::int64_t first, std::int64_t last, std::int64_t first_block,
                 std::int64_t last_block) {
  for (std::int64_t block = first_block; block < last_block; ++block) {
    const std::int8_t* weight = p.weight + block * p.block_bytes();
    const Finisher<kBytes, kRowScale> left(p, block, 0), right(p, block, 1);
    Runs runs(p, first, last, kRows);
    std::int64_t position, stored;
    for (int count; runs.next(position, stored, count);) {
      switch (count) {
#define COMPACTNETS_ROWS(n)                                                           \
  case n:                                                                             \
    multiply_rows<n, kBytes, kRowScale>(p, weight, left, right, position, stored); \
    break;
        COMPACTNETS_ROWS(1)
        COMPACTNETS_ROWS(2)
        COMPACTNETS_ROWS(3)
        COMPACTNETS_ROWS(4)
        COMPACTNETS_ROWS(5)
        COMPACTNETS_ROWS(6)
        COMPACTNETS_ROWS(7)
        COMPACTNETS_ROWS(8)
        COMPACTNETS_ROWS(9)
        COMPACTNETS_ROWS(10)
        COMPACTNETS_ROWS(11)
        COMPACTNETS_ROWS(12)
        COMPACTNETS_ROWS(13)
        COMPACTNETS_ROWS(14)
#undef COMPACTNETS_ROWS
      }
    }
  }
}

// Depthwise: a lane is a channel. Bytes widened to 32 bits are pairs of 16-bit values whose upper
// one is 0, so vpdpwssd adds exactly one product to each lane.
template <int Pixels, typename Finisher>
inline void depthwise_pixels(const Depthwise& t, const Finisher& finisher, std::int64_t channel,
                             const std::int8_t* weight, __mmask16 lanes, std::int64_t row,
                             std::int64_t x) {
  const std::uint8_t* from = t.image + row * t.row_step + x * t.x_step + channel;
  __m512i acc[Pixels];
  COMPACTNETS_UNROLL
  for (int i = 0; i < Pixels; ++i) acc[i] = _mm512_setzero_si512();
  for (int tap = 0; tap < t.taps; ++tap, weight += kColumns) {
    const __m512i w =
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weight)));
    const std::uint8_t* bytes = from + t.offsets[tap];
    COMPACTNETS_UNROLL
    for (int i = 0; i < Pixels; ++i)
      acc[i] = _mm512_dpwssd_epi32(
          acc[i], _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes, bytes + i * t.x_step)), w);
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < Pixels; ++i) {
    const std::int64_t stored = row * t.width + x + i;
    finisher.template store<false>(acc[i], stored, finisher.row(stored));
  }
}

template <bool kBytes, bool kRowScale>
void depthwise_as(const Depthwise& t, std::int64_t first, std::int64_t last) {
  const std::int64_t block_bytes = t.taps * std::int64_t{kColumns} + kSumBytes;
  for (std::int64_t row = first; row < last; ++row)
    for (std::int64_t channel = 0; channel < t.channels; channel += 16) {
      const std::int8_t* block = t.weight + channel / kColumns * block_bytes;
      const auto* sums = block + t.taps * std::int64_t{kColumns} + channel % kColumns * 4;
      const Finisher<kBytes, kRowScale> finisher(t.finish,
                                                 reinterpret_cast<const std::int32_t*>(sums),
                                                 channel, t.channels, t.y, t.y_step);
      const std::int64_t left = t.channels - channel;
      const __mmask16 lanes = first_lanes(left < 16 ? static_cast<int>(left) : 16);
      const std::int8_t* weight = block + channel % kColumns;
      std::int64_t x = 0;
      for (; x + 7 <= t.width; x += 7)
        depthwise_pixels<7>(t, finisher, channel, weight, lanes, row, x);
      for (; x < t.width; ++x) depthwise_pixels<1>(t, finisher, channel, weight, lanes, row, x);
    }
}

}  // namespace

void depthwise_avx512(const Depthwise& t, std::int64_t first, std::int64_t last) {
  const auto run =
      t.finish.bytes ? (t.finish.row_scale ? depthwise_as<true, true> : depthwise_as<true, false>)
                     : (t.finish.row_scale ? depthwise_as<false, true> : depthwise_as<false, false>);
  run(t, first, last);
}

void multiply_avx512(const Product& p, std::int64_t first, std::int64_t last,
                     std::int64_t first_block, std::int64_t last_block) {
  const auto run = p.finish.bytes
                       ? (p.finish.row_scale ? multiply_as<true, true> : multiply_as<true, false>)
                       : (p.finish.row_scale ? multiply_as<false, true> : multiply_as<false, false>);
  run(p, first, last, first_block, last_block);
}

const Operations avx512_operations = {plain_quantize, plain_largest, plain_flip, multiply_avx512,
                                      depthwise_avx512, 5e6, 5e5};

}  // namespace compactnets::int8
