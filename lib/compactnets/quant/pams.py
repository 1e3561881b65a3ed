"""Symmetric signed activation levels under one bound: trained (PAMS) or calibrated (max-abs)."""

from collections.abc import Iterable
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from compactnets.quant.quantizer import (
    Codes,
    Grid,
    batches_of,
    check_bits,
    encode,
    percentile,
    positive,
)
from compactnets.quant.ste import round_ste

Start = Literal["ema", "percentile"]


def pams(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """x clipped to [-alpha, alpha] and rounded to 2^bits - 1 levels (PAMS, arXiv:2011.04212).

        n = 2^(bits-1) - 1,   s = n / alpha,   c = clamp(x, -alpha, alpha),   x_hat = round(s c) / s

    With 2 bits the levels are -alpha, 0, alpha; a non-negative x sees 2^(bits-1) of the levels.
    The rounding passes gradients, all else is differentiated:

        dx_hat/dx     = 1[|x| <= alpha]
        dx_hat/dalpha = sign(x) 1[|x| > alpha] + (x_hat - c) / alpha

    x float of any shape, alpha scalar; below 1e-6 it counts as 1e-6. The result is like x.
    """
    n = 2 ** (check_bits(bits) - 1) - 1
    alpha = positive(alpha)
    s = n / alpha
    c = torch.clamp(x, -alpha, alpha)
    return round_ste(s * c) / s


def pams_grid(alpha: Tensor, bits: int) -> Grid:
    """The grid of `pams`: codes 0 to 2^bits - 2, the last code of the width has no level."""
    n = 2 ** (bits - 1) - 1
    return Grid(n / positive(alpha), n, 2 * n)


class Pams(nn.Module):
    """Activation quantizer with a trained bound `alpha`; calibrate it before the first step.

    ValueError unless bits is 2 to 8.
    """

    def __init__(self, bits: int, alpha: float = 1.0):
        super().__init__()
        self.bits = check_bits(bits)
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    @torch.no_grad()
    def calibrate(
        self,
        x: Tensor | Iterable[Tensor],
        start: Start = "ema",
        *,
        decay: float = 0.9,
        percent: float = 99.0,
    ) -> None:
        """Sets alpha from one batch or several (N, ...).

        "ema": m = max|x| of an image, averaged over the batch; alpha <- decay * alpha +
        (1 - decay) * m, from the first batch's m on. (The released code, colorjam/PAMS, has this
        rule with decay 0.9997, but sets alpha = m anew at every batch of its only such epoch.)
        "percentile": mean over the batches of the percentile of |x|.
        """
        if start == "ema":
            self.alpha.copy_(_moving_average(batches_of(x), decay))
        elif start == "percentile":
            found = [percentile(batch.abs(), percent) for batch in batches_of(x)]
            self.alpha.copy_(torch.stack(found).mean())
        else:
            raise ValueError(f'start must be "ema" or "percentile", got {start!r}')

    def forward(self, x: Tensor) -> Tensor:
        return pams(x, self.alpha, self.bits)

    def grid(self, x: Tensor) -> Grid:
        return pams_grid(self.alpha, self.bits)

    def codes(self, x: Tensor) -> Codes:
        return encode(x, *self.grid(x))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class MaxAbs(nn.Module):
    """The same levels under a bound that is not trained: the largest |x| of calibration."""

    alpha: Tensor

    def __init__(self, bits: int):
        super().__init__()
        self.bits = check_bits(bits)
        self.register_buffer("alpha", torch.tensor(1.0))

    @torch.no_grad()
    def calibrate(self, x: Tensor | Iterable[Tensor]) -> None:
        """Sets alpha to the largest |x| of one batch or several."""
        self.alpha.copy_(torch.stack([batch.abs().max() for batch in batches_of(x)]).max())

    def forward(self, x: Tensor) -> Tensor:
        return pams(x, self.alpha, self.bits)

    def grid(self, x: Tensor) -> Grid:
        return pams_grid(self.alpha, self.bits)

    def codes(self, x: Tensor) -> Codes:
        return encode(x, *self.grid(x))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def _moving_average(batches: Iterable[Tensor], decay: float) -> Tensor:
    largest = (batch.abs().flatten(1).amax(1).mean() for batch in batches)
    return reduce(lambda average, m: decay * average + (1 - decay) * m, largest)
