"""Sorting filters without changing the function: outputs of one layer, inputs of the next.

A layer's outputs may be permuted if everything that reads them is permuted along: normalizations,
activations, pooling and depthwise convolutions on the way, then the inputs of the next convolution
or linear layer. An output that is added to another (a residual sum) has to keep its order.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from compactnets.models.graph import called_once, trace
from compactnets.sparse.layers import MaskedConv2d
from compactnets.sparse.masks import checked_order

# Treat every channel alike and by itself, without parameters of their own per channel.
_PER_CHANNEL = (
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.Sigmoid, nn.GELU),
    *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d),
)
_PER_CHANNEL_CALLS = {
    *(F.relu, F.relu6, F.hardtanh, F.hardswish, F.silu, F.gelu, F.dropout, F.avg_pool2d),
    *(F.max_pool2d, F.adaptive_avg_pool2d, torch.relu, "relu"),
}
# (N, channels, height, width) -> (N, features), the values of a channel side by side.
_FLATTEN_CALLS = (torch.flatten, "flatten")
_MEAN_CALLS = (torch.mean, "mean")
_PIXELS = ((2, 3), (-2, -1), (3, 2), (-1, -2))


@dataclass(frozen=True)
class Path:
    """Where a layer's outputs go: modules with values per channel, then those that mix channels."""

    channelwise: tuple[str, ...]
    readers: tuple[str, ...]


def rearrangeable(model: nn.Module) -> dict[str, Path]:
    """The convolutions whose outputs may be permuted, with what must follow.

    groups=1 only. ValueError for a network that torch.fx cannot follow.
    """
    graph = trace(model)
    once = called_once(graph)
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in once:
            layer = model.get_submodule(node.target)
            if _is_conv(layer) and layer.groups == 1:
                path = _follow(node, model, once, layer.out_channels)
                if path is not None:
                    found[node.target] = path
    return found


def _follow(start: fx.Node, model: nn.Module, once: set[str], channels: int) -> Path | None:
    """The path from a layer's output, or None if something on it needs the order."""
    channelwise, readers = [], []
    todo = [(user, False) for user in start.users]  # a call, and whether its input is flat
    while todo:
        node, flat = todo.pop()
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not flat and _flattens(node, module):
            todo += [(user, True) for user in node.users]
        elif isinstance(module, _PER_CHANNEL) or node.target in _PER_CHANNEL_CALLS:
            todo += [(user, flat) for user in node.users]
        elif module is None or node.target not in once:
            return None
        elif not flat and _has_values_per_channel(module, channels):
            channelwise.append(str(node.target))
            todo += [(user, flat) for user in node.users]
        elif _mixes(module, flat):
            readers.append(str(node.target))
        else:
            return None
    return Path(tuple(channelwise), tuple(readers)) if readers else None


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Is it a flattening of all but the batch, or a mean over the pixels?"""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    if node.target in _FLATTEN_CALLS:
        options = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
        return {"end_dim": -1} | options == {"start_dim": 1, "end_dim": -1}
    if node.target in _MEAN_CALLS:
        options = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | node.kwargs
        dims = options.get("dim")
        pixels = isinstance(dims, list | tuple) and tuple(dims) in _PIXELS
        return bool(pixels) and options.keys() == {"dim"}
    return False


def _is_conv(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Plain or masked: other subclasses may hold values per channel that nobody here knows."""
    return type(module) in (nn.Conv2d, MaskedConv2d)


def _has_values_per_channel(module: nn.Module, channels: int) -> bool:
    if _is_conv(module):
        return module.groups == module.in_channels == module.out_channels == channels > 1
    norm = isinstance(module, nn.BatchNorm2d) and module.num_features == channels
    return norm or (isinstance(module, nn.PReLU) and module.num_parameters in (1, channels))


def _mixes(module: nn.Module, flat: bool) -> bool:
    """A linear layer on maps that are not flat would mix the columns of pixels, not channels."""
    return type(module) is nn.Linear if flat else _is_conv(module) and module.groups == 1


@torch.no_grad()
def rearrange(model: nn.Module, orders: Mapping[str, Tensor]) -> nn.Module:
    """A copy that computes the same with the outputs of the named layers in a new order.

    orders: layer -> permutation (out,); output o of the new layer is output order[o] of the old.
    ValueError for a layer whose outputs must keep their order (see rearrangeable), and for an
    order that is no permutation.
    """
    paths = rearrangeable(model)
    model = copy.deepcopy(model)
    for name, order in orders.items():
        if name not in paths:
            raise ValueError(
                f"the outputs of {name} must keep their order: they enter a sum, a module that is "
                f"called twice, or one that is not known"
            )
        layer = model.get_submodule(name)
        order = checked_order(order, layer.weight)  # type: ignore[arg-type]
        _permute(layer, order, dim=0)
        for follower in paths[name].channelwise:
            _permute(model.get_submodule(follower), order, dim=0)
        for reader in paths[name].readers:
            _permute(model.get_submodule(reader), order, dim=1)
    return model


def _permute(module: nn.Module, order: Tensor, dim: int) -> None:
    """Outputs (dim 0: every tensor with a value per channel) or inputs (dim 1) in a new order."""
    channels = len(order)
    if dim == 1:
        _set(module, "weight", _inputs(module.weight, order))  # type: ignore[arg-type]
        if isinstance(module, MaskedConv2d):
            _set(module, "mask", _inputs(module.mask, order))
        return
    names = ["weight", "bias", "running_mean", "running_var", "mask"]
    for name in names:
        tensor = getattr(module, name, None)
        if isinstance(tensor, Tensor) and tensor.shape[0] == channels:
            _set(module, name, tensor[order])
    if isinstance(module, MaskedConv2d):
        module.order = order.argsort()[module.order]  # old output order[o] is the new output o


def _inputs(weight: Tensor, order: Tensor) -> Tensor:
    """weight[:, order]; the inputs of a linear layer may be channels times pixels."""
    per_channel = weight.shape[1] // len(order)
    split = weight.unflatten(1, (len(order), per_channel))
    return split[:, order].flatten(1, 2)


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    old = getattr(module, name)
    value = torch.empty_like(old).copy_(value)  # keeps channels_last
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value, old.requires_grad)
    setattr(module, name, value)
