"""Bytes of a convolution's weights in each format: fp32 values, int32 indices and starts.

The format of arXiv:2105.14713 stores per kept block all taps of n kernels and one index; the
kernels of this package keep an index for every tap (compactnets.kernels.sparse_pack), which is the
same for 1x1 convolutions.
"""

_VALUE = _INDEX = 4  # bytes


def dense_bytes(outputs: int, inputs: int, taps: int = 1) -> int:
    """4 bytes a weight."""
    return _VALUE * outputs * inputs * taps


def block_bytes(outputs: int, blocks: int, n: int, taps: int = 1) -> int:
    """D + I + P of block rows: values 4 n taps, an index per kept block, out / n + 1 starts.

    ValueError unless n divides the outputs.
    """
    if n < 1 or outputs % n:
        raise ValueError(f"blocks of n={n} do not divide {outputs} outputs")
    return blocks * (_VALUE * n * taps + _INDEX) + _INDEX * (outputs // n + 1)


def csr_bytes(rows: int, nonzeros: int) -> int:
    """A value and a column index per nonzero, rows + 1 starts."""
    return nonzeros * (_VALUE + _INDEX) + _INDEX * (rows + 1)
