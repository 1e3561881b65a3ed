// Any CPU: vectors of four lanes, which the compiler maps to what there is (SSE2, NEON, scalars).
// Bits are counted by arithmetic within bytes; one pixel by 4 channels at a time.
#include <cstring>

#include "binary/conv.hpp"

namespace compactnets::binary {
namespace {

void pack(const float* x, std::int64_t x_step, std::int64_t pixels, const float* input_shift,
          const PixelLayout& layout, std::uint32_t* packed) {
  for (std::int64_t p = 0; p < pixels; ++p, x += x_step) {
    for (int c0 = 0, g = 0; g < layout.groups; ++g, packed += layout.words) {
      const int end = c0 + layout.channels;
      for (int word = 0; word < layout.words; ++word) {
        std::uint32_t bits = 0;
        for (int bit = 0; bit < kWordBits && c0 < end; ++bit, ++c0) {
          const float value = input_shift ? x[c0] + input_shift[c0] : x[c0];
          bits |= static_cast<std::uint32_t>(!(value >= 0.0f)) << bit;
        }
        packed[word] = word % 2 ? bits ^ packed[word - 1] : bits;
      }
    }
  }
}

// A vector of four lanes in the compiler's own terms (GCC and Clang), so that counters stay in
// registers; loops over arrays are vectorized too, but through memory.
typedef std::uint32_t Lanes __attribute__((vector_size(16)));
constexpr int kVectors = kLanes / 4;
constexpr int kFlush = 31;  // a step adds at most 8 to a byte counter: 31 * 8 < 256

inline Lanes load(const std::uint32_t* words) {
  Lanes lanes;
  std::memcpy(&lanes, words, sizeof(lanes));
  return lanes;
}

inline Lanes broadcast(std::uint32_t word) { return Lanes{word, word, word, word}; }

// Set bits of each byte: there is no instruction for it that all CPUs have.
inline Lanes count_bytes(Lanes v) {
  v -= (v >> 1) & 0x55555555u;
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  return (v + (v >> 4)) & 0x0f0f0f0fu;
}

// Sum of the four bytes of each lane.
inline Lanes widen(Lanes bytes) {
  const Lanes halves = (bytes & 0x00ff00ffu) + ((bytes >> 8) & 0x00ff00ffu);
  return (halves & 0xffffu) + (halves >> 16);
}

struct Counter {
  Lanes ones = {};
  Lanes twos = {};   // by byte, since the last flush
  Lanes total = {};  // of the twos
};

inline void add_pair(Counter& counter, Lanes w1, Lanes w12, Lanes first, Lanes both) {
  const Lanes x1 = w1 ^ first;
  const Lanes parity = w12 ^ both;
  counter.twos += count_bytes(x1 ^ (parity & (x1 ^ counter.ones)));
  counter.ones ^= parity;
}

inline void add_single(Counter& counter, Lanes w, Lanes word) {
  const Lanes x1 = w ^ word;
  counter.twos += count_bytes(counter.ones & x1);
  counter.ones ^= x1;
}

inline void flush(Counter& counter) {
  counter.total += widen(counter.twos);
  counter.twos = Lanes{};
}

// All steps of one pixel for 4 of the block's 16 channels.
inline Counter count_lanes(const RowTask& task, const std::uint32_t* image,
                           const std::uint32_t* weight) {
  Counter counter;
  for (int done = 0; done < task.pairs; flush(counter)) {
    const int end = done + kFlush < task.pairs ? done + kFlush : task.pairs;
    for (; done < end; ++done, weight += 2 * kLanes) {
      const std::uint32_t* words = image + task.pair_offsets[done];
      add_pair(counter, load(weight), load(weight + kLanes), broadcast(words[0]),
               broadcast(words[1]));
    }
  }
  for (int done = 0; done < task.singles; flush(counter)) {
    const int end = done + kFlush < task.singles ? done + kFlush : task.singles;
    for (; done < end; ++done, weight += kLanes)
      add_single(counter, load(weight), broadcast(image[task.single_offsets[done]]));
  }
  return counter;
}

// One pixel's 16 dot products to floats or bits.
void store_pixel(const Result& result, int pixel, const std::int32_t* dots) {
  if (result.threshold) {
    unsigned bits = 0;
    for (int lane = 0; lane < result.channels; ++lane)
      bits |= static_cast<unsigned>(dots[lane] < result.threshold[lane]) << lane;
    result.bits[pixel * result.bits_step] = static_cast<std::uint16_t>(bits);
    return;
  }
  float* out = result.out + pixel * result.out_step;
  for (int lane = 0; lane < result.channels; ++lane)
    out[lane] = static_cast<float>(dots[lane]) * result.scale[lane] + result.bias[lane];
}

void convolve_row(const RowTask& task) {
  for (int p = 0; p < task.pixels; ++p) {
    const std::uint32_t* image = task.image + p * task.pixel_step;
    const std::int32_t* base = task.base + task.column_class[p] * task.base_step;
    std::int32_t dots[kLanes];
    for (int part = 0; part < kVectors && 4 * part < task.result.channels; ++part) {
      const Counter counter = count_lanes(task, image, task.weight + 4 * part);
      const Lanes differing = 2 * counter.total + widen(count_bytes(counter.ones));
      for (int lane = 0; lane < 4; ++lane)
        dots[4 * part + lane] =
            base[4 * part + lane] - 2 * static_cast<std::int32_t>(differing[lane]);
    }
    store_pixel(task.result, p, dots);
  }
}

}  // namespace

const Operations portable_operations = {pack, convolve_row};

}  // namespace compactnets::binary
