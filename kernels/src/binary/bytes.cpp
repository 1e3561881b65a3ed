// The convolution on bytes: geometry, copying the image, order of work, split over threads.
#include "binary/bytes.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "binary/results.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::binary {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t step) { return (value + step - 1) / step * step; }

struct Plan {
  const Conv& conv;
  ByteLayout layout;
  std::int64_t pixel_bytes;
  std::int64_t rows, pitch;               // of a plane
  std::vector<std::int64_t> planes;       // those that some tap reads, as phase.y * stride.x + phase.x
  std::vector<std::int32_t> offsets;      // of the steps
  int pairs = 0, singles = 0;

  explicit Plan(const Conv& c) : conv(c) {
    layout = {c.layout.groups, c.layout.channels,
              static_cast<int>(round_up(c.layout.channels, kStepBytes))};
    pixel_bytes = static_cast<std::int64_t>(layout.groups) * layout.bytes;
    rows = c.out.y + (c.kernel.y - 1) * c.dilation.y / c.stride.y;
    pitch = c.out.x + (c.kernel.x - 1) * c.dilation.x / c.stride.x;
    list_offsets(2);
    pairs = static_cast<int>(offsets.size());
    list_offsets(1);
    singles = static_cast<int>(offsets.size()) - pairs;
  }

  std::int64_t plane_bytes() const { return rows * pitch * pixel_bytes; }
  std::int64_t image_bytes() const { return static_cast<std::int64_t>(planes.size()) * plane_bytes(); }

 private:
  // Steps of two words of all taps, or those of the last word that has no partner.
  void list_offsets(int words) {
    const int paired = conv.layout.words / 2 * 2;
    for (std::int64_t ky = 0; ky < conv.kernel.y; ++ky)
      for (std::int64_t kx = 0; kx < conv.kernel.x; ++kx) {
        const std::int64_t tap = tap_offset(ky * conv.dilation.y, kx * conv.dilation.x);
        if (words == 1 && paired < conv.layout.words)
          offsets.push_back(static_cast<std::int32_t>(tap + paired * kWordBits));
        for (int word = 0; words == 2 && word < paired; word += 2)
          offsets.push_back(static_cast<std::int32_t>(tap + word * kWordBits));
      }
  }

  std::int64_t tap_offset(std::int64_t y, std::int64_t x) {
    const std::int64_t phase = y % conv.stride.y * conv.stride.x + x % conv.stride.x;
    const auto found = std::find(planes.begin(), planes.end(), phase);
    const std::int64_t plane = found - planes.begin();
    if (found == planes.end()) planes.push_back(phase);
    const std::int64_t pixel = (plane * rows + y / conv.stride.y) * pitch + x / conv.stride.x;
    return pixel * pixel_bytes;
  }
};

// Signs that came packed: a few pixels at a time through words that belong to one group each.
void spread_pixels(const Plan& plan, const ByteOperations& ops, const std::uint32_t* signs,
                   std::int64_t step, std::int64_t pixels, std::int8_t* out) {
  const PixelLayout& layout = plan.conv.layout;
  const int words = layout.groups * layout.words;
  auto* own = workspace<std::uint32_t>(Slot::weights, words);
  for (std::int64_t p = 0; p < pixels; ++p, signs += step, out += plan.pixel_bytes) {
    const std::uint32_t* from = signs;
    if (layout.groups > 1 && layout.channels % kWordBits != 0) {
      for (int i = 0; i < words; ++i) {
        const int done = i % layout.words * kWordBits;
        own[i] = bits_from(signs, static_cast<std::int64_t>(i / layout.words) * layout.channels + done,
                           std::min(layout.channels - done, kWordBits));
      }
      from = own;
    }
    ops.spread(from, 1, plan.layout, out);
  }
}

// One row of one plane: every stride.x-th pixel of a row of the padded image, zeros outside the
// input.
void copy_row(const Plan& plan, const ByteOperations& ops, std::int64_t image, std::int64_t phase,
              std::int64_t row, std::int8_t* out) {
  const Conv& c = plan.conv;
  const std::int64_t y = row * c.stride.y + phase / c.stride.x - c.padding.y;
  const std::int64_t x0 = phase % c.stride.x - c.padding.x;  // of the row's first pixel
  std::int64_t first = 0, last = 0;                          // pixels inside the input
  if (0 <= y && y < c.in.y) {
    first = x0 < 0 ? std::min((-x0 + c.stride.x - 1) / c.stride.x, plan.pitch) : 0;
    last = c.in.x > x0 ? std::min((c.in.x - x0 + c.stride.x - 1) / c.stride.x, plan.pitch) : 0;
    last = std::max(first, last);
  }
  std::memset(out, 0, static_cast<std::size_t>(first * plan.pixel_bytes));
  if (first < last) {
    const std::int64_t from =
        image * c.image_step + y * c.row_step + (x0 + first * c.stride.x) * c.column_step;
    const std::int64_t step = c.stride.x * c.column_step;
    std::int8_t* to = out + first * plan.pixel_bytes;
    if (c.x)
      ops.pack(c.x + from, step, last - first, c.input_shift, plan.layout, to);
    else
      spread_pixels(plan, ops, c.signs + from, step, last - first, to);
  }
  std::memset(out + last * plan.pixel_bytes, 0,
              static_cast<std::size_t>((plan.pitch - last) * plan.pixel_bytes));
}

