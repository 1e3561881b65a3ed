// The int8 matrix unit (AMX): 64 pixels by 16 channels at a time, four tiles of sums.
//
// A step of 64 bytes of depth loads one tile of weights and four of pixels for four products: the
// unit is busy for 64 cycles, in which the vector units, idle otherwise, do the rest of the work:
// they expand the weights of a later step (a vector of 16 words to 8 rows of 16 x 4 bytes: one
// vpmultishiftqb brings each byte's bit to its top, one vpternlog makes +64 or -64 of it) into a
// few tiles that stay in the first-level cache, and write out the sums of the block before. Where a
// layer's tiles do not fit there they are expanded anew for every 64 pixels: that costs less than
// reading them from the second-level cache, 8 times what their bits take.
#include <immintrin.h>

#include "binary/bytes.hpp"
#include "common/amx.hpp"
#include "common/unroll.hpp"

namespace compactnets::binary {
namespace {

constexpr int kTilePixels = 16;
constexpr int kTileBytes = 1024;
constexpr int kKept = 20;    // up to so many steps are expanded once and stay in the L1 cache
constexpr int kRing = 4;     // of more, only so many are held at a time
constexpr int kAhead = 3;    // steps between expanding weights and multiplying by them
constexpr int kRowsAtOnce = 8;
constexpr int kScaled = 6;   // sums are 2^6 times too large

inline __mmask16 first_lanes(int count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

// +1 or -1 for up to 16 values.
inline __m128i signs16(const float* x, const float* input_shift, __mmask16 lanes) {
  __m512 value = _mm512_maskz_loadu_ps(lanes, x);
  if (input_shift) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(lanes, input_shift));
  const __mmask16 negative = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_NGE_UQ);
  return _mm_mask_blend_epi8(negative, _mm_set1_epi8(1), _mm_set1_epi8(-1));
}

// One group of one pixel. Whole vectors first: most layers have nothing else.
inline void pack_group(const float* x, const float* input_shift, const ByteLayout& layout,
                       std::int8_t* bytes) {
  int done = 0;
  for (; done + 16 <= layout.channels; done += 16)
    _mm_store_si128(reinterpret_cast<__m128i*>(bytes + done),
                    signs16(x + done, input_shift ? input_shift + done : nullptr, 0xffff));
  for (; done < layout.bytes; done += 16) {
    const __mmask16 lanes = done < layout.channels ? first_lanes(layout.channels - done) : 0;
    const __m128i signs = signs16(x + done, input_shift ? input_shift + done : nullptr, lanes);
    _mm_store_si128(reinterpret_cast<__m128i*>(bytes + done), _mm_maskz_mov_epi8(lanes, signs));
  }
}

void pack(const float* x, std::int64_t x_step, std::int64_t pixels, const float* input_shift,
          const ByteLayout& layout, std::int8_t* bytes) {
  for (std::int64_t p = 0; p < pixels; ++p, x += x_step)
    for (int g = 0; g < layout.groups; ++g, bytes += layout.bytes)
      pack_group(x + g * layout.channels, input_shift ? input_shift + g * layout.channels : nullptr,
                 layout, bytes);
}

void spread(const std::uint32_t* words, std::int64_t pixels, const ByteLayout& layout,
            std::int8_t* bytes) {
  const __m512i one = _mm512_set1_epi8(1), minus_one = _mm512_set1_epi8(-1);
  for (std::int64_t item = 0; item < pixels * layout.groups; ++item)
    for (int done = 0; done < layout.bytes; done += 64, bytes += 64) {
      std::uint64_t bits = *words++;
      if (layout.channels > done + 32) bits |= static_cast<std::uint64_t>(*words++) << 32;
      const int count = layout.channels - done;
      const __mmask64 valid = count >= 64 ? ~0ull : (1ull << count) - 1;
      _mm512_store_si512(bytes, _mm512_maskz_mov_epi8(
                                    valid, _mm512_mask_blend_epi8(bits, one, minus_one)));
    }
}

// Byte j of lane n in row r takes the 8 bits that end at bit 4 r + j of word n; two words make the
// quadword in which vpmultishiftqb counts.
struct RowBits {
  alignas(64) std::int8_t of[8][64];
  constexpr RowBits() : of{} {
    for (int row = 0; row < 8; ++row)
      for (int lane = 0; lane < kLanes; ++lane)
        for (int j = 0; j < 4; ++j)
          of[row][4 * lane + j] =
              static_cast<std::int8_t>((lane % 2 * kWordBits + 4 * row + j - 7) & 63);
  }
};
constexpr RowBits kRowBits;

inline int smaller(int a, int b) { return a < b ? a : b; }

// Turns the packed weights of one block into tiles.
class Expander {
 public:
  explicit Expander(const ByteTask& task) : task_(task) {}

