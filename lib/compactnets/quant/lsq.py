"""LSQ: a trained step size, for weights and activations (arXiv:1902.08153)."""

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor, nn

from compactnets.quant.quantizer import Codes, Grid, batches_of, check_bits, encode, positive
from compactnets.quant.ste import round_ste


def levels(bits: int, signed: bool) -> tuple[int, int]:
    """(Q_N, Q_P): the integers go from -Q_N to Q_P (section 2)."""
    half = 2 ** (check_bits(bits) - 1)
    return (half, half - 1) if signed else (0, 2 * half - 1)


def lsq(x: Tensor, s: Tensor, bits: int, *, signed: bool = True, scale: float = 1.0) -> Tensor:
    """round(clip(x / s, -Q_N, Q_P)) * s (eqs. 1-2), with the gradients of eqs. 3 and 5:

        dx_hat/ds = scale * (round(v) - v inside,  -Q_N if v <= -Q_N,  Q_P if v >= Q_P),   v = x / s
        dx_hat/dx = 1[-Q_N < v < Q_P]

    scale: the factor g of the gradient of s (section 2.2). x float of any shape, s scalar; below
    1e-6 it counts as 1e-6. The result is like x.
    """
    q_n, q_p = levels(bits, signed)
    s = positive(s).to(x.dtype)
    s = s.detach() + scale * (s - s.detach())  # the value is s itself, its gradient scale times
    v = x * (1 / s)
    low, high = (torch.as_tensor(q, dtype=v.dtype, device=v.device) for q in (-q_n, q_p))
    v = torch.where(v <= low, low, torch.where(v >= high, high, v))
    return round_ste(v) * s


class Lsq(nn.Module):
    """Quantizer with a trained step `step`; calibrate it before the first step of training.

    signed: weights, and activations that may be negative; else for what follows a ReLU.
    per_image: of activations (N, ...), whose gradient scale counts the features of one image; of a
    weight it counts all its elements. ValueError unless bits is 2 to 8.
    """

    def __init__(self, bits: int, *, signed: bool = True, per_image: bool = True):
        super().__init__()
        self.q_n, self.q_p = levels(bits, signed)
        self.bits, self.signed, self.per_image = bits, signed, per_image
        self.step = nn.Parameter(torch.tensor(1.0))

    @torch.no_grad()
    def calibrate(self, x: Tensor | Iterable[Tensor]) -> None:
        """Sets step to 2 mean|x| / sqrt(Q_P), the mean over one batch or several (section 2.1)."""
        means = torch.stack([batch.abs().mean() for batch in batches_of(x)])
        self.step.copy_(2 * means.mean() / sqrt(self.q_p))

    def gradient_scale(self, x: Tensor) -> float:
        """g = 1 / sqrt(N * Q_P), N elements of the weight or features of one image."""
        elements = x.numel() // (len(x) if self.per_image else 1)
        return 1 / sqrt(max(elements, 1) * self.q_p)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gradient_scale(x)
        return lsq(x, self.step, self.bits, signed=self.signed, scale=scale)

    def grid(self, x: Tensor) -> Grid:
        return Grid(1 / positive(self.step), self.q_n, 2**self.bits - 1)

    def codes(self, x: Tensor) -> Codes:
        return encode(x, *self.grid(x))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}, per_image={self.per_image}"
