"""A book of a few small pages in a temporary folder, for the tests of the pipeline."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEADER = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3, language: python}
---
"""


class ToyBook:
    """Its checkout in `root`, its build folder in `build`; the environment points to both."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.build, self.data = folder / "toy", folder / "build", folder / "data"
        for part in ("data/papers", "data/results", "lib/toynets", "notebooks/toys", "book"):
            (self.root / part).mkdir(parents=True)
        self.data.mkdir()
        shutil.copyfile(ROOT / "Snakefile", self.root / "Snakefile")
        shutil.copytree(ROOT / "workflow", self.root / "workflow")
        monkeypatch.setenv("COMPACTNETS_HOME", str(self.root))
        monkeypatch.setenv("COMPACTNETS_BUILD", str(self.build))
        monkeypatch.setenv("COMPACTNETS_DATA", str(self.data))
        monkeypatch.setenv("COMPACTNETS_CACHE", str(folder / "cache"))
        self.module("__init__", "from toynets.left import left\nfrom toynets.right import right\n")
        self.module("left", 'def left():\n    return "left 1"\n')
        self.module("right", 'def right():\n    return "right 1"\n')
        self.page("left", "from toynets import left\nprint(left(), profile)")
        self.page("right", "from toynets import right\nprint(right(), profile)")

    def module(self, name: str, source: str) -> Path:
        path = self.root / "lib" / "toynets" / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        return path

    def page(self, slug: str, *cells: str, prose: str = "Some prose.", front: str = "") -> Path:
        """A notebook with a parameters cell, then these code cells with prose between them."""
        header = HEADER.replace("\n---\n", f"\n{front}\n---\n") if front else HEADER
        text = header + f"# The page {slug}\n\n{prose}\n\n"
        text += _code('profile = "quick"  # how large', ":tags: [parameters]\n")
        text += "More prose.\n\n".join(_code(cell) for cell in cells)
        path = self.root / "notebooks" / "toys" / f"{slug}.md"
        path.write_text(text, encoding="utf-8")
        return path


def _code(source: str, options: str = "") -> str:
    return f"```{{code-cell}} ipython3\n{options}{source}\n```\n\n"


CARD = """slug: {slug}
title: The page {slug}
short: {slug}
year: 2026
chapter: toys
tier: 1
summary: A page for tests.
"""
CONFIG = """title: Toys
only_build_toc_files: true
execute: {execute_notebooks: "off"}
"""
RECORD = {
    "schema_version": 1,
    "run_id": "toy",
    "started": "2026-01-01T00:00:00+00:00",
    "wall_seconds": 1.0,
    "training_seconds": 0.0,
    "seeds": [0],
    "parameters": {},
    "data": [],
    "test_reads": [],
    "observations": [],
    "answers": [],
    "provenance": {
        "revision": None,
        "clean": None,
        "python": "3",
        "packages": {},
        "platform": "toy",
        "cpu": "toy",
        "gpu": None,
        "threads": 1,
        "precision": "fp32",
        "kernels": "reference",
    },
}


def write_record(slug: str) -> str:
    """A cell that writes the record of a page without observations."""
    return (
        "import json, os, pathlib\n"
        f"record = {RECORD!r} | {{'slug': {slug!r}, 'profile': profile}}\n"
        "pathlib.Path(os.environ['COMPACTNETS_RECORD']).write_text(json.dumps(record))"
    )


def add_book(toy: ToyBook) -> None:
    """Cards, prose and settings, so that a site can be made of the toy's pages."""
    for slug in ("left", "right"):
        (toy.root / "data" / "papers" / f"{slug}.yml").write_text(CARD.format(slug=slug))
    (toy.root / "_config.yml").write_text(CONFIG)
    book = toy.root / "book"
    (book / "chapters").mkdir()
    (book / "chapters" / "toys.md").write_text("# Toys\n")
    for name in ("index", "how-to-read", "protocol", "scoreboard", "kernels", "errata"):
        (book / f"{name}.md").write_text(f"# About {name}\n")
    (book / "chapters.yml").write_text(
        "- {name: toys, title: Toys, short: Toys, papers: [left, right]}\n"
    )
