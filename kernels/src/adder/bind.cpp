// The Python faces of the adder convolution.
#include <limits>

#include "adder/bytes.hpp"
#include "adder/floats.hpp"
#include "adder/gradient.hpp"
#include "common/bind.hpp"

namespace compactnets {
namespace {

using Codes = nb::ndarray<const std::uint8_t, nb::ndim<4>, nb::device::cpu>;
using PackedCodes = nb::ndarray<const std::uint8_t, nb::ndim<3>, nb::device::cpu, nb::c_contig>;
using Channels = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Pair = std::array<std::int64_t, 2>;

std::int64_t output_size(std::int64_t in, std::int64_t kernel, std::int64_t stride,
                         std::int64_t padding) {
  const std::int64_t room = in + 2 * padding - kernel;
  return room < 0 ? 0 : room / stride + 1;
}

const float* channel_data(const std::optional<Channels>& values, std::int64_t channels,
                          const char* message) {
  if (!values) return nullptr;
  require(static_cast<std::int64_t>(values->shape(0)) == channels, message);
  return values->data();
}

template <typename Array>
adder::Geometry geometry_of(const Array& x, std::int64_t outputs, const Pair& kernel,
                            const Pair& stride, const Pair& padding) {
  for (int axis = 0; axis < 2; ++axis)
    require(kernel[axis] > 0 && stride[axis] > 0 && padding[axis] >= 0,
            "kernel and stride must be positive, padding not negative");
  adder::Geometry g{};
  g.images = static_cast<std::int64_t>(x.shape(0));
  g.channels = static_cast<std::int64_t>(x.shape(1));
  g.outputs = outputs;
  g.in = {static_cast<std::int64_t>(x.shape(2)), static_cast<std::int64_t>(x.shape(3))};
  g.kernel = {kernel[0], kernel[1]};
  g.stride = {stride[0], stride[1]};
  g.padding = {padding[0], padding[1]};
  g.out = {output_size(g.in.y, kernel[0], stride[0], padding[0]),
           output_size(g.in.x, kernel[1], stride[1], padding[1])};
  require(g.channels > 0 && outputs > 0, "x and packed must have channels");
  // Offsets within a packed image are 32-bit.
  const double size = static_cast<double>(g.in.y + 2 * g.padding.y + g.kernel.y) *
                      static_cast<double>(g.in.x + 2 * g.padding.x + g.kernel.x + 64) *
                      static_cast<double>(g.channels + 8);
  require(size < std::numeric_limits<std::int32_t>::max(), "x has too large an image");
  return g;
}

template <typename Value, typename Array>
adder::Strided<Value> strided(const Array& x) {
  return {static_cast<const Value*>(x.data()), x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
}

template <typename Array>
void check_output(const Array& y, const adder::Geometry& g) {
  require(static_cast<std::int64_t>(y.shape(0)) == g.images &&
              static_cast<std::int64_t>(y.shape(1)) == g.outputs &&
              static_cast<std::int64_t>(y.shape(2)) == g.out.y &&
              static_cast<std::int64_t>(y.shape(3)) == g.out.x,
          "y has the wrong shape");
  if (y.size() == 0) return;
  require((g.outputs == 1 || y.stride(1) == 1) && (g.out.x == 1 || y.stride(3) == g.outputs) &&
              (g.out.y == 1 || y.stride(2) == g.outputs * g.out.x) &&
              (g.images == 1 || y.stride(0) == g.outputs * g.out.x * g.out.y),
          "y must be channels_last and dense");
}

template <typename Result>
void convolve_bytes(const Codes& x, const PackedCodes& packed,
                    const std::optional<Channels>& scale, const std::optional<Channels>& bias,
                    const nb::ndarray<Result, nb::ndim<4>, nb::device::cpu>& y, int flip, int padding_code,
                    const Pair& kernel, const Pair& stride, const Pair& padding, int threads) {
  adder::ByteConv conv{};
  conv.geometry = geometry_of(x, static_cast<std::int64_t>(y.shape(1)), kernel, stride, padding);
  const adder::Geometry& g = conv.geometry;
  const bool slides = adder::slides(g);
  const std::int64_t steps =
      slides ? g.channels * g.kernel.y * adder::ceil_div(g.kernel.x, adder::kQuad)
             : g.taps() * adder::ceil_div(g.channels, adder::kGroup);
  require(static_cast<std::int64_t>(packed.shape(0)) == adder::ceil_div(g.outputs, adder::kBlock) &&
              static_cast<std::int64_t>(packed.shape(1)) == steps &&
              packed.shape(2) == (slides ? adder::kSlideStep : adder::kPlainStep),
          "packed does not fit the channels and geometry");
  check_output(y, g);
  if (y.size() == 0) return;
  conv.x = strided<std::uint8_t>(x);
  conv.flip = static_cast<std::uint8_t>(flip);
  conv.padding = static_cast<std::uint8_t>(padding_code);
  conv.weight = packed.data();
  conv.scale = channel_data(scale, g.outputs, "scale must have one value per output channel");
  conv.bias = channel_data(bias, g.outputs, "bias must have one value per output channel");
  conv.y = y.data();
  conv.threads = threads;
  require((conv.scale != nullptr) == std::is_same_v<Result, float>, "y has the wrong type");
  nb::gil_scoped_release unlocked;
  adder::convolve_bytes(conv);
}

using Image = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu>;
using ImageOut = nb::ndarray<float, nb::ndim<4>, nb::device::cpu>;
using Packed = nb::ndarray<const float, nb::ndim<3>, nb::device::cpu, nb::c_contig>;

void convolve_floats(const Image& x, const Packed& packed, const std::optional<Channels>& scale,
                     const std::optional<Channels>& bias, const ImageOut& y, const Pair& kernel,
                     const Pair& stride, const Pair& padding, bool direct, int threads) {
  adder::FloatConv conv{};
  conv.geometry = geometry_of(x, static_cast<std::int64_t>(y.shape(1)), kernel, stride, padding);
  const adder::Geometry& g = conv.geometry;
  require(static_cast<std::int64_t>(packed.shape(0)) == adder::ceil_div(g.outputs, adder::kLanes) &&
              static_cast<std::int64_t>(packed.shape(1)) == g.taps() * g.channels + 1 &&
              packed.shape(2) == adder::kLanes,
          "packed does not fit the channels and geometry");
  check_output(y, g);
  if (y.size() == 0) return;
  conv.x = strided<float>(x);
  conv.weight = packed.data();
  conv.scale = channel_data(scale, g.outputs, "scale must have one value per output channel");
  conv.bias = channel_data(bias, g.outputs, "bias must have one value per output channel");
  conv.y = y.data();
  conv.direct = direct;
  conv.threads = threads;
  nb::gil_scoped_release unlocked;
  adder::convolve_floats(conv);
}

// What both gradients are given; `output` has x's shape and layout.
adder::Gradient gradient_of(const Image& x, const Image& grad, const Pair& kernel,
                            const Pair& stride, const Pair& padding) {
  adder::Gradient gradient{};
  gradient.geometry =
      geometry_of(x, static_cast<std::int64_t>(grad.shape(1)), kernel, stride, padding);
  check_output(grad, gradient.geometry);
  adder::Geometry like_x = gradient.geometry;
  like_x.outputs = like_x.channels;
  like_x.out = like_x.in;
  check_output(x, like_x);
  gradient.x = x.data();
  gradient.grad = strided<float>(grad);
  return gradient;
}

template <typename Array>
void check_filters(const Array& filters, const adder::Geometry& g) {
  require(static_cast<std::int64_t>(filters.shape(0)) ==
                  adder::ceil_div(g.channels, adder::kChannelLanes) &&
              static_cast<std::int64_t>(filters.shape(1)) == g.taps() * g.outputs &&
              filters.shape(2) == adder::kChannelLanes,
          "filters do not fit the channels and kernel");
}

void input_gradient(const Image& x, const Packed& filters, const Image& grad,
                    const ImageOut& result, const Pair& kernel, const Pair& stride,
                    const Pair& padding, bool sign, int threads) {
  adder::Gradient gradient = gradient_of(x, grad, kernel, stride, padding);
  check_filters(filters, gradient.geometry);
  adder::Geometry like_x = gradient.geometry;
  like_x.outputs = like_x.channels;
  like_x.out = like_x.in;
  check_output(result, like_x);
  gradient.weight = filters.data();
  gradient.result = result.data();
  gradient.sign = sign;
  gradient.threads = threads;
  nb::gil_scoped_release unlocked;
  adder::input_gradient(gradient);
}

void weight_sign_gradient(
    const Image& x, const Packed& filters, const Image& grad,
    const nb::ndarray<float, nb::ndim<3>, nb::device::cpu, nb::c_contig>& result,
    const Pair& kernel, const Pair& stride, const Pair& padding, int threads) {
  adder::Gradient gradient = gradient_of(x, grad, kernel, stride, padding);
  check_filters(filters, gradient.geometry);
  check_filters(result, gradient.geometry);
  require(grad.size() > 0, "grad must not be empty");
  gradient.weight = filters.data();
  gradient.result = result.data();
  gradient.threads = threads;
  nb::gil_scoped_release unlocked;
  adder::weight_sign_gradient(gradient);
}

}  // namespace

void bind_adder(nb::module_& module) {
  module.def("adder_floats", &convolve_floats, nb::arg("x"), nb::arg("packed"),
             nb::arg("scale").none(), nb::arg("bias").none(), nb::arg("y"), nb::arg("kernel"),
             nb::arg("stride"), nb::arg("padding"), nb::arg("direct"), nb::arg("threads"));
  module.def("adder_input_gradient", &input_gradient, nb::arg("x"), nb::arg("filters"),
             nb::arg("grad"), nb::arg("result"), nb::arg("kernel"), nb::arg("stride"),
             nb::arg("padding"), nb::arg("sign"), nb::arg("threads"));
  module.def("adder_weight_sign_gradient", &weight_sign_gradient, nb::arg("x"), nb::arg("filters"),
             nb::arg("grad"), nb::arg("result"), nb::arg("kernel"), nb::arg("stride"),
             nb::arg("padding"), nb::arg("threads"));
  module.def("adder_bytes_int", &convolve_bytes<std::int32_t>, nb::arg("x"), nb::arg("packed"),
             nb::arg("scale").none(), nb::arg("bias").none(), nb::arg("y"), nb::arg("flip"),
             nb::arg("padding_code"), nb::arg("kernel"), nb::arg("stride"), nb::arg("padding"),
             nb::arg("threads"));
  module.def("adder_bytes_float", &convolve_bytes<float>, nb::arg("x"), nb::arg("packed"),
             nb::arg("scale").none(), nb::arg("bias").none(), nb::arg("y"), nb::arg("flip"),
             nb::arg("padding_code"), nb::arg("kernel"), nb::arg("stride"), nb::arg("padding"),
             nb::arg("threads"));
}

}  // namespace compactnets
