// The parts of the 1-bit convolution that all instruction sets share: geometry, the table of
// border corrections, the order of work and its split over threads.
#include "binary/conv.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/isa.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::binary {
namespace {

const Operations& operations() {
  return pick<Operations>(nullptr, COMPACTNETS_AVX512(avx512_operations),
                          COMPACTNETS_AVX2(avx2_operations), portable_operations);
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
  std::int64_t taps, depth_words, blocks_of_group, blocks, pixel_words, block_words;
  Size2 packed;  // rows and columns of the packed image that some tap reads
  Classes rows, columns;
  std::vector<std::int32_t> pair_offsets, single_offsets;
  std::vector<std::int32_t> base;    // [row class][column class][block][16]
  std::vector<float> scale, bias;   // [block][16]

  explicit Plan(const Conv& c) : conv(c) {
    taps = c.kernel.y * c.kernel.x;
    depth_words = taps * c.layout.words;
    blocks_of_group = (c.group_outputs + kLanes - 1) / kLanes;
    blocks = c.layout.groups * blocks_of_group;
    pixel_words = static_cast<std::int64_t>(c.layout.groups) * c.layout.words;
    block_words = (depth_words + taps) * kLanes;
    packed.y = (c.out.y - 1) * c.stride.y + (c.kernel.y - 1) * c.dilation.y + 1;
    packed.x = (c.out.x - 1) * c.stride.x + (c.kernel.x - 1) * c.dilation.x + 1;
    rows = classify(c.in.y, c.out.y, c.kernel.y, c.stride.y, c.padding.y, c.dilation.y);
    columns = classify(c.in.x, c.out.x, c.kernel.x, c.stride.x, c.padding.x, c.dilation.x);
    list_offsets();
    sum_borders();
    spread(c.scale, scale);
    spread(c.bias, bias);
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

  // Per-channel values, 16 to a block; zeros in the spare lanes, or everywhere without values.
  void spread(const float* values, std::vector<float>& lanes) const {
    lanes.assign(blocks * kLanes, 0.0f);
    if (!values) return;
    for (std::int64_t block = 0; block < blocks; ++block)
      std::copy_n(values + first_output(block), outputs_of(block), lanes.data() + block * kLanes);
  }

  std::int64_t first_output(std::int64_t block) const {
    return block / blocks_of_group * conv.group_outputs + block % blocks_of_group * kLanes;
  }

  int outputs_of(std::int64_t block) const {
    const std::int64_t left = conv.group_outputs - block % blocks_of_group * kLanes;
    return static_cast<int>(std::min<std::int64_t>(left, kLanes));
  }

  std::int64_t image_words() const { return packed.y * packed.x * pixel_words; }
};

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
  if (valid > 0)
    ops.pack(c.x + image * c.x_image_step + y * c.x_row_step, c.x_column_step, valid, c.input_shift,
             c.layout, out);
  std::memset(out + valid * plan.pixel_words, 0, right * pixel_bytes);
}

// Rows [first, last) of the output for one block of channels of one image. The block's weights
// stay in the first-level cache while the rows of the packed image pass by.
void convolve_rows(const Plan& plan, const Operations& ops, const std::uint32_t* packed,
                   std::int64_t image, std::int64_t block, std::int64_t first, std::int64_t last) {
  const Conv& c = plan.conv;
  const std::int64_t outputs = c.group_outputs * c.layout.groups;
  const std::int64_t group = block / plan.blocks_of_group;
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
  task.scale = plan.scale.data() + block * kLanes;
  task.bias = plan.bias.data() + block * kLanes;
  task.out_step = outputs;
  task.pixels = static_cast<int>(c.out.x);
  task.channels = plan.outputs_of(block);
  for (std::int64_t y = first; y < last; ++y) {
    task.image = from + y * c.stride.y * plan.packed.x * plan.pixel_words;
    task.base = plan.base.data() +
                plan.rows.of[y] * static_cast<std::int64_t>(plan.columns.spans.size()) * class_step +
                block * kLanes;
    task.out = c.y + (image * c.out.y + y) * c.out.x * outputs + plan.first_output(block);
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
  const Plan plan(conv);
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
    convolve_rows(plan, ops, packed, index / pieces / plan.blocks, index / pieces % plan.blocks,
                  first, std::min(first + step, conv.out.y));
  });
}

}  // namespace compactnets::binary
