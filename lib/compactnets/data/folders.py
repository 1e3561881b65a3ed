"""Classification sets that lie as one folder of image files per class."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from compactnets.data.images import ImageSet, Split, chosen_indices

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".JPEG", ".JPG", ".PNG"}
# ImageNet's, in [0, 1]: what networks trained on it and its subsets expect (torchvision's values).
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The folders of Imagenette are WordNet ids; these are its publisher's names for them.
_IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def image_files(folder: Path) -> list[Path]:
    """The image files right inside a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())


def read_image(path: Path, size: int | None = None) -> Tensor:
    """(3, H, W) uint8; grey becomes RGB. With `size`: shorter side to size, then center crop.

    ValueError that names the file if it cannot be decoded.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{path} cannot be decoded as an image ({error}): it is damaged; put it there again"
        ) from error
    if size is not None:
        image = _resized(image, size)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _resized(image: Image.Image, size: int) -> Image.Image:
    scale = size / min(image.size)
    if scale != 1:
        wide, high = (max(size, round(extent * scale)) for extent in image.size)
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class Listing:
    """The files of a split with their labels, before any of them is decoded."""

    name: str
    split: Split
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]

    def read(self, size: int, limit: int | None = None, seed: int = 0) -> ImageSet:
        """Images of size x size; with a limit exactly those that take(limit, seed) would pick."""
        labels = torch.tensor([label for _, label in self.files])
        if limit is None:
            chosen = torch.arange(len(labels))
        else:
            chosen = chosen_indices(labels, limit, seed, f"{self.name}/{self.split}")
        images = torch.empty((len(chosen), size, size, 3), dtype=torch.uint8)
        for place, index in enumerate(chosen.tolist()):
            images[place] = read_image(self.files[index][0], size).permute(1, 2, 0)
        return ImageSet(
            name=self.name,
            split=self.split,
            images=images.permute(0, 3, 1, 2),
            labels=labels[chosen],
            classes=self.classes,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            source="files",
        )


def list_class_folders(name: str, root: Path, split: Split) -> Listing:
    """<root>/{train,val}/<class>/*: torchvision's ImageFolder layout.

    Classes are the sorted folder names of train; split "test" reads val. ValueError or
    FileNotFoundError names what is missing or damaged.
    """
    ids = sorted(p.name for p in _folder(root / "train").iterdir() if p.is_dir())
    part = root / ("train" if split == "train" else "val")
    listed = [
        (path, label) for label, one in enumerate(ids) for path in image_files(_folder(part / one))
    ]
    return _listing(name, split, tuple(_IMAGENETTE.get(i, i) for i in ids), listed, part)


def list_tiny_imagenet(name: str, root: Path, split: Split) -> Listing:
    """Stanford's layout: train/<wnid>/images/*, val/images/* with val/val_annotations.txt.

    Classes are the lines of wnids.txt, sorted, with their names from words.txt; split "test" is
    val, as the published test labels are secret.
    """
    ids = sorted(_lines(root / "wnids.txt"))
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
    classes = tuple(words.get(i, i).split(",")[0].strip() for i in ids)
    place = {one: label for label, one in enumerate(ids)}
    if split == "train":
        part = root / "train"
        listed = [(p, place[i]) for i in ids for p in image_files(_folder(part / i / "images"))]
    else:
        part = root / "val"
        marks = [line.split("\t")[:2] for line in _lines(part / "val_annotations.txt")]
        if strange := [m for m in marks if len(m) < 2 or m[1] not in place]:
            raise ValueError(f"{part / 'val_annotations.txt'}: unknown class in {strange[0]}")
        listed = [(part / "images" / file, place[wnid]) for file, wnid in marks]
    return _listing(name, split, classes, listed, part)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise FileNotFoundError(f"folder {path} is missing: the data set is incomplete")
    return path


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the data set is incomplete")
    return path.read_text(encoding="utf-8").splitlines()


def _listing(
    name: str,
    split: Split,
    classes: tuple[str, ...],
    files: list[tuple[Path, int]],
    part: Path,
) -> Listing:
    if not files:
        raise ValueError(f"{part} holds no images ({', '.join(sorted(SUFFIXES))})")
    return Listing(name, split, classes, tuple(files))
