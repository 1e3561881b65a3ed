"""Joins the prose of today with the outputs of a run: the page that Jupyter Book gets.

A run's key covers the code cells, so those of the run and those of the text form are the same in
the same order; only the prose between them may be newer.
"""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from compactnets import paths
from compactnets.book import runs
from compactnets.book.notebook import Notebook, NotebookError


def render(notebook: Notebook, profile: str, book: Path) -> runs.Report | runs.Failure | None:
    """Writes notebooks/<chapter>/<slug>.ipynb under `book`; returns the run that it shows.

    A failed run shows what ran and a box that says what failed; a page that was never run says so.
    Both keep their prose and code.
    """
    shown = runs.shown(notebook, profile)
    relative = notebook.path.relative_to(paths.notebooks_dir()).with_suffix(".ipynb")
    target = book / "notebooks" / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    node = copy.deepcopy(notebook.node)
    if shown is None:
        _insert_after_title(node, _box("warning", "Not run yet", _not_run(notebook, profile)))
    elif isinstance(shown, runs.Failure):
        folder = runs.failed_folder(notebook.slug, shown.profile, shown.key)
        _take_outputs(node, folder / "failed.ipynb")
        _insert_after_title(node, _box("danger", "This page did not finish", _failed(shown)))
    else:
        folder = runs.folder(notebook.slug, shown.profile, shown.key)
        _take_outputs(node, folder / "notebook.ipynb")
        record = folder / "record.json"
        copied = target.with_name(f"{notebook.slug}.record.json")
        if record.exists():
            shutil.copyfile(record, copied)
        node.cells.append(_cell(_origin(shown, copied if record.exists() else None)))
    nbformat.write(node, target)
    return shown


def _take_outputs(node: NotebookNode, executed: Path) -> None:
    """Gives the code cells of `node` the source, outputs and counts of the executed notebook."""
    done: Any = nbformat.read(executed, as_version=4)
    ran = [cell for cell in done.cells if cell.cell_type == "code"]
    ours = [cell for cell in node.cells if cell.cell_type == "code"]
    if len(ran) != len(ours):
        raise NotebookError(f"{executed} has {len(ran)} code cells, its page {len(ours)}")
    for cell, source in zip(ours, ran, strict=True):
        cell.source, cell.outputs = source.source, source.outputs
        cell.execution_count = source.execution_count
    if "language_info" in done.metadata:
        node.metadata["language_info"] = done.metadata["language_info"]


def _insert_after_title(node: NotebookNode, text: str) -> None:
    """Puts a box under the title, which has to stay first for Jupyter Book to find it."""
    if node.cells and node.cells[0].cell_type == "markdown":
        title, newline, rest = node.cells[0].source.partition("\n")
        node.cells[0].source = f"{title}\n\n{text}\n{newline}{rest}"
    else:
        node.cells.insert(0, _cell(text))


def _cell(text: str) -> NotebookNode:
    return new_markdown_cell(text, id="build-note")


def _box(kind: str, title: str, body: str) -> str:
    return f"`````{{admonition}} {title}\n:class: {kind}\n{body}\n`````\n"


def _failed(failure: runs.Failure) -> str:
    where = f"Code cell {failure.cell}" if failure.cell else "The run"
    source = f"\n\n```python\n{failure.source}\n```\n\n" if failure.source else " "
    return (
        f"{where} of the run at profile `{failure.profile}` raised `{failure.error}`:"
        f"{source}\n````text\n{failure.message[:2000]}\n````\n"
        "What is shown below ran before it; the cells after it have no output. "
        "No number on this page counts until the run is whole."
    )


def _not_run(notebook: Notebook, profile: str) -> str:
    return (
        "The code below has not been run in its present state, so that it has no outputs. "
        f"`make paper SLUG={notebook.slug} PROFILE={profile}` runs it."
    )


def _origin(report: runs.Report, record: Path | None) -> str:
    """The last lines of a page: which run it shows, what that cost, and the files to take away."""
    files = [f"{{download}}`executed notebook <{report.slug}.ipynb>`"]
    if record is not None:
        files.append(f"{{download}}`record of the run <{record.name}>`")
    changed = ""
    if report.changed_while_running:
        changed = f" Changed while it ran: {json.dumps(report.changed_while_running)[1:-1]}."
    return (
        "---\n\n"
        f"*Run* `{report.key}`: profile `{report.profile}`, {report.wall_seconds:.0f} s, "
        f"{report.peak_memory_mb / 1000:.1f} GB of memory at the peak.{changed} "
        f"Download: {', '.join(files)}."
    )
