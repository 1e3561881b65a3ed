// AVX2: no population count for vectors, so bytes are counted by two table look-ups of a nibble
// and gathered in byte counters, which are widened before they can overflow. A tile is 2 pixels by
// 16 channels (2 registers of 8 lanes): per register and pixel one register of `ones` and one of
// byte counts, 8 of the 16; weights, table and temporaries fill the rest.
#include <immintrin.h>

#include "binary/conv.hpp"

namespace compactnets::binary {
namespace {

constexpr int kHalf = 8;    // lanes of a register
constexpr int kFlush = 31;  // a step adds at most 8 to a byte counter: 31 * 8 < 256

// Bit i: not (x[i] + input_shift[i] >= 0), of 8 values.
inline std::uint32_t negative8(const float* x, const float* input_shift) {
  __m256 value = _mm256_loadu_ps(x);
  if (input_shift) value = _mm256_add_ps(value, _mm256_loadu_ps(input_shift));
  const __m256 negative = _mm256_cmp_ps(value, _mm256_setzero_ps(), _CMP_NGE_UQ);
  return static_cast<std::uint32_t>(_mm256_movemask_ps(negative));
}

// The same of `count` <= 32 values; no others are read.
inline std::uint32_t negative32(const float* x, const float* input_shift, int count) {
  std::uint32_t bits = 0;
  int i = 0;
  for (; i + kHalf <= count && i < kWordBits; i += kHalf)
    bits |= negative8(x + i, input_shift ? input_shift + i : nullptr) << i;
  for (; i < count && i < kWordBits; ++i) {
    const float value = input_shift ? x[i] + input_shift[i] : x[i];
    bits |= static_cast<std::uint32_t>(!(value >= 0.0f)) << i;
  }
  return bits;
}

void pack(const float* x, std::int64_t x_step, std::int64_t pixels, const float* input_shift,
          const PixelLayout& layout, std::uint32_t* packed) {
  for (std::int64_t p = 0; p < pixels; ++p, x += x_step) {
    const float* values = x;
    const float* offsets = input_shift;
    for (int g = 0; g < layout.groups; ++g) {
      std::uint32_t before = 0;
      for (int word = 0; word < layout.words; ++word) {
        const int done = word * kWordBits;
        const std::uint32_t bits =
            negative32(values + done, offsets ? offsets + done : nullptr, layout.channels - done);
        packed[word] = word % 2 ? bits ^ before : bits;
        before = bits;
      }
      packed += layout.words;
      values += layout.channels;
      if (offsets) offsets += layout.channels;
    }
  }
}

inline __m256i load(const void* words) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(words));
}

inline __m256i broadcast(const std::uint32_t* word) {
  return _mm256_set1_epi32(static_cast<int>(*word));
}

// Set bits of each byte.
inline __m256i count_bytes(__m256i v) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble));
  const __m256i high =
      _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
  return _mm256_add_epi8(low, high);
}

// Sum of the four bytes of each lane.
inline __m256i widen(__m256i bytes) {
  const __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

struct Counter {
  __m256i ones = _mm256_setzero_si256();
  __m256i twos = _mm256_setzero_si256();   // by byte, since the last flush
};

inline void add_pair(Counter& counter, __m256i w1, __m256i w12, __m256i first, __m256i both) {
  const __m256i x1 = _mm256_xor_si256(w1, first);
  const __m256i parity = _mm256_xor_si256(w12, both);
  const __m256i mixed = _mm256_and_si256(parity, _mm256_xor_si256(x1, counter.ones));
  counter.twos = _mm256_add_epi8(counter.twos, count_bytes(_mm256_xor_si256(x1, mixed)));
  counter.ones = _mm256_xor_si256(counter.ones, parity);
}

inline void add_single(Counter& counter, __m256i w, __m256i word) {
  const __m256i x1 = _mm256_xor_si256(w, word);
  const __m256i carry = _mm256_and_si256(counter.ones, x1);
  counter.twos = _mm256_add_epi8(counter.twos, count_bytes(carry));
  counter.ones = _mm256_xor_si256(counter.ones, x1);
}

inline void flush(Counter& counter, __m256i& total) {
  total = _mm256_add_epi32(total, widen(counter.twos));
  counter.twos = _mm256_setzero_si256();
}

// One pixel's dot products, 8 lanes each, to floats or bits.
inline void store_pixel(const Result& result, int pixel, const __m256i (&dots)[2]) {
  if (result.threshold) {
    unsigned bits = 0;
    for (int half = 0; half < 2; ++half) {
      const __m256i below = _mm256_cmpgt_epi32(load(result.threshold + half * kHalf), dots[half]);
      bits |= static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(below))) << half * kHalf;
    }
    result.bits[pixel * result.bits_step] =
        static_cast<std::uint16_t>(bits & ((1u << result.channels) - 1));
    return;
  }
  float* out = result.out + pixel * result.out_step;
  alignas(32) float results[kLanes];
  for (int half = 0; half < 2; ++half) {
    const __m256 scaled =
        _mm256_mul_ps(_mm256_cvtepi32_ps(dots[half]), _mm256_loadu_ps(result.scale + half * kHalf));
    _mm256_storeu_ps(result.channels == kLanes ? out + half * kHalf : results + half * kHalf,
                     _mm256_add_ps(scaled, _mm256_loadu_ps(result.bias + half * kHalf)));
  }
  if (result.channels < kLanes)
    for (int lane = 0; lane < result.channels; ++lane) out[lane] = results[lane];
}

