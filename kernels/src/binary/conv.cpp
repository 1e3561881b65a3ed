// The parts of the 1-bit convolution by popcounts that all instruction sets share: geometry, the
// table of border corrections, the order of work and its split over threads.
#include "binary/conv.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "binary/bytes.hpp"
#include "binary/results.hpp"
#include "common/isa.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::binary {
namespace {

const Operations& operations() {
  return pick<Operations>(nullptr, COMPACTNETS_AVX512(avx512_operations),
                          COMPACTNETS_AVX2(avx2_operations), portable_operations);
}

// nullptr: the path in use has no matrix unit.
const ByteOperations* byte_operations() {
  return current_isa() == Isa::amx ? COMPACTNETS_AMX(amx_operations) : nullptr;
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }

// Taps [first, last) of a kernel's row or column that meet the image; the others meet padding.
struct Span {
  std::int64_t first, last;
  bool operator==(const Span&) const = default;
};

// Output positions along one axis, by which taps they see: border positions differ, inner ones
// are all alike. There are few classes (3 for a 3-tap kernel with padding 1).
struct Classes {
  std::vector<Span> spans;
  std::vector<std::int32_t> of;  // class of each position
};

Classes classify(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride,
                 std::int64_t padding, std::int64_t dilation) {
  Classes classes;
  classes.of.reserve(static_cast<std::size_t>(out));
  for (std::int64_t position = 0; position < out; ++position) {
    const std::int64_t origin = position * stride - padding;  // where the first tap lies
    Span span{std::clamp<std::int64_t>(ceil_div(-origin, dilation), 0, kernel),
              std::clamp<std::int64_t>(ceil_div(in - origin, dilation), 0, kernel)};
    if (span.first >= span.last) span = {0, 0};
    auto found = std::find(classes.spans.begin(), classes.spans.end(), span);
    if (found == classes.spans.end()) found = classes.spans.insert(found, span);
    classes.of.push_back(static_cast<std::int32_t>(found - classes.spans.begin()));
  }
  return classes;
}

struct Plan {
  const Conv& conv;
  std::int64_t taps, depth_words, blocks, pixel_words, block_words;
  Size2 packed;  // rows and columns of the packed image that some tap reads
  Classes rows, columns;
  std::vector<std::int32_t> pair_offsets, single_offsets;
  std::vector<std::int32_t> base;    // [row class][column class][block][16]

  explicit Plan(const Conv& c) : conv(c) {
    taps = c.taps();
    depth_words = taps * c.layout.words;
    blocks = c.blocks();
    pixel_words = static_cast<std::int64_t>(c.layout.groups) * c.layout.words;
    block_words = (depth_words + taps) * kLanes;
    packed.y = (c.out.y - 1) * c.stride.y + (c.kernel.y - 1) * c.dilation.y + 1;
    packed.x = (c.out.x - 1) * c.stride.x + (c.kernel.x - 1) * c.dilation.x + 1;
    rows = classify(c.in.y, c.out.y, c.kernel.y, c.stride.y, c.padding.y, c.dilation.y);
    columns = classify(c.in.x, c.out.x, c.kernel.x, c.stride.x, c.padding.x, c.dilation.x);
    list_offsets();
    sum_borders();
  }

  // Where, from the first tap's word on, each step of the weight finds its word of the image.
  void list_offsets() {
    for (std::int64_t ky = 0; ky < conv.kernel.y; ++ky)
      for (std::int64_t kx = 0; kx < conv.kernel.x; ++kx) {
        const std::int64_t tap =
            (ky * conv.dilation.y * packed.x + kx * conv.dilation.x) * pixel_words;
        int word = 0;
        for (; word + 2 <= conv.layout.words; word += 2)
          pair_offsets.push_back(static_cast<std::int32_t>(tap + word));
        if (word < conv.layout.words)
          single_offsets.push_back(static_cast<std::int32_t>(tap + word));
      }
  }

