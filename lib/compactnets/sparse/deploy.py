"""The masked network on sparse kernels: filters sorted, normalizations and activations folded."""

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from compactnets import kernels
from compactnets.models.graph import sole_readers
from compactnets.sparse.convert import masked_layers
from compactnets.sparse.layers import MaskedConv2d
from compactnets.sparse.rearrange import rearrange

DENSE_BLOCK = 4  # outputs per block where a layer keeps all its weights


# (name, convolution with its norm folded in, bounds of the clamp behind it) -> the layer that runs
MakeLayer = Callable[[str, nn.Conv2d, dict[str, float]], nn.Module]


@torch.no_grad()
def deploy(model: nn.Module, n: int) -> nn.Module:
    """A copy with every masked convolution on the kernel of 1xn blocks (n = 1: CSR).

    Filters are first put into the order by which their blocks were formed; batch normalization,
    ReLU and ReLU6 behind a convolution become part of its call. Dense and depthwise convolutions
    go the same way with all their weights, so that the whole network runs channels first. Outputs
    equal the trained network's up to float32 rounding. ValueError if the model is in training
    mode or has no masked layer.
    """
    orders = {name: layer.order for name, layer in masked_layers(model)}
    if not orders:
        raise ValueError(f"{type(model).__name__} has no masked layer: prepare and train it first")
    moved = {name: order for name, order in orders.items() if (order.diff() != 1).any()}

    def make(name: str, conv: nn.Conv2d, limits: dict[str, float]) -> nn.Module:
        blocks = conv.groups == 1 and conv.out_channels % DENSE_BLOCK == 0
        block = n if name in orders else DENSE_BLOCK if blocks else 1
        return kernels.BlockSparseConv2d.of(conv, n=block, **limits)

    deployed = _folded(rearrange(model, moved) if moved else model, make)
    return deployed.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@torch.no_grad()
def deploy_dense(model: nn.Module) -> nn.Module:
    """A copy that ignores sparsity: zeros multiplied like any weight, the fair baseline of deploy.

    Convolutions run on torch's own kernel, weights laid out beforehand, normalizations and clamps
    folded in. Give it channels_last inputs: it stays so from end to end, where its kernels are
    faster (those of deploy are faster on contiguous ones). CPU only. ValueError if the model is in
    training mode.
    """
    folded = _folded(model, lambda _, conv, limits: _prepacked(conv, limits))
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _prepacked(conv: nn.Conv2d, limits: dict[str, float]) -> nn.Module:
    if not limits:
        return kernels.PrepackedConv2d(conv)
    return kernels.PrepackedConv2d(conv, low=limits["low"], high=limits.get("high", math.inf))


def _folded(model: nn.Module, make: MakeLayer) -> nn.Module:
    """A copy in which make's layer stands for every convolution and what alone reads its output."""
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() before deploying it")
    readers = sole_readers(model)
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            conv = module.dense() if isinstance(module, MaskedConv2d) else module
            model.set_submodule(name, make(name, *_fold(model, conv, readers, name)))
    return model


def _fold(
    model: nn.Module, conv: nn.Conv2d, readers: Mapping[str, str], name: str
) -> tuple[nn.Conv2d, dict[str, float]]:
    """The convolution with its norm, and the clamp's bounds; what was folded becomes identities."""
    norm = model.get_submodule(readers[name]) if name in readers else None
    if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
        name = readers[name]
        conv = fuse_conv_bn_eval(conv, norm)
        model.set_submodule(name, nn.Identity())
    limits = _limits(model.get_submodule(readers[name])) if name in readers else {}
    if limits:
        model.set_submodule(readers[name], nn.Identity())
    return conv, limits


def _limits(module: nn.Module) -> dict[str, float]:
    """The bounds that an activation clamps to, if it is a clamp."""
    if isinstance(module, nn.Hardtanh):  # ReLU6 among them
        return {"low": float(module.min_val), "high": float(module.max_val)}
    return {"low": 0.0} if isinstance(module, nn.ReLU) else {}
