"""The key of a run: a digest of everything that can change what a notebook shows.

Same key, same page (but for measured times): a finished run is found again by its key, whatever
the file times are. Prose is left out; it is merged when the page is rendered.
"""

import hashlib
import json
import platform
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

from compactnets import paths
from compactnets.book.imports import Sources
from compactnets.book.notebook import Notebook
from compactnets.profiles import check

FORMAT = 1  # raised when the way a run is made or stored changes
KERNEL_SOURCES = frozenset({".cpp", ".cc", ".h", ".hpp", ".cmake", ".txt"})

Components = dict[str, str]  # what it is -> its digest, or its value where that is short


def components(notebook: Notebook, profile: str) -> Components:
    """Everything a run depends on, part by part, so that a change can be named."""
    root = paths.project_root()
    modules = _sources(root / "lib").reached(cell.source for cell in notebook.code_cells)
    found = {
        "format": str(FORMAT),
        "profile": check(profile),
        "code cells": _cells(notebook),
        "python": platform.python_version(),
        "card": _file(paths.papers_dir() / f"{notebook.slug}.yml"),
        **{f"module {name}": _file(module.path) for name, module in modules.items()},
        **{
            f"record {path.stem}": _file(path)
            for path in sorted((paths.results_dir() / notebook.slug).glob("*.json"))
        },
        **packages(),
        **data_sets(),
    }
    if any(name.startswith("compactnets.kernels") for name in modules):
        found["native kernels"] = _tree(root / "kernels", KERNEL_SOURCES)
        found["native module"] = "built" if _native_module(root) else "absent"
    if any(name.startswith("compactnets.data") for name in modules):
        found["data registry"] = _file(root / "data" / "datasets.yml")
    return found


def digest(parts: Components) -> str:
    """The key itself: 20 hexadecimal digits over all components."""
    return _sha(json.dumps(parts, sort_keys=True))[:20]


def key(notebook: Notebook, profile: str) -> str:
    return digest(components(notebook, profile))


def differences(old: Components, new: Components) -> list[str]:
    """What changed between two states, one line each: "module compactnets.cost changed"."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            lines.append(f"{name} is new")
        elif name not in new:
            lines.append(f"{name} is gone")
        elif old[name] != new[name]:
            short = max(len(old[name]), len(new[name])) < 20
            lines.append(f"{name} changed" + (f": {old[name]} -> {new[name]}" if short else ""))
    return lines


@cache
def data_sets() -> Components:
    """A cheap fingerprint of each thing in the data folders: names, sizes and times, no contents.

    A set that appears, disappears or is replaced changes it. Files lie at most two folders deep in
    what it lists; below that a folder stands for its contents (ImageNet has a million files).
    """
    found: Components = {}
    for place, folder in enumerate(paths.data_dirs()):
        if folder.is_dir():
            for entry in sorted(folder.iterdir()):
                if not entry.name.startswith("."):
                    found[f"data {place}/{entry.name}"] = _sha("\n".join(_listing(entry, 2)))
    return found


@cache
def packages() -> Components:
    """Installed versions of what pyproject.toml lists as dependencies of the library."""
    pyproject = paths.project_root() / "pyproject.toml"
    if not pyproject.exists():
        return {}
    wanted = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    found = {}
    for requirement in wanted:
        name = requirement.split(">")[0].split("=")[0].split("[")[0].split(";")[0].strip()
        try:
            found[f"package {name}"] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[f"package {name}"] = "absent"
    return found


@cache
def _sources(lib: Path) -> Sources:
    return Sources(lib)


def forget() -> None:
    """Drops what is remembered of files, so that the next key sees them as they are.

    Within one look at the book (a hundred pages, five keys each) every file is read once.
    """
    for remembered in (_sources, _file, _tree, _native_module, data_sets, packages):
        remembered.cache_clear()


def _cells(notebook: Notebook) -> str:
    cells = [
        (cell.source.rstrip(), sorted(cell.metadata.get("tags", [])))
        for cell in notebook.code_cells
    ]
    return _sha(json.dumps(cells))


@cache
def _native_module(root: Path) -> bool:
    """Has the C++ module been built? Looked for by name: importing it would load torch."""
    installed = metadata.distributions(name="compactnets")
    files = (str(file) for dist in installed for file in dist.files or [])
    built = (str(file) for file in (root / "lib" / "compactnets").rglob("*.so"))
    return any("compactnets" in file and file.endswith(".so") for file in (*files, *built))


def _listing(path: Path, depth: int) -> list[str]:
    status = path.stat()
    lines = [f"{path.name} {status.st_size} {status.st_mtime_ns}"]
    if depth and path.is_dir():
        for inner in sorted(path.iterdir()):
            lines += [f"{path.name}/{line}" for line in _listing(inner, depth - 1)]
    return lines


@cache
def _tree(folder: Path, suffixes: frozenset[str]) -> str:
    files = sorted(path for path in folder.rglob("*") if path.suffix in suffixes)
    return _sha("\n".join(f"{path.relative_to(folder)} {_file(path)}" for path in files))


@cache
def _file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "absent"


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
