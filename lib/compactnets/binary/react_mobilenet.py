"""ReActNet-A's layout for 32x32 images: MobileNetV1 made of layers that survive binarization.

Every depthwise-separable pair of MobileNetV1 becomes a full 3x3 and a 1x1 convolution, each with a
shortcut of its own; where the channels double, two 1x1 convolutions are laid side by side, so that
the shortcut is a copy and needs no real convolution (ReActNet, arXiv:2003.03488, section 4.1).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets.binary.react import ShiftedPReLU

# (output channels over the stem's, stride) of each block, a smaller MobileNetV1.
BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1))


class ReactMobileBlock(nn.Module):
    """spatial: 3x3; pointwise: one 1x1, or two side by side. Each: norm(conv(x)) + x, then act.

    (N, C, H, W) -> (N, outputs, H / stride, W / stride). ValueError unless outputs is C or 2 C.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        if outputs not in (inputs, 2 * inputs):
            raise ValueError(
                f"a block keeps or doubles {inputs} channels, it cannot make {outputs}"
            )
        self.pool = nn.AvgPool2d(stride, stride) if stride != 1 else nn.Identity()
        self.spatial = nn.Conv2d(inputs, inputs, 3, stride, 1, bias=False)
        self.spatial_norm = nn.BatchNorm2d(inputs)
        self.spatial_act = ShiftedPReLU(inputs)
        copies = outputs // inputs
        self.pointwise = nn.ModuleList(
            nn.Conv2d(inputs, inputs, 1, bias=False) for _ in range(copies)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(inputs) for _ in range(copies))
        self.act = ShiftedPReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spatial_act(self.spatial_norm(self.spatial(x)) + self.pool(x))
        pairs = zip(self.pointwise, self.norms, strict=True)
        return self.act(torch.cat([norm(conv(x)) + x for conv, norm in pairs], dim=1))


class ReactMobileNet(nn.Module):
    """stem - blocks - average pooling - head; images (N, 3, 32, 32) -> logits (N, classes)."""

    def __init__(
        self, width: int, classes: int, stem_stride: int, blocks: Sequence[tuple[int, int]]
    ):
        super().__init__()
        conv = nn.Conv2d(3, width, 3, stem_stride, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width), ShiftedPReLU(width))
        self.blocks = nn.Sequential()
        channels = width
        for factor, stride in blocks:
            self.blocks.append(ReactMobileBlock(channels, factor * width, stride))
            channels = factor * width
        self.head = nn.Linear(channels, classes)

    @property
    def layers_to_binarize(self) -> list[str]:
        """Every convolution of the blocks: their 1x1 ones are no shortcuts."""
        return [n for n, m in self.named_modules() if n[:6] == "blocks" and type(m) is nn.Conv2d]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


def react_mobilenet_cifar(
    width: int = 32,
    classes: int = 10,
    stem_stride: int = 1,
    blocks: Sequence[tuple[int, int]] = BLOCKS,
) -> ReactMobileNet:
    """A small ReActNet-A for 32x32 with real convolutions; prepare of a method makes them binary.

    width: channels of the stem; blocks: (channels over width, stride), each keeping or doubling.
    ValueError for a width, number of classes or stem stride below 1.
    """
    if min(width, classes, stem_stride) < 1:
        raise ValueError(
            f"width {width}, classes {classes} and stem_stride {stem_stride} must be positive"
        )
    return ReactMobileNet(width, classes, stem_stride, blocks)
