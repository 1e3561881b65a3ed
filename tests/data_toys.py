"""Small data sets with a registry of their own, for the tests of compactnets.data."""

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml


def toy_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch, entries: list[dict] | None = None
) -> Path:
    """A checkout with this registry, empty data and cache folders; returns the data folder."""
    (folder / "home" / "data" / "papers").mkdir(parents=True)
    (folder / "data").mkdir()
    monkeypatch.setenv("COMPACTNETS_HOME", str(folder / "home"))
    monkeypatch.setenv("COMPACTNETS_DATA", str(folder / "data"))
    monkeypatch.setenv("COMPACTNETS_CACHE", str(folder / "cache"))
    write_registry(folder, entries or [])
    return folder / "data"


def write_registry(folder: Path, entries: list[dict]) -> Path:
    path = folder / "home" / "data" / "datasets.yml"
    path.write_text(yaml.safe_dump(entries), encoding="utf-8")
    return path


def toy_entry(name: str, **fields: object) -> dict:
    base: dict[str, object] = {
        "name": name,
        "title": f"Toy {name}",
        "kind": "classification",
        "layout": "cifar",
        "path": name,
        "items": "few",
        "shape": "32 x 32",
        "labels": "10 classes",
        "bytes": 1000,
        "archive": None,
        "origin": "this test",
        "license": "none needed",
        "citation": "this test",
    }
    return base | fields


def md5(path: Path) -> str:
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar10(folder: Path, per_batch: int = 20) -> dict:
    """A CIFAR-10 of random pixels in the authors' layout; returns its registry entry."""
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        labels = [i % 10 for i in range(per_batch)]
        content = {"data": pixels, "labels": labels, "batch_label": name, "filenames": []}
        (root / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {"label_names": [f"class {i}" for i in range(10)]}
    (root / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    sums = {path.name: md5(path) for path in root.iterdir()}
    return toy_entry("cifar10", path="cifar-10-batches-py", files=sums)


def pack(root: Path, archive: Path) -> Path:
    """A tar.gz with the folder as its top entry."""
    with tarfile.open(archive, "w:gz") as file:
        file.add(root, arcname=root.name)
    return archive
