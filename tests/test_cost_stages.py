"""Time by stages, with a clock that the test moves."""

import itertools

import pytest
import torch
from torch import nn

from compactnets import cost
from compactnets.cost import stages


def net():
    return nn.Sequential(nn.Sequential(nn.ReLU(), nn.Tanh()), nn.ReLU(), nn.Flatten())


def by_kind(name, module):
    return {nn.ReLU: "relu", nn.Flatten: "flatten"}.get(type(module))


def tick(monkeypatch, steps):
    """Each look at the clock is one of the steps (seconds) later than the last."""
    times = itertools.accumulate(steps)
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(times))


def test_stages_and_the_rest_add_up_to_the_call(monkeypatch):
    # begin, relu in and out, relu in and out, flatten in and out, end
    tick(monkeypatch, [0, 1, 2, 4, 8, 16, 32, 64])
    found = cost.stage_times(net(), torch.ones(2, 3), by_kind, rounds=1, warmup=0)
    assert found == {"relu": 1e3 * (2 + 8), "flatten": 32e3, "rest": 1e3 * (1 + 4 + 16 + 64)}


def test_the_fastest_round_counts_and_warm_up_rounds_do_not(monkeypatch):
    tick(monkeypatch, [0] + [0.5] * 7 + [9] + [3] * 7 + [9] + [1] * 7 + [9] + [2] * 7)
    found = cost.stage_times(net(), torch.ones(2, 3), by_kind, rounds=3, warmup=1)
    assert found == {"relu": 2000, "flatten": 1000, "rest": 4000}


def test_the_rest_may_have_the_name_of_a_stage(monkeypatch):
    tick(monkeypatch, [0, 1, 2, 4, 8, 16, 32, 64])
    found = cost.stage_times(net(), torch.ones(2, 3), by_kind, rest="relu", rounds=1, warmup=0)
    assert found == {"relu": 95e3, "flatten": 32e3}


def test_the_network_is_left_without_hooks_and_in_its_threads_also_after_an_error():
    model, threads = net(), torch.get_num_threads()
    cost.stage_times(model, torch.ones(2, 3), by_kind, rounds=1, threads=1)
    with pytest.raises(TypeError):
        cost.stage_times(model, "no tensor", by_kind, rounds=1)
    assert torch.get_num_threads() == threads
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nothing_to_time_or_stages_inside_each_other_are_refused():
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="no module of Sequential has a stage"):
        cost.stage_times(net(), x, lambda name, module: None)
    with pytest.raises(ValueError, match=r"'0\.0' has a stage and lies inside '0'"):
        cost.stage_times(net(), x, lambda name, module: "a" if name in ("0", "0.0") else None)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        cost.stage_times(net(), x, by_kind, rounds=0)
