"""What this machine can do on one core, by the loops that the kernels are made of.

    python -m kernels.bench.roofline

Kernels are judged by their share of these rates: `share` of a row's operations, or the bytes that
it moves, beside `read.*`.
"""

import functools

from compactnets.kernels import native


@functools.cache
def peaks() -> dict[str, float]:
    """Measured rates of one core, in about 0.3 s, once in a process; {} without compiled kernels.

    "<path>.<loop>" for each path of this machine (amx, avx512, avx2, portable), in 1e9 a second:

        fp32_fma       fp32 multiply-adds
        int8_dot       int8 multiply-adds (amx: 2x2 tiles with their loads)
        int8_gather    the same after a permutation of bytes: nonzeros of N:M sparsity
        bit_pairs      1-bit multiply-adds by the pair trick
        fp32_max_add   max and sum of floats; fp32_umax_add: the max taken as unsigned integers
        int8_max_add   max of bytes and sum
        int8_sad       differences of bytes in sliding windows, those that count

    "read.l1", "read.l2", "read.l3", "read.memory": plain reads of 16 KiB, half of the second-level
    cache, four times that cache, and 32 MiB that were dropped from all caches, in GB/s.
    """
    module = native.load()
    return {} if module is None else module.peaks()


def share(rate: float, peak: str) -> float | None:
    """rate (1e9 a second) as a fraction of a peak by its name; None where that is not known."""
    best = peaks().get(peak)
    return rate / best if best else None


if __name__ == "__main__":
    for name, rate in peaks().items():
        unit = "GB/s" if name.startswith("read.") else "G/s"
        print(f"{name:<24} {rate:>9.1f} {unit}")
