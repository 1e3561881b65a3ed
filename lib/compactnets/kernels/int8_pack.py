"""int8 weights in the layout that the int8 kernels read (kernels/src/int8/product.hpp)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

COLUMNS = 32  # output channels of a block
STEP = 64  # bytes of a row that a step takes
MAX_DEPTH = 65536  # values that a sum of 32 bits holds exactly: 255 * 128 * 65536 < 2**31


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, ...) float -> int8 of the same shape and float32 scales (out,): weight ~ scale * int8.

    Symmetric per output channel: the largest |w| of a channel becomes 127; a channel of zeros has
    scale 1. round half to even.
    """
    weight = weight.detach().float()
    largest = weight.abs().flatten(1).amax(1)
    scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    shaped = scale.view(-1, *(1,) * (weight.dim() - 1))
    return (weight / shaped).round().clamp(-127, 127).to(torch.int8), scale


def is_depthwise(channels: int, outputs: int, groups: int) -> bool:
    return groups > 1 and groups == channels == outputs


def packed_shape(
    outputs: int, channels: int, kernel_size: tuple[int, int], groups: int, dilation: int
) -> tuple[int, int]:
    """Blocks and bytes of a block; channels: of x; dilation: the horizontal one."""
    rows, columns = kernel_size
    if is_depthwise(channels, outputs, groups):
        return -(-outputs // COLUMNS), rows * columns * COLUMNS + 4 * COLUMNS
    if groups == 1 and dilation == 1:
        steps = rows * -(-columns * channels // STEP)
    else:
        steps = rows * columns * -(-(channels // groups) // STEP)
    return groups * -(-(outputs // groups) // COLUMNS), (steps * STEP + 4) * COLUMNS


def pack_int8(weight: Tensor, groups: int = 1, dilation: int = 1) -> Tensor:
    """int8 (out, in / groups, kh, kw) or (out, in) -> int8 (blocks, bytes).

    A block holds 32 output channels of one group: per step of 64 values of depth two tiles
    [16 quads][16 channels][4], then the channels' sums of weights (int32). The depth is cut by
    kernel row (its taps by its channels), or by tap with groups or a horizontal dilation (the
    second argument, which the layout depends on), each part filled up to steps with zeros.
    Depthwise: [tap][32 channels]. Any device. TypeError unless int8; ValueError if weight has
    another number of dimensions, is empty, or is deeper than a 32-bit sum is exact.
    """
    if weight.dtype is not torch.int8:
        raise TypeError(f"weight must be int8 (see quantize_weight), got {weight.dtype}")
    weight = weight.detach()
    weight = weight[:, :, None, None] if weight.dim() == 2 else weight
    if weight.dim() != 4 or weight.numel() == 0:
        raise ValueError(
            f"weight must be (out, in / groups, kh, kw) or (out, in), not empty: "
            f"got {tuple(weight.shape)}"
        )
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups={groups} does not divide {weight.shape[0]} output channels")
    if weight[0].numel() > MAX_DEPTH:
        raise ValueError(f"weight has depth {weight[0].numel()}, more than {MAX_DEPTH}")
    outputs, channels = weight.shape[0], weight.shape[1] * groups
    sums = weight.sum((1, 2, 3), dtype=torch.int32)
    taps = weight.permute(0, 2, 3, 1)  # (out, kh, kw, channels)
    if is_depthwise(channels, outputs, groups):
        blocks = _pad(taps.flatten(1), 0, COLUMNS).unflatten(0, (-1, COLUMNS)).transpose(1, 2)
        sums = _pad(sums, 0, COLUMNS).unflatten(0, (-1, COLUMNS))
        return torch.cat((blocks.flatten(1), _bytes(sums)), dim=1)
    parts = taps.flatten(2) if groups == 1 and dilation == 1 else taps.flatten(1, 2)
    depth = _pad(parts, 2, STEP).flatten(1).unflatten(0, (groups, -1))  # (groups, out, depth)
    columns = _pad(depth, 1, COLUMNS).unflatten(1, (-1, 2, 16)).unflatten(4, (-1, 16, 4))
    tiles = columns.permute(0, 1, 4, 2, 5, 3, 6)  # groups, blocks, steps, halves, quads, columns, 4
    sums = _pad(sums.unflatten(0, (groups, -1)), 1, COLUMNS).unflatten(1, (-1, COLUMNS))
    return torch.cat((tiles.flatten(2).flatten(0, 1), _bytes(sums.flatten(0, 1))), dim=1)


def unpack_int8(
    packed: Tensor,
    outputs: int,
    channels: int,
    kernel_size: Sequence[int] = (1, 1),
    groups: int = 1,
    dilation: int = 1,
) -> Tensor:
    """The int8 weight (out, in / groups, kh, kw) that pack_int8 packed; ValueError if another."""
    rows, width = kernel_size
    expected = packed_shape(outputs, channels, (rows, width), groups, dilation)
    if tuple(packed.shape) != expected:
        raise ValueError(f"packed must have shape {expected}, got {tuple(packed.shape)}")
    values = packed[:, : -4 * COLUMNS]
    if is_depthwise(channels, outputs, groups):
        taps = values.unflatten(1, (-1, COLUMNS)).transpose(1, 2).flatten(0, 1)[:outputs]
        return taps.unflatten(1, (1, rows, width))
    tiles = values.unflatten(0, (groups, -1)).unflatten(2, (-1, 2, 16, 16, 4))
    depth = tiles.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)[:, : outputs // groups]
    each = channels // groups
    parts = (rows, -1) if groups == 1 and dilation == 1 else (rows * width, -1)
    used = width * each if groups == 1 and dilation == 1 else each
    taps = depth.flatten(0, 1).unflatten(1, parts)[:, :, :used]
    return taps.reshape(outputs, rows, width, each).permute(0, 3, 1, 2)


def _pad(values: Tensor, dim: int, unit: int) -> Tensor:
    """Zeros at the end of dim, up to a multiple of unit."""
    after = -values.shape[dim] % unit
    return F.pad(values, (0, 0) * (values.dim() - 1 - dim) + (0, after)) if after else values


def _bytes(sums: Tensor) -> Tensor:
    return sums.contiguous().view(torch.int8)
