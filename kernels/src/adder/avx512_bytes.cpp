// AVX-512, 8 bits. Two vector ports; sums of absolute differences run on one of them only, and the
// saturating addition of words on the other only (it cannot saturate here: sums are folded into 32
// bits before). The plain addition may go to either and gets in the way of the former: with it a
// step takes 1.37 cycles in place of 1.00.
//   sliding: vdbpsadbw + vpaddusw, 128 differences a cycle (96 of a 3-wide kernel)
//   plain:   vpsadbw + vpaddusw, 64 a cycle
// A sliding tile is up to 29 pairs of positions by 16 outputs: 29 registers of sums, one of weights,
// one of the image (8 bytes, broadcast by the load), no spills. A plain tile is 14 pixels by 16
// outputs in two registers each.
#include <immintrin.h>

#include "adder/bytes.hpp"
#include "common/unroll.hpp"

namespace compactnets::adder {
namespace {

constexpr int kMostPairs = 29;
constexpr int kLag = 2;
constexpr int kSlideFold = 64;  // 64 steps * 4 bytes * 255 < 65536
constexpr int kPlainFold = 32;  // 32 steps * 8 bytes * 255 < 65536

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }
inline void store(void* p, __m512i v) { _mm512_storeu_si512(p, v); }

inline __m512i broadcast8(const std::uint8_t* p) {
  long long bytes;  // at any address
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return _mm512_set1_epi64(bytes);
}

// Keeps v in a register, and what is computed before it before what comes after: left to itself
// GCC begins all of a step's loads at once and spills sums to make room for them.
inline void stay(__m512i& v) { asm volatile("" : "+v"(v)); }

inline __mmask16 first_lanes(int count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

// Words of positions 2p (even) and 2p + 1 (odd), widened, on top of what is in `wide`.
void fold(const std::uint16_t* words, int pairs, bool first, std::int32_t* wide) {
  for (int p = 0; p < pairs; ++p, words += 32, wide += 32) {
    const __m512i both = load(words);
    __m512i even = _mm512_and_si512(both, _mm512_set1_epi32(0xffff));
    __m512i odd = _mm512_srli_epi32(both, 16);
    if (!first) {
      even = _mm512_add_epi32(even, load(wide));
      odd = _mm512_add_epi32(odd, load(wide + 16));
    }
    store(wide, even);
    store(wide + 16, odd);
  }
}

// The sums of each pair, in the order of the lanes, into the rows of the tile.
void put_in_order(const std::int32_t* wide, int pairs, std::int32_t* sums) {
  const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
  for (int row = 0; row < 2 * pairs; ++row, wide += 16, sums += kBlock) {
    const __m512i ordered = _mm512_permutexvar_epi32(order, load(wide));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), _mm512_castsi512_si256(ordered));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + kLag * kBlock + 8),
                        _mm512_extracti64x4_epi64(ordered, 1));
  }
}

template <int Pairs>
void slide_tile(const SlideTask& task) {
  alignas(64) std::int32_t wide[Pairs * 32];
  alignas(64) std::uint16_t folded[Pairs * 32];
  const std::uint8_t* weight = task.weight;
  const std::int32_t* offset = task.offsets;
  for (int done = 0; done < task.steps; done += kSlideFold) {
    const int steps = done + kSlideFold < task.steps ? kSlideFold : task.steps - done;
    __m512i words[Pairs];
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pairs; ++p) words[p] = _mm512_setzero_si512();
    for (int step = 0; step < steps; ++step, ++offset, weight += kSlideStep) {
      const __m512i w = load(weight);
      const std::uint8_t* image = task.image + *offset;
      COMPACTNETS_UNROLL
      for (int p = 0; p < Pairs; ++p) {
        // Dwords 0, 1 of each 128 bits for both of its halves: the image is the same everywhere.
        const __m512i sums = _mm512_dbsad_epu8(w, broadcast8(image + 2 * p), 0x44);
        words[p] = _mm512_adds_epu16(words[p], sums);
        stay(words[p]);
      }
    }
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pairs; ++p) store(folded + 32 * p, words[p]);
    fold(folded, Pairs, done == 0, wide);
  }
  put_in_order(wide, Pairs, task.sums);
}

// Few pairs more than asked for are computed and overwritten later.
void slide(const SlideTask& task) {
  if (task.pairs > 28) return slide_tile<kMostPairs>(task);
  if (task.pairs > 27) return slide_tile<28>(task);
  if (task.pairs > 26) return slide_tile<27>(task);
  if (task.pairs > 24) return slide_tile<26>(task);
  if (task.pairs > 20) return slide_tile<24>(task);
  if (task.pairs > 16) return slide_tile<20>(task);
  if (task.pairs > 12) return slide_tile<16>(task);
  if (task.pairs > 8) return slide_tile<12>(task);
  if (task.pairs > 4) return slide_tile<8>(task);
  slide_tile<4>(task);
}

