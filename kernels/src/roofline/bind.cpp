// Runs the loops of every path that this machine has, and reads from each level of its memory.
#include <nanobind/stl/map.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <new>
#include <string>

#include "common/bind.hpp"
#include "common/isa.hpp"
#include "roofline/roofline.hpp"

#if defined(__unix__)
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace compactnets {
namespace {

using roofline::Loop;
using roofline::Loops;
using Rates = std::map<std::string, double>;

double seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// The best of several runs of `run()`, which returns how much it did; per second, in 1e9.
template <typename Run>
double best_rate(int repeats, const Run& run) {
  double best = 0;
  for (int i = 0; i < repeats; ++i) {
    const double start = seconds();
    const double done = run();
    best = std::max(best, done / (seconds() - start));
  }
  return best * 1e-9;
}

// Runs of about half a millisecond: long for the clock, short beside a time slice.
double loop_rate(Loop loop) {
  std::int64_t steps = 1000;
  for (double spent = 0; spent < 5e-4; steps *= 2) {
    const double start = seconds();
    loop(steps);
    spent = seconds() - start;
  }
  return best_rate(12, [&] { return loop(steps / 2); });
}

void measure_loops(const std::string& path, const Loops& loops, Rates& rates) {
  const std::pair<const char*, Loop> named[] = {
      {"fp32_fma", loops.fp32_fma},         {"int8_dot", loops.int8_dot},
      {"int8_gather", loops.int8_gather},   {"bit_pairs", loops.bit_pairs},
      {"fp32_max_add", loops.fp32_max_add}, {"fp32_umax_add", loops.fp32_umax_add},
      {"int8_max_add", loops.int8_max_add}, {"int8_sad", loops.int8_sad}};
  for (const auto& [name, loop] : named)
    if (loop) rates[path + "." + name] = loop_rate(loop);
}

struct Memory {
  std::int64_t size;
  char* bytes;
  explicit Memory(std::int64_t wanted)
      : size(wanted),
        bytes(static_cast<char*>(::operator new(wanted, std::align_val_t{4096}))) {
    std::memset(bytes, 1, size);
  }
  ~Memory() { ::operator delete(bytes, std::align_val_t{4096}); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Drops it from all caches, where there is an instruction for that.
  void flush() const {
#if defined(__x86_64__)
    for (std::int64_t i = 0; i < size; i += 64) _mm_clflush(bytes + i);
    _mm_mfence();
#endif
  }
};

std::int64_t second_level_cache() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
  const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size >= 1 << 18) return size;
#endif
  return 1 << 20;
}

// 16 KiB, half of the second level, four times the second level, and 32 MiB that no cache holds.
void measure_reads(const Loops& loops, Rates& rates) {
  const std::int64_t second = second_level_cache() / 2 & ~511ll;
  const std::pair<const char*, std::int64_t> levels[] = {
      {"read.l1", 1 << 14}, {"read.l2", second}, {"read.l3", 8 * second}};
  const Memory memory(std::max<std::int64_t>(8 * second, 1 << 25));
  for (const auto& [name, size] : levels) {
    const std::int64_t passes = std::max<std::int64_t>(1, (1 << 23) / size);
    rates[name] = best_rate(8, [&, bytes = size] {
      for (std::int64_t i = 0; i < passes; ++i) loops.read(memory.bytes, bytes);
      return static_cast<double>(passes * bytes);
    });
  }
  double best = 0;
  for (int i = 0; i < 2; ++i) {
    memory.flush();
    best = std::max(best, best_rate(1, [&] {
      loops.read(memory.bytes, 1 << 25);
      return static_cast<double>(1 << 25);
    }));
  }
  rates["read.memory"] = best;
}

const Loops* loops_of(const std::string& path) {
  if (path == "amx") return COMPACTNETS_AMX(roofline::amx_loops);
  if (path == "avx512") return COMPACTNETS_AVX512(roofline::avx512_loops);
  if (path == "avx2") return COMPACTNETS_AVX2(roofline::avx2_loops);
  return &roofline::portable_loops;
}

Rates peaks() {
  Rates rates;
  const Loops* reader = nullptr;
  for (const std::string& path : supported_isas()) {
    const Loops* loops = loops_of(path);
    measure_loops(path, *loops, rates);
    if (!reader && loops->read) reader = loops;
  }
  measure_reads(*reader, rates);
  return rates;
}

}  // namespace

void bind_roofline(nb::module_& module) {
  module.def("peaks", &peaks, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace compactnets
