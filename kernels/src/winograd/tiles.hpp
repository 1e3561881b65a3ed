// The transforms and the product, written once for vectors of any width (`Lanes`, common/lanes*.hpp).
#pragma once
#include <cstdint>

#include "common/unroll.hpp"
#include "winograd/winograd.hpp"

namespace compactnets::winograd {
namespace {

// B' of four values, or vectors, in place.
template <typename V>
inline void input_step(V& a, V& b, V& c, V& d) {
  const V t0 = a - c, t1 = b + c, t2 = c - b, t3 = b - d;
  a = t0;
  b = t1;
  c = t2;
  d = t3;
}

// Depth and rows of one column of pixels: 16 vectors in, 16 out.
template <typename L, bool kWhole>
inline void transform_column(const float* const* rows, std::int64_t offset, int count, float* x,
                             std::int64_t step) {
  typename L::Type v[16];
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i)
    v[i] = kWhole ? L::load(rows[i] + offset) : L::load_first(rows[i] + offset, count);
  COMPACTNETS_UNROLL
  for (int i = 0; i < 4; ++i) input_step(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
  COMPACTNETS_UNROLL
  for (int i = 0; i < 4; ++i) input_step(v[i], v[4 + i], v[8 + i], v[12 + i]);
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i) L::store(x + i * step, v[i]);
}

// Neighbouring tiles share two columns, whose depth and rows are transformed once.
template <typename L>
void transform_input(const InputStrip& strip) {
  for (int c = 0; c < 2 * strip.tiles + 2; ++c) {
    const std::int64_t column = strip.first_column + c;
    const bool inside = column >= 0 && column < strip.columns;
    for (int first = 0; first < strip.channels; first += L::kCount) {
      const int count = strip.channels - first;
      float* x = strip.x + first / kRow * strip.block_step + c * kRow + first % kRow;
      const std::int64_t offset = column * strip.column_step + first;
      if (!inside)
        for (int i = 0; i < 16; ++i) L::store(x + i * strip.i_step, L::zero());
      else if (count >= L::kCount)
        transform_column<L, true>(strip.rows, offset, count, x, strip.i_step);
      else
        transform_column<L, false>(strip.rows, offset, count, x, strip.i_step);
    }
  }
}

// One row of B' along the columns, x[kFirst] - x[kSecond] or their sum, of kVectors vectors.
template <typename L, int kFirst, int kSecond, bool kSum, int kVectors>
inline void spread_vectors(const float* x, float* v, int tiles) {
  for (int t = 0; t < tiles; ++t, x += 2 * kRow, v += kRow) {
    COMPACTNETS_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      const typename L::Type a = L::load(x + kFirst * kRow + j * L::kCount);
      const typename L::Type b = L::load(x + kSecond * kRow + j * L::kCount);
      L::store(v + j * L::kCount, kSum ? a + b : a - b);
    }
  }
}

template <typename L, int kFirst, int kSecond, bool kSum>
inline void spread_column(const Spread& spread) {
  const float* x = spread.x;
  float* v = spread.v;
  int left = spread.channels;
  for (; left >= kRow; left -= kRow, x += spread.x_block_step, v += spread.v_block_step)
    spread_vectors<L, kFirst, kSecond, kSum, kRow / L::kCount>(x, v, spread.tiles);
  for (; left > 0; left -= L::kCount, x += L::kCount, v += L::kCount)
    spread_vectors<L, kFirst, kSecond, kSum, 1>(x, v, spread.tiles);
}

template <typename L>
void spread(const Spread& spread) {
  switch (spread.column) {
    case 0: return spread_column<L, 0, 2, false>(spread);
    case 1: return spread_column<L, 1, 2, true>(spread);
    case 2: return spread_column<L, 2, 1, false>(spread);
    default: return spread_column<L, 1, 3, false>(spread);
  }
}

// A column of A' along the columns: what a sum adds to the two columns of Y.
template <typename L>
inline void add_to(float* y, typename L::Type sum, int column) {
  float* const second = y + kRow;
  switch (column) {
    case 0: return L::store(y, sum);
    case 1:
      L::store(y, L::load(y) + sum);
      return L::store(second, sum);
    case 2:
      L::store(y, L::load(y) + sum);
      return L::store(second, L::load(second) - sum);
    default: return L::store(second, L::load(second) - sum);
  }
}

template <typename L, int kTiles, int kVectors>
inline void add_tile(float* y, const typename L::Type (&sums)[kTiles][kVectors], int column) {
  COMPACTNETS_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    COMPACTNETS_UNROLL
    for (int j = 0; j < kVectors; ++j)
      add_to<L>(y + 2 * t * kRow + j * L::kCount, sums[t][j], column);
  }
}

