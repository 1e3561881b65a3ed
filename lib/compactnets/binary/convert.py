"""Which layers become binary, and putting them there."""

import copy
from collections.abc import Callable, Iterator

from torch import nn

from compactnets.binary.layers import BinaryConv2d


def convertible(model: nn.Module) -> list[str]:
    """Names of the convolutions that binary networks binarize: all but the first one and the 1x1
    ones of down-sampling shortcuts (the field's convention; first and last layer stay real)."""
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    return [
        name
        for name in names[1:]
        if max(model.get_submodule(name).kernel_size) > 1  # type: ignore[type-var,arg-type]
        and not isinstance(model.get_submodule(name), BinaryConv2d)
    ]


def convert(model: nn.Module, make: Callable[[nn.Conv2d], nn.Module]) -> nn.Module:
    """A copy of the model with every convertible convolution replaced by make(convolution).

    ValueError if there is none.
    """
    model = copy.deepcopy(model)
    names = convertible(model)
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no convolution to binarize: needs nn.Conv2d layers with "
            "kernels larger than 1x1 besides the first"
        )
    for name in names:
        replace(model, name, make(model.get_submodule(name)))  # type: ignore[arg-type]
    return model


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Puts a layer in the place that a dotted name points to."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def binary_layers(model: nn.Module) -> Iterator[tuple[str, BinaryConv2d]]:
    """(name, layer) of the trained 1-bit convolutions, in the model's order."""
    return ((n, m) for n, m in model.named_modules() if isinstance(m, BinaryConv2d))
