"""FDA-BNN: the gradient of sign taken from its Fourier series, with n + 1 terms.

Learning Frequency Domain Approximation for Binary Neural Networks, arXiv:2103.00841. Equation
numbers are those of the conference submission. The released code holds no training: its sign
passes the gradient through unchanged.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets import seeds
from compactnets.binary.convert import convert
from compactnets.binary.estimators import Advance, LayerScale
from compactnets.binary.layers import binarized
from compactnets.binary.scales import analytic_scale, per_filter, straight
from compactnets.binary.ste import Slope, hard_sign, sign
from compactnets.method import Hook

Shortcut = Literal["zero", "linear", "sin"]
Terms = int | Tensor  # n, as a number or (in a layer, where it grows) as a 0-d tensor


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


def slope_closed(t: Tensor, n: Terms, omega: float) -> Tensor:
    """The same from two sines: (2 omega/pi) sin(2(n+1)u) / sin(u), u = omega t.

    At the poles of 1/sin the quotient is +-2(n+1). Both limits come without a branch: the function
    is even, so |u| >= 1e-4 replaces u, and what rounding lifts above 2(n+1) is cut off.
    """
    m = 2 * (n + 1)
    u = (omega * t).abs_().clamp_min_(1e-4)
    quotient = (m * u).sin_().div_(u.sin_())
    return quotient.clamp_(-m, m).mul_(2 * omega / math.pi)


def kept_energy(n: int) -> float:
    """Share of the square wave's energy in its first n + 1 terms (Parseval), 0 to 1."""
    return 8 / math.pi**2 * sum(1 / (2 * i + 1) ** 2 for i in range(n + 1))


@dataclass(frozen=True)
class Fourier:
    """The slope s_n' for |x| <= clip, 0 beyond: negative on every other band of width
    pi / (omega (n+1)) / 2 from the first zero pi / (2 omega (n+1)) on."""

    n: Terms = 9
    omega: float = 0.1
    clip: float = math.inf

    def __post_init__(self) -> None:
        if isinstance(self.n, int) and self.n < 0:
            raise ValueError(f"n must not be negative, got {self.n}")
        for name in ("omega", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def __call__(self, x: Tensor) -> Tensor:
        slope = slope_closed(x, self.n, self.omega)
        return slope if self.clip == math.inf else slope * (x.abs() <= self.clip)


def residual(
    t: Tensor, w1: Tensor, w2: Tensor, shortcut: Shortcut = "sin", a: float = 0.1
) -> Tensor:
    """e(t) = ReLU(t W1) W2 + eta(t) (eq 13); rows t (..., d), w1 (d, h), w2 (h, d) -> (..., d).

    eta: 0, a t or a sin(t).
    """
    e = F.relu(t @ w1) @ w2
    return e if shortcut == "zero" else e + a * (t.sin() if shortcut == "sin" else t)


def gradients(
    g: Tensor,
    t: Tensor,
    w1: Tensor,
    w2: Tensor,
    slope: Slope,
    alpha: float | Tensor,
    shortcut: Shortcut = "sin",
    a: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """dL/dt, dL/dW1, dL/dW2 for z = s_n(t) + alpha e(t) (eqs 15-17); g = dL/dz, slope = s_n'.

    Shapes as in residual. The factor alpha is missing in print; eq 14 has it.
    """
    hidden = t @ w1
    back = (g @ w2.T) * (hidden > 0)
    steepness = slope(t)
    if shortcut != "zero":
        steepness = steepness + alpha * a * (t.cos() if shortcut == "sin" else 1)
    dt = g * steepness + alpha * (back @ w1.T)  # eq 15
    rows = [x.flatten(0, -2) for x in (t, back, F.relu(hidden), g)]
    return dt, alpha * rows[0].T @ rows[1], alpha * rows[2].T @ rows[3]  # eqs 16, 17


class _NoisySign(torch.autograd.Function):
    """sign(t), in variant F1 plus alpha e(t), with gradients() as the backward pass of both."""

    @staticmethod
    def forward(t, w1, w2, n, alpha, options):
        signs = hard_sign(t)
        if not options.in_forward:
            return signs
        return signs + alpha * residual(t, w1.to(t.dtype), w2.to(t.dtype), *options.noise)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:5])
        ctx.options = inputs[5]

    @staticmethod
    def backward(ctx, g: Tensor):
        t, w1, w2, n, alpha = ctx.saved_tensors
        slope = Fourier(n, ctx.options.omega, ctx.options.clip)
        w1, w2 = w1.to(t.dtype), w2.to(t.dtype)
        return *gradients(g, t, w1, w2, slope, alpha, *ctx.options.noise), None, None, None


@dataclass(frozen=True)
class _Options:
    omega: float
    clip: float
    in_forward: bool
    noise: tuple[Shortcut, float]


