// The parts of the sparse product that all instruction sets share: geometry, order of work and its
// split over threads.
#include "sparse/product.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <stdexcept>

#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::sparse {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// The taps' positions along one axis: which phase, and how far from the first row (column) of it.
std::int64_t last_tap(std::int64_t kernel, std::int64_t stride, std::int64_t dilation) {
  return (kernel - 1) * dilation / stride;
}

}  // namespace

Plan::Plan(const Product& product) : p_(product), ops_(operations()) {
  group_channels_ = p_.channels / p_.groups;
  group_rows_ = p_.rows / p_.groups;
  pointwise_ = p_.groups == 1 && p_.kernel.y == 1 && p_.kernel.x == 1 && p_.stride.y == 1 && p_.stride.x == 1 &&
               p_.padding.y == 0 && p_.padding.x == 0;
  depthwise_ = !p_.channels_last && p_.block == 1 && p_.groups == p_.rows &&
               p_.groups == p_.channels && p_.blocks == 9 * p_.rows && p_.kernel.y == 3 &&
               p_.kernel.x == 3 && p_.dilation.y == 1 && p_.dilation.x == 1 && p_.padding.y == 1 &&
               p_.padding.x == 1 && p_.stride.y == p_.stride.x && p_.stride.x <= 2;
  if (pointwise_) {  // one long row; with the channels last the images follow each other as well
    p_.in = p_.out = {1, p_.out.y * p_.out.x};
    if (p_.channels_last) {
      p_.in.x = p_.out.x *= p_.images;
      p_.images = 1;
    }
  }
  outputs_ = p_.rows * p_.block;
  p_.chunks = static_cast<int>(
      std::clamp<std::int64_t>(p_.chunks, 1, group_channels_ * p_.kernel.y * p_.kernel.x));
  list_taps();
  list_blocks();
  list_tiles();
  cut_rows();
  if (p_.pairs) {
    match_rows();
    list_pairs();
  }
}

void Plan::list_taps() {
  const Size2 last = {last_tap(p_.kernel.y, p_.stride.y, p_.dilation.y),
                      last_tap(p_.kernel.x, p_.stride.x, p_.dilation.x)};
  phases_ = {std::min(p_.stride.y, (p_.kernel.y - 1) * p_.dilation.y + 1),
             std::min(p_.stride.x, (p_.kernel.x - 1) * p_.dilation.x + 1)};
  plane_ = {p_.out.y + last.y, p_.out.x + last.x};
  gapless_ = last.x == 0;
  pixels_ = (p_.out.y - 1) * plane_.x + p_.out.x;
  plane_floats_ = round_up(plane_.y * plane_.x, 16);
  channel_floats_ = phases_.y * phases_.x * plane_floats_;
  constexpr std::int64_t kCacheFloats = 32 * 1024 / sizeof(float);
  batch_ = p_.groups == 1 ? 1
                          : std::clamp<std::int64_t>(
                                kCacheFloats / (group_channels_ * channel_floats_), 1, p_.groups);
  require(p_.channels * channel_floats_ < std::numeric_limits<std::int32_t>::max(),
          "x has too large an image");
  for (std::int64_t ky = 0; ky < p_.kernel.y; ++ky)
    for (std::int64_t kx = 0; kx < p_.kernel.x; ++kx) {
      const Size2 at = {ky * p_.dilation.y, kx * p_.dilation.x};
      const std::int64_t phase = at.y % p_.stride.y * phases_.x + at.x % p_.stride.x;
      tap_offset_.push_back(phase * plane_floats_ + at.y / p_.stride.y * plane_.x +
                            at.x / p_.stride.x);
    }
}

// Steps of all blocks, and for each range of inputs where it begins and ends in each row.
void Plan::list_blocks() {
  const auto taps = static_cast<std::int64_t>(tap_offset_.size());
  const std::int64_t inputs = group_channels_ * taps;
  require(p_.starts[0] == 0 && p_.starts[p_.rows] == p_.blocks,
          "starts must begin with 0 and end with the number of blocks");
  steps_.resize(p_.blocks);
  first_.resize(p_.chunks * p_.rows);
  last_.resize(p_.chunks * p_.rows);
  for (std::int64_t row = 0; row < p_.rows; ++row) {
    const std::int64_t end = p_.starts[row + 1];
    require(p_.starts[row] <= end && end <= p_.blocks, "starts must not decrease");
    const std::int64_t group = row / group_rows_ % batch_ * group_channels_ * channel_floats_;
    std::int64_t b = p_.starts[row], before = -1;
    for (int chunk = 0; chunk < p_.chunks; ++chunk) {
      const std::int64_t limit = inputs * (chunk + 1) / p_.chunks;
      first_[chunk * p_.rows + row] = static_cast<std::int32_t>(b);
      for (; b < end && p_.index[b] < limit; ++b) {
        const std::int64_t k = p_.index[b];
        require(k > before, "index must ascend within a row and not be negative");
        before = k;
        const std::int64_t step =
            pointwise_ ? k : group + k / taps * channel_floats_ + tap_offset_[k % taps];
        steps_[b] = static_cast<std::int32_t>(step);
      }
      last_[chunk * p_.rows + row] = static_cast<std::int32_t>(b);
    }
    require(b == end, "index has an input that does not exist, or does not ascend within a row");
  }
}

