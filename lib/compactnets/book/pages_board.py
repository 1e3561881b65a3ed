"""The score board: every paper of the programme, one row each, complete without JavaScript."""

from collections.abc import Mapping, Sequence
from html import escape

from compactnets import stats
from compactnets.book.pages_figures import tag
from compactnets.book.pages_outline import VERDICTS, Chapter, Paper
from compactnets.study.card import Headline, Observed
from compactnets.study.observations import Label
from compactnets.study.record import Observation, Record

COLUMNS = (
    # name, kind of order ("text", "number"), what the heading explains when pointed at
    ("Chapter", "number", "chapter of the book"),
    ("Paper", "text", "short name; the link leads to its page"),
    ("Year", "number", "year of the first public version"),
    ("Status", "text", "written: the page exists; planned: it does not yet"),
    ("Verdicts", "number", "claims that hold, fail, are undecided, were not tested"),
    ("Paper's headline", "text", "what the paper promises, in its own setting"),
    ("Obtained here", "text", "this book's figure, on this book's data: not the same setting"),
    ("Profile", "text", "size of the run the row quotes"),
    ("Data", "text", "data sets of that run"),
    ("Hardware", "text", "processor of that run"),
    ("Time", "number", "wall time of that run"),
)
MOST_ROWS = 3  # of one method in a cell of the board
SIGNS = {"holds": "✓", "fails": "✗", "undecided": "?", "not tested": "–"}


def headline_text(line: Headline) -> str:
    """A headline figure in words: value with unit, what it measures, where."""
    value = "" if line.value is None else f"{line.value:g}" if _number(line.value) else line.value
    unit = {"%": " %", "x": "×"}.get(line.unit or "", f" {line.unit}" if line.unit else "")
    where = f", {line.setting}" if line.setting else ""
    return f"{value}{unit} {line.metric or line.text}{where}".strip()


def _number(value: object) -> bool:
    return isinstance(value, int | float)


def answer_to(headline: Observed, record: Record) -> str | None:
    """The run's figure for a headline that says where to look; None if the run does not have it."""

    def by_seed(labels: Mapping[str, Label]) -> dict[int | None, float]:
        rows = [o for o in record.observations if o.metric == headline.metric]
        return {o.seed: o.value for o in rows if labels.items() <= o.labels.items()}

    values = by_seed(headline.labels)
    if not values:
        return None
    unit = next(o.unit for o in record.observations if o.metric == headline.metric)
    words = f" {unit or ''} {headline.metric}".replace("  ", " ")
    if headline.over is None:
        return f"{stats.mean_interval([*values.values()])}{words}"
    base = by_seed(headline.over)
    common = [seed for seed in values if seed in base]
    gains = [values[seed] - base[seed] for seed in common]
    return f"{stats.mean_interval(gains)}{words} gained" if gains else None


def obtained(record: Record, method: str) -> str | None:
    """The run's own figures for the method: means with intervals over seeds of one metric.

    The notebook may name them (parameters.headline: metric and labels). Otherwise they are those
    of the first metric observed on rows with a label that contains the paper's short name; rows
    that differ in another label (an optimizer, a width) are shown apart, never averaged. None if
    there is no such row, or more than MOST_ROWS.
    """
    wanted = record.parameters.get("headline")
    if isinstance(wanted, dict):
        labels = dict(wanted.get("labels") or {}).items()
        chosen = [o for o in record.observations if labels <= o.labels.items()]
        metric = wanted.get("metric")
    else:
        chosen = [
            o for o in record.observations if any(method in str(v) for v in o.labels.values())
        ]
        metric = chosen[0].metric if chosen else None
    rows: dict[tuple, list[Observation]] = {}
    for seen in chosen:
        if seen.metric == metric:
            rows.setdefault(tuple(sorted(seen.labels.items())), []).append(seen)
    repeated = any(len({o.seed for o in row}) < len(row) for row in rows.values())
    if not rows or len(rows) > MOST_ROWS or repeated:
        return None
    shared = set.intersection(*(set(labels) for labels in rows))
    return "; ".join(
        _figure(row, [value for name, value in labels if (name, value) not in shared])
        for labels, row in rows.items()
    )


