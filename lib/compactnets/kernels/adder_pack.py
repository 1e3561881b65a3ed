"""Weights of adder layers in the layouts that the kernels read (kernels/src/adder)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16  # outputs of a block, one per lane
QUAD = 4  # neighbouring taps of a step of 8-bit codes that slide
GROUP = 8  # channels of a step of 8-bit codes that do not
CODES = (torch.uint8, torch.int8)


def slides(kernel_size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether 8-bit codes take the sliding way: stride 1 and at least 3 taps in a row."""
    return tuple(stride) == (1, 1) and kernel_size[1] >= 3


def packed_shape(
    dtype: torch.dtype,
    out_channels: int,
    in_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
) -> tuple[int, int, int]:
    """Shape of a packed weight."""
    blocks = -(-out_channels // BLOCK)
    height, width = kernel_size
    if dtype not in CODES:
        return blocks, in_channels * height * width + 1, BLOCK
    if slides(kernel_size, stride):
        return blocks, in_channels * height * -(-width // QUAD), BLOCK * QUAD
    return blocks, height * width * -(-in_channels // GROUP), BLOCK * GROUP


def pack_adder_weight(weight: Tensor, stride: Sequence[int] = (1, 1)) -> Tensor:
    """A weight (out, in, kh, kw) for adder_conv2d_packed at this stride.

    float32 -> float32 (blocks, in * kh * kw + 1, 16): outputs in lanes; the last row is each
    output's sum. int8 or uint8 codes -> the same dtype, (blocks, steps, bytes), stored as unsigned
    (signed codes moved up by 128). Spare lanes and bytes are 0. TypeError for another dtype,
    ValueError if weight has not 4 dimensions or is empty.
    """
    if weight.dim() != 4 or weight.numel() == 0:
        raise ValueError(f"weight must be (out, in, kh, kw), not empty: got {tuple(weight.shape)}")
    if weight.dtype is torch.float32:
        return _pack_floats(weight.detach())
    if weight.dtype not in CODES:
        raise TypeError(f"weight must be float32, int8 or uint8, got {weight.dtype}")
    codes = _flip(weight) if weight.dtype is torch.int8 else weight
    packed = _pack_sliding(codes) if slides(weight.shape[2:], stride) else _pack_plain(codes)
    return packed.view(weight.dtype)


def unpack_adder_weight(
    packed: Tensor,
    out_channels: int,
    in_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
) -> Tensor:
    """The weight (out, in, kh, kw) that pack_adder_weight packed. ValueError if it does not fit."""
    expected = packed_shape(packed.dtype, out_channels, in_channels, kernel_size, stride)
    if tuple(packed.shape) != expected:
        raise ValueError(f"packed must have shape {expected}, got {tuple(packed.shape)}")
    height, width = kernel_size
    if packed.dtype not in CODES:
        rows = packed[:, :-1].transpose(1, 2).flatten(0, 1)[:out_channels]
        return rows.unflatten(1, (height, width, in_channels)).permute(0, 3, 1, 2).contiguous()
    codes = packed.view(torch.uint8)
    if slides(kernel_size, stride):
        steps = codes.unflatten(2, (8, 2, QUAD)).unflatten(1, (in_channels, height, -1))
        # (block, in, kh, segment, 8, 2, quad)
        dense = steps.permute(0, 5, 4, 1, 2, 3, 6).flatten(5).flatten(0, 2)[..., :width]
    else:
        steps = codes.unflatten(2, (BLOCK, GROUP)).unflatten(1, (height, width, -1))
        # (block, kh, kw, group, 16, 8)
        dense = steps.permute(0, 4, 3, 5, 1, 2).flatten(2, 3).flatten(0, 1)[:, :in_channels]
    dense = dense[:out_channels].contiguous()
    return _flip(dense) if packed.dtype is torch.int8 else dense


def _flip(codes: Tensor) -> Tensor:
    """int8 -> uint8 and back: moved by 128."""
    other = torch.int8 if codes.dtype is torch.uint8 else torch.uint8
    return (codes.view(torch.uint8) ^ 128).view(other)


def _pack_floats(weight: Tensor) -> Tensor:
    outputs = weight.shape[0]
    rows = weight.permute(0, 2, 3, 1).flatten(1)  # taps, then channels
    sums = rows.double().sum(1, keepdim=True).float()
    rows = F.pad(torch.cat((rows, sums), dim=1), (0, 0, 0, -outputs % BLOCK))
    return rows.unflatten(0, (-1, BLOCK)).transpose(1, 2).contiguous()


def _pack_sliding(codes: Tensor) -> Tensor:
    outputs, _, _, width = codes.shape
    padded = F.pad(codes, (0, -width % QUAD, 0, 0, 0, 0, 0, -outputs % BLOCK))
    # (block, half, 8, in, kh, segment, quad) -> steps in front, then 8 outputs by 2 halves
    split = padded.unflatten(3, (-1, QUAD)).unflatten(0, (-1, 2, 8))
    return split.permute(0, 3, 4, 5, 2, 1, 6).flatten(4).flatten(1, 3).contiguous()


def _pack_plain(codes: Tensor) -> Tensor:
    outputs, channels = codes.shape[:2]
    padded = F.pad(codes, (0, 0, 0, 0, 0, -channels % GROUP, 0, -outputs % BLOCK))
    # (block, 16, group, 8, kh, kw) -> taps and groups in front
    split = padded.unflatten(1, (-1, GROUP)).unflatten(0, (-1, BLOCK))
    return split.permute(0, 4, 5, 2, 1, 3).flatten(4).flatten(1, 3).contiguous()
