// Activations to padded images of unsigned codes, then tasks of some pixels each.
#include "nm/sparse.hpp"

#include <algorithm>
#include <cstring>

#include "common/isa.hpp"
#include "common/quantize.hpp"
#include "common/team.hpp"
#include "common/workspace.hpp"

namespace compactnets::nm {
namespace {

Multiply multiply() {
  return pick<Multiply>(COMPACTNETS_AMX(amx_multiply), COMPACTNETS_AVX512(avx512_multiply),
                        COMPACTNETS_AVX2(avx2_multiply), portable_multiply);
}

std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

constexpr int kTilePixels = 32;  // the least that a task should have
constexpr std::uint8_t kMiddle = 128;  // the code of 0 for what was signed

struct Plan {
  const Conv& c;
  std::int64_t pixel;           // bytes: channels padded to whole chunks
  Size2 padded;                 // of an image
  std::int64_t image;           // bytes
  int chunks, zero;
  std::uint8_t* codes;
  float* x_scale;               // of every image
  std::int32_t *excess, *offsets;

  explicit Plan(const Conv& conv)
      : c(conv),
        pixel(round_up(conv.channels, kChunk)),
        padded{conv.in.y + 2 * conv.padding.y, conv.in.x + 2 * conv.padding.x},
        image(padded.y * padded.x * pixel),
        chunks(static_cast<int>(conv.kernel.y * conv.kernel.x * (pixel / kChunk))),
        zero(conv.kind == Kind::unsigned_codes ? conv.zero : kMiddle) {
    const bool in_place = conv.kind == Kind::unsigned_codes &&
                          image == conv.in.y * conv.in.x * conv.channels;
    const std::int64_t bytes = in_place ? 0 : conv.images * image;
    codes = workspace<std::uint8_t>(Slot::activations,
                                    bytes + 4 * (conv.images + conv.outputs + chunks));
    x_scale = reinterpret_cast<float*>(codes + bytes);
    excess = reinterpret_cast<std::int32_t*>(x_scale + conv.images);
    offsets = excess + conv.outputs;
    if (in_place) codes = nullptr;
    for (std::int64_t o = 0; o < conv.outputs; ++o) excess[o] = zero * conv.weight_sums[o];
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const std::int64_t of_tap = pixel / kChunk, tap = chunk / of_tap;
      offsets[chunk] = static_cast<std::int32_t>(
          (tap / conv.kernel.x * padded.x + tap % conv.kernel.x) * pixel + chunk % of_tap * kChunk);
    }
  }

  const std::uint8_t* image_codes(std::int64_t index) const {
    return codes ? codes + index * image : static_cast<const std::uint8_t*>(c.x) + index * image;
  }
};

// Signed codes to unsigned ones.
void shift(std::uint8_t* codes, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) codes[i] ^= kMiddle;
}

// One image's codes, without padding, from floats: one run of bytes, in this thread's scratch.
const std::uint8_t* quantize_image(const Conv& c, const float* x, float* x_scale) {
  const std::int64_t count = c.in.y * c.in.x * c.channels;
  auto* dense = workspace<std::uint8_t>(Slot::sums, count);
  quantize_row()(x, count, count, reinterpret_cast<std::int8_t*>(dense), x_scale);
  return dense;
}

// One image, border and padded channels included. The padded channels' codes meet weights of 0.
void fill_image(const Plan& plan, std::int64_t index) {
  const Conv& c = plan.c;
  const std::int64_t count = c.in.y * c.in.x * c.channels;
  plan.x_scale[index] = c.x_scales ? c.x_scales[index] : c.x_scale;
  if (!plan.codes) return;
  std::uint8_t* to = plan.codes + index * plan.image;
  if (c.kind == Kind::floats && plan.padded.y == 1 && plan.padded.x == 1) {  // a row: in one go
    quantize_row()(static_cast<const float*>(c.x) + index * count, count, plan.pixel,
                   reinterpret_cast<std::int8_t*>(to), plan.x_scale + index);
    return shift(to, plan.pixel);
  }
  const std::uint8_t* from = static_cast<const std::uint8_t*>(c.x) + index * count;
  if (c.kind == Kind::floats)
    from = quantize_image(c, static_cast<const float*>(c.x) + index * count, plan.x_scale + index);
  const bool plain = plan.image == count;  // no padding of any kind
  if (plain) {
    std::memcpy(to, from, static_cast<std::size_t>(count));
  } else {
    const int zero = c.kind == Kind::unsigned_codes ? plan.zero : 0;
    std::memset(to, zero, static_cast<std::size_t>(plan.image));
    for (std::int64_t y = 0; y < c.in.y; ++y)
      for (std::int64_t x = 0; x < c.in.x; ++x, from += c.channels)
        std::memcpy(to + ((y + c.padding.y) * plan.padded.x + x + c.padding.x) * plan.pixel, from,
                    static_cast<std::size_t>(c.channels));
  }
  if (c.kind != Kind::unsigned_codes) shift(to, plan.image);
}

