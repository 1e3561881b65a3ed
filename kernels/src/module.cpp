// The native module compactnets._native: what all families share, and a binding for each.
#include "common/bind.hpp"
#include "common/isa.hpp"
#include "common/team.hpp"

using namespace compactnets;

NB_MODULE(_native, module) {
  module.doc() = "Compiled kernels of compactnets; use them through compactnets.kernels.";
  module.attr("INTERFACE") = 2;  // raised when a signature changes; the loader compares it
  module.def("supported_isas", &supported_isas);
  module.def("isa", [] { return isa_name(current_isa()); });
  module.def("select_isa", &select_isa, nb::arg("name"));
  module.def("team_kind", &team_kind);
  bind_adder(module);
  bind_binary(module);
  bind_int8(module);
  bind_lowbit(module);
  bind_nm(module);
  bind_roofline(module);
  bind_sparse(module);
  bind_transform(module);
  bind_tree(module);
  bind_winograd(module);
}
