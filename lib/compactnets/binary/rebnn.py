"""ReBNN: a weight flips only if its gradient exceeds a threshold that training sets itself.

Resilient Binary Neural Network, arXiv:2302.00956. Equation numbers are those of the authors'
monograph (section 3.9), which restates the paper.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compactnets import seeds
from compactnets.binary.convert import binary_layers, convert
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import AnalyticScale, analytic_scale, per_filter
from compactnets.binary.ste import hard_sign
from compactnets.method import Hook, Progress


def reconstruction_loss(w: Tensor, alpha: Tensor, gamma: Tensor) -> Tensor:
    """L_R = 1/2 sum_i gamma_i ||w_i - alpha_i sign(w_i)||^2 (eqs 3.142-3.143), a scalar.

    w (out, ...), alpha and gamma (out,). The sign is a constant for the gradient.
    """
    residual = w - per_filter(alpha, w) * hard_sign(w).detach()
    return (per_filter(gamma, w) * residual.square()).sum() / 2


def adaptive_gamma(flipped: Tensor, g: Tensor) -> Tensor:
    """gamma_i = (share of signs of filter i that changed) * max_j |g_ij| (eq 3.150), (out,).

    flipped: bool, like g = dL/dw_hat (out, ...).
    """
    share = flipped.flatten(1).to(g.dtype).mean(dim=1)
    return share * g.flatten(1).abs().amax(dim=1)


def gradients(w: Tensor, alpha: Tensor, g: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """delta_w (eq 3.144) and delta_alpha (eq 3.152 with the sign that differentiation gives).

    w and g = dL/dw_hat (out, ...); alpha and gamma (out,). The monograph prints the second term of
    delta_alpha with a plus; the released code and autograd say minus.
    """
    b = hard_sign(w)
    a, c = per_filter(alpha, w), per_filter(gamma, w)
    residual = c * (w - a * b)
    window = (w.abs() <= 1).to(g.dtype)
    delta_w = a * (g * window) + residual  # eq 3.144, the gamma terms collected
    delta_alpha = ((g - residual) * b).flatten(1).sum(dim=1)  # eq 3.152
    return delta_w, delta_alpha


class _Resilient(torch.autograd.Function):
    """w_hat = alpha sign(w); the backward pass adds the reconstruction loss with
    gamma = constant + share * max|g|. The input peak is idle in the forward pass: its "gradient"
    carries max|g| out, so that a page can plot gamma (torch.compile drops writes to buffers)."""

    @staticmethod
    def forward(w, alpha, constant, share, peak):
        return per_filter(alpha, w) * hard_sign(w)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def backward(ctx, g: Tensor):
        w, alpha, constant, share = ctx.saved_tensors
        peak = g.flatten(1).abs().amax(dim=1)
        gamma = constant + share * peak  # eq 3.150 if constant is 0 and share the flipped one
        return *gradients(w, alpha, g, gamma), None, None, peak


class ResilientScale(nn.Module):
    """Learned scale with ReBNN's backward pass.

    gamma: "adaptive" (eq 3.150), "max" (gamma = max|g|: no weight flips under plain SGD) or a
    constant >= 0 (0 leaves a learned scale and nothing else). remember(w), called once after each
    optimizer step, counts the signs that the step changed; the next backward pass uses the share,
    one step late as in any implementation that stores one sign bit per weight.
    """

    constant: Tensor
    share: Tensor
    positive: Tensor
    peak: Tensor

    def __init__(self, weight: Tensor, gamma: float | Literal["adaptive", "max"] = "adaptive"):
        super().__init__()
        if isinstance(gamma, str) and gamma not in ("adaptive", "max"):
            raise ValueError(f'gamma must be "adaptive", "max" or a number, got {gamma!r}')
        if not isinstance(gamma, str) and not gamma >= 0:
            raise ValueError(f"gamma must not be negative, got {gamma}")
        self.gamma = gamma
        alpha = analytic_scale(weight.detach())
        self.alpha = nn.Parameter(alpha)
        constant = 0.0 if isinstance(gamma, str) else gamma
        self.register_buffer("constant", torch.full_like(alpha, constant))
        self.register_buffer("share", torch.full_like(alpha, 1.0 if gamma == "max" else 0.0))
        self.register_buffer("positive", weight.detach() >= 0)
        self.register_buffer("peak", torch.zeros_like(alpha, requires_grad=True), persistent=False)

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self.peak = torch.zeros_like(self.share, requires_grad=True)  # a moved copy is no leaf
        return self

    def scale(self, w: Tensor) -> Tensor:
        return self.alpha.abs()

    def forward(self, w: Tensor) -> Tensor:
        return _Resilient.apply(w, self.alpha.abs(), self.constant, self.share, self.peak)

    @torch.no_grad()
    def remember(self, w: Tensor) -> None:
        """After an optimizer step: share = fraction of signs that it changed, per filter."""
        positive = w >= 0
        if self.gamma == "adaptive":
            self.share.copy_((positive != self.positive).flatten(1).to(w.dtype).mean(dim=1))
        self.positive.copy_(positive)

    def last_gamma(self) -> Tensor:
        """gamma (out,) of the last backward pass, before remember is called; zeros if none."""
        peak = self.peak.grad if self.peak.grad is not None else torch.zeros_like(self.share)
        return self.constant + self.share * peak

    def extra_repr(self) -> str:
        return f"gamma={self.gamma!r}"


def resilient_layers(model: nn.Module) -> Iterator[tuple[BinaryLayer, ResilientScale]]:
    """The 1-bit layers that have a gamma, each with its scale."""
    for _, layer in binary_layers(model):
        if isinstance(layer.binarizer, ResilientScale):
            yield layer, layer.binarizer


class Remember(Hook):
    """Calls remember on every resilient scale after each step; all that ReBNN's training needs."""

    def start(self, progress: Progress) -> None:
        self._layers = list(resilient_layers(progress.model))

    def after_step(self, progress: Progress) -> None:
        for layer, scale in self._layers:
            scale.remember(layer.weight)
            scale.peak.grad = None