  // What the padding adds to a dot product when its zeros are packed as +1: the tap sums. They are
  // taken out here: dot = base - 2 * differing bits, exactly.
  void sum_borders() {
    const auto full = static_cast<std::int32_t>(taps * conv.layout.channels);
    base.assign(rows.spans.size() * columns.spans.size() * blocks * kLanes, full);
    std::int32_t* sums = base.data();
    for (const Span& row : rows.spans)
      for (const Span& column : columns.spans)
        for (std::int64_t block = 0; block < blocks; ++block, sums += kLanes) {
          const std::uint32_t* tap_sums =
              conv.weight + block * block_words + depth_words * kLanes;
          for (std::int64_t ky = 0; ky < conv.kernel.y; ++ky)
            for (std::int64_t kx = 0; kx < conv.kernel.x; ++kx, tap_sums += kLanes) {
              const bool inside = row.first <= ky && ky < row.last && column.first <= kx &&
                                  kx < column.last;
              if (inside) continue;
              for (int lane = 0; lane < kLanes; ++lane)
                sums[lane] -= static_cast<std::int32_t>(tap_sums[lane]);
            }
        }
  }

  std::int64_t image_words() const { return packed.y * packed.x * pixel_words; }
};

// Signs that came packed, into the layout of the packed image.
void pair_words(const std::uint32_t* signs, std::int64_t step, std::int64_t pixels,
                const PixelLayout& layout, std::uint32_t* packed) {
  for (std::int64_t p = 0; p < pixels; ++p, signs += step)
    for (int g = 0; g < layout.groups; ++g, packed += layout.words)
      for (int word = 0; word < layout.words; ++word) {
        const int left = layout.channels - word * kWordBits;
        const std::uint32_t bits =
            bits_from(signs, static_cast<std::int64_t>(g) * layout.channels + word * kWordBits,
                      std::min(left, kWordBits));
        packed[word] = word % 2 ? bits ^ packed[word - 1] : bits;
      }
}

// Row `row` of the packed, padded image `image`: zeros outside the input.
void pack_row(const Plan& plan, const Operations& ops, std::int64_t image, std::int64_t row,
              std::uint32_t* packed) {
  const Conv& c = plan.conv;
  std::uint32_t* out = packed + image * plan.image_words() + row * plan.packed.x * plan.pixel_words;
  const std::int64_t y = row - c.padding.y;
  const bool inside = 0 <= y && y < c.in.y;
  const std::int64_t left = std::min(c.padding.x, plan.packed.x);
  const std::int64_t valid = inside ? std::clamp<std::int64_t>(plan.packed.x - left, 0, c.in.x) : 0;
  const std::int64_t right = plan.packed.x - left - valid;
  const std::size_t pixel_bytes = static_cast<std::size_t>(plan.pixel_words) * sizeof(*out);
  std::memset(out, 0, left * pixel_bytes);
  out += left * plan.pixel_words;
  const std::int64_t from = image * c.image_step + y * c.row_step;
  if (valid > 0 && c.x)
    ops.pack(c.x + from, c.column_step, valid, c.input_shift, c.layout, out);
  else if (valid > 0)
    pair_words(c.signs + from, c.column_step, valid, c.layout, out);
  std::memset(out + valid * plan.pixel_words, 0, right * pixel_bytes);
}

// Rows [first, last) of the output for one block of channels of one image. The block's weights
// stay in the first-level cache while the rows of the packed image pass by.
void convolve_rows(const Plan& plan, const Operations& ops, const Results& results,
                   const std::uint32_t* packed, std::int64_t image, std::int64_t block,
                   std::int64_t first, std::int64_t last) {
  const Conv& c = plan.conv;
  const std::int64_t group = block / c.blocks_of_group();
  const std::uint32_t* from = packed + image * plan.image_words() + group * c.layout.words;
  const std::int64_t class_step = plan.blocks * kLanes;
  RowTask task{};
  task.pixel_step = c.stride.x * plan.pixel_words;
  task.weight = c.weight + block * plan.block_words;
  task.pair_offsets = plan.pair_offsets.data();
  task.pairs = static_cast<int>(plan.pair_offsets.size());
  task.single_offsets = plan.single_offsets.data();
  task.singles = static_cast<int>(plan.single_offsets.size());
  task.base_step = class_step;
  task.column_class = plan.columns.of.data();
  task.pixels = static_cast<int>(c.out.x);
  for (std::int64_t y = first; y < last; ++y) {
    task.image = from + y * c.stride.y * plan.packed.x * plan.pixel_words;
    task.base = plan.base.data() +
                plan.rows.of[y] * static_cast<std::int64_t>(plan.columns.spans.size()) * class_step +
                block * kLanes;
    task.result = results.at(block, (image * c.out.y + y) * c.out.x);
    ops.convolve_row(task);
  }
}

// Threads worth waking: about 4 million bit products each pay for the hand-over.
int useful_threads(const Plan& plan) {
  const Conv& c = plan.conv;
  const double products = static_cast<double>(c.images * c.out.y * c.out.x) * plan.blocks * kLanes *
                          plan.depth_words * kWordBits;
  return static_cast<int>(std::clamp(products / 4e6, 1.0, static_cast<double>(c.threads)));
}

// Cuts `rows` so that all threads have several tasks: one that is delayed then costs little.
std::int64_t rows_per_task(std::int64_t rows, std::int64_t others, int threads) {
  if (threads <= 1) return rows;
  const std::int64_t pieces = std::clamp<std::int64_t>(8 * threads / others, 1, rows);
  return (rows + pieces - 1) / pieces;
}

}  // namespace

