"""Notebooks in text form: where they are, their code cells, their parameters."""

import ast
import difflib
import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from compactnets import paths


class NotebookError(ValueError):
    """A notebook that is missing, ambiguous or unfit for the pipeline; says which and why."""


@dataclass(frozen=True)
class Notebook:
    """One notebooks/<chapter>/<slug>.md, read once."""

    path: Path

    @property
    def slug(self) -> str:
        return self.path.stem

    @property
    def chapter(self) -> str:
        return self.path.parent.name

    @cached_property
    def node(self) -> NotebookNode:
        """The cells as written, without outputs; cell ids follow from place and content."""
        status = self.path.stat()
        return _read(self.path, status.st_mtime_ns, status.st_size)

    @property
    def code_cells(self) -> list[NotebookNode]:
        return [cell for cell in self.node.cells if cell.cell_type == "code"]

    @property
    def settings(self) -> dict[str, Any]:
        """What the front matter says to the pipeline under `compactnets:`, e.g. resources."""
        return dict(self.node.metadata.get("compactnets", {}))

    def with_profile(self, profile: str) -> NotebookNode:
        """A copy in which the parameters cell says profile = <profile>."""
        node: Any = nbformat.from_dict(_plain(self.node))
        for cell in node.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = set_value(cell.source, "profile", profile, where=self.path)
                return node
        raise NotebookError(
            f"{self.path}: no code cell has the tag `parameters`; "
            'give one the tag and let it set profile = "quick"'
        )


def set_value(source: str, name: str, value: object, where: object = "cell") -> str:
    """The source with the literal on the right of `name = ...` replaced; comments stay.

    NotebookError if no top-level statement assigns the name.
    """
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.AnnAssign):
            targets, right = [statement.target], statement.value
        elif isinstance(statement, ast.Assign):
            targets, right = statement.targets, statement.value
        else:
            continue
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if names == [name] and right is not None:
            lines = source.encode().splitlines(keepends=True)
            first, last = right.lineno - 1, (right.end_lineno or right.lineno) - 1
            head = b"".join(lines[:first]) + lines[first][: right.col_offset]
            tail = lines[last][right.end_col_offset :] + b"".join(lines[last + 1 :])
            text = f'"{value}"' if isinstance(value, str) else repr(value)
            return head.decode() + text + tail.decode()
    raise NotebookError(f"{where}: the parameters cell does not set {name}")


def every() -> dict[str, Notebook]:
    """All notebooks of the book by slug, sorted; NotebookError if two share a slug."""
    found: dict[str, Notebook] = {}
    for path in sorted(paths.notebooks_dir().rglob("*.md"), key=lambda path: path.stem):
        if any(part.startswith((".", "_")) for part in path.parts[-2:]) or not _is_text_form(path):
            continue
        if path.stem in found:
            raise NotebookError(
                f"two notebooks are called {path.stem}: {found[path.stem].path}, {path}"
            )
        found[path.stem] = Notebook(path)
    return found


def find(slug: str) -> Notebook:
    """The notebook of one paper; NotebookError that names its neighbors if there is none."""
    notebooks = every()
    if slug not in notebooks:
        near = difflib.get_close_matches(slug, notebooks, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(notebooks)}"
        raise NotebookError(f"no notebook {slug!r} under {paths.notebooks_dir()}; {hint}")
    return notebooks[slug]


@cache
def _read(path: Path, changed: int, size: int) -> NotebookNode:
    """Parses one state of a notebook, once in a process; callers copy before they write."""
    node: Any = jupytext.read(path)
    for place, cell in enumerate(node.cells):
        digest = hashlib.sha256(f"{place}\n{cell.cell_type}\n{cell.source}".encode())
        cell["id"] = digest.hexdigest()[:12]
    node.nbformat, node.nbformat_minor = 4, 5
    return node


def _is_text_form(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        head = file.read(2000)
    return head.startswith("---") and "jupytext" in head.split("\n---", 1)[0]


def _plain(node: Any) -> Any:
    """Notebook nodes as plain dicts and lists, so that a copy shares nothing."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(value) for value in node] if isinstance(node, list) else node
