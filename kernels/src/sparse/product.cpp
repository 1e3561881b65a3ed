// How a sparse product runs: packing of the activations, order of work, split over threads.
#include <algorithm>
#include <limits>

#include "common/team.hpp"
#include "common/workspace.hpp"
#include "sparse/product.hpp"

namespace compactnets::sparse {

bool Plan::tile_in_place(const Tile& tile) const {
  return p_.in_place && !p_.channels_last && tile.pixels == tile.vectors * ops_.lanes;
}

std::int64_t Plan::panel_floats(const Tile& tile) const {
  return p_.channels * tile.vectors * ops_.lanes;
}

// Some inputs of a tile of one image.
void Plan::pack_panel(const float* x, const Tile& tile, Range inputs, float* panel) const {
  const std::int64_t width = tile.vectors * ops_.lanes;
  float* const to = panel + inputs.first * width;
  if (p_.channels_last)
    ops_.transpose(x + tile.first * p_.channels + inputs.first, p_.channels, tile.pixels,
                   inputs.size(), to, width, true);
  else
    ops_.copy(x + inputs.first * pixels_ + tile.first, pixels_, 1, inputs.size(), tile.pixels, to,
              width, width);
}

// All ranges of inputs for one tile and some rows; y is one image's.
void Plan::multiply(const float* x, std::int64_t pitch, const Tile& tile, Range rows,
                    float* y) const {
  if (rows.size() == 0) return;
  const bool direct = !p_.channels_last && gapless_;
  const std::int64_t width = tile.vectors * ops_.lanes;
  float* sums = nullptr;
  TileTask task{};
  task.x = x;
  task.pitch = pitch;
  task.steps = steps_.data();
  task.values = p_.values;
  task.first_row = rows.first;
  task.last_row = rows.last;
  task.block = static_cast<int>(p_.block);
  Range pairs{};
  if (p_.pairs) {
    task.steps = pair_steps_.data();
    task.values = pair_values_.data();
    const auto slab = std::upper_bound(slabs_.begin(), slabs_.end() - 1, rows.first) - 1;
    pairs = {pair_slabs_[slab - slabs_.begin()], pair_slabs_[slab - slabs_.begin() + 1]};
  }
  task.bias = p_.bias;
  task.vectors = tile.vectors;
  task.low = p_.low;
  task.high = p_.high;
  if (direct) {
    task.y = y + tile.first;
    task.y_pitch = pixels_;
    task.pixels = tile.pixels;
  } else {
    sums = workspace<float>(Slot::sums, rows.size() * p_.block * width);
    task.y = sums - rows.first * p_.block * width;
    task.y_pitch = width;
    task.pixels = static_cast<int>(width);
  }
  for (int chunk = 0; chunk < p_.chunks; ++chunk) {
    task.first = first_.data() + chunk * p_.rows;
    task.last = last_.data() + chunk * p_.rows;
    if (p_.pairs) {
      const Pair* const all = pairs_.data() + chunk * partners_.size();
      task.pairs = all + pairs.first;
      task.pairs_end = all + pairs.last;
    }
    task.resume = chunk > 0;
    const bool done = chunk + 1 == p_.chunks;
    task.at_least = done && p_.low > -std::numeric_limits<float>::infinity();
    task.at_most = done && p_.high < std::numeric_limits<float>::infinity();
    ops_.multiply(task);
  }
  if (direct) return;
  const Range outputs = {rows.first * p_.block, rows.last * p_.block};
  if (gapless_)
    ops_.transpose(sums, width, outputs.size(), tile.pixels,
                   y + tile.first * outputs_ + outputs.first, outputs_, false);
  else
    store_gaps(sums, width, tile, outputs, y);
}

// Stores a tile whose pixels run over padded rows: the stretch of each row that is in the output.
void Plan::store_gaps(const float* sums, std::int64_t pitch, const Tile& tile, Range outputs,
                      float* y) const {
  const std::int64_t end = tile.first + tile.pixels, plane = p_.out.y * p_.out.x;
  for (std::int64_t row = tile.first / plane_.x; row * plane_.x < end; ++row) {
    const std::int64_t from = std::max(tile.first, row * plane_.x);
    const std::int64_t count = std::min(end, row * plane_.x + p_.out.x) - from;
    if (count <= 0) continue;
    const float* source = sums + (from - tile.first);
    const std::int64_t pixel = row * p_.out.x + (from - row * plane_.x);
    if (p_.channels_last)
      ops_.transpose(source, pitch, outputs.size(), count, y + pixel * outputs_ + outputs.first,
                     outputs_, false);
    else
      ops_.copy(source, pitch, 1, outputs.size(), count, y + outputs.first * plane + pixel, plane,
                count);
  }
}

void Plan::run_pointwise(const float* x, float* y) const {
  const auto tiles = static_cast<std::int64_t>(tiles_.size());
  const std::int64_t x_image = p_.channels * pixels_, y_image = outputs_ * pixels_;
  if (!shared_panels_) {
    parallel_for(p_.images * tiles, p_.threads, [&](std::size_t task) {
      const auto image = static_cast<std::int64_t>(task) / tiles;
      const Tile& tile = tiles_[static_cast<std::int64_t>(task) % tiles];
      const float* from = x + image * x_image;
      if (tile_in_place(tile))
        return multiply(from + tile.first, pixels_, tile, {0, p_.rows}, y + image * y_image);
      auto* panel = workspace<float>(Slot::activations, panel_floats(tile));
      pack_panel(from, tile, {0, p_.channels}, panel);
      multiply(panel, tile.vectors * ops_.lanes, tile, {0, p_.rows}, y + image * y_image);
    });
    return;
  }
  // Few tiles: threads share the panels, first packed in parts, then each met by slabs of rows.
  const std::int64_t panels = p_.channels * ceil_div(pixels_, ops_.lanes) * ops_.lanes;
  auto* packed = workspace<float>(Slot::activations, panels * p_.images);
  const std::int64_t parts = std::clamp<std::int64_t>(p_.channels / 64, 1, 2 * p_.threads);
  parallel_for(p_.images * tiles * parts, p_.threads, [&](std::size_t task) {
    const auto index = static_cast<std::int64_t>(task);
    const std::int64_t image = index / parts / tiles, part = index % parts;
    const Tile& tile = tiles_[index / parts % tiles];
    if (tile_in_place(tile)) return;
    pack_panel(x + image * x_image, tile,
               {p_.channels * part / parts, p_.channels * (part + 1) / parts},
               packed + image * panels + p_.channels * tile.first);
  });
  const std::size_t slabs = slabs_.size() - 1;
  parallel_for(p_.images * tiles * slabs, p_.threads, [&](std::size_t task) {
    const auto index = static_cast<std::int64_t>(task / slabs);
    const std::int64_t image = index / tiles;
    const Tile& tile = tiles_[index % tiles];
    const Range rows = slab(task % slabs);
    if (tile_in_place(tile))
      multiply(x + image * x_image + tile.first, pixels_, tile, rows, y + image * y_image);
    else
      multiply(packed + image * panels + p_.channels * tile.first, tile.vectors * ops_.lanes, tile,
               rows, y + image * y_image);
  });
}

// Columns of a phase's planes that lie in the input; the others are padding.
Plan::Range Plan::inside(std::int64_t phase_x) const {
  const std::int64_t left = phase_x - p_.padding.x;  // column of the input at column 0
  const std::int64_t first = std::min(left < 0 ? ceil_div(-left, p_.stride.x) : 0, plane_.x);
  const std::int64_t end = left < p_.in.x ? ceil_div(p_.in.x - left, p_.stride.x) : 0;
  return {first, std::clamp(end, first, plane_.x)};
}

// All phases of one channel of an image with the channels first.
void Plan::pack_planes_first(const float* x, float* planes, std::int64_t channel) const {
  const float* from = x + channel * p_.in.y * p_.in.x;
  for (std::int64_t phase = 0; phase < phases_.y * phases_.x; ++phase) {
    float* const to = planes + phase * plane_floats_;
    const Range columns = inside(phase % phases_.x);
    const std::int64_t left = phase % phases_.x - p_.padding.x;
    for (std::int64_t r = 0; r < plane_.y; ++r) {
      const std::int64_t row = r * p_.stride.y + phase / phases_.x - p_.padding.y;
      const bool padding = row < 0 || row >= p_.in.y || columns.size() == 0;
      float* const at = to + r * plane_.x;
      for (std::int64_t c = 0; c < (padding ? plane_.x : columns.first); ++c) at[c] = 0.0f;
      if (padding) continue;
      const float* source = from + row * p_.in.x + left + columns.first * p_.stride.x;
      const std::int64_t width = plane_.x - columns.first;
      if (p_.stride.x <= 2) {
        ops_.copy(source, 0, p_.stride.x, 1, columns.size(), at + columns.first, 0, width);
        continue;
      }
      for (std::int64_t c = 0; c < width; ++c)
        at[columns.first + c] = c < columns.size() ? source[c * p_.stride.x] : 0.0f;
    }
  }
}

// One row of all planes of some channels, of an image with the channels last.
void Plan::pack_rows_last(const float* x, float* planes, Range channels, std::int64_t index) const {
  const std::int64_t phase = index / plane_.y, r = index % plane_.y;
  const std::int64_t row = r * p_.stride.y + phase / phases_.x - p_.padding.y;
  const std::int64_t left = phase % phases_.x - p_.padding.x;
  Range columns = inside(phase % phases_.x);
  if (row < 0 || row >= p_.in.y) columns.last = columns.first;
  float* const to = planes + phase * plane_floats_ + r * plane_.x;
  for (std::int64_t c = 0; c < channels.size(); ++c) {
    std::fill_n(to + c * channel_floats_, columns.first, 0.0f);
    std::fill_n(to + c * channel_floats_ + columns.last, plane_.x - columns.last, 0.0f);
  }
  if (columns.size() > 0)
    ops_.transpose(
        x + (row * p_.in.x + left + columns.first * p_.stride.x) * p_.channels + channels.first,
        p_.stride.x * p_.channels, columns.size(), channels.size(), to + columns.first,
        channel_floats_, false);
}

void Plan::pack_image(const float* x, float* planes, Range channels, int threads) const {
  const std::int64_t tasks =
      p_.channels_last ? phases_.y * phases_.x * plane_.y : channels.size();
  const std::int64_t step = threads == 1 ? tasks : ceil_div(tasks, 4 * threads);
  parallel_for(ceil_div(tasks, step), threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * step;
    for (std::int64_t i = first; i < std::min(first + step, tasks); ++i)
      if (p_.channels_last)
        pack_rows_last(x, planes, channels, i);
      else
        pack_planes_first(x, planes + i * channel_floats_, channels.first + i);
  });
}

