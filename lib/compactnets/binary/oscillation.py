"""Weight oscillation, measured on stored signs: flips, consecutive flips, mass near zero."""

from typing import Any

import torch
from torch import Tensor

from compactnets.binary.convert import binary_layers
from compactnets.binary.rebnn import ResilientScale
from compactnets.binary.scales import analytic_scale, per_filter
from compactnets.method import Hook, Progress


def near_zero_share(w: Tensor, bound: float = 0.1) -> float:
    """Share of weights with |w_ij| < bound * mean|w_i|; relative to the filter because an absolute
    bound is saturated for usual initial weights."""
    limit = bound * per_filter(analytic_scale(w), w)
    return float((w.abs() < limit).float().mean())


class OscillationMeter(Hook):
    """Per epoch and 1-bit layer: "flips" and "consecutive" (shares per step of weights whose sign
    changed in the step, and in both this and the previous one), "near_zero", "alpha" (mean scale).
    """

    def start(self, progress: Progress) -> None:
        self._layers = dict(binary_layers(progress.model))
        self._positive = {n: m.weight.detach() >= 0 for n, m in self._layers.items()}
        self._flipped = {n: torch.zeros_like(p) for n, p in self._positive.items()}
        self._reset()

    def _reset(self) -> None:
        self._flips = {n: 0.0 * p.sum() for n, p in self._positive.items()}
        self._consecutive = {n: 0.0 * p.sum() for n, p in self._positive.items()}
        self._steps = 0

    def after_step(self, progress: Progress) -> None:
        self._steps += 1
        for name, layer in self._layers.items():
            positive = layer.weight.detach() >= 0
            flipped = positive != self._positive[name]
            self._flips[name] += flipped.sum()
            self._consecutive[name] += (flipped & self._flipped[name]).sum()
            self._positive[name], self._flipped[name] = positive, flipped

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        line: dict[str, dict[str, float]] = {
            "flips": self._shares(self._flips),
            "consecutive": self._shares(self._consecutive),
            "near_zero": {n: near_zero_share(m.weight.detach()) for n, m in self._layers.items()},
            "alpha": {
                n: float(m.binarizer.scale(m.weight).detach().mean())
                for n, m in self._layers.items()
            },
        }
        self._reset()
        return line

    def _shares(self, counts: dict[str, Tensor]) -> dict[str, float]:
        return {n: float(c) / self._positive[n].numel() / self._steps for n, c in counts.items()}


class GammaTrace(Hook):
    """Every `every` steps: gamma_i and max_j|g_ij| of some channels of one resilient layer."""

    def __init__(self, layer: str, channels: int = 5, every: int = 1):
        self.layer, self.channels, self.every = layer, channels, every

    def start(self, progress: Progress) -> None:
        self._scale = dict(binary_layers(progress.model))[self.layer].binarizer
        if not isinstance(self._scale, ResilientScale):
            raise ValueError(f"layer {self.layer} has no gamma: its binarizer is {self._scale}")
        self._rows: list[dict[str, Any]] = []

    def after_backward(self, progress: Progress) -> None:
        if progress.step % self.every == 0:
            gamma, peak = self._scale.last_gamma(), self._scale.peak.grad
            row = {"step": progress.step, "gamma": gamma[: self.channels].tolist()}
            self._rows.append(row | {"peak": peak[: self.channels].tolist()})

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        rows, self._rows = self._rows, []
        return {"gamma_trace": rows}


class LatentSnapshots(Hook):
    """The latent weights of one layer's first filters at the end of every epoch."""

    def __init__(self, layer: str, filters: int = 1):
        self.layer, self.filters = layer, filters

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        w = dict(binary_layers(progress.model))[self.layer].weight.detach()
        return {"latent": w[: self.filters].flatten().tolist()}
