"""The numbers a notebook observes: labeled, per seed, never silently replaced."""

import difflib
import math
from collections.abc import Iterator, Mapping

import pandas as pd

from compactnets import cells
from compactnets.study.record import Observation

Label = str | int | float | bool
RESERVED = ("metric", "value", "seed", "unit")


class Observations:
    """A log of observations; a row is told from another by metric, seed and labels."""

    def __init__(self) -> None:
        self._rows: dict[tuple, tuple[Observation, int]] = {}

    def __iter__(self) -> Iterator[Observation]:
        return (row for row, _ in self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, new: Observation) -> None:
        """Logs one row.

        The same row with another value is an error (a label is missing) unless the notebook's
        cell was run again: then the new value takes the place of the old one.
        """
        if not math.isfinite(new.value):
            raise ValueError(
                f"{describe(new)} is {new.value}: observe a finite number "
                "(of a run that diverged: its accuracy, or a flag)"
            )
        if clash := set(RESERVED) & set(new.labels):
            raise ValueError(f"labels may not be called {sorted(clash)}")
        key = (new.metric, new.seed, frozenset(new.labels.items()))
        old, when = self._rows.get(key, (new, cells.current()))
        if old.value != new.value and when == cells.current():
            raise ValueError(
                f"{describe(new)} was observed twice, as {old.value} and {new.value}: "
                "tell the two apart by a label"
            )
        self._rows[key] = (new, cells.current())

    def has(self, metric: str, labels: Mapping[str, Label]) -> bool:
        """Is there a row of the metric that carries all the labels?"""
        return any(row.metric == metric and labels.items() <= row.labels.items() for row in self)

    def select(self, metric: str, labels: dict[str, Label]) -> list[Observation]:
        """Rows of the metric that carry all the labels; ValueError if there is none."""
        known = sorted({row.metric for row in self})
        if metric not in known:
            raise ValueError(f"no observation of {metric!r}: {_hint(metric, known)}")
        named = [row for row in self if row.metric == metric]
        found = [row for row in named if labels.items() <= row.labels.items()]
        if not found:
            have = sorted({_words(row.labels) for row in named})
            raise ValueError(
                f"no observation of {metric!r} with {_words(labels)}; "
                f"there are: {'; '.join(have[:12])}{' ...' if len(have) > 12 else ''}"
            )
        return found

    def values(self, metric: str, labels: dict[str, Label]) -> dict[int, float]:
        """Value by seed; ValueError if a seed has several rows, or a row no seed."""
        found = self.select(metric, labels)
        values: dict[int, float] = {}
        for row in found:
            if row.seed is None:
                raise ValueError(f"{describe(row)} has no seed: use value()")
            if row.seed in values:
                raise ValueError(
                    f"{metric!r} with {_words(labels)} names several rows: "
                    f"say which by {_differing(found)}"
                )
            values[row.seed] = row.value
        return dict(sorted(values.items()))

    def by_seed(self, metric: str, labels: dict[str, Label]) -> dict[int | None, float]:
        """values(), or {None: value} for a single row without a seed: a count or a time."""
        found = self.select(metric, labels)
        if len(found) == 1 and found[0].seed is None:
            return {None: found[0].value}
        return {**self.values(metric, labels)}

    def value(self, metric: str, labels: dict[str, Label], seed: int | None = None) -> float:
        """The one value of that row and seed; ValueError if there is not exactly one."""
        found = [r for r in self.select(metric, labels) if r.seed == seed]
        if len(found) != 1:
            at = "without seed" if seed is None else f"at seed {seed}"
            raise ValueError(f"{metric!r} with {_words(labels)} has {len(found)} rows {at}, not 1")
        return found[0].value

    def unit(self, metric: str) -> str | None:
        """The unit the metric was observed in; ValueError if there are several."""
        units = {row.unit for row in self if row.metric == metric}
        if len(units) > 1:
            raise ValueError(f"{metric!r} was observed in several units: {sorted(map(str, units))}")
        return next(iter(units), None)

    def frame(self, metric: str | None = None) -> pd.DataFrame:
        """One line per observation: metric, value, unit, seed and a column per label."""
        rows = [
            {"metric": r.metric, "value": r.value, "unit": r.unit, "seed": r.seed, **r.labels}
            for r in self
            if metric in (None, r.metric)
        ]
        if metric is not None and not rows:
            self.select(metric, {})
        columns = ["metric", "value", "unit", "seed"]
        return pd.DataFrame(rows, columns=None if rows else columns)


def describe(row: Observation) -> str:
    """The row in words, without its value."""
    seed = "" if row.seed is None else f", seed {row.seed}"
    return f"{row.metric} ({_words(row.labels)}{seed})"


def _words(labels: dict[str, Label]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in labels.items()) or "no labels"


def _differing(rows: list[Observation]) -> str:
    names = sorted({name for row in rows for name in row.labels})
    seen = {name: sorted({repr(row.labels.get(name)) for row in rows}) for name in names}
    return ", ".join(f"{n} ({' | '.join(v)})" for n, v in seen.items() if len(v) > 1)


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"did you mean {', '.join(near)}?"
    return f"observed so far: {', '.join(known) or 'nothing'}"