// Memory for planes. The last tile of the last taps reads past them, into pixels that are thrown
// away; zeros there, as any garbage could be a slow number.
float* Plan::planes(std::int64_t channels) const {
  const std::int64_t floats = channels * channel_floats_, slack = 16 * (ops_.lanes + 16);
  auto* memory = workspace<float>(Slot::activations, floats + slack);
  std::fill_n(memory + floats, slack, 0.0f);
  return memory;
}

void Plan::run_image(const float* x, float* y) const {
  float* const image = planes(p_.channels);
  pack_image(x, image, {0, p_.channels}, p_.threads);
  const std::size_t slabs = slabs_.size() - 1;
  parallel_for(tiles_.size() * slabs, p_.threads, [&](std::size_t task) {
    const Tile& tile = tiles_[task / slabs];
    multiply(image + tile.first, 1, tile, slab(task % slabs), y);
  });
}

void Plan::run_groups(const float* x, float* y) const {
  parallel_for(ceil_div(p_.groups, batch_), p_.threads, [&](std::size_t task) {
    const std::int64_t first = static_cast<std::int64_t>(task) * batch_;
    const std::int64_t last = std::min(first + batch_, p_.groups);
    float* const image = planes(batch_ * group_channels_);
    pack_image(x, image, {first * group_channels_, last * group_channels_}, 1);
    for (const Tile& tile : tiles_)
      multiply(image + tile.first, 1, tile, {first * group_rows_, last * group_rows_}, y);
  });
}

