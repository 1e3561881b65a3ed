// What the Python faces of all families share. Tensors come in as DLPack and are used where they lie.
// The fronts in compactnets.kernels check every argument and give the errors users see; what is
// checked here keeps a wrong call from touching memory it must not.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>

namespace compactnets {

namespace nb = nanobind;

// Throws std::invalid_argument (ValueError in Python).
inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// One function per family, in its bind.cpp; module.cpp calls them all.
void bind_adder(nb::module_& module);
void bind_binary(nb::module_& module);
void bind_int8(nb::module_& module);
void bind_lowbit(nb::module_& module);
void bind_nm(nb::module_& module);
void bind_roofline(nb::module_& module);
void bind_sparse(nb::module_& module);
void bind_transform(nb::module_& module);
void bind_tree(nb::module_& module);
void bind_winograd(nb::module_& module);

}  // namespace compactnets
