// Plain C++ as the portable kernels are written: vectors of the width that every processor has.
#include "common/lanes_portable.hpp"
#include "common/unroll.hpp"
#include "roofline/roofline.hpp"

namespace compactnets::roofline {
namespace {

constexpr int kSums = 8;

template <typename T>
inline void opaque(T& v) {
#if defined(__x86_64__)
  asm volatile("" : "+x"(v));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(v));
#else
  asm volatile("" : "+m"(v));
#endif
}

double fp32_fma(std::int64_t steps) {
  Lanes::Type sums[kSums], a = Lanes::set1(0.5f), b = Lanes::set1(0.25f);
  COMPACTNETS_UNROLL
  for (int i = 0; i < kSums; ++i) sums[i] = Lanes::zero();
  for (std::int64_t s = 0; s < steps; ++s) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      opaque(a);
      sums[i] = Lanes::fma(a, b, sums[i]);
      opaque(sums[i]);
    }
  }
  return static_cast<double>(steps) * kSums * Lanes::kCount;
}

void read(const void* memory, std::int64_t bytes) {
  const float* p = static_cast<const float*>(memory);
  for (const float* end = p + bytes / 4; p != end; p += kSums * Lanes::kCount) {
    COMPACTNETS_UNROLL
    for (int i = 0; i < kSums; ++i) {
      Lanes::Type value = Lanes::load(p + i * Lanes::kCount);
      opaque(value);
    }
  }
}

}  // namespace

const Loops portable_loops = {fp32_fma, nullptr, nullptr, nullptr, nullptr,
                              nullptr,  nullptr, nullptr, read};

}  // namespace compactnets::roofline