template <int Pixels>
inline void store_tile(const RowTask& task, int first_pixel, const Counter (*counters)[2],
                       const __m256i (*totals)[2]) {
  for (int p = 0; p < Pixels; ++p) {
    const std::int32_t* base = task.base + task.column_class[first_pixel + p] * task.base_step;
    __m256i dots[2];
    for (int half = 0; half < 2; ++half) {
      const __m256i twos = totals[p][half];
      const __m256i differing = _mm256_add_epi32(_mm256_add_epi32(twos, twos),
                                                 widen(count_bytes(counters[p][half].ones)));
      dots[half] = _mm256_sub_epi32(load(base + half * kHalf),
                                    _mm256_add_epi32(differing, differing));
    }
    store_pixel(task.result, first_pixel + p, dots);
  }
}

template <int Pixels>
inline void convolve_tile(const RowTask& task, int first_pixel) {
  const std::uint32_t* image = task.image + first_pixel * task.pixel_step;
  const std::uint32_t* weight = task.weight;
  Counter counters[Pixels][2];
  __m256i totals[Pixels][2];
  for (auto& pixel : totals) pixel[0] = pixel[1] = _mm256_setzero_si256();
  const auto flush_all = [&] {
    for (int p = 0; p < Pixels; ++p)
      for (int half = 0; half < 2; ++half) flush(counters[p][half], totals[p][half]);
  };

  for (int done = 0; done < task.pairs;) {
    const int end = done + kFlush < task.pairs ? done + kFlush : task.pairs;
    for (; done < end; ++done, weight += 2 * kLanes) {
      const std::uint32_t* words = image + task.pair_offsets[done];
      for (int p = 0; p < Pixels; ++p) {
        const __m256i first = broadcast(words + p * task.pixel_step);
        const __m256i both = broadcast(words + p * task.pixel_step + 1);
        for (int half = 0; half < 2; ++half)
          add_pair(counters[p][half], load(weight + half * kHalf),
                   load(weight + kLanes + half * kHalf), first, both);
      }
    }
    flush_all();
  }
  for (int done = 0; done < task.singles;) {
    const int end = done + kFlush < task.singles ? done + kFlush : task.singles;
    for (; done < end; ++done, weight += kLanes) {
      const std::uint32_t* words = image + task.single_offsets[done];
      for (int p = 0; p < Pixels; ++p)
        for (int half = 0; half < 2; ++half)
          add_single(counters[p][half], load(weight + half * kHalf),
                     broadcast(words + p * task.pixel_step));
    }
    flush_all();
  }
  store_tile<Pixels>(task, first_pixel, counters, totals);
}

void convolve_row(const RowTask& task) {
  int p = 0;
  for (; p + 2 <= task.pixels; p += 2) convolve_tile<2>(task, p);
  if (p < task.pixels) convolve_tile<1>(task, p);
}

}  // namespace

const Operations avx2_operations = {pack, convolve_row};

}  // namespace compactnets::binary
