// What all instruction sets share: bit planes, borders, and where results go.
//
// Bits are made once per call: for each image, channel and horizontal tap the rows of the output's
// width, shifted by the tap, each row begun at a byte; rows `stride` apart lie one below the other. A
// plane of a tile, whatever its vertical tap, is then a stretch of bytes per image.
#include "tree/conv.hpp"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "common/isa.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::tree {
namespace {

const Operations& operations() {
  return pick<Operations>(nullptr, COMPACTNETS_AVX512(avx512_operations),
                          COMPACTNETS_AVX2(avx2_operations), portable_operations);
}

constexpr std::int64_t kTileBytes = kPixels / 8;

// Bytes of the bits of all images, and where they lie.
struct Bits {
  std::int64_t row, rows, plane, channel, image;  // bytes; rows: number of them in a plane

  explicit Bits(const TreeConv& t)
      : row((t.out_width + 7) / 8),
        rows(t.out_height + (t.kernel[0] - 1) * t.dilation[0] / t.stride[0] + 1),
        plane(row * rows),
        channel(plane * t.stride[0] * t.kernel[1]),
        image(channel * t.channels) {}

  // Output row 0 of a tap, within its channel.
  std::int64_t tap(const TreeConv& t, std::int64_t ky, std::int64_t kx) const {
    const std::int64_t down = ky * t.dilation[0];
    return (kx * t.stride[0] + down % t.stride[0]) * plane + down / t.stride[0] * row;
  }
};

void copy_bytes(std::uint8_t* to, const std::uint8_t* from, std::int64_t bytes) {
  switch (bytes) {  // of constant length a copy is an instruction or two
    case 1: std::memcpy(to, from, 1); return;
    case 2: std::memcpy(to, from, 2); return;
    case 4: std::memcpy(to, from, 4); return;
    case 8: std::memcpy(to, from, 8); return;
    case 32: std::memcpy(to, from, 32); return;
    case 64: std::memcpy(to, from, 64); return;
    default: std::memcpy(to, from, bytes);
  }
}

// One row of floats to the rows of bits of every horizontal tap; `out` is that of tap 0.
void pack_row(const TreeConv& t, const Bits& bits, const Operations& ops, const float* x,
              float shift, std::uint64_t* line, std::uint8_t* out) {
  const std::int64_t lead = (t.padding[1] + 63) / 64;  // words of zeros before the row
  ops.signs(x, shift, t.width, line + lead);
  for (std::int64_t kx = 0; kx < t.kernel[1]; ++kx, out += bits.plane * t.stride[0]) {
    const std::int64_t first = 64 * lead + kx * t.dilation[1] - t.padding[1];
    for (std::int64_t byte = 0; byte < bits.row; ++byte) {
      std::uint64_t found = 0;
      if (t.stride[1] == 1) {
        const std::int64_t at = first + 8 * byte, word = at / 64, bit = at % 64;
        found = line[word] >> bit;
        if (bit > 56) found |= line[word + 1] << (64 - bit);
      } else {
        const std::int64_t end = std::min<std::int64_t>(8, t.out_width - 8 * byte);
        for (std::int64_t i = 0; i < end; ++i) {
          const std::int64_t at = first + (8 * byte + i) * t.stride[1];
          found |= (line[at / 64] >> at % 64 & 1) << i;
        }
      }
      out[byte] = static_cast<std::uint8_t>(found);
    }
  }
}

// The same for whole channels whose padded rows fit a word, stride 1.
void pack_narrow(const TreeConv& t, const Bits& bits, const Operations& ops, const float* x,
                 float shift, std::uint8_t* out) {
  const std::int64_t all = t.height * t.width;
  auto* signs = workspace<std::uint64_t>(Slot::weights, (all + 63) / 64 + 1);
  ops.signs(x, shift, all, signs);
  const std::uint64_t inside = t.width == 64 ? ~0ull : (1ull << t.width) - 1;
  for (std::int64_t r = 0; r < bits.rows; ++r, out += bits.row) {
    std::uint64_t line = 0;
    if (const std::int64_t row = r - t.padding[0]; row >= 0 && row < t.height) {
      const std::int64_t at = row * t.width / 64, bit = row * t.width % 64;
      line = signs[at] >> bit;
      if (bit + t.width > 64) line |= signs[at + 1] << (64 - bit);
      line = (line & inside) << t.padding[1];
    }
    for (std::int64_t kx = 0; kx < t.kernel[1]; ++kx) {
      const std::uint64_t seen = line >> kx * t.dilation[1];
      copy_bytes(out + kx * bits.plane, reinterpret_cast<const std::uint8_t*>(&seen), bits.row);
    }
  }
}

void pack_channel(const TreeConv& t, const Bits& bits, const Operations& ops, std::int64_t index,
                  std::uint8_t* out) {
  // Zeros before and after the row, as far as any output looks.
  const std::int64_t words = (t.padding[1] + 63) / 64 + (t.width + 63) / 64 +
                             (t.padding[1] + t.stride[1] + 8) / 64 + 2;
  auto* line = workspace<std::uint64_t>(Slot::sums, words);
  std::memset(line, 0, words * sizeof(std::uint64_t));
  const float* x = t.x + index * t.height * t.width;
  const float shift = t.input_shift ? t.input_shift[index % t.channels] : 0;
  if (t.stride[0] == 1 && t.stride[1] == 1 && t.width + 2 * t.padding[1] <= 64)
    return pack_narrow(t, bits, ops, x, shift, out);
  for (std::int64_t phase = 0; phase < t.stride[0]; ++phase)
    for (std::int64_t r = 0; r < bits.rows; ++r) {
      const std::int64_t row = r * t.stride[0] + phase - t.padding[0];
      std::uint8_t* to = out + phase * bits.plane + r * bits.row;
      if (row >= 0 && row < t.height) {
        pack_row(t, bits, ops, x + row * t.width, shift, line, to);
      } else {
        for (std::int64_t kx = 0; kx < t.kernel[1]; ++kx)
          std::memset(to + kx * bits.plane * t.stride[0], 0, bits.row);
      }
    }
}

using Range = std::pair<std::int64_t, std::int64_t>;  // taps that lie inside

// For each output position of an axis the number of its kind, and the kinds.
std::vector<std::int32_t> kinds(const TreeConv& t, int axis, std::vector<Range>& found) {
  const std::int64_t size = axis ? t.width : t.height, outputs = axis ? t.out_width : t.out_height;
  std::vector<std::int32_t> kind(outputs);
  for (std::int64_t o = 0; o < outputs; ++o) {
    Range inside{0, 0};
    for (std::int64_t k = 0; k < t.kernel[axis]; ++k) {
      const std::int64_t at = o * t.stride[axis] + k * t.dilation[axis] - t.padding[axis];
      if (at < 0) inside.first = k + 1;
      if (at < size) inside.second = k + 1;
    }
    const auto place = std::find(found.begin(), found.end(), inside);
    kind[o] = static_cast<std::int32_t>(place - found.begin());
    if (place == found.end()) found.push_back(inside);
  }
  return kind;
}

// What the sums 2 Q lack: minus the sum of w, and with zero padding the w of places outside.
struct Borders {
  std::vector<std::int32_t> rows, columns;  // kind of each output row and column
  std::vector<Range> row_kinds, column_kinds;
  std::vector<std::int16_t> added;          // (outputs, row kinds, column kinds): -sum of w inside