// The sum over 8 bytes stands in the lowest word of each 8; the other words stay 0.
template <int Pixels>
void plain_tile(const PlainTask& task, int first) {
  const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const std::uint8_t* image = task.image + first * kGroup;
  const std::uint8_t* weight = task.weight;
  const std::int32_t* offset = task.offsets;
  std::int32_t* sums = task.sums + first * kBlock;
  for (int done = 0; done < task.steps; done += kPlainFold) {
    const int steps = done + kPlainFold < task.steps ? kPlainFold : task.steps - done;
    __m512i low[Pixels], high[Pixels];
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pixels; ++p) low[p] = high[p] = _mm512_setzero_si512();
    for (int step = 0; step < steps; ++step, ++offset, weight += kPlainStep) {
      const __m512i w0 = load(weight), w1 = load(weight + 64);
      const std::uint8_t* bytes = image + *offset;
      COMPACTNETS_UNROLL
      for (int p = 0; p < Pixels; ++p) {
        const __m512i x = broadcast8(bytes + p * kGroup);
        low[p] = _mm512_adds_epu16(low[p], _mm512_sad_epu8(w0, x));
        high[p] = _mm512_adds_epu16(high[p], _mm512_sad_epu8(w1, x));
        stay(high[p]);
      }
    }
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pixels; ++p) {
      const __m512i before = done ? load(sums + p * kBlock) : _mm512_setzero_si512();
      const __m512i fresh = _mm512_permutex2var_epi32(low[p], evens, high[p]);
      store(sums + p * kBlock, _mm512_add_epi32(before, fresh));
    }
  }
}

void plain(const PlainTask& task) {
  int p = 0;
  for (; p + 14 <= task.pixels; p += 14) plain_tile<14>(task, p);
  int left = task.pixels - p;
  if (left > 7) plain_tile<7>(task, p), p += 7, left -= 7;
  switch (left) {
    case 7: return plain_tile<7>(task, p);
    case 6: return plain_tile<6>(task, p);
    case 5: return plain_tile<5>(task, p);
    case 4: return plain_tile<4>(task, p);
    case 3: return plain_tile<3>(task, p);
    case 2: return plain_tile<2>(task, p);
    case 1: return plain_tile<1>(task, p);
    default: return;
  }
}

template <bool kFloat>
void finish_as(const FinishTask& task) {
  const __mmask16 lanes = first_lanes(task.outputs);
  const __m512 scale = kFloat ? _mm512_loadu_ps(task.scale) : _mm512_setzero_ps();
  const __m512 bias = _mm512_loadu_ps(task.bias);
  std::int32_t* out = static_cast<std::int32_t*>(task.out);  // or floats, of the same size
  for (int p = 0; p < task.pixels; ++p, out += task.out_step) {
    const __m512i from = _mm512_set1_epi32(task.correction ? task.correction[p] : 0);
    __m512i value = _mm512_sub_epi32(from, load(task.sums + p * kBlock));
    if (kFloat)
      value = _mm512_castps_si512(
          _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(value), scale), bias));
    _mm512_mask_storeu_epi32(out, lanes, value);
  }
}

void finish(const FinishTask& task) {
  task.scale ? finish_as<true>(task) : finish_as<false>(task);
}

// 16 pixels by 16 channels: four rounds of interleaving registers that are 8, 4, 2, 1 apart.
inline void transpose16(const std::uint8_t* x, std::int64_t x_step, __m128i flip, std::uint8_t* out,
                        std::int64_t plane) {
  __m128i a[16], b[16];
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i)
    a[i] = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i * x_step)), flip);
  COMPACTNETS_UNROLL
  for (int round = 0; round < 4; ++round) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    COMPACTNETS_UNROLL
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * plane), a[i]);
}

void transpose(const std::uint8_t* x, std::int64_t x_step, std::int64_t pixels,
               std::int64_t channels, std::uint8_t flip, std::uint8_t* out, std::int64_t plane) {
  const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
  std::int64_t p = 0;
  for (; p + 16 <= pixels; p += 16) {
    std::int64_t c = 0;
    for (; c + 16 <= channels; c += 16)
      transpose16(x + p * x_step + c, x_step, flips, out + c * plane + p, plane);
    for (; c < channels; ++c)
      for (int i = 0; i < 16; ++i) out[c * plane + p + i] = x[(p + i) * x_step + c] ^ flip;
  }
  if (p == pixels) return;
  // A last tile that overlaps the one before, where there is one.
  std::int64_t c = 0;
  if (pixels >= 16)
    for (; c + 16 <= channels; c += 16)
      transpose16(x + (pixels - 16) * x_step + c, x_step, flips, out + c * plane + pixels - 16,
                  plane);
  for (; c < channels; ++c)
    for (std::int64_t i = p; i < pixels; ++i) out[c * plane + i] = x[i * x_step + c] ^ flip;
}

void sum_planes(const std::uint8_t* planes, std::int64_t plane, std::int64_t channels,
                std::int64_t pixels, std::int32_t* sums) {
  for (std::int64_t p = 0; p < pixels; p += 32) {
    const std::int64_t left = pixels - p;
    const __mmask32 lanes = left >= 32 ? ~0u : (1u << left) - 1;
    __m512i low = _mm512_setzero_si512(), high = low;
    for (std::int64_t c = 0; c < channels;) {
      const std::int64_t end = c + 256 < channels ? c + 256 : channels;
      __m512i words = _mm512_setzero_si512();
      for (; c < end; ++c)
        words = _mm512_add_epi16(
            words, _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(lanes, planes + c * plane + p)));
      low = _mm512_add_epi32(low, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(words)));
      high = _mm512_add_epi32(high, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(words, 1)));
    }
    _mm512_mask_storeu_epi32(sums + p, static_cast<__mmask16>(lanes), low);
    _mm512_mask_storeu_epi32(sums + p + 16, static_cast<__mmask16>(lanes >> 16), high);
  }
}

}  // namespace

const ByteOperations avx512_byte_operations = {kMostPairs, kLag,  transpose, sum_planes,
                                               slide,      plain, finish};

}  // namespace compactnets::adder
