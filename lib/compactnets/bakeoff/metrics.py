"""BiBench's overall metrics: six tracks, each a quadratic mean of ratios to full precision.

Formulas as recalled from arXiv:2301.11233; their wording could not be had. In every ratio 1 means
"as the full-precision network" and more is better.
"""

import math
from collections.abc import Iterable, Mapping, Sequence


def overall(ratios: Iterable[Sequence[float]]) -> float:
    """sqrt(mean over i of (mean of ratios[i])^2): a task, an architecture or a corruption per i.

    1 for the full-precision network, and never below the arithmetic mean of the inner means.
    ValueError if there is none, or one is negative or not finite.
    """
    groups = [tuple(group) for group in ratios]
    if not groups or not all(groups):
        raise ValueError(f"need at least one ratio in each of at least one group, got {groups}")
    if not all(math.isfinite(r) and r >= 0 for group in groups for r in group):
        raise ValueError(f"ratios must be finite and not negative, got {groups}")
    means = [math.fsum(group) / len(group) for group in groups]
    return math.sqrt(math.fsum(mean**2 for mean in means) / len(means))


def gap_ratio(
    real: Mapping[str, float], binary: Mapping[str, float], clean: str, corrupted: str
) -> float:
    """G / G_bi with G = accuracy[clean] - accuracy[corrupted]: what OM_robust averages.

    Above 1 the binary network loses fewer points; one near chance has few to lose, so read it
    beside the accuracy. ValueError if the binary network loses nothing: the ratio has no meaning.
    """
    gap, gap_bi = (accuracy[clean] - accuracy[corrupted] for accuracy in (real, binary))
    if not gap_bi > 0 or gap < 0:
        raise ValueError(
            f"{corrupted}: gaps of {gap:.3g} and {gap_bi:.3g} points have no meaningful ratio"
        )
    return gap / gap_bi
