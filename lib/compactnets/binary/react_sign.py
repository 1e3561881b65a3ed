"""ReActNet's operator: Bi-Real's with a learned threshold per channel (arXiv:2003.03488).

BiBench's released operator for convolutions (arXiv:2301.11233); RPReLU, the paper's other idea,
belongs to the network (react.py). BiBench's linear version applies the shift to the gradient only;
here both kinds of layer have it in both passes.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from compactnets.binary.convert import convert
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import AnalyticScale
from compactnets.binary.ste import Clipped, Polynomial
from compactnets.method import Hook


@dataclass(frozen=True)
class ReAct:
    """y = sign(a + theta_c) * alpha sign(w), theta learned from 0; gradients as BiReal's."""

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none."""
        return convert(model, self.layer, self)

    def layer(self, real: nn.Module) -> BinaryLayer:
        """The 1-bit layer for one convolution or linear layer."""
        return binarized(
            real, lambda w: AnalyticScale(Clipped(), scale_gradient=False), Polynomial(), shift=True
        )

    def hooks(self) -> tuple[Hook, ...]:
        """None: all that training needs is in the layers."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits (binary.deploy)."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
