// AVX2, 8 bits. vmpsadbw is the sliding form: 8 neighbouring windows of 4 bytes against one of the
// four quads of each half of the weights, which an immediate selects. A tile is 8 positions by 16
// outputs: 8 registers of sums (8 positions of one output in each half), the image, the weights.
// The plain form sums 8 channels at once: 4 pixels by 8 outputs in 8 registers.
#include <immintrin.h>

#include "adder/bytes.hpp"
#include "common/unroll.hpp"

namespace compactnets::adder {
namespace {

constexpr int kMostPairs = 28;  // 7 tiles of 8 positions
constexpr int kSlideFold = 64;  // 64 steps * 4 bytes * 255 < 65536

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

// Eight positions of the two outputs in the halves of `words`, on top of `wide`: [2][8].
inline void fold(__m256i words, std::int32_t* wide) {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i low = _mm256_unpacklo_epi16(words, zero), high = _mm256_unpackhi_epi16(words, zero);
  const __m256i first = _mm256_permute2x128_si256(low, high, 0x20);
  const __m256i second = _mm256_permute2x128_si256(low, high, 0x31);
  store(wide, _mm256_add_epi32(load(wide), first));
  store(wide + 8, _mm256_add_epi32(load(wide + 8), second));
}

#define COMPACTNETS_SLIDE(i, quad)                                                            \
  words[i] = _mm256_add_epi16(words[i], _mm256_mpsadbw_epu8(x, i < 4 ? w0 : w1, quad | quad << 3))

// Eight positions from `at` on.
inline void slide_tile(const SlideTask& task, int at, std::int32_t (*wide)[16]) {
  __m256i words[8];
  COMPACTNETS_UNROLL
  for (int i = 0; i < 8; ++i) {
    words[i] = _mm256_setzero_si256();
    store(wide[i], words[i]);
    store(wide[i] + 8, words[i]);
  }
  const std::uint8_t* weight = task.weight;
  for (int step = 0; step < task.steps;) {
    const int end = step + kSlideFold < task.steps ? step + kSlideFold : task.steps;
    for (; step < end; ++step, weight += kSlideStep) {
      const __m256i w0 = load(weight), w1 = load(weight + 32);
      const __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128(
          reinterpret_cast<const __m128i*>(task.image + at + task.offsets[step])));
      COMPACTNETS_SLIDE(0, 0);
      COMPACTNETS_SLIDE(1, 1);
      COMPACTNETS_SLIDE(2, 2);
      COMPACTNETS_SLIDE(3, 3);
      COMPACTNETS_SLIDE(4, 0);
      COMPACTNETS_SLIDE(5, 1);
      COMPACTNETS_SLIDE(6, 2);
      COMPACTNETS_SLIDE(7, 3);
    }
    COMPACTNETS_UNROLL
    for (int i = 0; i < 8; ++i) {
      fold(words[i], wide[i]);
      words[i] = _mm256_setzero_si256();
    }
  }
}

// Quad q of half h of register r holds output 4 r + 2 h + q / 2, or that + 8 where q is odd.
inline int output_of(int i, int half) { return 4 * (i / 4) + 2 * half + i % 4 / 2 + i % 2 * 8; }

void slide(const SlideTask& task) {
  alignas(32) std::int32_t wide[8][16];
  const int rows = 2 * task.pairs;
  for (int at = 0; at < rows; at += 8) {
    slide_tile(task, at, wide);
    const int count = rows - at < 8 ? rows - at : 8;
    for (int i = 0; i < 8; ++i)
      for (int half = 0; half < 2; ++half)
        for (int p = 0; p < count; ++p)
          task.sums[(at + p) * kBlock + output_of(i, half)] = wide[i][8 * half + p];
  }
}

inline __m256i broadcast8(const std::uint8_t* p) {
  long long bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return _mm256_set1_epi64x(bytes);
}

// 4 outputs of two registers, each in the low half of 8 bytes, side by side.
inline __m256i narrow(__m256i a, __m256i b) {
  const __m256i mixed = _mm256_castps_si256(
      _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
  return _mm256_permute4x64_epi64(mixed, 0xd8);
}

template <int Pixels>
inline void plain_tile(const PlainTask& task, int first, int half) {
  const std::uint8_t* image = task.image + first * kGroup;
  const std::uint8_t* weight = task.weight + half * 64;
  __m256i low[Pixels], high[Pixels];
  COMPACTNETS_UNROLL
  for (int p = 0; p < Pixels; ++p) low[p] = high[p] = _mm256_setzero_si256();
  for (int step = 0; step < task.steps; ++step, weight += kPlainStep) {
    const __m256i w0 = load(weight), w1 = load(weight + 32);
    const std::uint8_t* bytes = image + task.offsets[step];
    COMPACTNETS_UNROLL
    for (int p = 0; p < Pixels; ++p) {
      const __m256i x = broadcast8(bytes + p * kGroup);
      low[p] = _mm256_add_epi32(low[p], _mm256_sad_epu8(w0, x));
      high[p] = _mm256_add_epi32(high[p], _mm256_sad_epu8(w1, x));
    }
  }
  COMPACTNETS_UNROLL
  for (int p = 0; p < Pixels; ++p)
    store(task.sums + (first + p) * kBlock + half * 8, narrow(low[p], high[p]));
}

void plain(const PlainTask& task) {
  for (int half = 0; half < 2; ++half) {
    int p = 0;
    for (; p + 5 <= task.pixels; p += 5) plain_tile<5>(task, p, half);
    switch (task.pixels - p) {
      case 4: plain_tile<4>(task, p, half); break;
      case 3: plain_tile<3>(task, p, half); break;
      case 2: plain_tile<2>(task, p, half); break;
      case 1: plain_tile<1>(task, p, half); break;
      default: break;
    }
  }
}

void finish(const FinishTask& task) {
  for (int p = 0; p < task.pixels; ++p) {
    const std::int32_t from = task.correction ? task.correction[p] : 0;
    const std::int32_t* sums = task.sums + p * kBlock;
    alignas(32) std::int32_t results[kBlock];
    std::int32_t* out = static_cast<std::int32_t*>(task.out) + p * task.out_step;  // or floats
    std::int32_t* to = task.outputs == kBlock ? out : results;
    for (int half = 0; half < kBlock; half += 8) {
      __m256i value = _mm256_sub_epi32(_mm256_set1_epi32(from), load(sums + half));
      if (task.scale)
        value = _mm256_castps_si256(_mm256_add_ps(
            _mm256_mul_ps(_mm256_cvtepi32_ps(value), _mm256_loadu_ps(task.scale + half)),
            _mm256_loadu_ps(task.bias + half)));
      store(to + half, value);
    }
    if (to == results)
      for (int i = 0; i < task.outputs; ++i) out[i] = results[i];
  }
}

// 16 pixels by 16 channels: four rounds of interleaving registers that are 8 apart.
inline void transpose16(const std::uint8_t* x, std::int64_t x_step, __m128i flip, std::uint8_t* out,
                        std::int64_t plane) {
  __m128i a[16], b[16];
  for (int i = 0; i < 16; ++i)
    a[i] = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i * x_step)), flip);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * plane), a[i]);
}

