"""Bi-Real net's operator: a triangle as the activations' gradient (arXiv:1808.00278).

BiBench's released operator (arXiv:2301.11233); the shortcut around every convolution, the paper's
other idea, belongs to the network (react_resnet_cifar has it).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from compactnets.binary.convert import convert
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import AnalyticScale
from compactnets.binary.ste import Clipped, Polynomial
from compactnets.method import Hook


@dataclass(frozen=True)
class BiReal:
    """y = sign(a) * alpha sign(w), alpha_o = mean|w_o|; the gradient has the factor 2 - 2|a| on
    |a| <= 1, that of the weights passes where |w| <= 1, without the factor alpha."""

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none."""
        return convert(model, self.layer, self)

    def layer(self, real: nn.Module) -> BinaryLayer:
        """The 1-bit layer for one convolution or linear layer."""
        return binarized(
            real,
            lambda w: AnalyticScale(Clipped(), scale_gradient=False),
            Polynomial(),
            shift=False,
        )

    def hooks(self) -> tuple[Hook, ...]:
        """None: all that training needs is in the layers."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits (binary.deploy)."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
