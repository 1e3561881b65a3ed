// The inner loops of the sparse product, written once for every instruction set. Included inside
// the anonymous namespace of avx512.cpp, avx2.cpp and portable.cpp, behind their definitions of
// Vector and kLanes, of load, store and their partial and strided forms, of broadcast, add,
// multiply_add, at_least, at_most, pin; Widest<N> is the largest T whose N * T sums leave room for
// the operands.
//
// No inner loop spills: objdump shows no (%rsp) between the multiplications. A function per row and
// sums in one loop nest keep it so: GCC 12 spills at some widths where all is inlined into one.

// Sums of N outputs by T vectors.
template <int N, int T>
struct Sums {
  Vector of[N][T];
};

template <int N, int T>
inline void add_block(Sums<N, T>& sums, const float* x, const float* values) {
  Vector in[T];
  if constexpr (N == 1) {  // x is used once: an operand in memory
    const Vector w = broadcast(values);
    pin(x);
    COMPACTNETS_UNROLL
    for (int v = 0; v < T; ++v)
      sums.of[0][v] = multiply_add(w, load(x + v * kLanes), sums.of[0][v]);
    return;
  }
  COMPACTNETS_UNROLL
  for (int v = 0; v < T; ++v) {
    in[v] = load(x + v * kLanes);
    pin(in[v]);
  }
  COMPACTNETS_UNROLL
  for (int n = 0; n < N; ++n) {
    Vector w = broadcast(values + n);
    pin(w);
    COMPACTNETS_UNROLL
    for (int v = 0; v < T; ++v) sums.of[n][v] = multiply_add(w, in[v], sums.of[n][v]);
  }
}

// The sums of one output: from the bias, or on from where the range of inputs before left them.
template <int T>
inline void start(Vector (&sums)[T], const TileTask& task, std::int64_t output, int tail) {
  if (task.resume) {
    const float* y = task.y + output * task.y_pitch;
    COMPACTNETS_UNROLL
    for (int v = 0; v < T; ++v)
      sums[v] = v + 1 < T ? load(y + v * kLanes) : load_some(y + v * kLanes, tail);
  } else {
    const Vector bias = task.bias ? broadcast(task.bias + output) : zero();
    COMPACTNETS_UNROLL
    for (int v = 0; v < T; ++v) sums[v] = bias;
  }
}

template <int T>
inline void finish(Vector (&sums)[T], const TileTask& task, std::int64_t output, int tail) {
  float* y = task.y + output * task.y_pitch;
  if (task.at_least) {
    const Vector low = broadcast(&task.low);
    COMPACTNETS_UNROLL
    for (int v = 0; v < T; ++v) sums[v] = at_least(sums[v], low);
  }
  if (task.at_most) {
    const Vector high = broadcast(&task.high);
    COMPACTNETS_UNROLL
    for (int v = 0; v < T; ++v) sums[v] = at_most(sums[v], high);
  }
  COMPACTNETS_UNROLL
  for (int v = 0; v + 1 < T; ++v) store(y + v * kLanes, sums[v]);
  store_some(y + (T - 1) * kLanes, sums[T - 1], tail);
}

template <int N, int T>
inline void multiply_row(const TileTask& task, std::int64_t row, int piece, int tail) {
  // Too few sums do not hide the four cycles that a multiply-add takes: every second block then
  // goes to sums of its own.
  constexpr bool kTwoChains = N * T < 8 && 2 * T <= Widest<1>::value;
  const std::int64_t output = row * task.block + piece;
  const std::int32_t* step = task.steps + task.first[row];
  const std::int32_t* const end = task.steps + task.last[row];
  const float* values =
      task.values + static_cast<std::int64_t>(task.first[row]) * task.block + piece;
  Sums<N, T> sums;
  COMPACTNETS_UNROLL
  for (int n = 0; n < N; ++n) start<T>(sums.of[n], task, output + n, tail);
  if constexpr (kTwoChains) {
    Sums<N, T> odd;
    COMPACTNETS_UNROLL
    for (int n = 0; n < N; ++n) {
      COMPACTNETS_UNROLL
      for (int v = 0; v < T; ++v) odd.of[n][v] = zero();
    }
    for (; step + 1 < end; step += 2, values += 2 * task.block) {
      add_block<N, T>(sums, task.x + step[0] * task.pitch, values);
      add_block<N, T>(odd, task.x + step[1] * task.pitch, values + task.block);
    }
    COMPACTNETS_UNROLL
    for (int n = 0; n < N; ++n) {
      COMPACTNETS_UNROLL
      for (int v = 0; v < T; ++v) sums.of[n][v] = add(sums.of[n][v], odd.of[n][v]);
    }
  }
  for (; step < end; ++step, values += task.block)
    add_block<N, T>(sums, task.x + *step * task.pitch, values);
  COMPACTNETS_UNROLL
  for (int n = 0; n < N; ++n) finish<T>(sums.of[n], task, output + n, tail);
}

