"""From latent weights to w_hat = alpha * sign(w): analytic and learned scales per output channel.

A binarizer is a module: forward(w) gives w_hat of w's shape, scale(w) gives alpha (out,) >= 0, so
that |w_hat| == alpha holds and a kernel can be packed from the two. Mostly w_hat has the signs of
w; a binarizer may also take those of w after a step of its own (ReCU's standardization).
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from compactnets.binary.ste import Clipped, Slope, sign


def per_filter(alpha: Tensor, w: Tensor) -> Tensor:
    """(out,) -> (out, 1, ...) so that it multiplies w (out, ...) filter by filter."""
    return alpha.view(-1, *(1,) * (w.ndim - 1))


def analytic_scale(w: Tensor) -> Tensor:
    """alpha_i = ||w_i||_1 / M, the minimiser of ||w_i - alpha sign(w_i)||^2; (out, ...) -> (out,).

    XNOR-Net, arXiv:1603.05279, eq. 6; M is the number of weights in a filter.
    """
    return w.abs().flatten(1).mean(dim=1)


class Binarizer(Protocol):
    """What BinaryConv2d needs to know of a weight binarizer."""

    def __call__(self, w: Tensor) -> Tensor: ...

    def scale(self, w: Tensor) -> Tensor: ...


class UnitScale(nn.Module):
    """w_hat = sign(w): no scale at all (BNN, arXiv:1602.02830)."""

    def __init__(self, slope: Slope | None = None):
        super().__init__()
        self.slope = slope or Clipped()

    def scale(self, w: Tensor) -> Tensor:
        return w.new_ones(w.shape[0])

    def forward(self, w: Tensor) -> Tensor:
        return sign(w, self.slope)

    def extra_repr(self) -> str:
        return f"slope={self.slope}"


class AnalyticScale(nn.Module):
    """w_hat = ||w_i||_1 / M * sign(w); alpha is a constant for the gradient.

    dL/dw = alpha * dL/dw_hat * slope(w), or with scale_gradient=False (the way of DoReFa,
    arXiv:1606.06160, and of BiBench's code) dL/dw_hat * slope(w).
    """

    def __init__(self, slope: Slope | None = None, scale_gradient: bool = True):
        super().__init__()
        self.slope = slope or Clipped()
        self.scale_gradient = scale_gradient

    def scale(self, w: Tensor) -> Tensor:
        return analytic_scale(w)

    def forward(self, w: Tensor) -> Tensor:
        alpha = per_filter(self.scale(w.detach()), w)
        if self.scale_gradient:
            return alpha * sign(w, self.slope)
        signs = sign(w, self.slope)
        return StraightThrough.apply((alpha * signs).detach(), signs)

    def extra_repr(self) -> str:
        return f"slope={self.slope}, scale_gradient={self.scale_gradient}"


class StraightThrough(torch.autograd.Function):
    """value, with the gradient going to `signs`. Exact, unlike value + (signs - signs.detach())."""

    @staticmethod
    def forward(value, signs):
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return None, grad


class LearnedScale(nn.Module):
    """w_hat = |alpha| * sign(w) with trained alpha, started at ||w_i||_1 / M."""

    def __init__(self, weight: Tensor, slope: Slope | None = None):
        super().__init__()
        self.alpha = nn.Parameter(analytic_scale(weight.detach()))
        self.slope = slope or Clipped()

    def scale(self, w: Tensor) -> Tensor:
        return self.alpha.abs()

    def forward(self, w: Tensor) -> Tensor:
        return per_filter(self.alpha.abs(), w) * sign(w, self.slope)

    def extra_repr(self) -> str:
        return f"slope={self.slope}"


def before_sign(binarizer: Binarizer, w: Tensor) -> Tensor:
    """What the binarizer takes the sign of: binarizer.latent(w) if it has that method, else w."""
    latent = getattr(binarizer, "latent", None)
    return w if latent is None else latent(w)


def check_binarizer(binarizer: Binarizer, w: Tensor) -> None:
    """ValueError unless binarizer(w) is +-scale(w), filter by filter."""
    with torch.no_grad():
        expected = per_filter(binarizer.scale(w), w).expand_as(w)
        if not torch.allclose(binarizer(w).abs(), expected):
            raise ValueError(f"{binarizer!r} is no scaled sign: it cannot be packed into bits")
