// Which instruction set the kernels use: found at run time, or chosen by the caller.
#pragma once
#include <string>
#include <vector>

namespace compactnets {

enum class Isa { avx512, avx2, portable };

// Paths that were compiled in and that this CPU can run, fastest first ("portable" is always one).
std::vector<std::string> supported_isas();

// The path in use; the fastest supported one unless select_isa was called.
Isa current_isa();
std::string isa_name(Isa isa);

// Throws std::invalid_argument that lists the supported names.
void select_isa(const std::string& name);

}  // namespace compactnets
