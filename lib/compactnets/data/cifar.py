"""CIFAR-10 and CIFAR-100 in the authors' (and torchvision's) layout of pickled batches."""

import pickle
from pathlib import Path

import numpy as np
import torch

from compactnets.data.images import ImageSet, Split

_BATCHES: dict[tuple[str, str], tuple[str, ...]] = {
    ("cifar10", "train"): tuple(f"data_batch_{i}" for i in range(1, 6)),
    ("cifar10", "test"): ("test_batch",),
    ("cifar100", "train"): ("train",),
    ("cifar100", "test"): ("test",),
}
_META = {"cifar10": ("batches.meta", "label_names"), "cifar100": ("meta", "fine_label_names")}
_LABELS = {"cifar10": "labels", "cifar100": "fine_labels"}
# Mean and standard deviation of the 50,000 training images in [0, 1], to four digits.
_MOMENTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


class _PlainUnpickler(pickle.Unpickler):
    """Reads arrays, lists, dicts and strings; refuses anything else a pickle could run."""

    _harmless = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy", "_reconstruct"),
            ("_codecs", "encode"),  # how Python 3 writes an array's bytes in protocol 2
        }
    )

    def find_class(self, module: str, name: str):
        if (module.split(".")[0], name) in self._harmless:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"refers to {module}.{name}")


def _unpickle(path: Path) -> dict:
    try:
        with path.open("rb") as file:
            found = _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: put the whole data set there") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(
            f"{path} cannot be read as a CIFAR batch ({error}): it is damaged; remove it and "
            f"fetch the data set again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a CIFAR batch")
    return found


def read_cifar(name: str, folder: Path, split: Split = "train") -> ImageSet:
    """CIFAR-10/100 from folder (the one that holds the batch files), whole split, stored order.

    Checks structure, not sums (see verification). FileNotFoundError or ValueError names the file.
    """
    if (name, split) not in _BATCHES:
        raise ValueError(f"{name} has no split {split!r}: choose train or test")
    pixels, labels = [], []
    for batch in _BATCHES[name, split]:
        path = folder / batch
        found = _unpickle(path)
        data, marks = found.get("data"), found.get(_LABELS[name])
        if (
            not isinstance(data, np.ndarray)
            or data.dtype != np.uint8
            or marks is None
            or data.shape != (len(marks), 3072)
        ):
            raise ValueError(f"{path} does not hold uint8 images of 3072 values with their labels")
        pixels.append(data)
        labels.extend(marks)
    meta, key = _META[name]
    classes = _unpickle(folder / meta).get(key)
    if not isinstance(classes, list):
        raise ValueError(f"{folder / meta} does not list the class names ({key})")
    mean, std = _MOMENTS[name]
    return ImageSet(
        name=name,
        split=split,
        images=torch.from_numpy(np.concatenate(pixels)).view(-1, 3, 32, 32),
        labels=torch.tensor(labels),
        classes=tuple(classes),
        mean=mean,
        std=std,
        source="files",
    )
