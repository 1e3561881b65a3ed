"""The paper's numbers beside ours: means with intervals, differences computed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from compactnets import stats
from compactnets.stats import Interval
from compactnets.study.display import Grid, Text, bold, text
from compactnets.study.observations import Observations
from compactnets.study.sources import Source
from compactnets.study.tables import (
    Column,
    Line,
    Rows,
    decimals,
    known,
    number,
    pair_columns,
    pair_rows,
    seed_list,
)


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

    def __post_init__(self) -> None:
        labels = [one.label for one in self.lines]
        if self.baseline is not None:
            known(self.baseline, labels, "row")
        if isinstance(self.execution, Mapping):
            for name in self.execution:
                known(name, labels, "row")

    def grid(self, caption: object) -> Grid:
        """The filled table; obtained numbers are means with their 95 % t half-widths."""
        headings = ["", *(h for c in self.columns for h in self._headings(c))]
        headings += ["n (seeds)"] * self.seeded
        right = frozenset(range(1, len(headings)))
        grid = Grid(caption, headings + ["execution"] * bool(self.execution), right=right)
        for line in self.lines:
            label = text(line.label)
            if line.reported is not None and any(self._reported(line, c) for c in self.columns):
                label += grid.note(line.reported.source)
            cells = [cell for c in self.columns for cell in self._cells(line, c)]
            seeds = [self._seeds(line)] * self.seeded
            grid.rows.append([label, *cells, *seeds, *self._executed(line)])
        return grid

    def _headings(self, column: Column) -> list[object]:
        unit = self.observed.unit(column.metric)
        ours = bold(f"{column.metric} obtained" + (f" ({unit})" if unit else ""))
        theirs = [f"{column.reported} reported"] if column.reported else []
        if self.baseline is not None:
            return [*theirs, ours, *(["gain reported"] if theirs else []), "gain obtained"]
        return [*theirs, ours, *(["obtained − reported"] if theirs else [])]

    def _cells(self, line: Line, column: Column) -> list[object]:
        values = self._values(line, column)
        ours = stats.mean_interval(list(values.values())) if values else None
        shown: list[object] = [bold(rounded(ours)) if ours else "–"]
        if column.reported:
            shown.insert(0, number(self._reported(line, column), self._places(column)))
        if self.baseline is not None:
            return [*shown, *self._gains(line, column, values)]
        if column.reported:
            theirs = self._number(line, column)
            if theirs is None or ours is None:
                shown.append("–")
            else:
                shown.append(signed(ours.mean - theirs, ours.half_width))
        return shown

    def _gains(self, line: Line, column: Column, values: dict[int | None, float]) -> list[object]:
        base = next(one for one in self.lines if one.label == self.baseline)
        gains: list[object] = []
        if column.reported:
            theirs, start = self._number(line, column), self._number(base, column)
            if theirs is None or start is None or line is base:
                gains.append("–")
            else:
                gains.append(f"{theirs - start:+.{self._places(column)}f}")
        start_values = self._values(base, column)
        if line is base or not values or not start_values:
            return [*gains, "–"]
        common = values.keys() & start_values.keys()  # a row may have fewer seeds than the baseline
        if not common:
            return [*gains, "–"]
        ours, theirs = ({s: row[s] for s in common} for row in (values, start_values))
        gain = stats.paired_difference(ours, theirs)
        return [*gains, rounded(gain, sign="+")]

    def _reported(self, line: Line, column: Column) -> float | str | None:
        if line.reported is None or column.reported is None:
            return None
        return line.reported.values.get(column.reported)

    def _places(self, column: Column) -> int:
        return decimals(self._reported(line, column) for line in self.lines)

    def _number(self, line: Line, column: Column) -> float | None:
        value = self._reported(line, column)
        return None if isinstance(value, str) else value

    def _values(self, line: Line, column: Column) -> dict[int | None, float]:
        if line.labels is None:
            return {}
        return self.observed.by_seed(column.metric, dict(line.labels))

    @property
    def seeded(self) -> bool:
        """Does any number come from runs with seeds? Counts and times do not."""
        found = (self._values(line, c) for line in self.lines for c in self.columns)
        return any(seed is not None for values in found for seed in values)

    def _seeds(self, line: Line) -> str:
        seeds = {s for c in self.columns for s in self._values(line, c)}
        known = [seed for seed in seeds if seed is not None]
        return f"{len(known)} ({seed_list(known)})" if known else "–"

    def _executed(self, line: Line) -> list[Text]:
        if self.execution is None:
            return []
        if isinstance(self.execution, str):
            return [text(self.execution if line.labels is not None else "–")]
        return [text(self.execution.get(line.label, "–"))]


def table_grids(
    sources: Sequence[Source],
    caption: str,
    columns: list[Column],
    lines: list[Line],
    baseline: str | None,
    execution: str | Mapping[str, str] | None,
) -> Iterator[Grid]:
    """The paper's table beside each source's numbers; rows that one lacks have a dash there.

    ValueError for labels that no source has.
    """
    metric = columns[0].metric
    for labels in (line.labels for line in lines if line.labels is not None):
        if not any(source.observed.has(metric, labels) for source in sources):
            sources[0].observed.select(metric, dict(labels))  # raises, and says what there is
    for source in sources:
        held = [line.within(source.observed, metric) for line in lines]
        grid = Comparer(source.observed, columns, held, baseline, execution).grid(caption)
        grid.below.append(source.origin())
        yield grid


def results_grid(
    source: Source,
    caption: str,
    metrics: list[str],
    rows: Rows,
    baseline: str | None,
    execution: str | Mapping[str, str] | None,
) -> Grid:
    """A table of one run's own numbers; rows that it does not have are left out."""
    observed = source.observed
    found = {name: labels for name, labels in rows.items() if observed.has(metrics[0], labels)}
    columns = pair_columns(metrics, None, observed)
    lines = pair_rows(None, None, found, "method", observed)
    base = baseline if baseline in found else None
    comparer = Comparer(observed, columns, lines, base, execution)
    grid = comparer.grid(caption)
    grid.below.append(source.origin(comparer.seeded))
    return grid


def rounded(found: Interval, sign: str = "") -> str:
    """Mean ± half-width, both to the decimals that two digits of the half-width need."""
    if 0 < abs(found.mean) < 1e-4 and found.n > 1:
        return f"{found.mean:{sign}.2g} ± {found.half_width:.1g}"
    if found.n == 1 or found.half_width == 0:
        return four_digits(found.mean, sign) + ("" if found.n == 1 else " ± 0")
    decimals = _decimals(found.half_width)
    return f"{found.mean:{sign}.{decimals}f} ± {found.half_width:.{decimals}f}"


def four_digits(value: float, sign: str = "") -> str:
    """To four digits; from ten thousand to ten million with commas in place of an exponent."""
    if 1e4 <= abs(value) < 1e7:
        return f"{float(f'{value:.4g}'):{sign},.0f}"
    return f"{value:{sign}.4g}"


def signed(value: float, uncertainty: float = 0.0) -> str:
    """A difference with its sign, to the decimals that its uncertainty deserves."""
    if not math.isfinite(uncertainty) or uncertainty == 0:
        return four_digits(value, "+")
    return f"{value:+.{_decimals(uncertainty)}f}"


def _decimals(uncertainty: float) -> int:
    return min(9, max(0, 1 - math.floor(math.log10(uncertainty))))
