"""Packed sparse weights: rows of 1xN blocks, or of single weights (CSR).

A block is n consecutive outputs that share one input k, a channel and a tap of the kernel, and are
kept or dropped together: the 1xN pattern (arXiv:2105.14713, section 3; its blocks hold all taps of
a channel, here each tap is kept or dropped by itself). n = 1 is CSR. Per block the n values and k
are stored, per row of blocks where it starts: 4 n + 4 bytes a block.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCKS = (1, 2, 4, 8, 16)


class Packed(NamedTuple):
    """values (blocks, n) float32; index (blocks,) int32, ascending within a row: the input
    k = (channel * kh + ky) * kw + kx of each block; starts (out / n + 1,) int32: the blocks of row
    r, outputs r n .. r n + n - 1, are starts[r] .. starts[r + 1] - 1."""

    values: Tensor
    index: Tensor
    starts: Tensor

    @property
    def n(self) -> int:
        return self.values.shape[1]


def pack_blocks(weight: Tensor, n: int) -> Packed:
    """A masked dense weight, (out, in) or (out, in, kh, kw), in blocks of n outputs.

    A block is kept if any of its weights is not ±0, its zeros included: a weight of another
    pattern is packed exactly, but with more values than nonzeros. NaN counts as nonzero.
    ValueError unless n is 1, 2, 4, 8 or 16 and divides out.
    """
    if weight.dim() not in (2, 4) or weight.numel() == 0:
        raise ValueError(
            f"weight must be (out, in) or (out, in, kh, kw) and not empty, got shape "
            f"{tuple(weight.shape)}"
        )
    if n not in BLOCKS or weight.shape[0] % n:
        raise ValueError(f"n must be one of {BLOCKS} that divides out={weight.shape[0]}, got {n}")
    blocks = weight.detach().float().flatten(1).unflatten(0, (-1, n)).movedim(1, 2)  # (rows, K, n)
    kept = (blocks != 0).any(-1)
    counts = kept.sum(1)
    starts = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return Packed(
        blocks[kept].contiguous(),
        kept.nonzero()[:, 1].to(torch.int32),
        starts.to(torch.int32),
    )


def pack_csr(weight: Tensor) -> Packed:
    """The nonzeros of a masked dense weight, (out, in) or (out, in, kh, kw): blocks of one."""
    return pack_blocks(weight, 1)


def check_index(index: Tensor, starts: Tensor, inputs: int) -> None:
    """ValueError unless rows begin one after the other and name ascending inputs below `inputs`."""
    counts = starts.diff()
    if starts[0] != 0 or starts[-1] != index.numel() or (counts < 0).any():
        raise ValueError("starts must ascend from 0 to the number of blocks")
    if index.numel() == 0:
        return
    if index.min() < 0 or index.max() >= inputs:
        raise ValueError(f"index must be in 0..{inputs - 1}")
    rows = torch.repeat_interleave(counts)
    if ((index.diff() <= 0) & (rows.diff() == 0)).any():
        raise ValueError("index must ascend within a row")


def unpack(packed: Packed, shape: tuple[int, ...]) -> Tensor:
    """The dense weight of `shape`, (out, in) or (out, in, kh, kw), zeros where nothing was kept."""
    values, index, starts = packed
    n, rows = packed.n, starts.numel() - 1
    inputs = torch.Size(shape[1:]).numel()
    if rows * n != shape[0]:
        raise ValueError(f"packed has {rows * n} outputs, shape {shape} has {shape[0]}")
    check_index(index, starts, inputs)
    weight = values.new_zeros(rows, inputs, n)
    weight[torch.repeat_interleave(starts.diff()), index.long()] = values
    return weight.movedim(1, 2).reshape(shape)
