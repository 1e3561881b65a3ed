"""DDTB: two trained bounds per layer, rescaled for each image by a 2-bit gate (arXiv:2203.03844).

    x_hat = affine(x, beta_u alpha_u, beta_l alpha_l),   (beta_u, beta_l) = 2 sigmoid(v(x))

Symbols are the paper's; what its text leaves open follows the released code (zysxmu/DDTB).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets.method import Hook, Progress
from compactnets.quant.affine import affine, affine_grid
from compactnets.quant.quantizer import Codes, Grid, batches_of, check_bits, encode, percentile
from compactnets.quant.ste import round_ste

HIDDEN = 32  # width of a gate


def symmetric(w: Tensor, bits: int) -> Tensor:
    """w rounded to multiples of max|w| / (2^(bits-1) - 1), straight-through: ternary at 2 bits."""
    step = w.detach().abs().max().clamp_min(1e-8) / (2 ** (bits - 1) - 1)
    return round_ste(w / step) * step


def min_max(x: Tensor, bits: int) -> Tensor:
    """x rounded to 2^bits levels from its own minimum to its maximum, straight-through."""
    low = x.detach().min()
    step = (x.detach().max() - low).clamp_min(1e-8) / (2**bits - 1)
    return round_ste((x - low) / step) * step + low


class Gate(nn.Module):
    """v = W2 Q(ReLU(BN(W1 Q(g)))), g = mean over the pixels of x: (N, C, H, W) -> logits (N, 2).

    W1 (32, C) and W2 (2, 32) are quantized to 2 bits by their largest magnitude, the inputs of both
    by their minimum and maximum over the batch; no gradient reaches x. released=True cuts the
    gradient at the second quantizer as well, as the released code does: then only W2 learns.
    """

    def __init__(self, channels: int, bits: int = 2, released: bool = False):
        super().__init__()
        self.bits, self.released = check_bits(bits), released
        self.w1 = nn.Parameter(torch.empty(HIDDEN, channels))
        self.w2 = nn.Parameter(torch.empty(2, HIDDEN))
        self.bn = nn.BatchNorm1d(HIDDEN)
        for w in (self.w1, self.w2):
            nn.init.kaiming_uniform_(w, a=5**0.5)  # as nn.Conv2d draws a 1x1 convolution

    def forward(self, x: Tensor) -> Tensor:
        g = x.detach().mean(dim=(2, 3))
        hidden = F.linear(min_max(g, self.bits), symmetric(self.w1, self.bits))
        hidden = torch.relu(self.bn(hidden))
        if self.released:
            hidden = hidden.detach()
        return F.linear(min_max(hidden, self.bits), symmetric(self.w2, self.bits))

    def extra_repr(self) -> str:
        return f"channels={self.w1.shape[1]}, bits={self.bits}, released={self.released}"


class DualBounds(nn.Module):
    """Activation quantizer with trained bounds alpha_u and alpha_l, and a gate if it is given one.

    Until `gated` is set (warm-up; see OpenGates) the gate only computes its logits. bounds(x) are
    scalars without gate, else (N, 1, 1, 1). The constructor's +-10 are the released code's.
    error_term: see affine. ValueError unless bits is 2 to 8.
    """

    gated: Tensor

    def __init__(self, bits: int, error_term: bool = True, bound: float = 10.0):
        super().__init__()
        self.bits, self.error_term = check_bits(bits), error_term
        self.alpha_u = nn.Parameter(torch.tensor(float(bound)))
        self.alpha_l = nn.Parameter(torch.tensor(-float(bound)))
        self.gate: Gate | None = None
        self.penalty: Tensor | None = None
        self.register_buffer("gated", torch.tensor(False))

    @torch.no_grad()
    def calibrate(self, x: Tensor | Iterable[Tensor], percent: float = 99.0) -> None:
        """Sets the bounds to the upper and lower percentile, mean over one batch or several."""
        upper, lower = [], []
        for batch in batches_of(x):
            upper.append(percentile(batch, percent))
            lower.append(percentile(batch, 100 - percent))
        self.alpha_u.copy_(torch.stack(upper).mean())
        self.alpha_l.copy_(torch.stack(lower).mean())

    def factors(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(beta_u, beta_l) (N, 1, 1, 1) in (0, 2): 2 sigmoid(v), or 1 as long as not gated."""
        beta = torch.where(self.gated, 2 * torch.sigmoid(logits), 1.0)
        return beta[:, 0, None, None, None], beta[:, 1, None, None, None]

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(upper, lower) for these inputs (N, C, H, W)."""
        return (self.alpha_u, self.alpha_l) if self.gate is None else self._bounds(self.gate(x))

    def _bounds(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        beta_u, beta_l = self.factors(logits)
        return beta_u * self.alpha_u, beta_l * self.alpha_l

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return affine(x, self.alpha_u, self.alpha_l, self.bits, self.error_term)
        logits = self.gate(x)
        if self.training:
            self.penalty = torch.where(self.gated, 0.0, logits.square().mean())
        return affine(x, *self._bounds(logits), self.bits, self.error_term)

    def take_penalty(self) -> Tensor | None:
        """Mean squared logit of the last pass in training mode, which pulls beta towards 1 while
        the gate is closed; 0 as soon as it is open, None without gate. Given out once."""
        penalty, self.penalty = self.penalty, None
        return penalty

    def grid(self, x: Tensor) -> Grid:
        return affine_grid(*self.bounds(x), self.bits)

    def codes(self, x: Tensor) -> Codes:
        return encode(x, *self.grid(x))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, error_term={self.error_term}"


def dynamic_intensity(highest: Tensor, lowest: Tensor) -> Tensor:
    """DI = Var(max) + Var(min) over the observations: (layers, observations) twice -> (layers,)."""
    return highest.var(dim=1) + lowest.var(dim=1)


def most_dynamic(intensity: Tensor, share: float) -> list[int]:
    """Indices of the floor(share * layers) largest, largest first; of equal ones the earlier."""
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    count = int(share * len(intensity) + 1e-9)
    return intensity.argsort(descending=True, stable=True)[:count].tolist()


def dual_bounds(model: nn.Module) -> list[DualBounds]:
    """The model's quantizers of this kind, in its order."""
    return [module for module in model.modules() if isinstance(module, DualBounds)]


