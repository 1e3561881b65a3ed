// The Python face of the products with weights of 4 and 2 bits.
#include "common/bind.hpp"

namespace compactnets {

void bind_lowbit(nb::module_&) {}

}  // namespace compactnets
