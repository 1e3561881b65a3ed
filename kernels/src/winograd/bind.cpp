// The Python face of the 3-D Winograd convolution.
#include "common/bind.hpp"

namespace compactnets {

void bind_winograd(nb::module_&) {}

}  // namespace compactnets
