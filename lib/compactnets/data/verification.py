"""Checksums of data sets: verify, and the memory of what was verified before."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from compactnets import paths
from compactnets.data import registry


class ChecksumError(ValueError):
    """A file or folder of a data set is not what the registry says; nothing was changed."""


@dataclass(frozen=True)
class Verification:
    """What verify found: how many files agree, and which folders of another edition it let pass."""

    name: str
    root: Path
    checked: int
    unchecked: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True if every listed file and folder was compared with its sum."""
        return not self.unchecked


def file_sum(path: Path, kind: str = "sha256") -> str:
    """ "sha256:..." or "md5:..." of a file's bytes."""
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def folder_sum(folder: Path) -> str:
    """ "sha256:..." over the lines "<file name> <sha256>" of a folder's own files, by name."""
    lines = (f"{p.name} {file_sum(p).partition(':')[2]}\n" for p in folder_files(folder))
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def folder_files(folder: Path) -> list[Path]:
    """The files right inside a folder, by name; hidden ones are not part of a data set."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def verify(name: str, *, again: bool = False) -> Verification:
    """Compares a data set on disk with the registry's sums; raises at the first disagreement.

    What agreed before and has kept its size and time of change is not read again, unless
    `again`. A listed folder with more files than listed belongs to a larger edition, whose sums
    are not known: it is reported as unchecked. registry.DataMissing if the set is not here;
    ChecksumError names the file, both sums and the cure. Changes nothing in the data folder.
    """
    return verify_folder(registry.entry(name), registry.locate(name), again=again)


def verify_folder(one: registry.DataSet, root: Path, *, again: bool = False) -> Verification:
    """verify for an entry and the folder it lies in."""
    memory = _Memory.read()
    checked, unchecked = 0, []
    try:
        for relative, expected in one.files.items():
            _compare(one, root / relative, expected, memory, again)
            checked += 1
        for relative, folder in one.folders.items():
            if _is_larger(one, root / relative, folder):
                unchecked.append(relative)
            else:
                _compare(one, root / relative, folder.sum, memory, again)
                checked += folder.files
    finally:
        memory.write()
    return Verification(one.name, root, checked, tuple(unchecked))


def _is_larger(one: registry.DataSet, path: Path, folder: registry.Folder) -> bool:
    found = len(folder_files(path)) if path.is_dir() else 0
    if found < folder.files:
        raise ChecksumError(
            f"{path} holds {found} of {folder.files} files: {one.title} is incomplete; {one.cure}"
        )
    return found > folder.files


def _compare(
    one: registry.DataSet, path: Path, expected: str, memory: "_Memory", again: bool
) -> None:
    if not path.exists():
        raise ChecksumError(f"{path} is missing: {one.title} is incomplete; {one.cure}")
    if not again and memory.knows(path, expected):
        return
    kind = expected.partition(":")[0]
    stamp = _stamp(path)  # before reading: a file that changes meanwhile is read again next time
    found = folder_sum(path) if path.is_dir() else file_sum(path, kind)
    if found != expected:
        memory.forget(path)
        raise ChecksumError(
            f"{path} is damaged or another edition: its {kind} is {found.partition(':')[2]}, "
            f"expected {expected.partition(':')[2]}. Nothing was changed; remove it, then "
            f"{one.cure}"
        )
    memory.learn(path, stamp, expected)


def _stamp(path: Path) -> str:
    """Changes when a file, or any file of a folder, changes its size, time or name."""
    parts = folder_files(path) if path.is_dir() else [path]
    facts = [(p.name, s.st_size, s.st_mtime_ns) for p in parts for s in [p.stat()]]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


@dataclass
class _Memory:
    """path -> [stamp, sum] of what agreed, kept in the cache folder; losing it costs time only."""

    file: Path
    known: dict[str, list[str]]
    changed: bool = False

    @classmethod
    def read(cls) -> "_Memory":
        file = paths.cache_dir() / "verified.json"
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        return cls(file, known if isinstance(known, dict) else {})

    def knows(self, path: Path, expected: str) -> bool:
        return self.known.get(str(path.resolve())) == [_stamp(path), expected]

    def learn(self, path: Path, stamp: str, found: str) -> None:
        self.known[str(path.resolve())] = [stamp, found]
        self.changed = True

    def forget(self, path: Path) -> None:
        self.changed |= self.known.pop(str(path.resolve()), None) is not None

    def write(self) -> None:
        if not self.changed:
            return
        try:
            with paths.write_atomically(self.file) as temporary:
                temporary.write_text(json.dumps(self.known, indent=0), encoding="utf-8")
        except OSError:  # a read-only cache folder: verify again next time
            return
