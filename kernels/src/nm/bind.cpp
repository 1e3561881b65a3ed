// The Python face of the N:M sparse int8 products.
#include "common/bind.hpp"

namespace compactnets {

void bind_nm(nb::module_&) {}

}  // namespace compactnets
