"""BNN: signs of weights and activations, no scale, clipped straight-through (arXiv:1602.02830)."""

from dataclasses import dataclass

from torch import Tensor, nn

from compactnets.binary.convert import convert
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import UnitScale
from compactnets.binary.ste import Clipped
from compactnets.method import Hook


@dataclass(frozen=True)
class BNN:
    """y = sign(a) * sign(w); both gradients pass where |x| <= 1."""

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none."""
        return convert(model, self.layer, self)

    def layer(self, real: nn.Module) -> BinaryLayer:
        """The 1-bit layer for one convolution or linear layer."""
        return binarized(real, lambda w: UnitScale(Clipped()), Clipped(), shift=False)

    def hooks(self) -> tuple[Hook, ...]:
        """None: all that training needs is in the layers."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits (binary.deploy)."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
