"""How to cite: BibTeX of every paper, and a block that names both the paper and its page."""

import re
import unicodedata
from collections.abc import Sequence

from compactnets import __version__
from compactnets.book.pages_outline import Paper
from compactnets.study.card import Card

AUTHOR = "{The Compact Networks contributors}"
BOOK = "Compact Networks"
HOME = "https://github.com/compact-networks/compact-networks"
YEAR = 2026


def key(card: Card) -> str:
    """Citation key: first author's last name, year, slug; plain ASCII."""
    name = card.authors[0].split()[-1] if card.authors else card.slug
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return f"{re.sub('[^a-z]', '', plain) or 'anon'}{card.year}-{card.slug}"


def _escape(text: str) -> str:
    return re.sub(r"([&%#_])", r"\\\1", text)


def _entry(kind: str, name: str, fields: dict[str, str | int | None]) -> str:
    lines = [f"  {field} = {{{value}}}," for field, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{name},", *lines, "}"])


def paper_bibtex(card: Card) -> str:
    """The paper as its card knows it; what is not known is left out."""
    fields = {
        "title": f"{{{_escape(card.title)}}}",
        "author": " and ".join(_escape(a) for a in card.authors),
        "year": card.year,
        "note": _escape(card.venue) if card.venue else None,
        "eprint": card.arxiv,
        "archiveprefix": "arXiv" if card.arxiv else None,
        "url": f"https://arxiv.org/abs/{card.arxiv}" if card.arxiv else None,
        "doi": card.doi,
    }
    return _entry("misc", key(card), fields)


def page_bibtex(paper: Paper) -> str:
    """The page of this book about a paper, with the version it belongs to."""
    title = f"{{{_escape(paper.card.title)}}}: reproduction and verdicts"
    fields = {
        "title": title,
        "author": AUTHOR,
        "booktitle": BOOK,
        "year": YEAR,
        "edition": f"version {__version__}",
        "chapter": paper.chapter.number,
        "url": HOME,
    }
    return _entry("incollection", f"compactnets-{paper.card.slug}", fields)


def book_bibtex() -> str:
    """The book as a whole."""
    fields = {"title": BOOK, "author": AUTHOR, "year": YEAR, "edition": __version__, "url": HOME}
    return _entry("misc", "compactnets", {**fields, "edition": f"version {__version__}"})


def cite_block(paper: Paper) -> str:
    """Markdown block for one page: cite the paper, and the page for what was measured here."""
    return "\n".join(
        [
            "```bibtex",
            paper_bibtex(paper.card),
            "",
            page_bibtex(paper),
            "```",
        ]
    )


def bibliography(papers: Sequence[Paper]) -> str:
    """Sections of the bibliography page: one cite-as block per written page, then all papers."""
    written = [p for p in papers if p.page]
    blocks = [f"### {p.card.short}\n\n{cite_block(p)}" for p in written]
    if not blocks:
        blocks = ["No page of a paper is part of this build."]
    book = f"```bibtex\n{book_bibtex()}\n```"
    return "\n\n".join(["### The book", book, *blocks]) + "\n"
