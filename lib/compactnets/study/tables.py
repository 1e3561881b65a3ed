"""Tables: the paper's numbers with their sources, and ours beside them."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from compactnets import stats
from compactnets.study.card import Row, Table
from compactnets.study.display import Grid, Text, bold, text
from compactnets.study.observations import Label, Observations

Rows = Mapping[str, Mapping[str, Label]]


def find_table(tables: Mapping[str, Table], name: str) -> Table:
    """The card's table; ValueError with near matches if there is none of that name."""
    return tables[_known(name, tables, "table")]


def _known(name: str, known: Iterable[str], what: str) -> str:
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(names)}"
        raise ValueError(f"no {what} {name!r}: {hint if names else 'the card has none'}")
    return name


def number(value: float | str | None) -> str:
    """A reported number as the paper prints it; a dash for one that could not be had."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:,.12g}".replace(",", " ")


def reported_grid(table: Table) -> Grid:
    """The paper's table, each row with the footnote of its source."""
    columns = ["", *(_heading(name, unit) for name, unit in table.columns.items())]
    grid = Grid(
        text("Reported: ") + table.caption, columns, right=frozenset(range(1, len(columns)))
    )
    for row in table.rows:
        cells = [number(row.values.get(name)) for name in table.columns]
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
    known = list(table.columns) if table else []
    if metrics is None:
        metrics = sorted({row.metric for row in observed} & set(known))
        if not metrics:
            raise ValueError(
                f"no observed metric is named like a column of the table ({', '.join(known)}): "
                "say metrics={'ours': 'column'}"
            )
    if isinstance(metrics, Mapping):
        pairs = dict(metrics)
    else:
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        only = known[0] if len(known) == 1 and len(names) == 1 else None
        pairs = {name: name if name in known else only for name in names}
    if table:
        for name in filter(None, pairs.values()):
            _known(name, table.columns, "column")
    return [Column(ours, reported if table else None) for ours, reported in pairs.items()]


@dataclass(frozen=True)
class Line:
    """One row of a comparison: the paper's row if it has one, and the labels of ours."""

    label: str
    reported: Row | None
    labels: Mapping[str, Label] | None


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
        _known(name, reported, "row")
    ran = {row.labels.get(by) for row in observed}
    for name, row in reported.items():
        labels = rows.get(name, {by: name} if name in ran else None)
        lines.append(Line(name, row, labels))
    return lines + [Line(name, None, labels) for name, labels in (also or {}).items()]


@dataclass(frozen=True)
class Comparer:
    """Fills a table of the paper's numbers beside ours.

    baseline: label of the row that gains are taken against; the reported and the obtained gain
    then replace the difference of absolute numbers, which means little across data sets.
    execution: how each row was computed ("simulated", "executed in 1 bit"), one for all or by row.
    """

    observed: Observations
    columns: list[Column]
    lines: list[Line]
    baseline: str | None = None
    execution: str | Mapping[str, str] | None = None

    def grid(self, caption: object) -> Grid:
        """The filled table; obtained numbers are means with their 95 % t half-widths."""
        headings = ["", *(h for c in self.columns for h in self._headings(c)), "n (seeds)"]
        right = frozenset(range(1, len(headings)))
        grid = Grid(caption, headings + ["execution"] * bool(self.execution), right=right)
        for line in self.lines:
            label = text(line.label)
            if line.reported is not None and any(self._reported(line, c) for c in self.columns):
                label += grid.note(line.reported.source)
            cells = [cell for c in self.columns for cell in self._cells(line, c)]
            grid.rows.append([label, *cells, self._seeds(line), *self._executed(line)])
        return grid

    def _headings(self, column: Column) -> list[object]:
        unit = self.observed.unit(column.metric)
        ours = bold(f"{column.metric} obtained" + (f" ({unit})" if unit else ""))
        theirs = [f"{column.reported} reported"] if column.reported else []
        if self.baseline is not None:
            gains = ["gain reported"] * bool(theirs) + ["gain obtained"]
            return [*theirs, ours, *gains]
        return [*theirs, ours, *(["obtained − reported"] if theirs else [])]

    def _cells(self, line: Line, column: Column) -> list[object]:
        theirs = self._reported(line, column)
        ours = self._values(line, column)
        shown: list[object] = [number(theirs)] if column.reported else []
        shown.append(bold(_mean(list(ours.values()))) if ours else "–")
        if self.baseline is not None:
            return shown + self._gains(line, column, theirs, ours)
        if column.reported:
            both = isinstance(theirs, int | float) and ours
            mean = stats.mean_interval(list(ours.values())).mean if ours else 0.0
            shown.append(f"{mean - float(theirs):+.2f}" if both else "–")  # type: ignore[arg-type]
        return shown

    def _gains(self, line: Line, column: Column, theirs, ours: dict[int, float]) -> list[object]:
        base = next(one for one in self.lines if one.label == self.baseline)
        base_theirs, base_ours = self._reported(base, column), self._values(base, column)
        gains: list[object] = []
        if column.reported:
            both = isinstance(theirs, int | float) and isinstance(base_theirs, int | float)
            gains.append(f"{theirs - base_theirs:+.2f}" if both and line is not base else "–")
        if line is base or not ours or not base_ours:
            return [*gains, "–"]
        difference = stats.paired_difference(ours, base_ours)
        half = "" if difference.n == 1 else f" ± {difference.half_width:.2f}"
        return [*gains, f"{difference.mean:+.2f}{half}"]

    def _reported(self, line: Line, column: Column) -> float | str | None:
        if line.reported is None or column.reported is None:
            return None
        return line.reported.values.get(column.reported)

    def _values(self, line: Line, column: Column) -> dict[int, float]:
        if line.labels is None:
            return {}
        return self.observed.values(column.metric, dict(line.labels))

    def _seeds(self, line: Line) -> str:
        seeds = sorted({s for c in self.columns for s in self._values(line, c)})
        return f"{len(seeds)} ({', '.join(map(str, seeds))})" if seeds else "–"

    def _executed(self, line: Line) -> list[Text]:
        if self.execution is None:
            return []
        if isinstance(self.execution, str):
            return [text(self.execution if line.labels is not None else "–")]
        return [text(self.execution.get(line.label, "–"))]


def _mean(values: list[float]) -> str:
    found = stats.mean_interval(values)
    return f"{found.mean:.2f}" + ("" if found.n == 1 else f" ± {found.half_width:.2f}")
