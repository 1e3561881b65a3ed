"""Residual networks for small images (He et al., arXiv:1512.03385, section 4.2)."""

from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["A", "B"]


class SubsampleShortcut(nn.Module):
    """Option A: every `stride`-th pixel, zero channels added on both sides; no parameters.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H/stride), ceil(W/stride)). An odd number of
    missing channels puts the extra one behind.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(
                f"shortcut A can only add channels, not go from {in_channels} to {out_channels}; "
                "use shortcut='B'"
            )
        missing = out_channels - in_channels
        self.front, self.back = missing // 2, missing - missing // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.front, self.back))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, zero channels {self.front} before and {self.back} after"


def make_shortcut(in_channels: int, out_channels: int, stride: int, option: Shortcut) -> nn.Module:
    """Identity where the shapes agree; else option A (SubsampleShortcut) or B (1x1 conv + BN)."""
    if option not in ("A", "B"):
        raise ValueError(f"shortcut must be 'A' or 'B', got {option!r}")
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if option == "A":
        return SubsampleShortcut(in_channels, out_channels, stride)
    conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels)))


class BasicBlock(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN, plus the shortcut, ReLU.

    hidden: width between the two convolutions (default: out_channels); what a pruned block narrows.
    ReLU is not in place, so that a hook on bn1 or bn2 keeps what it saw.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        shortcut: Shortcut = "A",
        hidden: int | None = None,
    ):
        super().__init__()
        hidden = out_channels if hidden is None else hidden
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(hidden, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride, shortcut)
        self.act2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act2(y + self.shortcut(x))


class ResNetCifar(nn.Module):
    """stem (conv3x3, BN, ReLU) - stage1 .. stageS (nn.Sequential of BasicBlock) - pool - fc.

    Images (N, in_channels, H, W) -> logits (N, classes). Each stage but the first halves H and W.
    blocks, widths: number of blocks and of channels of each stage.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        classes: int = 10,
        shortcut: Shortcut = "A",
        in_channels: int = 3,
    ):
        super().__init__()
        if len(blocks) != len(widths) or not blocks or min(*blocks, *widths, classes) < 1:
            raise ValueError(
                f"blocks {blocks} and widths {widths} must be as many positive numbers, "
                f"classes positive, got {classes}"
            )
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
                bn=nn.BatchNorm2d(widths[0]),
                act=nn.ReLU(),
            )
        )
        width = widths[0]
        for i, (depth, out_channels) in enumerate(zip(blocks, widths, strict=True)):
            stage = nn.Sequential()
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(BasicBlock(width, out_channels, stride, shortcut))
                width = out_channels
            self.add_module(f"stage{i + 1}", stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)
        initialize(self)

    @property
    def stages(self) -> list[nn.Module]:
        """stage1, stage2, ... in order."""
        return [child for name, child in self.named_children() if name.startswith("stage")]

    def features(self, images: Tensor) -> list[Tensor]:
        """The output map of every stage, what feature distillation compares."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(images)[-1]).flatten(1))


def initialize(model: nn.Module) -> None:
    """He initialization (arXiv:1502.01852, eq 10): weights of convolutions and linear layers
    N(0, 2 / fan_in), biases 0; BN keeps 1 and 0. Draws from torch's global generator."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def resnet_cifar(
    depth: int,
    width: int = 16,
    classes: int = 10,
    shortcut: Shortcut = "A",
    in_channels: int = 3,
) -> ResNetCifar:
    """ResNet-8, 14, 20, 32, 44, 56, 110, ...: three stages of (depth - 2) / 6 blocks.

    Widths are (width, 2 width, 4 width); the paper's is 16. shortcut "A" (the paper's CIFAR
    networks) has no parameters, "B" is a 1x1 convolution with BN. ValueError unless depth = 6n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 (8, 14, 20, 32, 44, 56, 110, ...), got {depth}")
    blocks = (depth - 2) // 6
    return ResNetCifar((blocks,) * 3, (width, 2 * width, 4 * width), classes, shortcut, in_channels)


def resnet18_cifar(
    width: int = 64, classes: int = 10, shortcut: Shortcut = "B", in_channels: int = 3
) -> ResNetCifar:
    """The ImageNet ResNet-18 body (four stages of two blocks) behind a 3x3 stem of stride 1.

    The "ResNet-18" of most CIFAR tables; not in the ResNet paper. Widths (w, 2w, 4w, 8w).
    """
    widths = (width, 2 * width, 4 * width, 8 * width)
    return ResNetCifar((2, 2, 2, 2), widths, classes, shortcut, in_channels)
