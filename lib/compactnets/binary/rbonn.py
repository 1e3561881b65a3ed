"""RBONN: learned scales tied to the weights by a bilinear term, and a recurrence that moves the
weights of channels with a small scale and a small norm.

Recurrent Bilinear Optimization for Binary Neural Networks, arXiv:2209.01542. Equation numbers are
those of the authors' monograph (section 3.8), which restates the paper. w (out, ...): latent
weights, alpha (out,): scales, A = diag(1 / alpha), U (out,): the recurrence's coefficients.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compactnets import seeds
from compactnets.binary.convert import binary_layers, convert
from compactnets.binary.density import density_mask, index_mask, random_mask, rank_mask
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import AnalyticScale, Binarizer, analytic_scale, per_filter
from compactnets.binary.ste import hard_sign
from compactnets.method import Hook, Progress

Form = Literal["none", "paper", "lookahead"]
Mask = Literal["density", "ranks", "indices", "random"]
Scale = Literal["learned", "analytic", "released"]


# The bilinear model


def bilinear_loss(w: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """G(w, A) = ||b - A w||^2 (eq 3.121 with R = 0), a scalar; w and b (out, J), A (out, out)."""
    return (b - A @ w).square().sum()


def coupling(w: Tensor, A: Tensor, b: Tensor, slope: Tensor) -> Tensor:
    """What dG/dw gains entry by entry if A_ii depends on w_i: 2 (w_i . g_i) dA_ii/dw_ij, (out, J).

    slope: dA_ii/dw_ij (out, J); g_i = A_ii w_i - b_i is a column of G_hat.
    """
    g_hat = A @ w - b
    return 2 * (w * g_hat).sum(1, keepdim=True) * slope


def printed_coupling(w: Tensor, A: Tensor, b: Tensor, slope: Tensor) -> Tensor:
    """The trace of eq 3.129, one number per filter (out,): half of coupling's sum over j."""
    return (w * (A @ w - b)).sum(1) * slope.sum(1)


def gradients(
    w: Tensor, alpha: Tensor, g: Tensor, lam: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """(dL_S/dw, lam dG/dw, dL/dalpha) for the loss L_S + lam/2 ||w - alpha b||^2, b constant.

    g = dL_S/dw_hat (out, ...). The first two add up to w's gradient (eq 3.125 without its trace),
    kept apart because U's gradient has the first alone. Straight-through window |w| <= 1.
    """
    a, b = per_filter(alpha, w), hard_sign(w)
    task = a * (g * (w.abs() <= 1).to(g.dtype))
    pull = lam * (w - a * b)
    return task, pull, ((g - pull) * b).flatten(1).sum(dim=1)


# The recurrence


def recurrent_update(w: Tensor, u: Tensor, mask: Tensor) -> Tensor:
    """U o DReLU(w, A), what eq 3.131 adds to the weights after an ordinary step; of w's shape."""
    return per_filter(u * mask, w) * w


def look_ahead(w: Tensor, u: Tensor, past: Tensor) -> Tensor:
    """The released form: w - U o past, with past the masked gradient of the step before."""
    return w - per_filter(u, w) * past


class _Bilinear(torch.autograd.Function):
    """w_hat = alpha sign(w). The backward pass adds the bilinear term, and for the printed form
    dL/dU = sum_j dL_S/dw * past (eq 3.136), past = DReLU(w of the step before, A)."""

    @staticmethod
    def forward(w, alpha, lam, u, past):
        return per_filter(alpha, w) * hard_sign(w)

    @staticmethod
    def setup_context(ctx, inputs, output):
        w, alpha, lam, u, past = inputs
        ctx.save_for_backward(w, alpha, lam, *([] if u is None else [past]))

    @staticmethod
    def backward(ctx, g: Tensor):
        w, alpha, lam, *past = ctx.saved_tensors
        task, pull, delta_alpha = gradients(w, alpha, g, lam)
        delta_u = (task * past[0]).flatten(1).sum(1) if past else None
        return task + pull, delta_alpha, None, delta_u, None


class _Released(torch.autograd.Function):
    """The released layer: w_hat = 0.02 alpha sign(w), with gradients of something else."""

    @staticmethod
    def forward(w, alpha, lam):
        return 0.02 * per_filter(alpha, w) * hard_sign(w)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g: Tensor):
        w, alpha, lam = ctx.saved_tensors
        a, b = per_filter(alpha, w), hard_sign(w)
        pull = lam * (w - 0.02 * a * b)
        return a * g + pull, (g * w - 0.02 * pull * b).flatten(1).sum(1), None


