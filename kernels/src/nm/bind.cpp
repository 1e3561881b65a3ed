// The Python face of the N:M sparse int8 products.
#include <limits>

#include "common/bind.hpp"
#include "nm/sparse.hpp"

namespace compactnets {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu, nb::c_contig>;
using Signed = nb::ndarray<const std::int8_t, nb::ndim<4>, nb::device::cpu, nb::c_contig>;
using Unsigned = nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::device::cpu, nb::c_contig>;
using Packed = nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::device::cpu, nb::c_contig>;
using Tiles = nb::ndarray<const std::int8_t, nb::ndim<3>, nb::device::cpu, nb::c_contig>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Sums = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Result = nb::ndarray<float, nb::ndim<4>, nb::device::cpu, nb::c_contig>;
using Pair = std::array<std::int64_t, 2>;

std::int64_t output_size(std::int64_t in, std::int64_t kernel, std::int64_t stride,
                         std::int64_t padding) {
  const std::int64_t room = in + 2 * padding - kernel;
  return room < 0 ? 0 : room / stride + 1;
}

// x and y are (images, height, width, channels). Indices need no check: every path takes 6 bits.
template <typename Input>
void nm_conv2d(nm::Kind kind, const Input& x, const std::optional<Vector>& x_scale, int zero,
               const Packed& packed, const Vector& scale, const Sums& weight_sums,
               const std::optional<Vector>& bias, const std::optional<Tiles>& tiles,
               const Result& y, const Pair& kernel, const Pair& stride, const Pair& padding,
               int threads) {
  const auto size = [](std::size_t value) { return static_cast<std::int64_t>(value); };
  for (int axis = 0; axis < 2; ++axis)
    require(kernel[axis] > 0 && stride[axis] > 0 && padding[axis] >= 0,
            "kernel and stride must be positive, padding not negative");
  nm::Conv conv{};
  conv.kind = kind;
  conv.x = x.data();
  conv.images = size(x.shape(0));
  conv.in = {size(x.shape(1)), size(x.shape(2))};
  conv.channels = size(x.shape(3));
  conv.kernel = {kernel[0], kernel[1]};
  conv.stride = {stride[0], stride[1]};
  conv.padding = {padding[0], padding[1]};
  conv.out = {output_size(conv.in.y, kernel[0], stride[0], padding[0]),
              output_size(conv.in.x, kernel[1], stride[1], padding[1])};
  conv.outputs = size(scale.shape(0));
  require(conv.channels > 0, "x must have channels");
  const std::int64_t of_tap = (conv.channels + nm::kChunk - 1) / nm::kChunk;
  conv.quads = static_cast<int>(packed.shape(2));
  require(size(packed.shape(0)) == (conv.outputs + nm::kLanes - 1) / nm::kLanes &&
              size(packed.shape(1)) == kernel[0] * kernel[1] * of_tap &&
              packed.shape(3) == nm::kQuadBytes,
          "packed does not fit the channels, outputs and kernel size");
  require(size(weight_sums.shape(0)) == conv.outputs, "weight_sums must have one value per output");
  require(!bias || size(bias->shape(0)) == conv.outputs, "bias must have one value per output");
  require(size(y.shape(0)) == conv.images && size(y.shape(1)) == conv.out.y &&
              size(y.shape(2)) == conv.out.x && size(y.shape(3)) == conv.outputs,
          "y has the wrong shape");
  require(!tiles || (2 * tiles->shape(0) == packed.shape(0) + packed.shape(0) % 2 &&
                     tiles->shape(1) == packed.shape(1) &&
                     tiles->shape(2) == nm::kTilePairBytes),
          "tiles do not fit the channels, outputs and kernel size");
  require(x_scale.has_value() == (kind != nm::Kind::floats), "x_scale goes with codes only");
  if (x_scale) {
    require(x_scale->shape(0) == 1 || x_scale->shape(0) == x.shape(0),
            "x_scale must have one value, or one per image");
    if (x_scale->shape(0) == 1)
      conv.x_scale = *x_scale->data();
    else
      conv.x_scales = x_scale->data();
  }
  require(0 <= zero && zero <= 255, "zero must be 0 .. 255");
  // Offsets within a padded image are 32-bit.
  const double bytes = static_cast<double>(conv.in.y + 2 * padding[0]) *
                       static_cast<double>(conv.in.x + 2 * padding[1]) *
                       static_cast<double>(of_tap * nm::kChunk);
  require(bytes < std::numeric_limits<std::int32_t>::max(), "x has too large an image");
  conv.zero = zero;
  conv.weight = packed.data();
  conv.tiles = tiles ? reinterpret_cast<const std::uint8_t*>(tiles->data()) : nullptr;
  conv.scale = scale.data();
  conv.weight_sums = weight_sums.data();
  conv.bias = bias ? bias->data() : nullptr;
  conv.y = y.data();
  conv.threads = threads;
  nb::gil_scoped_release unlocked;
  nm::conv(conv);
}

template <typename Input, nm::Kind kind>
void define(nb::module_& module, const char* name) {
  module.def(
      name,
      [](const Input& x, const std::optional<Vector>& x_scale, int zero, const Packed& packed,
         const Vector& scale, const Sums& weight_sums, const std::optional<Vector>& bias,
         const std::optional<Tiles>& tiles, const Result& y, const Pair& kernel,
         const Pair& stride, const Pair& padding, int threads) {
        nm_conv2d(kind, x, x_scale, zero, packed, scale, weight_sums, bias, tiles, y, kernel,
                  stride, padding, threads);
      },
      nb::arg("x"), nb::arg("x_scale").none(), nb::arg("zero"), nb::arg("packed"),
      nb::arg("scale"), nb::arg("weight_sums"), nb::arg("bias").none(),
      nb::arg("tiles").none(), nb::arg("y"), nb::arg("kernel"), nb::arg("stride"),
      nb::arg("padding"), nb::arg("threads"));
}

}  // namespace

void bind_nm(nb::module_& module) {
  define<Floats, nm::Kind::floats>(module, "nm_conv2d_float32");
  define<Signed, nm::Kind::signed_codes>(module, "nm_conv2d_int8");
  define<Unsigned, nm::Kind::unsigned_codes>(module, "nm_conv2d_uint8");
}

}  // namespace compactnets
