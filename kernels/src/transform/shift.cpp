#include "transform/shift.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/team.hpp"

namespace compactnets::transform {
namespace {

// Pixels [first, end) of an axis that come from inside the image when it moves by `shift`.
struct Span {
  std::int64_t first, end;
  Span(std::int64_t size, std::int64_t shift)
      : first(std::clamp<std::int64_t>(-shift, 0, size)),
        end(std::clamp<std::int64_t>(size - shift, first, size)) {}
  bool empty() const { return first == end; }
};

// Zeros at `places` places of `bytes` bytes, `step` bytes apart. The sizes that matter are constants,
// a store each: a call of memset for four bytes would take longer than the copy.
void clear_places(char* y, std::int64_t places, std::int64_t bytes, std::int64_t step) {
  const auto each = [&](auto clear) {
    for (std::int64_t p = 0; p < places; ++p, y += step) clear();
  };
  switch (bytes) {
    case 0: return;
    case 1: return each([&] { std::memset(y, 0, 1); });
    case 2: return each([&] { std::memset(y, 0, 2); });
    case 4: return each([&] { std::memset(y, 0, 4); });
    case 8: return each([&] { std::memset(y, 0, 8); });
    default: return each([&] { std::memset(y, 0, bytes); });
  }
}

// Rows [from, to) of a plane of height x width pixels of `pixel` bytes.
void shift_rows(const char* x, char* y, std::int64_t height, std::int64_t width,
                std::int64_t pixel, std::int64_t dy, std::int64_t dx, std::int64_t from,
                std::int64_t to) {
  const Span rows(height, dy), columns(width, dx);
  const std::int64_t row = width * pixel;
  const std::int64_t first = std::clamp(rows.first, from, to);
  const std::int64_t end = columns.empty() ? first : std::clamp(rows.end, first, to);
  std::memset(y + from * row, 0, (first - from) * row);
  std::memset(y + end * row, 0, (to - end) * row);
  const std::int64_t band = std::max<std::int64_t>(1, (1 << 14) / row);
  const std::int64_t left = columns.first * pixel, right = (width - columns.end) * pixel;
  for (std::int64_t begin = first; begin < end; begin += band) {
    const std::int64_t stop = std::min(begin + band, end);
    std::memcpy(y + begin * row + left, x + (begin + dy) * row + left + dx * pixel,
                (stop - begin) * row - left - right);
    clear_places(y + begin * row, stop - begin, left, row);
    clear_places(y + (begin + 1) * row - right, stop - begin, right, row);
  }
}

// `bytes` bytes of each of `pixels` pixels, `step` bytes apart on both sides.
template <typename Element>
void copy_elements(const char* x, char* y, std::int64_t pixels, std::int64_t step) {
  for (std::int64_t p = 0; p < pixels; ++p, x += step, y += step) {
    Element value;
    std::memcpy(&value, x, sizeof(value));
    std::memcpy(y, &value, sizeof(value));
  }
}

struct Bytes16 {
  std::uint64_t words[2];
};

void copy_pixels(const char* x, char* y, std::int64_t pixels, std::int64_t bytes,
                 std::int64_t step) {
  switch (bytes) {
    case 1: return copy_elements<std::uint8_t>(x, y, pixels, step);
    case 2: return copy_elements<std::uint16_t>(x, y, pixels, step);
    case 4: return copy_elements<std::uint32_t>(x, y, pixels, step);
    case 8: return copy_elements<std::uint64_t>(x, y, pixels, step);
    case 16: return copy_elements<Bytes16>(x, y, pixels, step);
    default:
      for (std::int64_t p = 0; p < pixels; ++p) std::memcpy(y + p * step, x + p * step, bytes);
  }
}

// Neighbouring channels that move together.
struct Run {
  std::int64_t first, count, dy, dx;
};

std::vector<Run> runs_of(const Shift& s) {
  std::vector<Run> runs;
  for (std::int64_t c = 0; c < s.channels; ++c) {
    const std::int64_t dy = s.shifts[2 * c], dx = s.shifts[2 * c + 1];
    if (!runs.empty() && runs.back().dy == dy && runs.back().dx == dx)
      ++runs.back().count;
    else
      runs.push_back({c, 1, dy, dx});
  }
  return runs;
}

// One row of a channels-last image for one run of channels.
void shift_run(const Shift& s, const Run& run, const char* x, char* y, std::int64_t i) {
  const std::int64_t pixel = s.channels * s.item, bytes = run.count * s.item;
  const std::int64_t row = s.width * pixel;
  char* const to = y + i * row + run.first * s.item;
  const Span columns(s.width, run.dx);
  if (i + run.dy < 0 || i + run.dy >= s.height || columns.empty())
    return clear_places(to, s.width, bytes, pixel);
  const char* const from = x + (i + run.dy) * row + run.first * s.item;
  clear_places(to, columns.first, bytes, pixel);
  copy_pixels(from + (columns.first + run.dx) * pixel, to + columns.first * pixel,
              columns.end - columns.first, bytes, pixel);
  clear_places(to + columns.end * pixel, s.width - columns.end, bytes, pixel);
}

// Threads worth waking: a hundred thousand bytes each pay for the hand-over.
int useful_threads(const Shift& s) {
  const double bytes = static_cast<double>(s.images * s.channels * s.height * s.width * s.item);
  return static_cast<int>(std::clamp(bytes / 1e5, 1.0, static_cast<double>(s.threads)));
}

void shift_channels_last(const Shift& s, const std::vector<Run>& runs, int threads) {
  const std::int64_t image = s.height * s.width * s.channels * s.item;
  const std::int64_t pieces = std::min<std::int64_t>(threads > 1 ? 4 * threads : 1, s.height);
  parallel_for(s.images * pieces, threads, [&](std::size_t task) {
    const std::int64_t n = static_cast<std::int64_t>(task) / pieces;
    const std::int64_t piece = static_cast<std::int64_t>(task) % pieces;
    const std::int64_t from = s.height * piece / pieces, to = s.height * (piece + 1) / pieces;
    const char* x = s.x + n * image;
    char* y = s.y + n * image;
    if (runs.size() == 1)
      return shift_rows(x, y, s.height, s.width, s.channels * s.item, runs[0].dy, runs[0].dx, from,
                        to);
    for (std::int64_t i = from; i < to; ++i)
      for (const Run& run : runs) shift_run(s, run, x, y, i);
  });
}

void shift_channels_first(const Shift& s, int threads) {
  const std::int64_t plane = s.height * s.width * s.item;
  parallel_for(s.images * s.channels, threads, [&](std::size_t task) {
    const std::int64_t index = static_cast<std::int64_t>(task);
    const std::int32_t* by = s.shifts + 2 * (index % s.channels);
    shift_rows(s.x + index * plane, s.y + index * plane, s.height, s.width, s.item, by[0], by[1],
               0, s.height);
  });
}

}  // namespace

void shift(const Shift& s) {
  if (s.images * s.channels * s.height * s.width == 0) return;
  const int threads = useful_threads(s);
  if (s.channels_last && s.channels > 1)
    shift_channels_last(s, runs_of(s), threads);
  else
    shift_channels_first(s, threads);
}

}  // namespace compactnets::transform
