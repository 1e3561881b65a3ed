"""MST-compression (arXiv:2308.13735): binary kernels trained to lie close, run along a tree.

The paper's formula of the training penalty could not be had. Three readings stand in for it:

    L = CE + lambda sum_l R_l,    R_l = 1 / (N n) sum_j d(b_j, target_j)

with the target a kernel of the layer (medoid), the vote of all (majority) or the parent in the
current tree (tree), held constant and found anew after each epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from compactnets.binary import trees
from compactnets.binary.convert import binary_layers, convert
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import AnalyticScale
from compactnets.binary.ste import hard_sign
from compactnets.method import Hook, Progress

Reading = Literal["medoid", "majority", "tree"]


def targets(kernels: np.ndarray, reading: Reading) -> np.ndarray:
    """What each kernel is pulled towards, (N, n) of -1, +1; 0 for a tree's root, which is free."""
    if reading == "majority":
        return np.broadcast_to(np.where(kernels.sum(0) >= 0, 1, -1), kernels.shape)
    distances = trees.hamming(kernels)
    if reading == "medoid":
        return np.broadcast_to(kernels[trees.medoid(distances)], kernels.shape)
    if reading == "tree":
        parent = trees.prim(distances, [0])[0]
        return np.where((parent >= 0)[:, None], kernels[parent], 0)
    raise ValueError(f"reading must be one of {get_args(Reading)}, got {reading!r}")


def penalty(b: Tensor, target: Tensor) -> Tensor:
    """R = 1 / (N n) sum_j (n - <b_j, target_j>) / 2 over the rows that have a target; a scalar.

    b and target (N, n); b are signs with a straight-through gradient, target is constant.
    """
    return ((1 - b * target) / 2 * (target != 0)).mean()


def penalty_gradient(w: Tensor, target: Tensor) -> Tensor:
    """dR/dw = -target / (2 N n) where |w| <= 1: a constant pull to its sign. All (N, n)."""
    return -target * (w.abs() <= 1) / (2 * w.numel())


class Pull(Hook):
    """Adds lambda dR/dw to the gradient of every 1-bit layer, targets found anew each epoch."""

    def __init__(self, reading: Reading, strength: float):
        self.reading: Reading = reading
        self.strength = strength

    def start(self, progress: Progress) -> None:
        self._layers = dict(binary_layers(progress.model))
        self._aim()

    def after_backward(self, progress: Progress) -> None:
        if self.strength == 0:
            return
        with torch.no_grad():
            for name, layer in self._layers.items():
                pull = penalty_gradient(layer.weight.flatten(1), self._targets[name])
                layer.weight.grad.add_(pull.view_as(layer.weight), alpha=self.strength)  # type: ignore[union-attr]

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        distance = {
            name: float(penalty(hard_sign(layer.weight.detach()).flatten(1), self._targets[name]))
            for name, layer in self._layers.items()
        }
        self._aim()
        return {"distance to target": distance}

    def _aim(self) -> None:
        self._targets = {
            name: torch.from_numpy(targets(trees.kernels_of(w), self.reading).copy()).to(w)
            for name, layer in self._layers.items()
            for w in (layer.weight.detach(),)
        }


class GradientMeter(Hook):
    """Median |task gradient| of each 1-bit layer in an epoch's last step, before any pull: put it
    in front of Pull. What lambda / (2 N n) is to be compared with."""

    def after_backward(self, progress: Progress) -> None:
        if (progress.step + 1) % progress.steps_per_epoch == 0:
            layers = binary_layers(progress.model)
            self._medians = {n: float(m.weight.grad.abs().median()) for n, m in layers}  # type: ignore[union-attr]

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        return {"median gradient": self._medians}


@dataclass(frozen=True)
class LayerCost:
    """One layer along its tree: N channels of n weights at `positions` output places."""

    name: str
    channels: int
    n: int
    positions: int
    tree: trees.Tree
    kernels: np.ndarray

    @property
    def dense(self) -> int:
        """One-bit products of the layer without a tree."""
        return self.channels * self.n * self.positions

    @property
    def along_tree(self) -> int:
        return self.tree.cost(self.n) * self.positions

    @property
    def ratio(self) -> float:
        return self.tree.ratio(self.n)


def layer_costs(model: nn.Module, example: Tensor) -> list[LayerCost]:
    """Trees and costs of the 1-bit layers in order; positions are those of one image of example.

    ValueError if the model has no 1-bit layer.
    """
    found = []
    for name, layer, positions in _positions(model, example):
        kernels = trees.kernels_of(layer.weight)
        tree = trees.minimum_spanning_tree(trees.hamming(kernels))
        channels, n = kernels.shape
        found.append(LayerCost(name, channels, n, positions, tree, kernels))
    if not found:
        raise ValueError(f"{type(model).__name__} has no 1-bit layer: prepare it first")
    return found


def _positions(model: nn.Module, example: Tensor) -> Iterator[tuple[str, BinaryLayer, int]]:
    """(name, layer, output places per image) of the 1-bit layers."""
    seen: dict[str, int] = {}
    layers = dict(binary_layers(model))

    def note(name: str):
        return lambda layer, inputs, y: seen.update({name: y[0].numel() // len(layer.weight)})

    handles = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(example[:1])
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return ((name, layer, seen[name]) for name, layer in layers.items())


def network_ratio(costs: list[LayerCost]) -> float:
    """Dense one-bit products of all layers over those along the trees."""
    return sum(c.dense for c in costs) / sum(c.along_tree for c in costs)


def effective_rank(kernels: np.ndarray) -> float:
    """exp(entropy of the singular values' shares): 1 if all kernels are equal, at most N."""
    values = np.linalg.svd(kernels.astype(np.float64), compute_uv=False)
    shares = values[values > 1e-9 * values.max()] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


@dataclass(frozen=True)
class MSTCompression:
    """1-bit layers whose kernels are pulled together; strength is lambda, 0 plain training."""

    reading: Reading = "medoid"
    strength: float = 0.0

    def __post_init__(self) -> None:
        if self.reading not in get_args(Reading):
            raise ValueError(f"reading must be one of {get_args(Reading)}, got {self.reading!r}")
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"strength must be a number from 0 on, got {self.strength}")

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none.

        What flows into them should have both signs, as behind a normalization or Hardtanh.
        ValueError for a grouped convolution: its channels read different inputs, so that none can
        be computed from another.
        """
        return convert(model, _binary, self)

    def hooks(self) -> tuple[Hook, ...]:
        """The penalty's gradient, added before each step."""
        return (GradientMeter(), Pull(self.reading, self.strength))

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network with every 1-bit convolution along its tree (kernels.TreeConv2d)."""
        from compactnets.binary.tree_deploy import deploy  # kernels must not enter training's key

        return deploy(model, self)


def _binary(real: nn.Module) -> BinaryLayer:
    if isinstance(real, nn.Conv2d) and real.groups > 1:
        raise ValueError(f"{real} is grouped: its channels share no inputs, no tree can serve it")
    return binarized(real, lambda w: AnalyticScale())
