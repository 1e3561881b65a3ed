"""The Fourier series of sign inside one period, its derivative three ways, and what it keeps.

arXiv:2103.00841, equation numbers of the conference submission.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Scalar = float | Tensor  # in a layer 0-d tensors: a number would be compiled into the graph


def series(t: Tensor, n: int, omega: float) -> Tensor:
    """s_n(t) = 4/pi sum_i sin((2i+1) omega t) / (2i+1), i = 0 ... n (eq 9); shape of t.

    Tends to sign(t) for |t| < T/2 = pi/omega (the text says T) and repeats with period T.
    """
    odd = [2 * i + 1 for i in range(n + 1)]
    return 4 / math.pi * torch.stack([torch.sin(k * omega * t) / k for k in odd]).sum(0)


def slope_sum(t: Tensor, n: int, omega: float) -> Tensor:
    """s_n'(t) = 4 omega/pi sum_i cos((2i+1) omega t), term by term (eq 10)."""
    u, total = omega * t, torch.zeros_like(t)
    for i in range(n + 1):
        total = total + torch.cos((2 * i + 1) * u)
    return 4 * omega / math.pi * total


def slope_recurrence(t: Tensor, n: int, omega: float) -> Tensor:
    """The same from one cosine: c_{i+1} = 2 cos(2u) c_i - c_{i-1} (Chebyshev), u = omega t."""
    c = torch.cos(omega * t)
    twice = 4 * c * c - 2  # 2 cos(2u)
    before, now, total = c, c, c  # cos(-u) = cos(u)
    for _ in range(n):
        before, now = now, twice * now - before
        total = total + now
    return 4 * omega / math.pi * total


def slope_closed(t: Tensor, n: Scalar, omega: Scalar) -> Tensor:
    """The same from two sines: (2 omega/pi) sin(2(n+1)u) / sin(u), u = omega t.

    At the poles of 1/sin the quotient is +-2(n+1). Both limits come without a branch: the function
    is even, so |u| >= 1e-5 replaces u, and what rounding lifts above 2(n+1) is cut off (in float32
    the value at |u| = pi is only as good as that bound).
    """
    m: Any = 2 * (n + 1)
    u = (omega * t.to(torch.promote_types(t.dtype, torch.float32))).abs_().clamp_min_(1e-5)
    quotient = (m * u).sin_().div_(u.sin_())  # 16 bits would not hold the phase m u
    return quotient.clamp_(-m, m).mul_(2 * omega / math.pi).to(t.dtype)


def kept_energy(n: int) -> float:
    """Share of the square wave's energy in its first n + 1 terms (Parseval), 0 to 1."""
    return 8 / math.pi**2 * sum(1 / (2 * i + 1) ** 2 for i in range(n + 1))


@dataclass(frozen=True)
class Fourier:
    """The slope s_n' for |x| <= clip, 0 beyond: negative on every other band of width
    pi / (omega (n+1)) / 2 from the first zero pi / (2 omega (n+1)) on."""

    n: Scalar = 9
    omega: Scalar = 0.1
    clip: float = math.inf

    def __post_init__(self) -> None:
        if not isinstance(self.n, Tensor) and not self.n >= 0:
            raise ValueError(f"n must not be negative, got {self.n}")
        for name in ("omega", "clip"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")

    def __call__(self, x: Tensor) -> Tensor:
        slope = slope_closed(x, self.n, self.omega)
        return slope if self.clip == math.inf else slope * (x.abs() <= self.clip)
