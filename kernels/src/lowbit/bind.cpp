// The Python face of the linear layer with weights of 4 and 2 bits.
#include "common/bind.hpp"
#include "lowbit/linear.hpp"

namespace compactnets {
namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Codes = nb::ndarray<const std::int8_t, nb::ndim<2>, nb::device::cpu, nb::c_contig>;
using Packed = nb::ndarray<const std::uint8_t, nb::ndim<3>, nb::device::cpu, nb::c_contig>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
using Result = nb::ndarray<float, nb::ndim<2>, nb::device::cpu, nb::c_contig>;

void run(lowbit::Linear& call, const Packed& packed, const Matrix& scale,
         const std::optional<Vector>& bias, const Result& y) {
  const auto size = [](std::size_t value) { return static_cast<std::int64_t>(value); };
  call.outputs = size(scale.shape(1));
  require(call.bits == 2 || call.bits == 4, "bits must be 2 or 4");
  require(0 <= call.zero && call.zero < 1 << call.bits, "zero must be one of the codes");
  require(0 < call.inputs && call.inputs <= lowbit::kMostInputs, "x has too many or no inputs");
  const std::int64_t outputs = lowbit::kLanes * 8 / call.bits;
  const std::int64_t steps = (call.inputs + lowbit::kPadding - 1) / lowbit::kPadding * 16;
  require(size(packed.shape(0)) == (call.outputs + outputs - 1) / outputs &&
              size(packed.shape(1)) == steps && packed.shape(2) == lowbit::kStepBytes,
          "packed does not fit the inputs and outputs");
  const std::int64_t groups = size(scale.shape(0));
  require(groups == 1 || (groups > 1 && (call.inputs == groups * 32 || call.inputs == groups * 64 ||
                                         call.inputs == groups * 128)),
          "scale must be (groups, outputs), groups of 32, 64 or 128 inputs or one of all");
  require(!bias || size(bias->shape(0)) == call.outputs, "bias must have one value per output");
  require(size(y.shape(0)) == call.rows && size(y.shape(1)) == call.outputs, "y has the wrong shape");
  call.weight = packed.data();
  call.scale = scale.data();
  call.groups = static_cast<int>(groups);
  call.bias = bias ? bias->data() : nullptr;
  call.y = y.data();
  nb::gil_scoped_release unlocked;
  lowbit::linear(call);
}

void lowbit_linear(const Matrix& x, const Packed& packed, const Matrix& scale,
                   const std::optional<Vector>& bias, const Result& y, int bits, int zero,
                   int threads) {
  lowbit::Linear call{};
  call.bits = bits;
  call.zero = zero;
  call.rows = static_cast<std::int64_t>(x.shape(0));
  call.inputs = static_cast<std::int64_t>(x.shape(1));
  call.x = x.data();
  call.threads = threads;
  run(call, packed, scale, bias, y);
}

void lowbit_linear_int8(const Codes& x, const Vector& x_scale, const Packed& packed,
                        const Matrix& scale, const std::optional<Vector>& bias, const Result& y,
                        int bits, int zero, int threads) {
  lowbit::Linear call{};
  call.bits = bits;
  call.zero = zero;
  call.rows = static_cast<std::int64_t>(x.shape(0));
  call.inputs = static_cast<std::int64_t>(x.shape(1));
  call.x_codes = x.data();
  require(x_scale.shape(0) == 1 || x_scale.shape(0) == x.shape(0),
          "x_scale must have one value, or one per row of x");
  call.x_codes_scale = x_scale.data();
  call.scale_per_row = x_scale.shape(0) != 1;
  call.threads = threads;
  run(call, packed, scale, bias, y);
}

}  // namespace

void bind_lowbit(nb::module_& module) {
  module.def("lowbit_linear", &lowbit_linear, nb::arg("x"), nb::arg("packed"), nb::arg("scale"),
             nb::arg("bias").none(), nb::arg("y"), nb::arg("bits"), nb::arg("zero"),
             nb::arg("threads"));
  module.def("lowbit_linear_int8", &lowbit_linear_int8, nb::arg("x"), nb::arg("x_scale"),
             nb::arg("packed"), nb::arg("scale"), nb::arg("bias").none(), nb::arg("y"),
             nb::arg("bits"), nb::arg("zero"), nb::arg("threads"));
}

}  // namespace compactnets
