// The Python face of the adder convolution.
#include "common/bind.hpp"

namespace compactnets {

void bind_adder(nb::module_&) {}

}  // namespace compactnets