class _Released(torch.autograd.Function):
    """The released code's layer: factor 0.02, no window, gamma its clamp's constant."""

    @staticmethod
    def forward(w, alpha, gamma):
        return 0.02 * per_filter(alpha, w) * hard_sign(w)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.gamma = inputs[2]

    @staticmethod
    def backward(ctx, g: Tensor):
        w, alpha = ctx.saved_tensors
        b = hard_sign(w)
        a = per_filter(alpha, w)
        residual = ctx.gamma * (w - 0.02 * a * b)
        return a * g + residual, (g * w - residual * b).flatten(1).sum(dim=1), None


def released_gamma(p: float) -> float:
    """What the released code makes of gamma = p: its clamp is inverted, the result constant."""
    return max(min(p, 1e-5), 2e-4)


class ReleasedScale(nn.Module):
    """The released code's binarizer: w_hat = 0.02 |alpha| sign(w), alpha started at N(0, 1).

    Differs from the paper in the constant gamma, the factor 0.02 (which the straight-through term
    lacks), the missing window |w| <= 1 and the scale's gradient sum g w in place of sum g b.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(weight.shape[0], device=weight.device))

    def scale(self, w: Tensor) -> Tensor:
        return 0.02 * self.alpha.abs()

    def forward(self, w: Tensor) -> Tensor:
        return _Released.apply(w, self.alpha.abs(), released_gamma(0.0))


@dataclass(frozen=True)
class ReBNN:
    """Rows of the ablation by one argument; ReBNN() is the paper's method.

    scale: "resilient" with gamma as in ResilientScale; "analytic" is the baseline alpha =
    ||w||_1 / M without gamma; "released" the authors' code. latent_lr: learning rate of latent
    weights relative to the rest (plain SGD needs a larger one). seed: of the released scale's
    random start.
    """

    scale: Literal["resilient", "analytic", "released"] = "resilient"
    gamma: float | Literal["adaptive", "max"] = "adaptive"
    latent_lr: float = 1.0
    seed: int = 0

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none.

        What flows into them should have both signs, as behind a normalization or PReLU: behind a
        ReLU every sign is +1 until the learned shift moves it.
        """
        makers = {
            "resilient": lambda w: ResilientScale(w, self.gamma),
            "analytic": lambda w: AnalyticScale(),
            "released": ReleasedScale,
        }
        if self.scale not in makers:
            raise ValueError(f"scale must be one of {sorted(makers)}, got {self.scale!r}")
        with seeds.scoped(self.seed, "rebnn", "scale"):
            return convert(model, lambda real: binarized(real, makers[self.scale]), self)

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Latent weights with their own learning rate, then everything else."""
        latent = [layer.weight for _, layer in binary_layers(model)]
        apart = {id(p) for p in latent}
        rest = [p for p in model.parameters() if id(p) not in apart]
        return [{"params": rest}, {"params": latent, "lr_scale": self.latent_lr}]

    def hooks(self) -> tuple[Hook, ...]:
        """Counting flips after each step, where gamma depends on them."""
        return (Remember(),)

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits (binary.deploy)."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
