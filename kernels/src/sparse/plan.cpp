// What is decided before a sparse product runs: steps, ranges, tiles, slabs of rows, pairs of rows.
#include <algorithm>
#include <bit>
#include <limits>
#include <stdexcept>

#include "sparse/product.hpp"

namespace compactnets::sparse {
namespace {

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
  pointwise_ = p_.groups == 1 && p_.kernel.y == 1 && p_.kernel.x == 1 && p_.stride.y == 1 &&
               p_.stride.x == 1 && p_.padding.y == 0 && p_.padding.x == 0;
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

}  // namespace compactnets::sparse
