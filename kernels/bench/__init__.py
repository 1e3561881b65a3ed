"""Benchmarks of the compiled kernels beside what one would use instead.

    python -m kernels.bench                    all of them
    python -m kernels.bench binary_conv ...    some
    python -m kernels.bench --threads 2 --rounds 100

A benchmark is a module of this folder with `measure(settings) -> iterator of entries.Entry` and,
where it measures a whole network, `parts() -> microseconds of each part`.
Results are printed and kept in _build/bench.json, newest measurement of each row.
"""
