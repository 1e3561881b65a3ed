"""latency(): order of calls, equality before the clock, arithmetic of the table. Nothing here
asserts how long anything takes."""

import contextlib
import gc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compactnets import cost


def test_contestants_take_turns_and_are_primed_before_each_measurement():
    calls = []
    contestants = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    cost.latency(contestants, "a", rounds=3, warmup=2, calls=1)
    assert calls[:6] == list("aabbcc")  # warm-up
    assert calls[6:] == list("aabbccbbccaaccaabb")  # unmeasured call, measured call


def test_a_measurement_can_hold_several_calls():
    calls = []
    table = cost.latency({"a": lambda: calls.append(1)}, "a", rounds=4, warmup=0, calls=5)
    assert len(calls) == 4 * (1 + 5)
    assert table.rounds == 4


def test_defaults_are_thirty_rounds_on_one_thread():
    seen = []
    before = torch.get_num_threads()
    table = cost.latency({"a": lambda: seen.append(torch.get_num_threads())}, "a")
    assert table.rounds == 30
    assert table.threads == 1
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_threads_and_garbage_collection_come_back_after_an_error():
    before = torch.get_num_threads()
    state = iter([None] * 3)
    with pytest.raises(StopIteration):
        cost.latency({"a": lambda: next(state)}, "a", threads=before + 1, warmup=1)
    assert torch.get_num_threads() == before
    assert gc.isenabled()


times = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40)


@given(times, times)
def test_the_table_is_minimum_median_and_ratios_to_the_baseline(a, b):
    n = min(len(a), len(b))
    a, b = tuple(a[:n]), tuple(b[:n])
    table = cost.LatencyTable({"slow": a, "new": b}, "slow", 1, "cpu")
    frame = table.frame()
    assert frame.loc["new", "min_ms"] == min(b)
    assert frame.loc["new", "median_ms"] == pytest.approx(np.median(b))
    assert frame.loc["new", "speedup_min"] == pytest.approx(min(a) / min(b))
    assert frame.loc["new", "speedup_median"] == pytest.approx(np.median(a) / np.median(b))
    low, high = frame.loc["new", ["speedup_p5", "speedup_p95"]]
    ratios = np.asarray(a) / np.asarray(b)
    assert ratios.min() * 0.999 <= low <= high <= ratios.max() * 1.001
    assert (frame.loc["slow", ["speedup_min", "speedup_median", "speedup_p5"]] == 1).all()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torch.tensor([1.0, 2.1]), "'b' differs from 'a' by up to 0.1"),
        (torch.tensor([1.0, float("nan")]), "'b' differs from 'a'"),
        (torch.ones(3), r"'b' returns shape \(3,\), 'a' \(2,\)"),
        ((torch.tensor([1.0, 2.0]), torch.ones(1)), "'b' returns 2 tensors, not 1"),
    ],
)
def test_different_outputs_are_never_timed(other, message):
    once = iter([other])  # a second call would raise StopIteration
    contestants = {"a": lambda: torch.tensor([1.0, 2.0]), "b": lambda: next(once)}
    with pytest.raises(cost.OutputsDiffer, match=message):
        cost.latency(contestants, "a", equal_to="a")


def test_outputs_may_differ_within_the_stated_tolerance():
    contestants = {
        "a": lambda: {"y": torch.ones(2, dtype=torch.bfloat16)},
        "b": lambda: {"y": np.ones(2) + 1e-4},
    }
    table = cost.latency(contestants, "b", rounds=1, equal_to="a", atol=1e-3)
    assert table.baseline == "b"
    with pytest.raises(cost.OutputsDiffer, match="atol 1e-06"):
        cost.latency(contestants, "b", rounds=1, equal_to="a", atol=1e-6, rtol=0.0)


def test_a_check_of_ones_own_sees_all_outputs_and_decides():
    contestants = {"a": lambda: 1, "b": lambda: 2}
    assert cost.latency(contestants, "a", rounds=1, check=lambda out: out == {"a": 1, "b": 2})
    with pytest.raises(cost.OutputsDiffer, match="check refused"):
        cost.latency(contestants, "a", check=lambda out: out["a"] == out["b"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"baseline": "z"}, ValueError, "baseline 'z' is none of"),
        ({"equal_to": "z"}, ValueError, "equal_to 'z' is none of"),
        ({"rounds": 0}, ValueError, "rounds must be an integer of at least 1, got 0"),
        ({"warmup": -1}, ValueError, "warmup"),
        ({"calls": 0}, ValueError, "calls"),
        ({"threads": 0}, ValueError, "threads"),
        ({"rounds": 2.5}, ValueError, "rounds"),
        ({"contestants": {"a": 3}}, TypeError, "contestant 'a' must be callable"),
        ({"contestants": {"a": lambda: 1}, "equal_to": "a"}, TypeError, "'a' returns no tensor"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    arguments = {"contestants": {"a": lambda: None}, "baseline": "a"} | options
    with pytest.raises(error, match=message):
        cost.latency(**arguments)


def test_on_a_gpu_the_time_is_between_two_events_around_the_calls(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("wait")

        def elapsed_time(self, end):
            return 6.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("idle"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    contestants = {"a": lambda: log.append("a")}
    table = cost.latency(contestants, "a", rounds=1, warmup=0, calls=2, device="cuda")
    assert log == ["a", "idle", "record", "a", "a", "record", "wait"]
    assert table.minimum("a") == 3.0
    assert table.device == "a GPU"
