"""DoReFa's 1-bit case: BNN with a scale per output channel (arXiv:1606.06160, as in BiBench).

The paper's own activations are {0, 1} and its scale is one per layer; BiBench's released operator
(arXiv:2301.11233), which this is, has +-1 and a scale per channel.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from compactnets.binary.convert import convert
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import AnalyticScale
from compactnets.binary.ste import Clipped
from compactnets.method import Hook


@dataclass(frozen=True)
class DoReFa:
    """y = sign(a) * alpha sign(w), alpha_o = mean|w_o|; both gradients pass where |x| <= 1, that of
    the weights without the factor alpha."""

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none."""
        return convert(model, self.layer, self)

    def layer(self, real: nn.Module) -> BinaryLayer:
        """The 1-bit layer for one convolution or linear layer."""
        return binarized(
            real, lambda w: AnalyticScale(Clipped(), scale_gradient=False), Clipped(), shift=False
        )

    def hooks(self) -> tuple[Hook, ...]:
        """None: all that training needs is in the layers."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits (binary.deploy)."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
