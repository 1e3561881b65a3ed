#include "common/isa.hpp"

#include <atomic>
#include <stdexcept>

#if defined(COMPACTNETS_HAS_AMX) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace compactnets {
namespace {

#ifdef COMPACTNETS_HAS_AVX512
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512vbmi");
}
#endif

#ifdef COMPACTNETS_HAS_AMX
// The tiles are 8 KiB of state per thread, which Linux saves only for a process that asked for it.
bool system_grants_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_amx() {
  static const bool granted = __builtin_cpu_supports("amx-tile") &&
                              __builtin_cpu_supports("amx-int8") && system_grants_tiles();
  return granted && has_avx512();
}
#endif

bool cpu_runs(Isa isa) {
  switch (isa) {
#ifdef COMPACTNETS_HAS_AMX
    case Isa::amx:
      return has_amx();
#endif
#ifdef COMPACTNETS_HAS_AVX512
    case Isa::avx512:
      return has_avx512();
#endif
#ifdef COMPACTNETS_HAS_AVX2
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("popcnt");
#endif
    case Isa::portable:
      return true;
    default:
      return false;
  }
}

constexpr Isa kFastestFirst[] = {Isa::amx, Isa::avx512, Isa::avx2, Isa::portable};

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
    case Isa::amx: return "amx";
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
