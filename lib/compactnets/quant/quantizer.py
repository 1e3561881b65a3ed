"""What activation quantizers share: integer codes beside the rounded values, and calibration.

An activation quantizer is a module with `bits`; forward(x) gives x_hat, the nearest levels, with a
straight-through gradient; codes(x) gives the same levels as integers, which a kernel multiplies:

    x_hat = step * (values - zero),   values in 0 .. 2^bits - 1.

NaN: forward passes it on, so that a broken run shows; codes make it the lowest code.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from compactnets.kernels import int8_quantize

SMALLEST = 1e-6  # no bound and no step counts as smaller


class Codes(NamedTuple):
    """values (N, ...) uint8; step float32 and zero int32: one each, or (N,) for entries of dim 0.

    Of a weight dimension 0 is the output channel. zero may lie outside of 0..255 if real zero is
    no level.
    """

    values: Tensor
    step: Tensor
    zero: Tensor

    def integers(self) -> Tensor:
        """values - zero: the level in steps, int32; real zero is 0."""
        return self.values.int() - along_first(self.zero, self.values)

    def decode(self) -> Tensor:
        """step * (values - zero): float32 of values' shape."""
        return self.integers() * along_first(self.step, self.values)


class Grid(NamedTuple):
    """Where the levels lie: q in 0 .. highest stands for (q - zero) / inverse.

    inverse = 1 / step, positive float32, and zero, integer: one each, or (N,) for entries of dim 0.
    """

    inverse: Tensor
    zero: Tensor | int
    highest: int


class Quantizer(Protocol):
    """What a layer needs to know of a quantizer; most have grid(x) -> Grid as well, from which
    codes(x) follow as encode(x, *grid(x))."""

    bits: int

    def __call__(self, x: Tensor) -> Tensor: ...

    def codes(self, x: Tensor) -> Codes: ...


def check_bits(bits: int) -> int:
    """bits; ValueError unless it is an integer from 2 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 2 to 8, got {bits!r}")
    return bits


def along_first(values: Tensor, like: Tensor) -> Tensor:
    """A scalar as it is; (N,) as (N, 1, ...), to broadcast over the first dimension of `like`."""
    return values if values.dim() == 0 else values.view(-1, *(1,) * (like.dim() - 1))


def positive(bound: Tensor) -> Tensor:
    """max(bound, 1e-6), with the gradient passing: a bound that training pushed below comes back.

    NaN stays NaN.
    """
    floored = bound.clamp_min(SMALLEST)
    return bound + (floored - bound).detach() if torch.is_grad_enabled() else floored


@torch.no_grad()
def encode(x: Tensor, inverse: Tensor, zero: Tensor | int, highest: int) -> Codes:
    """clamp(round(x * inverse) + zero, 0, highest) in float32, halves to even, NaN to 0.

    x float (N, ...); the rest as in Grid. Two passes over x, the second over bytes: the kernel's
    own quantization saturates at 0, only the upper end is left.
    """
    x, inverse = x.float(), inverse.detach().float()
    zero = torch.as_tensor(zero, dtype=torch.int32, device=x.device)
    if inverse.dim() == zero.dim() == 0:
        values = _rounded(x, inverse.item(), int(zero))
    else:
        rows = (v.expand(len(x)).tolist() for v in (inverse, zero))
        parts = [_rounded(*of_one) for of_one in zip(x.split(1), *rows, strict=True)]
        values = torch.cat(parts) if len(parts) != 1 else parts[0]
    return Codes(values.clamp_(max=highest), 1 / inverse, zero)


def _rounded(x: Tensor, inverse: float, zero: int) -> Tensor:
    if 0 <= zero <= 255:
        return int8_quantize(x, inverse, zero)
    return ((x * inverse).round() + zero).nan_to_num(nan=0).clamp(0, 255).to(torch.uint8)


def batches_of(x: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """Calibration data as batches: a tensor is one batch. ValueError if there is none."""
    none = True
    for batch in [x] if isinstance(x, Tensor) else x:
        none = False
        yield batch
    if none:
        raise ValueError("calibration needs at least one batch")


def percentile(x: Tensor, percent: float) -> Tensor:
    """The value that `percent` % of x do not exceed (nearest rank), of a tensor of any size.

    ValueError unless 0 <= percent <= 100 and x has elements.
    """
    if not 0 <= percent <= 100 or x.numel() == 0:
        raise ValueError(f"no percentile {percent} of {x.numel()} values: it must be 0 to 100")
    rank = round(percent / 100 * (x.numel() - 1)) + 1
    return x.flatten().kthvalue(rank).values
