"""Super-resolution data: images, their bicubic reductions, and random patches of both.

train = super_resolution.load_patches("auto", "train", scale=2)   # T91, else drawn scenes
for low, high in train.batches(16, generator=g, augment=super_resolution.Dihedral()): ...
for low, high in super_resolution.load_patches("Set5", "test", scale=2).chunks(1): ...
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from compactnets.data import drawn, registry
from compactnets.data.folders import image_files, read_image
from compactnets.data.images import Source, Split
from compactnets.data.patches import Channels, Dihedral, PatchSet, random_dihedral
from compactnets.data.resize import crop_to_multiple, enlarge, luma, reduce, shave
from compactnets.data.verification import verify_folder
from compactnets.seeds import generator as stream

__all__ = [
    "Dihedral",
    "PatchSet",
    "crop_to_multiple",
    "enlarge",
    "load_images",
    "load_patches",
    "luma",
    "random_dihedral",
    "reduce",
    "shave",
    "tuning_images",
]

DRAWN = "scenes"  # the name of drawn images, where a set's name is asked for
_DRAWN_SIDE = 192  # pixels
_DRAWN_COUNT = {"train": 64, "test": 8}
_AUTO = {"train": "T91", "test": "Set5"}


def resolve(name: str, split: Split = "train") -> str:
    """What "auto" means here: T91 to train on and Set5 to test on if found, else "scenes"."""
    if split not in _AUTO:
        raise ValueError(f"unknown split {split!r}: choose train or test")
    known = [one.name for one in registry.datasets() if one.layout == "image_folders"]
    if name not in known and name not in ("auto", DRAWN):
        raise ValueError(registry.unknown(name, ["auto", DRAWN, *known]))
    if name == "auto":
        return _AUTO[split] if registry.find(_AUTO[split]) is not None else DRAWN
    return name


def load_images(
    name: str = "auto", limit: int | None = None, *, split: Split = "train", seed: int = 0
) -> list[Tensor]:
    """High-resolution images (3, H, W) uint8: T91, Set5, Set14, BSD100, Urban100, or drawn.

    The first `limit` by file name; grey images become RGB. "auto" is T91 (split "train") or Set5
    ("test") if it is here, else "scenes": 64 or 8 drawn images of 192 x 192, or as many as
    `limit` says, by `seed`; the two splits are different images. Files are compared with their
    checksums. ValueError: unknown name, damaged file, or a limit above the size of the set.
    """
    name = resolve(name, split)
    if name == DRAWN:
        count = _DRAWN_COUNT[split] if limit is None else limit
        return list(_scenes(count, split, seed))
    root = registry.locate(name)
    verify_folder(registry.entry(name), root)
    files = image_files(root)
    if limit is not None and not 0 < limit <= len(files):
        raise ValueError(f"cannot take {limit} images: {name} has {len(files)} images")
    return [_decode(path) for path in files[:limit]]


@lru_cache(maxsize=4)
def _scenes(count: int, split: Split, seed: int) -> Tensor:
    if count < 1:
        raise ValueError(f"cannot draw {count} images")
    # Both splits draw from streams of their own: negative seeds are nobody else's.
    return drawn.scenes(count, _DRAWN_SIDE, seed if split == "train" else -1 - seed)


@lru_cache(maxsize=256)
def _decode(path: Path) -> Tensor:
    return read_image(path)


def load_patches(
    name: str = "auto",
    split: Split = "train",
    *,
    scale: int = 2,
    patch: int | None = None,
    patches: int = 1000,
    channels: Channels = "rgb",
    limit: int | None = None,
    seed: int = 0,
) -> PatchSet:
    """load_images as a PatchSet. patch None: 48 low-resolution pixels, or what the images allow.

    Names and limit as in load_images.
    """
    name = resolve(name, split)
    images = load_images(name, limit, split=split, seed=seed)
    if patch is None:
        smallest = min(min(image.shape[1:]) for image in images)
        patch = scale * min(48, smallest // scale)
    source: Source = "embedded" if name == DRAWN else "files"
    return PatchSet(name, split, tuple(images), source, scale, patch, patches, channels)


def tuning_images(train: PatchSet, n: int, seed: int = 0) -> tuple[PatchSet, PatchSet]:
    """(rest, n whole images to tune on): disjoint; the second has split "tune".

    ValueError for a test split, or if either side were empty.
    """
    if train.split == "test":
        raise ValueError(f"{train.name}/test only reports: take the tuning images from train")
    if not 0 < n < len(train.images):
        raise ValueError(
            f"cannot split {n} of {len(train.images)} images of {train.name}: leave some on both "
            f"sides"
        )
    order = torch.randperm(len(train.images), generator=stream(seed, "tune")).tolist()
    tune, rest = sorted(order[:n]), sorted(order[n:])
    return (
        replace(train, images=tuple(train.images[i] for i in rest)),
        replace(train, images=tuple(train.images[i] for i in tune), split="tune"),
    )
