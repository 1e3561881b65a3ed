"""Shift convolution and the 8x8 DCT mask, batch 1, fp32.

A shift is compared with the depthwise convolution with one-hot kernels that it replaces, and with
a plain copy of the image, the least that it could cost (the copy computes another function). The
DCT mask is compared with four products with an 8x8 matrix, as one writes them in torch, and with a
copy.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from kernels.bench import peers
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from torch import Tensor

from compactnets import kernels
from compactnets.kernels.dct import dct_matrix

SHIFTS = ((64, 56), (256, 56))  # channels, height and width
IMAGES = ((3, 224), (3, 512))
OPERATIONS = 4 * 28 / 8 + 1  # a value: four transforms of 8 in 28 additions or FMAs, and the mask
_COPY = "a copy moves the same bytes and changes nothing"


def _copy(x: Tensor) -> peers.Call:
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


def _matrices(x: Tensor, mask: Tensor) -> peers.Call:
    d = dct_matrix()
    dt = d.T.contiguous()

    def call() -> Tensor:
        blocks = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
        pixels = dt @ (mask * (d @ blocks @ dt)) @ d
        return pixels.transpose(3, 4).reshape(x.shape)

    return call


def _shift_rows(settings: Settings, channels: int, size: int, layout: str) -> Iterator[Entry]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, size, size, generator=generator)
    shifts = torch.randint(-1, 2, (channels, 2), generator=generator)
    if layout == "channels_last":  # one direction for all, as in a GhostSR layer
        x = x.contiguous(memory_format=torch.channels_last)
        shifts = torch.ones_like(shifts)
    weight = torch.zeros(channels, 1, 3, 3)
    weight[torch.arange(channels), 0, shifts[:, 0] + 1, shifts[:, 1] + 1] = 1
    layer = kernels.ShiftConv2d(shifts)
    yield from contest(
        "shift2d",
        f"{channels}x{size}x{size} {layout}",
        settings,
        lambda: layer(x),
        {
            "copy_": _copy(x),
            "torch depthwise": lambda: F.conv2d(x, weight, None, 1, 1, 1, channels),
        },
        unequal={"copy_": _COPY},
        traffic=8.0 * x.numel(),
    )


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every image and peer."""
    for channels, size in SHIFTS:
        for layout in ("contiguous", "channels_last"):
            yield from _shift_rows(settings, channels, size, layout)
    for channels, size in IMAGES:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, channels, size, size, generator=generator)
        layer = kernels.DCTMask(torch.rand(8, 8, generator=generator))
        yield from contest(
            "dct_mask",
            f"{channels}x{size}x{size}",
            settings,
            lambda x=x, layer=layer: layer(x),
            {"torch matmul": _matrices(x, layer.mask), "copy_": _copy(x)},
            tolerance=1e-5,
            unequal={"copy_": _COPY},
            operations=OPERATIONS * x.numel(),
            unit="fp32",
            traffic=8.0 * x.numel(),
        )
