"""From evidence to a verdict: what an exact, a statistical and a measured claim rest on."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compactnets import stats
from compactnets.stats import Interval, Verdict
from compactnets.study.card import Card, Claim
from compactnets.study.record import Answer, Part

METHODS = {"exact": "prove", "statistical": "judge", "measured": "measure"}


class ClaimFailed(AssertionError):
    """An exact claim does not hold: the page is wrong until code or claim are put right."""


class ClaimError(ValueError):
    """A claim that the card does not have, or that is answered in the wrong way."""


class UnansweredClaims(ClaimError):
    """The notebook ends without a verdict on some claims of the card."""


@dataclass(frozen=True)
class Comparison:
    """One part of a statistical claim: is `a` above `b` by more than the claim's margin?

    a: value by seed. b: value by seed, same seeds (paired), or a number that a is held against.
    """

    label: str
    a: Mapping[int, float]
    b: Mapping[int, float] | float

    def difference(self) -> Interval:
        """Interval of the mean difference; ValueError names the comparison if seeds differ."""
        try:
            if isinstance(self.b, Mapping):
                return stats.paired_difference(self.a, self.b)
            return stats.mean_interval([value - self.b for value in self.a.values()])
        except ValueError as error:
            raise ValueError(f"comparison {self.label!r}: {error}") from None


@dataclass(frozen=True)
class Check:
    """One word on an exact or a measured claim."""

    verdict: Verdict
    evidence: str


@dataclass
class Evidence:
    """What was said about one claim, part by part; a later word on a part replaces the earlier."""

    checks: dict[str, Check] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    untested: str | None = None
    unit: str | None = None


def lookup(card: Card, claim: str, kind: str | None = None) -> Claim:
    """The card's claim; ClaimError if there is none, or if it is of another kind."""
    if claim not in card.claims:
        near = difflib.get_close_matches(claim, card.claims, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(card.claims)}"
        raise ClaimError(f"the card of {card.slug!r} has no claim {claim!r}: {hint}")
    found = card.claims[claim]
    if kind is not None and found.kind != kind:
        raise ClaimError(
            f"claim {claim} of {card.slug!r} is {found.kind}, not {kind}: "
            f"answer it with study.{METHODS[found.kind]}(...)"
        )
    return found


def judge_part(comparison: Comparison, margin: float) -> Part:
    """The paired test of one comparison as the record keeps it."""
    found = comparison.difference()
    return Part(
        label=comparison.label,
        n=found.n,
        mean=found.mean,
        low=found.low if math.isfinite(found.low) else None,
        high=found.high if math.isfinite(found.high) else None,
        verdict=stats.judge_difference(found, margin),
    )


def interval(part: Part) -> Interval:
    """A recorded part as an interval again."""
    low = -math.inf if part.low is None else part.low
    high = math.inf if part.high is None else part.high
    return Interval(part.n, part.mean, low, high)


def explain(part: Part, margin: float, unit: str | None = None) -> str:
    """The part in one sentence: difference, interval, margin, verdict and, if open, why."""
    units = f" {unit}" if unit else ""
    found = interval(part)
    if part.n == 1:
        return (
            f"{part.label}: {found.mean:+.3g}{units} with one seed, which says nothing about the "
            f"spread: {part.verdict} (a larger profile runs more seeds)"
        )
    said = (
        f"{part.label}: {found.mean:+.3g}{units}, 95 % interval "
        f"[{found.low:+.3g}, {found.high:+.3g}], n = {found.n}, margin {margin:g}: {part.verdict}"
    )
    if part.verdict == "undecided":
        needed = stats.seeds_needed(found, margin)
        said += " (the interval contains the margin"
        said += f"; at this spread about {needed} seeds would decide)" if needed else ")"
    return said


def answer(claim: str, statement: Claim, evidence: Evidence) -> Answer:
    """The verdict on a claim from everything said about it."""
    if evidence.untested is not None and not (evidence.checks or evidence.parts):
        return Answer(
            claim=claim,
            kind=statement.kind,
            statement=statement.statement,
            verdict="not tested",
            evidence=evidence.untested,
        )
    parts = list(evidence.parts.values())
    words = *evidence.checks.values(), *parts
    checks = evidence.checks.items()
    said = [f"{name}: {c.evidence}" if name else c.evidence for name, c in checks]
    said += [explain(p, statement.margin, evidence.unit) for p in parts]
    return Answer(
        claim=claim,
        kind=statement.kind,
        statement=statement.statement,
        verdict=stats.judge_all(tuple(word.verdict for word in words)),
        evidence="; ".join(said),
        margin=statement.margin if parts else None,
        test=stats.TEST if parts else None,
        parts=parts,
        unit=evidence.unit,
    )


def outcome(ok: bool | Mapping[str, bool], claim: str) -> tuple[bool, str]:
    """(do all checks hold?, names of those that do not); TypeError unless they are booleans."""
    checks = dict(ok) if isinstance(ok, Mapping) else {"": ok}
    if not checks:
        raise ValueError(f"claim {claim}: no check given")
    for name, value in checks.items():
        if type(value).__name__ not in ("bool", "bool_"):  # numpy's is not a subclass of bool
            where = f"check {name!r} of claim {claim}" if name else f"claim {claim}"
            raise TypeError(f"{where} must be True or False, got {value!r}: wrap it in bool(...)")
    failed = [name for name, value in checks.items() if not value]
    return not failed, ", ".join(filter(None, failed))


def comparisons(
    a: Mapping[int, float] | Comparison,
    b: Mapping[int, float] | float | Comparison | None,
    more: Sequence[Comparison],
    label: str,
) -> list[Comparison]:
    """Comparison(s) from judge's arguments: two sets of values, or any number of Comparison."""
    if isinstance(a, Comparison):
        rest = [b, *more] if b is not None else list(more)
        if not all(isinstance(c, Comparison) for c in rest):
            raise TypeError("give judge either two sets of values or Comparison objects only")
        return [a, *rest]  # type: ignore[list-item]
    if b is None or isinstance(b, Comparison) or more:
        raise TypeError("give judge either two sets of values or Comparison objects only")
    return [Comparison(label, a, b)]