// Rows [first, last) of the output for one block of channels of one image.
ByteTask rows_task(const Plan& plan, const Results& results, const std::int8_t* bytes,
                   std::int64_t image, std::int64_t block, std::int64_t first, std::int64_t last) {
  const Conv& c = plan.conv;
  const std::int64_t block_words = c.taps() * (c.layout.words + 1) * kLanes;
  ByteTask task{};
  task.image = bytes + image * plan.image_bytes() + first * plan.pitch * plan.pixel_bytes +
               block / c.blocks_of_group() * plan.layout.bytes;
  task.pixel_step = plan.pixel_bytes;
  task.offsets = plan.offsets.data();
  task.pairs = plan.pairs;
  task.singles = plan.singles;
  task.weight = c.weight + block * block_words;
  task.pixels = static_cast<int>((last - first - 1) * plan.pitch + c.out.x);
  task.pitch = static_cast<int>(plan.pitch);
  task.width = static_cast<int>(c.out.x);
  task.result = results.at(block, (image * c.out.y + first) * c.out.x);
  return task;
}

// The image without borders is one row of pixels where a window is one pixel.
Conv flattened(const Conv& conv) {
  Conv c = conv;
  const bool dense = (c.in.y == 1 || c.row_step == c.in.x * c.column_step) &&
                     (c.images == 1 || c.image_step == c.in.y * c.in.x * c.column_step);
  if (c.taps() != 1 || c.stride.y != 1 || c.stride.x != 1 || c.padding.y != 0 ||
      c.padding.x != 0 || !dense)
    return c;
  c.in = c.out = {1, c.images * c.in.y * c.in.x};
  c.images = 1;
  return c;
}

// Clock cycles by a model of both ways, fitted to measurements; only their ratio counts.
double products(const Conv& c) {
  return static_cast<double>(c.images * c.out.y * c.out.x) * c.blocks() * kLanes * c.taps();
}

int useful_threads(const Conv& c) {
  const double bits = products(c) * c.layout.words * kWordBits;
  return static_cast<int>(std::clamp(bits / 8e6, 1.0, static_cast<double>(c.threads)));
}

}  // namespace

bool bytes_pay(const Conv& original) {
  const Conv c = flattened(original);
  const double depth = static_cast<double>(c.taps()) * c.layout.channels;
  if (depth > (1 << 24)) return false;
  return true;
}

void convolve_bytes(const Conv& original, const ByteOperations& ops) {
  const Conv conv = flattened(original);
  const Plan plan(conv);
  const Results results(conv);
  const int threads = useful_threads(conv);
  constexpr std::int64_t kBeyond = 16;  // pixels that the last tile may read in vain
  auto* bytes = workspace<std::int8_t>(
      Slot::activations, conv.images * plan.image_bytes() + kBeyond * plan.pixel_bytes);

  const std::int64_t planes = static_cast<std::int64_t>(plan.planes.size());
  const std::int64_t rows = conv.images * planes * plan.rows;
  const std::int64_t row_step = threads > 1 ? (rows + 8 * threads - 1) / (8 * threads) : rows;
  parallel_for((rows + row_step - 1) / row_step, threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * row_step;
    for (std::int64_t row = first; row < std::min(first + row_step, rows); ++row)
      copy_row(plan, ops, row / plan.rows / planes, plan.planes[row / plan.rows % planes],
               row % plan.rows, bytes + row * plan.pitch * plan.pixel_bytes);
  });

  const std::int64_t blocks = conv.blocks();
  std::int64_t piece = conv.out.y;  // rows of a task
  if (threads > 1) {
    const std::int64_t pieces = std::max<std::int64_t>(8 * threads / (conv.images * blocks), 1);
    piece = (conv.out.y + pieces - 1) / pieces;
  }
  const std::int64_t pieces = (conv.out.y + piece - 1) / piece;
  parallel_for(conv.images * blocks * pieces, threads, [&](std::size_t index) {
    const std::int64_t task = static_cast<std::int64_t>(index), first = task % pieces * piece;
    ops.convolve(rows_task(plan, results, bytes, task / pieces / blocks, task / pieces % blocks,
                           first, std::min(first + piece, conv.out.y)));
  });
  results.finish();
}

}  // namespace compactnets::binary
