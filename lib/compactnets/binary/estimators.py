"""One layer for every gradient estimator, so that a comparison of estimators compares nothing else.

The estimators that grow steeper while a network trains, and the method that puts any of them on a
network's weights and activations alike.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.binary.convert import convert
from compactnets.binary.layers import Sign, binarized
from compactnets.binary.ste import Clipped, Slope, Tanh, sign
from compactnets.method import Hook, Progress


class LayerScale(nn.Module):
    """w_hat = mean|W| sign(w), one scale a layer (DoReFa, arXiv:1606.06160, at 1 bit).

    sign: a module rows (out, d) -> signs. It sees t = w / std(W), so that an estimator's width
    means the same in every layer; scale and std are constants for the gradient, hence
    dL/dw = mean|W| / std(W) * slope(t) * dL/dw_hat, about 0.8 slope(t) dL/dw_hat.
    """

    def __init__(self, sign: nn.Module):
        super().__init__()
        self.sign = sign

    def scale(self, w: Tensor) -> Tensor:
        return w.abs().mean().expand(w.shape[0])

    def forward(self, w: Tensor) -> Tensor:
        return w.detach().abs().mean() * self.sign(standardized(w).flatten(1)).view_as(w)


def standardized(w: Tensor) -> Tensor:
    """w / std(W) over the whole layer, with the deviation a constant for the gradient."""
    return w / w.detach().std(correction=0).clamp_min(1e-12)


class Steepening(nn.Module):
    """sign(x) with the gradient k t (1 - tanh(t x)^2), t from `low` to `high`, k = max(1/t, 1).

    IR-Net's EDE (arXiv:1909.10788, eqs 9-10), its ends reached in the first and the last epoch.
    """

    t: Tensor

    def __init__(self, low: float = 0.1, high: float = 10.0):
        super().__init__()
        if not 0 < low <= high:
            raise ValueError(f"needs 0 < low <= high, got low={low}, high={high}")
        self.low, self.high = low, high
        self.register_buffer("t", torch.tensor(float(low)))

    def advance(self, epoch: int, epochs: int) -> dict[str, float]:
        """Sets the steepness of an epoch; returns {"t": steepness}."""
        t = self.low * (self.high / self.low) ** (epoch / max(epochs - 1, 1))
        self.t.fill_(t)
        return {"t": t}

    def forward(self, x: Tensor) -> Tensor:
        return sign(x, Tanh(self.t, (1 / self.t).clamp_min(1)))  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


class Advance(Hook):
    """Before each epoch, module.advance(epoch, epochs) of every module that has one; the numbers
    that it returns stand in the epoch's line of the history."""

    def start(self, progress: Progress) -> None:
        self._modules = [m for m in progress.model.modules() if hasattr(m, "advance")]
        self._set(0, progress.epochs)

    def _set(self, epoch: int, epochs: int) -> None:
        self._now: dict[str, Any] = {}
        for module in self._modules:
            self._now = module.advance(epoch, epochs)  # type: ignore[operator]

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        line = self._now
        if progress.epoch + 1 < progress.epochs:
            self._set(progress.epoch + 1, progress.epochs)
        return line


CLIPPED = Clipped()


@dataclass(frozen=True)
class Estimator:
    """A 1-bit network by nothing but a gradient estimator: slope on standardized weights
    (LayerScale) and on activations, or "steepening" for IR-Net's tanh that grows steeper."""

    slope: Slope | str = CLIPPED

    def _sign(self) -> nn.Module:
        if isinstance(self.slope, str):
            if self.slope != "steepening":
                raise ValueError(f'slope must be a slope or "steepening", got {self.slope!r}')
            return Steepening()
        return Sign(self.slope)

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none."""
        self._sign()  # a wrong slope is refused before the network is looked at

        def make(real: nn.Module) -> nn.Module:
            binarizer = LayerScale(self._sign())
            return binarized(real, lambda w: binarizer, shift=False, activation=self._sign())

        return convert(model, make, self)

    def hooks(self) -> tuple[Hook, ...]:
        """Steepening epoch by epoch, where there is something to steepen."""
        return (Advance(),)

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits (binary.deploy)."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
