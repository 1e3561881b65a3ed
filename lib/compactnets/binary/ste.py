"""sign(x) with a surrogate gradient: the forward pass is one bit, the backward pass a slope.

The true derivative of sign is 0 almost everywhere; each estimator here puts a slope in its place.
Choosing an estimator means choosing that slope, so a slope is all that one consists of.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Slope = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Clipped:
    """1 where |x| <= clip, else 0: the straight-through estimator (BNN, arXiv:1602.02830).

    clip = inf passes the gradient everywhere.
    """

    clip: float = 1.0

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}")

    def __call__(self, x: Tensor) -> Tensor:
        return (x.abs() <= self.clip).to(x.dtype)


@dataclass(frozen=True)
class Polynomial:
    """2 - 2|x| on [-1, 1), else 0: derivative of a piecewise square (Bi-Real, arXiv:1808.00278)."""

    def __call__(self, x: Tensor) -> Tensor:
        return (2 - 2 * x.abs()).clamp_min(0)


@dataclass(frozen=True)
class Tanh:
    """k t (1 - tanh(t x)^2): steeper as t grows (IR-Net's EDE, arXiv:1909.10788, eq. 9)."""

    t: float = 1.0
    k: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.k * self.t * (1 - torch.tanh(self.t * x).square())


@dataclass(frozen=True)
class SignSwish:
    """b (2 - b x tanh(b x / 2)) / (1 + cosh(b x)) (BNN+, arXiv:1812.11800, eq. 4)."""

    beta: float = 5.0

    def __call__(self, x: Tensor) -> Tensor:
        bx = (self.beta * x).clamp(-30, 30)  # cosh overflows; the slope is 0 there anyway
        return self.beta * (2 - bx * torch.tanh(bx / 2)) / (1 + torch.cosh(bx))


def hard_sign(x: Tensor) -> Tensor:
    """sign(x) with sign(±0) = +1: exactly two values, shape and dtype of x; NaN becomes -1."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)  # torch.sign has a third value at 0


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, slope: Slope) -> Tensor:
        return hard_sign(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.slope = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        return grad * ctx.slope(x), None  # a new tensor: grad is not ours


def sign(x: Tensor, slope: Slope = Clipped()) -> Tensor:
    """hard_sign(x), with the gradient multiplied by slope(x) on the way back."""
    return _Sign.apply(x, slope)
