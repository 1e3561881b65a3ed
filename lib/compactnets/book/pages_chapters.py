"""Lists drawn from cards and records: what is written, chapter maps, errata."""

import re
from collections.abc import Sequence

from compactnets.book.pages_board import headline_text
from compactnets.book.pages_outline import VERDICTS, Chapter, Paper
from compactnets.study.card import Card

# What a tier of the programme means to a reader.
TIERS = {
    1: "reproducible small",
    2: "reproducible in miniature",
    3: "one aspect only",
}


def raw(html: str) -> str:
    """HTML as a MyST block that Sphinx passes through; nothing for no HTML."""
    return f"```{{raw}} html\n{html}\n```\n" if html else ""


def plural(count: int, one: str, many: str | None = None) -> str:
    """1 page, 2 pages."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def plain(text: str) -> str:
    """A card's plain text as Markdown that shows it unchanged."""
    return re.sub(r"([\\`*_$<>\[\]|{}~])", r"\\\1", text)


def intervals(svg: str | None) -> str:
    """The figure of intervals, or a sentence that says why there is none yet."""
    if svg is None:
        return "*No recorded run over at least two seeds is part of this build.*\n"
    return raw(svg)


def standing(papers: Sequence[Paper], chapters: Sequence[Chapter]) -> str:
    """The state of the programme in two sentences, counted."""
    written = [p for p in papers if p.card.status == "written"]
    run = [p for p in papers if p.shown]
    counts = {v: sum(p.counts()[v] for p in run) for v in VERDICTS}
    first = (
        f"As of this build, **{len(written)} of {len(papers)} papers** in {len(chapters)} chapters "
        f"{'has its' if len(written) == 1 else 'have their'} page; the others have a card and are "
        "planned."
    )
    if not run:
        return f"{first} No run is recorded yet, so no claim has a verdict.\n"
    verdicts = ", ".join(f"{v}: {n}" for v, n in counts.items() if n)
    total = plural(sum(counts.values()), "claim")
    return f"{first} The runs behind this build judged {total} ({verdicts}).\n"


def chapter_list(papers: Sequence[Paper], chapters: Sequence[Chapter]) -> str:
    """Table of the chapters: number, title, how many papers, how many written."""
    rows = ["| | chapter | papers | written |", "|---:|---|---:|---:|"]
    for chapter in chapters:
        inside = [p for p in papers if p.chapter == chapter]
        written = sum(p.card.status == "written" for p in inside)
        link = f"[{chapter.title}](chapters/{chapter.name}.md)"
        rows.append(f"| {chapter.number} | {link} | {len(inside)} | {written or ''} |")
    return "\n".join(rows) + "\n"


def chapter_map(papers: Sequence[Paper], chapter: Chapter) -> str:
    """A chapter's papers in reading order: what each contributes, what it promises, its state."""
    inside = [p for p in papers if p.chapter == chapter]
    written = sum(p.card.status == "written" for p in inside)
    lines = [f"{plural(len(inside), 'paper')}, {written or 'none'} written so far.", ""]
    for paper in inside:
        lines += _entry(paper)
    return "\n".join(lines) + "\n"


def _entry(paper: Paper) -> list[str]:
    card = paper.card
    name = f"[{card.short}](../{paper.page})" if paper.page else card.short
    counts = ", ".join(f"{v}: {n}" for v, n in paper.counts().items() if n)
    state = f"**{card.status}**" if card.status == "written" else card.status
    facts = [str(card.year), card.venue or "", TIERS[card.tier], state, counts]
    lines = [f"### {name}", "", f"*{plain(card.title)}*", "", f"{_facts(facts)}{_links(card)}", ""]
    lines += [plain(card.summary), ""]
    if card.headline:
        lines += [f"Promises: {plain(headline_text(card.headline[0]))}.", ""]
    return lines


def _facts(facts: list[str]) -> str:
    return " · ".join(fact for fact in facts if fact)


def _links(card: Card) -> str:
    links = []
    if card.arxiv:
        links.append(f"[arXiv:{card.arxiv}](https://arxiv.org/abs/{card.arxiv})")
    if card.code:
        links.append(f"[code](https://github.com/{card.code})")
    return "".join(f" · {link}" for link in links)


def errata(papers: Sequence[Paper]) -> str:
    """All known differences between papers and their released code, by paper."""
    lines = []
    for paper in papers:
        card = paper.card
        if not card.errata:
            continue
        name = f"[{card.short}]({paper.page})" if paper.page else card.short
        lines += [f"## {name}", "", f"*{plain(card.title)}*{_links(card)}", ""]
        for number, entry in enumerate(card.errata, start=1):
            touches = f"; touches claim **{entry.claim}**" if entry.claim else ""
            lines.append(f"{number}. {plain(entry.what)}")
            lines.append(f"   : *Effect.* {plain(entry.effect)}")
            lines.append(f"   : *Where.* `{entry.where}`{touches}.")
            lines.append("")
    return "\n".join(lines) + "\n" if lines else "No card lists an erratum yet.\n"
