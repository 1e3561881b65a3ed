"""Everything on the book's own pages that is computed: score board, errata, figures, lists.

The pipeline assembles a book in a folder and then calls write_all on it:

    out_dir/_config.yml                      copied from the checkout
    out_dir/*.md, chapters/, _static/, *.bib copied from book/
    out_dir/notebooks/<chapter>/<slug>.ipynb the executed notebooks
    write_all(out_dir)                       adds _toc.yml, _generated/, api/, papers.bib, MathJax
    jupyter-book build out_dir               never executes

Prose stays free of numbers: it includes `_generated/<name>.md`. A file is written only if its
text has changed, so that an unchanged book is not rendered again.
"""

import importlib.util
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from compactnets import paths
from compactnets.book import pages_api as api
from compactnets.book import pages_board as board
from compactnets.book import pages_chapters as lists
from compactnets.book import pages_cite as cite
from compactnets.book import pages_contests as contests
from compactnets.book import pages_figures as figures
from compactnets.book import pages_kernels as kernels
from compactnets.book import pages_outline as outline
from compactnets.book import pages_roofline as roofline
from compactnets.book import pages_tricks as tricks
from compactnets.study.record import Record

MATHJAX_PACKAGE = "sphinx-mathjax-offline"  # ships MathJax 3; the name is not an identifier
KERNEL_PAGES = (
    "one-bit", "int8", "sparse", "nm", "adder", "winograd", "shift-dct", "networks"
)  # fmt: skip
MATHJAX = "tex-svg-full.js"  # every TeX package and all glyphs in one file


def copy_prose(out_dir: Path) -> None:
    """Copies book/ and _config.yml into an assembled book, unchanged files left alone."""
    source = outline.prose_dir()
    files = [(f, f.relative_to(source)) for f in sorted(source.rglob("*")) if f.is_file()]
    files.append((paths.project_root() / "_config.yml", Path("_config.yml")))
    for file, relative in files:
        target = out_dir / relative
        if not target.exists() or target.read_bytes() != file.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def write_all(out_dir: Path, fresh: Mapping[str, Record] | None = None) -> None:
    """Writes every computed part of the book into an assembled copy of it.

    fresh: the records of the build's own runs by slug; committed records are read from
    data/results. Files that already hold the right text keep their time stamps.
    """
    out_dir = Path(out_dir)
    papers, chapters = outline.papers(out_dir, fresh), outline.chapters()
    parts = {
        "programme": lists.raw(figures.programme(papers, chapters)),
        "intervals": lists.intervals(figures.intervals(papers)),
        "standing": lists.standing(papers, chapters),
        "scoreboard": lists.raw(board.board(papers, chapters)),
        "errata": lists.errata(papers),
        "cite": cite.bibliography(papers),
        "xnor": lists.raw(figures.xnor_picture()),
        "training-table": kernels.tables(paths.results_dir() / "train"),
        "chapters": lists.chapter_list(papers, chapters),
    }
    parts |= _kernel_parts()
    parts |= {f"chapter-{c.name}": lists.chapter_map(papers, c) for c in chapters}
    for name, text in parts.items():
        _write(out_dir / "_generated" / f"{name}.md", text)
    _write(out_dir / "papers.bib", "\n\n".join(cite.paper_bibtex(p.card) for p in papers) + "\n")
    packages = _write_reference(out_dir, papers)
    _write(out_dir / "_toc.yml", toc({p.page for p in papers if p.page}, packages))
    _copy_mathjax(out_dir / "_static" / "mathjax")


