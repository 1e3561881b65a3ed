"""Which layers become binary, and putting them there."""

import copy
from collections.abc import Callable, Iterator

from torch import nn

from compactnets.binary.layers import BinaryLayer, is_binary


def convertible(model: nn.Module) -> list[str]:
    """Names of the layers that binary networks binarize, in the model's order.

    The field's convention: all convolutions and linear layers but the first layer, the last linear
    one, and 1x1 convolutions, which in residual networks stand in down-sampling shortcuts. A
    network that wants it otherwise lists names in an attribute `layers_to_binarize`.
    """
    named = getattr(model, "layers_to_binarize", None)
    if named is not None:
        return [name for name in named if not is_binary(model.get_submodule(name))]
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    last = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)][-1:]
    return [
        name
        for name, layer in list(layers.items())[1:]
        if name not in last and not is_binary(layer) and not _is_pointwise(layer)
    ]


def _is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and max(layer.kernel_size) == 1


def convert(
    model: nn.Module, make: Callable[[nn.Module], nn.Module], method: object = None
) -> nn.Module:
    """A copy of the model with every convertible layer replaced by make(layer).

    The 1-bit layers remember the name of the method's class: they refuse the checkpoint of another
    one, and deploy can tell whose they are. ValueError if there is no layer to convert.
    """
    model = copy.deepcopy(model)
    names = convertible(model)
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no layer to binarize: needs, between its first layer and "
            "its last, linear layers or convolutions with kernels larger than 1x1"
        )
    for name in names:
        layer = make(model.get_submodule(name))
        if method is not None and is_binary(layer):
            layer.method = type(method).__name__
        replace(model, name, layer)
    return model


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Puts a layer in the place that a dotted name points to."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def binary_layers(model: nn.Module) -> Iterator[tuple[str, BinaryLayer]]:
    """(name, layer) of the trained 1-bit layers, in the model's order."""
    return ((n, m) for n, m in model.named_modules() if is_binary(m))
