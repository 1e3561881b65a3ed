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

constexpr std::int64_t kFar = 1024;  // bytes

struct Plan {
  const Conv& conv;
  ByteLayout layout;
  std::int64_t rows, pitch;          // of a plane
  std::vector<std::int64_t> planes;  // those that some tap reads, as phase.y * stride.x + phase.x
  std::vector<Step> steps;

  explicit Plan(const Conv& c) : conv(c) {
    rows = c.out.y + (c.kernel.y - 1) * c.dilation.y / c.stride.y;
    pitch = c.out.x + (c.kernel.x - 1) * c.dilation.x / c.stride.x;
    layout = {c.layout.groups, c.layout.channels, (c.layout.words + 1) / 2,
              rows * pitch * kStepBytes};
    list_steps();
  }

  std::int64_t plane_bytes() const { return layout.groups * layout.slices * layout.slice_step; }
  std::int64_t image_bytes() const {
    return static_cast<std::int64_t>(planes.size()) * plane_bytes();
  }

 private:
  void list_steps() {
    const std::int64_t taps = conv.taps(), pairs = conv.layout.words / 2;
    for (std::int64_t slice = 0; slice < layout.slices; ++slice)
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        const bool pair = slice < pairs;  // the words without a partner lie behind all pairs
        const std::int64_t word = pair ? 2 * (tap * pairs + slice) : 2 * taps * pairs + tap;
        const std::int64_t image = tap_offset(tap / conv.kernel.x * conv.dilation.y,
                                              tap % conv.kernel.x * conv.dilation.x) +
                                   slice * layout.slice_step;
        steps.push_back({static_cast<std::int32_t>(image),
                         static_cast<std::int32_t>(word * kLanes), pair});
      }
  }

  std::int64_t tap_offset(std::int64_t y, std::int64_t x) {
    const std::int64_t phase = y % conv.stride.y * conv.stride.x + x % conv.stride.x;
    const auto found = std::find(planes.begin(), planes.end(), phase);
    const std::int64_t plane = found - planes.begin();
    if (found == planes.end()) planes.push_back(phase);
    const std::int64_t pixel = y / conv.stride.y * pitch + x / conv.stride.x;
    return plane * plane_bytes() + pixel * kStepBytes;
  }
};

// Signs that came packed: a few pixels at a time through words that belong to one group each.
void spread_pixels(const Plan& plan, const ByteOperations& ops, const std::uint32_t* signs,
                   std::int64_t step, std::int64_t pixels, std::int8_t* out) {
  const PixelLayout& layout = plan.conv.layout;
  const int words = layout.groups * layout.words;
  auto* own = workspace<std::uint32_t>(Slot::weights, words);
  for (std::int64_t p = 0; p < pixels; ++p, signs += step, out += kStepBytes) {
    const std::uint32_t* from = signs;
    if (layout.groups > 1 && layout.channels % kWordBits != 0) {
      for (int i = 0; i < words; ++i) {
        const int done = i % layout.words * kWordBits;
        const std::int64_t first =
            static_cast<std::int64_t>(i / layout.words) * layout.channels + done;
        own[i] = bits_from(signs, first, std::min(layout.channels - done, kWordBits));
      }
      from = own;
    }
    ops.spread(from, 1, plan.layout, out);
  }
}

// One row of one plane, all slices: every stride.x-th pixel of a row of the padded image, zeros
// outside the input. out: the row's place in the first slice.
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
  for (std::int64_t slice = 0; slice < plan.layout.groups * plan.layout.slices; ++slice) {
    std::int8_t* to = out + slice * plan.layout.slice_step;
    std::memset(to, 0, static_cast<std::size_t>(first * kStepBytes));
    std::memset(to + last * kStepBytes, 0,
                static_cast<std::size_t>((plan.pitch - last) * kStepBytes));
  }
  if (first == last) return;
  const std::int64_t from =
      image * c.image_step + y * c.row_step + (x0 + first * c.stride.x) * c.column_step;
  const std::int64_t step = c.stride.x * c.column_step;
  std::int8_t* to = out + first * kStepBytes;
  if (c.x)
    ops.pack(c.x + from, step, last - first, c.input_shift, plan.layout, to);
  else
    spread_pixels(plan, ops, c.signs + from, step, last - first, to);
}

// How a layer is cut: a task is some rows of one image for some blocks of output channels. Pixels
// some KiB apart meet in few sets of the cache: there several blocks are written together.
struct Cut {
  int together;
  std::int64_t blocks, block_parts;  // of a task; parts of a group's blocks
  std::int64_t rows, row_parts;

  Cut(const Conv& c, int threads) {
    const bool far = c.outputs() * 4 >= kFar && c.blocks_of_group() % kTogether == 0;
    together = far ? kTogether : 1;
    blocks = threads > 1 ? together : c.blocks_of_group();
    block_parts = (c.blocks_of_group() + blocks - 1) / blocks;
    const std::int64_t others = c.images * c.layout.groups * block_parts;
    std::int64_t wanted = threads > 1 ? 8 * threads / others : 1;
    if (others >= 2 * threads)  // enough tasks: none below two blocks of pixels then
      wanted = std::min(wanted, c.out.y * c.out.x / (2 * kPixelBlock));
    wanted = std::clamp<std::int64_t>(wanted, 1, c.out.y);
    rows = (c.out.y + wanted - 1) / wanted;
    row_parts = (c.out.y + rows - 1) / rows;
  }
};