// Tiles of equal width, or narrower by one vector: no narrow rest, whose sums would be too few to
// keep the multipliers busy.
void Plan::list_tiles() {
  p_.pairs = p_.pairs && p_.block == 1 && p_.groups == 1;
  const int widest = ops_.widest[p_.block == 2 || p_.pairs ? 1 : p_.block == 1 ? 0 : 2];
  const std::int64_t vectors = ceil_div(pixels_, ops_.lanes);
  const std::int64_t count = ceil_div(vectors, std::clamp(p_.tile, 1, widest));
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t width = vectors * (i + 1) / count - vectors * i / count;
    const std::int64_t pixels = std::min(width * ops_.lanes, pixels_ - first);
    tiles_.push_back({first, static_cast<int>(width), static_cast<int>(pixels)});
    first += pixels;
  }
}

// Slabs of rows with about equal numbers of blocks, as many as the threads need beside the tiles.
void Plan::cut_rows() {
  const double work = static_cast<double>(p_.images) * pixels_ * p_.blocks * p_.block;
  p_.threads = static_cast<int>(std::clamp(work / 1e6, 1.0, static_cast<double>(p_.threads)));
  const auto tiles = static_cast<std::int64_t>(tiles_.size()) * p_.images;
  std::int64_t slabs = p_.threads == 1 ? 1 : ceil_div(8 * p_.threads, tiles);
  slabs = std::clamp<std::int64_t>(slabs, 1, p_.rows);
  shared_panels_ = slabs > 1;
  slabs_.push_back(0);
  for (std::int64_t s = 1; s < slabs; ++s) {
    const auto* const at = std::lower_bound(p_.starts, p_.starts + p_.rows, p_.blocks * s / slabs);
    slabs_.push_back(std::max<std::int64_t>(at - p_.starts, slabs_.back()));
  }
  slabs_.push_back(p_.rows);
}

// Gives each row the one of the next unpaired rows of its slab that shares most inputs with it.
void Plan::match_rows() {
  constexpr int kCandidates = 64;
  const std::int64_t inputs = p_.channels * p_.kernel.y * p_.kernel.x;
  const std::int64_t words = ceil_div(inputs, 64);
  std::vector<std::uint64_t> sets(p_.rows * words);
  for (std::int64_t row = 0; row < p_.rows; ++row)
    for (std::int32_t b = p_.starts[row]; b < p_.starts[row + 1]; ++b)
      sets[row * words + p_.index[b] / 64] |= std::uint64_t{1} << (p_.index[b] % 64);
  const auto shared = [&](std::int64_t a, std::int64_t b) {
    std::int64_t count = 0;
    for (std::int64_t w = 0; w < words; ++w)
      count += std::popcount(sets[a * words + w] & sets[b * words + w]);
    return count;
  };
  std::vector<bool> paired(p_.rows);
  pair_slabs_.push_back(0);
  for (std::size_t s = 0; s + 1 < slabs_.size(); ++s) {
    for (std::int64_t row = slabs_[s]; row < slabs_[s + 1]; ++row) {
      if (paired[row]) continue;
      std::int64_t best = row, most = -1;
      int tried = 0;
      for (std::int64_t other = row + 1; other < slabs_[s + 1] && tried < kCandidates; ++other) {
        if (paired[other]) continue;
        ++tried;
        const std::int64_t count = shared(row, other);
        if (count > most) best = other, most = count;
      }
      paired[row] = paired[best] = true;
      partners_.push_back({static_cast<std::int32_t>(row), static_cast<std::int32_t>(best)});
    }
    pair_slabs_.push_back(static_cast<std::int64_t>(partners_.size()));
  }
}

// Steps and values in the order of the pairs, range by range.
void Plan::list_pairs() {
  const auto add = [this](std::int32_t block) {
    pair_steps_.push_back(steps_[block]);
    pair_values_.push_back(p_.values[block]);
  };
  const auto here = [this] { return static_cast<std::int32_t>(pair_steps_.size()); };
  for (int chunk = 0; chunk < p_.chunks; ++chunk) {
    const std::int32_t* const first = first_.data() + chunk * p_.rows;
    const std::int32_t* const last = last_.data() + chunk * p_.rows;
    for (const auto& [one, two] : partners_) {
      Pair pair{{one, two}, here(), {}, static_cast<std::int64_t>(pair_values_.size())};
      std::vector<std::int32_t> alone[2];
      std::int32_t a = first[one], b = one == two ? last[two] : first[two];
      while (a < last[one] || b < last[two]) {
        const bool first_has = b == last[two] || (a < last[one] && p_.index[a] <= p_.index[b]);
        const bool second_has = a == last[one] || (b < last[two] && p_.index[b] <= p_.index[a]);
        if (first_has && second_has) {
          add(a);
          pair_values_.push_back(p_.values[b]);
        } else {
          alone[first_has ? 0 : 1].push_back(first_has ? a : b);
        }
        a += first_has;
        b += second_has;
      }
      for (int row = 0; row < 2; ++row) {
        pair.alone[row] = here();
        for (std::int32_t block : alone[row]) add(block);
      }
      pair.alone[2] = here();
      pairs_.push_back(pair);
    }
  }
}

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