  // The tile of a step: rows 0..7 from its first word, 8..15 from its second.
  inline __attribute__((always_inline)) void expand(int step, std::int8_t* tile) const {
    __m512i first, second;
    if (step < task_.pairs) {
      const std::uint32_t* words = task_.weight + step * 2 * kLanes;
      first = _mm512_loadu_si512(words);
      second = _mm512_xor_si512(first, _mm512_loadu_si512(words + kLanes));
    } else {
      first = _mm512_loadu_si512(task_.weight + (task_.pairs + step) * kLanes);
      second = _mm512_setzero_si512();  // meets zeros of the image
    }
    expand_word(first, tile);
    expand_word(second, tile + kTileBytes / 2);
  }

 private:
  inline __attribute__((always_inline)) void expand_word(__m512i word, std::int8_t* rows) const {
    constexpr int kAndOr = 0xEA;  // (a & b) | c
    const __m512i top = _mm512_set1_epi8(-128), plus = _mm512_set1_epi8(64);
    COMPACTNETS_UNROLL
    for (int row = 0; row < 8; ++row) {
      const __m512i bit =
          _mm512_multishift_epi64_epi8(_mm512_load_si512(kRowBits.of[row]), word);
      _mm512_store_si512(rows + 64 * row, _mm512_ternarylogic_epi32(bit, top, plus, kAndOr));
    }
  }

  const ByteTask& task_;
};

// Writes sums of flattened pixels, in order, to where the result wants them. Columns beyond the
// output are written too, where the next row's first pixel comes to lie: no branch, and what
// belongs there overwrites it. A task therefore ends with the last pixel of a row.
template <bool kSigns>
class Writer {
 public:
  explicit Writer(const ByteTask& task)
      : step_(kSigns ? task.result.bits_step : task.result.out_step),
        out_(task.result.out),
        bits_(task.result.bits),
        pitch_(task.pitch),
        width_(task.width),
        lanes_(first_lanes(task.result.channels)) {
    if constexpr (kSigns) {
      threshold_ = _mm512_loadu_si512(task.result.threshold);
    } else {
      scale_ = _mm512_loadu_ps(task.result.scale);
      bias_ = _mm512_loadu_ps(task.result.bias);
    }
  }

  template <int kPixels>
  inline __attribute__((always_inline)) void write(const std::int32_t* sums) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kPixels; ++i) write_one(sums + i * kLanes);
  }

 private:
  inline __attribute__((always_inline)) void write_one(const std::int32_t* sums) {
    const __m512i dots = _mm512_srai_epi32(_mm512_load_si512(sums), kScaled);
    const std::int64_t step = column_ < width_ ? step_ : 0;
    column_ = column_ + 1 == pitch_ ? 0 : column_ + 1;
    if constexpr (kSigns) {
      *bits_ = _mm512_mask_cmplt_epi32_mask(lanes_, dots, threshold_);
      bits_ += step;
    } else {
      const __m512 scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dots), scale_);
      _mm512_mask_storeu_ps(out_, lanes_, _mm512_add_ps(scaled, bias_));
      out_ += step;
    }
  }

  std::int64_t step_;
  float* out_;
  std::uint16_t* bits_;
  int column_ = 0, pitch_, width_;
  __mmask16 lanes_;
  __m512 scale_, bias_;
  __m512i threshold_;
};

// Expanded weights of the steps: all of them, or the last few.
struct Tiles {
  std::int8_t* bytes;
  int mask;

  std::int8_t* of(int step) const { return bytes + (step & mask) * kTileBytes; }
};

template <int kValue>
struct Count {
  constexpr int operator()() const { return kValue; }
};

