"""What a cell shows: HTML in a notebook, plain text in a terminal, from one description.

Colors are inherited (pages have a light and a dark mode); the few that are set carry their own
background. Nothing outside the page is loaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import zip_longest
from textwrap import wrap

from compactnets import cells
from compactnets.stats import Verdict

SIGNS: dict[str, str] = {"holds": "✓", "fails": "✗", "undecided": "?", "not tested": "–"}
# White text on each of these has a contrast of at least 4.5 : 1.
BADGE_COLORS: dict[str, str] = {
    "holds": "#1a7f37",
    "fails": "#b3261e",
    "undecided": "#8a5a00",
    "not tested": "#5f6b7a",
}
_LINE = "1px solid rgba(128,128,128,.55)"


@dataclass(frozen=True)
class Text:
    """A piece of text in its two forms; str() is the plain one."""

    html: str
    plain: str

    def __str__(self) -> str:
        return self.plain

    def __add__(self, other: "str | Text") -> "Text":
        other = text(other)
        return Text(self.html + other.html, self.plain + other.plain)


def text(value: object) -> Text:
    """Any value as Text; what is not Text yet is escaped."""
    return value if isinstance(value, Text) else Text(escape(str(value)), str(value))


def joined(parts: Iterable[object], separator: str = " · ") -> Text:
    """The non-empty parts with a separator between them."""
    pieces = [p for p in map(text, parts) if p.plain]
    return Text(separator.join(p.html for p in pieces), separator.join(p.plain for p in pieces))


def bold(value: object) -> Text:
    piece = text(value)
    return Text(f"<strong>{piece.html}</strong>", piece.plain)


def link(label: str, url: str) -> Text:
    """A link; its color is inherited, so that it can be read on any background."""
    style = "color:inherit;text-decoration:underline"
    return Text(f'<a href="{escape(url)}" style="{style}">{escape(label)}</a>', f"{label} ({url})")


def badge(verdict: Verdict, label: str | None = None) -> Text:
    """A small colored label with the verdict's sign, readable in light and dark mode."""
    label = label or verdict
    style = (
        f"background:{BADGE_COLORS[verdict]};color:#fff;border-radius:.6em;padding:.1em .6em;"
        "font-size:.85em;font-weight:600;white-space:nowrap"
    )
    return Text(
        f'<span style="{style}">{SIGNS[verdict]} {escape(label)}</span>',
        f"[{SIGNS[verdict]} {label}]",
    )


@dataclass(frozen=True)
class Shown:
    """Something to display; Jupyter takes the HTML, repr() gives the plain text."""

    html: str
    plain: str

    def __repr__(self) -> str:
        return self.plain

    def __add__(self, other: "Shown") -> "Shown":
        return Shown(self.html + other.html, f"{self.plain}\n{other.plain}")

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {
            "text/html": f'<div class="compactnets">{self.html}</div>',
            "text/plain": self.plain,
        }


def line(*parts: object) -> Shown:
    """One line of text, its parts separated by spaces."""
    piece = joined(parts, " ")
    return Shown(f'<div style="margin:.25em 0">{piece.html}</div>', piece.plain)


def warning(*parts: object) -> Shown:
    """A line that must not be overlooked."""
    piece = joined(parts, " ")
    style = "margin:.5em 0;padding:.35em .8em;border-left:.3em solid #d29922"
    html = f'<div role="note" style="{style}"><strong>Note.</strong> {piece.html}</div>'
    return Shown(html, f"NOTE: {piece.plain}")


@dataclass
class Grid:
    """A table: headings, rows of cells, the columns to align right, notes below it.

    Sources become footnotes: note() returns the marker to put behind a cell.
    """

    caption: object
    columns: Sequence[object]
    rows: list[list[object]] = field(default_factory=list)
    right: frozenset[int] = frozenset()
    notes: list[str] = field(default_factory=list)
    below: list[object] = field(default_factory=list)

    def note(self, words: str) -> Text:
        """Marker of the footnote with these words; equal words share one."""
        if words not in self.notes:
            self.notes.append(words)
        mark = _letters(self.notes.index(words))
        return Text(f"<sup>{mark}</sup>", f" [{mark}]")

    def shown(self) -> Shown:
        """The table as HTML that scrolls sideways when it is too wide, and as aligned text."""
        return Shown(self._html(), self._plain())

    def _html(self) -> str:
        caption = text(self.caption)
        head = "".join(self._cell("th", j, c, ' scope="col"') for j, c in enumerate(self.columns))
        body = "".join(
            f"<tr>{''.join(self._cell('td', j, c) for j, c in enumerate(row))}</tr>"
            for row in self.rows
        )
        return (
            f'<div role="region" tabindex="0" aria-label="{escape(caption.plain)}" '
            'style="overflow-x:auto;margin:.6em 0">'
            '<table class="dataframe" style="border-collapse:collapse;margin:0">'
            '<caption style="caption-side:top;text-align:left;color:inherit">'
            f"{caption.html}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{self._html_notes()}</div>"
        )

    def _cell(self, tag: str, column: int, content: object, extra: str = "") -> str:
        align = "right" if column in self.right else "left"
        wrap = ";white-space:nowrap" if column in self.right and tag == "td" else ""
        wrap += ";min-width:7.5em" if column == 0 else ""
        style = f"text-align:{align};padding:.25em .7em;vertical-align:top;border-bottom:{_LINE}"
        return f'<{tag}{extra} style="{style}{wrap}">{text(content).html}</{tag}>'

    def _html_notes(self) -> str:
        notes = [f"<sup>{_letters(i)}</sup> {escape(n)}" for i, n in enumerate(self.notes)]
        lines = notes + [text(b).html for b in self.below]
        return "".join(f'<div style="font-size:.85em;margin:.15em 0">{n}</div>' for n in lines)

    def _plain(self) -> str:
        rows = [[wrap(str(text(c)), 60) or [""] for c in row] for row in self._all_rows()]
        widths = [max(len(one) for cell in col for one in cell) for col in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            for pieces in zip_longest(*row, fillvalue=""):
                lines.append("  ".join(map(self._pad, range(len(widths)), pieces, widths)))
            if row is rows[0]:
                lines.append("  ".join("-" * w for w in widths))
        notes = [f"[{_letters(i)}] {n}" for i, n in enumerate(self.notes)]
        return "\n".join(
            [str(text(self.caption)), *(one.rstrip() for one in lines), *notes]
            + [str(text(b)) for b in self.below]
        )

    def _all_rows(self) -> list[list[object]]:
        return [list(self.columns), *self.rows]

    def _pad(self, column: int, content: str, width: int) -> str:
        return content.rjust(width) if column in self.right else content.ljust(width)


def _letters(index: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa: footnote marks that cannot be mistaken for powers."""
    prefix = _letters(index // 26 - 1) if index >= 26 else ""
    return prefix + chr(ord("a") + index % 26)


def show(shown: Shown) -> None:
    """Displays in a notebook, prints in a script."""
    if cells.in_notebook():
        from IPython.display import display

        display(shown)
    else:
        print(shown.plain)
