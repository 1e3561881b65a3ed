"""The book's outline: chapters in order, each paper with its card, its records and its page."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from compactnets import paths
from compactnets.study import card as cards
from compactnets.study import record as records
from compactnets.study.card import Card
from compactnets.study.record import Record

VERDICTS = ("holds", "fails", "undecided", "not tested")


@dataclass(frozen=True)
class Chapter:
    """One chapter: its number in the book, its folder name, and its papers in reading order."""

    number: int
    name: str
    title: str
    short: str
    papers: tuple[str, ...]


@dataclass(frozen=True)
class Paper:
    """A paper as the book knows it at build time.

    page: path of the executed notebook in the build, without suffix, from the book's root; None
    as long as there is none. recorded: the committed run of the largest profile. fresh: the run
    of the build at hand.
    """

    card: Card
    chapter: Chapter
    page: str | None
    recorded: Record | None
    fresh: Record | None

    @property
    def shown(self) -> Record | None:
        """The run whose verdicts the book quotes: the recorded one, else the fresh one."""
        return self.recorded or self.fresh

    def counts(self) -> dict[str, int]:
        """How many claims got each verdict in the shown run; all zero without a run."""
        given = [answer.verdict for answer in self.shown.answers] if self.shown else []
        return {verdict: given.count(verdict) for verdict in VERDICTS}


def prose_dir() -> Path:
    """Folder of the book's own text."""
    return paths.project_root() / "book"


@cache
def _read_chapters(path: Path) -> tuple[Chapter, ...]:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(
        Chapter(number, e["name"], e["title"], e["short"], tuple(e["papers"]))
        for number, e in enumerate(entries, start=1)
    )


def chapters() -> tuple[Chapter, ...]:
    """The fourteen chapters in reading order (book/chapters.yml)."""
    return _read_chapters(prose_dir() / "chapters.yml")


def page_of(out_dir: Path, chapter: str, slug: str) -> str | None:
    """Docname of a paper's notebook in an assembled book, None if it has no page there."""
    docname = f"notebooks/{chapter}/{slug}"
    found = any((out_dir / f"{docname}{suffix}").exists() for suffix in (".ipynb", ".md"))
    return docname if found else None


def papers(out_dir: Path, fresh: Mapping[str, Record] | None = None) -> list[Paper]:
    """All papers in reading order; out_dir is an assembled book, fresh its own runs by slug.

    A paper whose card exists but which no chapter lists is left out: a test forbids that state.
    """
    fresh = fresh or {}
    return [
        Paper(
            card=cards.load(slug),
            chapter=chapter,
            page=page_of(out_dir, chapter.name, slug),
            recorded=records.largest(slug),
            fresh=fresh.get(slug),
        )
        for chapter in chapters()
        for slug in chapter.papers
    ]


def code_cells(notebook: str) -> list[str]:
    """Code of the cells of a notebook in MyST text form, directive options removed."""
    blocks = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", notebook, re.S | re.M)
    return [re.sub(r"\A(?::[^\n]*\n)+", "", block) for block in blocks]


def names_used(notebook: str) -> set[str]:
    """Dotted names of the library that a notebook's code mentions, as it spells them.

    `from compactnets import data` and `data.load(...)` give compactnets.data.load. Cells that
    are not plain Python (shell escapes, magics) are passed over.
    """
    used: set[str] = set()
    aliases: dict[str, str] = {}
    trees = []
    for cell in code_cells(notebook):
        try:
            trees.append(ast.parse(cell))
        except SyntaxError:
            continue
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("compactnets"):
            for name in node.names:
                aliases[name.asname or name.name] = f"{node.module}.{name.name}"
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.startswith("compactnets"):
                    aliases[name.asname or "compactnets"] = (
                        name.asname and name.name
                    ) or "compactnets"
    for node in (node for tree in trees for node in ast.walk(tree)):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in aliases:
            used.add(".".join([aliases[node.id], *reversed(parts)]))
    return used | set(aliases.values())
