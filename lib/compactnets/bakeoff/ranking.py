"""Who is better than whom: paired tests over common blocks, corrected for their number."""

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import kendalltau
from scipy.stats import t as student_t

from compactnets import stats

# Name -> score by block; a block is what two methods share, here a network and a seed.
Scores = Mapping[str, Mapping[Hashable, float]]


@dataclass(frozen=True)
class Pair:
    """a - b over the blocks: mean with 95 % interval, p of a two-sided paired t test, and p after
    Holm's correction for all pairs."""

    a: str
    b: str
    difference: stats.Interval
    p: float
    adjusted: float

    def separated(self, level: float = 0.05) -> bool:
        """Does the corrected test tell the two apart?"""
        return self.adjusted < level


def paired_p(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> float:
    """Two-sided p of Student's t test on a[block] - b[block]; 1 if all differences are 0.

    ValueError if the blocks differ or there are fewer than two.
    """
    found = stats.paired_difference(a, b)  # type: ignore[type-var]
    if found.n < 2:
        raise ValueError(f"a paired test needs two blocks, got {[*a]}")
    if found.half_width == 0:
        return 1.0 if found.mean == 0 else 0.0
    unit = found.half_width / float(student_t.ppf((1 + stats.CONFIDENCE) / 2, found.n - 1))
    return float(2 * student_t.sf(abs(found.mean) / unit, found.n - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p in the order of the given ones, at most 1.

    Rejecting all with adjusted p < level keeps the chance of a single false rejection below it.
    ValueError for a p outside [0, 1].
    """
    if not all(0 <= one <= 1 for one in p):
        raise ValueError(f"p must lie in [0, 1], got {list(p)}")
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, floor = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        floor = max(floor, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = floor
    return adjusted


def pairwise(scores: Scores) -> list[Pair]:
    """All pairs, a the one with the higher mean, corrected together.

    ValueError if fewer than two methods, or their blocks differ.
    """
    names = ranked(scores)
    if len(names) < 2:
        raise ValueError(f"need two methods to compare, got {names}")
    pairs = list(itertools.combinations(names, 2))
    p = [paired_p(scores[a], scores[b]) for a, b in pairs]
    return [
        Pair(a, b, stats.paired_difference(scores[a], scores[b]), one, corrected)  # type: ignore
        for (a, b), one, corrected in zip(pairs, p, holm(p), strict=True)
    ]


def ranked(scores: Scores) -> list[str]:
    """Names by falling mean score."""
    return sorted(scores, key=lambda name: -sum(scores[name].values()) / len(scores[name]))


def cliques(scores: Scores, pairs: Sequence[Pair]) -> list[list[str]]:
    """Longest runs of neighbors in the ranking in which no pair is told apart.

    What a critical-difference diagram joins by a bar; runs of one are left out.
    """
    names = ranked(scores)
    apart = {frozenset((pair.a, pair.b)) for pair in pairs if pair.separated()}
    runs: list[list[str]] = []
    for start in range(len(names)):
        end = start + 1
        while end < len(names) and not any(
            frozenset((names[i], names[end])) in apart for i in range(start, end)
        ):
            end += 1
        run = names[start:end]
        if len(run) > 1 and not (runs and set(run) <= set(runs[-1])):
            runs.append(run)
    return runs


def frame(pairs: Sequence[Pair]) -> pd.DataFrame:
    """One row per pair: a, b, difference, low, high, p, adjusted."""
    return pd.DataFrame(
        {
            "a": pair.a,
            "b": pair.b,
            "difference": pair.difference.mean,
            "low": pair.difference.low,
            "high": pair.difference.high,
            "p": pair.p,
            "adjusted": pair.adjusted,
        }
        for pair in pairs
    )


def agreement(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Kendall's tau-b of two rankings of the same methods: 1 equal, -1 reversed.

    ValueError if the names differ, or one side ties everything (tau is not defined then).
    """
    if set(a) != set(b) or len(a) < 2:
        raise ValueError(f"need the same two methods or more, got {sorted(a)} and {sorted(b)}")
    tau = float(kendalltau([a[name] for name in a], [b[name] for name in a])[0])  # type: ignore
    if tau != tau:
        raise ValueError(f"all of {sorted(a)} are equal on one side: no order to compare")
    return tau
