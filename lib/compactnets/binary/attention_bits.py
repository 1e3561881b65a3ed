"""The two products of 1-bit attention on the packed kernel, exact in integers.

Weights are packed once, queries and keys in every pass, and the kernel reads its second operand in
a layout that PyTorch has to make (kernels.binary_pack): that costs more than the product saves.
"""

import torch
from torch import Tensor

from compactnets import kernels


def _product(rows: Tensor, columns: Tensor) -> Tensor:
    """sign(rows) @ sign(columns)^T for each of G groups: (G, N, c), (G, M, c) -> (G, N, M)."""
    groups, count, width = rows.shape
    packed = kernels.binary_conv.pack_weight(columns.reshape(-1, width, 1, 1), groups)
    images = rows.permute(0, 2, 1).reshape(1, groups * width, count, 1)
    scale = torch.ones(groups * columns.shape[1])
    y = kernels.binary_conv2d(images, packed, scale, kernel_size=(1, 1), groups=groups)
    return y.view(groups, columns.shape[1], count).transpose(1, 2)


@torch.no_grad()
def packed_scores(q: Tensor, k: Tensor) -> Tensor:
    """d - 2 popcount(q xor k) for every query and key: (B, H, N, d) twice -> (B, H, N, N) float32.

    Only signs count, +1 for 0. The values are integers of the parity of d, from -d to d.
    ValueError for shapes that differ.
    """
    if q.shape != k.shape or q.dim() != 4:
        raise ValueError(f"q and k must be (B, H, N, d), got {tuple(q.shape)}, {tuple(k.shape)}")
    return _product(q.flatten(0, 1), k.flatten(0, 1)).unflatten(0, q.shape[:2])


@torch.no_grad()
def packed_mixture(chosen: Tensor, v: Tensor) -> Tensor:
    """2 popcount(A and V+) - popcount(A): sums of the chosen values' signs, exact in float32.

    chosen (B, H, N, M) bool, True where the binarized map is not 0; v (B, H, M, d) -> (B, H, N, d).
    Computed as (sum of s v + sum of v) / 2 with s = +-1, which the sign kernel can do.
    ValueError for shapes that do not fit, TypeError if chosen is not boolean.
    """
    if chosen.dtype is not torch.bool:
        raise TypeError(f"chosen must be bool, got {chosen.dtype}")
    if chosen.dim() != 4 or v.dim() != 4 or chosen.shape[:2] + chosen.shape[3:] != v.shape[:3]:
        raise ValueError(
            "chosen must be (B, H, N, M) and v (B, H, M, d); "
            f"{tuple(chosen.shape)} and {tuple(v.shape)} do not fit"
        )
    signs = chosen.to(torch.float32) * 2 - 1
    values = torch.where(v >= 0, 1.0, -1.0)
    sums = _product(signs.flatten(0, 1), values.flatten(0, 1).transpose(1, 2))
    return (sums.unflatten(0, v.shape[:2]) + values.sum(2, keepdim=True)) / 2