class OpenGates(Hook):
    """Lets the gates scale the bounds from epoch `warmup` on (counted from 0)."""

    def __init__(self, warmup: int):
        if warmup < 0:
            raise ValueError(f"warmup must not be negative, got {warmup}")
        self.warmup = warmup

    def start(self, progress: Progress) -> None:
        self._open(progress.model, 0)

    def epoch_end(self, progress: Progress) -> None:
        self._open(progress.model, min(progress.epoch + 1, progress.epochs - 1))

    def _open(self, model: nn.Module, epoch: int) -> None:
        for quantizer in dual_bounds(model):
            quantizer.gated.fill_(epoch >= self.warmup)


class TraceBounds(Hook):
    """Notes the static bounds of all quantizers every `every` steps, for a page to plot."""

    def __init__(self, every: int = 10):
        self.every = every

    def start(self, progress: Progress) -> None:
        self._lines: list[dict[str, Any]] = []
        self._note(progress)

    def after_step(self, progress: Progress) -> None:
        if progress.step % self.every == 0:
            self._note(progress)

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        lines, self._lines = self._lines, []
        return {"bounds": lines}

    def _note(self, progress: Progress) -> None:
        quantizers: Sequence[DualBounds] = dual_bounds(progress.model)
        upper = [float(q.alpha_u.detach()) for q in quantizers]
        lower = [float(q.alpha_l.detach()) for q in quantizers]
        self._lines.append({"step": progress.step, "upper": upper, "lower": lower})
