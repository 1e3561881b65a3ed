"""Signs of weights as bits, in the layout that the 1-bit kernels read (kernels/src/binary)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16  # output channels of a block, one per 32-bit lane
WORD = 32  # input channels of a word
_BIT = torch.arange(WORD, dtype=torch.int64)


def blocks_and_steps(
    out_channels: int, in_channels: int, kernel_size: Sequence[int], groups: int
) -> tuple[int, int]:
    """Shape of a packed weight but for the lanes: blocks, and steps (words, then tap sums)."""
    words = -(-(in_channels // groups) // WORD)
    blocks = groups * -(-(out_channels // groups) // LANES)
    return blocks, kernel_size[0] * kernel_size[1] * (words + 1)


def pack_weight(weight: Tensor, groups: int = 1) -> Tensor:
    """Signs of a convolution's weight (out, in / groups, kh, kw) -> int32 (blocks, steps, 16).

    A block holds 16 output channels of one group, one per lane; a bit is 1 where not weight >= 0
    (so ±0 is +1 and NaN is -1). Steps: for each tap the pairs of words of 32 input channels, the
    second of a pair stored as the xor of both; then each tap's last word if their number is odd;
    then each tap's sum of signs, with which zero padding is exact. Any dtype and device; spare
    bits and lanes are 0. ValueError if weight has not 4 dimensions, is empty, or groups does not
    divide its output channels.
    """
    if weight.dim() != 4 or weight.numel() == 0:
        raise ValueError(
            f"weight must be (out, in / groups, kh, kw), not empty: got {tuple(weight.shape)}"
        )
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups={groups} does not divide {weight.shape[0]} output channels")
    channels = weight.shape[1]
    negative = ~(weight.detach() >= 0)
    sums = channels - 2 * negative.sum(1)  # (out, kh, kw)
    padded = F.pad(negative.to(torch.int64).flatten(2), (0, 0, 0, -channels % WORD))
    bits = padded.unflatten(1, (-1, WORD)) << _BIT.to(weight.device)[:, None]
    words = bits.sum(2)  # (out, words, taps), int64 so that bit 31 does not overflow
    words, sums = (_to_lanes(t, groups) for t in (words, sums.flatten(1).unsqueeze(1)))
    even = words.shape[2] // 2 * 2
    first, second = words[:, :, 0:even:2], words[:, :, 1:even:2]
    pairs = torch.stack((first, first ^ second), dim=3).flatten(1, 3)
    steps = torch.cat((pairs, words[:, :, even:].flatten(1, 2), sums.flatten(1, 2)), dim=1)
    return steps.to(torch.int32).contiguous()


def _to_lanes(values: Tensor, groups: int) -> Tensor:
    """(out, words, taps) -> (blocks, taps, words, 16), spare lanes 0."""
    per_group = values.unflatten(0, (groups, -1))
    padded = F.pad(per_group, (0, 0, 0, 0, 0, -per_group.shape[1] % LANES))
    return padded.flatten(0, 1).unflatten(0, (-1, LANES)).permute(0, 3, 2, 1)


def unpack_weight(
    packed: Tensor,
    out_channels: int,
    in_channels: int,
    kernel_size: Sequence[int],
    groups: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The weight of ±1, (out, in / groups, kh, kw), that pack_weight packed.

    ValueError if the packed tensor is not of the size that the other arguments imply.
    """
    expected = (*blocks_and_steps(out_channels, in_channels, kernel_size, groups), LANES)
    if tuple(packed.shape) != expected:
        raise ValueError(f"packed must have shape {expected}, got {tuple(packed.shape)}")
    taps = kernel_size[0] * kernel_size[1]
    count = expected[1] // taps - 1  # words of a tap
    paired = taps * (count // 2) * 2
    pairs = packed[:, :paired].unflatten(1, (taps, -1, 2)) if paired else None
    words = packed[:, paired : taps * count].unflatten(1, (taps, count % 2)) if count % 2 else None
    parts = []
    if pairs is not None:
        first, both = pairs[:, :, :, 0], pairs[:, :, :, 1]
        parts.append(torch.stack((first, first ^ both), dim=3).flatten(2, 3))
    if words is not None:
        parts.append(words)
    lanes = torch.cat(parts, dim=2)  # (blocks, taps, words, 16)
    bits = (lanes.unsqueeze(3) >> _BIT.to(packed.device, torch.int32)[:, None]) & 1
    channels = bits.flatten(2, 3)[:, :, : in_channels // groups]  # (blocks, taps, channels, 16)
    rows = channels.permute(0, 3, 2, 1).unflatten(0, (groups, -1)).flatten(1, 2)
    signs = 1 - 2 * rows[:, : out_channels // groups].flatten(0, 1)
    return signs.unflatten(2, tuple(kernel_size)).to(dtype)