void binary_conv2d(const Conv& conv) {
  if (conv.images == 0 || conv.out.y <= 0 || conv.out.x <= 0 || conv.group_outputs == 0) return;
  if (const ByteOperations* bytes = byte_operations(); bytes && bytes_pay(conv))
    return convolve_bytes(conv, *bytes);
  const Plan plan(conv);
  const Results results(conv);
  const Operations& ops = operations();
  const int threads = useful_threads(plan);
  auto* packed = workspace<std::uint32_t>(Slot::activations, conv.images * plan.image_words());

  const std::int64_t pack_rows = conv.images * plan.packed.y;
  const std::int64_t pack_step = rows_per_task(pack_rows, 1, threads);
  parallel_for((pack_rows + pack_step - 1) / pack_step, threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * pack_step;
    for (std::int64_t row = first; row < std::min(first + pack_step, pack_rows); ++row)
      pack_row(plan, ops, row / plan.packed.y, row % plan.packed.y, packed);
  });

  const std::int64_t step = rows_per_task(conv.out.y, conv.images * plan.blocks, threads);
  const std::int64_t pieces = (conv.out.y + step - 1) / step;
  parallel_for(conv.images * plan.blocks * pieces, threads, [&](std::size_t task) {
    const std::int64_t index = static_cast<std::int64_t>(task);
    const std::int64_t first = index % pieces * step;
    convolve_rows(plan, ops, results, packed, index / pieces / plan.blocks,
                  index / pieces % plan.blocks, first, std::min(first + step, conv.out.y));
  });
  results.finish();
}

void pack_signs(const float* x, std::int64_t x_step, std::int64_t pixels, int channels,
                const float* input_shift, std::uint32_t* words, int threads) {
  const Operations& ops = operations();
  const int count = (channels + kWordBits - 1) / kWordBits;
  constexpr std::int64_t kPixels = 512;  // of a task
  parallel_for((pixels + kPixels - 1) / kPixels, threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * kPixels;
    const std::int64_t here = std::min(kPixels, pixels - first);
    std::uint32_t* out = words + first * count;
    ops.pack(x + first * x_step, x_step, here, input_shift, {1, channels, count}, out);
    for (std::int64_t p = 0; p < here; ++p, out += count)  // out of the pairs
      for (int word = 1; word < count; word += 2) out[word] ^= out[word - 1];
  });
}

}  // namespace compactnets::binary
