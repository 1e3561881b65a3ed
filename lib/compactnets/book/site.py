"""From finished runs to _build/html: collects the book's sources, then calls Jupyter Book."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from compactnets import paths
from compactnets.book import keys, notebook, runs
from compactnets.book.render import render
from compactnets.book.report import report_page

if TYPE_CHECKING:
    from compactnets.study.record import Record

SOURCES = ("_config.yml", "book", "notebooks", "data/papers", "data/results", "lib", "kernels")
REPORT = "build-report"  # our own page
TOOLS = ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme")

JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # this interpreter's, not PATH's

COLOR = re.compile(r"\x1b\[[0-9;]*m")

Shown = runs.Report | runs.Failure | None


class SiteError(RuntimeError):
    """Jupyter Book failed, or its settings would let it execute notebooks."""


def build(profile: str) -> bool:
    """Brings _build/html up to date; False if everything it is made from is as in the last build.

    The last whole site stays in place until the new one is ready. SiteError if Sphinx fails.
    """
    folder = paths.build_dir()
    keys.forget()
    shown = {slug: runs.shown(nb, profile) for slug, nb in notebook.every().items()}
    state, stamp = _state(profile, shown), folder / "html.json"
    is_there = (folder / "html" / "index.html").exists() and stamp.exists()
    if is_there and stamp.read_text(encoding="utf-8") == state:
        return False
    assemble(profile)
    _jupyter_book(folder / "book", folder / "site")
    stamp.unlink(missing_ok=True)
    _publish(folder / "site" / "_build" / "html", folder / "html")
    with paths.write_atomically(stamp) as temporary:
        temporary.write_text(state, encoding="utf-8")
    return True


def assemble(profile: str) -> dict[str, Shown]:
    """Brings _build/book up to date: prose, rendered notebooks, pages made from the records.

    Files that would not change are left alone, so that Sphinx reads only what is new. Returns the
    run that each page shows.
    """
    from compactnets.book import pages  # loads torch and more, in vain if nothing has changed

    book = paths.build_dir() / "book"
    book.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=book.parent, prefix=".book-") as name:
        fresh = Path(name)
        pages.copy_prose(fresh)
        check_config(fresh / "_config.yml")
        shown = {slug: render(nb, profile, fresh) for slug, nb in notebook.every().items()}
        pages.write_all(fresh, _records(shown))
        (fresh / f"{REPORT}.md").write_text(report_page(shown), encoding="utf-8")
        _list_in_contents(fresh / "_toc.yml", REPORT)
        _mirror(fresh, book)
    return shown


def check_config(path: Path) -> None:
    """SiteError unless the book's settings forbid Jupyter Book to run notebooks itself."""
    if not path.exists():
        raise SiteError(f"{path.name} is missing in {paths.project_root()}")
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    execution = (settings.get("execute") or {}).get("execute_notebooks")
    if execution not in ("off", False):
        raise SiteError(
            f'_config.yml: execute.execute_notebooks is {execution!r}; it has to be "off", because '
            "Jupyter Book's own cache does not see changes in imported modules"
        )


def _jupyter_book(source: Path, output: Path) -> None:
    """Runs Jupyter Book; its words go to logs/site.log, warnings and errors to the terminal too."""
    log = paths.build_dir() / "logs" / "site.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(source)]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "NO_COLOR": "1"}
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*command, "--path-output", str(output)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        )
    lines = COLOR.sub("", log.read_text(encoding="utf-8", errors="replace")).splitlines()
    for line in lines:
        if "WARNING" in line or "ERROR" in line:
            print(line.replace(f"{paths.project_root()}/", ""), file=sys.stderr)
    if done.returncode or not (output / "_build" / "html" / "index.html").exists():
        raise SiteError("Jupyter Book failed:\n" + "\n".join(lines[-25:]) + f"\nAll of it: {log}")


def _records(shown: dict[str, Shown]) -> dict[str, "Record"]:
    """The records of the runs that the pages show, by slug; none of an older state gets in."""
    from compactnets.study import record

    found = {}
    for slug, run in shown.items():
        if isinstance(run, runs.Report):
            path = runs.folder(slug, run.profile, run.key) / "record.json"
            if path.exists():
                found[slug] = record.read(path)
    return found


def _list_in_contents(path: Path, page: str) -> None:
    """Adds a page to the end of the table of contents unless it is there."""
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    last = tree["parts"][-1] if "parts" in tree else tree
    if {"file": page} not in last["chapters"]:
        last["chapters"].append({"file": page})
        path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


def _publish(source: Path, target: Path) -> None:
    """Puts a copy of the new site in the place of the old one by renaming."""
    fresh, old = target.with_name(".html-new"), target.with_name(".html-old")
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, fresh)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _mirror(source: Path, target: Path) -> None:
    """Makes target equal to source; equal files keep their times, others appear in one step."""
    wanted = {path.relative_to(source) for path in source.rglob("*")}
    for path in sorted(target.rglob("*"), reverse=True) if target.exists() else ():
        if path.relative_to(target) not in wanted:
            path.rmdir() if path.is_dir() else path.unlink()
    for relative in sorted(wanted):
        new, old = source / relative, target / relative
        if new.is_dir():
            old.mkdir(parents=True, exist_ok=True)
        elif not old.exists() or old.read_bytes() != new.read_bytes():
            old.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new, old)


def _state(profile: str, shown: dict[str, Shown]) -> str:
    """Everything the site is made from, as one text: files, runs, tools."""
    root = paths.project_root()
    total = hashlib.sha256()
    for part in SOURCES:
        for path in sorted([root / part, *(root / part).rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(f"{path.relative_to(root)}\0".encode())
                total.update(hashlib.sha256(path.read_bytes()).digest())
    state = {
        "profile": profile,
        "files": total.hexdigest(),
        "runs": {slug: run and [run.profile, run.key, run.finished] for slug, run in shown.items()},
        "tools": {name: metadata.version(name) for name in TOOLS},
    }
    return json.dumps(state, sort_keys=True)
