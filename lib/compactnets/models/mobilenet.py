"""MobileNetV1 (arXiv:1704.04861) and V2 (arXiv:1801.04381) for 32x32 images.

The stem has stride 1 instead of 2; V2's second stage too, so that the last maps are 2x2 (V1) and
4x4 (V2) pixels. Apart from the strides the networks are the papers'.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from compactnets.models.resnet import initialize

# V1, table 1: (output channels, stride) of each depthwise-separable block.
_V1_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
# V2, table 2: (expansion, output channels, blocks, stride); 24 channels: stride 1 instead of 2.
_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def round_channels(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of the divisor, at least one, not more than 10 % below `channels`.

    The rule of the MobileNet authors for scaled widths.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU6,
) -> nn.Sequential:
    """conv (no bias, size kept at stride 1), bn and, unless None, act."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    layers["bn"] = nn.BatchNorm2d(out_channels)
    if act is not None:
        layers["act"] = act()
    return nn.Sequential(layers)


class SeparableBlock(nn.Sequential):
    """V1's block: depthwise 3x3, pointwise 1x1, each with BN and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        depthwise = conv_bn_act(in_channels, in_channels, 3, stride, in_channels, nn.ReLU)
        self.add_module("depthwise", depthwise)
        self.add_module("pointwise", conv_bn_act(in_channels, out_channels, 1, act=nn.ReLU))


class InvertedResidual(nn.Module):
    """V2's block: expand 1x1, depthwise 3x3, project 1x1 without activation, shortcut if it fits.

    expansion 1 has no expand layer (it is nn.Identity).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = in_channels * expansion
        self.expand = nn.Identity() if expansion == 1 else conv_bn_act(in_channels, hidden, 1)
        self.depthwise = conv_bn_act(hidden, hidden, 3, stride, hidden)
        self.project = conv_bn_act(hidden, out_channels, 1, act=None)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetCifar(nn.Module):
    """stem - blocks (nn.Sequential) - last (V2: 1x1 conv; V1: identity) - pool - dropout - fc."""

    def __init__(
        self, stem: nn.Module, blocks: nn.Module, last: nn.Module, dropout: float, fc: nn.Linear
    ):
        super().__init__()
        self.stem, self.blocks, self.last = stem, blocks, last
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = fc
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.last(self.blocks(self.stem(images)))
        return self.fc(self.dropout(self.pool(x).flatten(1)))


def _check(classes: int, multiplier: float) -> None:
    if classes < 1 or not multiplier > 0:
        raise ValueError(f"classes and multiplier must be positive, got {classes} and {multiplier}")


def mobilenet_v1_cifar(
    classes: int = 10, multiplier: float = 1.0, in_channels: int = 3, dropout: float = 0.0
) -> MobileNetCifar:
    """MobileNetV1: 13 depthwise-separable blocks; multiplier scales every width (alpha).

    Widths are rounded to multiples of 8, which leaves the paper's 1, 0.75, 0.5, 0.25 exact.
    """
    _check(classes, multiplier)
    channels = round_channels(32 * multiplier)
    stem = conv_bn_act(in_channels, channels, 3, act=nn.ReLU)
    blocks = nn.Sequential()
    for out_channels, stride in _V1_BLOCKS:
        width = round_channels(out_channels * multiplier)
        blocks.append(SeparableBlock(channels, width, stride))
        channels = width
    return MobileNetCifar(stem, blocks, nn.Identity(), dropout, nn.Linear(channels, classes))


def mobilenet_v2_cifar(
    classes: int = 10,
    multiplier: float = 1.0,
    in_channels: int = 3,
    dropout: float = 0.0,
    stages: Sequence[tuple[int, int, int, int]] = _V2_STAGES,
    stem: int = 32,
    stem_stride: int = 1,
    last: int = 1280,
) -> MobileNetCifar:
    """MobileNetV2: 17 inverted residuals; multiplier scales every width (never below 8).

    The last convolution's 1280 channels grow with a multiplier above 1 but do not shrink below it
    (paper, section 4). stages: (expansion, output channels, blocks, stride), stem, last: for
    smaller networks of the same kind.
    """
    _check(classes, multiplier)
    channels = round_channels(stem * multiplier)
    first = conv_bn_act(in_channels, channels, 3, stem_stride)
    blocks = nn.Sequential()
    for expansion, out_channels, repeats, stride in stages:
        width = round_channels(out_channels * multiplier)
        for i in range(repeats):
            blocks.append(InvertedResidual(channels, width, stride if i == 0 else 1, expansion))
            channels = width
    features = round_channels(last * max(1.0, multiplier))
    final = conv_bn_act(channels, features, 1)
    return MobileNetCifar(first, blocks, final, dropout, nn.Linear(features, classes))
