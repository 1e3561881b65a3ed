// The Python face of the int8 products.
#include "common/bind.hpp"
#include "int8/product.hpp"

namespace compactnets {
namespace {

using Image = nb::ndarray<nb::ro, nb::ndim<4>, nb::device::cpu>;
using ImageOut = nb::ndarray<nb::ndim<4>, nb::device::cpu>;
using Matrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using MatrixOut = nb::ndarray<nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Packed = nb::ndarray<const std::int8_t, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Channels = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Values = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Pair = std::array<std::int64_t, 2>;

int8::Size2 size2(const Pair& pair) { return {pair[0], pair[1]}; }

std::int64_t output_size(std::int64_t in, std::int64_t kernel, std::int64_t stride,
                         std::int64_t padding, std::int64_t dilation) {
  const std::int64_t room = in + 2 * padding - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

int8::Input input_type(nb::dlpack::dtype type) {
  if (type == nb::dtype<std::uint8_t>()) return int8::Input::uint8;
  if (type == nb::dtype<std::int8_t>()) return int8::Input::int8;
  require(type == nb::dtype<float>(), "x must be uint8, int8 or float32");
  return int8::Input::float32;
}

// What convolutions and matrix products have alike.
void fill(int8::Conv& conv, nb::dlpack::dtype x, nb::dlpack::dtype y, const Packed& packed,
          const Channels& scale, const std::optional<Channels>& bias, int x_zero, float x_inverse,
          bool relu, int y_zero, int threads) {
  conv.input = input_type(x);
  conv.outputs = static_cast<std::int64_t>(scale.shape(0));
  conv.packed = packed.data();
  conv.packed_blocks = static_cast<std::int64_t>(packed.shape(0));
  conv.packed_bytes = static_cast<std::int64_t>(packed.shape(1));
  conv.scale = scale.data();
  require(!bias || bias->shape(0) == scale.shape(0), "bias must have one value per output");
  conv.bias = bias ? bias->data() : nullptr;
  conv.float_output = y == nb::dtype<float>();
  conv.signed_output = y == nb::dtype<std::int8_t>();
  require(conv.float_output || conv.signed_output || y == nb::dtype<std::uint8_t>(),
          "y must be uint8, int8 or float32");
  const int x_low = conv.input == int8::Input::int8 ? -128 : 0;
  const int y_low = conv.signed_output ? -128 : 0;
  require(x_low <= x_zero && x_zero <= x_low + 255, "x_zero is out of range");
  require(conv.float_output || (y_low <= y_zero && y_zero <= y_low + 255),
          "y_zero is out of range");
  conv.x_zero = x_zero;
  conv.x_inverse = x_inverse;
  conv.relu = relu;
  conv.y_zero = y_zero;
  conv.threads = threads;
}

void int8_conv2d(const Image& x, const Packed& packed, const Channels& scale,
                 const std::optional<Channels>& bias, const ImageOut& y, const Pair& kernel,
                 const Pair& stride, const Pair& padding, const Pair& dilation, std::int64_t groups,
                 int x_zero, float x_inverse, bool relu, int y_zero, int threads) {
  int8::Conv conv{};
  fill(conv, x.dtype(), y.dtype(), packed, scale, bias, x_zero, x_inverse, relu, y_zero, threads);
  conv.channels = static_cast<std::int64_t>(x.shape(1));
  conv.groups = groups;
  require(groups > 0 && conv.channels > 0 && conv.channels % groups == 0 &&
              conv.outputs % groups == 0,
          "groups must divide the channels of x and scale");
  for (int axis = 0; axis < 2; ++axis)
    require(kernel[axis] > 0 && stride[axis] > 0 && padding[axis] >= 0 && dilation[axis] > 0,
            "kernel, stride and dilation must be positive, padding not negative");
  conv.images = static_cast<std::int64_t>(x.shape(0));
  conv.in = {static_cast<std::int64_t>(x.shape(2)), static_cast<std::int64_t>(x.shape(3))};
  conv.kernel = size2(kernel);
  conv.stride = size2(stride);
  conv.padding = size2(padding);
  conv.dilation = size2(dilation);
  conv.out = {output_size(conv.in.y, kernel[0], stride[0], padding[0], dilation[0]),
              output_size(conv.in.x, kernel[1], stride[1], padding[1], dilation[1])};
  const std::int64_t outputs = conv.outputs;
  require(y.shape(0) == x.shape(0) && static_cast<std::int64_t>(y.shape(1)) == outputs &&
              static_cast<std::int64_t>(y.shape(2)) == conv.out.y &&
              static_cast<std::int64_t>(y.shape(3)) == conv.out.x,
          "y has the wrong shape");
  if (y.size() == 0) return;
  require(conv.channels == 1 || x.stride(1) == 1, "x must be channels_last");
  require((outputs == 1 || y.stride(1) == 1) && (conv.out.x == 1 || y.stride(3) == outputs) &&
              (conv.out.y == 1 || y.stride(2) == outputs * conv.out.x) &&
              (conv.images == 1 || y.stride(0) == outputs * conv.out.x * conv.out.y),
          "y must be channels_last and dense");
  conv.x = x.data();
  // Strides of sizes that are 1 say nothing: the dense ones are put in their place.
  conv.x_column_step = conv.in.x == 1 ? conv.channels : x.stride(3);
  conv.x_row_step = conv.in.y == 1 ? conv.in.x * conv.x_column_step : x.stride(2);
  conv.x_image_step = conv.images == 1 ? conv.in.y * conv.x_row_step : x.stride(0);
  conv.y = y.data();
  nb::gil_scoped_release unlocked;
  int8::int8_conv2d(conv);
}

void int8_linear(const Matrix& x, const Packed& packed, const Channels& scale,
                 const std::optional<Channels>& bias, const MatrixOut& y, int x_zero,
                 float x_inverse, bool relu, int y_zero, int threads) {
  int8::Conv conv{};
  fill(conv, x.dtype(), y.dtype(), packed, scale, bias, x_zero, x_inverse, relu, y_zero, threads);
  const auto rows = static_cast<std::int64_t>(x.shape(0));
  require(y.shape(0) == x.shape(0) && y.shape(1) == scale.shape(0), "y has the wrong shape");
  if (y.size() == 0) return;
  conv.channels = static_cast<std::int64_t>(x.shape(1));
  require(conv.channels > 0, "x has no columns");
  conv.groups = 1;
  conv.images = 1;
  conv.in = conv.out = {1, rows};
  conv.kernel = conv.stride = conv.dilation = {1, 1};
  conv.padding = {0, 0};
  conv.x = x.data();
  conv.x_column_step = conv.channels;
  conv.x_row_step = conv.x_image_step = rows * conv.channels;
  conv.y = y.data();
  conv.matrix = true;
  nb::gil_scoped_release unlocked;
  int8::int8_conv2d(conv);
}

void int8_quantize(const Values& x, const Bytes& y, float inverse, int zero, int threads) {
  require(x.size() == y.size(), "y has the wrong shape");
  require(0 <= zero && zero <= 255, "zero is out of range");
  nb::gil_scoped_release unlocked;
  int8::quantize(x.data(), static_cast<std::int64_t>(x.size()), inverse, zero, y.data(), threads);
}

}  // namespace

void bind_int8(nb::module_& module) {
  module.def("int8_conv2d", &int8_conv2d, nb::arg("x"), nb::arg("packed"), nb::arg("scale"),
             nb::arg("bias").none(), nb::arg("y"), nb::arg("kernel"), nb::arg("stride"),
             nb::arg("padding"), nb::arg("dilation"), nb::arg("groups"), nb::arg("x_zero"),
             nb::arg("x_inverse"), nb::arg("relu"), nb::arg("y_zero"), nb::arg("threads"));
  module.def("int8_linear", &int8_linear, nb::arg("x"), nb::arg("packed"), nb::arg("scale"),
             nb::arg("bias").none(), nb::arg("y"), nb::arg("x_zero"), nb::arg("x_inverse"),
             nb::arg("relu"), nb::arg("y_zero"), nb::arg("threads"));
  module.def("int8_use_avx_vnni", &int8::use_avx_vnni, nb::arg("wanted"));
  module.def("int8_quantize", &int8_quantize, nb::arg("x"), nb::arg("y"), nb::arg("inverse"),
             nb::arg("zero"), nb::arg("threads"));
}

}  // namespace compactnets
