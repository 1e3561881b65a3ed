"""ReActNet's residual network: one shortcut per convolution, shifts and PReLU between.

Built with real convolutions: as it stands it is the full-precision network of the same layout;
a method's prepare makes its 3x3 convolutions binary (ReActNet, arXiv:2003.03488).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _PReLU(torch.autograd.Function):
    """max(x, 0) + slope * min(x, 0) in fewer passes over memory than autograd would take."""

    @staticmethod
    def forward(x, slope):
        return torch.addcmul(x, x.clamp(max=0), slope - 1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, slope = ctx.saved_tensors
        below = (x < 0).to(x.dtype)
        grad_slope = (grad * x.clamp(max=0)).sum(dim=(0, 2, 3), keepdim=True)
        return torch.addcmul(grad, grad * below, slope - 1), grad_slope


class ShiftedPReLU(nn.Module):
    """PReLU(x + before) + after, all learned per channel (RPReLU); (N, C, H, W) -> same."""

    def __init__(self, channels: int):
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.after = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        before, slope, after = (
            p.to(x.dtype).view(1, -1, 1, 1) for p in (self.before, self.slope, self.after)
        )
        return _PReLU.apply(x + before, slope) + after


class ReactBlock(nn.Module):
    """norm(conv(x)) + shortcut(x), then ShiftedPReLU; the convolution is what gets binarized."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            pool = nn.AvgPool2d(stride, stride) if stride != 1 else nn.Identity()
            real = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.shortcut = nn.Sequential(pool, real, nn.BatchNorm2d(outputs))
        self.activation = ShiftedPReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)) + self.shortcut(x))


class ReactResNet(nn.Module):
    """Stem, stages of one-convolution blocks (the first of a later stage halves the map), head."""

    def __init__(self, stem: nn.Module, blocks: tuple[int, ...], width: int, classes: int):
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential()
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            layers = [
                ReactBlock(outputs if i else inputs, outputs, 2 if stage and not i else 1)
                for i in range(count)
            ]
            self.stages.append(nn.Sequential(*layers))
            inputs = outputs
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stages(self.stem(x))
        return self.head(F.adaptive_avg_pool2d(features, 1).flatten(1))


def react_resnet_cifar(
    depth: int = 20, width: int = 16, classes: int = 10, stem_stride: int = 1
) -> ReactResNet:
    """ReActNet blocks in the layout of the CIFAR ResNet: (depth - 2) / 3 blocks a stage, 32x32.

    stem_stride = 2 halves all maps: a quarter of the cost for runs that must be short.
    ValueError unless depth = 6n + 2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 (8, 14, 20, ...), got {depth}")
    conv = nn.Conv2d(3, width, 3, stem_stride, padding=1, bias=False)
    stem = nn.Sequential(conv, nn.BatchNorm2d(width), ShiftedPReLU(width))
    return ReactResNet(stem, (((depth - 2) // 3),) * 3, width, classes)


def react_resnet_imagenet(depth: int = 18, classes: int = 1000) -> ReactResNet:
    """ReActNet's ResNet-18 or -34 for 224x224: a block per convolution, 4-4-4-4 or 6-8-12-6."""
    blocks = {18: (4, 4, 4, 4), 34: (6, 8, 12, 6)}
    if depth not in blocks:
        raise ValueError(f"depth must be one of {sorted(blocks)}, got {depth}")
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(3, 2, 1),
    )
    return ReactResNet(stem, blocks[depth], 64, classes)
