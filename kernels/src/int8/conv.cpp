// What all instruction sets share: geometry, the image with its border, the order of work and its
// split over threads.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "common/isa.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"
#include "int8/product.hpp"

namespace compactnets::int8 {
namespace {

#ifdef COMPACTNETS_HAS_AVX2
bool has_avx_vnni() { return __builtin_cpu_supports("avxvnni"); }
#else
bool has_avx_vnni() { return false; }
#endif

std::atomic<bool>& avx_vnni() {
  static std::atomic<bool> used{has_avx_vnni()};
  return used;
}

const Operations& operations() {
  const bool vnni = avx_vnni().load(std::memory_order_relaxed);
  return pick<Operations>(
      COMPACTNETS_AMX(amx_operations), COMPACTNETS_AVX512(avx512_operations),
      vnni ? COMPACTNETS_AVX2(avx2_vnni_operations) : COMPACTNETS_AVX2(avx2_operations),
      portable_operations);
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr std::int64_t kUnit = 64;             // positions that a task is made of
constexpr std::int64_t kOwnCache = 1 << 20;    // bytes of weights that every core may keep
constexpr std::int64_t kSlack = 2 * kStep;  // a step reads past the last segment's end

// A 1x1 convolution is a matrix product, whatever the shape of the images.
Conv flattened(Conv c) {
  const bool one = c.kernel.y == 1 && c.kernel.x == 1 && c.stride.y == 1 && c.stride.x == 1 &&
                   c.padding.y == 0 && c.padding.x == 0;
  const bool dense = c.x_column_step == c.channels && c.x_row_step == c.in.x * c.channels &&
                     (c.images == 1 || c.x_image_step == c.in.y * c.x_row_step);
  const bool dynamic = c.input == Input::float32 && c.x_inverse == 0.0f;
  if (!one || !dense || (dynamic && !c.matrix && c.images > 1)) return c;
  c.in = c.out = {1, c.images * c.in.y * c.in.x};
  c.images = 1;
  return c;
}

struct Plan {
  Conv conv;
  bool depthwise, in_place;
  std::int64_t group_channels, group_outputs, blocks;  // blocks: of a group
  // The image with its border: planes of rows of bytes.
  std::int64_t planes, plane_rows, row_bytes, pitch, positions;
  std::vector<std::int32_t> offsets, quads;
  std::int32_t x_zero;  // of the bytes as they are multiplied, unsigned

  explicit Plan(const Conv& given) : conv(flattened(given)) {
    const Conv& c = conv;
    group_channels = c.channels / c.groups;
    group_outputs = c.outputs / c.groups;
    depthwise = c.groups > 1 && group_channels == 1 && group_outputs == 1;
    blocks = ceil_div(depthwise ? c.outputs : group_outputs, kColumns);
    x_zero = c.x_zero + (c.input == Input::int8 ? 128 : 0);
    if (is_dynamic()) x_zero = 128;
    place();
    list_steps();
    check_packed();
  }

  bool is_dynamic() const { return conv.input == Input::float32 && conv.x_inverse == 0.0f; }
  bool folded() const { return conv.groups == 1 && conv.dilation.x == 1; }
  std::int64_t segment() const { return folded() ? conv.kernel.x * conv.channels : group_channels; }
  std::int64_t image_bytes() const { return planes * plane_rows * row_bytes + kSlack; }

  void place() {
    const Conv& c = conv;
    const bool dense = c.x_column_step == c.channels && c.x_row_step == c.in.x * c.channels;
    const bool even = c.in.x % c.stride.x == 0 || c.out.y == 1;
    in_place = c.input == Input::uint8 && c.padding.y == 0 && c.padding.x == 0 && dense && even &&
               (c.stride.y == 1 || c.out.y == 1) && (depthwise || segment() % kStep == 0);
    const Size2 needed{(c.out.y - 1) * c.stride.y + (c.kernel.y - 1) * c.dilation.y + 1,
                       (c.out.x - 1) * c.stride.x + (c.kernel.x - 1) * c.dilation.x + 1};
    planes = in_place || c.out.y == 1 ? 1 : c.stride.y;
    plane_rows = in_place ? c.in.y : ceil_div(needed.y, planes);
    const std::int64_t columns =
        in_place ? c.in.x : ceil_div(needed.x, c.stride.x) * c.stride.x;
    row_bytes = columns * c.channels;
    pitch = c.out.y == 1 ? c.out.x : columns / c.stride.x;
    positions = (c.out.y - 1) * pitch + c.out.x;
  }

  void list_steps() {
    const Conv& c = conv;
    const std::int64_t taps = depthwise || !folded() ? c.kernel.x : 1;
    for (std::int64_t ky = 0; ky < c.kernel.y; ++ky) {
      const std::int64_t row = ky * c.dilation.y;
      const std::int64_t line = (row % planes * plane_rows + row / planes) * row_bytes;
      for (std::int64_t kx = 0; kx < taps; ++kx) {
        const std::int64_t start = line + kx * c.dilation.x * c.channels;
        for (std::int64_t done = 0; done < (depthwise ? 1 : segment()); done += kStep) {
          const std::int64_t bytes = std::min<std::int64_t>(segment() - done, kStep);
          if (start + done > 2147483647) throw std::invalid_argument("x has too large an image");
          offsets.push_back(static_cast<std::int32_t>(start + done));
          quads.push_back(static_cast<std::int32_t>(ceil_div(bytes, kQuad)));
        }
      }
    }
  }

  void check_packed() const {
    const auto steps = static_cast<std::int64_t>(offsets.size());
    const std::int64_t bytes = steps * (depthwise ? kColumns : kStepBytes) + kSumBytes;
    const std::int64_t all = depthwise ? blocks : conv.groups * blocks;
    if (conv.packed_blocks != all || conv.packed_bytes != bytes)
      throw std::invalid_argument("packed does not fit the channels, kernel size and groups");
  }

  Finish finish() const {
    const Conv& c = conv;
    Finish f{};
    f.scale = c.scale;
    f.bias = c.bias;
    f.x_zero = x_zero;
    f.y_zero = c.y_zero;
    f.bytes = !c.float_output;
    f.relu = c.relu;
    f.low = static_cast<float>((c.signed_output ? -128 : 0) - c.y_zero);
    f.high = static_cast<float>((c.signed_output ? 127 : 255) - c.y_zero);
    if (c.relu) f.low = std::max(f.low, 0.0f);
    return f;
  }
};

// One image on its way through the operator.
struct Pass {
  const Plan& plan;
  const Operations& ops;
  std::int64_t image;
  const std::uint8_t* bytes;  // with its border
  const float* row_scale;     // dynamic quantization's, or nullptr
};

template <typename T>
const T* source(const Pass& pass, std::int64_t row) {
  const Conv& c = pass.plan.conv;
  return static_cast<const T*>(c.x) + pass.image * c.x_image_step + row * c.x_row_step;
}

// `count` values from x[0] to bytes.
void convert(const Pass& pass, const void* x, std::int64_t count, float inverse,
             std::uint8_t* out) {
  switch (pass.plan.conv.input) {
    case Input::uint8:
      std::memcpy(out, x, static_cast<std::size_t>(count));
      return;
    case Input::int8:
      return pass.ops.flip(static_cast<const std::uint8_t*>(x), count, out);
    case Input::float32:
      return pass.ops.quantize(static_cast<const float*>(x), count, inverse, pass.plan.x_zero, out);
  }
}

// inverses: dynamic quantization's, one per pixel of a matrix or one per image; else nullptr.
void copy_pixels(const Pass& pass, std::int64_t row, std::int64_t first, std::int64_t count,
                 const float* inverses, std::uint8_t* out) {
  const Conv& c = pass.plan.conv;
  const std::int64_t size = c.input == Input::float32 ? 4 : 1;
  const char* x = static_cast<const char*>(c.x) +
                  size * (pass.image * c.x_image_step + row * c.x_row_step + first * c.x_column_step);
  const bool each = inverses && c.matrix;
  const float inverse = inverses ? *inverses : c.x_inverse;
  if (c.x_column_step == c.channels && !each)
    return convert(pass, x, count * c.channels, inverse, out);
  for (std::int64_t i = 0; i < count; ++i, x += size * c.x_column_step, out += c.channels)
    convert(pass, x, c.channels, each ? inverses[first + i] : inverse, out);
}

// Row `row` of the image with its border (of all planes together).
void fill_row(const Pass& pass, std::int64_t row, const float* inverses, std::uint8_t* image) {
  const Plan& plan = pass.plan;
  const Conv& c = plan.conv;
  const std::int64_t plane = row / plan.plane_rows, line = row % plan.plane_rows;
  const std::int64_t y = (c.out.y == 1 ? line : line * plan.planes + plane) - c.padding.y;
  std::uint8_t* out = image + row * plan.row_bytes;
  const std::int64_t columns = plan.row_bytes / c.channels;
  const std::int64_t left = std::min(c.padding.x, columns);
  const bool inside = 0 <= y && y < c.in.y;
  const std::int64_t valid = inside ? std::clamp<std::int64_t>(columns - left, 0, c.in.x) : 0;
  const std::int64_t right = columns - left - valid;
  std::memset(out, plan.x_zero, static_cast<std::size_t>(left * c.channels));
  if (valid > 0) copy_pixels(pass, y, 0, valid, inverses, out + left * c.channels);
  std::memset(out + (left + valid) * c.channels, plan.x_zero,
              static_cast<std::size_t>(right * c.channels));
}

// Runs body(first, last) over [0, count) in pieces of whole `unit`s.
template <typename Body>
void split(std::int64_t count, std::int64_t unit, int threads, const Body& body) {
  if (threads <= 1) return body(std::int64_t{0}, count);
  const std::int64_t units = ceil_div(count, unit);
  const std::int64_t step = ceil_div(units, std::min<std::int64_t>(4 * threads, units)) * unit;
  parallel_for(static_cast<std::size_t>(ceil_div(count, step)), threads, [&](std::size_t piece) {
    const std::int64_t first = static_cast<std::int64_t>(piece) * step;
    body(first, std::min(first + step, count));
  });
}

// Scales of dynamic quantization: largest |x| is 127 steps. scales and inverses have one entry per
// pixel of a matrix, else one.
void find_scales(const Pass& pass, int threads, float* scales, float* inverses) {
  const Conv& c = pass.plan.conv;
  const auto set = [](float largest, float& scale, float& inverse) {
    scale = largest / 127.0f;
    inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
  };
  if (!c.matrix) {
    float largest = 0.0f;
    for (std::int64_t y = 0; y < c.in.y; ++y)
      for (std::int64_t x = 0; x < c.in.x; ++x)
        largest = std::max(largest, pass.ops.largest(source<float>(pass, y) + x * c.x_column_step,
                                                     c.channels));
    return set(largest, *scales, *inverses);
  }
  split(c.in.x, 1, threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t x = first; x < last; ++x)
      set(pass.ops.largest(source<float>(pass, 0) + x * c.x_column_step, c.channels), scales[x],
          inverses[x]);
  });
}

void multiply_group(const Pass& pass, std::int64_t group, int threads) {
  const Plan& plan = pass.plan;
  const Conv& c = plan.conv;
  const std::int64_t stored = pass.image * c.out.y * c.out.x * c.outputs;
  const std::int64_t first_output = group * plan.group_outputs;
  Product p{};
  p.image = pass.bytes + group * plan.group_channels;
  p.x_step = c.stride.x * c.channels;
  p.width = c.out.x;
  p.pitch = plan.pitch;
  p.positions = plan.positions;
  p.offsets = plan.offsets.data();
  p.quads = plan.quads.data();
  p.steps = static_cast<int>(plan.offsets.size());
  p.weight = c.packed + group * plan.blocks * p.block_bytes();
  p.columns = plan.group_outputs;
  p.finish = plan.finish();
  p.finish.scale += first_output;
  if (p.finish.bias) p.finish.bias += first_output;
  p.finish.row_scale = pass.row_scale;
  p.finish.row_scale_step = c.matrix;
  const std::int64_t size = c.float_output ? 4 : 1;
  p.y = static_cast<char*>(c.y) + size * (stored + first_output);
  p.y_step = c.outputs;
  // By positions all threads read all weights, by blocks all of the image: what is small twice.
  const bool light = plan.blocks * p.block_bytes() <= kOwnCache;
  if (light && p.positions >= kUnit * threads)
    return split(p.positions, kUnit, threads, [&](std::int64_t first, std::int64_t last) {
      pass.ops.multiply(p, first, last, 0, plan.blocks);
    });
  split(plan.blocks, ceil_div(plan.blocks, 2 * threads), threads,
        [&](std::int64_t first, std::int64_t last) {
          pass.ops.multiply(p, 0, p.positions, first, last);
        });
}

void multiply_depthwise(const Pass& pass, int threads) {
  const Plan& plan = pass.plan;
  const Conv& c = plan.conv;
  Depthwise t{};
  t.image = pass.bytes;
  t.x_step = c.stride.x * c.channels;
  t.row_step = plan.pitch * t.x_step;
  t.width = c.out.x;
  t.offsets = plan.offsets.data();
  t.taps = static_cast<int>(plan.offsets.size());
  t.weight = c.packed;
  t.channels = c.channels;
  t.finish = plan.finish();
  t.finish.row_scale = pass.row_scale;
  t.y = static_cast<char*>(c.y) +
        (c.float_output ? 4 : 1) * pass.image * c.out.y * c.out.x * c.outputs;
  t.y_step = c.outputs;
  split(c.out.y, 1, threads,
        [&](std::int64_t first, std::int64_t last) { pass.ops.depthwise(t, first, last); });
}

void run_image(const Plan& plan, const Operations& ops, std::int64_t image, int threads) {
  const Conv& c = plan.conv;
  Pass pass{plan, ops, image, nullptr, nullptr};
  const float* inverses = nullptr;
  if (plan.is_dynamic()) {
    const std::int64_t count = c.matrix ? c.in.x : 1;
    auto* scales = workspace<float>(Slot::sums, 2 * count);
    find_scales(pass, threads, scales, scales + count);
    pass.row_scale = scales;
    inverses = scales + count;
  }
  if (plan.in_place) {
    pass.bytes = source<std::uint8_t>(pass, 0);
  } else {
    auto* bytes = workspace<std::uint8_t>(Slot::activations, plan.image_bytes());
    if (plan.planes * plan.plane_rows == 1 && c.padding.x == 0 && c.padding.y == 0)
      split(c.in.x, 1, threads, [&](std::int64_t first, std::int64_t last) {
        copy_pixels(pass, 0, first, last - first, inverses, bytes + first * c.channels);
      });
    else
      split(plan.planes * plan.plane_rows, 1, threads, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t row = first; row < last; ++row) fill_row(pass, row, inverses, bytes);
      });
    pass.bytes = bytes;
  }
  if (plan.depthwise) return multiply_depthwise(pass, threads);
  for (std::int64_t group = 0; group < c.groups; ++group) multiply_group(pass, group, threads);
}

