"""ReCU: weights are standardized and their tails clamped, so that "dead" ones come within reach of
a sign flip (arXiv:2103.12369, as in BiBench, arXiv:2301.11233).

    w_hat = alpha sign(clamp(standardized(w), -Q_tau, Q_tau)),   y = sign(a / sigma_n) * w_hat
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compactnets import seeds
from compactnets.binary.convert import binary_layers, convert
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import per_filter
from compactnets.binary.ste import Clipped, Polynomial, sign
from compactnets.method import Hook, Progress


def standardized(w: Tensor) -> Tensor:
    """2 sqrt(2) (w - mean) / sqrt(var + 1e-5), filter by filter; var is the unbiased one."""
    dims = tuple(range(1, w.dim()))
    centered = w - w.mean(dim=dims, keepdim=True)
    return 2 * math.sqrt(2) * centered / torch.sqrt(w.var(dim=dims, keepdim=True) + 1e-5)


def quantile(w: Tensor, tau: Tensor | float) -> Tensor:
    """Q_tau = -E ln(2 - 2 tau), E = mean|w|: the tau-quantile of a Laplace distribution of that
    mean magnitude, a scalar and a constant for the gradient."""
    left = torch.as_tensor(2 - 2 * tau, dtype=w.dtype, device=w.device)
    return -w.detach().abs().mean() * left.log()


def tau_at(epoch: int, epochs: int, start: float = 0.85, end: float = 0.99) -> float:
    """tau = A e^(epoch / epochs) + B: start at epoch 0, end after the last one."""
    a = (end - start) / (math.e - 1)
    return a * math.exp(epoch / epochs) + start - a


class ClampedScale(nn.Module):
    """w_hat = alpha sign(clamp(standardized(w))); the gradient passes inside the clamp and on
    through the standardization. alpha is learned and started at U(0, 1) (torch's generator)."""

    tau: Tensor

    def __init__(self, weight: Tensor, tau: float = 0.85):
        super().__init__()
        if weight[0].numel() < 2:
            raise ValueError("ReCU standardizes each filter: needs at least 2 weights per output")
        self.alpha = nn.Parameter(torch.rand(weight.shape[0]).to(weight))
        self.register_buffer("tau", torch.tensor(tau))

    def scale(self, w: Tensor) -> Tensor:
        return self.alpha.abs()

    def latent(self, w: Tensor) -> Tensor:
        """clamp(standardized(w)), whose sign is taken."""
        w = standardized(w)
        q = quantile(w, self.tau)
        return w.clamp(-q, q)

    def forward(self, w: Tensor) -> Tensor:
        return per_filter(self.alpha, w) * sign(self.latent(w), Clipped(math.inf))


class StandardSign(nn.Module):
    """sign(a / sigma_n) with slope 2 - 2|a / sigma_n|, sigma_n the deviation within a sample's map
    (or a row of features). In eval mode sign(a), which is the same."""

    def __init__(self, over: tuple[int, ...]):
        super().__init__()
        self.over = over

    def forward(self, a: Tensor) -> Tensor:
        if self.training:
            a = a / torch.sqrt(a.var(dim=self.over, keepdim=True) + 1e-5)
        return sign(a, Polynomial())

    def extra_repr(self) -> str:
        return f"over={self.over}"


class RaiseTau(Hook):
    """Sets tau of every ReCU layer at the beginning of each epoch (tau_at)."""

    def __init__(self, tau_start: float, tau_end: float):
        self.tau_start, self.tau_end = tau_start, tau_end

    def start(self, progress: Progress) -> None:
        self._set(progress, 0)

    def epoch_end(self, progress: Progress) -> None:
        self._set(progress, min(progress.epoch + 1, progress.epochs - 1))

    def _set(self, progress: Progress, epoch: int) -> None:
        tau = tau_at(epoch, progress.epochs, self.tau_start, self.tau_end)
        for _, layer in binary_layers(progress.model):
            if isinstance(layer.binarizer, ClampedScale):
                layer.binarizer.tau.fill_(tau)


@dataclass(frozen=True)
class ReCU:
    """tau rises from tau_start to tau_end over the epochs. seed: of the scales' random start."""

    tau_start: float = 0.85
    tau_end: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.5 < self.tau_start <= self.tau_end < 1:
            raise ValueError(
                "tau must rise between 0.5 and 1 (both excluded), "
                f"got {self.tau_start} to {self.tau_end}"
            )

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none."""
        with seeds.scoped(self.seed, "recu", "scale"):
            return convert(model, self.layer, self)

    def layer(self, real: nn.Module) -> BinaryLayer:
        """The 1-bit layer for one convolution or linear layer."""
        over = (1, 2, 3) if isinstance(real, nn.Conv2d) else (-1,)
        return binarized(
            real,
            lambda w: ClampedScale(w.detach(), self.tau_start),
            shift=False,
            activation=StandardSign(over),
        )

    def hooks(self) -> tuple[Hook, ...]:
        """The schedule of tau."""
        return (RaiseTau(self.tau_start, self.tau_end),)

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits (binary.deploy)."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