class RecurrentScale(nn.Module):
    """Learned scale with the bilinear term and a recurrence; what RBONN puts into a 1-bit layer.

    form: "paper" adds U o DReLU(w) to the weights after each step; "lookahead" binarizes
    w - U o gradient while training and leaves w alone; "none" is the learned scale with the
    bilinear term. The recurrence needs before_step and after_step called around each optimizer
    step. chosen: the fixed mask (out,), bool, of mask="random".
    """

    past: Tensor
    weight_of_g: Tensor
    chosen: Tensor | None

    def __init__(
        self, weight: Tensor, method: "RBONN", generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.form, self.which = method.form, method.mask
        self.tau, self.lam, self.released = method.tau, method.lam, method.scale == "released"
        alpha = analytic_scale(weight.detach())
        # A tensor: a compiled network then serves every lambda.
        self.register_buffer("weight_of_g", alpha.new_tensor(self.lam), persistent=False)
        if self.released:
            alpha = torch.randn(len(alpha), generator=generator).abs().to(alpha)
        self.alpha = nn.Parameter(alpha)
        self.register_parameter("u", None)
        if self.form != "none":
            self.u = nn.Parameter(torch.full_like(alpha, method.start_of_u))
            self.register_buffer("past", torch.zeros_like(weight.detach()), persistent=False)
        chosen = None
        if self.which == "random":
            drawn = random_mask(len(alpha), self.tau, generator or torch.Generator())
            chosen = drawn.to(alpha.device)
        self.register_buffer("chosen", chosen)

    def scale(self, w: Tensor) -> Tensor:
        return 0.02 * self.alpha.abs() if self.released else self.alpha.abs()

    def forward(self, w: Tensor) -> Tensor:
        alpha, u, past = self.alpha.abs(), None, None
        if self.form == "lookahead" and self.training:
            w = look_ahead(w, self.u, self.past)
        if self.form == "paper":
            u, past = self.u, self.past
        if self.released:
            return _Released.apply(w, alpha, self.weight_of_g)
        return _Bilinear.apply(w, alpha, self.weight_of_g, u, past)

    @torch.no_grad()
    def mask(self, w: Tensor) -> Tensor:
        """The channels that the recurrence acts on, with these weights; bool (out,)."""
        alpha = self.alpha.abs()
        if self.chosen is not None:
            return self.chosen
        if self.which == "density":
            return density_mask(w, alpha, self.tau)
        return (rank_mask if self.which == "ranks" else index_mask)(alpha, self.tau)

    @torch.no_grad()
    def before_step(self, w: Tensor) -> None:
        """After the backward pass: keeps w^t and U^t o DReLU(w^t, A^t) of eq 3.131."""
        if self.form == "paper":
            self._before = w.detach().clone()
            self._update = recurrent_update(self._before, self.u, self.mask(w))

    @torch.no_grad()
    def after_step(self, w: Tensor, eta: float) -> None:
        """After the optimizer's step, with w's learning rate eta: changes w (paper) or what the
        next forward pass looks ahead with. ValueError if the look-ahead finds no gradient."""
        if self.form == "lookahead":
            if w.grad is None:
                raise ValueError("no gradient to look ahead with: the layer's weight is frozen")
            self.past.copy_(w.grad * per_filter(self.mask(w), w))
        if self.form == "paper":
            w.add_(self._update)  # eq 3.132
            # eq 3.135; the bound is ours: the paper gives no size, and U of 0.2 would explode
            self.u.copy_(self.u.abs().clamp(max=eta))
            self.past.copy_(self._before * per_filter(self.mask(self._before), w))

    def extra_repr(self) -> str:
        return f"form={self.form}, mask={self.which}, tau={self.tau}, lam={self.lam}"


def recurrent_layers(model: nn.Module) -> Iterator[tuple[str, BinaryLayer, RecurrentScale]]:
    """(name, layer, its scale) of the 1-bit layers that RBONN made."""
    for name, layer in binary_layers(model):
        if isinstance(layer.binarizer, RecurrentScale):
            yield name, layer, layer.binarizer


class Recur(Hook):
    """Calls before_step and after_step of every scale; all that RBONN's training needs."""

    def start(self, progress: Progress) -> None:
        self._layers = [(layer, scale) for _, layer, scale in recurrent_layers(progress.model)]

    def after_backward(self, progress: Progress) -> None:
        for layer, scale in self._layers:
            scale.before_step(layer.weight)

    def after_step(self, progress: Progress) -> None:
        eta = max(group["lr"] for group in progress.optimizer.param_groups)
        for layer, scale in self._layers:
            scale.after_step(layer.weight, eta)


@dataclass(frozen=True)
class RBONN:
    """Rows of the ablation by one argument each; RBONN() is the paper's method.

    form, mask: as in RecurrentScale. tau: T = int(out * tau); 1 switches the recurrence off.
    lam: weight of the bilinear term. scale: "learned"; "analytic" is the baseline alpha =
    ||w||_1 / J without gradient, bilinear term or recurrence; "released" the authors' layer.
    u: U's start; None for 1e-3 (paper; a choice of this book) or 0.2 (look-ahead, released code).
    u_lr: U's learning rate relative to the rest. seed: of random masks and released scales.
    """

    form: Form = "paper"
    mask: Mask = "density"
    tau: float = 0.6
    lam: float = 1e-4
    scale: Scale = "learned"
    u: float | None = None
    u_lr: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("form", ("none", "paper", "lookahead")),
            ("mask", ("density", "ranks", "indices", "random")),
            ("scale", ("learned", "analytic", "released")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau must lie in [0, 1], got {self.tau}")
        for name in ("lam", "u_lr", "start_of_u"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} must be finite and not negative, got {getattr(self, name)}"
                )
        if self.scale == "analytic" and self.form != "none":
            raise ValueError('the recurrence needs a learned scale: form="none" with "analytic"')
        if self.scale == "released" and self.form == "paper":
            raise ValueError('the released layer looks ahead: form="lookahead" or "none" with it')

    @property
    def start_of_u(self) -> float:
        """U's initial value in every channel."""
        return self.u if self.u is not None else 0.2 if self.form == "lookahead" else 1e-3

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none.

        What flows into them should have both signs, as behind a normalization or PReLU.
        """
        generator = seeds.generator(self.seed, "rbonn")

        def scale(w: Tensor) -> Binarizer:
            return (
                AnalyticScale() if self.scale == "analytic" else RecurrentScale(w, self, generator)
            )

        return convert(model, lambda layer: binarized(layer, scale), self)

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Everything at the recipe's rate, U at u_lr times it."""
        us = [scale.u for _, _, scale in recurrent_layers(model) if scale.u is not None]
        apart = {id(u) for u in us}
        rest = [p for p in model.parameters() if id(p) not in apart]
        return [{"params": rest}, *([{"params": us, "lr_scale": self.u_lr}] if us else [])]

    def hooks(self) -> tuple[Hook, ...]:
        """The recurrence around each optimizer step; nothing if there is none."""
        return () if self.form == "none" else (Recur(),)

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits (binary.deploy); U and the masks stay behind.

        ValueError if it is in training mode, has no 1-bit layer or one of another method.
        """
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
