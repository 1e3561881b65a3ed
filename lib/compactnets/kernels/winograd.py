"""3-D convolution 3x3x3 by Winograd's F(2x2x2, 3x3x3): 3.375 times fewer multiplications.

A tile of 2x2x2 outputs is computed from 4x4x4 inputs as A'[(G g G') * (B' d B)]A, along all three
axes (arXiv:1509.09308 has it in 2-D). In the transformed domain the 64 positions of a tile never
mix; at each the convolution is a matrix product over channels, from which columns may be pruned
(arXiv:2301.11180): `keep` says, position by position, which input channels take part.
"""

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels import native
from compactnets.kernels.geometry import positions, triple
from compactnets.kernels.operator import Operator

POSITIONS = 64  # of a transformed tile: 16 * depth + 4 * row + column
PANEL = 32  # outputs that lie side by side in a packed weight
INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B'
WEIGHT = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))  # A'


def _along_all_axes(matrix: Sequence[Sequence[float]], x: Tensor) -> Tensor:
    """matrix applied to each of the last three axes of x."""
    m = torch.tensor(matrix, dtype=x.dtype, device=x.device)
    return torch.einsum("ia,jb,kc,...abc->...ijk", m, m, m, x)


def transform_weight(weight: Tensor) -> Tensor:
    """(out, in, 3, 3, 3) -> (64, out, in) float32, computed in double precision."""
    if weight.dim() != 5 or tuple(weight.shape[2:]) != (3, 3, 3):
        raise ValueError(f"weight must be (out, in, 3, 3, 3), got shape {tuple(weight.shape)}")
    return _along_all_axes(WEIGHT, weight.detach().double()).flatten(2).movedim(2, 0).float()


def pack_transformed(transformed: Tensor, keep: Tensor) -> Tensor:
    """Kept columns of a transformed weight (64, out, in), one after the other: float32, 1-D.

    Position by position, in panels of 32 outputs (the last may have 16; spare outputs are zero):
    (kept channels, outputs of the panel). keep (64, in) bool. ValueError if shapes do not fit.
    """
    if transformed.dim() != 3 or transformed.shape[0] != POSITIONS:
        raise ValueError(f"transformed must be (64, out, in), got {tuple(transformed.shape)}")
    _check_keep(keep, transformed.shape[2])
    padded = F.pad(transformed.detach().float(), (0, 0, 0, -transformed.shape[1] % 16))
    pieces = [
        panel.T.flatten()
        for matrix, kept in zip(padded, keep, strict=True)
        for panel in matrix[:, kept].split(PANEL)
    ]
    return torch.cat(pieces)


def unpack_transformed(packed: Tensor, keep: Tensor, out_channels: int) -> Tensor:
    """What pack_transformed packed, (64, out, in), with zeros in the columns that were dropped."""
    padded = out_channels + -out_channels % 16
    counts = keep.sum(1)
    if packed.dim() != 1 or packed.numel() != int(counts.sum()) * padded:
        raise ValueError(
            f"packed has shape {tuple(packed.shape)}; keep and {out_channels} outputs need "
            f"({int(counts.sum()) * padded},)"
        )
    transformed = packed.new_zeros(POSITIONS, padded, keep.shape[1])
    matrices = packed.split((counts * padded).tolist())
    for position, (values, count) in enumerate(zip(matrices, counts.tolist(), strict=True)):
        widths = [min(PANEL, padded - first) for first in range(0, padded, PANEL)]
        panels = values.split([count * width for width in widths])
        rows = [p.unflatten(0, (count, w)).T for p, w in zip(panels, widths, strict=True)]
        transformed[position, :, keep[position]] = torch.cat(rows)
    return transformed[:, :out_channels]


def _check_keep(keep: Tensor, channels: int) -> None:
    if keep.dtype is not torch.bool:
        raise TypeError(f"keep must be bool, got {keep.dtype}")
    if tuple(keep.shape) != (POSITIONS, channels):
        raise ValueError(f"keep must be (64, {channels}), got shape {tuple(keep.shape)}")


def _check_tensors(x: Tensor, packed: Tensor, keep: Tensor, bias: Tensor | None) -> None:
    """TypeError for a wrong dtype, ValueError for tensors on different devices."""
    named = [("x", x), ("packed", packed), *([] if bias is None else [("bias", bias)])]
    for name, value in named:
        if value.dtype is not torch.float32:
            raise TypeError(f"{name} must be float32, got {value.dtype}")
    for name, value in (*named, ("keep", keep)):
        if value.device != x.device:
            raise ValueError(f"{name} is on {value.device}, x on {x.device}")


