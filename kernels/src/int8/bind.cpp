// The Python face of the int8 products.
#include "common/bind.hpp"

namespace compactnets {

void bind_int8(nb::module_&) {}

}  // namespace compactnets