void transpose(const std::uint8_t* x, std::int64_t x_step, std::int64_t pixels,
               std::int64_t channels, std::uint8_t flip, std::uint8_t* out, std::int64_t plane) {
  const __m128i flips = _mm_set1_epi8(static_cast<char>(flip));
  std::int64_t p = 0;
  for (; p < pixels; p += 16) {
    std::int64_t c = 0;
    for (; p + 16 <= pixels && c + 16 <= channels; c += 16)
      transpose16(x + p * x_step + c, x_step, flips, out + c * plane + p, plane);
    for (; c < channels; ++c)
      for (std::int64_t i = p; i < p + 16 && i < pixels; ++i)
        out[c * plane + i] = x[i * x_step + c] ^ flip;
  }
}

void sum_planes(const std::uint8_t* planes, std::int64_t plane, std::int64_t channels,
                std::int64_t pixels, std::int32_t* sums) {
  for (std::int64_t p = 0; p < pixels; ++p) sums[p] = 0;
  for (std::int64_t c = 0; c < channels; ++c)
    for (std::int64_t p = 0; p < pixels; ++p) sums[p] += planes[c * plane + p];
}

}  // namespace

const ByteOperations avx2_byte_operations = {kMostPairs, 0,     transpose, sum_planes,
                                             slide,      plain, finish};

}  // namespace compactnets::adder