def _output_shape(
    x: Sequence[int], bias: Sequence[int] | None, out_channels: int, padding: Sequence[int]
) -> tuple[int, ...]:
    """Shape of the result, from shapes; ValueError that names the argument that does not fit."""
    if len(x) != 5:
        raise ValueError(f"x must be (N, C, D, H, W), got shape {tuple(x)}")
    if x[1] < 1 or out_channels < 1:
        raise ValueError(f"x has {x[1]} channels, out_channels is {out_channels}: both must be > 0")
    if bias is not None and tuple(bias) != (out_channels,):
        raise ValueError(f"bias must be ({out_channels},), got shape {tuple(bias)}")
    padding = triple("padding", padding, least=0)
    sizes = (positions(size, 3, 1, pad) for size, pad in zip(x[2:], padding, strict=True))
    return x[0], out_channels, *sizes


_output_shape_cached = functools.lru_cache(maxsize=1024)(_output_shape)


def _check(x, packed, keep, bias, out_channels, padding):
    _check_tensors(x, packed, keep, bias)
    shape = _output_shape(x.shape, None if bias is None else bias.shape, out_channels, padding)
    _check_keep(keep, x.shape[1])
    return shape


def _memory_format(x: Tensor) -> torch.memory_format:
    """The result's: channels_last_3d if x has its channels side by side, else contiguous."""
    return torch.channels_last_3d if x.stride(1) == 1 else torch.contiguous_format


def winograd3d_reference(
    x: Tensor,
    packed: Tensor,
    keep: Tensor,
    bias: Tensor | None = None,
    *,
    out_channels: int,
    padding: Sequence[int] = (0, 0, 0),
) -> Tensor:
    """conv3d(x, weight 3x3x3, bias), stride 1, zero padding, from a packed transformed weight.

    x (N, C, D, H, W) float32, any strides; packed and keep (64, C) as of pack_transformed; bias
    (out,). Returns float32 (N, out, D', H', W'), channels_last_3d if x has channel stride 1 (the
    fast form: others are copied), else contiguous. Against an exact convolution the error is at
    most about 3e-6 of max |x| * max |w| * sqrt(27 C) (tests hold it to 1e-5). A NaN or an infinity
    may spoil every output of the tiles that read it, also where its weight is zero. Any device; no
    gradient. TypeError for a wrong dtype, ValueError for shapes, devices that do not fit.
    """
    shape = _check(x, packed, keep, bias, out_channels, padding)
    weight = unpack_transformed(packed, keep, out_channels)
    last = [(p, p + (size + 2 * p) % 2) for p, size in zip(padding, x.shape[2:], strict=True)]
    tiles = F.pad(x, (*last[2], *last[1], *last[0]))
    for axis in (2, 3, 4):
        tiles = tiles.unfold(axis, 4, 2)  # 4 inputs at every second place
    v = _along_all_axes(INPUT, tiles).flatten(5)  # (N, C, tiles z, y, x, 64)
    m = torch.einsum("nczyxp,poc->nozyxp", v, weight).unflatten(5, (4, 4, 4))
    y = _along_all_axes(OUTPUT, m)  # (N, out, tiles z, y, x, 2, 2, 2)
    y = y.permute(0, 1, 2, 5, 3, 6, 4, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    y = y[:, :, : shape[2], : shape[3], : shape[4]]
    y = y if bias is None else y + bias[:, None, None, None]
    return torch.empty_like(y, memory_format=_memory_format(x)).copy_(y)


def _fake(x, packed, keep, bias=None, *, out_channels, padding=(0, 0, 0)):
    shape = _check(x, packed, keep, bias, out_channels, padding)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_memory_format(x))


def _kernel(module: ModuleType):
    """The operator on the compiled module."""

    def run(x, packed, keep, bias=None, *, out_channels, padding=(0, 0, 0)):
        _check_tensors(x, packed, keep, bias)
        padding = triple("padding", padding, least=0)
        bias_shape = None if bias is None else bias.shape
        shape = _output_shape_cached(x.shape, bias_shape, out_channels, padding)
        _check_keep(keep, x.shape[1])
        channels_last = x.stride(1) == 1
        if not channels_last:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        y = torch.empty(shape, memory_format=torch.channels_last_3d)
        module.winograd3d(
            native.dlpack(x),
            *map(native.dense, (packed, keep, bias)),
            native.dlpack(y),
            padding,
            torch.get_num_threads(),
        )
        if channels_last:
            return y
        return torch.empty_like(y, memory_format=torch.contiguous_format).copy_(y)

    return run


# Arguments and result of winograd3d_reference; one int of padding stands for three equal ones.
winograd3d = Operator(
    "winograd3d",
    winograd3d_reference,
    schema="(Tensor x, Tensor packed, Tensor keep, Tensor? bias=None, *, int out_channels, "
    "int[3] padding=0) -> Tensor",
    fake=_fake,
    kernel=native.bind(_kernel),
)
