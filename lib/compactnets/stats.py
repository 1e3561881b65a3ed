"""Means with intervals, and verdicts from paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t as student_t

Verdict = Literal["holds", "fails", "undecided", "not tested"]
CONFIDENCE = 0.95
TEST = "two-sided 95 % Student-t interval of the mean paired difference over seeds"


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided Student-t interval; with n = 1 the bounds are infinite."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        if self.n == 1:
            return f"{self.mean:.4g} (n = 1)"
        return f"{self.mean:.4g} ± {self.half_width:.2g} (n = {self.n})"


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean of the values and its t interval; ValueError if there are none or one is not finite."""
    n = len(values)
    if n == 0 or not all(map(math.isfinite, values)):
        raise ValueError(f"need at least one value, all finite, got {list(values)}")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(1, mean, -math.inf, math.inf)
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    half = _half_width_factor(n, confidence) * math.sqrt(variance)
    return Interval(n, mean, mean - half, mean + half)


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], confidence: float = CONFIDENCE
) -> Interval:
    """Interval of the mean of a[seed] - b[seed] over the common seeds.

    ValueError if a and b were not run with the same seeds: an unpaired difference would mix the
    effect with the luck of the start.
    """
    if set(a) != set(b):
        raise ValueError(f"seeds differ: {sorted(a)} and {sorted(b)}; run both with the same")
    return mean_interval([a[seed] - b[seed] for seed in sorted(a)], confidence)


def judge_difference(difference: Interval, margin: float = 0.0) -> Verdict:
    """Is the true difference above the margin? holds / fails if the interval lies on one side."""
    if difference.low > margin:
        return "holds"
    if difference.high < margin:
        return "fails"
    return "undecided"


def judge_all(verdicts: Sequence[Verdict]) -> Verdict:
    """Verdict of a claim with several parts: holds if all hold, fails if one fails.

    No correction for several tests is due: "all hold" is an intersection-union test, whose level
    is that of its parts.
    """
    if not verdicts:
        return "not tested"
    for verdict in ("fails", "not tested", "undecided"):
        if verdict in verdicts:
            return verdict  # type: ignore[return-value]
    return "holds"


def seeds_needed(difference: Interval, margin: float = 0.0, most: int = 1000) -> int | None:
    """Smallest number of seeds whose interval, at this mean and spread, would leave the margin.

    A planning aid, not a promise: mean and spread are themselves estimates. None if one seed was
    run (no spread known) or more than `most` were needed.
    """
    if difference.n < 2:
        return None
    unit = difference.half_width / _half_width_factor(difference.n, CONFIDENCE)
    for n in range(2, most + 1):
        if unit * _half_width_factor(n, CONFIDENCE) < abs(difference.mean - margin):
            return n
    return None


def _half_width_factor(n: int, confidence: float) -> float:
    """Half-width of a t interval over n values whose standard deviation is 1."""
    return float(student_t.ppf((1 + confidence) / 2, n - 1)) / math.sqrt(n)
