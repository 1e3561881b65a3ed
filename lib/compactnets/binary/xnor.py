"""XNOR-Net's operator: scales of weights and of activations (arXiv:1603.05279, as in BiBench).

The paper's activation scale is a map K with a value per place; BiBench's released operator
(arXiv:2301.11233), which this is, has one number per sample. Its linear version differs from its
convolution (centered weight rows, both scales as factors of the gradients); here both kinds of
layer follow the convolution.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from compactnets.binary.convert import convert
from compactnets.binary.layers import BinaryLayer, binarized
from compactnets.binary.scales import AnalyticScale
from compactnets.binary.ste import Clipped
from compactnets.method import Hook

MAP, ROW = (1, 2, 3), (-1,)  # what one activation scale covers: a sample's map, a row of features


def sample_scale(a: Tensor, over: tuple[int, ...]) -> Tensor:
    """beta = mean|a| over the given dimensions, kept with size 1; a constant for the gradient."""
    return a.detach().abs().mean(dim=over, keepdim=True)


@dataclass(frozen=True)
class PerSample:
    """1 / beta where |a| <= 1, else 0: takes out of the activations' gradient the beta that
    SampleScale puts in, because the released code's has none (the weights' keeps it)."""

    over: tuple[int, ...]

    def __call__(self, a: Tensor) -> Tensor:
        return Clipped()(a) / sample_scale(a, self.over).clamp_min(1e-12)  # a sample of zeros


class SampleScale(nn.Module):
    """(y, a) -> beta(a) y. No normalization can absorb it: beta differs from sample to sample."""

    def __init__(self, over: tuple[int, ...]):
        super().__init__()
        self.over = over

    def forward(self, y: Tensor, a: Tensor) -> Tensor:
        return y * sample_scale(a, self.over)

    def extra_repr(self) -> str:
        return f"over={self.over}"


@dataclass(frozen=True)
class XNOR:
    """y = beta_n sign(a) * alpha sign(w), alpha_o = mean|w_o|, beta_n = mean|a_n|; gradients pass
    where |x| <= 1, each without its own scale."""

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """Swaps the convertible layers for 1-bit ones; ValueError if there is none."""
        return convert(model, self.layer, self)

    def layer(self, real: nn.Module) -> BinaryLayer:
        """The 1-bit layer for one convolution or linear layer."""
        over = MAP if isinstance(real, nn.Conv2d) else ROW
        return binarized(
            real,
            lambda w: AnalyticScale(Clipped(), scale_gradient=False),
            PerSample(over),
            shift=False,
            rescale=SampleScale(over),
        )

    def hooks(self) -> tuple[Hook, ...]:
        """None: all that training needs is in the layers."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed bits; beta is computed behind the kernel."""
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model, self)
