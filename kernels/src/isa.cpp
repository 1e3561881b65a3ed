#include "isa.hpp"

#include <atomic>
#include <stdexcept>

namespace compactnets {
namespace {

bool cpu_runs(Isa isa) {
  switch (isa) {
#ifdef COMPACTNETS_X86
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vpopcntdq");
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt");
#else
    case Isa::avx512:
    case Isa::avx2:
      return false;
#endif
    case Isa::portable:
      return true;
  }
  return false;
}

constexpr Isa kFastestFirst[] = {Isa::avx512, Isa::avx2, Isa::portable};

Isa fastest() {
  for (Isa isa : kFastestFirst)
    if (cpu_runs(isa)) return isa;
  return Isa::portable;
}

std::atomic<Isa>& selected() {
  static std::atomic<Isa> isa{fastest()};
  return isa;
}

}  // namespace

std::string isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::portable: return "portable";
  }
  return "unknown";
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (Isa isa : kFastestFirst)
    if (cpu_runs(isa)) names.push_back(isa_name(isa));
  return names;
}

Isa current_isa() { return selected().load(std::memory_order_relaxed); }

void select_isa(const std::string& name) {
  std::string choices;
  for (Isa isa : kFastestFirst) {
    if (!cpu_runs(isa)) continue;
    if (isa_name(isa) == name) {
      selected().store(isa, std::memory_order_relaxed);
      return;
    }
    choices += (choices.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::invalid_argument("instruction set '" + name + "' is not one of: " + choices);
}

}  // namespace compactnets
