"""load: one door to every classification set, embedded or on disk."""

from functools import lru_cache
from pathlib import Path

from compactnets.data import registry
from compactnets.data.cifar import read_cifar
from compactnets.data.folders import list_class_folders, list_tiny_imagenet
from compactnets.data.images import ImageSet, Split
from compactnets.data.shapes32 import load_shapes32
from compactnets.data.verification import verify_folder

_LISTINGS = {"class_folders": list_class_folders, "tiny_imagenet": list_tiny_imagenet}
_SIDES = {"shapes32": 32, "cifar10": 32, "cifar100": 32, "tiny_imagenet": 64, "imagenette160": 160}


def load(
    name: str,
    split: Split = "train",
    *,
    limit: int | None = None,
    seed: int = 0,
    size: int | None = None,
) -> ImageSet:
    """A labelled image set: a classification set of the registry, "shapes32", or "auto".

    "auto" is CIFAR-10 if it is on this machine and shapes32 otherwise. `limit` picks that many
    images, classes in proportion, by `seed`. Of shapes32 the first `limit` are drawn (a larger
    limit adds images), and another seed draws other ones. `size` is the side in pixels that the
    images of folders are brought to (shorter side, then center crop); None is the set's own.
    The files are compared with their checksums (once, until they change). Never downloads.
    ValueError: unknown name or split, more images asked for than there are, damaged files
    (verification.ChecksumError). registry.DataMissing: not here; the message says how to get it.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}: choose train or test (tuning_split makes tune)")
    if name == "auto":
        name = "cifar10" if registry.find("cifar10") is not None else "shapes32"
    known = {one.name: one for one in registry.datasets() if one.kind == "classification"}
    if name not in known and name != "shapes32":
        raise ValueError(registry.unknown(name, ["auto", "shapes32", *known]))
    side = _SIDES[name] if size is None else size
    if name == "shapes32":
        _check_fixed(name, side)
        return load_shapes32(split, limit, seed)
    one, root = known[name], registry.locate(name)
    verify_folder(one, root)
    if one.layout in _LISTINGS:
        return _read_listing(name, root, split, side, limit, seed)
    _check_fixed(name, side)
    whole = _read_cifar(name, root, split)
    return whole if limit is None else whole.take(limit, seed)


def _check_fixed(name: str, side: int) -> None:
    if side != _SIDES[name]:
        raise ValueError(
            f"images of {name} are {_SIDES[name]} pixels wide, got size={side}: leave size out"
        )


@lru_cache(maxsize=2)  # a study loads the same split for every seed
def _read_cifar(name: str, root: Path, split: Split) -> ImageSet:
    return read_cifar(name, root, split)


@lru_cache(maxsize=4)
def _read_listing(
    name: str, root: Path, split: Split, side: int, limit: int | None, seed: int
) -> ImageSet:
    return _LISTINGS[registry.entry(name).layout](name, root, split).read(side, limit, seed)
