"""The paper's tables with their sources, and which of our rows stand beside which of theirs."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from compactnets.study.card import Row, Table
from compactnets.study.display import Grid, text
from compactnets.study.observations import Label, Observations

Rows = Mapping[str, Mapping[str, Label]]


def find_table(tables: Mapping[str, Table], name: str) -> Table:
    """The card's table; ValueError with near matches if there is none of that name."""
    return tables[known(name, tables, "table")]


def known(name: str, names: Iterable[str], what: str) -> str:
    """The name itself; ValueError with near matches if it is not one of the names."""
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(names)}"
        raise ValueError(f"no {what} {name!r}: {hint if names else 'the card has none'}")
    return name


def decimals(values: Iterable[float | str | None]) -> int:
    """Decimals that the numbers of a column are given with: 66.9 and 87.0 have one, 87 none."""
    numbers = [value for value in values if isinstance(value, float) and not value.is_integer()]
    return max((len(f"{Decimal(repr(value)):f}".partition(".")[2]) for value in numbers), default=0)


def number(value: float | str | None, places: int) -> str:
    """A reported number with the decimals of its column; a dash for one that could not be had."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:,.{places}f}".replace(",", " ")


def reported_grid(table: Table) -> Grid:
    """The paper's table, each row with the footnote of its source."""
    columns = ["", *(_heading(name, unit) for name, unit in table.columns.items())]
    grid = Grid(
        text("Reported: ") + table.caption, columns, right=frozenset(range(1, len(columns)))
    )
    places = {name: decimals(r.values.get(name) for r in table.rows) for name in table.columns}
    for row in table.rows:
        cells = [number(row.values.get(name), places[name]) for name in table.columns]
        grid.rows.append([text(row.label) + grid.note(row.source), *cells])
    return grid


def _heading(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit and unit != name else name


@dataclass(frozen=True)
class Column:
    """One metric of a comparison: our name for it, and the paper's column if it has one."""

    metric: str
    reported: str | None


def pair_columns(
    metrics: str | Iterable[str] | Mapping[str, str | None] | None,
    table: Table | None,
    observed: Observations,
) -> list[Column]:
    """Which metric of ours stands beside which column of the paper.

    By name where they agree; a mapping {ours: the paper's} says otherwise (None: ours alone).
    A single metric goes with a table's only column.
    """
    theirs = list(table.columns) if table else []
    if metrics is None:
        metrics = sorted({row.metric for row in observed} & set(theirs))
        if not metrics:
            raise ValueError(
                f"no observed metric is named like a column of the table ({', '.join(theirs)}): "
                "say metrics={'ours': 'column'}"
            )
    if isinstance(metrics, Mapping):
        pairs = dict(metrics)
    else:
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        only = theirs[0] if len(theirs) == 1 and len(names) == 1 else None
        pairs = {name: name if name in theirs else only for name in names}
    if table:
        for name in filter(None, pairs.values()):
            known(name, table.columns, "column")
    return [Column(ours, reported if table else None) for ours, reported in pairs.items()]


@dataclass(frozen=True)
class Line:
    """One row of a comparison: the paper's row if it has one, and the labels of ours."""

    label: str
    reported: Row | None
    labels: Mapping[str, Label] | None

    def within(self, observed: Observations, metric: str) -> "Line":
        """The same row; without our labels if these observations do not have them."""
        if self.labels is None or observed.has(metric, self.labels):
            return self
        return replace(self, labels=None)


def pair_rows(
    table: Table | None, rows: Rows | None, also: Rows | None, by: str, observed: Observations
) -> list[Line]:
    """Which observations stand on which row of the paper.

    rows: {the paper's row: our labels}; where it is silent, a row goes with the observations whose
    label `by` equals the row's. also: rows of ours alone. A row of the paper that was not run
    keeps its place, with a dash.
    """
    rows, lines = dict(rows or {}), []
    reported = {row.label: row for row in table.rows} if table else {}
    for name in rows:
        known(name, reported, "row")
    ran = {row.labels.get(by) for row in observed}
    for name, row in reported.items():
        labels = rows.get(name, {by: name} if name in ran else None)
        lines.append(Line(name, row, labels))
    return lines + [Line(name, None, labels) for name, labels in (also or {}).items()]


def seed_list(seeds: Iterable[int]) -> str:
    """Seeds in order, runs of more than three as a span: "0, 1, 2" and "0–199"."""
    spans: list[list[int]] = []
    for seed in sorted(seeds):
        if spans and seed == spans[-1][-1] + 1:
            spans[-1].append(seed)
        else:
            spans.append([seed])
    words = (f"{s[0]}–{s[-1]}" if len(s) > 3 else ", ".join(map(str, s)) for s in spans)
    return ", ".join(words)
