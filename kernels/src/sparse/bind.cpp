// The Python face of the block-sparse and CSR products.
#include "common/bind.hpp"

namespace compactnets {

void bind_sparse(nb::module_&) {}

}  // namespace compactnets
