"""Super-resolution: networks, the quality of what they return, and their quantized forms.

net = sr.EDSR(scale=2, blocks=8, features=32)
loss = 255 * F.l1_loss(net(low), high)
quality = sr.psnr(net(low), high, border=2)
"""

from compactnets.sr.edsr import DIV2K_MEAN, EDSR, ResidualBlock
from compactnets.sr.losses import structure, structure_transfer
from compactnets.sr.metrics import psnr, ssim

__all__ = [
    "DIV2K_MEAN",
    "EDSR",
    "ResidualBlock",
    "psnr",
    "ssim",
    "structure",
    "structure_transfer",
]