// kTiles rows by kVectors vectors of M, summed over the kept channels and added to Y.
template <typename L, int kTiles, int kVectors>
inline void multiply_tile(const Product& p, int tile, int column) {
  typename L::Type sums[kTiles][kVectors];
  COMPACTNETS_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    COMPACTNETS_UNROLL
    for (int j = 0; j < kVectors; ++j) sums[t][j] = L::zero();
  }
  const float* const v = p.v + tile * kRow;
  const float* u = p.u + column;
  for (int k = 0; k < p.kept; ++k, u += p.width) {
    const float* values = v + p.offsets[k];
    typename L::Type weights[kVectors];
    COMPACTNETS_UNROLL
    for (int j = 0; j < kVectors; ++j) weights[j] = L::load(u + j * L::kCount);
    COMPACTNETS_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      typename L::Type value = L::set1(values[t * kRow]);
      L::pin(value);
      COMPACTNETS_UNROLL
      for (int j = 0; j < kVectors; ++j) sums[t][j] = L::fma(value, weights[j], sums[t][j]);
    }
  }
  float* y = p.y + 2 * tile * kRow + column;
  switch (p.column) {  // outside of the loops over the sums
    case 0: return add_tile<L, kTiles, kVectors>(y, sums, 0);
    case 1: return add_tile<L, kTiles, kVectors>(y, sums, 1);
    case 2: return add_tile<L, kTiles, kVectors>(y, sums, 2);
    default: return add_tile<L, kTiles, kVectors>(y, sums, 3);
  }
}

// `tiles` <= kMost rows, whatever their number.
template <typename L, int kMost, int kVectors>
inline void multiply_rest(const Product& p, int tile, int tiles, int column) {
  if constexpr (kMost > 0) {
    if (tiles == kMost)
      multiply_tile<L, kMost, kVectors>(p, tile, column);
    else
      multiply_rest<L, kMost - 1, kVectors>(p, tile, tiles, column);
  }
}

// Rows are dealt evenly: 16 tiles are 8 + 8, not 14 + 2, whose sums would wait for each other.
template <typename L, int kTiles, int kVectors>
inline void multiply_columns(const Product& p, int column) {
  const int pieces = (p.tiles + kTiles - 1) / kTiles;
  for (int i = 0, tile = 0; i < pieces; ++i) {
    const int end = p.tiles * (i + 1) / pieces;
    multiply_rest<L, kTiles, kVectors>(p, tile, end - tile, column);
    tile = end;
  }
}

template <typename L, int kTiles>
void multiply(const Product& p) {
  constexpr int kTwo = 2 * L::kCount;
  int column = 0;
  for (; column + kTwo <= p.width; column += kTwo) multiply_columns<L, kTiles, 2>(p, column);
  if constexpr (kTwo > 16)
    if (column < p.width) multiply_columns<L, kTiles, 1>(p, column);
}

// A' of four vectors.
template <typename V>
inline void output_step(const V& a, const V& b, const V& c, const V& d, V& first, V& second) {
  const V sum = b + c, difference = b - c;
  first = a + sum;
  second = difference - d;
}

// A' along depth and rows of one column of a tile: 16 vectors in, 2x2 out.
template <typename L>
inline void output_column(const float* folded, std::int64_t step, typename L::Type bias,
                          typename L::Type (&out)[2][2]) {
  using V = typename L::Type;
  V depth[2][4];
  COMPACTNETS_UNROLL
  for (int h = 0; h < 4; ++h) {
    const float* p = folded + h * step;
    output_step<V>(L::load(p), L::load(p + 4 * step), L::load(p + 8 * step),
                   L::load(p + 12 * step), depth[0][h], depth[1][h]);
  }
  COMPACTNETS_UNROLL
  for (int d = 0; d < 2; ++d) {
    output_step<V>(depth[d][0], depth[d][1], depth[d][2], depth[d][3], out[d][0], out[d][1]);
    out[d][0] = out[d][0] + bias;
    out[d][1] = out[d][1] + bias;
  }
}

template <typename L>
void transform_output(const OutputStrip& strip) {
  const int columns = static_cast<int>(
      strip.columns < 2 * strip.tiles ? strip.columns : 2 * strip.tiles);
  for (int c = 0; c < columns; ++c)
    for (int first = 0; first < strip.outputs; first += L::kCount) {
      const int count = strip.outputs - first;
      typename L::Type out[2][2];
      output_column<L>(strip.folded + c * kRow + first, strip.i_step,
                       L::load_first(strip.bias + first, count), out);
      float* y = strip.y + c * strip.column_step + first;
      COMPACTNETS_UNROLL
      for (int i = 0; i < 4; ++i)
        if (i / 2 < strip.depths && i % 2 < strip.rows)
          L::store_first(y + i / 2 * strip.depth_step + i % 2 * strip.row_step, out[i / 2][i % 2],
                         count);
    }
}

}  // namespace
}  // namespace compactnets::winograd