// Threads worth waking: the hand-over has to be paid for by products, or by weights to be read.
int useful_threads(const Plan& plan, const Operations& ops) {
  const Conv& c = plan.conv;
  const double products = static_cast<double>(c.images) * plan.positions * c.outputs *
                          static_cast<double>(plan.offsets.size()) * (plan.depthwise ? 1 : kStep);
  const double rate = plan.depthwise ? ops.depthwise_task : ops.multiply_task;
  const double weights = static_cast<double>(c.packed_blocks) * c.packed_bytes / (2 << 20);
  return static_cast<int>(
      std::clamp(std::max(products / rate, weights), 1.0, static_cast<double>(c.threads)));
}

}  // namespace

bool use_avx_vnni(bool wanted) {
  avx_vnni() = wanted && has_avx_vnni();
  return avx_vnni();
}

void int8_conv2d(const Conv& conv) {
  if (conv.images == 0 || conv.out.y <= 0 || conv.out.x <= 0 || conv.outputs == 0) return;
  const Plan plan(conv);
  const Operations& ops = operations();
  const int threads = useful_threads(plan, ops);
  const std::int64_t images = plan.conv.images;
  if (images >= 2 * threads && threads > 1)
    return parallel_for(static_cast<std::size_t>(images), threads, [&](std::size_t image) {
      run_image(plan, ops, static_cast<std::int64_t>(image), 1);
    });
  for (std::int64_t image = 0; image < images; ++image) run_image(plan, ops, image, threads);
}

void quantize(const float* x, std::int64_t count, float inverse, int zero, std::uint8_t* out,
              int threads) {
  const Operations& ops = operations();
  split(count, 4096, count < 65536 ? 1 : threads, [&](std::int64_t first, std::int64_t last) {
    ops.quantize(x + first, last - first, inverse, zero, out + first);
  });
}

}  // namespace compactnets::int8
