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
inline void transform_column(const float* const* rows, std::int64_t offset, int count,
                             float* scratch) {
  typename L::Type v[16];
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i)
    v[i] = kWhole ? L::load(rows[i] + offset) : L::load_first(rows[i] + offset, count);
  COMPACTNETS_UNROLL
  for (int i = 0; i < 4; ++i) input_step(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
  COMPACTNETS_UNROLL
  for (int i = 0; i < 4; ++i) input_step(v[i], v[4 + i], v[8 + i], v[12 + i]);
  COMPACTNETS_UNROLL
  for (int i = 0; i < 16; ++i) L::store(scratch + i * L::kCount, v[i]);
}

// Neighbouring tiles share two columns: depth and rows are transformed once per column, then the
// columns of one (depth, row) after the other, carrying the shared two along.
template <typename L>
void transform_input(const InputStrip& strip) {
  constexpr int kColumn = 16 * L::kCount;
  const int columns = 2 * strip.tiles + 2;
  for (int first = 0; first < strip.channels; first += L::kCount) {
    const int count = strip.channels - first;
    for (int c = 0; c < columns; ++c) {
      const std::int64_t column = strip.first_column + c;
      float* scratch = strip.scratch + c * kColumn;
      const std::int64_t offset = column * strip.column_step + first;
      if (column < 0 || column >= strip.columns)
        for (int i = 0; i < 16; ++i) L::store(scratch + i * L::kCount, L::zero());
      else if (count >= L::kCount)
        transform_column<L, true>(strip.rows, offset, count, scratch);
      else
        transform_column<L, false>(strip.rows, offset, count, scratch);
    }
    float* v = strip.v + first / kRow * strip.block_step + first % kRow;
    for (int i = 0; i < 16; ++i, v += 4 * strip.position_step) {
      const float* scratch = strip.scratch + i * L::kCount;
      typename L::Type a = L::load(scratch), b = L::load(scratch + kColumn);
      float *v0 = v, *v1 = v0 + strip.position_step, *v2 = v1 + strip.position_step,
            *v3 = v2 + strip.position_step;
      for (int t = 0; t < strip.tiles; ++t) {
        scratch += 2 * kColumn;
        const typename L::Type c = L::load(scratch), d = L::load(scratch + kColumn);
        L::store(v0 + t * kRow, a - c);
        L::store(v1 + t * kRow, b + c);
        L::store(v2 + t * kRow, c - b);
        L::store(v3 + t * kRow, b - d);
        a = c;
        b = d;
      }
    }
  }
}

// kTiles rows by kVectors vectors of M, summed over the kept channels.
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
  float* m = p.m + tile * kRow + column;
  COMPACTNETS_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    COMPACTNETS_UNROLL
    for (int j = 0; j < kVectors; ++j) L::store(m + t * kRow + j * L::kCount, sums[t][j]);
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

// One tile, one vector of outputs: 64 vectors in, 8 out. By columns, so that no more than
// 16 finished and 8 unfinished vectors are alive.
template <typename L>
inline void output_tile(const float* m, std::int64_t step, typename L::Type bias,
                        typename L::Type (&out)[2][2][2]) {
  using V = typename L::Type;
  V done[2][2][4];
  COMPACTNETS_UNROLL
  for (int w = 0; w < 4; ++w) {
    V depth[2][4];
    COMPACTNETS_UNROLL
    for (int h = 0; h < 4; ++h) {
      const float* p = m + (4 * h + w) * step;
      output_step<V>(L::load(p), L::load(p + 16 * step), L::load(p + 32 * step),
                     L::load(p + 48 * step), depth[0][h], depth[1][h]);
    }
    COMPACTNETS_UNROLL
    for (int d = 0; d < 2; ++d)
      output_step<V>(depth[d][0], depth[d][1], depth[d][2], depth[d][3], done[d][0][w],
                     done[d][1][w]);
  }
  COMPACTNETS_UNROLL
  for (int d = 0; d < 2; ++d) {
    COMPACTNETS_UNROLL
    for (int h = 0; h < 2; ++h) {
      output_step<V>(done[d][h][0], done[d][h][1], done[d][h][2], done[d][h][3], out[d][h][0],
                     out[d][h][1]);
      out[d][h][0] = out[d][h][0] + bias;
      out[d][h][1] = out[d][h][1] + bias;
    }
  }
}

template <typename L>
void transform_output(const OutputStrip& strip) {
  for (int t = 0; t < strip.tiles; ++t) {
    const std::int64_t left = strip.columns - 2 * t;
    const int columns = left < 2 ? 1 : 2;
    for (int first = 0; first < strip.outputs; first += L::kCount) {
      const int count = strip.outputs - first;
      typename L::Type out[2][2][2];
      output_tile<L>(strip.m + t * kRow + first, strip.position_step,
                     L::load_first(strip.bias + first, count), out);
      float* y = strip.y + 2 * t * strip.column_step + first;
      COMPACTNETS_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int d = i / 4, h = i / 2 % 2, w = i % 2;
        if (d < strip.depths && h < strip.rows && w < columns)
          L::store_first(y + d * strip.depth_step + h * strip.row_step + w * strip.column_step,
                         out[d][h][w], count);
      }
    }
  }
}

}  // namespace
}  // namespace compactnets::winograd
