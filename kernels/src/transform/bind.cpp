// The Python face of the shift convolution and the DCT mask.
#include <algorithm>
#include <string>

#include "common/bind.hpp"
#include "transform/dct.hpp"
#include "transform/shift.hpp"

namespace compactnets {
namespace {

using AnyImage = nb::ndarray<nb::ro, nb::ndim<4>, nb::device::cpu>;
using AnyImageOut = nb::ndarray<nb::ndim<4>, nb::device::cpu>;
using Shifts = nb::ndarray<const std::int32_t, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Image = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu, nb::c_contig>;
using ImageOut = nb::ndarray<float, nb::ndim<4>, nb::device::cpu, nb::c_contig>;
using Masks = nb::ndarray<const float, nb::device::cpu, nb::c_contig>;  // (8, 8) or (C, 8, 8)

// Whether the elements lie one after the other with the axes in this order.
bool dense(const auto& array, const std::array<int, 4>& order) {
  std::int64_t step = 1;
  for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
    const auto size = static_cast<std::int64_t>(array.shape(*axis));
    if (size > 1 && array.stride(*axis) != step) return false;
    step *= size;
  }
  return true;
}

void shift(const AnyImage& x, const Shifts& shifts, const AnyImageOut& y, bool channels_last,
           int threads) {
  for (int axis = 0; axis < 4; ++axis)
    require(x.shape(axis) == y.shape(axis), "y has the wrong shape");
  require(x.itemsize() == y.itemsize(), "y has the wrong dtype");
  require(shifts.shape(0) == x.shape(1) && shifts.shape(1) == 2, "shifts must be (channels, 2)");
  if (y.size() == 0) return;
  const std::array<int, 4> order =
      channels_last ? std::array<int, 4>{0, 2, 3, 1} : std::array<int, 4>{0, 1, 2, 3};
  require(dense(x, order) && dense(y, order), "x and y must be dense in the same order");
  transform::Shift task{};
  task.x = static_cast<const char*>(x.data());
  task.y = static_cast<char*>(y.data());
  task.shifts = shifts.data();
  task.images = static_cast<std::int64_t>(x.shape(0));
  task.channels = static_cast<std::int64_t>(x.shape(1));
  task.height = static_cast<std::int64_t>(x.shape(2));
  task.width = static_cast<std::int64_t>(x.shape(3));
  task.item = static_cast<std::int64_t>(x.itemsize());
  task.channels_last = channels_last;
  task.threads = std::max(threads, 1);
  nb::gil_scoped_release unlocked;
  transform::shift(task);
}

void dct(const Image& x, const std::optional<Masks>& mask, const ImageOut& y, bool inverse,
         int threads) {
  for (int axis = 0; axis < 4; ++axis)
    require(x.shape(axis) == y.shape(axis), "y has the wrong shape");
  require(x.shape(2) % 8 == 0 && x.shape(3) % 8 == 0, "height and width must be multiples of 8");
  transform::Dct task{};
  task.masks = 1;
  task.mode = inverse ? transform::Mode::inverse : transform::Mode::forward;
  if (mask) {
    const std::size_t axes = mask->ndim();
    require((axes == 2 || (axes == 3 && mask->shape(0) == x.shape(1))) &&
                mask->shape(axes - 2) == 8 && mask->shape(axes - 1) == 8,
            "mask must be (8, 8) or (channels, 8, 8)");
    task.masks = axes == 2 ? 1 : static_cast<std::int64_t>(mask->shape(0));
    task.mask = mask->data();
    task.mode = transform::Mode::mask;
  }
  task.x = x.data();
  task.y = y.data();
  task.images = static_cast<std::int64_t>(x.shape(0));
  task.channels = static_cast<std::int64_t>(x.shape(1));
  task.height = static_cast<std::int64_t>(x.shape(2));
  task.width = static_cast<std::int64_t>(x.shape(3));
  task.threads = std::max(threads, 1);
  nb::gil_scoped_release unlocked;
  transform::dct(task);
}

}  // namespace

void bind_transform(nb::module_& module) {
  module.def("shift2d", &shift, nb::arg("x"), nb::arg("shifts"), nb::arg("y"),
             nb::arg("channels_last"), nb::arg("threads"));
  module.def("dct8x8", &dct, nb::arg("x"), nb::arg("mask").none(), nb::arg("y"),
             nb::arg("inverse"), nb::arg("threads"));
}

}  // namespace compactnets
