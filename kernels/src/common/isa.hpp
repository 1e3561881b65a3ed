// Which instruction set the kernels use: found at run time, or chosen by the caller.
#pragma once
#include <string>
#include <vector>

namespace compactnets {

// avx512 is the set of Ice Lake and Zen 4 and later: F, BW, DQ, VL, VPOPCNTDQ, VNNI, VBMI. amx adds
// the int8 matrix unit of Sapphire Rapids and later. avx2 includes FMA. Fastest first.
enum class Isa { amx, avx512, avx2, portable };

// Paths that were compiled in and that this CPU can run, fastest first ("portable" is always one).
std::vector<std::string> supported_isas();

// The path in use; the fastest supported one unless select_isa was called.
Isa current_isa();
std::string isa_name(Isa isa);

// Throws std::invalid_argument that lists the supported names.
void select_isa(const std::string& name);

// The address of a family's entry for a path, or nullptr where the path is not built.
#ifdef COMPACTNETS_HAS_AMX
#define COMPACTNETS_AMX(entry) (&(entry))
#else
#define COMPACTNETS_AMX(entry) nullptr
#endif
#ifdef COMPACTNETS_HAS_AVX512
#define COMPACTNETS_AVX512(entry) (&(entry))
#else
#define COMPACTNETS_AVX512(entry) nullptr
#endif
#ifdef COMPACTNETS_HAS_AVX2
#define COMPACTNETS_AVX2(entry) (&(entry))
#else
#define COMPACTNETS_AVX2(entry) nullptr
#endif

// What a family of kernels has for the path in use: its own entry, or the one of the next slower
// path where it has none (nullptr).
template <typename Operations>
const Operations& pick(const Operations* amx, const Operations* avx512, const Operations* avx2,
                       const Operations& portable) {
  const Operations* const paths[] = {amx, avx512, avx2};
  for (int i = static_cast<int>(current_isa()); i < static_cast<int>(Isa::portable); ++i)
    if (paths[i]) return *paths[i];
  return portable;
}

}  // namespace compactnets
