// The Python face of the 1-bit convolution.
#include <limits>

#include "binary/conv.hpp"
#include "common/bind.hpp"

namespace compactnets {
namespace {

using Image = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu>;
using ImageOut = nb::ndarray<float, nb::ndim<4>, nb::device::cpu>;
using Channels = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Packed = nb::ndarray<const std::int32_t, nb::ndim<3>, nb::device::cpu, nb::c_contig>;
using Pair = std::array<std::int64_t, 2>;

binary::Size2 size2(const Pair& pair) { return {pair[0], pair[1]}; }

const float* channel_data(const std::optional<Channels>& values, std::size_t channels,
                          const char* message) {
  if (!values) return nullptr;
  require(values->shape(0) == channels, message);
  return values->data();
}

std::int64_t output_size(std::int64_t in, std::int64_t kernel, std::int64_t stride,
                         std::int64_t padding, std::int64_t dilation) {
  const std::int64_t room = in + 2 * padding - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

void binary_conv2d(const Image& x, const Packed& packed, const Channels& scale,
                   const std::optional<Channels>& bias, const std::optional<Channels>& input_shift,
                   const ImageOut& y, const Pair& kernel, const Pair& stride, const Pair& padding,
                   const Pair& dilation, std::int64_t groups, int threads) {
  const auto channels = static_cast<std::int64_t>(x.shape(1));
  const auto outputs = static_cast<std::int64_t>(scale.shape(0));
  require(groups > 0 && channels > 0 && channels % groups == 0 && outputs % groups == 0,
          "groups must divide the channels of x and scale");
  for (int axis = 0; axis < 2; ++axis)
    require(kernel[axis] > 0 && stride[axis] > 0 && padding[axis] >= 0 && dilation[axis] > 0,
            "kernel, stride and dilation must be positive, padding not negative");
  binary::Conv conv{};
  conv.layout = {static_cast<int>(groups), static_cast<int>(channels / groups),
                 static_cast<int>((channels / groups + binary::kWordBits - 1) / binary::kWordBits)};
  conv.group_outputs = outputs / groups;
  conv.images = static_cast<std::int64_t>(x.shape(0));
  conv.in = {static_cast<std::int64_t>(x.shape(2)), static_cast<std::int64_t>(x.shape(3))};
  conv.kernel = size2(kernel);
  conv.stride = size2(stride);
  conv.padding = size2(padding);
  conv.dilation = size2(dilation);
  conv.out = {output_size(conv.in.y, kernel[0], stride[0], padding[0], dilation[0]),
              output_size(conv.in.x, kernel[1], stride[1], padding[1], dilation[1])};

  const std::int64_t blocks = groups * ((conv.group_outputs + binary::kLanes - 1) / binary::kLanes);
  const std::int64_t steps = kernel[0] * kernel[1] * (conv.layout.words + 1);
  require(static_cast<std::int64_t>(packed.shape(0)) == blocks &&
              static_cast<std::int64_t>(packed.shape(1)) == steps &&
              packed.shape(2) == binary::kLanes,
          "packed does not fit the channels, kernel size and groups");
  require(y.shape(0) == x.shape(0) && static_cast<std::int64_t>(y.shape(1)) == outputs &&
              static_cast<std::int64_t>(y.shape(2)) == conv.out.y &&
              static_cast<std::int64_t>(y.shape(3)) == conv.out.x,
          "y has the wrong shape");
  conv.bias = channel_data(bias, outputs, "bias must have one value per output channel");
  conv.input_shift = channel_data(input_shift, channels, "input_shift must have one value per channel");
  if (y.size() == 0) return;
  require(channels == 1 || x.stride(1) == 1, "x must be channels_last");
  require((outputs == 1 || y.stride(1) == 1) && (conv.out.x == 1 || y.stride(3) == outputs) &&
              (conv.out.y == 1 || y.stride(2) == outputs * conv.out.x) &&
              (conv.images == 1 || y.stride(0) == outputs * conv.out.x * conv.out.y),
          "y must be channels_last and dense");
  // Offsets within a packed image are 32-bit.
  const double words = static_cast<double>(conv.in.y + 2 * padding[0]) *
                       static_cast<double>(conv.in.x + 2 * padding[1]) *
                       static_cast<double>(groups * conv.layout.words);
  require(words < std::numeric_limits<std::int32_t>::max(), "x has too large an image");

  conv.x = x.data();
  conv.x_image_step = x.stride(0);
  conv.x_row_step = x.stride(2);
  conv.x_column_step = x.stride(3);
  conv.weight = reinterpret_cast<const std::uint32_t*>(packed.data());
  conv.scale = scale.data();
  conv.y = y.data();
  conv.threads = threads;
  nb::gil_scoped_release unlocked;
  binary::binary_conv2d(conv);
}

}  // namespace

void bind_binary(nb::module_& module) {
  module.def("binary_conv2d", &binary_conv2d, nb::arg("x"), nb::arg("packed"), nb::arg("scale"),
             nb::arg("bias").none(), nb::arg("input_shift").none(), nb::arg("y"), nb::arg("kernel"),
             nb::arg("stride"), nb::arg("padding"), nb::arg("dilation"), nb::arg("groups"),
             nb::arg("threads"));
}

}  // namespace compactnets
