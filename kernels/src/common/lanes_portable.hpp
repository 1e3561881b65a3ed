// Vectors of 4 floats in the notation that GCC and Clang turn into SSE2, NEON or plain code; see
// lanes_avx512.hpp.
#pragma once
#include <cstring>

namespace compactnets {
namespace {

struct Lanes {
  typedef float Type __attribute__((vector_size(16)));
  static constexpr int kCount = 4;

  static Type zero() { return Type{}; }
  static Type set1(float value) { return Type{value, value, value, value}; }
  static Type load(const float* p) {
    Type v;
    std::memcpy(&v, p, sizeof(v));
    return v;
  }
  static void store(float* p, Type v) { std::memcpy(p, &v, sizeof(v)); }
  static Type load_first(const float* p, int count) {
    if (count >= kCount) return load(p);
    Type v{};
    for (int i = 0; i < count; ++i) v[i] = p[i];
    return v;
  }
  static void store_first(float* p, Type v, int count) {
    if (count >= kCount) return store(p, v);
    for (int i = 0; i < count; ++i) p[i] = v[i];
  }
  static Type fma(Type a, Type b, Type c) { return a * b + c; }
  static void pin(Type&) {}
};

}  // namespace
}  // namespace compactnets
