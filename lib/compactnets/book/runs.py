"""Where runs lie: a success under its key, a failure elsewhere, never one in place of the other.

_build/runs/<slug>/<profile>/<key>/{notebook.ipynb, record.json, report.json}
_build/failed/<slug>/<profile>/<key>/{failed.ipynb, failure.json}
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compactnets import paths
from compactnets.book import keys
from compactnets.book.notebook import Notebook
from compactnets.profiles import PROFILES

KEPT = 8  # finished runs kept per notebook and profile; older ones are dropped


@dataclass(frozen=True)
class Report:
    """What a finished run cost; report.json."""

    slug: str
    profile: str
    key: str
    finished: str  # ISO 8601, UTC
    wall_seconds: float
    peak_memory_mb: float  # resident memory of the kernel and its children, shared pages included
    code_cells: int
    threads: int
    components: keys.Components
    changed_while_running: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failure:
    """Where and how a run failed; failure.json. cell counts code cells from 1, 0: before any."""

    slug: str
    profile: str
    key: str
    finished: str
    wall_seconds: float
    cell: int
    source: str  # first line of the cell
    error: str
    message: str


def runs_dir() -> Path:
    return paths.build_dir() / "runs"


def folder(slug: str, profile: str, key: str) -> Path:
    """Where the finished run of this key is or will be."""
    return runs_dir() / slug / profile / key


def failed_folder(slug: str, profile: str, key: str) -> Path:
    """Where a failed run of this key leaves its notebook and its failure.json."""
    return paths.build_dir() / "failed" / slug / profile / key


def is_done(slug: str, profile: str, key: str) -> bool:
    return (folder(slug, profile, key) / "report.json").exists()


def report(slug: str, profile: str, key: str) -> Report | None:
    """The report of a finished run, None if there is none."""
    path = folder(slug, profile, key) / "report.json"
    return Report(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def failure(slug: str, profile: str, key: str) -> Failure | None:
    """How the last attempt at this key failed, None if it did not."""
    path = failed_folder(slug, profile, key) / "failure.json"
    return Failure(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def write(entry: Report | Failure, path: Path) -> None:
    with paths.write_atomically(path) as temporary:
        temporary.write_text(json.dumps(asdict(entry), indent=1, sort_keys=True) + "\n", "utf-8")


def newest(slug: str, profile: str) -> Report | None:
    """The run of a notebook that finished last, whatever its key."""
    found = _finished(slug, profile)
    return found[-1] if found else None


def shown(notebook: Notebook, profile: str) -> Report | Failure | None:
    """What the page of a notebook shows: its run in the present state of the sources.

    The profile asked for comes first, finished or failed; else the largest profile that has
    a finished run of the present state; None if the notebook has not been run.
    """
    for name in dict.fromkeys((profile, *reversed(PROFILES))):
        key = keys.key(notebook, name)
        found = report(notebook.slug, name, key)
        if found is None and name == profile:
            found = failure(notebook.slug, name, key)
        if found is not None:
            return found
    return None


def why(notebook: Notebook, profile: str) -> list[str]:
    """Why a run is due, one reason a line; empty if the present state has been run."""
    now = keys.components(notebook, profile)
    key = keys.digest(now)
    if is_done(notebook.slug, profile, key):
        return []
    reasons = []
    if failed := failure(notebook.slug, profile, key):
        reasons.append(f"the last attempt failed in code cell {failed.cell}: {failed.error}")
    last = newest(notebook.slug, profile)
    if last is None:
        return [*reasons, f"no finished run at {profile}"]
    return [*reasons, *keys.differences(last.components, now)]


def prune(slug: str, profile: str) -> None:
    """Drops all but the newest finished runs of a notebook at a profile."""
    for old in _finished(slug, profile)[:-KEPT]:
        shutil.rmtree(folder(slug, profile, old.key), ignore_errors=True)


def _finished(slug: str, profile: str) -> list[Report]:
    found: list[Any] = []
    for path in (runs_dir() / slug / profile).glob("*/report.json"):
        if not path.parent.name.startswith("."):
            found.append(report(slug, profile, path.parent.name))
    return sorted(found, key=lambda run: run.finished)
