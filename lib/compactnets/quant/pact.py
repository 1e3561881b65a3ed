"""PACT: activations clipped to [0, alpha] with a trained alpha (arXiv:1805.06085)."""

from collections.abc import Iterable

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


def pact(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """x clipped to [0, alpha] and rounded to 2^bits levels k * alpha / (2^bits - 1).

        y = 0 if x < 0, x if x < alpha, else alpha,   s = (2^bits - 1) / alpha,   round(s y) / s

    Eqs. 1-3: the gradient is that of y, the rounding counts as the identity:

        dx_hat/dx = 1[0 <= x < alpha],   dx_hat/dalpha = 1[x >= alpha]

    It takes the place of a ReLU. The paper adds an L2 penalty on alpha to the loss: give alpha to
    the optimizer with weight decay. x float of any shape, alpha scalar; below 1e-6 it counts as
    1e-6. The result is like x.
    """
    alpha = positive(alpha).to(x.dtype)
    s = (2 ** check_bits(bits) - 1) / alpha.detach()
    y = torch.where(x >= alpha, alpha, x.clamp_min(0))
    return y + ((s * y).round() / s - y).detach()


class Pact(nn.Module):
    """Clipped and quantized ReLU with a trained bound `alpha`; ValueError unless bits is 2 to 8."""

    def __init__(self, bits: int, alpha: float = 10.0):
        super().__init__()
        self.bits = check_bits(bits)
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))

    @torch.no_grad()
    def calibrate(self, x: Tensor | Iterable[Tensor], percent: float = 100.0) -> None:
        """Sets alpha to the percentile of x, mean over the batches (own addition: the paper starts
        at a constant)."""
        found = [percentile(batch, percent) for batch in batches_of(x)]
        self.alpha.copy_(torch.stack(found).mean())

    def forward(self, x: Tensor) -> Tensor:
        return pact(x, self.alpha, self.bits)

    def grid(self, x: Tensor) -> Grid:
        highest = 2**self.bits - 1
        return Grid(highest / positive(self.alpha), 0, highest)

    def codes(self, x: Tensor) -> Codes:
        return encode(x, *self.grid(x))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"
