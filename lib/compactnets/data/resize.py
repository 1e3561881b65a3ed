"""Bicubic resizing as super-resolution papers do it, luma, and the cropping around it.

Reduction follows MATLAB's imresize: Keys' cubic kernel (IEEE TASSP 29(6), 1981) with a = -1/2,
stretched by the factor so that it also low-passes ("antialiasing"), weights normalized to sum 1,
image mirrored at the border. PIL and torch (antialias=True) use the same kernel but cut it off at
the border instead of mirroring, so they agree away from the border only; on 8-bit images PIL also
takes the columns first, which moves some pixels by one grey level or two.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

# ITU-R BT.601, studio swing: the first row of MATLAB's rgb2ycbcr, for R, G, B in [0, 1].
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_LUMA_OFFSET = 16 / 255


def cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2: 1 at 0, 0 at the other integers and from |x| = 2 on."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, 0.0))


@lru_cache(maxsize=256)
def resize_weights(size: int, up: int, down: int) -> Tensor:
    """(ceil(size * up / down), size) fp64: each output pixel's weights on the input pixels."""
    stretch = max(1.0, down / up)
    count = -(-size * up // down)
    center = (torch.arange(count, dtype=torch.float64) + 0.5) * down / up - 0.5
    taps = torch.arange(math.ceil(4 * stretch) + 2)
    place = (center - 2 * stretch).floor()[:, None].long() + taps
    weight = cubic((center[:, None] - place) / stretch)
    weight = weight / weight.sum(1, keepdim=True)
    mirrored = place.remainder(2 * size)  # ... 1 0 0 1 2 ... n-1 n-1 n-2 ...
    mirrored = mirrored.minimum(2 * size - 1 - mirrored)
    return torch.zeros(count, size, dtype=torch.float64).scatter_add_(1, mirrored, weight)


def _resize(images: Tensor, up: int, down: int) -> Tensor:
    if up < 1 or down < 1:
        raise ValueError(f"scale must be a positive whole number, got {up * down}")
    dtype = images.dtype
    if dtype != torch.uint8 and not dtype.is_floating_point:
        raise TypeError(f"images must be uint8 or floating point, got {dtype}")
    values = images.double()
    for dim in (-2, -1):
        weights = resize_weights(images.shape[dim], up, down).to(images.device)
        values = weights @ values if dim == -2 else values @ weights.T
        if dtype == torch.uint8:
            values = (values + 0.5).floor().clamp(0, 255)
    return values.to(dtype)


def reduce(images: Tensor, scale: int) -> Tensor:
    """(..., H, W) -> (..., ceil(H / scale), ceil(W / scale)): the low-resolution images of SR.

    uint8 gives uint8, rounded after each axis (rows first) as MATLAB does for uint8; floating
    point is not rounded and may overshoot the input's range. Computed in fp64.
    """
    return _resize(images, 1, scale)


def enlarge(images: Tensor, scale: int) -> Tensor:
    """(..., H, W) -> (..., H * scale, W * scale), bicubic: the baseline of every SR table."""
    return _resize(images, scale, 1)


def luma(images: Tensor) -> Tensor:
    """(..., 3, H, W) RGB -> (..., 1, H, W) Y of BT.601 in [16/255, 235/255]; PSNR is taken on it.

    uint8 is scaled to fp32 in [0, 1] first; floating point must be in [0, 1] and keeps its type.
    Not rounded to 8 bits, unlike MATLAB's rgb2ycbcr of a uint8 image.
    """
    if images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(f"luma needs RGB images (..., 3, H, W), got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        images = images.float() / 255
    weights = torch.tensor(_LUMA, dtype=torch.float64, device=images.device).to(images.dtype)
    return (images * weights[:, None, None]).sum(-3, keepdim=True) + _LUMA_OFFSET


def crop_to_multiple(images: Tensor, scale: int) -> Tensor:
    """(..., H, W) without the rows and columns at the end that scale does not divide.

    ValueError if nothing would remain.
    """
    height, width = images.shape[-2:]
    if scale < 1 or height < scale or width < scale:
        raise ValueError(f"cannot crop {height} x {width} to a multiple of {scale}")
    return images[..., : height - height % scale, : width - width % scale]


def shave(images: Tensor, border: int) -> Tensor:
    """(..., H, W) without `border` pixels on each side; SR papers leave out `scale` pixels.

    ValueError if nothing would remain.
    """
    height, width = images.shape[-2:]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"cannot shave {border} pixels off each side of {height} x {width}")
    return images[..., border : height - border, border : width - border]
