"""A labelled set of images that lives in memory as uint8 and hands out normalized batches."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from compactnets.data.augment import Augment
from compactnets.seeds import generator as stream

Split = Literal["train", "tune", "test"]
Source = Literal["embedded", "files"]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images (N, C, H, W) uint8, stored channels-last, and labels (N,) int64.

    `mean` and `std` are per channel and refer to images scaled to [0, 1]. `source` is "embedded"
    if and only if this package drew the images itself. Everything is on one device. Two sets with
    equal contents are told by `fingerprint`; `==` compares identity.
    """

    name: str
    split: Split
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Source

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(
                f"{self.name}: images must be uint8 (N, C, H, W), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise TypeError(
                f"{self.name}: labels must be int64 ({len(images)},), "
                f"got {labels.dtype} {tuple(labels.shape)}"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise ValueError(
                f"{self.name}: labels run from {int(labels.min())} to {int(labels.max())}, "
                f"but there are {len(self.classes)} classes"
            )
        if not len(self.mean) == len(self.std) == images.shape[1] or min(self.std) <= 0:
            raise ValueError(
                f"{self.name}: mean {self.mean} and std {self.std} must give a value for each of "
                f"the {images.shape[1]} channels, std positive"
            )
        stored = images.contiguous(memory_format=torch.channels_last)
        object.__setattr__(self, "images", stored)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.images.shape[1:]))
        return f"ImageSet({self.name}/{self.split}: {len(self)} images of {shape}, {self.source})"

    @property
    def device(self) -> torch.device:
        return self.images.device

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over shape, pixels (N, H, W, C) and labels; the same on every device."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(_rows(self.images).cpu().numpy().data)
        digest.update(self.labels.cpu().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on another device (itself if it is there already)."""
        if torch.device(device) == self.device:
            return self
        moved = replace(self, images=self.images.to(device), labels=self.labels.to(device))
        if "fingerprint" in self.__dict__:  # known already: contents have not changed
            moved.__dict__["fingerprint"] = self.fingerprint
        return moved

    def take(self, n: int, seed: int = 0) -> "ImageSet":
        """n of the images, every class in proportion, in the order in which they are stored.

        The same n and seed pick the same images, and a smaller n picks some of them. ValueError
        that names the size if n is larger than the set or negative.
        """
        if n == len(self):
            return self
        return self._pick(chosen_indices(self.labels, n, seed, f"{self.name}/{self.split}"))

    def normalized(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(x / 255 - mean) / std, channels-last; computed in fp32, then rounded to dtype."""
        n, channels, height, width = images.shape
        scale, shift = self._affine(width, images.device)
        rows = _rows(images).view(n * height, width * channels)
        # Whole rows of pixels against one row of constants: per-channel broadcasting would run an
        # inner loop of length 3.
        values = rows.to(torch.float32).mul_(scale).add_(shift).to(dtype)
        return values.view(n, height, width, channels).permute(0, 3, 1, 2)

    def batches(
        self,
        batch: int,
        *,
        generator: torch.Generator,
        augment: Augment | None = None,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in an order drawn from the generator: (inputs (B, C, H, W), labels (B,)).

        Augments in uint8, then normalizes. The generator may live on the CPU or on the device of
        the images; it is advanced once for the order and as `augment` needs for each batch.
        """
        _check_batch(batch)
        order = torch.randperm(len(self), generator=generator, device=generator.device)
        order = order.to(self.device)
        end = len(self) - len(self) % batch if drop_last else len(self)
        for start in range(0, end, batch):
            chosen = order[start : min(start + batch, end)]
            images = self._gather(chosen)
            if augment is not None:
                images = augment(images, generator)
            inputs = self.normalized(images, dtype).contiguous(memory_format=memory_format)
            yield inputs, self.labels.index_select(0, chosen)

    def chunks(
        self,
        batch: int,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in stored order, without augmentation: (inputs (B, C, H, W), labels (B,))."""
        _check_batch(batch)
        for start in range(0, len(self), batch):
            inputs = self.normalized(self.images[start : start + batch], dtype)
            yield (
                inputs.contiguous(memory_format=memory_format),
                self.labels[start : start + batch],
            )

    def _gather(self, chosen: Tensor) -> Tensor:
        channels, height, width = self.images.shape[1:]
        rows = _rows(self.images).index_select(0, chosen)
        return rows.view(len(chosen), height, width, channels).permute(0, 3, 1, 2)

    def _pick(self, chosen: Tensor, split: Split | None = None) -> "ImageSet":
        return replace(
            self,
            split=split or self.split,
            images=self._gather(chosen),
            labels=self.labels.index_select(0, chosen),
        )

    def _affine(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """x -> x * scale + shift for one row of pixels: (W * C,) each, kept for the next batch."""
        kept = self.__dict__.setdefault("_affine_rows", {})
        if (width, device) not in kept:
            mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.mean, self.std))
            pair = (1 / (255 * std), -mean / std)
            kept[width, device] = tuple(v.to(device, torch.float32).repeat(width) for v in pair)
        return kept[width, device]


def tuning_split(train: ImageSet, n: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """(rest of train, n images to tune on): disjoint, every class in proportion in both.

    The same n and seed split the same way; the tuning part has split "tune". ValueError if train
    is the test split, or n leaves nothing on one side.
    """
    if train.split == "test":
        raise ValueError(f"{train.name}/test only reports: take the tuning split from train")
    if not 0 < n < len(train):
        raise ValueError(
            f"cannot split {n} of {len(train)} images of {train.name}: leave some on both sides"
        )
    order = _stratified_order(train.labels, stream(seed, "tune"))
    tune, rest = order[:n].sort().values, order[n:].sort().values
    return train._pick(rest), train._pick(tune, "tune")


def chosen_indices(labels: Tensor, n: int, seed: int, owner: str) -> Tensor:
    """The indices, ascending, that take(n, seed) picks of the images with these labels.

    For loaders that decode only what was asked for. ValueError names the owner and its size.
    """
    if not 0 <= n <= len(labels):
        raise ValueError(f"cannot take {n} images: {owner} has {len(labels)} images")
    return _stratified_order(labels, stream(seed, "take"))[:n].sort().values


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")


def _rows(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W * C), contiguous; a view if the images are channels-last."""
    pixels = images.permute(0, 2, 3, 1).contiguous()
    return pixels.view(len(images), images[0].numel() if len(images) else 0)


def _stratified_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """All indices in an order whose every prefix holds the classes in proportion, within one.

    The k-th of the m shuffled members of a class goes to place (k + 1/2) / m of the way.
    """
    device = labels.device
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    owner = labels[by_class]
    rank = torch.arange(len(labels)) - first[owner]
    place = (rank + 0.5).double() / counts[owner]
    # Ties (balanced classes) are broken by a fresh draw, so that no class always comes first.
    tie = torch.randperm(len(labels), generator=generator)
    order = tie[place[tie].argsort(stable=True)]
    return by_class[order].to(device)
