"""load: one door to every classification set, embedded or on disk."""

from functools import lru_cache
from pathlib import Path

from compactnets.data import registry
from compactnets.data.cifar import read_cifar
from compactnets.data.images import ImageSet, Split
from compactnets.data.shapes32 import load_shapes32


def load(name: str, split: Split = "train", *, limit: int | None = None, seed: int = 0) -> ImageSet:
    """A labelled image set: a name of the registry, "shapes32", or "auto".

    "auto" is CIFAR-10 if it is on this machine and shapes32 otherwise. `limit` picks that many
    images, classes in proportion, by `seed`. Of shapes32 the first `limit` are drawn (a larger
    limit adds images), and another seed draws other ones. Never downloads.
    ValueError: unknown name, split, or more images asked for than there are.
    registry.DataMissing: not on this machine; the message says how to get it.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}: choose train or test (tuning_split makes tune)")
    if name == "auto":
        name = "cifar10" if registry.find("cifar10") is not None else "shapes32"
    if name == "shapes32":
        return load_shapes32(split, limit, seed)
    known = ["auto", "shapes32", *(one.name for one in registry.datasets())]
    if name not in known:
        raise ValueError(registry.unknown(name, known))
    whole = _read(name, split, registry.locate(name))
    return whole if limit is None else whole.take(limit, seed)


@lru_cache(maxsize=2)
def _read(name: str, split: Split, folder: Path) -> ImageSet:
    return read_cifar(name, folder, split)
