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

constexpr int kTileBytes = 1024;
constexpr int kRing = 4;     // tiles that are held at a time where not all are kept; a power of 2
constexpr int kAhead = 3;    // steps between expanding weights and multiplying by them
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

// 64 channels of one pixel, of which only `count` exist.
inline void pack_slice(const float* x, const float* input_shift, int count, std::int8_t* bytes) {
  COMPACTNETS_UNROLL
  for (int done = 0; done < kStepBytes; done += 16) {
    const __mmask16 lanes = done < count ? first_lanes(count - done) : 0;
    const __m128i signs = signs16(x + done, input_shift ? input_shift + done : nullptr, lanes);
    _mm_store_si128(reinterpret_cast<__m128i*>(bytes + done), _mm_maskz_mov_epi8(lanes, signs));
  }
}

void pack(const float* x, std::int64_t x_step, std::int64_t pixels, const float* input_shift,
          const ByteLayout& layout, std::int8_t* bytes) {
  for (std::int64_t p = 0; p < pixels; ++p, x += x_step, bytes += kStepBytes) {
    std::int8_t* out = bytes;
    for (int g = 0; g < layout.groups; ++g)
      for (int done = 0; done < layout.channels; done += kStepBytes, out += layout.slice_step) {
        const int first = g * layout.channels + done;
        pack_slice(x + first, input_shift ? input_shift + first : nullptr, layout.channels - done,
                   out);
      }
  }
}

