"""What latent weights do in training: flips, consecutive flips, mass near zero, histograms."""

from typing import Any

import torch
from torch import Tensor

from compactnets.binary.convert import binary_layers
from compactnets.binary.layers import BinaryLayer
from compactnets.binary.rebnn import ResilientScale, resilient_layers
from compactnets.binary.scales import analytic_scale, before_sign, per_filter
from compactnets.binary.ste import hard_sign
from compactnets.method import Hook, Progress


def latent(layer: BinaryLayer) -> Tensor:
    """What the layer takes the sign of, mostly its weight; out of the graph."""
    with torch.no_grad():
        return before_sign(layer.binarizer, layer.weight.detach())


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
        self._positive = {n: latent(m) >= 0 for n, m in self._layers.items()}
        self._flipped = {n: torch.zeros_like(p) for n, p in self._positive.items()}
        self._reset()

    def _reset(self) -> None:
        self._flips = {n: 0.0 * p.sum() for n, p in self._positive.items()}
        self._consecutive = {n: 0.0 * p.sum() for n, p in self._positive.items()}
        self._steps = 0

    def after_step(self, progress: Progress) -> None:
        self._steps += 1
        for name, layer in self._layers.items():
            positive = latent(layer) >= 0
            flipped = positive != self._positive[name]
            self._flips[name] += flipped.sum()
            self._consecutive[name] += (flipped & self._flipped[name]).sum()
            self._positive[name], self._flipped[name] = positive, flipped

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        line: dict[str, dict[str, float]] = {
            "flips": self._shares(self._flips),
            "consecutive": self._shares(self._consecutive),
            "near_zero": {n: near_zero_share(latent(m)) for n, m in self._layers.items()},
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
        scale = dict(binary_layers(progress.model))[self.layer].binarizer
        if not isinstance(scale, ResilientScale):
            raise ValueError(f"layer {self.layer} has no gamma: its binarizer is {scale}")
        self._scale = scale
        self._rows: list[dict[str, Any]] = []

    def after_backward(self, progress: Progress) -> None:
        if progress.step % self.every == 0:
            gamma, peak = self._scale.last_gamma(), self._scale.peak.grad
            row = {"step": progress.step, "gamma": gamma[: self.channels].tolist()}
            peaks = peak[: self.channels].tolist() if peak is not None else []
            self._rows.append(row | {"peak": peaks})

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        rows, self._rows = self._rows, []
        return {"gamma_trace": rows}


class ThresholdMeter(Hook):
    """How high the threshold is, every `every` steps, over all resilient layers: per epoch
    "largest_gamma", "gamma_over_peak" (mean of gamma_i / max_j|g_ij|) and "below" (share of
    weights with |g| <= gamma: their sign cannot flip under plain SGD)."""

    def __init__(self, every: int = 10):
        self.every = every

    def start(self, progress: Progress) -> None:
        self._layers = list(resilient_layers(progress.model))
        self._seen: list[tuple[float, float, float]] = []

    @torch.no_grad()
    def after_backward(self, progress: Progress) -> None:
        if progress.step % self.every == 0:
            self._seen += [self._look(layer.weight, scale) for layer, scale in self._layers]

    def _look(self, w: Tensor, scale: ResilientScale) -> tuple[float, float, float]:
        gamma, peak = scale.last_gamma(), scale.peak.grad
        if w.grad is None or peak is None:
            raise ValueError("no gradient to look at: the 1-bit layers are frozen")
        a, c = per_filter(scale.scale(w), w), per_filter(gamma, w)
        pulled = c * (w - a * hard_sign(w))
        g = (w.grad - pulled) / a.clamp_min(1e-12)  # eq 3.144 solved for the windowed gradient
        below = float((g.abs() <= c).float().mean())
        return float(gamma.max()), float((gamma / peak.clamp_min(1e-30)).mean()), below

    def epoch_end(self, progress: Progress) -> dict[str, Any] | None:
        seen, self._seen = self._seen, []
        if not seen:
            return None
        largest, ratio, below = (list(column) for column in zip(*seen, strict=True))
        return {
            "largest_gamma": max(largest),
            "gamma_over_peak": sum(ratio) / len(ratio),
            "below": sum(below) / len(below),
        }


class LatentSnapshots(Hook):
    """The latent weights of one layer's first filters at the end of every epoch."""

    def __init__(self, layer: str, filters: int = 1):
        self.layer, self.filters = layer, filters

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        w = dict(binary_layers(progress.model))[self.layer].weight.detach()
        return {"latent": w[: self.filters].flatten().tolist()}


def latent_histogram(w: Tensor, bins: int = 40, bound: float = 4.0) -> Tensor:
    """Share of the weights in each bin of w_ij / mean|w_i| over [-bound, bound], (bins,).

    The outermost bins hold the tails too; relative to the filter as in near_zero_share.
    """
    relative = w / per_filter(analytic_scale(w), w).clamp_min(1e-12)
    limit = bound * (1 - 1e-6)
    counts = torch.histc(relative.clamp(-limit, limit).float(), bins, -bound, bound)
    return counts / w.numel()


class LatentHistogram(Hook):
    """latent_histogram of every 1-bit layer at the end of each epoch."""

    def __init__(self, bins: int = 40, bound: float = 4.0):
        self.bins, self.bound = bins, bound

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        layers = binary_layers(progress.model)
        return {
            "histogram": {
                name: latent_histogram(latent(layer), self.bins, self.bound).tolist()
                for name, layer in layers
            }
        }