// Part `rows` of the output's rows and part `part` of a group's blocks.
ByteTask make_task(const Plan& plan, const Results& results, const Cut& cut,
                   const std::int8_t* bytes, std::int64_t image, std::int64_t group,
                   std::int64_t part, std::int64_t rows) {
  const Conv& c = plan.conv;
  const std::int64_t first = rows * cut.rows, last = std::min(first + cut.rows, c.out.y);
  const std::int64_t first_block = part * cut.blocks;
  const std::int64_t block = group * c.blocks_of_group() + first_block;
  ByteTask task{};
  task.image = bytes + image * plan.image_bytes() + first * plan.pitch * kStepBytes +
               group * plan.layout.slices * plan.layout.slice_step;
  task.steps = plan.steps.data();
  task.step_count = static_cast<int>(plan.steps.size());
  task.weight_step = c.taps() * (c.layout.words + 1) * kLanes;
  task.weight = c.weight + block * task.weight_step;
  task.blocks = static_cast<int>(std::min(cut.blocks, c.blocks_of_group() - first_block));
  task.together = cut.together;
  task.pixels = static_cast<int>((last - first - 1) * plan.pitch + c.out.x);
  task.pitch = static_cast<int>(plan.pitch);
  task.width = static_cast<int>(c.out.x);
  task.result = results.at(block, (image * c.out.y + first) * c.out.x);
  task.result.channels = static_cast<int>(
      std::min<std::int64_t>(task.blocks * kLanes, c.group_outputs - first_block * kLanes));
  task.expanded = workspace<std::int8_t>(Slot::weights, kKept * 1024);
  task.sums = workspace<std::int32_t>(Slot::sums, 2 * cut.together * kBlockSums);
  return task;
}

// Images without borders are one row of pixels where a window is one pixel. (A single image stays
// as it is for several threads: they share its rows.)
Conv flattened(const Conv& conv) {
  Conv c = conv;
  const bool dense = (c.in.y == 1 || c.row_step == c.in.x * c.column_step) &&
                     (c.images == 1 || c.image_step == c.in.y * c.in.x * c.column_step);
  const bool plain = c.taps() == 1 && c.stride.y == 1 && c.stride.x == 1 && c.padding.y == 0 &&
                     c.padding.x == 0;
  if (!plain || !dense || (c.threads > 1 && c.images == 1)) return c;
  c.in = c.out = {1, c.images * c.in.y * c.in.x};
  c.images = 1;
  return c;
}

// Clock cycles by a model of either way, fitted to measurements; only their ratio counts. The
// matrix unit pays for whole tiles of 16 pixels (below three of them it waits for its own results)
// and for expanding the weights, popcounts for each pixel.
double cycles_by_bytes(const Conv& c) {
  const double steps = c.taps() * ((c.layout.words + 1) / 2);
  const double pitch = static_cast<double>(c.out.x + (c.kernel.x - 1) * c.dilation.x / c.stride.x);
  const double tiles = ((c.out.y - 1) * pitch + c.out.x + 15) / 16;
  const double whole = static_cast<double>(static_cast<std::int64_t>(tiles / 4));
  const double rest = tiles - 4 * whole;
  const double times = whole + (rest < 1 ? 0.0 : rest < 3 ? 0.7 : 1.0);
  return c.images * c.blocks() * (steps * (88 * times + 20) + 150 * times + 200);
}

double cycles_by_words(const Conv& c) {
  const double words = c.taps() * c.layout.words;
  return static_cast<double>(c.images * c.out.y * c.out.x) * c.blocks() * (1.7 * words + 5);
}

int useful_threads(const Conv& c) {
  const double useful = cycles_by_bytes(c) / 2e4;
  return static_cast<int>(std::clamp(useful, 1.0, static_cast<double>(c.threads)));
}

}  // namespace

bool bytes_pay(const Conv& original) {
  const Conv c = flattened(original);
  const double depth = static_cast<double>(c.taps()) * c.layout.channels;
  const double pixels = static_cast<double>(c.in.y + 2 * c.padding.y + c.stride.y) *
                        static_cast<double>(c.in.x + 2 * c.padding.x + c.stride.x);
  const double bytes = pixels * c.layout.groups * ((c.layout.words + 1) / 2) * kStepBytes;
  return depth < (1 << 24) && bytes < 2e9 &&  // offsets are 32-bit
         cycles_by_bytes(c) < cycles_by_words(c);
}

void convolve_bytes(const Conv& original, const ByteOperations& ops) {
  const Conv conv = flattened(original);
  const Plan plan(conv);
  const Results results(conv);
  const int threads = useful_threads(conv);
  constexpr std::int64_t kBeyond = 16;  // pixels that the last tile may read in vain
  auto* bytes = workspace<std::int8_t>(
      Slot::activations, conv.images * plan.image_bytes() + kBeyond * kStepBytes);

  const std::int64_t planes = static_cast<std::int64_t>(plan.planes.size());
  const std::int64_t rows = conv.images * planes * plan.rows;
  const std::int64_t row_step = threads > 1 ? (rows + 8 * threads - 1) / (8 * threads) : rows;
  parallel_for((rows + row_step - 1) / row_step, threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * row_step;
    for (std::int64_t row = first; row < std::min(first + row_step, rows); ++row) {
      const std::int64_t plane = row / plan.rows;
      copy_row(plan, ops, plane / planes, plan.planes[plane % planes], row % plan.rows,
               bytes + plane * plan.plane_bytes() + row % plan.rows * plan.pitch * kStepBytes);
    }
  });

  const Cut cut(conv, threads);
  const std::int64_t per_image = conv.layout.groups * cut.block_parts * cut.row_parts;
  parallel_for(conv.images * per_image, threads, [&](std::size_t task) {
    const std::int64_t index = static_cast<std::int64_t>(task), part = index / cut.row_parts;
    ops.convolve(make_task(plan, results, cut, bytes, index / per_image,
                           part / cut.block_parts % conv.layout.groups, part % cut.block_parts,
                           index % cut.row_parts));
  });
  results.finish();
}

}  // namespace compactnets::binary
