"""EDSR: residual blocks without batch normalization, then pixel shuffle (arXiv:1707.02921)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

# Of DIV2K's training images, R, G, B in [0, 1], as the authors' code subtracts it.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution with bias that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class ResidualBlock(nn.Module):
    """x + res_scale * conv2(act(conv1(x))), act = ReLU: (N, features, H, W) -> the same shape.

    ReLU is not in place, so that a hook on conv1 keeps what it saw.
    """

    def __init__(self, features: int, res_scale: float = 1.0):
        super().__init__()
        self.conv1 = conv3x3(features, features)
        self.act = nn.ReLU()
        self.conv2 = conv3x3(features, features)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res_scale * self.conv2(self.act(self.conv1(x)))


def upsampler(scale: int, features: int) -> nn.Sequential:
    """(N, features, H, W) -> (N, features, scale H, scale W) by convolution and pixel shuffle.

    Scale 4 is 2 twice. ValueError unless scale is 2, 3 or 4.
    """
    if scale not in (2, 3, 4):
        raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
    parts = nn.Sequential()
    for factor in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
        parts.extend([conv3x3(features, factor**2 * features), nn.PixelShuffle(factor)])
    return parts


class EDSR(nn.Module):
    """head - body (residual blocks) - fuse - long skip - upsampler - tail.

    Images (N, 3, H, W) in [0, 1] -> (N, 3, scale H, scale W), near [0, 1] but not clamped. Inside,
    values are rgb_range times as large and the mean color is subtracted. The defaults are the
    paper's baseline (section 4.1): 16 blocks of 64 features; its large network is
    EDSR(scale, blocks=32, features=256, res_scale=0.1). Weights are drawn as nn.Conv2d draws them,
    from torch's global generator. ValueError: scale not 2, 3 or 4, blocks or features below 1,
    rgb_range not positive, or images of another shape.
    """

    mean: Tensor

    def __init__(
        self,
        scale: int = 2,
        blocks: int = 16,
        features: int = 64,
        res_scale: float = 1.0,
        rgb_range: float = 255.0,
        mean: tuple[float, float, float] = DIV2K_MEAN,
    ):
        super().__init__()
        if blocks < 1 or features < 1:
            raise ValueError(f"blocks and features must be at least 1, got {blocks} and {features}")
        if not rgb_range > 0:
            raise ValueError(f"rgb_range must be positive, got {rgb_range}")
        self.scale = scale
        self.rgb_range = rgb_range
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.head = conv3x3(3, features)
        self.body = nn.Sequential(
            OrderedDict((f"block{i}", ResidualBlock(features, res_scale)) for i in range(blocks))
        )
        self.fuse = conv3x3(features, features)
        self.upsampler = upsampler(scale, features)
        self.tail = conv3x3(features, 3)

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, features, H, W): what the body returns, the long skip included.

        In units of rgb_range; what structure_transfer compares.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"EDSR takes RGB images (N, 3, H, W), got {tuple(images.shape)}")
        x = self.head((images - self.mean) * self.rgb_range)
        return self.fuse(self.body(x)) + x

    def reconstruct(self, features: Tensor) -> Tensor:
        """(N, features, H, W) -> images (N, 3, scale H, scale W)."""
        return self.tail(self.upsampler(features)) / self.rgb_range + self.mean

    def forward(self, images: Tensor) -> Tensor:
        return self.reconstruct(self.features(images))