// Sums of kTiles x 16 pixels over all steps; between(step) is called once a step.
template <int kTiles, typename Between>
inline __attribute__((always_inline)) void multiply(const std::int8_t* pixels, std::int64_t step_bytes,
                                                    const std::int32_t* offsets, int steps,
                                                    const Tiles& weights, std::int32_t* sums,
                                                    const Between& between) {
  const std::int64_t tile = kTilePixels * step_bytes;
  _tile_zero(0);
  if constexpr (kTiles > 1) _tile_zero(1);
  if constexpr (kTiles > 2) _tile_zero(2);
  if constexpr (kTiles > 3) _tile_zero(3);
  for (int s = 0; s < steps; ++s) {
    const std::int8_t* from = pixels + offsets[s];
    memory_is_written();
    _tile_loadd(4, weights.of(s), 64);
    _tile_loadd(5, from, step_bytes);
    _tile_dpbssd(0, 5, 4);
    if constexpr (kTiles > 1) {
      _tile_loadd(6, from + tile, step_bytes);
      _tile_dpbssd(1, 6, 4);
    }
    if constexpr (kTiles > 2) {
      _tile_loadd(7, from + 2 * tile, step_bytes);
      _tile_dpbssd(2, 7, 4);
    }
    if constexpr (kTiles > 3) {
      _tile_loadd(5, from + 3 * tile, step_bytes);
      _tile_dpbssd(3, 5, 4);
    }
    between(s);
  }
  _tile_stored(0, sums, 64);
  if constexpr (kTiles > 1) _tile_stored(1, sums + 256, 64);
  if constexpr (kTiles > 2) _tile_stored(2, sums + 512, 64);
  if constexpr (kTiles > 3) _tile_stored(3, sums + 768, 64);
  memory_is_written();
}

// What the vector units do at a step: expand the weights of a step to come, write some pixels of
// the block before.
template <bool kSigns>
struct Meanwhile {
  const Expander& expander;
  Writer<kSigns>& writer;
  const Tiles& tiles;
  const std::int32_t* sums;  // nullptr: there is no block before
  int expand_before;         // no step from here on
  int write_each;            // pixels / 8 of a step

  inline __attribute__((always_inline)) void operator()(int step) const {
    const int next = step + kAhead;
    if (next < expand_before) expander.expand(next, tiles.of(next));
    if (sums == nullptr) return;
    const int end = smaller((step + 1) * write_each, kPixelBlock / kRowsAtOnce);
    for (int i = step * write_each; i < end; ++i)
      writer.template write<kRowsAtOnce>(sums + i * kRowsAtOnce * kLanes);
  }
};

template <bool kSigns>
inline void convolve_task(const ByteTask& task) {
  alignas(64) std::int32_t sums[2][kPixelBlock * kLanes];
  alignas(64) std::int8_t expanded[kKept * kTileBytes];
  const FullTiles unit;
  const Expander expander(task);
  Writer<kSigns> writer(task);
  const int steps = task.pairs + task.singles;
  const bool keep = steps <= kKept;
  const Tiles tiles{expanded, keep ? 31 : kRing - 1};
  const int write_each = (kPixelBlock / kRowsAtOnce + steps - 1) / steps;
  const std::int32_t* before = nullptr;
  for (int pixel = 0; pixel < task.pixels; pixel += kPixelBlock) {
    const bool expanding = pixel == 0 || !keep;
    for (int s = 0; expanding && s < kAhead && s < steps; ++s)
      expander.expand(s, tiles.of(s));
    std::int32_t* to = sums[pixel / kPixelBlock % 2];
    const Meanwhile<kSigns> meanwhile{expander, writer,  tiles,
                                       before,   expanding ? steps : 0, write_each};
    const auto run = [&](auto tiles_used) {
      multiply<tiles_used()>(task.image + pixel * task.pixel_step, task.pixel_step, task.offsets,
                             steps, tiles, to, meanwhile);
    };
    const int left = task.pixels - pixel;
    if (left > 48) run(Count<4>{});
    else if (left > 32) run(Count<3>{});
    else if (left > 16) run(Count<2>{});
    else run(Count<1>{});
    before = to;
  }
  for (int i = 0; i < (task.pixels - 1) % kPixelBlock + 1; ++i)
    writer.template write<1>(before + i * kLanes);
}

void convolve(const ByteTask& task) {
  if (task.result.threshold) convolve_task<true>(task);
  else convolve_task<false>(task);
}

}  // namespace

const ByteOperations amx_operations = {pack, spread, convolve};

}  // namespace compactnets::binary
