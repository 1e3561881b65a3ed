// The Python face of the shift convolution and the DCT mask.
#include "common/bind.hpp"

namespace compactnets {

void bind_transform(nb::module_&) {}

}  // namespace compactnets