def _kernel_parts() -> dict[str, str]:
    """Tables and pictures of the kernels' pages; a sentence where nothing has been recorded."""
    recorded = contests.contests(paths.results_dir() / "kernels")
    prose = "".join(f.read_text("utf-8") for f in (outline.prose_dir() / "kernels").glob("*.md"))
    parts = dict.fromkeys(re.findall(r"_generated/(kernel-\w+)\.md", prose), contests.NOTHING)
    parts |= dict.fromkeys(re.findall(r"_generated/(roofline-\w+)\.md", prose), lists.raw(""))
    for name, content in recorded.items():
        parts[f"kernel-{name}"] = contests.section(content)
        parts[f"roofline-{name}"] = lists.raw(roofline.roofline(content) or "")
    parts |= {f"picture-{name}": lists.raw(draw()) for name, draw in tricks.PICTURES.items()}
    return parts | {"best-peers": lists.raw(roofline.best_peers(recorded) or "")}


def toc(pages: set[str], packages: Sequence[str] = ()) -> str:
    """The table of contents: all prose, and under each chapter the notebooks that exist.

    pages: docnames of notebooks present; packages: the reference's pages. Text of _toc.yml.
    """
    parts = []
    for chapter in outline.chapters():
        docnames = [f"notebooks/{chapter.name}/{slug}" for slug in chapter.papers]
        sections = [{"file": name} for name in docnames if name in pages]
        entry: dict = {"file": f"chapters/{chapter.name}"}
        parts.append(entry | ({"sections": sections} if sections else {}))
    front = [{"file": name} for name in ("how-to-read", "protocol", "scoreboard")]
    below = [{"file": f"kernels/{name}"} for name in KERNEL_PAGES]
    reference: list[dict] = [{"file": "kernels", "sections": below}]
    reference += [{"file": name} for name in ("errata", "glossary")]
    sections = [{"file": f"api/{package}"} for package in packages]
    reference.append({"file": "api/index"} | ({"sections": sections} if sections else {}))
    reference += [{"file": name} for name in ("bibliography", "contributing")]
    tree = {
        "format": "jb-book",
        "root": "index",
        "parts": [
            {"caption": "Begin here", "chapters": front},
            {"caption": "Papers", "chapters": parts},
            {"caption": "Reference", "chapters": reference},
        ],
    }
    head = "# Written by compactnets.book.pages.toc; a test keeps the committed copy in step.\n"
    return head + yaml.safe_dump(tree, sort_keys=False)


def committed_toc() -> str:
    """The table of contents of the checkout: prose and committed notebooks, no reference pages."""
    notebooks = paths.notebooks_dir()
    found = {
        f"notebooks/{f.relative_to(notebooks).with_suffix('').as_posix()}"
        for f in notebooks.rglob("*.md")
    }
    return toc(found)


def _write_reference(out_dir: Path, papers: list[outline.Paper]) -> list[str]:
    sources = {f.stem: f.read_text(encoding="utf-8") for f in paths.notebooks_dir().rglob("*.md")}
    known, uses = api.modules(), api.used_by(sources)
    pages = {p.card.slug: p.page for p in papers if p.page}
    index, packages = api.index_page(known)
    _write(out_dir / "_generated" / "api.md", index)
    for name in packages:
        text = api.package_page(f"{api.ROOT}.{name}", known, uses, pages)
        _write(out_dir / "api" / f"{name}.md", text)
    return packages


def _copy_mathjax(folder: Path) -> None:
    """Puts MathJax beside the pages; RuntimeError with the cure if its package is missing."""
    found = importlib.util.find_spec(MATHJAX_PACKAGE)
    if found is None or found.origin is None:
        raise RuntimeError(
            f"the package {MATHJAX_PACKAGE} is not installed, formulas could not be drawn offline: "
            "install the extra 'book' (or run `make book`, which does)"
        )
    source = Path(found.origin).parent / "static" / "mathjax" / MATHJAX
    target = folder / MATHJAX
    if not target.exists() or target.stat().st_size != source.stat().st_size:
        with paths.write_atomically(target) as temporary:
            shutil.copyfile(source, temporary)


def _write(path: Path, text: str) -> None:
    """Writes a text file atomically unless it already says the same."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    with paths.write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
