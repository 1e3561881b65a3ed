"""Batched augmentation with an explicit generator: crop, flip, cutout, and their sequence.

Every function takes images (N, C, H, W) of any dtype and device, leaves them untouched and returns
a new tensor of the same shape and dtype, laid out channels-last. Random numbers come from the
generator alone: its state fixes the result bit for bit, on any number of threads. The dataclasses
are the same functions with their settings bound; their repr is stable, since recipes are hashed by
it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]
Padding = Literal["zero", "reflect"]


def _draw(high: int, count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(count,) int64 in [0, high), drawn on the generator's device, handed out on `device`."""
    drawn = torch.randint(high, (count,), generator=generator, device=generator.device)
    return drawn.to(device, non_blocking=True)


def _mirrored(size: int, padding: int, device: torch.device) -> Tensor:
    """Where position -padding .. size + padding - 1 reads from: p .. 1 0 1 .. s-1 s-2 .."""
    place = torch.arange(-padding, size + padding, device=device).abs()
    return size - 1 - (size - 1 - place).abs()


def _padded(images: Tensor, padding: int, mode: Padding) -> Tensor:
    """(N, H + 2p, W + 2p, C), contiguous; images may be uint8, which F.pad cannot reflect."""
    pixels = images.permute(0, 2, 3, 1)
    n, height, width, channels = pixels.shape
    if mode == "reflect":
        if padding >= min(height, width):
            raise ValueError(f"cannot reflect {padding} pixels of a {height} x {width} image")
        rows, columns = (_mirrored(size, padding, images.device) for size in (height, width))
        return pixels.index_select(1, rows).index_select(2, columns)
    if mode != "zero":
        raise ValueError(f"padding mode must be 'zero' or 'reflect', got {mode!r}")
    out = pixels.new_zeros((n, height + 2 * padding, width + 2 * padding, channels))
    out[:, padding : padding + height, padding : padding + width] = pixels
    return out


def random_crop(
    images: Tensor, padding: int, generator: torch.Generator, mode: Padding = "zero"
) -> Tensor:
    """Every image shifted by up to `padding` pixels along each axis, uniformly.

    Pads all sides by zeros (black in uint8) or by reflection and cuts a window of the old size
    out of each image. ValueError if padding is negative, or too large to reflect.
    """
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    n, channels, height, width = images.shape
    wide = width + 2 * padding
    per_image = (height + 2 * padding) * wide
    top, left = _draw(2 * padding + 1, 2 * n, generator, images.device).view(2, n, 1)
    first = torch.arange(n, device=images.device)[:, None] * per_image + left
    starts = first + (torch.arange(height, device=images.device) + top) * wide
    # A row of a window is one run of memory: all rows that start at any pixel, seen as one
    # overlapping matrix, from which index_select copies whole rows (15x faster than indexing).
    run = width * channels
    storage = _padded(images, padding, mode).contiguous().flatten()
    runs = storage.as_strided((n * per_image - width + 1 if n else 0, run), (channels, 1))
    cut = runs.index_select(0, starts.flatten())
    return cut.view(n, height, width, channels).permute(0, 3, 1, 2)


def random_flip(images: Tensor, generator: torch.Generator, p: float = 0.5) -> Tensor:
    """Every image mirrored left-right with probability p, independently."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")
    n, channels, height, width = images.shape
    drawn = torch.rand(n, generator=generator, device=generator.device)
    flipped = (drawn < p).to(images.device, non_blocking=True)
    images = images.contiguous(memory_format=torch.channels_last)
    both = torch.cat((images, images.flip(3)))  # copying whole images beats torch.where threefold
    rows = both.permute(0, 2, 3, 1).reshape(2 * n, height * width * channels)
    chosen = rows.index_select(0, torch.arange(n, device=images.device) + n * flipped)
    return chosen.view(n, height, width, channels).permute(0, 3, 1, 2)


def cutout(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Every image with one size x size square set to zero, its center uniform over the pixels.

    Squares are cut off at the border, as in arXiv:1708.04552; an even size reaches one pixel
    further up and left. The fill is 0 of the given images: black if they are not yet normalized.
    """
    if size < 0:
        raise ValueError(f"size must not be negative, got {size}")
    n, _, height, width = images.shape
    inside = []
    for extent in (height, width):
        start = _draw(extent, n, generator, images.device)[:, None] - size // 2
        place = torch.arange(extent, device=images.device)
        inside.append((place >= start) & (place < start + size))
    keep = ~(inside[0][:, :, None] & inside[1][:, None, :])  # (N, H, W)
    return images.contiguous(memory_format=torch.channels_last) * keep[:, None].to(images.dtype)


@dataclass(frozen=True)
class RandomCrop:
    """random_crop with its padding bound."""

    padding: int
    mode: Padding = "zero"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return random_crop(images, self.padding, generator, self.mode)


@dataclass(frozen=True)
class RandomFlip:
    """random_flip with its probability bound."""

    p: float = 0.5

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return random_flip(images, generator, self.p)


@dataclass(frozen=True)
class Cutout:
    """cutout with its size bound."""

    size: int

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return cutout(images, self.size, generator)


@dataclass(frozen=True, init=False)
class Compose:
    """Augmentations one after the other: Compose(RandomCrop(4), RandomFlip())."""

    steps: tuple[Augment, ...]

    def __init__(self, *steps: Augment) -> None:
        object.__setattr__(self, "steps", steps)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        for step in self.steps:
            images = step(images, generator)
        return images

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.steps))})"