void Plan::run_depthwise(const float* x, float* y) const {
  const std::int64_t step = p_.threads == 1 ? p_.channels : ceil_div(p_.channels, 4 * p_.threads);
  parallel_for(ceil_div(p_.channels, step), p_.threads, [&](std::size_t index) {
    DepthwiseTask task{};
    task.x = x;
    task.values = p_.values;
    task.bias = p_.bias;
    task.y = y;
    task.first = static_cast<std::int64_t>(index) * step;
    task.last = std::min(task.first + step, p_.channels);
    task.in_y = p_.in.y;
    task.in_x = p_.in.x;
    task.out_y = p_.out.y;
    task.out_x = p_.out.x;
    task.stride = static_cast<int>(p_.stride.x);
    task.at_least = p_.low > -std::numeric_limits<float>::infinity();
    task.at_most = p_.high < std::numeric_limits<float>::infinity();
    task.low = p_.low;
    task.high = p_.high;
    ops_.depthwise(task);
  });
}

void Plan::run(const float* x, float* y) const {
  if (pointwise_) return run_pointwise(x, y);
  for (std::int64_t image = 0; image < p_.images; ++image) {
    const float* const from = x + image * p_.channels * p_.in.y * p_.in.x;
    float* const to = y + image * outputs_ * p_.out.y * p_.out.x;
    if (depthwise_)
      run_depthwise(from, to);
    else
      p_.groups == 1 ? run_image(from, to) : run_groups(from, to);
  }
}

}  // namespace compactnets::sparse
