"""Overall metrics, paired tests and rankings: their algebra, their edges, known numbers."""

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from compactnets.bakeoff import metrics, ranking

ratios = st.lists(st.lists(st.floats(0, 10), min_size=1, max_size=4), min_size=1, max_size=5)


@given(groups=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_the_full_precision_network_scores_one_against_itself(groups):
    assert metrics.overall([[1.0] * n for n in groups]) == 1


@given(groups=ratios)
def test_the_overall_metric_is_never_below_the_arithmetic_mean(groups):
    mean = sum(sum(g) / len(g) for g in groups) / len(groups)
    assert metrics.overall(groups) >= mean - 1e-9


@given(groups=ratios, more=st.floats(0.01, 5), data=st.data())
def test_the_overall_metric_grows_with_every_ratio(groups, more, data):
    i = data.draw(st.integers(0, len(groups) - 1))
    j = data.draw(st.integers(0, len(groups[i]) - 1))
    raised = [list(group) for group in groups]
    raised[i][j] += more
    assert metrics.overall(raised) > metrics.overall(groups)


def test_the_quadratic_mean_prefers_the_excellent_to_the_even():
    assert metrics.overall([[1.0], [0.0]]) > metrics.overall([[0.5], [0.5]])
    assert metrics.overall([[3.0, 5.0], [0.0]]) == pytest.approx(math.sqrt(8))


@pytest.mark.parametrize("groups", [[], [[]], [[1.0], []], [[-0.1]], [[math.nan]], [[math.inf]]])
def test_ratios_that_have_no_mean_are_refused(groups):
    with pytest.raises(ValueError, match="ratio"):
        metrics.overall(groups)


def test_the_gap_ratio_is_above_one_where_the_binary_network_loses_less():
    real, binary = {"clean": 90.0, "noise": 60.0}, {"clean": 70.0, "noise": 55.0}
    assert metrics.gap_ratio(real, binary, "clean", "noise") == 2
    with pytest.raises(ValueError, match=r"noise.*no meaningful ratio"):
        metrics.gap_ratio(real, {"clean": 50.0, "noise": 50.0}, "clean", "noise")


def test_the_paired_p_is_that_of_scipy():
    a, b = {0: 1.0, 1: 2.5, 2: 3.0, 3: 7.0}, {0: 0.5, 1: 2.0, 2: 3.5, 3: 4.0}
    expected = scipy_stats.ttest_rel([a[k] for k in a], [b[k] for k in a]).pvalue
    assert ranking.paired_p(a, b) == pytest.approx(expected, rel=1e-9)
    assert ranking.paired_p(a, a) == 1 and ranking.paired_p(a, {k: a[k] + 1 for k in a}) == 0


@pytest.mark.parametrize(("a", "b"), [({0: 1.0}, {0: 2.0}), ({0: 1.0, 1: 2.0}, {0: 1.0, 2: 2.0})])
def test_a_paired_test_needs_two_common_blocks(a, b):
    with pytest.raises(ValueError, match=r"two blocks|seeds differ"):
        ranking.paired_p(a, b)


def test_holm_on_a_worked_example():
    # smallest times 4, next times 3, ...; never falling: 0.03 * 2 = 0.06 lifts 0.04
    assert ranking.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=12), data=st.data())
def test_holm_lies_between_no_correction_and_bonferroni_whatever_the_order(p, data):
    adjusted = ranking.holm(p)
    assert all(one <= a <= min(1, len(p) * one) + 1e-12 for one, a in zip(p, adjusted, strict=True))
    order = data.draw(st.permutations(range(len(p))))
    assert ranking.holm([p[i] for i in order]) == [adjusted[i] for i in order]


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        ranking.holm([0.5, 1.5])


SCORES = {
    "low": {0: 1.0, 1: 1.1, 2: 0.9, 3: 1.05},
    "high": {0: 3.0, 1: 3.2, 2: 3.1, 3: 2.9},
    "twin": {0: 3.05, 1: 3.1, 2: 3.15, 3: 2.85},
}


def test_pairs_are_ordered_by_mean_and_separated_where_the_blocks_agree():
    pairs = {(p.a, p.b): p for p in ranking.pairwise(SCORES)}
    assert ranking.ranked(SCORES) == ["high", "twin", "low"]
    assert list(pairs) == [("high", "twin"), ("high", "low"), ("twin", "low")]
    assert pairs["high", "low"].separated() and not pairs["high", "twin"].separated()
    assert all(p.adjusted >= p.p and p.difference.mean > 0 for p in pairs.values())


def test_a_bar_joins_exactly_the_neighbors_that_are_not_told_apart():
    pairs = ranking.pairwise(SCORES)
    assert ranking.cliques(SCORES, pairs) == [["high", "twin"]]
    assert list(ranking.frame(pairs).a) == ["high", "high", "twin"]


@given(st.integers(0, 10**6))
def test_no_bar_joins_a_separated_pair_and_no_bar_lies_in_another(seed):
    import random

    draw = random.Random(seed)
    scores = {n: {s: draw.gauss(k / 2, 1) for s in range(4)} for k, n in enumerate("abcdef")}
    pairs = ranking.pairwise(scores)
    bars = ranking.cliques(scores, pairs)
    apart = {frozenset((p.a, p.b)) for p in pairs if p.separated()}
    assert not any(
        frozenset(two) in apart for bar in bars for two in itertools.combinations(bar, 2)
    )
    assert not any(set(x) <= set(y) for x, y in itertools.permutations(bars, 2))


def test_comparing_a_single_method_is_refused():
    with pytest.raises(ValueError, match="two methods"):
        ranking.pairwise({"alone": {0: 1.0, 1: 2.0}})


@given(values=st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True))
def test_agreement_is_one_with_itself_minus_one_with_its_reverse_and_symmetric(values):
    assume(len(set(values)) > 1)
    a = {str(i): float(v) for i, v in enumerate(values)}
    reverse = {name: -v for name, v in a.items()}
    assert ranking.agreement(a, {n: 3 * v + 1 for n, v in a.items()}) == pytest.approx(1)
    assert ranking.agreement(a, reverse) == pytest.approx(-1)
    shuffled = dict(zip(a, sorted(a.values()), strict=True))
    assert ranking.agreement(a, shuffled) == ranking.agreement(shuffled, a)


@pytest.mark.parametrize(
    ("a", "b"), [({"x": 1.0}, {"x": 1.0}), ({"x": 1.0, "y": 2.0}, {"x": 1.0, "y": 1.0})]
)
def test_agreement_without_an_order_is_refused(a, b):
    with pytest.raises(ValueError, match=r"two methods|no order"):
        ranking.agreement(a, b)