class FourierSign(nn.Module):
    """sign(t) with the Fourier slope and, if `hidden` > 0, the noise adaptation alpha e(t).

    F0: the value is sign(t), alpha e(t) takes part in the backward pass alone (Algorithm 1). F1:
    the value is sign(t) + alpha e(t) (eq 14). t has d entries along dim: -1, or 1 for feature
    maps. n and alpha are buffers that advance() sets by the method's plan. W1 ~ N(0, 1/d) and
    W2 ~ N(0, 1e-4) make e small beside the sign at first (the paper says: zero mean); they are
    drawn from torch's global generator.
    """

    n: Tensor
    alpha: Tensor

    def __init__(self, method: "FDA", d: int, dim: int = -1):
        super().__init__()
        self.plan, self.dim, self.noisy = method.plan, dim, method.nam != "off"
        noise = ("zero" if method.nam == "off" else method.nam, method.a)
        self.options = _Options(method.omega, method.clip, method.variant == "F1", noise)
        self.register_buffer("n", torch.tensor(float(method.n)))
        self.register_buffer("alpha", torch.tensor(method.alpha if self.noisy else 0.0))
        if self.noisy:
            hidden = method.hidden(d)
            self.w1 = nn.Parameter(torch.randn(d, hidden) * d**-0.5)
            self.w2 = nn.Parameter(torch.randn(hidden, d) * 1e-2)

    def advance(self, epoch: int, epochs: int) -> dict[str, float]:
        """Sets n and alpha of an epoch and returns them by name."""
        n, alpha = self.plan(epoch, epochs)
        self.n.fill_(n)
        self.alpha.fill_(alpha if self.noisy else 0)
        return {"n": n, "alpha": float(self.alpha)}

    def forward(self, t: Tensor) -> Tensor:
        if not self.noisy:
            return sign(t, Fourier(self.n, self.options.omega, self.options.clip))
        rows = t.movedim(self.dim, -1)
        signs = _NoisySign.apply(rows, self.w1, self.w2, self.n, self.alpha, self.options)
        return signs.movedim(-1, self.dim)

    def extra_repr(self) -> str:
        return f"{self.options}, noisy={self.noisy}, dim={self.dim}"


class FilterScale(nn.Module):
    """BiBench's weights: mean|w_i| sign(w_i) filter by filter, neither standardized nor with the
    scale in the gradient."""

    def __init__(self, sign: FourierSign):
        super().__init__()
        self.sign = sign

    def scale(self, w: Tensor) -> Tensor:
        return analytic_scale(w)

    def forward(self, w: Tensor) -> Tensor:
        signs = self.sign(w.flatten(1)).view_as(w)
        return _Straight.apply((per_filter(analytic_scale(w), w) * signs).detach(), signs)


@dataclass(frozen=True)
class FDA:
    """FDA() is the paper's method: n from 9 to 18, noise adaptation with a sin x, variant F0.

    n, grow: the last index of the sum in the first and in the last epoch; grow=None: constant.
    omega: 2 pi / T, the same for activations and for weights in standard deviations (LayerScale);
    the paper does not say it. nam: the shortcut eta of the noise adaptation, or "off". k: rows of
    width d pass through max(1, d // k) hidden units. alpha: its weight in the first epoch, which
    falls to exactly 0 in the last. clip: no gradient where |t| is larger. seed: of its matrices.
    convention: "bibench" for what FDA.bibench() says. ValueError for values out of range.
    """

    n: int = 9
    grow: int | None = 18
    omega: float = 0.1
    nam: Literal["off", "zero", "linear", "sin"] = "sin"
    variant: Literal["F0", "F1"] = "F0"
    k: int = 64
    a: float = 0.1
    alpha: float = 1.0
    clip: float = math.inf
    seed: int = 0
    convention: Literal["paper", "bibench"] = "paper"

    def __post_init__(self) -> None:
        Fourier(self.n, self.omega, self.clip)
        if self.grow is not None and self.grow < self.n:
            raise ValueError(f"grow must be at least n = {self.n} or None, got {self.grow}")
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        if not self.alpha >= 0:
            raise ValueError(f"alpha must not be negative, got {self.alpha}")
        for name, known in (
            ("nam", ("off", "zero", "linear", "sin")),
            ("variant", ("F0", "F1")),
            ("convention", ("paper", "bibench")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")

    @classmethod
    def bibench(cls, seed: int = 0) -> "FDA":
        """The operator "FDA-BNN" as BiBench's code has it (arXiv:2301.11233).

        Forward sign + alpha e, alpha from about 0.1 to 0 along a cosine; no gradient beyond
        |x| = 1; weights by FilterScale; d // 4 hidden units where d < 64; the noise matrices of
        the activations stay at their random start, for they are made after the optimizer.
        """
        return cls(variant="F1", alpha=0.1, clip=1.0, seed=seed, convention="bibench")

    def plan(self, epoch: int, epochs: int) -> tuple[int, float]:
        """(n, alpha) of an epoch counted from 0."""
        extra = (self.n if self.grow is None else self.grow) - self.n
        if self.convention == "bibench":
            fading = (1 + math.cos(math.pi * (epoch + 1) / epochs)) / 2
            return self.n + extra * epoch // epochs, self.alpha * fading
        done = epoch / max(epochs - 1, 1)  # reaches 1: the last epoch trains with alpha = 0
        return round(self.n + extra * done), self.alpha * (1 - done)

    def hidden(self, d: int) -> int:
        """Hidden units of the noise adaptation for rows of width d."""
        if self.convention == "bibench" and d < self.k:
            return max(1, d // 4)
        return max(1, d // self.k)

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none."""
        with seeds.scoped(self.seed, "fda", "noise"):
            return convert(model, self._binarized)  # type: ignore[arg-type]

    def _binarized(self, real: nn.Conv2d | nn.Linear) -> nn.Module:
        is_conv = isinstance(real, nn.Conv2d)
        channels = real.in_channels if is_conv else real.in_features
        activation = FourierSign(self, channels, dim=1 if is_conv else -1)
        signs = FourierSign(self, real.weight[0].numel())
        if self.convention == "bibench":
            activation.requires_grad_(False)
            binarizer: nn.Module = FilterScale(signs)
        else:
            binarizer = LayerScale(signs)
        return binarized(real, lambda w: binarizer, shift=False, activation=activation)

    def hooks(self) -> tuple[Hook, ...]:
        """n and alpha of each epoch, also written to its line of the history."""
        return (Advance(),)

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits (binary.deploy); ValueError while alpha is not 0 in
        variant F1, whose layers then compute more than signs."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model)
