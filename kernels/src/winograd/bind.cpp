// The Python face of the 3-D Winograd convolution.
#include <algorithm>
#include <limits>

#include "common/bind.hpp"
#include "winograd/winograd.hpp"

namespace compactnets {
namespace {

using Video = nb::ndarray<const float, nb::ndim<5>, nb::device::cpu>;
using VideoOut = nb::ndarray<float, nb::ndim<5>, nb::device::cpu>;
using Values = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Keep = nb::ndarray<const bool, nb::ndim<2>, nb::device::cpu, nb::c_contig>;

std::int64_t size(const auto& array, int axis) {
  return static_cast<std::int64_t>(array.shape(axis));
}

winograd::Conv geometry(const Video& x, const VideoOut& y,
                        const std::array<std::int64_t, 3>& padding) {
  winograd::Conv conv{};
  conv.images = size(x, 0);
  conv.channels = size(x, 1);
  conv.outputs = size(y, 1);
  conv.in = {size(x, 2), size(x, 3), size(x, 4)};
  conv.out = {size(y, 2), size(y, 3), size(y, 4)};
  conv.padding = {padding[0], padding[1], padding[2]};
  require(size(y, 0) == conv.images, "y has the wrong shape");
  for (int axis = 0; axis < 3; ++axis)
    require(padding[axis] >= 0 && size(y, 2 + axis) > 0 &&
                size(y, 2 + axis) == size(x, 2 + axis) + 2 * padding[axis] - 2,
            "y has the wrong shape");
  require(conv.channels > 0 && conv.channels < (1 << 20) && conv.outputs < (1 << 20),
          "too many channels");
  return conv;
}

void winograd3d(const Video& x, const Values& packed, const Keep& keep,
                const std::optional<Values>& bias, const VideoOut& y,
                const std::array<std::int64_t, 3>& padding, int threads) {
  winograd::Conv conv = geometry(x, y, padding);
  require(size(keep, 0) == winograd::kPositions && size(keep, 1) == conv.channels,
          "keep must be (64, channels of x)");
  const std::int64_t kept = std::count(keep.data(), keep.data() + keep.size(), true);
  require(size(packed, 0) == kept * ((conv.outputs + 15) / 16 * 16),
          "packed does not fit keep and the outputs");
  require(!bias || size(*bias, 0) == conv.outputs, "bias must have one value per output");
  if (y.size() == 0) return;
  require(conv.channels == 1 || x.stride(1) == 1, "x must be channels_last_3d");
  require(x.stride(4) >= 0 && conv.in.x * x.stride(4) < std::numeric_limits<std::int32_t>::max(),
          "x has too long rows");
  std::int64_t step = conv.outputs;
  require(conv.outputs == 1 || y.stride(1) == 1, "y must be channels_last_3d and dense");
  for (int axis : {4, 3, 2, 0}) {
    require(y.shape(axis) == 1 || y.stride(axis) == step, "y must be channels_last_3d and dense");
    step *= size(y, axis);
  }
  conv.x = x.data();
  conv.image_step = x.stride(0);
  conv.depth_step = x.stride(2);
  conv.row_step = x.stride(3);
  conv.column_step = x.stride(4);
  conv.u = packed.data();
  conv.keep = keep.data();
  conv.bias = bias ? bias->data() : nullptr;
  conv.y = y.data();
  conv.threads = std::max(threads, 1);
  nb::gil_scoped_release unlocked;
  winograd::winograd3d(conv);
}

}  // namespace

void bind_winograd(nb::module_& module) {
  module.def("winograd3d", &winograd3d, nb::arg("x"), nb::arg("packed"), nb::arg("keep"),
             nb::arg("bias").none(), nb::arg("y"), nb::arg("padding"), nb::arg("threads"));
}

}  // namespace compactnets
