// The transforms of rows of blocks, written once. `Rows` is the instruction set's: a register that
// holds a row of kBlocks blocks, and how to load, store, multiply and transpose it.
#pragma once
#include <cstdint>

#include "common/unroll.hpp"
#include "transform/dct.hpp"

namespace compactnets::transform {
namespace {

constexpr float kR3 = 0.84775907f, kR5 = 0.56645450f, kR7 = 0.19891237f;  // cos(k pi/16)/cos(pi/16)
constexpr float kT = 0.41421356f;                                         // tan(pi/8)

// y = M d with the symmetric matrix of the odd frequencies: its own transpose.
template <typename R, typename V>
inline void odd(const V (&d)[4], V (&f)[4]) {
  const V r3 = R::set1(kR3), r5 = R::set1(kR5), r7 = R::set1(kR7);
  f[0] = R::fma(r7, d[3], R::fma(r5, d[2], R::fma(r3, d[1], d[0])));
  f[1] = R::fnma(r5, d[3], R::fnma(r7, d[1], R::fma(r3, d[0], -d[2])));
  f[2] = R::fma(r3, d[3], R::fma(r7, d[2], R::fma(r5, d[0], -d[1])));
  f[3] = R::fma(r3, d[2], R::fnma(r5, d[1], R::fma(r7, d[0], -d[3])));
}

template <typename R, typename V>
inline void forward(V (&v)[8]) {
  const V t = R::set1(kT);
  V s[4], d[4], f[4];
  COMPACTNETS_UNROLL
  for (int n = 0; n < 4; ++n) {
    s[n] = v[n] + v[7 - n];
    d[n] = v[n] - v[7 - n];
  }
  const V outer = s[0] + s[3], inner = s[1] + s[2], a = s[0] - s[3], b = s[1] - s[2];
  v[0] = outer + inner;
  v[4] = outer - inner;
  v[2] = R::fma(t, b, a);
  v[6] = R::fma(t, a, -b);
  odd<R>(d, f);
  COMPACTNETS_UNROLL
  for (int k = 0; k < 4; ++k) v[2 * k + 1] = f[k];
}

template <typename R, typename V>
inline void inverse(V (&v)[8]) {
  const V t = R::set1(kT);
  const V outer = v[0] + v[4], inner = v[0] - v[4];
  const V a = R::fma(t, v[6], v[2]), b = R::fma(t, v[2], -v[6]);
  const V s[4] = {outer + a, inner + b, inner - b, outer - a};
  const V f[4] = {v[1], v[3], v[5], v[7]};
  V d[4];
  odd<R>(f, d);
  COMPACTNETS_UNROLL
  for (int n = 0; n < 4; ++n) {
    v[n] = s[n] + d[n];
    v[7 - n] = s[n] - d[n];
  }
}

template <typename R, typename V>
inline void multiply(V (&v)[8], const float* scale) {
  COMPACTNETS_UNROLL
  for (int i = 0; i < 8; ++i) v[i] = v[i] * R::repeat(scale + 8 * i);
}

constexpr int kSteps = 5;

// Arithmetic in the even steps, transpositions in the odd ones.
template <typename R, Mode kMode, typename V>
inline void step(int index, V (&v)[8], const float* scale) {
  if (index % 2) return R::transpose(v);
  const bool first = index == 0, middle = index == 2;
  if (kMode == Mode::inverse) {
    if (first) multiply<R>(v, scale);
    if (first || middle) inverse<R>(v);
    return;
  }
  if (first || middle) forward<R>(v);
  if (middle) multiply<R>(v, scale);
  if (kMode == Mode::mask && !first) inverse<R>(v);
}

template <typename R>
inline void load(const BlockRow& row, std::int64_t block, int blocks, typename R::Type (&v)[8]) {
  COMPACTNETS_UNROLL
  for (int i = 0; i < 8; ++i) v[i] = R::load(row.x + i * row.row_step + 8 * block, blocks);
}

template <typename R>
inline void store(const BlockRow& row, std::int64_t block, int blocks, typename R::Type (&v)[8]) {
  COMPACTNETS_UNROLL
  for (int i = 0; i < 8; ++i) R::store(row.y + i * row.row_step + 8 * block, v[i], blocks);
}

template <typename R, Mode kMode>
inline void transform_one(const BlockRow& row, std::int64_t block, int blocks) {
  typename R::Type v[8];
  load<R>(row, block, blocks, v);
  COMPACTNETS_UNROLL
  for (int s = 0; s < kSteps; ++s) step<R, kMode>(s, v, row.scale);
  store<R>(row, block, blocks, v);
}

// Two registers of each row, the second a step behind the first: while one is transposed, the other
// is computed with. In step, both would want the same pipes at the same time (a third slower).
template <typename R, Mode kMode>
inline void transform_two(const BlockRow& row, std::int64_t block) {
  typename R::Type a[8], b[8];
  load<R>(row, block, R::kBlocks, a);
  step<R, kMode>(0, a, row.scale);
  load<R>(row, block + R::kBlocks, R::kBlocks, b);
  COMPACTNETS_UNROLL
  for (int s = 1; s < kSteps; ++s) {
    if (s % 2) step<R, kMode>(s, a, row.scale);
    step<R, kMode>(s - 1, b, row.scale);
    if (s % 2 == 0) step<R, kMode>(s, a, row.scale);
  }
  store<R>(row, block, R::kBlocks, a);
  step<R, kMode>(kSteps - 1, b, row.scale);
  store<R>(row, block + R::kBlocks, R::kBlocks, b);
}

template <typename R, Mode kMode>
inline void transform_row(const BlockRow& row) {
  std::int64_t block = 0;
  if constexpr (R::kTwoStreams)
    for (; block + 2 * R::kBlocks <= row.blocks; block += 2 * R::kBlocks)
      transform_two<R, kMode>(row, block);
  for (; block + R::kBlocks <= row.blocks; block += R::kBlocks)
    transform_one<R, kMode>(row, block, R::kBlocks);
  if (block < row.blocks)
    transform_one<R, kMode>(row, block, static_cast<int>(row.blocks - block));
}

template <typename R>
void transform(const BlockRow& row) {
  switch (row.mode) {
    case Mode::mask: return transform_row<R, Mode::mask>(row);
    case Mode::forward: return transform_row<R, Mode::forward>(row);
    case Mode::inverse: return transform_row<R, Mode::inverse>(row);
  }
}

}  // namespace
}  // namespace compactnets::transform
