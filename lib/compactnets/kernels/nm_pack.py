"""N:M sparse int8 weights: the check of the pattern, and the layout of the kernels.

At most n of every m neighbouring inputs have a weight, for every output; m divides 64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LANES = 16
CHUNK = 64


def quads_of(n: int, m: int) -> int:
    """Groups of four weights per output and 64 inputs. ValueError unless 0 < n <= m, m | 64."""
    if not 0 < n <= m or m > CHUNK or CHUNK % m:
        raise ValueError(f"n:m must have 0 < n <= m and m divide {CHUNK}, got {n}:{m}")
    return -(-n * CHUNK // (4 * m))


def packed_shape(outputs: int, channels: int, taps: int, quads: int) -> tuple[int, int, int, int]:
    """(panels, chunks, quads, 128) of pack_nm."""
    return -(-outputs // LANES), taps * -(-channels // CHUNK), quads, 2 * CHUNK


def check_pattern(weight: Tensor, n: int, m: int) -> None:
    """ValueError that names the first output, tap and inputs with more than n weights of m.

    weight (out, in, ...): groups are m neighbours along `in`, the last one may be shorter.
    """
    quads_of(n, m)
    kept = (weight != 0).flatten(2) if weight.dim() > 2 else (weight != 0)[..., None]
    kept = torch.nn.functional.pad(kept, (0, 0, 0, -kept.shape[1] % m))
    count = kept.unflatten(1, (-1, m)).sum(2)  # (out, groups, taps)
    if not (count > n).any():
        return
    output, group, tap = (count > n).nonzero()[0].tolist()
    where = f", tap {tap}" if count.shape[2] > 1 else ""
    raise ValueError(
        f"weight does not keep {n}:{m}: output {output} has {int(count[output, group, tap])} "
        f"weights among the inputs {m * group} .. {m * group + m - 1}{where}"
    )


def pack_nm(weight: Tensor, n: int, m: int) -> Tensor:
    """(out, in, kh, kw) or (out, in) int8 -> (panels, chunks, quads, 128) uint8.

    A panel is 16 outputs, a chunk 64 inputs of a tap (taps outside, channels inside). Of a quad,
    byte 4 l + j is the index, 0 .. 63, of weight j of the panel's output l, byte 64 + 4 l + j that
    weight; where there are fewer weights, index and weight are 0. TypeError unless int8, ValueError
    for -128 and for a weight that breaks the pattern.
    """
    if weight.dtype is not torch.int8:
        raise TypeError(f"weight must be int8, got {weight.dtype}")
    if weight.dim() not in (2, 4) or weight.numel() == 0:
        raise ValueError(
            f"weight must be (out, in) or (out, in, kh, kw), got shape {tuple(weight.shape)}"
        )
    if (weight == -128).any():
        raise ValueError("weight must be -127 .. 127: -128 has no opposite")
    check_pattern(weight, n, m)
    quads = quads_of(n, m)
    outputs, channels = weight.shape[:2]
    taps = weight.flatten(2) if weight.dim() == 4 else weight[..., None]
    padded = taps.new_zeros(
        -(-outputs // LANES) * LANES, taps.shape[2], -(-channels // CHUNK) * CHUNK
    )
    padded[:outputs, :, :channels] = taps.permute(0, 2, 1)
    chunks = padded.reshape(padded.shape[0], -1, CHUNK)
    # What is kept comes first, in its order; a stable sort of "is zero" does it.
    index = (chunks == 0).to(torch.uint8).argsort(dim=-1, stable=True)[..., : 4 * quads]
    values = chunks.gather(-1, index)
    index = index.masked_fill(values == 0, 0).to(torch.uint8)
    both = torch.stack((index, values.view(torch.uint8)), dim=0)  # (2, rows, chunks, 4 quads)
    both = both.reshape(2, -1, LANES, chunks.shape[1], quads, 4).permute(1, 3, 4, 0, 2, 5)
    return both.reshape(*both.shape[:3], 2 * CHUNK).contiguous()


def unpack_nm(packed: Tensor, outputs: int, channels: int, kernel: tuple[int, int]) -> Tensor:
    """The int8 weight (out, in, kh, kw) of pack_nm."""
    panels, chunks, quads, _ = packed.shape
    both = packed.reshape(panels, chunks, quads, 2, LANES, 4).permute(3, 0, 4, 1, 2, 5)
    index, values = both.reshape(2, panels * LANES, chunks, 4 * quads)
    dense = torch.zeros(panels * LANES, chunks, CHUNK, dtype=torch.int8, device=packed.device)
    # Added, not written: absent weights add 0 at index 0.
    dense.scatter_add_(-1, index.long(), values.contiguous().view(torch.int8))
    taps = dense.reshape(panels * LANES, *kernel, -1)[:outputs, ..., :channels]
    return taps.permute(0, 3, 1, 2)


def tiles_shape(packed: Sequence[int]) -> tuple[int, int, int]:
    """(pairs of panels, chunks, 2048) of dense_tiles, from packed's shape."""
    return -(-packed[0] // 2), packed[1], 2 * LANES * CHUNK


def dense_tiles(weight: Tensor) -> Tensor:
    """(out, in, kh, kw) int8 -> the same weights, zeros and all, in tiles for the matrix unit.

    int8 (pairs of panels, chunks, 2048): of a pair's 32 outputs and a chunk's 64 inputs two tiles
    of 16 outputs; byte 64 k + 4 l + j of a tile is input 4 k + j of output l.
    """
    outputs, channels = weight.shape[:2]
    pairs = -(-outputs // (2 * LANES))
    padded = weight.new_zeros(
        pairs * 2 * LANES, weight[0, 0].numel(), -(-channels // CHUNK) * CHUNK
    )
    padded[:outputs, :, :channels] = weight.flatten(2).permute(0, 2, 1)
    parts = padded.reshape(pairs, 2, LANES, -1, CHUNK // 4, 4).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(pairs, -1, 2 * LANES * CHUNK)