template <int N, int T>
void multiply_tile(const TileTask& task) {
  const int tail = task.pixels - (T - 1) * kLanes;
  for (std::int64_t row = task.first_row; row < task.last_row; ++row)
    for (int piece = 0; piece < task.block; piece += N)
      multiply_row<N, T>(task, row, piece, tail);
}

// Runs multiply_tile<N, task.vectors>.
template <int N, int T = Widest<N>::value>
void multiply_width(const TileTask& task) {
  if (task.vectors == T) return multiply_tile<N, T>(task);
  if constexpr (T > 1) multiply_width<N, T - 1>(task);
}

// Two rows of CSR at once: a vector of x at an input that both have is loaded once for both.
template <int T>
inline void multiply_pair(const TileTask& task, const Pair& pair, int tail) {
  Sums<2, T> sums;
  start<T>(sums.of[0], task, pair.row[0], tail);
  start<T>(sums.of[1], task, pair.row[1], tail);
  const std::int32_t* step = task.steps + pair.shared;
  const float* values = task.values + pair.values;
  for (const std::int32_t* end = task.steps + pair.alone[0]; step < end; ++step, values += 2)
    add_block<2, T>(sums, task.x + *step * task.pitch, values);
  Sums<1, T> one;
  COMPACTNETS_UNROLL
  for (int row = 0; row < 2; ++row) {
    COMPACTNETS_UNROLL
    for (int v = 0; v < T; ++v) one.of[0][v] = sums.of[row][v];
    for (const std::int32_t* end = task.steps + pair.alone[row + 1]; step < end; ++step, ++values)
      add_block<1, T>(one, task.x + *step * task.pitch, values);
    COMPACTNETS_UNROLL
    for (int v = 0; v < T; ++v) sums.of[row][v] = one.of[0][v];
  }
  finish<T>(sums.of[1], task, pair.row[1], tail);  // a row without a partner is stored twice
  finish<T>(sums.of[0], task, pair.row[0], tail);
}

template <int T = Widest<2>::value>
void multiply_pairs(const TileTask& task) {
  if (task.vectors == T) {
    const int tail = task.pixels - (T - 1) * kLanes;
    for (const Pair* pair = task.pairs; pair < task.pairs_end; ++pair)
      multiply_pair<T>(task, *pair, tail);
    return;
  }
  if constexpr (T > 1) multiply_pairs<T - 1>(task);
}

void multiply(const TileTask& task) {
  if (task.pairs) return multiply_pairs(task);
  if (task.block == 1) return multiply_width<1>(task);
  if (task.block == 2) return multiply_width<2>(task);
  multiply_width<4>(task);
}

template <int Step>
void copy_rows(const float* from, std::int64_t from_pitch, std::int64_t rows, std::int64_t columns,
               float* to, std::int64_t to_pitch, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r, from += from_pitch, to += to_pitch) {
    std::int64_t c = 0;
    for (; c + kLanes < columns; c += kLanes)
      store(to + c, Step == 1 ? load(from + c) : load_every_second(from + 2 * c));
    for (; c < width; c += kLanes) {
      const int left = static_cast<int>(columns - c);
      const Vector last = left <= 0   ? zero()
                          : Step == 1 ? load_some(from + c, left)
                                      : load_some_every_second(from + 2 * c, left);
      store_some(to + c, last, static_cast<int>(width - c));
    }
  }
}

void copy(const float* from, std::int64_t from_pitch, std::int64_t step, std::int64_t rows,
          std::int64_t columns, float* to, std::int64_t to_pitch, std::int64_t width) {
  (step == 1 ? copy_rows<1> : copy_rows<2>)(from, from_pitch, rows, columns, to, to_pitch, width);
}

// In squares of kLanes by kLanes: transpose_square reads rows_left rows of columns_left values
// (more than kLanes count as kLanes; zeros stand for what is missing) and writes columns_left rows.
void transpose(const float* from, std::int64_t from_pitch, std::int64_t rows, std::int64_t columns,
               float* to, std::int64_t to_pitch, bool pad) {
  for (std::int64_t r = 0; r < rows; r += kLanes)
    for (std::int64_t c = 0; c < columns; c += kLanes)
      transpose_square(from + r * from_pitch + c, from_pitch, rows - r, columns - c,
                       to + c * to_pitch + r, to_pitch, pad);
}

constexpr Operations make_operations() {
  return {kLanes,
          {Widest<1>::value, Widest<2>::value, Widest<4>::value},
          multiply,
          depthwise,
          transpose,
          copy};
}
