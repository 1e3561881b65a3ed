"""What a recurrence on binary weights does while it trains: norms, masks, signs turned over."""

from typing import Any

import torch
from torch import Tensor

from compactnets.binary.convert import binary_layers
from compactnets.binary.density import index_mask, rank_mask
from compactnets.binary.rbonn import look_ahead, recurrent_layers
from compactnets.method import Hook, Progress


def filter_norms(w: Tensor) -> Tensor:
    """||w_i||_1 of each filter; (out, ...) -> (out,)."""
    return w.detach().flatten(1).abs().sum(1)


class FilterMeter(Hook):
    """Per epoch and 1-bit layer: "tiny" (share of filters whose l1 norm is below the `tail`
    quantile of the layer's norms at the start), "growth" (largest norm over that at the start)."""

    def __init__(self, tail: float = 0.1):
        self.tail = tail

    def start(self, progress: Progress) -> None:
        self._layers = dict(binary_layers(progress.model))
        self._first = {n: filter_norms(m.weight) for n, m in self._layers.items()}

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        tiny, growth = {}, {}
        for name, layer in self._layers.items():
            first, now = self._first[name], filter_norms(layer.weight)
            tiny[name] = float((now < first.quantile(self.tail)).float().mean())
            growth[name] = float((now / first).max())
        return {"tiny": tiny, "growth": growth}


class RecurrenceMeter(Hook):
    """Per epoch, means over the recurrent layers, every `every` steps.

    "masked": share of channels acted on; "turned": share of weights whose sign the look-ahead turns
    over; "u": mean of U, "u_min": its smallest value; "overlap": of the channels of the released
    mask those that the mask by ranks has too, as a share, "overlap_random": as many by chance.
    Nothing if there is no recurrence.
    """

    def __init__(self, every: int = 10):
        self.every = every

    def start(self, progress: Progress) -> None:
        self._layers = list(recurrent_layers(progress.model))
        self._layers = [one for one in self._layers if one[2].form != "none"]
        self._seen: list[list[float]] = []

    @torch.no_grad()
    def after_backward(self, progress: Progress) -> None:
        if progress.step % self.every:
            return
        for _, layer, scale in self._layers:
            w, u, alpha = layer.weight, scale.u, scale.alpha.abs()
            ahead = look_ahead(w, u, scale.past) if scale.form == "lookahead" else w
            turned = ((ahead >= 0) != (w >= 0)).float().mean()
            ranks, indices = rank_mask(alpha, scale.tau), index_mask(alpha, scale.tau)
            shared = (ranks & indices).sum() / ranks.sum().clamp_min(1)
            share = scale.mask(w).float().mean()
            numbers = (share, turned, u.mean(), u.min(), shared, ranks.float().mean())
            self._seen.append([float(x) for x in numbers])

    def epoch_end(self, progress: Progress) -> dict[str, Any] | None:
        seen, self._seen = self._seen, []
        if not seen:
            return None
        names = ("masked", "turned", "u", "u_min", "overlap", "overlap_random")
        columns = dict(zip(names, zip(*seen, strict=True), strict=True))
        line = {name: sum(column) / len(column) for name, column in columns.items()}
        return line | {"u_min": min(columns["u_min"])}


class ScaleSnapshots(Hook):
    """At the end of every epoch, of one recurrent layer: "channels" with alpha, l1 norm and
    whether the recurrence acts on it; one list entry per channel."""

    def __init__(self, layer: str):
        self.layer = layer

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        found = {
            name: (layer.weight, scale) for name, layer, scale in recurrent_layers(progress.model)
        }
        if self.layer not in found:
            raise ValueError(f"no recurrent layer {self.layer!r}: there are {list(found)}")
        w, scale = found[self.layer]
        return {
            "channels": {
                "alpha": scale.scale(w).tolist(),
                "norm": filter_norms(w).tolist(),
                "masked": scale.mask(w).tolist(),
            }
        }