  explicit Borders(const TreeConv& t) {
    rows = kinds(t, 0, row_kinds);
    columns = kinds(t, 1, column_kinds);
    const std::int64_t taps = t.kernel[0] * t.kernel[1];
    for (std::int64_t j = 0; j < t.outputs; ++j) {
      const std::int32_t* sums = t.sums + j * taps;
      for (const Range& down : row_kinds)
        for (const Range& across : column_kinds) {
          std::int32_t inside = 0;
          for (std::int64_t ky = down.first; ky < down.second; ++ky)
            for (std::int64_t kx = across.first; kx < across.second; ++kx)
              inside += sums[ky * t.kernel[1] + kx];
          added.push_back(static_cast<std::int16_t>(-inside));
        }
    }
  }
  std::int64_t count() const {
    return static_cast<std::int64_t>(row_kinds.size() * column_kinds.size());
  }
  std::uint16_t of(std::int64_t row, std::int64_t column) const {
    return static_cast<std::uint16_t>(rows[row] * column_kinds.size() + columns[column]);
  }
};

struct Stretch {  // bytes of a tile that come from one image
  std::int64_t image, from, bytes, at;
};
struct Run {      // pixels of a tile that lie side by side in y
  std::int64_t at, count, image, to;
};

struct Places {
  std::vector<Stretch> stretches;
  std::vector<Run> runs;
  alignas(64) std::uint16_t kinds[kPixels] = {};
};

Places places_of(const TreeConv& t, const Bits& bits, const Borders& borders, std::int64_t tile) {
  Places found;
  const std::int64_t each = bits.row * t.out_height, all = each * t.images;
  const std::int64_t begin = tile * kTileBytes, end = std::min(begin + kTileBytes, all);
  for (std::int64_t byte = begin; byte < end;) {
    const std::int64_t image = byte / each, from = byte % each;
    const std::int64_t bytes = std::min(end - byte, each - from);
    found.stretches.push_back({image, from, bytes, byte - begin});
    for (std::int64_t b = from; b < from + bytes; ++b) {
      const std::int64_t row = b / bits.row, column = b % bits.row * 8;
      const std::int64_t count = std::min<std::int64_t>(8, t.out_width - column);
      const std::int64_t at = 8 * (byte - begin + b - from), to = row * t.out_width + column;
      Run* last = found.runs.empty() ? nullptr : &found.runs.back();
      if (last && last->image == image && last->at + last->count == at)
        last->count += count;
      else
        found.runs.push_back({at, count, image, to});
      for (std::int64_t i = 0; i < count; ++i)
        found.kinds[at + i] = borders.of(row, column + i);
    }
    byte += bytes;
  }
  return found;
}

void gather_planes(const TreeConv& t, const Bits& bits, const Places& places,
                   const std::uint8_t* packed, std::uint8_t* planes) {
  for (std::int64_t c = 0; c < t.channels; ++c)
    for (std::int64_t ky = 0; ky < t.kernel[0]; ++ky)
      for (std::int64_t kx = 0; kx < t.kernel[1]; ++kx, planes += kTileBytes)
        for (const Stretch& s : places.stretches)
          copy_bytes(planes + s.at,
                     packed + s.image * bits.image + c * bits.channel + bits.tap(t, ky, kx) + s.from,
                     s.bytes);
}

void run_tile(const TreeConv& t, const Bits& bits, const Borders& borders, const Operations& ops,
              const std::uint8_t* packed, std::int64_t index) {
  const Places places = places_of(t, bits, borders, index);
  const std::int64_t weights = t.channels * t.kernel[0] * t.kernel[1];
  Tile tile{};
  for (tile.levels = 2; (std::int64_t{1} << (tile.levels - 1)) <= weights;) ++tile.levels;
  auto* planes = workspace<std::uint64_t>(Slot::products, weights * kWords);
  tile.planes = planes;
  tile.slices = workspace<std::uint64_t>(Slot::sums, t.outputs * tile.levels * kWords);
  if (places.stretches.back().at + places.stretches.back().bytes < kTileBytes)  // the last tile
    std::memset(planes, 0, weights * kTileBytes);
  gather_planes(t, bits, places, packed, reinterpret_cast<std::uint8_t*>(planes));
  alignas(64) std::int16_t values[kPixels];
  for (std::int64_t step = 0; step < t.outputs; ++step) {
    const std::int64_t j = t.plan[2 * step];
    ops.channel(t, tile, j, t.plan[2 * step + 1]);
    ops.unslice(tile.slices + j * tile.levels * kWords, tile.levels, places.kinds,
                borders.added.data() + j * borders.count(), static_cast<int>(borders.count()),
                values);
    for (const Run& r : places.runs)
      ops.finish(values + r.at, r.count, t.scale[j], t.bias ? t.bias + j : nullptr,
                 t.y + (r.image * t.outputs + j) * t.out_height * t.out_width + r.to);
  }
}

}  // namespace

void tree_conv2d(const TreeConv& task) {
  const Operations& ops = operations();
  const Bits bits(task);
  const Borders borders(task);
  const std::int64_t channels = task.images * task.channels;
  auto* packed = workspace<std::uint8_t>(Slot::activations, task.images * bits.image);
  parallel_for(static_cast<std::size_t>(channels), task.threads, [&](std::size_t index) {
    const auto i = static_cast<std::int64_t>(index);
    pack_channel(task, bits, ops, i, packed + i * bits.channel);
  });
  const std::int64_t bytes = task.images * bits.row * task.out_height;
  const std::int64_t tiles = (bytes + kTileBytes - 1) / kTileBytes;
  parallel_for(static_cast<std::size_t>(tiles), task.threads, [&](std::size_t index) {
    run_tile(task, bits, borders, ops, packed, static_cast<std::int64_t>(index));
  });
}

}  // namespace compactnets::tree
