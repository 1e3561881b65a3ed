// The Python face of the 1-bit convolution.
#include <limits>

#include "binary/conv.hpp"
#include "common/bind.hpp"

namespace compactnets {
namespace {

using Tensor4 = nb::ndarray<nb::ro, nb::ndim<4>, nb::device::cpu>;
using Tensor4Out = nb::ndarray<nb::ndim<4>, nb::device::cpu>;
using Rule = nb::ndarray<nb::ro, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
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

constexpr const char* kShiftFits = "input_shift must have one value per channel";

template <typename Array>
bool is_float(const Array& array, const char* message) {
  const bool floats = array.dtype() == nb::dtype<float>();
  require(floats || array.dtype() == nb::dtype<std::int32_t>(), message);
  return floats;
}

template <typename Array>
std::int64_t size(const Array& array, int axis) {
  return static_cast<std::int64_t>(array.shape(axis));
}

// Whether axes of these sizes lie in memory as dense rows of each other, the first axis outermost.
template <typename Array>
bool dense(const Array& array, const std::array<int, 4>& axes) {
  std::int64_t step = 1;
  for (int i = 3; i >= 0; --i) {
    if (size(array, axes[i]) != 1 && array.stride(axes[i]) != step) return false;
    step *= size(array, axes[i]);
  }
  return true;
}

constexpr std::array<int, 4> kAsIs = {0, 1, 2, 3}, kChannelsLast = {0, 2, 3, 1};

std::int64_t words_of(std::int64_t channels) {
  return (channels + binary::kWordBits - 1) / binary::kWordBits;
}

// Floats (N, C, H, W) in channels_last, or signs (N, H, W, words).
void set_input(binary::Conv& conv, const Tensor4& x, std::int64_t channels) {
  const bool floats = is_float(x, "x must be float32, or int32 signs");
  const int row = floats ? 2 : 1;
  conv.images = size(x, 0);
  conv.in = {size(x, row), size(x, row + 1)};
  require(floats ? size(x, 1) == channels : size(x, 3) == words_of(channels),
          "x has another number of channels");
  const int inner = floats ? 1 : 3;
  require(size(x, inner) == 1 || x.size() == 0 || x.stride(inner) == 1,
          "the channels of x must lie side by side");
  conv.image_step = x.stride(0);
  conv.row_step = x.stride(row);
  conv.column_step = x.stride(row + 1);
  if (floats)
    conv.x = static_cast<const float*>(x.data());
  else
    conv.signs = static_cast<const std::uint32_t*>(x.data());
}

// Floats with scale and bias, or signs by threshold.
void set_output(binary::Conv& conv, const Rule& rule, const std::optional<Channels>& bias,
                const Tensor4Out& y) {
  const std::int64_t outputs = conv.outputs();
  const bool floats = is_float(rule, "scale must be float32, threshold int32");
  require(is_float(y, "y must be float32 or int32") == floats, "y must be of the type of scale");
  require(floats || !bias, "a threshold goes without bias");
  const bool fits = size(y, 0) == conv.images && size(y, floats ? 2 : 1) == conv.out.y &&
                    size(y, floats ? 3 : 2) == conv.out.x &&
                    size(y, floats ? 1 : 3) == (floats ? outputs : words_of(outputs));
  require(fits, "y has the wrong shape");
  require(y.size() == 0 || dense(y, floats ? kChannelsLast : kAsIs),
          "y must be dense, floats in channels_last");
  conv.bias = channel_data(bias, outputs, "bias must have one value per output channel");
  if (floats) {
    conv.scale = static_cast<const float*>(rule.data());
    conv.y = static_cast<float*>(y.data());
  } else {
    conv.threshold = static_cast<const std::int32_t*>(rule.data());
    conv.y_signs = static_cast<std::uint32_t*>(y.data());
  }
}

void binary_conv2d(const Tensor4& x, const Packed& packed, const Rule& rule,
                   const std::optional<Channels>& bias, const std::optional<Channels>& input_shift,
                   const Tensor4Out& y, std::int64_t channels, const Pair& kernel,
                   const Pair& stride, const Pair& padding, const Pair& dilation,
                   std::int64_t groups, int threads) {
  const std::int64_t outputs = size(rule, 0);
  require(groups > 0 && channels > 0 && channels % groups == 0 && outputs % groups == 0,
          "groups must divide the channels of x and scale");
  for (int axis = 0; axis < 2; ++axis)
    require(kernel[axis] > 0 && stride[axis] > 0 && padding[axis] >= 0 && dilation[axis] > 0,
            "kernel, stride and dilation must be positive, padding not negative");
  binary::Conv conv{};
  conv.layout = {static_cast<int>(groups), static_cast<int>(channels / groups),
                 static_cast<int>(words_of(channels / groups))};
  conv.group_outputs = outputs / groups;
  conv.kernel = size2(kernel);
  conv.stride = size2(stride);
  conv.padding = size2(padding);
  conv.dilation = size2(dilation);
  conv.threads = threads;
  set_input(conv, x, channels);
  conv.out = {output_size(conv.in.y, kernel[0], stride[0], padding[0], dilation[0]),
              output_size(conv.in.x, kernel[1], stride[1], padding[1], dilation[1])};
  set_output(conv, rule, bias, y);
  conv.input_shift = channel_data(input_shift, channels, kShiftFits);
  require(is_float(x, "") || !conv.input_shift, "signs have no input_shift");
  require(size(packed, 0) == conv.blocks() &&
              size(packed, 1) == conv.taps() * (conv.layout.words + 1) &&
              packed.shape(2) == binary::kLanes,
          "packed does not fit the channels, kernel size and groups");
  if (y.size() == 0) return;
  // Offsets within an image are 32-bit, of bytes at most 64 times as many as words.
  const double words = static_cast<double>(conv.in.y + 2 * padding[0] + stride[0]) *
                       static_cast<double>(conv.in.x + 2 * padding[1] + stride[1]) *
                       static_cast<double>(groups * conv.layout.words);
  require(words < std::numeric_limits<std::int32_t>::max(), "x has too large an image");
  conv.weight = reinterpret_cast<const std::uint32_t*>(packed.data());
  nb::gil_scoped_release unlocked;
  binary::binary_conv2d(conv);
}

void pack_signs(const Tensor4& x, const std::optional<Channels>& input_shift, const Tensor4Out& y,
                int threads) {
  require(x.dtype() == nb::dtype<float>() && y.dtype() == nb::dtype<std::int32_t>(),
          "x must be float32, y int32");
  const std::int64_t channels = size(x, 1), pixels = size(x, 0) * size(x, 2) * size(x, 3);
  require(size(y, 0) == size(x, 0) && size(y, 1) == size(x, 2) && size(y, 2) == size(x, 3) &&
              size(y, 3) == words_of(channels),
          "y has the wrong shape");
  const float* shift = channel_data(input_shift, channels, kShiftFits);
  if (y.size() == 0) return;
  require(dense(x, kChannelsLast) && dense(y, kAsIs), "x must be channels_last, both dense");
  auto* words = static_cast<std::uint32_t*>(y.data());
  nb::gil_scoped_release unlocked;
  binary::pack_signs(static_cast<const float*>(x.data()), channels, pixels,
                     static_cast<int>(channels), shift, words, threads);
}

}  // namespace

void bind_binary(nb::module_& module) {
  module.def("binary_conv2d", &binary_conv2d, nb::arg("x"), nb::arg("packed"), nb::arg("rule"),
             nb::arg("bias").none(), nb::arg("input_shift").none(), nb::arg("y"),
             nb::arg("channels"), nb::arg("kernel"), nb::arg("stride"), nb::arg("padding"),
             nb::arg("dilation"), nb::arg("groups"), nb::arg("threads"));
  module.def("pack_signs", &pack_signs, nb::arg("x"), nb::arg("input_shift").none(), nb::arg("y"),
             nb::arg("threads"));
}

}  // namespace compactnets
