// The Python face of the 1-bit convolution along a tree.
#include <algorithm>

#include "common/bind.hpp"
#include "tree/conv.hpp"

namespace compactnets {
namespace {

using Image = nb::ndarray<const float, nb::ndim<4>, nb::device::cpu, nb::c_contig>;
using ImageOut = nb::ndarray<float, nb::ndim<4>, nb::device::cpu, nb::c_contig>;
using Numbers = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Table = nb::ndarray<const std::int32_t, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Pair = std::array<std::int64_t, 2>;

// Lists that begin and end where they may, places of planes that exist, parents before children.
void check_tree(const Numbers& places, const Numbers& starts, const Table& plan,
                std::int64_t weights, std::int64_t outputs) {
  require(static_cast<std::int64_t>(starts.shape(0)) == 2 * outputs + 1 && starts.data()[0] == 0 &&
              starts.data()[2 * outputs] == static_cast<std::int32_t>(places.shape(0)) &&
              std::is_sorted(starts.data(), starts.data() + 2 * outputs + 1),
          "starts must rise from 0 to the number of places, two lists per output");
  require(std::all_of(places.data(), places.data() + places.shape(0),
                      [&](std::int32_t t) { return t >= 0 && t < weights; }),
          "places must lie within the kernel");
  require(static_cast<std::int64_t>(plan.shape(0)) == outputs && plan.shape(1) == 2,
          "plan must be (outputs, 2)");
  std::vector<bool> done(outputs, false);
  for (std::int64_t step = 0; step < outputs; ++step) {
    const std::int32_t j = plan.data()[2 * step], parent = plan.data()[2 * step + 1];
    require(j >= 0 && j < outputs && !done[j], "plan must name every output once");
    require(parent == -1 || (parent >= 0 && parent < outputs && done[parent]),
            "plan must name parents before their children");
    done[j] = true;
  }
}

void tree_conv2d(const Image& x, const Numbers& places, const Numbers& starts, const Table& plan,
                 const Table& sums, const Floats& scale, const std::optional<Floats>& bias,
                 const std::optional<Floats>& input_shift, const ImageOut& y, const Pair& kernel,
                 const Pair& stride, const Pair& padding, const Pair& dilation, int threads) {
  tree::TreeConv task{};
  const auto size = [](const auto& array, int axis) {
    return static_cast<std::int64_t>(array.shape(axis));
  };
  task.images = size(x, 0), task.channels = size(x, 1);
  task.height = size(x, 2), task.width = size(x, 3);
  task.outputs = size(scale, 0);
  task.out_height = size(y, 2), task.out_width = size(y, 3);
  for (int axis = 0; axis < 2; ++axis) {
    require(kernel[axis] > 0 && stride[axis] > 0 && padding[axis] >= 0 && dilation[axis] > 0,
            "kernel, stride, padding and dilation must be positive");
    task.kernel[axis] = kernel[axis], task.stride[axis] = stride[axis];
    task.padding[axis] = padding[axis], task.dilation[axis] = dilation[axis];
    const std::int64_t room = size(x, 2 + axis) + 2 * padding[axis] -
                              dilation[axis] * (kernel[axis] - 1) - 1;
    require(room >= 0 && size(y, 2 + axis) == room / stride[axis] + 1, "y has the wrong size");
  }
  require(size(y, 0) == task.images && size(y, 1) == task.outputs, "y has the wrong shape");
  const std::int64_t taps = kernel[0] * kernel[1], weights = task.channels * taps;
  require(weights > 0 && weights <= tree::kMostWeights, "too many weights in a kernel");
  require(size(sums, 0) == task.outputs && size(sums, 1) == taps, "sums must be (outputs, taps)");
  require(!bias || size(*bias, 0) == task.outputs, "bias must be (outputs)");
  require(!input_shift || size(*input_shift, 0) == task.channels, "input_shift must be (channels)");
  check_tree(places, starts, plan, weights, task.outputs);
  if (y.size() == 0) return;
  task.x = x.data(), task.y = y.data();
  task.places = places.data(), task.starts = starts.data(), task.plan = plan.data();
  task.sums = sums.data(), task.scale = scale.data();
  task.bias = bias ? bias->data() : nullptr;
  task.input_shift = input_shift ? input_shift->data() : nullptr;
  task.threads = std::max(threads, 1);
  nb::gil_scoped_release unlocked;
  tree::tree_conv2d(task);
}

}  // namespace

void bind_tree(nb::module_& module) {
  module.def("tree_conv2d", &tree_conv2d, nb::arg("x"), nb::arg("places"), nb::arg("starts"),
             nb::arg("plan"), nb::arg("sums"), nb::arg("scale"), nb::arg("bias").none(),
             nb::arg("input_shift").none(), nb::arg("y"), nb::arg("kernel_size"),
             nb::arg("stride"), nb::arg("padding"), nb::arg("dilation"), nb::arg("threads"));
}

}  // namespace compactnets
