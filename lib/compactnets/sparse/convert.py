"""Which layers are pruned, putting masks on them, and what a pruned network looks like."""

import copy
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn

from compactnets.sparse.layers import MaskedConv2d

# What decides about a layer: its name and itself -> mask and, if its filters were sorted, the order
MakeMask = Callable[[str, nn.Conv2d], tuple[Tensor, Tensor | None]]


def prunable(model: nn.Module, n: int = 1) -> list[str]:
    """Names of the layers that are pruned: all convolutions but the first and the depthwise ones.

    In MobileNets these are the pointwise convolutions, as in lmbxmu/1xN. A layer whose outputs n
    does not divide stays dense. ValueError if nothing is left.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    convs = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    names = [k for k, m in convs[1:] if m.groups == 1 and m.out_channels % n == 0]
    if not names:
        raise ValueError(
            f"{type(model).__name__} has nothing to prune in blocks of {n}: needs nn.Conv2d layers "
            f"besides the first, with groups=1 and outputs that {n} divides"
        )
    if masked := [name for name in names if isinstance(model.get_submodule(name), MaskedConv2d)]:
        raise ValueError(f"{masked[0]} is masked already: prune the dense network")
    return names


def with_masks(model: nn.Module, make: MakeMask, n: int = 1) -> nn.Module:
    """A copy of the model in which every prunable layer is a MaskedConv2d."""
    model = copy.deepcopy(model)
    for name in prunable(model, n):
        layer: nn.Conv2d = model.get_submodule(name)  # type: ignore[assignment]
        model.set_submodule(name, MaskedConv2d.of(layer, *make(name, layer)))
    return model


def masked_layers(model: nn.Module) -> Iterator[tuple[str, MaskedConv2d]]:
    """(name, layer) of the masked convolutions, in the model's order."""
    return ((n, m) for n, m in model.named_modules() if isinstance(m, MaskedConv2d))


def survey(model: nn.Module) -> pd.DataFrame:
    """One row per masked layer: its shape, weights, kept share, and what masks left behind.

    dead_inputs: input channels that no kept weight reads. dead_outputs: filters without a kept
    weight, constant after normalization.
    """
    rows = []
    for name, layer in masked_layers(model):
        kernels = layer.mask.flatten(2).any(2)  # (out, in)
        rows.append(
            {
                "layer": name,
                "shape": " × ".join(map(str, layer.weight.shape)),
                "weights": layer.weight.numel(),
                "kept": float(layer.mask.double().mean()),
                "dead_inputs": int((~kernels.any(0)).sum()),
                "dead_outputs": int((~kernels.any(1)).sum()),
            }
        )
    return pd.DataFrame(rows)


def sparsity(model: nn.Module) -> float:
    """Share of the prunable weights that are gone, over all masked layers."""
    masks = [layer.mask for _, layer in masked_layers(model)]
    if not masks:
        raise ValueError(f"{type(model).__name__} has no masked layer")
    kept = torch.stack([mask.sum() for mask in masks]).sum()
    return 1 - float(kept) / sum(mask.numel() for mask in masks)