void spread(const std::uint32_t* words, std::int64_t pixels, const ByteLayout& layout,
            std::int8_t* bytes) {
  const __m512i one = _mm512_set1_epi8(1), minus_one = _mm512_set1_epi8(-1);
  for (std::int64_t p = 0; p < pixels; ++p, bytes += kStepBytes) {
    std::int8_t* out = bytes;
    for (int g = 0; g < layout.groups; ++g)
      for (int count = layout.channels; count > 0; count -= kStepBytes, out += layout.slice_step) {
        std::uint64_t bits = *words++;
        if (count > kWordBits) bits |= static_cast<std::uint64_t>(*words++) << kWordBits;
        const __mmask64 valid = count >= 64 ? ~0ull : (1ull << count) - 1;
        _mm512_store_si512(
            out, _mm512_maskz_mov_epi8(valid, _mm512_mask_blend_epi8(bits, one, minus_one)));
      }
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
struct Expander {
  const std::uint32_t* weight;

  // Rows 0..7 of the tile from the step's first word, 8..15 from its second.
  inline __attribute__((always_inline)) void expand(const Step& step, std::int8_t* tile) const {
    const std::uint32_t* words = weight + step.weight;
    const __mmask16 pair = step.pair ? 0xffff : 0;  // without: any value, it meets zeros
    const __m512i first = _mm512_loadu_si512(words);
    const __m512i second =
        _mm512_xor_si512(first, _mm512_maskz_loadu_epi32(pair, words + kLanes));
    expand_word(first, tile);
    expand_word(second, tile + kTileBytes / 2);
  }

  static inline __attribute__((always_inline)) void expand_word(__m512i word, std::int8_t* rows) {
    constexpr int kAndOr = 0xEA;  // (a & b) | c
    const __m512i top = _mm512_set1_epi8(-128), plus = _mm512_set1_epi8(64);
    COMPACTNETS_UNROLL
    for (int row = 0; row < 8; ++row) {
      const __m512i bit =
          _mm512_multishift_epi64_epi8(_mm512_load_si512(kRowBits.of[row]), word);
      _mm512_store_si512(rows + 64 * row, _mm512_ternarylogic_epi32(bit, top, plus, kAndOr));
    }
  }
};

// Writes the sums of flattened pixels, in order, to where the result wants them. Columns beyond the
// output are written too, where the next row's first pixel comes to lie: no branch, and what
// belongs there overwrites it. A task therefore ends with the last pixel of a row.
template <bool kSigns, int kBlocks>
class Writer {
 public:
  explicit Writer(const ByteTask& task)
      : result_(task.result),
        step_(kSigns ? result_.bits_step : result_.out_step),
        pitch_(task.pitch),
        width_(task.width) {}

  // What comes next belongs to the first pixels of these blocks.
  void start(int block) {
    first_ = block;
    place_ = 0;
    column_ = 0;
    lanes_ = first_lanes(result_.channels - (block + kBlocks - 1) * kLanes);  // of the last block
  }

  void take(const std::int32_t* sums, int pixels) {
    sums_ = sums;
    end_ = sums + pixels * kLanes;
  }

  // Some 8 vectors, if so many are left.
  inline __attribute__((always_inline)) void write_some() {
    constexpr int kPixels = 8 / kBlocks;
    if (end_ - sums_ >= kPixels * kLanes) write_pixels<kPixels>();
  }

  void write_rest() {
    while (sums_ < end_) write_pixels<1>();
  }

 private:
  template <int kPixels>
  inline __attribute__((always_inline)) void write_pixels() {
    const std::int32_t* sums = sums_;  // in registers: what is written might be the members' memory
    std::int64_t place = place_;
    int column = column_;
    const Result result = result_;
    const int width = width_, pitch = pitch_, first = first_;
    const std::int64_t step = step_;
    const __mmask16 last_lanes = lanes_;
    COMPACTNETS_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      COMPACTNETS_UNROLL
      for (int i = 0; i < kBlocks; ++i)
        write_one(result, place, first + i, i + 1 == kBlocks ? last_lanes : 0xffff,
                  _mm512_srai_epi32(_mm512_load_si512(sums + i * kBlockSums), kScaled));
      sums += kLanes;
      place += column < width ? step : 0;
      column = column + 1 == pitch ? 0 : column + 1;
    }
    sums_ = sums;
    place_ = place;
    column_ = column;
  }

  static inline __attribute__((always_inline)) void write_one(const Result& result,
                                                              std::int64_t place, int block,
                                                              __mmask16 lanes, __m512i dots) {
    const int channel = block * kLanes;
    if constexpr (kSigns) {
      const __m512i threshold = _mm512_loadu_si512(result.threshold + channel);
      result.bits[place + block] = _mm512_mask_cmplt_epi32_mask(lanes, dots, threshold);
    } else {
      const __m512 scaled =
          _mm512_mul_ps(_mm512_cvtepi32_ps(dots), _mm512_loadu_ps(result.scale + channel));
      _mm512_mask_storeu_ps(result.out + place + channel, lanes,
                            _mm512_add_ps(scaled, _mm512_loadu_ps(result.bias + channel)));
    }
  }

  const Result result_;
  const std::int64_t step_;
  const int pitch_, width_;
  const std::int32_t *sums_ = nullptr, *end_ = nullptr;
  std::int64_t place_ = 0;
  int first_ = 0, column_ = 0;
  __mmask16 lanes_ = 0;
};

// Expanded weights: all steps of some blocks, or the last few of all.
struct Tiles {
  std::int8_t* bytes;
  int mask;

  std::int8_t* of(int index) const { return bytes + (index & mask) * kTileBytes; }
};

template <int kValue>
struct Count {
  constexpr int operator()() const { return kValue; }
};

// Sums of kTiles x 16 pixels over all steps; between(s) is called once a step.
template <int kTiles, typename Between>
inline __attribute__((always_inline)) void multiply(const std::int8_t* pixels, const Step* steps,
                                                    int count, const Tiles& weights, int first,
                                                    std::int32_t* sums, const Between& between) {
  _tile_zero(0);
  if constexpr (kTiles > 1) _tile_zero(1);
  if constexpr (kTiles > 2) _tile_zero(2);
  if constexpr (kTiles > 3) _tile_zero(3);
  for (int s = 0; s < count; ++s) {
    const std::int8_t* from = pixels + steps[s].image;
    memory_is_written();
    _tile_loadd(4, weights.of(first + s), 64);
    _tile_loadd(5, from, 64);
    _tile_dpbssd(0, 5, 4);
    if constexpr (kTiles > 1) {
      _tile_loadd(6, from + kTileBytes, 64);
      _tile_dpbssd(1, 6, 4);
    }
    if constexpr (kTiles > 2) {
      _tile_loadd(7, from + 2 * kTileBytes, 64);
      _tile_dpbssd(2, 7, 4);
    }
    if constexpr (kTiles > 3) {
      _tile_loadd(5, from + 3 * kTileBytes, 64);
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

// What the vector units do at a step: expand the weights of a step to come, this block's or the
// next one's, and write some of the 64 pixels before.
template <typename Pixels>
struct Meanwhile {
  const ByteTask& task;
  const Tiles& tiles;
  int first_tile;
  int expand_to;  // no step from here on
  Expander here, next;
  Pixels& writer;
  int every, writes;  // writes some so many times every so many steps

  inline __attribute__((always_inline)) void operator()(int step) const {
    const int ahead = step + kAhead, over = ahead - task.step_count;
    if (expand_to > ahead) {
      const Step& to_come = task.steps[over < 0 ? ahead : over];
      (over < 0 ? here : next).expand(to_come, tiles.of(first_tile + ahead));
    }
    if (step % every == 0)
      for (int i = 0; i < writes; ++i) writer.write_some();
  }
};

template <bool kSigns, int kBlocks>
inline void convolve_blocks(const ByteTask& task) {
  const FullTiles unit;
  Writer<kSigns, kBlocks> writer(task);
  const int steps = task.step_count;
  const bool keep = steps * kBlocks + kAhead <= kKept;
  const Tiles tiles{task.expanded, keep ? -1 : kRing - 1};
  const int every = steps / 8 > 0 ? steps / 8 : 1, writes = (8 + steps - 1) / steps;
  const auto weight_of = [&](int block) {
    return Expander{task.weight + (block < task.blocks ? block : 0) * task.weight_step};
  };
  int tile = 0;  // the first one of the block at hand
  std::int32_t* sums = task.sums;
  for (int s = 0; !keep && s < kAhead; ++s) weight_of(0).expand(task.steps[s], tiles.of(s));
  for (int first = 0; first < task.blocks; first += kBlocks) {
    for (int pixel = 0; pixel < task.pixels; pixel += kPixelBlock) {
      const int left = task.pixels - pixel;
      const bool last = left <= kPixelBlock;
      for (int i = 0; i < kBlocks; ++i) {
        const int next = i + 1 < kBlocks ? first + i + 1 : last ? first + kBlocks : first;
        if (keep) tile = i * steps;
        if (keep && pixel == 0)
          for (int s = 0; s < kAhead && s < steps; ++s)
            weight_of(first + i).expand(task.steps[s], tiles.of(tile + s));
        const int expand_to = keep ? (pixel == 0 ? steps : 0) : steps + kAhead;
        const Meanwhile<Writer<kSigns, kBlocks>> meanwhile{
            task, tiles, tile, expand_to, weight_of(first + i), weight_of(next), writer, every,
            writes};
        const auto run = [&](auto tiles_used) {
          multiply<tiles_used()>(task.image + pixel * kStepBytes, task.steps, steps, tiles, tile,
                                 sums + i * kBlockSums, meanwhile);
        };
        if (left > 48) run(Count<4>{});
        else if (left > 32) run(Count<3>{});
        else if (left > 16) run(Count<2>{});
        else run(Count<1>{});
        tile += steps;
      }
      writer.write_rest();
      if (pixel == 0) writer.start(first);
      writer.take(sums, smaller(left, kPixelBlock));
      sums = sums == task.sums ? task.sums + kBlocks * kBlockSums : task.sums;
    }
  }
  writer.write_rest();
}

template <bool kSigns>
inline void convolve_task(const ByteTask& task) {
  if (task.together == kTogether) convolve_blocks<kSigns, kTogether>(task);
  else convolve_blocks<kSigns, 1>(task);
}

void convolve(const ByteTask& task) {
  if (task.result.threshold) convolve_task<true>(task);
  else convolve_task<false>(task);
}

}  // namespace

const ByteOperations amx_operations = {pack, spread, convolve};

}  // namespace compactnets::binary
