"""XNOR-Net++: learned scales of channels, rows and columns (arXiv:1909.13863, as in BiBench).

BiBench's released operator (arXiv:2301.11233) keeps 2000 + 2000 scales of rows and columns in each
layer whatever the map's size; here a layer has as many as the map that it makes of the example.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compactnets.binary.convert import convert, convertible
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import UnitScale
from compactnets.binary.ste import Clipped
from compactnets.method import Hook


class SpatialScale(nn.Module):
    """(y, a) -> o_c h_i w_j y for maps (N, C, H, W), o_c y for rows (..., C); all started at 1.

    size: (H, W), or () for rows. ValueError for maps of another size.
    """

    def __init__(self, channels: int, size: Sequence[int] = ()):
        super().__init__()
        self.outputs = nn.Parameter(torch.ones(channels))
        self.sides = nn.ParameterList(torch.ones(side) for side in size)

    def scale(self) -> Tensor:
        """(C, H, W), of rank 1; (C,) for rows."""
        if not len(self.sides):
            return self.outputs
        rows, columns = self.sides
        return self.outputs.view(-1, 1, 1) * rows.view(-1, 1) * columns

    def forward(self, y: Tensor, a: Tensor) -> Tensor:
        size = tuple(len(side) for side in self.sides)
        if size and y.shape[2:] != size:
            raise ValueError(
                f"XNOR++ has scales for maps of {size}, got one of {tuple(y.shape[2:])}: prepare "
                "the network with an example of the images' size"
            )
        return y * self.scale()


@torch.no_grad()
def map_sizes(model: nn.Module, names: Sequence[str], example: Tensor) -> dict[str, tuple]:
    """Height and width of what the named convolutions make of the example, () for linear layers.

    ValueError if a layer is not called, or is called with maps of different sizes.
    """
    model, sizes = copy.deepcopy(model).eval(), {}

    def look(name, module, output):
        size = tuple(output.shape[2:]) if isinstance(module, nn.Conv2d) else ()
        if sizes.setdefault(name, size) != size:
            raise ValueError(f"layer {name} makes maps of {sizes[name]} and of {size}")

    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda module, _, output, name=name: look(name, module, output)
        )
    model(example)
    if idle := [name for name in names if name not in sizes]:
        raise ValueError(f"the example does not reach layer {idle[0]}")
    return sizes


@dataclass(frozen=True)
class XNORPlusPlus:
    """y = o_c h_i w_j (sign(a) * sign(w)), the scales learned; gradients pass where |x| <= 1."""

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none.

        example: images of the size that the network is for; it goes through the network once.
        """
        sizes = iter(map_sizes(model, convertible(model), example).values())
        return convert(model, lambda real: self.layer(real, next(sizes)), self)

    def layer(self, real: nn.Module, size: Sequence[int] = ()) -> BinaryLayer:
        """The 1-bit layer for one convolution that makes maps of this size, or linear layer."""
        outputs = real.weight.shape[0]  # type: ignore[union-attr,index]
        return binarized(
            real,
            lambda w: UnitScale(Clipped()),
            Clipped(),
            shift=False,
            rescale=SpatialScale(outputs, size).to(real.weight),  # type: ignore[call-overload]
        )

    def hooks(self) -> tuple[Hook, ...]:
        """None: all that training needs is in the layers."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits; the scales stay behind the kernel."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
