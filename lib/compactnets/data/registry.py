"""The registry of data sets, data/datasets.yml, and the search for their folders."""

import difflib
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from compactnets import paths

Sum = Annotated[str, StringConstraints(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]


def _stays_inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError(f"{path!r} must be a relative path with forward slashes, without '..'")
    return path


RelativePath = Annotated[str, AfterValidator(_stays_inside)]
Kind = Literal[
    "classification", "restoration", "translation", "detection", "voxels", "text", "graph",
    "weights",
]  # fmt: skip
Layout = Literal["cifar", "class_folders", "tiny_imagenet", "image_folders", "files"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Strict):
    """A public file from which the set can be unpacked; its top folder is the set's path."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://")]
    sum: Sum
    bytes: int | None = Field(gt=0, description="its size, null if unknown")


class Folder(_Strict):
    """A folder checked as a whole: how many files, and one sum over their names and contents."""

    files: int = Field(gt=0)
    sum: Sum


class DataSet(_Strict):
    """One entry of the registry. Sums are "md5:..." or "sha256:...", paths relative to `path`."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")]
    title: str
    kind: Kind
    layout: Layout
    path: RelativePath
    items: str
    shape: str
    labels: str | None
    bytes: int = Field(gt=0, description="size on disk")
    archive: Archive | None
    origin: str
    license: str
    citation: str
    note: str = ""
    files: dict[RelativePath, Sum] = {}
    folders: dict[RelativePath, Folder] = {}

    @property
    def cure(self) -> str:
        """What a user does who lacks the set, or whose copy is damaged."""
        if self.archive:
            return f"run: compactnets data fetch {self.name}"
        folder = paths.data_dirs()[0] / self.path
        return f"no public address is known: place it by hand in {folder} ({self.origin})"


class DataMissing(FileNotFoundError):
    """A data set of the registry is not on this machine; the message says how to get it."""


def registry_file() -> Path:
    """data/datasets.yml of the checkout."""
    return paths.project_root() / "data" / "datasets.yml"


def read_registry(path: Path) -> tuple[DataSet, ...]:
    """All entries of a registry file. ValueError names the file, the entry and the bad field."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, list):
        raise ValueError(f"{path} must be a list of data sets")
    entries = []
    for place, fields in enumerate(raw):
        name = fields.get("name", place) if isinstance(fields, dict) else place
        try:
            entries.append(DataSet.model_validate(fields))
        except ValidationError as error:
            raise ValueError(f"{path}: data set {name!r}: {error}") from error
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} lists {', '.join(twice)} more than once")
    return tuple(entries)


@lru_cache(maxsize=8)
def _read_once(path: Path, changed: int) -> tuple[DataSet, ...]:
    return read_registry(path)


def datasets() -> tuple[DataSet, ...]:
    """Every data set of the registry, in its order."""
    path = registry_file()
    return _read_once(path, path.stat().st_mtime_ns)


def entry(name: str) -> DataSet:
    """The registry's entry; ValueError with near matches if there is none of that name."""
    known = {one.name: one for one in datasets()}
    if name in known:
        return known[name]
    raise ValueError(unknown(name, list(known)))


def unknown(name: str, known: list[str]) -> str:
    """The message for a name that is not among the known ones."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return f"unknown data set {name!r}: {hint}"


def find(name: str) -> Path | None:
    """The set's folder in the first of paths.data_dirs() that has it, else None."""
    folder = entry(name).path
    return next((d / folder for d in paths.data_dirs() if (d / folder).is_dir()), None)


def locate(name: str) -> Path:
    """find, but DataMissing that says where was looked and how to get the set."""
    if (found := find(name)) is not None:
        return found
    looked = ", ".join(str(d / entry(name).path) for d in paths.data_dirs())
    raise DataMissing(
        f"data set {name!r} is not on this machine (looked for {looked}); {entry(name).cure}"
    )
