"""Pairs of low- and high-resolution images, handed out as random patches or whole."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from compactnets.data.images import Source, Split
from compactnets.data.resize import crop_to_multiple, luma, reduce

Channels = Literal["rgb", "y"]
PairAugment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


def random_dihedral(low: Tensor, high: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each pair mirrored and turned by one of the eight symmetries of the square, uniformly.

    low (N, C, h, w) and high (N, C, H, W) get the same one; arguments stay untouched. ValueError
    unless patches are square.
    """
    if low.shape[-1] != low.shape[-2] or high.shape[-1] != high.shape[-2]:
        raise ValueError(f"patches must be square, got {tuple(low.shape)}, {tuple(high.shape)}")
    drawn_bits = torch.rand(3, len(low), generator=generator, device=generator.device) < 0.5
    across, down, turn = drawn_bits.to(low.device)[:, :, None, None, None]
    pair = []
    for images in (low, high):
        images = torch.where(across, images.flip(3), images)
        images = torch.where(down, images.flip(2), images)
        pair.append(torch.where(turn, images.transpose(2, 3), images))
    return pair[0], pair[1]


@dataclass(frozen=True)
class Dihedral:
    """random_dihedral as an augmentation of PatchSet.batches."""

    def __call__(
        self, low: Tensor, high: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        return random_dihedral(low, high, generator)


@dataclass(frozen=True, eq=False)
class PatchSet:
    """Pairs of low- and high-resolution images with ImageSet's protocol.

    `images` are the high-resolution ones, (3, H, W) uint8, cropped here to a multiple of `scale`;
    the low ones are their bicubic reductions, rounded to uint8 as in the benchmarks. Inputs and
    targets are in [0, 1], RGB or luma ("y", unrounded). `batches` draws `patches` pairs an epoch,
    the high one `patch` pixels wide; `chunks` gives whole images.
    """

    name: str
    split: Split
    images: tuple[Tensor, ...]
    source: Source
    scale: int = 2
    patch: int = 96
    patches: int = 1000
    channels: Channels = "rgb"

    def __post_init__(self) -> None:
        if self.channels not in ("rgb", "y"):
            raise ValueError(f"channels must be 'rgb' or 'y', got {self.channels!r}")
        if not self.images:
            raise ValueError(f"{self.name}: no images")
        if self.scale < 1 or self.patch < self.scale or self.patch % self.scale:
            raise ValueError(f"patch {self.patch} must be a multiple of scale {self.scale}")
        for image in self.images:
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
                raise TypeError(
                    f"{self.name}: images must be uint8 (3, H, W), "
                    f"got {image.dtype} {tuple(image.shape)}"
                )
            if self.split == "train" and min(image.shape[1:]) < self.patch:
                raise ValueError(
                    f"{self.name}: an image of {image.shape[1]} x {image.shape[2]} has no patch "
                    f"of {self.patch}: choose a smaller patch"
                )
        cropped = tuple(crop_to_multiple(image, self.scale) for image in self.images)
        object.__setattr__(self, "images", cropped)

    def __len__(self) -> int:
        """Items in an epoch: patches of the train split, whole images of the others."""
        return self.patches if self.split == "train" else len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images[0].device

    @cached_property
    def low(self) -> tuple[Tensor, ...]:
        """The reductions (3, H / scale, W / scale) uint8 of `images`."""
        return tuple(reduce(image, self.scale) for image in self.images)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the images, their shapes, and what turns them into pairs."""
        settings = (self.scale, self.patch, self.patches, self.channels)
        digest = hashlib.sha256(repr(settings).encode())
        for image in self.images:
            digest.update(repr(tuple(image.shape)).encode())
            digest.update(image.contiguous().cpu().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "PatchSet":
        """The same set on another device (itself if it is there already)."""
        if torch.device(device) == self.device:
            return self
        return replace(self, images=tuple(image.to(device) for image in self.images))

    def values(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """uint8 RGB (N, 3, H, W) -> [0, 1], RGB or luma, channels-last."""
        scaled = luma(images) if self.channels == "y" else images.float() / 255
        return scaled.to(dtype, memory_format=torch.channels_last)

    def batches(
        self,
        batch: int,
        *,
        generator: torch.Generator,
        augment: PairAugment | None = None,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of random patches: low (B, C, p / scale, p / scale), high (B, C, p, p).

        An image is drawn with a chance proportional to its places for a patch, then a place,
        aligned to the low-resolution grid.
        """
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        end = self.patches - self.patches % batch if drop_last else self.patches
        for start in range(0, end, batch):
            low, high = self._cut(min(batch, end - start), generator)
            if augment is not None:
                low, high = augment(low, high, generator)
            yield (
                self.values(low, dtype).contiguous(memory_format=memory_format),
                self.values(high, dtype).contiguous(memory_format=memory_format),
            )

    def chunks(
        self,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All whole images in order: low (B, C, h, w), high (B, C, h * scale, w * scale).

        Up to `batch` neighbors go together where they have the same size.
        """
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        start = 0
        while start < len(self.images):
            shape, end = self.images[start].shape, start + 1
            while end < min(len(self.images), start + batch) and self.images[end].shape == shape:
                end += 1
            yield (
                self.values(torch.stack(self.low[start:end]), dtype).contiguous(
                    memory_format=memory_format
                ),
                self.values(torch.stack(self.images[start:end]), dtype).contiguous(
                    memory_format=memory_format
                ),
            )
            start = end

    @cached_property
    def _places(self) -> Tensor:
        """(images, 2) int64: rows and columns at which a patch may start, on the low grid."""
        side = self.patch // self.scale
        sizes = [(i.shape[1] - side + 1, i.shape[2] - side + 1) for i in self.low]
        if min(min(pair) for pair in sizes) < 1:
            raise ValueError(
                f"{self.name}: some images are smaller than a patch of {self.patch}: use chunks, "
                f"or a smaller patch"
            )
        return torch.tensor(sizes)

    @cached_property
    def _pixels(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """For low and high: all pixels (sum of H * W, 3), and where each image starts (images,)."""
        return _flat(self.low), _flat(self.images)

    def _cut(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`count` patches of each kind, uint8 (count, 3, side, side)."""
        places = self._places
        cumulated = places.prod(1).cumsum(0)
        drawn_place = torch.rand(
            count, generator=generator, device=generator.device, dtype=torch.float64
        ).cpu()
        place = (drawn_place * cumulated[-1]).long().clamp(max=int(cumulated[-1]) - 1)
        image = torch.searchsorted(cumulated, place, right=True)
        place = place - (cumulated - places.prod(1))[image]
        top, left = place // places[image, 1], place % places[image, 1]
        side = self.patch // self.scale
        low, high = self._pixels
        widths = places[image, 1] + side - 1
        return (
            _windows(*low, image, widths, top, left, side),
            _windows(
                *high, image, widths * self.scale, top * self.scale, left * self.scale, self.patch
            ),
        )


def _flat(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    pixels = torch.cat([image.permute(1, 2, 0).reshape(-1, 3) for image in images])
    areas = torch.tensor([image.shape[1] * image.shape[2] for image in images])
    return pixels, areas.cumsum(0) - areas


def _windows(
    pixels: Tensor,
    first: Tensor,
    image: Tensor,
    width: Tensor,
    top: Tensor,
    left: Tensor,
    side: int,
) -> Tensor:
    """Squares of `side` pixels cut out of flat images: (N, 3, side, side), channels-last.

    Row by row, as augment.random_crop does it: a row of a square is one run of memory.
    """
    rows = top[:, None] + torch.arange(side)
    starts = (first[image, None] + rows * width[:, None] + left[:, None]).flatten()
    runs = pixels.flatten().as_strided((len(pixels) - side + 1, 3 * side), (3, 1))
    cut = runs.index_select(0, starts.to(pixels.device))
    return cut.view(len(image), side, side, 3).permute(0, 3, 1, 2)
