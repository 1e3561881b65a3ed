"""Observations: labeled, per seed, never silently replaced."""

import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compactnets.study.observations import Observations
from compactnets.study.record import Observation


def row(value: float, seed: int | None = 0, metric: str = "top1", unit: str | None = "%", **labels):
    return Observation(metric=metric, value=value, seed=seed, unit=unit, labels=labels)


@pytest.fixture
def log():
    log = Observations()
    for seed in (1, 0):
        log.add(row(60 + seed, seed, method="Base", w=32))
        log.add(row(50 + seed, seed, method="Toy", w=1))
        log.add(row(55 + seed, seed, method="Toy", w=2))
    return log


def test_values_come_by_seed_in_order(log):
    assert log.values("top1", {"method": "Toy", "w": 1}) == {0: 50.0, 1: 51.0}
    assert list(log.values("top1", {"method": "Base"})) == [0, 1]


def test_ambiguous_labels_are_refused_and_the_missing_label_is_named(log):
    with pytest.raises(ValueError, match=r"names several rows: say which by w \(1 | 2\)"):
        log.values("top1", {"method": "Toy"})


def test_an_unknown_metric_or_label_says_what_there_is(log):
    with pytest.raises(ValueError, match="no observation of 'top11': did you mean top1"):
        log.values("top11", {})
    with pytest.raises(ValueError, match=r"no observation of 'zzz': observed so far: top1"):
        log.values("zzz", {})
    with pytest.raises(ValueError, match=r"method='Tyo'; there are: method='Base', w=32"):
        log.values("top1", {"method": "Tyo"})
    with pytest.raises(ValueError, match="observed so far: nothing"):
        Observations().values("top1", {})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(log, value):
    with pytest.raises(ValueError, match=r"top1 \(method='Toy', seed 0\) is (nan|inf)"):
        log.add(row(value, method="Toy"))


def test_one_row_with_two_values_means_that_a_label_is_missing(log):
    with pytest.raises(ValueError, match=r"observed twice, as 50.0 and 51.5"):
        log.add(row(51.5, 0, method="Toy", w=1))
    log.add(row(50.0, 0, method="Toy", w=1))  # the same again is no contradiction
    assert len(log) == 6


def test_a_cell_that_is_run_again_replaces_its_observations(monkeypatch):
    shell = SimpleNamespace(execution_count=3)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    log = Observations()
    log.add(row(50.0, method="Toy"))
    with pytest.raises(ValueError, match="observed twice"):
        log.add(row(51.0, method="Toy"))
    shell.execution_count = 4
    log.add(row(51.0, method="Toy"))
    assert log.values("top1", {"method": "Toy"}) == {0: 51.0}


def test_a_value_without_seed_is_had_by_value_not_by_values(log):
    log.add(row(1e6, None, metric="macs", unit=None, method="Toy"))
    assert log.value("macs", {"method": "Toy"}) == 1e6
    assert log.value("top1", {"method": "Base"}, seed=1) == 61.0
    with pytest.raises(ValueError, match="has no seed: use value"):
        log.values("macs", {"method": "Toy"})
    with pytest.raises(ValueError, match="has 0 rows without seed, not 1"):
        log.value("top1", {"method": "Base"})


def test_labels_may_not_hide_the_columns_of_the_frame(log):
    with pytest.raises(ValueError, match="may not be called"):
        log.add(Observation(metric="top1", value=1.0, labels={"value": 3}))


def test_the_frame_is_tidy(log):
    log.add(row(1e6, None, metric="macs", unit=None, method="Toy"))
    frame = log.frame("top1")
    assert list(frame.columns) == ["metric", "value", "unit", "seed", "method", "w"]
    assert len(frame) == 6
    assert frame.query("method == 'Toy' and w == 1").value.mean() == 50.5
    assert len(log.frame()) == 7
    assert list(Observations().frame().columns) == ["metric", "value", "unit", "seed"]
    with pytest.raises(ValueError, match="no observation of 'tpo1'"):
        log.frame("tpo1")


def test_a_metric_has_one_unit(log):
    assert log.unit("top1") == "%"
    log.add(row(0.5, 0, unit="fraction", method="New"))
    with pytest.raises(ValueError, match="several units"):
        log.unit("top1")


@given(st.dictionaries(st.integers(0, 99), st.floats(-1e9, 1e9), min_size=1))
def test_what_was_observed_is_what_comes_back(values):
    log = Observations()
    for seed, value in values.items():
        log.add(row(value, seed, method="x"))
    assert log.values("top1", {"method": "x"}) == values
