// Any processor: vectors of 4 floats in the compiler's own notation (SSE2, NEON).
#include <cstring>

#include "common/isa.hpp"
#include "common/unroll.hpp"
#include "sparse/product.hpp"

namespace compactnets::sparse {
namespace {

constexpr int kLanes = 4;
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float))));

template <int N>
struct Widest {
  static constexpr int value = N == 1 ? 12 : N == 2 ? 5 : 3;
};

inline Vector zero() { return Vector{}; }
inline Vector load(const float* p) {
  Vector v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
inline Vector load_some(const float* p, int count) {
  Vector v{};
  for (int i = 0; i < kLanes; ++i)
    if (i < count) v[i] = p[i];
  return v;
}
// Lane i: p[first + i] where that lies within a row of `width`, else 0; nothing else is read.
struct Mask {
  int first, last;
};
inline Mask inside(std::int64_t first, std::int64_t width) {
  const std::int64_t last = width - first;
  return {static_cast<int>(first < 0 ? -first : 0),
          static_cast<int>(last < 0 ? 0 : last > kLanes ? kLanes : last)};
}
inline Vector load_masked(const float* p, Mask mask) {
  if (mask.first == 0 && mask.last == kLanes) return load(p);
  Vector v{};
  for (int i = 0; i < kLanes; ++i)
    if (mask.first <= i && i < mask.last) v[i] = p[i];
  return v;
}
inline Vector even_lanes(Vector a, Vector b) { return Vector{a[0], a[2], b[0], b[2]}; }
inline Vector odd_lanes(Vector a, Vector b) { return Vector{a[1], a[3], b[1], b[3]}; }
inline Vector load_every_second(const float* p) { return Vector{p[0], p[2], p[4], p[6]}; }
inline Vector load_some_every_second(const float* p, int count) {
  Vector v{};
  for (int i = 0; i < kLanes; ++i)
    if (i < count) v[i] = p[2 * i];
  return v;
}
inline void store(float* p, Vector v) { std::memcpy(p, &v, sizeof(v)); }
inline void store_some(float* p, Vector v, int count) {
  for (int i = 0; i < kLanes; ++i)
    if (i < count) p[i] = v[i];
}
inline Vector broadcast(const float* p) { return Vector{*p, *p, *p, *p}; }
inline Vector add(Vector a, Vector b) { return a + b; }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
// A comparison with NaN is false: NaN stays.
inline Vector at_least(Vector v, Vector low) { return v < low ? low : v; }
inline Vector at_most(Vector v, Vector high) { return v > high ? high : v; }
inline void pin(Vector&) {}
inline void pin(const float*&) {}

inline void transpose_square(const float* from, std::int64_t from_pitch, std::int64_t rows,
                             std::int64_t columns, float* to, std::int64_t to_pitch, bool pad) {
  const int written = pad || rows >= kLanes ? kLanes : static_cast<int>(rows);
  for (int c = 0; c < kLanes && c < columns; ++c)
    for (int r = 0; r < written; ++r)
      to[c * to_pitch + r] = r < rows ? from[r * from_pitch + c] : 0.0f;
}

#include "sparse/depthwise.hpp"
#include "sparse/tile.hpp"

}  // namespace

const Operations portable_operations = make_operations();

const Operations& operations() {
  return pick<Operations>(nullptr, COMPACTNETS_AVX512(avx512_operations),
                          COMPACTNETS_AVX2(avx2_operations), portable_operations);
}

}  // namespace compactnets::sparse
