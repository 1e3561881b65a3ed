"""Intervals and verdicts: against scipy, by simulation, and by their algebra."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from compactnets import stats
from compactnets.stats import Interval

numbers = st.floats(-1e3, 1e3)
samples = st.lists(numbers, min_size=2, max_size=12)
verdicts = st.sampled_from(["holds", "fails", "undecided", "not tested"])


@given(samples)
def test_the_interval_is_scipys_t_interval(values):
    assume(np.std(values) > 1e-3)
    found = stats.mean_interval(values)
    sem = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), sem)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_the_interval_contains_the_true_mean_in_95_percent_of_experiments():
    rng = np.random.default_rng(0)
    for n in (2, 3, 5):
        draws = rng.normal(1.5, 2.0, (2000, n))
        found = [stats.mean_interval(list(row)) for row in draws]
        hits = np.mean([i.low <= 1.5 <= i.high for i in found])
        assert abs(hits - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_a_claim_that_is_just_false_is_held_true_in_2_5_percent_of_experiments():
    rng = np.random.default_rng(1)
    draws = rng.normal(0.0, 1.0, (4000, 3))
    judged = [stats.judge_difference(stats.mean_interval(list(row))) for row in draws]
    for verdict in ("holds", "fails"):
        share = judged.count(verdict) / len(judged)
        assert abs(share - 0.025) < 4 * math.sqrt(0.025 * 0.975 / 4000)


def test_one_value_has_an_unbounded_interval_and_decides_nothing():
    found = stats.mean_interval([3.0])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert stats.judge_difference(found, margin=-1e9) == "undecided"
    assert str(found) == "3 (n = 1)"


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_no_values_or_values_that_are_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="finite"):
        stats.mean_interval(values)


@given(st.dictionaries(st.integers(0, 50), numbers, min_size=2, max_size=6), numbers)
def test_a_shift_common_to_both_runs_of_a_seed_does_not_move_the_difference(a, gain):
    b = {seed: value - gain for seed, value in a.items()}
    found = stats.paired_difference(a, b)
    assert found.mean == pytest.approx(gain, abs=1e-6)
    assert found.half_width == pytest.approx(0, abs=1e-6)


@given(samples, samples)
def test_exchanging_the_sides_mirrors_the_difference(x, y):
    n = min(len(x), len(y))
    a, b = dict(enumerate(x[:n])), dict(enumerate(y[:n]))
    forth, back = stats.paired_difference(a, b), stats.paired_difference(b, a)
    assert forth.low == pytest.approx(-back.high)
    assert forth.high == pytest.approx(-back.low)


def test_a_difference_between_different_seeds_is_refused_and_names_them():
    with pytest.raises(ValueError, match=r"\[0, 1\] and \[0, 2\]"):
        stats.paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 2: 2.0})


@given(samples, numbers, st.floats(0, 100))
def test_a_larger_margin_never_makes_a_claim_easier(values, margin, more):
    order = {"fails": 0, "undecided": 1, "holds": 2}
    found = stats.mean_interval(values)
    harder = stats.judge_difference(found, margin + more)
    assert order[harder] <= order[stats.judge_difference(found, margin)]


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict"),
    [
        (0.1, 0.5, 0.0, "holds"),
        (0.1, 0.5, 0.1, "undecided"),  # the margin itself is not above the margin
        (0.1, 0.5, 0.5, "undecided"),
        (0.1, 0.5, 0.6, "fails"),
        (-0.4, 0.2, -0.5, "holds"),  # "not worse by more than half a point"
        (-0.4, 0.2, 0.0, "undecided"),
    ],
)
def test_the_verdict_follows_from_the_side_of_the_margin(low, high, margin, verdict):
    assert stats.judge_difference(Interval(3, (low + high) / 2, low, high), margin) == verdict


@given(st.lists(verdicts, min_size=1))
def test_a_claim_with_parts_holds_only_if_all_hold_and_fails_if_one_fails(parts):
    whole = stats.judge_all(parts)
    assert (whole == "holds") == (set(parts) == {"holds"})
    assert (whole == "fails") == ("fails" in parts)
    assert whole in parts


def test_a_claim_without_parts_is_not_tested():
    assert stats.judge_all([]) == "not tested"


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilsons_interval_is_scipys_and_contains_the_observed_share(items, share):
    correct = round(share * items)
    low, high = stats.wilson_interval(correct, items)
    theirs = scipy.stats.binomtest(correct, items).proportion_ci(method="wilson")
    assert (low, high) == (
        pytest.approx(theirs.low, abs=1e-9),
        pytest.approx(theirs.high, abs=1e-9),
    )
    assert 0 <= low <= correct / items + 1e-12
    assert correct / items - 1e-12 <= high <= 1


@pytest.mark.parametrize(("correct", "items"), [(-1, 10), (11, 10), (0, 0)])
def test_an_impossible_count_is_refused(correct, items):
    with pytest.raises(ValueError, match=f"got {correct} of {items}"):
        stats.wilson_interval(correct, items)


@given(samples, st.floats(-10, 10))
def test_that_many_seeds_at_that_spread_decide_and_one_fewer_does_not(values, margin):
    found = stats.mean_interval(values)
    assume(found.half_width > 1e-3)
    needed = stats.seeds_needed(found, margin)
    spread = np.std(values, ddof=1)

    def decided(n: int) -> bool:
        half = scipy.stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n)
        return half < abs(found.mean - margin)

    assume(needed is not None)
    assert decided(needed)
    assert needed == 2 or not decided(needed - 1)


def test_seeds_needed_is_unknown_after_one_seed_and_for_no_difference_at_all():
    assert stats.seeds_needed(stats.mean_interval([1.0])) is None
    assert stats.seeds_needed(stats.mean_interval([-1.0, 1.0])) is None
