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

std::int64_t size(std::size_t value) { return static_cast<std::int64_t>(value); }

// The weights of a call whose bits, zero and inputs are set, checked.
void fill(lowbit::Linear& call, const Packed& packed, const Matrix& scale,
          const std::optional<Vector>& bias) {
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
  call.weight = packed.data();
  call.scale = scale.data();
  call.groups = static_cast<int>(groups);
  call.bias = bias ? bias->data() : nullptr;
}

void run(lowbit::Linear& call, const Result& y) {
  require(size(y.shape(0)) == call.rows && size(y.shape(1)) == call.outputs, "y has the wrong shape");
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
  fill(call, packed, scale, bias);
  run(call, y);
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
  fill(call, packed, scale, bias);
  run(call, y);
}

// The weights of a layer, checked once and held, so that a call hands over x and y only.
class LowbitWeights {
 public:
  LowbitWeights(Packed packed, Matrix scale, std::optional<Vector> bias, std::int64_t inputs,
                int bits, int zero)
      : packed_(std::move(packed)), scale_(std::move(scale)), bias_(std::move(bias)) {
    call_.bits = bits;
    call_.zero = zero;
    call_.inputs = inputs;
    fill(call_, packed_, scale_, bias_);
  }

  void multiply(const Matrix& x, const Result& y, int threads) const {
    lowbit::Linear call = call_;
    require(static_cast<std::int64_t>(x.shape(1)) == call.inputs, "x has other inputs");
    call.rows = static_cast<std::int64_t>(x.shape(0));
    call.x = x.data();
    call.threads = threads;
    run(call, y);
  }

 private:
  Packed packed_;
  Matrix scale_;
  std::optional<Vector> bias_;
  lowbit::Linear call_{};
};

}  // namespace

void bind_lowbit(nb::module_& module) {
  module.def("lowbit_linear", &lowbit_linear, nb::arg("x"), nb::arg("packed"), nb::arg("scale"),
             nb::arg("bias").none(), nb::arg("y"), nb::arg("bits"), nb::arg("zero"),
             nb::arg("threads"));
  module.def("lowbit_linear_int8", &lowbit_linear_int8, nb::arg("x"), nb::arg("x_scale"),
             nb::arg("packed"), nb::arg("scale"), nb::arg("bias").none(), nb::arg("y"),
             nb::arg("bits"), nb::arg("zero"), nb::arg("threads"));
  nb::class_<LowbitWeights>(module, "LowbitWeights")
      .def(nb::init<Packed, Matrix, std::optional<Vector>, std::int64_t, int, int>(),
           nb::arg("packed"), nb::arg("scale"), nb::arg("bias").none(), nb::arg("inputs"),
           nb::arg("bits"), nb::arg("zero"))
      .def("multiply", &LowbitWeights::multiply, nb::arg("x"), nb::arg("y"), nb::arg("threads"));
}

}  // namespace compactnets