def _figure(row: Sequence[Observation], apart: Sequence[object]) -> str:
    """One row's mean with its interval, the metric, and what tells the row apart."""
    unit = {None: "", "%": " %"}.get(row[0].unit, f" {row[0].unit}")
    words = " ".join(str(value) for value in apart)
    kind = f"{row[0].metric}, {words}" if words else row[0].metric
    return f"{stats.mean_interval([o.value for o in row])}{unit} {kind}"


def duration(seconds: float) -> str:
    """Seconds in the unit a reader would use: 48 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def data_text(record: Record) -> str:
    """Data sets of a run, each once; drawn ones say so."""
    names = {u.name: u.source for u in record.data}
    return ", ".join(f"{n} (drawn)" if s == "embedded" else n for n, s in names.items())


def _verdicts(counts: dict[str, int]) -> str:
    chips = [
        tag("span", f"{SIGNS[v]} {n}", class_=f"cn-chip cn-{v.replace(' ', '-')}", title=f"{n} {v}")
        for v, n in counts.items()
        if n
    ]
    return " ".join(chips)


def _cell(content: str, order: object = None, **attributes: object) -> str:
    return tag("td", content, data_order=order, **attributes)


def _row(paper: Paper) -> str:
    card, run, counts = paper.card, paper.shown, paper.counts()
    name = escape(card.short)
    if paper.page:
        name = tag("a", name, href=f"{paper.page}.html")
    title = tag("span", escape(card.title), class_="cn-title")
    headline = card.headline[0] if card.headline else None
    figure = headline_text(headline) if headline else ""
    ours = None
    if run is not None:
        named = headline.observed if headline else None
        ours = answer_to(named, run) if named else obtained(run, card.short)
    cells = [
        _cell(
            tag("a", escape(paper.chapter.short), href=f"chapters/{paper.chapter.name}.html"),
            paper.chapter.number,
        ),
        _cell(name + title, card.short.lower(), class_="cn-paper"),
        _cell(str(card.year), card.year),
        _cell(tag("span", card.status, class_=f"cn-status cn-{card.status}"), card.status),
        _cell(_verdicts(counts), counts["holds"] - counts["fails"] if run else -1000),
        _cell(escape(figure)),
        _cell(escape(ours or "")),
        _cell(run.profile if run else ""),
        _cell(escape(data_text(run)) if run else ""),
        _cell(escape(run.provenance.gpu or run.provenance.cpu) if run else ""),
        _cell(duration(run.wall_seconds) if run else "", run.wall_seconds if run else -1),
    ]
    found = " ".join(v.replace(" ", "-") for v, n in counts.items() if n)
    return tag(
        "tr",
        *cells,
        data_chapter=paper.chapter.name,
        data_status=card.status,
        data_verdicts=found,
    )


def _select(name: str, caption: str, options: Sequence[tuple[str, str]]) -> str:
    choices = tag("option", "all", value="")
    choices += "".join(tag("option", escape(text), value=value) for value, text in options)
    return tag("label", f"{caption} ", tag("select", choices, data_filter=name))


def board(papers: Sequence[Paper], chapters: Sequence[Chapter]) -> str:
    """The table with its filters as HTML, written papers first; board.js sorts and filters it."""
    first = sorted(papers, key=lambda paper: paper.card.status != "written")
    search = tag(
        "label",
        'Search <input type="search" data-filter="text" placeholder="name, title, data …">',
    )
    filters = [
        search,
        _select("chapter", "Chapter", [(c.name, c.short) for c in chapters]),
        _select("status", "Status", [("written", "written"), ("planned", "planned")]),
        _select("verdicts", "Verdict", [(v.replace(" ", "-"), v) for v in VERDICTS]),
        tag("output", f"{len(papers)} papers", class_="cn-count"),
    ]
    heads = "".join(
        tag(
            "th", tag("button", escape(name), type="button", title=why), data_kind=kind, scope="col"
        )
        for name, kind, why in COLUMNS
    )
    table = tag(
        "table",
        tag("thead", tag("tr", heads)),
        tag("tbody", *(_row(paper) + "\n" for paper in first)),
        class_="cn-board",
    )
    return tag("div", *filters, class_="cn-filters") + tag(
        "div", table, class_="cn-scroll", tabindex=0, role="region", aria_label="Score board"
    )
