"""Pictures of the book's own pages, computed from cards and records, as inline SVG.

Colors come from classes of book.css, so that a picture follows the page from light to dark.
"""

from collections.abc import Sequence
from html import escape

import torch

from compactnets.book.pages_outline import Chapter, Paper
from compactnets.seeds import generator
from compactnets.study.record import Part

CELL = 22  # pixels of the programme's squares, gap included


def tag(name: str, *content: str, **attributes: object) -> str:
    """One SVG or HTML element; attribute names take - for _ (class_ for class)."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{pairs}>{''.join(content)}</{name}>"


def label(x: float, y: float, text: str, **attributes: object) -> str:
    """Text at a point, escaped."""
    return tag("text", escape(text), x=x, y=y, **attributes)


def drawing(width: float, height: float, title: str, *content: str) -> str:
    """A scalable picture with a title that screen readers speak."""
    return tag(
        "svg",
        tag("title", escape(title)),
        *content,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        class_="cn-figure",
        style=f"max-width:{width:g}px",
        xmlns="http://www.w3.org/2000/svg",
    )


def spoken(paper: Paper) -> str:
    """What a paper's mark says when pointed at."""
    counts = ", ".join(f"{verdict}: {n}" for verdict, n in paper.counts().items() if n)
    return f"{paper.card.short} ({counts or paper.card.status})"


def _mark(paper: Paper, x: float, y: float) -> str:
    """A square filled, from the bottom up, in the proportions of the paper's verdicts."""
    side, counts, parts = CELL - 5, paper.counts(), []
    level = y + side
    for verdict, count in counts.items():
        height = side * count / max(1, sum(counts.values()))
        level -= height
        kind = f"cn-mark cn-{verdict.replace(' ', '-')}"
        if count:
            parts.append(tag("rect", x=x, y=level, width=side, height=height, class_=kind))
    frame = f"cn-mark cn-frame cn-{'run' if parts else paper.card.status}"
    parts.append(tag("rect", x=x, y=y, width=side, height=side, rx=2, class_=frame))
    mark = tag("g", tag("title", escape(spoken(paper))), *parts)
    return tag("a", mark, href=f"{paper.page}.html") if paper.page else mark


def programme(papers: Sequence[Paper], chapters: Sequence[Chapter]) -> str:
    """One row per chapter, one square per paper, colored by what is known of it today."""
    left, rows = 214, []
    for row, chapter in enumerate(chapters):
        y = 4 + row * CELL
        name = label(left - 8, y + 13, chapter.short, text_anchor="end", class_="cn-text")
        rows.append(tag("a", name, href=f"chapters/{chapter.name}.html"))
        members = [p for p in papers if p.chapter == chapter]
        rows += [_mark(paper, left + column * CELL, y) for column, paper in enumerate(members)]
    widest = max(len(chapter.papers) for chapter in chapters)
    height = 4 + CELL * len(chapters)
    title = f"The book's {len(papers)} papers by chapter"
    return drawing(left + widest * CELL, height, title, *rows)


def _interval(part: Part, margin: float) -> tuple[float, float, float] | None:
    """Mean, low and high above the margin, in half-widths of the interval; None if unbounded."""
    if part.low is None or part.high is None or part.high <= part.low:
        return None
    half = (part.high - part.low) / 2
    return tuple((v - margin) / half for v in (part.mean, part.low, part.high))  # type: ignore


def intervals(papers: Sequence[Paper]) -> str | None:
    """Every statistical comparison of the shown runs as a 95 % interval against its margin.

    The axis counts half-widths, so that comparisons in different units share it; an interval
    reaches from mean - 1 to mean + 1 and decides its claim if it stays clear of 0. None if no
    run holds a comparison over at least two seeds.
    """
    lines = []
    for paper in papers:
        for answer in paper.shown.answers if paper.shown else []:
            for part in answer.parts:
                where = _interval(part, answer.margin or 0.0)
                if where is not None:
                    name = f"{paper.card.short} {answer.claim}: {part.label}"
                    lines.append((name, part.verdict, where))
    if not lines:
        return None
    left, right, step = 10, 430, 38
    reach = min(12.0, max(abs(v) for *_, where in lines for v in where) * 1.05)

    def at(value: float) -> float:
        share = (max(-reach, min(reach, value)) + reach) / (2 * reach)
        return left + share * (right - left)

    bottom = 8 + step * len(lines)
    marks = [tag("line", x1=at(0), x2=at(0), y1=2, y2=bottom, class_="cn-axis")]
    for row, (name, verdict, (mean, low, high)) in enumerate(lines):
        y, kind = 28 + row * step, verdict.replace(" ", "-")
        short = name if len(name) < 58 else name[:56] + "…"
        marks.append(label(left, y - 12, f"{short}: {verdict}", class_="cn-text"))
        marks.append(tag("line", x1=at(low), x2=at(high), y1=y, y2=y, class_=f"cn-bar cn-{kind}"))
        marks.append(tag("circle", cx=at(mean), cy=y, r=4.5, class_=f"cn-dot cn-{kind}"))
    for x, note, anchor in ((left, "← against the claim", "start"), (right, "for it →", "end")):
        marks.append(label(x, bottom + 16, note, text_anchor=anchor, class_="cn-note"))
    return drawing(right + 10, bottom + 24, "Comparisons with their intervals", *marks)


def _grid(values: list[list[int]], x: float, y: float, caption: str, ones: str) -> list[str]:
    """A small table of 0 and 1, drawn as filled and empty squares with their digits."""
    parts = [label(x + 33, y - 8, caption, text_anchor="middle", class_="cn-text")]
    for i, row in enumerate(values):
        for j, bit in enumerate(row):
            left, top = x + 22 * j, y + 22 * i
            kind = ones if bit else "cn-zero"
            square = tag("rect", x=left, y=top, width=20, height=20, rx=2, class_=f"cn-bit {kind}")
            digit = label(left + 10, top + 14.5, str(bit), text_anchor="middle", class_="cn-digit")
            parts += [square, digit]
    return parts


def xnor_picture(seed: int = 3) -> str:
    """One output of a 3x3 one-bit convolution, computed twice: with signs and with bits."""
    draw = generator(seed, "xnor picture")
    a, w = (torch.randint(2, (3, 3), generator=draw) for _ in range(2))
    differ = a ^ w
    signs = int(((1 - 2 * a) * (1 - 2 * w)).sum())
    ones = int(differ.sum())
    if signs != 9 - 2 * ones:
        raise ArithmeticError(f"signs give {signs}, bits give {9 - 2 * ones}")
    parts = _grid(a.tolist(), 10, 30, "activations", "cn-one")
    parts.append(label(97, 68, "xor", text_anchor="middle", class_="cn-text"))
    parts += _grid(w.tolist(), 118, 30, "weights", "cn-one")
    parts.append(label(203, 68, "=", text_anchor="middle", class_="cn-text"))
    parts += _grid(differ.tolist(), 224, 30, "differ", "cn-differ")
    parts.append(label(312, 56, f"popcount = {ones}", class_="cn-text"))
    parts.append(label(312, 82, f"9 − 2 · {ones} = {signs}", class_="cn-text cn-strong"))
    caption = f"sum of products of the signs: {signs}; squares hold 0 for +1 and 1 for −1"
    parts.append(label(10, 118, caption, class_="cn-note"))
    return drawing(430, 126, "A 3x3 one-bit product by xor and population count", *parts)
