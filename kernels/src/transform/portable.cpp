// Any processor: a row of a block is two vectors of 4, transposed by way of memory.
#include "common/lanes_portable.hpp"
#include "transform/blocks.hpp"

namespace compactnets::transform {
namespace {

struct Row {
  Lanes::Type left, right;
};

inline Row operator+(Row a, Row b) { return {a.left + b.left, a.right + b.right}; }
inline Row operator-(Row a, Row b) { return {a.left - b.left, a.right - b.right}; }
inline Row operator*(Row a, Row b) { return {a.left * b.left, a.right * b.right}; }
inline Row operator-(Row a) { return {-a.left, -a.right}; }

struct Rows {
  using Type = Row;
  static constexpr int kBlocks = 1;
  static constexpr bool kTwoStreams = false;

  static Row load(const float* p, int) { return {Lanes::load(p), Lanes::load(p + 4)}; }
  static void store(float* p, Row v, int) {
    Lanes::store(p, v.left);
    Lanes::store(p + 4, v.right);
  }
  static Row repeat(const float* p) { return load(p, 1); }
  static Row set1(float value) { return {Lanes::set1(value), Lanes::set1(value)}; }
  static Row fma(Row a, Row b, Row c) { return a * b + c; }
  static Row fnma(Row a, Row b, Row c) { return c - a * b; }

  static void transpose(Row (&v)[8]) {
    float rows[8][8], columns[8][8];
    for (int i = 0; i < 8; ++i) store(rows[i], v[i], 1);
    for (int i = 0; i < 8; ++i)
      for (int j = 0; j < 8; ++j) columns[j][i] = rows[i][j];
    for (int i = 0; i < 8; ++i) v[i] = load(columns[i], 1);
  }
};

}  // namespace

const Operations portable_operations = {transform<Rows>};

}  // namespace compactnets::transform
