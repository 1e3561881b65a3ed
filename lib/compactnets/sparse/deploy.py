"""The masked network on sparse kernels: filters sorted, normalizations and activations folded."""

import copy
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from compactnets import kernels
from compactnets.models.graph import sole_readers
from compactnets.sparse.convert import masked_layers
from compactnets.sparse.rearrange import rearrange

DENSE_BLOCK = 4  # outputs per block where a layer keeps all its weights


@torch.no_grad()
def deploy(model: nn.Module, n: int) -> nn.Module:
    """A copy with every masked convolution on the kernel of 1xn blocks (n = 1: CSR).

    Filters are first put into the order by which their blocks were formed; batch normalization,
    ReLU and ReLU6 behind a convolution become part of its call. Dense and depthwise convolutions
    go the same way with all their weights, so that the whole network runs channels first. Outputs
    equal the trained network's up to float32 rounding. ValueError if the model is in training
    mode or has no masked layer.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() before deploying it")
    orders = {name: layer.order for name, layer in masked_layers(model)}
    if not orders:
        raise ValueError(f"{type(model).__name__} has no masked layer: prepare and train it first")
    moved = {name: order for name, order in orders.items() if (order.diff() != 1).any()}
    model = rearrange(model, moved) if moved else copy.deepcopy(model)
    readers = sole_readers(model)
    masked = dict(masked_layers(model))
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            dense = masked[name].dense() if name in masked else module
            depthwise = module.groups > 1 or module.out_channels % DENSE_BLOCK
            block = n if name in masked else 1 if depthwise else DENSE_BLOCK
            model.set_submodule(name, _pack(model, dense, readers, name, block))
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _pack(
    model: nn.Module, conv: nn.Conv2d, readers: Mapping[str, str], name: str, n: int
) -> nn.Module:
    """The convolution with what alone reads its output; the modules so folded become identities."""
    last = name
    norm = model.get_submodule(readers.get(last, ""))
    if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
        last = readers[last]
        conv = fuse_conv_bn_eval(conv, norm)
        model.set_submodule(last, nn.Identity())
    limits = _limits(model.get_submodule(readers.get(last, "")))
    if limits:
        model.set_submodule(readers[last], nn.Identity())
    return kernels.BlockSparseConv2d.of(conv, n=n, **limits)


def _limits(module: nn.Module) -> dict[str, float]:
    """The bounds that an activation clamps to, if it is a clamp."""
    if isinstance(module, nn.Hardtanh):  # ReLU6 among them
        return {"low": float(module.min_val), "high": float(module.max_val)}
    return {"low": 0.0} if isinstance(module, nn.ReLU) else {}
