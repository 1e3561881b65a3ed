"""Means with intervals, and verdicts from paired differences.

The test, stated once for the whole book. A statistical claim says that a quantity a exceeds b by
more than a margin m (0 unless the card says otherwise; negative for "not worse by more than |m|").
Both are run with the same n seeds: seed s fixes the initial weights and the order of the data of
a[s] and of b[s], so that the differences d[s] = a[s] - b[s] are free of the luck of the start.
With their mean D and standard deviation S (n - 1 in the denominator), the interval is

    D ± t(0.975, n - 1) * S / sqrt(n)        two-sided 95 %, Student t

    holds       the whole interval lies above m
    fails       the whole interval lies below m
    undecided   it contains m: this run cannot tell, which is no evidence for "equal"
    not tested  the page says why it does not try at this profile

A false "holds" has at most 2.5 % probability if the differences are normal; so has a false
"fails". With one seed there is no S, the interval is unbounded and the verdict is "undecided";
with two, t is 12.7, so that only a difference nine times the spread S decides. A claim with several
parts holds if all parts hold (an intersection-union test, which needs no correction for their
number) and fails as soon as one part fails. What an interval over seeds does not cover: other
data, other recipes, other networks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from scipy.stats import norm as normal
from scipy.stats import t as student_t

Seed = TypeVar("Seed", int, int | None)  # None: a row without seed

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
    a: Mapping[Seed, float], b: Mapping[Seed, float], confidence: float = CONFIDENCE
) -> Interval:
    """Interval of the mean of a[seed] - b[seed] over the common seeds.

    ValueError if a and b were not run with the same seeds: an unpaired difference would mix the
    effect with the luck of the start.
    """
    if set(a) != set(b):
        raise ValueError(f"seeds differ: {[*a]} and {[*b]}; run both with the same")
    return mean_interval([a[seed] - b[seed] for seed in a], confidence)


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


def wilson_interval(
    correct: int, items: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bounds of a fraction, from `correct` of `items` right answers (E. B. Wilson, 1927).

    For the accuracy of one network on a test split: how far it could be from its accuracy on all
    images of that kind. It says nothing about other seeds. Fractions in [0, 1]; ValueError unless
    0 <= correct <= items and items > 0.
    """
    if not 0 <= correct <= items or items < 1:
        raise ValueError(f"need 0 <= correct <= items and items > 0, got {correct} of {items}")
    z = float(normal.ppf((1 + confidence) / 2))
    share, weight = correct / items, z * z / items
    center = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / items + weight / (4 * items)) / (1 + weight)
    return max(0.0, center - half), min(1.0, center + half)


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
