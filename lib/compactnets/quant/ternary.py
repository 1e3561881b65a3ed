"""Ternary weights: w_hat = alpha T with T in -1, 0, +1, thresholds, and how they are stored.

The rule of ternary weight networks (TWN, arXiv:1605.04711) and the exact minimizer of
||w - alpha T||^2, per output channel or for a whole matrix.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Granularity = Literal["channel", "layer"]
Rule = Literal["twn", "exact"]
TWN = 0.7  # threshold over mean magnitude
PER_BYTE = {4: 4, 3: 5}  # base -> digits of a byte: 2 bits each, or 3^5 = 243 of 256 values


class Ternary(NamedTuple):
    """values (out, ...) like w with -1, 0, +1; alpha and delta (out, 1, ...), (1, 1, ...) for a
    whole matrix: w_hat = alpha * values, and |w| <= delta became 0."""

    values: Tensor
    alpha: Tensor
    delta: Tensor

    def dense(self) -> Tensor:
        """w_hat."""
        return self.alpha * self.values


def twn_threshold(a: Tensor) -> Tensor:
    """0.7 mean of each row of magnitudes a (rows, n) -> (rows, 1)."""
    return TWN * a.mean(dim=1, keepdim=True)


def exact_threshold(a: Tensor) -> Tensor:
    """The threshold with the smallest error, for each row of magnitudes a (rows, n) -> (rows, 1).

    Of the k largest magnitudes with sum S_k the best scale S_k / k leaves ||w||^2 - S_k^2 / k: the
    best k has the largest S_k^2 / k. The threshold lies between the k-th value and the next.
    """
    ordered = a.double().sort(dim=1, descending=True).values
    k = torch.arange(1, a.shape[1] + 1, device=a.device)
    best = (ordered.cumsum(1).square() / k).argmax(dim=1, keepdim=True)
    below = torch.cat([ordered, torch.zeros_like(ordered[:, :1])], 1)
    between = (below.gather(1, best) + below.gather(1, best + 1)) / 2
    return between.to(a.dtype)


def ternarize(w: Tensor, granularity: Granularity = "channel", rule: Rule = "twn") -> Ternary:
    """The ternary approximation of a weight (out, ...), float.

    granularity: one threshold and scale per output channel, or per "layer" (the whole tensor).
    rule: "twn", 0.7 times the mean magnitude, or "exact", the smallest squared error. The scale is
    the mean magnitude above the threshold, its least-squares value; a row of zeros has scale 0.
    Constants for the gradient. ValueError for another granularity or rule.
    """
    if granularity not in ("channel", "layer"):
        raise ValueError(f'granularity must be "channel" or "layer", got {granularity!r}')
    if rule not in ("twn", "exact"):
        raise ValueError(f'rule must be "twn" or "exact", got {rule!r}')
    w = w.detach()
    rows = w.flatten(1) if granularity == "channel" else w.reshape(1, -1)
    a = rows.abs()
    delta = twn_threshold(a) if rule == "twn" else exact_threshold(a)
    kept = (a > delta).to(w.dtype)
    alpha = (a * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp_min(1)
    shape = (-1, *(1,) * (w.dim() - 1))
    values = (rows.sign() * kept).view(w.shape)
    return Ternary(values, alpha.view(shape), delta.view(shape))


def squared_error(w: Tensor, approximation: Ternary, *, per_row: bool = False) -> Tensor:
    """||w - alpha T||^2 / ||w||^2, of the whole tensor or (out,) of each row; 0 for zeros."""
    dims = tuple(range(1, w.dim())) if per_row else tuple(range(w.dim()))
    lost = (w - approximation.dense()).square().sum(dims)
    return lost / w.square().sum(dims).clamp_min(torch.finfo(w.dtype).tiny)


def pack(values: Tensor, base: Literal[4, 3] = 4) -> Tensor:
    """(out, n) of -1, 0, +1 -> uint8 (out, ceil(n / 4)) in base 4, or (out, ceil(n / 5)) in base 3.

    Digit i of a byte is values + 1; missing digits of a row's last byte stand for 0. This is the
    form for storage; kernels.LowBitLinear has a layout of its own. ValueError for other values.
    """
    digits = PER_BYTE.get(base)
    if digits is None:
        raise ValueError(f"base must be 4 (two bits) or 3, got {base}")
    if values.dim() != 2 or not (values.abs() <= 1).all() or (values != values.round()).any():
        raise ValueError("values must be (out, n) of -1, 0 and +1")
    codes = torch.nn.functional.pad(values.long() + 1, (0, -values.shape[1] % digits), value=1)
    powers = base ** torch.arange(digits, device=values.device)
    return (codes.unflatten(1, (-1, digits)) * powers).sum(-1).to(torch.uint8)


def unpack(packed: Tensor, n: int, base: Literal[4, 3] = 4) -> Tensor:
    """The int8 values (out, n) that pack made these bytes of."""
    if base not in PER_BYTE:
        raise ValueError(f"base must be 4 (two bits) or 3, got {base}")
    powers = base ** torch.arange(PER_BYTE[base], device=packed.device)
    codes = packed.long()[..., None] // powers % base
    return (codes.flatten(1)[:, :n] - 1).to(torch.int8)


def packed_bytes(outputs: int, inputs: int, base: Literal[4, 3] = 4, *, scales: int = 0) -> int:
    """Bytes of a packed (outputs, inputs) matrix with as many float32 scales."""
    return outputs * -(-inputs // PER_BYTE[base]) + 4 * scales
