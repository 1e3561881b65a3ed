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
