"""FDA-BNN: the gradient of sign taken from its Fourier series, with n + 1 terms.

Learning Frequency Domain Approximation for Binary Neural Networks, arXiv:2103.00841. Equation
numbers are those of the conference submission. The released code holds no training: its sign
passes the gradient through unchanged.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets import seeds
from compactnets.binary.convert import binary_layers, convert
from compactnets.binary.estimators import Advance, LayerScale, standardized
from compactnets.binary.fourier import Fourier, Scalar
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import StraightThrough, analytic_scale, per_filter
from compactnets.binary.ste import Slope, hard_sign, sign
from compactnets.method import Hook, Progress

Shortcut = Literal["zero", "linear", "sin"]


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
    alpha: Scalar,
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
    t, back, r, g = (x.flatten(0, -2) for x in (t, back, F.relu(hidden), g))
    return dt, alpha * (t.T @ back), alpha * (r.T @ g)  # eqs 16, 17


class _NoisySign(torch.autograd.Function):
    """sign(t), in variant F1 plus alpha e(t), with gradients() as the backward pass of both."""

    @staticmethod
    def forward(t, w1, w2, n, omega, alpha, options):
        signs = hard_sign(t)
        if not options.in_forward:
            return signs
        return signs + alpha * residual(t, w1.to(t.dtype), w2.to(t.dtype), *options.noise)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, g: Tensor):
        t, w1, w2, n, omega, alpha = ctx.saved_tensors
        slope = Fourier(n, omega, ctx.options.clip)
        w1, w2 = w1.to(t.dtype), w2.to(t.dtype)
        return *gradients(g, t, w1, w2, slope, alpha, *ctx.options.noise), *4 * [None]


@dataclass(frozen=True)
class _Options:
    clip: float
    in_forward: bool
    noise: tuple[Shortcut, float]


class FourierSign(nn.Module):
    """sign(t) with the Fourier slope and, unless nam is "off", the noise adaptation alpha e(t).

    F0: the value is sign(t), alpha e(t) takes part in the backward pass alone (Algorithm 1). F1:
    the value is sign(t) + alpha e(t) (eq 14). t has d entries along dim: -1, or 1 for feature
    maps. n and alpha are buffers that advance() sets by the method's plan. W1 ~ N(0, 1/d) and
    W2 ~ N(0, 1e-4) make e small beside the sign at first (the paper says: zero mean); they are
    drawn from torch's global generator.
    """

    n: Tensor
    omega: Tensor
    alpha: Tensor

    def __init__(self, method: "FDA", d: int, dim: int = -1):
        super().__init__()
        self.plan, self.dim, self.noisy = method.plan, dim, method.nam != "off"
        noise = ("zero" if method.nam == "off" else method.nam, method.a)
        self.options = _Options(method.clip, method.variant == "F1", noise)
        self.register_buffer("n", torch.tensor(float(method.n)))
        self.register_buffer("omega", torch.tensor(float(method.omega)))
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

    def slope(self) -> Fourier:
        """The Fourier slope of this epoch."""
        return Fourier(self.n, self.omega, self.options.clip)

    def forward(self, t: Tensor) -> Tensor:
        if not self.noisy:
            return sign(t, self.slope())
        rows = t.movedim(self.dim, -1)
        signs = _NoisySign.apply(
            rows, self.w1, self.w2, self.n, self.omega, self.alpha, self.options
        )
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
        return StraightThrough.apply((per_filter(analytic_scale(w), w) * signs).detach(), signs)


class WrongSign(Hook):
    """At the end of each epoch, on the given images: "wrong_activations" and "wrong_weights", the
    shares (by layer) whose Fourier slope is negative, so that training moves them the wrong way;
    and "reach", the histogram of t over [-8, 8] (counts in 64 bins) of one layer's input.

    images: (N, C, H, W) as the network takes them. Idle in layers without a Fourier slope.
    """

    def __init__(self, images: Tensor, layer: str):
        self.layer, self._images = layer, images
        self.images = [*images.shape, float(images.double().sum())]  # for repr, hence for the key

    @torch.no_grad()
    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        signs = {n: m.activation for n, m in binary_layers(progress.model)}
        signs = {n: m for n, m in signs.items() if isinstance(m, FourierSign)}
        inputs = _inputs(progress.model, signs, self._images)

        def slope(m: FourierSign) -> Fourier:  # of this epoch: Advance has set the next one by now
            terms, _ = m.plan(progress.epoch, progress.epochs)
            return Fourier(terms, m.omega, m.options.clip)

        weights = {n: standardized(progress.model.get_submodule(n).weight) for n in signs}  # type: ignore[arg-type]
        wrong = [
            {n: float((slope(m)(t[n]) < 0).double().mean()) for n, m in signs.items()}
            for t in (inputs, weights)
        ]
        counts = torch.histc(inputs[self.layer].float(), 64, -8, 8).tolist()
        return {"wrong_activations": wrong[0], "wrong_weights": wrong[1], "reach": counts}


def _inputs(model: nn.Module, modules: dict[str, Any], images: Tensor) -> dict[str, Tensor]:
    """What flows into the modules, by name, when the model evaluates the images."""
    found: dict[str, Tensor] = {}

    def catch(name: str, args: tuple) -> None:
        found[name] = args[0]

    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: catch(name, args))
        for name, module in modules.items()
    ]
    was = model.training
    model.eval()(images.to(next(model.parameters()).device))
    model.train(was)
    for handle in handles:
        handle.remove()
    return found


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
            return convert(model, self.layer, self)  # type: ignore[arg-type]

    def layer(self, real: nn.Conv2d | nn.Linear) -> BinaryLayer:
        """The 1-bit layer for one convolution or linear layer."""
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

        return deploy(model, self)
