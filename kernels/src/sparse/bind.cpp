// The Python face of the block-sparse and CSR products.
#include <limits>

#include "common/bind.hpp"
#include "sparse/product.hpp"

namespace compactnets {
namespace {

using Values = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Index = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Channels = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Dense = nb::ndarray<const float, nb::device::cpu>;
using DenseOut = nb::ndarray<float, nb::device::cpu>;
using Pair = std::array<std::int64_t, 2>;

std::int64_t output_size(std::int64_t in, std::int64_t kernel, std::int64_t stride,
                         std::int64_t padding, std::int64_t dilation) {
  const std::int64_t room = in + 2 * padding - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

// Whether the sizes (images, channels, height, width) lie side by side in memory in the order of
// the format. Tokens (rows, channels) are images of one pixel.
template <typename Array>
bool fits(const Array& array, const std::array<std::int64_t, 4>& sizes, bool channels_last) {
  const auto [images, channels, height, width] = sizes;
  const bool image = array.ndim() == 4;
  if (!image && !(array.ndim() == 2 && height == 1 && width == 1)) return false;
  const std::array<std::int64_t, 4> strides =
      channels_last
          ? std::array<std::int64_t, 4>{height * width * channels, 1, width * channels, channels}
          : std::array<std::int64_t, 4>{channels * height * width, height * width, width, 1};
  bool empty = false;
  for (int axis = 0; axis < 4; ++axis) empty = empty || sizes[axis] == 0;
  for (int axis = 0; axis < (image ? 4 : 2); ++axis) {
    if (static_cast<std::int64_t>(array.shape(axis)) != sizes[axis]) return false;
    if (!empty && sizes[axis] > 1 && array.stride(axis) != strides[axis]) return false;
  }
  return true;
}

// A plan with the tensors it points into.
struct BoundPlan {
  Values values;
  std::optional<Channels> bias;
  std::array<std::int64_t, 4> in, out;
  bool channels_last;
  sparse::Plan plan;

  void run(const Dense& x, const DenseOut& y) const {
    require(fits(x, in, channels_last), "x is not what the plan was made for");
    require(fits(y, out, channels_last), "y is not what the plan was made for");
    if (y.size() == 0) return;
    nb::gil_scoped_release unlocked;
    plan.run(x.data(), y.data());
  }
};

BoundPlan* make_plan(const Values& values, const Index& index, const Index& starts,
                     const std::optional<Channels>& bias,
                     const std::array<std::int64_t, 4>& shape, bool channels_last,
                     const Pair& kernel, const Pair& stride, const Pair& padding,
                     const Pair& dilation, std::int64_t groups, float low, float high, int tile,
                     int chunks, bool in_place, bool pairs, int threads) {
  sparse::Product p{};
  p.block = static_cast<std::int64_t>(values.shape(1));
  p.blocks = static_cast<std::int64_t>(values.shape(0));
  p.rows = static_cast<std::int64_t>(starts.shape(0)) - 1;
  require(p.block == 1 || p.block == 2 || p.block == 4 || p.block == 8 || p.block == 16,
          "values must have 1, 2, 4, 8 or 16 columns");
  require(p.blocks == static_cast<std::int64_t>(index.shape(0)) &&
              p.blocks < std::numeric_limits<std::int32_t>::max(),
          "index must have one entry per block");
  require(p.rows > 0, "starts must have one entry more than there are rows");
  require(!bias || static_cast<std::int64_t>(bias->shape(0)) == p.rows * p.block,
          "bias must have one value per output");
  for (int axis = 0; axis < 2; ++axis)
    require(kernel[axis] > 0 && stride[axis] > 0 && padding[axis] >= 0 && dilation[axis] > 0,
            "kernel, stride and dilation must be positive, padding not negative");
  for (std::int64_t size : shape) require(size > 0, "shape must be positive");
  require(groups > 0 && shape[1] % groups == 0 && p.rows % groups == 0,
          "groups must divide the channels and the rows of blocks");
  p.groups = groups;
  p.values = values.data();
  p.index = index.data();
  p.starts = starts.data();
  p.bias = bias ? bias->data() : nullptr;
  p.images = shape[0];
  p.channels = shape[1];
  p.in = {shape[2], shape[3]};
  p.kernel = {kernel[0], kernel[1]};
  p.stride = {stride[0], stride[1]};
  p.padding = {padding[0], padding[1]};
  p.dilation = {dilation[0], dilation[1]};
  p.out = {output_size(shape[2], kernel[0], stride[0], padding[0], dilation[0]),
           output_size(shape[3], kernel[1], stride[1], padding[1], dilation[1])};
  require(p.out.y > 0 && p.out.x > 0, "kernel does not fit x");
  p.channels_last = channels_last;
  p.low = low;
  p.high = high;
  p.tile = tile;
  p.chunks = chunks;
  p.in_place = in_place;
  p.pairs = pairs;
  p.threads = threads;
  return new BoundPlan{values, bias, shape, {shape[0], p.rows * p.block, p.out.y, p.out.x},
                       channels_last, sparse::Plan(p)};
}

}  // namespace

void bind_sparse(nb::module_& module) {
  nb::class_<BoundPlan>(module, "SparsePlan")
      .def("run", &BoundPlan::run, nb::arg("x"), nb::arg("y"));
  module.def("sparse_plan", &make_plan, nb::rv_policy::take_ownership, nb::arg("values"),
             nb::arg("index"), nb::arg("starts"), nb::arg("bias").none(), nb::arg("shape"),
             nb::arg("channels_last"), nb::arg("kernel"), nb::arg("stride"), nb::arg("padding"),
             nb::arg("dilation"), nb::arg("groups"), nb::arg("low"), nb::arg("high"),
             nb::arg("tile"),
             nb::arg("chunks"), nb::arg("in_place"), nb::arg("pairs"),
             nb::arg("threads"));
  module.def("sparse_tiles", [] {
    const auto& widest = sparse::operations().widest;
    return std::array<int, 3>{widest[0], widest[1], widest[2]};
  });
  module.def("sparse_lanes", [] { return sparse::operations().lanes; });
}

}  // namespace compactnets
