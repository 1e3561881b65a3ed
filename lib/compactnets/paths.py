"""Where things lie: the book's checkout, data sets, caches, build products."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def project_root() -> Path:
    """The checkout that holds data/papers: $COMPACTNETS_HOME, else found upwards from the
    working directory, else from this file.

    FileNotFoundError if there is none (the library was installed without the book): methods and
    kernels work without it, cards and records do not.
    """
    if home := os.environ.get("COMPACTNETS_HOME"):
        starts = [Path(home).expanduser()]
    else:
        starts = [p for here in (Path.cwd(), Path(__file__)) for p in (here, *here.parents)]
    for start in starts:
        if (start / "data" / "papers").is_dir():
            return start.resolve()
    raise FileNotFoundError(
        "no checkout of the book found (a folder with data/papers): run inside it, "
        "or set COMPACTNETS_HOME to it"
    )


def papers_dir() -> Path:
    """Paper cards, one <slug>.yml each."""
    return project_root() / "data" / "papers"


def results_dir() -> Path:
    """Committed records, <slug>/<profile>.json."""
    return project_root() / "data" / "results"


def notebooks_dir() -> Path:
    """Notebooks in text form, <chapter>/<slug>.md."""
    return project_root() / "notebooks"


def build_dir() -> Path:
    """Everything that can be made again: $COMPACTNETS_BUILD, else _build in the checkout."""
    if build := os.environ.get("COMPACTNETS_BUILD"):
        return Path(build).expanduser()
    return project_root() / "_build"


def cache_dir() -> Path:
    """Trained networks and tuned tiles: $COMPACTNETS_CACHE, else ~/.cache/compactnets."""
    return Path(os.environ.get("COMPACTNETS_CACHE", "~/.cache/compactnets")).expanduser()


def data_dirs() -> list[Path]:
    """Folders searched for data sets, first match wins: $COMPACTNETS_DATA, then the cache's."""
    named = os.environ.get("COMPACTNETS_DATA")
    return ([Path(named).expanduser()] if named else []) + [cache_dir() / "data"]


@contextmanager
def write_atomically(path: Path | str) -> Iterator[Path]:
    """Hands out a temporary path beside `path` that takes its name only if the block succeeds.

    A reader sees the old file or the whole new one, never a part; on an error the temporary file
    goes and the old file stays. Parent folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
