// Unrolls the loop that follows. GCC keeps an array of accumulators in registers only if every loop
// over it, the first and the last too, is unrolled; without it they are spilled at every step.
#pragma once

#if defined(__clang__)
#define COMPACTNETS_UNROLL _Pragma("unroll")
#else
#define COMPACTNETS_UNROLL _Pragma("GCC unroll 32")
#endif