// Threads worth waking: about half a million products with weights each pay for the hand-over.
int useful_threads(const Plan& plan) {
  const Conv& c = plan.c;
  const double products = static_cast<double>(c.images * c.out.y * c.out.x) *
                          static_cast<double>(c.outputs) * plan.chunks * plan.c.quads * 4;
  return static_cast<int>(std::clamp(products / 5e5, 1.0, static_cast<double>(c.threads)));
}

// Rows of output pixels, or, where a row is a pixel (a linear layer) or they follow one another
// without a gap, runs of pixels of all of them.
struct Runs {
  std::int64_t count, pixels;   // pixels of a run
  bool images_too;              // a run crosses images

  explicit Runs(const Plan& plan) {
    const Conv& c = plan.c;
    const bool gapless = c.out.x == 1 ? c.out.y == 1 : c.stride.x == 1 && c.stride.y == 1;
    const bool pointwise = c.kernel.y == 1 && c.kernel.x == 1 && c.padding.y == 0 &&
                           c.padding.x == 0 && c.stride.y == 1 && c.stride.x == 1;
    images_too = pointwise && gapless && c.in.y * c.in.x == 1;
    const std::int64_t all = c.images * c.out.y * c.out.x;
    pixels = images_too ? all : pointwise ? c.out.y * c.out.x : c.out.x;
    count = all / pixels;
  }
};

}  // namespace

void conv(const Conv& c) {
  if (c.images == 0 || c.outputs == 0 || c.out.y <= 0 || c.out.x <= 0) return;
  const Plan plan(c);
  const int threads = useful_threads(plan);
  parallel_for(c.images, threads, [&](std::size_t index) { fill_image(plan, index); });

  const Runs runs(plan);
  const std::int64_t wanted = threads == 1 ? 1 : std::max<std::int64_t>(1, 4 * threads / runs.count);
  const std::int64_t piece =
      std::min(runs.pixels, round_up((runs.pixels + wanted - 1) / wanted, kTilePixels));
  const std::int64_t pieces = (runs.pixels + piece - 1) / piece;
  const Multiply run = multiply();
  parallel_for(runs.count * pieces, threads, [&](std::size_t index) {
    const std::int64_t which = static_cast<std::int64_t>(index) / pieces;
    const std::int64_t first = static_cast<std::int64_t>(index) % pieces * piece;
    const std::int64_t output = which * runs.pixels;  // pixel of y
    const std::int64_t per_image = c.out.y * c.out.x;
    const std::int64_t image = output / per_image, row = output % per_image / c.out.x;
    Task task{};
    task.pixel_step = plan.pixel * c.stride.x;
    task.x = plan.image_codes(image) + row * c.stride.y * plan.padded.x * plan.pixel +
             first * task.pixel_step;
    task.offsets = plan.offsets;
    task.chunks = plan.chunks;
    task.quads = c.quads;
    task.pixels = std::min(piece, runs.pixels - first);
    task.weight = c.weight;
    task.tiles = c.tiles;
    task.outputs = c.outputs;
    task.scale = c.scale;
    task.excess = plan.excess;
    task.bias = c.bias;
    task.x_scale_step = runs.images_too ? 1 : 0;
    task.x_scale = plan.x_scale + image + first * task.x_scale_step;
    task.out_step = c.outputs;
    task.out = c.y + (output + first) * c.outputs;
    run(task);
  });
}

}  // namespace compactnets::nm
