// Depthwise 3x3 convolution, padding 1, stride 1 or 2, channels first, all nine taps kept: the
// layer between the sparse ones of a mobile network. Included like tile.hpp, into the namespace of
// each instruction set, behind Mask, inside, load_masked and the others.
//
// Pixels of a row lie in the lanes; the nine weights stay in registers. The input is read where it
// lies: lanes beyond a row's ends are masked, which makes the zero padding. Stride 1 walks down a
// column of vectors: an input row is loaded three times (shifted by -1, 0, 1) for the nine products
// with the three output rows that it touches.

struct Window {
  Mask left, center, right;  // lanes whose pixel x - 1, x, x + 1 is in the row
};

struct Weights {
  Vector of[9], bias;
};

inline Vector limited(Vector v, const DepthwiseTask& task) {
  if (task.at_least) v = at_least(v, broadcast(&task.low));
  return task.at_most ? at_most(v, broadcast(&task.high)) : v;
}

inline Vector add_row(Vector sum, Vector left, Vector center, Vector right, const Vector* weights) {
  sum = multiply_add(left, weights[0], sum);
  sum = multiply_add(center, weights[1], sum);
  return multiply_add(right, weights[2], sum);
}

inline void depthwise_column(const DepthwiseTask& task, const float* x, float* y,
                             const Weights& weights, std::int64_t column) {
  const std::int64_t width = task.in_x;
  const Window window = {inside(column - 1, width), inside(column, width),
                         inside(column + 1, width)};
  const int tail = static_cast<int>(width - column < kLanes ? width - column : kLanes);
  Vector above = weights.bias, middle = weights.bias;  // sums of the output rows r - 1 and r
  x += column;
  y += column;
  for (std::int64_t r = 0; r < task.in_y; ++r, x += width) {
    const Vector left = load_masked(x - 1, window.left);
    const Vector center = load_masked(x, window.center);
    const Vector right = load_masked(x + 1, window.right);
    above = add_row(above, left, center, right, weights.of + 6);
    middle = add_row(middle, left, center, right, weights.of + 3);
    const Vector below = add_row(weights.bias, left, center, right, weights.of);
    if (r > 0) store_some(y + (r - 1) * width, limited(above, task), tail);
    above = middle;
    middle = below;
  }
  store_some(y + (task.in_y - 1) * width, limited(above, task), tail);
}

// Pixels 2 c - 1, 2 c and 2 c + 1 of kLanes output columns c.
inline void depthwise_column_of_two(const DepthwiseTask& task, const float* x, float* y,
                                    const Weights& weights, std::int64_t column) {
  const std::int64_t width = task.in_x, first = 2 * column;
  const Mask before[2] = {inside(first - 2, width), inside(first - 2 + kLanes, width)};
  const Mask at[2] = {inside(first, width), inside(first + kLanes, width)};
  const std::int64_t left_columns = task.out_x - column;
  const int tail = static_cast<int>(left_columns < kLanes ? left_columns : kLanes);
  for (std::int64_t r = 0; r < task.out_y; ++r) {
    Vector sum = weights.bias;
    COMPACTNETS_UNROLL
    for (int ky = 0; ky < 3; ++ky) {
      const std::int64_t row = 2 * r + ky - 1;
      if (row < 0 || row >= task.in_y) continue;
      const float* from = x + row * width + first;
      const Vector pixels[2] = {load_masked(from, at[0]), load_masked(from + kLanes, at[1])};
      const Vector earlier[2] = {load_masked(from - 2, before[0]),
                                 load_masked(from - 2 + kLanes, before[1])};
      sum = add_row(sum, odd_lanes(earlier[0], earlier[1]), even_lanes(pixels[0], pixels[1]),
                    odd_lanes(pixels[0], pixels[1]), weights.of + 3 * ky);
    }
    store_some(y + r * task.out_x + column, limited(sum, task), tail);
  }
}

void depthwise(const DepthwiseTask& task) {
  for (std::int64_t c = task.first; c < task.last; ++c) {
    Weights weights;
    COMPACTNETS_UNROLL
    for (int tap = 0; tap < 9; ++tap) weights.of[tap] = broadcast(task.values + 9 * c + tap);
    weights.bias = task.bias ? broadcast(task.bias + c) : zero();
    const float* x = task.x + c * task.in_y * task.in_x;
    float* y = task.y + c * task.out_y * task.out_x;
    for (std::int64_t column = 0; column < task.out_x; column += kLanes)
      if (task.stride == 1)
        depthwise_column(task, x, y, weights, column);
      else
        depthwise_column_of_two(task, x, y, weights, column);
  }
}
